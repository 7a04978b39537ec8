//! The broker's settings, all with a default that suits a laptop. Holds values only; nothing here reads a file or the
//! environment.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use secrecy::SecretString;

/// What every client must show.
#[derive(Debug, Clone)]
pub struct BrokerCredentials {
    /// The one user.
    pub username: String,
    /// Its password.
    pub password: SecretString,
}

/// How to run the embedded broker. Start from [`BrokerConfig::new`] and change what must differ.
#[derive(Debug, Clone)]
pub struct BrokerConfig {
    /// Where everything is kept. Created if missing; one broker at a time, by a lock on a file in it.
    pub data_dir: PathBuf,
    /// A loopback address; port 0 takes a free one, which [`Broker::address`](super::Broker::address) then tells.
    pub listen: SocketAddr,
    /// What clients must show, by SASL's PLAIN; none lets everybody on this machine in.
    pub credentials: Option<BrokerCredentials>,
    /// Reported to clients, which compare it across brokers.
    pub cluster_id: String,
    /// Create a topic when a client's metadata request names one and asks for its creation.
    pub auto_create_topics: bool,
    /// Partitions of a topic whose creator did not say how many.
    pub default_partitions: i32,
    /// The largest record batch accepted, as it is on the wire (so after compression).
    pub max_batch_bytes: usize,
    /// The largest request accepted; a larger one closes its connection before anything is allocated for it.
    pub max_request_bytes: usize,
    /// What all requests being read and handled may hold together; a reader waits for its share. The records of all fetch
    /// answers being sent may hold as much again; beyond that answers are smaller.
    pub max_queued_bytes: usize,
    /// The most record bytes in one fetch answer, whatever the client asks for (a first batch is always whole).
    pub max_fetch_bytes: usize,
    /// Connections beyond this many are closed at once.
    pub max_connections: usize,
    /// A connection that sends nothing for this long is closed.
    pub idle_timeout: Duration,
    /// A connection whose request has begun and does not go on for this long is closed.
    pub request_timeout: Duration,
    /// A segment file is closed and a new one begun beyond this size.
    pub segment_bytes: u64,
    /// One index entry is kept per this many bytes of log.
    pub index_interval_bytes: u64,
    /// Idempotent producers remembered per partition; the least recently used ones are forgotten first.
    pub max_producers: usize,
    /// The longest transaction timeout a client may ask for.
    pub max_transaction_timeout: Duration,
    /// How often transactions that outlived their timeout are looked for.
    pub transaction_sweep: Duration,
    /// How long an empty group waits for more members after its first one joined.
    pub initial_rebalance_delay: Duration,
    /// The shortest session timeout a group member may ask for.
    pub min_session_timeout: Duration,
    /// The longest session timeout a group member may ask for.
    pub max_session_timeout: Duration,
    /// Partitions of all topics together, and members of one group, are refused beyond these round numbers, which only a
    /// mistake reaches on one node. Each partition keeps a file open.
    pub max_partitions: usize,
    /// The most members one group may have.
    pub max_group_members: usize,
}

impl BrokerConfig {
    /// The defaults: no credentials, topics created on request, 1 MiB batches plus overhead, 100 MiB requests.
    pub fn new(data_dir: PathBuf, listen: SocketAddr) -> Self {
        Self {
            data_dir,
            listen,
            credentials: None,
            cluster_id: "pinsched-embedded".to_owned(),
            auto_create_topics: true,
            default_partitions: 1,
            // Apache's default, which leaves room for a record of exactly 1 MiB less its headers.
            max_batch_bytes: 1_048_588,
            max_request_bytes: 100 << 20,
            max_queued_bytes: 256 << 20,
            max_fetch_bytes: 32 << 20,
            max_connections: 1_000,
            idle_timeout: Duration::from_secs(600),
            // Clients write a request in one go, so seconds of silence inside one mean that its client is gone or stuck.
            request_timeout: Duration::from_secs(10),
            // Small enough to check after a crash in about a second, large enough that a file handle each is cheap.
            segment_bytes: 256 << 20,
            index_interval_bytes: 32 << 10,
            max_producers: 10_000,
            max_transaction_timeout: Duration::from_secs(900),
            transaction_sweep: Duration::from_secs(1),
            initial_rebalance_delay: Duration::ZERO,
            min_session_timeout: Duration::from_millis(100),
            max_session_timeout: Duration::from_secs(1_800),
            max_partitions: 10_000,
            max_group_members: 1_000,
        }
    }
}
