//! A folder for a test's homes, and what the tests of the stack do again and again.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use pinsched::config::{LogFormat, LogSettings};
use pinsched::connect::s3::S3;
use pinsched::connect::{S3Credentials, S3Endpoint};
use pinsched::embedded::{Component, LeaseRequest, StackError, StackLease, attach};
use rdkafka::consumer::{Consumer, StreamConsumer};
use rdkafka::producer::{FutureProducer, FutureRecord};
use rdkafka::{ClientConfig, Message, Offset, TopicPartitionList};
use sqlx::{Connection, PgConnection};
use tempfile::TempDir;

/// The program that the tests are about.
pub const PROGRAM: &str = env!("CARGO_BIN_EXE_pinsched");

/// A folder that every user may pass through, as Postgres's own must when the tests run as root.
pub struct Scratch(TempDir);

impl Scratch {
    pub fn new() -> Self {
        let folder = tempfile::Builder::new().prefix("pinsched-it-").tempdir().unwrap();
        fs::set_permissions(folder.path(), Permissions::from_mode(0o711)).unwrap();
        Self(folder)
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// A lease request for the home of this name: all parts, and a stack that goes soon after its last lease.
    pub fn request(&self, name: &str) -> LeaseRequest {
        request(self.path().join(name))
    }
}

pub fn request(home: PathBuf) -> LeaseRequest {
    LeaseRequest {
        home,
        components: Component::ALL.to_vec(),
        program: PROGRAM.into(),
        postgres_bin: None,
        linger: Duration::from_millis(200),
        log: LogSettings {
            filter: None,
            format: LogFormat::Text,
            no_color: true,
            file: None,
            files: std::num::NonZeroUsize::MIN,
        },
    }
}

pub async fn lease(request: &LeaseRequest) -> StackLease {
    try_lease(request).await.unwrap_or_else(|error| {
        let log = fs::read_to_string(request.home.join("stack.log")).unwrap_or_default();
        let postgres = fs::read_to_string(request.home.join("postgres.log")).unwrap_or_default();
        panic!("{error}\n{log}\n{postgres}")
    })
}

pub async fn try_lease(request: &LeaseRequest) -> Result<StackLease, StackError> {
    attach(request, &mut |_| {}).await
}

/// The pid that serves the home.
pub fn pid(home: &Path) -> i32 {
    stack_file(home)["pid"].as_i64().unwrap().try_into().unwrap()
}

/// The pid of its Postgres.
pub fn postmaster(home: &Path) -> i32 {
    let file = fs::read_to_string(home.join("postgres/postmaster.pid")).unwrap();
    file.lines().next().unwrap().parse().unwrap()
}

pub fn stack_file(home: &Path) -> serde_json::Value {
    serde_json::from_slice(&fs::read(home.join("stack.json")).unwrap()).unwrap()
}

pub fn kill(pid: i32) {
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
}

/// Returns when the lock of the home is free: whoever served it is gone.
pub async fn gone(home: &Path) {
    let lock = fs::File::options().write(true).open(home.join("stack.lock")).unwrap();
    let wait = tokio::task::spawn_blocking(move || lock.lock().unwrap());
    tokio::time::timeout(Duration::from_secs(30), wait).await.expect("the stack goes").unwrap();
}

pub async fn connect(lease: &StackLease) -> PgConnection {
    PgConnection::connect(lease.urls().database_url.as_ref().unwrap()).await.unwrap()
}

pub async fn major_version(lease: &StackLease) -> i32 {
    let query = "SELECT current_setting('server_version_num')::int / 10000";
    sqlx::query_scalar(query).fetch_one(&mut connect(lease).await).await.unwrap()
}

/// The stack's object store, by the client that the operators use.
pub async fn s3(lease: &StackLease) -> S3 {
    let urls = lease.urls().s3.clone().unwrap();
    S3::connect(&S3Endpoint {
        endpoint_url: Some(urls.endpoint_url.parse().unwrap()),
        region: Some("us-east-1".into()),
        credentials: Some(S3Credentials {
            access_key_id: urls.access_key_id,
            secret_access_key: urls.secret_access_key.into(),
        }),
        path_style: true,
        create_buckets: true,
        staging_bucket: "staging".into(),
    })
    .await
}

/// What a client of the stack's broker starts from.
pub fn kafka(lease: &StackLease) -> ClientConfig {
    let mut config: ClientConfig = lease.urls().kafka_properties.clone().into_iter().collect();
    config.set("bootstrap.servers", lease.urls().kafka_bootstrap_servers.clone().unwrap());
    config
}

/// Writes a record, and returns when the broker has acknowledged it.
pub async fn publish(lease: &StackLease, topic: &str, payload: &str) {
    let producer: FutureProducer = kafka(lease).create().unwrap();
    let record = FutureRecord::<str, str>::to(topic).payload(payload);
    producer.send(record, Duration::from_secs(20)).await.unwrap();
}

/// The topic's first record.
pub async fn first_record(lease: &StackLease, topic: &str) -> String {
    let consumer: StreamConsumer = kafka(lease).set("group.id", "it").create().unwrap();
    let mut start = TopicPartitionList::new();
    start.add_partition_offset(topic, 0, Offset::Beginning).unwrap();
    consumer.assign(&start).unwrap();
    let record = tokio::time::timeout(Duration::from_secs(20), consumer.recv()).await.unwrap().unwrap();
    String::from_utf8(record.payload().unwrap().to_vec()).unwrap()
}

/// Says that a test has tested nothing, and why.
#[expect(clippy::print_stderr, reason = "a test that was not run is not passed over in silence")]
pub fn not_run(why: &str) {
    eprintln!("not run: {why}");
}
