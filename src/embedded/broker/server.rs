//! The broker as a whole: opening its data, listening, and the one order in which it stops.

use std::fs::{self, File};
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use futures::future::select_all;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::config::BrokerConfig;
use super::connection::serve;
use super::error::BrokerError;
use super::group_commit::{Disk, RealDisk};
use super::groups::coordinator::{GroupLimits, Groups};
use super::log::partition_log::LogLimits;
use super::state::State;
use super::topics::registry::{Registry, RegistryLimits, TOPICS_JOURNAL};
use super::transactions::coordinator::Transactions;
use super::wire::frame::BUDGET_UNIT_BYTES;

/// A running single-node broker for laptops and tests; production is Kafka.
///
/// What it acknowledged is on disk and there again after a restart, however it ended. It listens on loopback only.
/// Dropping it without [`Broker::stop`] leaves its tasks running until the token passed to [`Broker::start`] is cancelled.
pub struct Broker {
    pub(super) state: Arc<State>,
    /// What must go on for as long as it serves.
    pub(super) lasting: Vec<JoinHandle<()>>,
}

impl std::fmt::Debug for Broker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Broker").field("address", &self.state.address).finish_non_exhaustive()
    }
}

impl Broker {
    /// Opens the data directory, repairs what a crash left undone, and serves clients until `shutdown`.
    ///
    /// When this returns, clients can connect to [`Broker::address`]. Fails if the directory is in use by another broker,
    /// if it is damaged beyond what a crash can do, or if the address is not a free loopback one.
    pub async fn start(config: BrokerConfig, shutdown: CancellationToken) -> Result<Self, BrokerError> {
        if !config.listen.ip().is_loopback() {
            return Err(BrokerError::NotLoopback { address: config.listen });
        }
        let tracker = TaskTracker::new();
        let (setup, jobs) = (config.clone(), tracker.clone());
        raise_file_limit();
        let opened = tracker.spawn_blocking(move || Opened::open(&setup, jobs)).await;
        let opened = opened
            .map_err(|error| BrokerError::Corrupt { path: config.data_dir.clone(), reason: error.to_string() })??;
        // Before any client can see a decided transaction half done.
        opened.transactions.sweep().await;
        opened.transactions.abort_unclaimed().await;
        let listen = |source| BrokerError::Listen { address: config.listen, source };
        let listener = TcpListener::bind(config.listen).await.map_err(listen)?;
        let address = listener.local_addr().map_err(listen)?;
        // Its own token, so that `stop` ends this broker and not whatever else the caller's token governs.
        let shutdown = shutdown.child_token();
        let sweep = config.transaction_sweep;
        let Opened { topics, groups, transactions, lock } = opened;
        let fetch_budget = Arc::new(Semaphore::new(config.max_queued_bytes.div_ceil(BUDGET_UNIT_BYTES)));
        let state = State { config, address, topics, groups, transactions, fetch_budget, shutdown, tracker, lock };
        let state = Arc::new(state);
        let token = || state.shutdown.clone();
        let lasting = vec![
            state.tracker.spawn(Arc::clone(&state.groups).run(token())),
            state.tracker.spawn(Arc::clone(&state.transactions).run(sweep, token())),
            state.tracker.spawn(accept(Arc::clone(&state), listener)),
        ];
        tracing::info!(%address, data_dir = %state.config.data_dir.display(), "the embedded broker, for laptops and tests, listens");
        Ok(Self { state, lasting })
    }

    /// Where clients connect, with the real port.
    pub fn address(&self) -> SocketAddr {
        self.state.address
    }

    /// Returns when it has ceased to serve, which it should not by itself.
    pub async fn ended(&mut self) {
        // How, its log says: a panic, most likely.
        let _ = select_all(&mut self.lasting).await;
    }

    /// Stops taking requests, answers those whose records are being synced, waits for every task, and saves what makes
    /// the next start quick. The data directory is free when this returns.
    pub async fn stop(self) {
        self.state.shutdown.cancel();
        self.state.tracker.close();
        self.state.tracker.wait().await;
        let state = Arc::clone(&self.state);
        let closing = TaskTracker::new();
        let closed = closing.spawn_blocking(move || {
            for partition in state.topics.all().iter().flat_map(|topic| &topic.partitions) {
                if let Err(error) = partition.close() {
                    // Nothing acknowledged is lost: the next start scans instead.
                    tracing::warn!(%error, "could not close a partition");
                }
            }
        });
        if closed.await.is_err() {
            tracing::error!("closing the partitions panicked");
        }
        // Not by the handle's end: a child process that is being started may hold a copy for a moment.
        if let Err(error) = rustix::fs::flock(&self.state.lock, rustix::fs::FlockOperation::Unlock) {
            tracing::warn!(%error, "could not give the data directory's lock back");
        }
    }
}

struct Opened {
    topics: Arc<Registry>,
    groups: Arc<Groups>,
    transactions: Arc<Transactions>,
    lock: File,
}

impl Opened {
    fn open(config: &BrokerConfig, tracker: TaskTracker) -> Result<Self, BrokerError> {
        let dir = &config.data_dir;
        fs::create_dir_all(dir).map_err(BrokerError::io("create", dir))?;
        let lock = lock(dir)?;
        check_journals(dir)?;
        let disk: Arc<dyn Disk> = Arc::new(RealDisk);
        let limits = RegistryLimits {
            log: LogLimits {
                segment_bytes: config.segment_bytes,
                index_interval_bytes: config.index_interval_bytes,
                max_producers: config.max_producers,
            },
            max_batch_bytes: config.max_batch_bytes,
            max_partitions: config.max_partitions,
        };
        let topics = Arc::new(Registry::open(dir, limits, Arc::clone(&disk), tracker.clone())?);
        let limits =
            GroupLimits { initial_delay: config.initial_rebalance_delay, max_members: config.max_group_members };
        let exists = |topic: &str| topics.topic(topic).is_some();
        let path = dir.join(GROUPS_JOURNAL);
        let groups = Arc::new(Groups::open(path, limits, exists, Arc::clone(&disk), tracker.clone())?);
        let path = dir.join(TRANSACTIONS_JOURNAL);
        let max_timeout_ms = i64::try_from(config.max_transaction_timeout.as_millis()).unwrap_or(i64::MAX);
        let members = (Arc::clone(&topics), Arc::clone(&groups));
        let transactions = Transactions::open(path, max_timeout_ms, members, disk, tracker)?;
        Ok(Self { topics, groups, transactions: Arc::new(transactions), lock })
    }
}

const GROUPS_JOURNAL: &str = "groups.journal";
const TRANSACTIONS_JOURNAL: &str = "transactions.journal";

/// Refuses to start over: the first start makes all journals before any topic, so where there are topics a journal that
/// is not there was lost, and beginning it anew would forget acknowledged data.
fn check_journals(dir: &Path) -> Result<(), BrokerError> {
    let topics = dir.join("topics");
    let has_topics = match fs::read_dir(&topics) {
        Ok(mut entries) => entries.next().is_some(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => false,
        Err(error) => return Err(BrokerError::io("list", &topics)(error)),
    };
    for name in [TOPICS_JOURNAL, GROUPS_JOURNAL, TRANSACTIONS_JOURNAL] {
        let path = dir.join(name);
        if has_topics && !path.try_exists().map_err(BrokerError::io("look for", &path))? {
            return Err(BrokerError::Corrupt { path, reason: "it is missing, and there are topics".to_owned() });
        }
    }
    Ok(())
}

/// Every segment and every connection takes a file handle, and many systems allow a thousand unless asked for more.
fn raise_file_limit() {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let raised = rustix::process::Rlimit { current: limit.maximum, maximum: limit.maximum };
    if let Err(error) = rustix::process::setrlimit(rustix::process::Resource::Nofile, raised) {
        tracing::warn!(%error, "could not raise the limit of open files");
    }
}

/// Takes the directory for this process; the lock goes with the file handle, so also with a killed process.
fn lock(dir: &Path) -> Result<File, BrokerError> {
    let path = dir.join("lock");
    let file = File::create(&path).map_err(BrokerError::io("create", &path))?;
    match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(BrokerError::Locked { path: dir.to_owned() }),
        Err(error) => Err(BrokerError::io("lock", &path)(error.into())),
    }
}

async fn accept(state: Arc<State>, listener: TcpListener) {
    let budget = Arc::new(Semaphore::new(state.config.max_queued_bytes.div_ceil(BUDGET_UNIT_BYTES)));
    let connections = Arc::new(Semaphore::new(state.config.max_connections));
    loop {
        let accepted = tokio::select! {
            biased;
            () = state.shutdown.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "could not accept a connection");
                // Most likely out of file handles: give connections time to close instead of spinning.
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
                continue;
            }
        };
        let Ok(place) = Arc::clone(&connections).try_acquire_owned() else {
            tracing::warn!(%peer, "refused a connection: there are too many");
            continue;
        };
        let (state, budget) = (Arc::clone(&state), Arc::clone(&budget));
        let tracker = state.tracker.clone();
        tracker.spawn(async move {
            serve(state, stream, peer, budget).await;
            drop(place);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_part_of_it_that_ends_is_its_end_and_it_can_be_stopped_and_started_again() {
        let data = tempfile::tempdir().unwrap();
        for lost in 0..3 {
            let config = BrokerConfig::new(data.path().to_owned(), ([127, 0, 0, 1], 0).into());
            let mut broker = Broker::start(config, CancellationToken::new()).await.unwrap();
            assert!(futures::poll!(std::pin::pin!(broker.ended())).is_pending());
            broker.lasting[lost].abort(); // as a panic would
            broker.ended().await;
            broker.stop().await;
        }
    }
}
