//! The sink against Apache Kafka and an S3 server in process.

mod consumer_only;
mod exactly_once;
mod poison;
mod puts;
mod ranges;
mod shapes;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use pinsched::connect::s3::S3;
use pinsched::connect::{KafkaEndpoint, S3Credentials, S3Endpoint};
use pinsched::embedded::s3::{S3Server, S3ServerConfig};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaResult;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer, ThreadedProducer};
use secrecy::SecretString;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::attempts::TestRun;
use crate::services;

pub const BUCKET: &str = "user-test-bucket";
const DEADLINE: Duration = Duration::from_secs(30);

/// A run, an S3 server with an empty bucket, and a user id under which no topic exists yet.
pub struct Bench {
    pub run: TestRun,
    pub s3: S3,
    pub user: String,
    pub server: S3Server,
    /// Where the server keeps its objects, and the parts of unfinished ones.
    pub folder: TempDir,
}

impl Bench {
    pub async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = S3ServerConfig {
            root: folder.path().to_owned(),
            listen: "127.0.0.1:0".parse().unwrap(),
            access_key_id: "test".to_owned(),
            secret_access_key: SecretString::from("test-secret"),
        };
        let server = S3Server::start(config, CancellationToken::new()).await.unwrap();
        let mut run = TestRun::start().await;
        run.endpoints.kafka = KafkaEndpoint { bootstrap_servers: services::kafka(), properties: BTreeMap::new() };
        run.endpoints.s3 = s3_endpoint(&server, "test-secret");
        let s3 = S3::connect(&run.endpoints.s3).await;
        s3.ensure_bucket(BUCKET).await.unwrap();
        run.endpoints.s3.create_buckets = false;
        let user = Uuid::new_v4().simple().to_string()[..12].to_owned();
        Self { run, s3, user, server, folder }
    }

    /// Makes `<user>.<table>`.
    pub async fn topic(&self, table: &str, partitions: i32) -> String {
        let topic = format!("{}.{table}", self.user);
        let admin: AdminClient<DefaultClientContext> = client_config().create().unwrap();
        let new = NewTopic::new(&topic, partitions, TopicReplication::Fixed(1));
        let made = admin.create_topics([&new], &AdminOptions::new().operation_timeout(Some(DEADLINE))).await.unwrap();
        made[0].as_ref().unwrap();
        topic
    }

    /// All objects below `prefix`.
    pub async fn objects(&self, prefix: &str) -> BTreeMap<String, Bytes> {
        let mut objects = BTreeMap::new();
        for object in self.s3.list(BUCKET, prefix).await.unwrap() {
            let body = self.s3.get(BUCKET, &object.key).await.unwrap();
            assert_eq!(body.len() as u64, object.size);
            objects.insert(object.key, body);
        }
        objects
    }

    /// All lines of all JSON objects, in order of the objects' keys.
    pub async fn lines(&self, prefix: &str) -> Vec<Value> {
        let objects = self.objects(prefix).await;
        let lines = objects.values().flat_map(|body| std::str::from_utf8(body).unwrap().lines());
        lines.map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Says that `produce` filled each partition of the topics from the beginning to its present end, `produced` records.
    pub fn produced(&mut self, topics: &[(&str, u64)]) {
        let topics: serde_json::Map<String, Value> = topics
            .iter()
            .map(|(topic, produced)| {
                let partitions: BTreeMap<String, Value> = ends(topic)
                    .into_iter()
                    .map(|(partition, end)| (partition.to_string(), json!({"start": 0, "end": end})))
                    .collect();
                let output = json!({"table": "pin", "columns": [], "drawn": produced, "produced": produced,
                                    "dead_lettered": 0, "partitions": partitions});
                ((*topic).to_owned(), output)
            })
            .collect();
        self.run.finished("produce", "produce", json!({"topics": topics}));
    }

    /// The least configuration, with more keys.
    pub fn config(&self, more: Value) -> Value {
        let mut config = json!({"topics": format!("{}.*", self.user), "bucket": BUCKET});
        config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        config
    }
}

pub fn s3_endpoint(server: &S3Server, secret: &str) -> S3Endpoint {
    S3Endpoint {
        endpoint_url: Some(server.endpoint_url().parse().unwrap()),
        region: None,
        credentials: Some(S3Credentials { access_key_id: "test".to_owned(), secret_access_key: secret.into() }),
        path_style: true,
        create_buckets: true,
        staging_bucket: "staging".to_owned(),
    }
}

pub fn client_config() -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", services::kafka());
    config
}

/// The offset after the last one of each partition, markers and aborted records included.
pub fn ends(topic: &str) -> BTreeMap<i32, i64> {
    let mut config = client_config();
    config.set("group.id", "it").set("isolation.level", "read_uncommitted");
    let consumer: BaseConsumer = config.create().unwrap();
    let metadata = consumer.fetch_metadata(Some(topic), DEADLINE).unwrap();
    let partitions = metadata.topics()[0].partitions().iter().map(rdkafka::metadata::MetadataPartition::id);
    partitions.map(|partition| (partition, consumer.fetch_watermarks(topic, partition, DEADLINE).unwrap().1)).collect()
}

/// A record to be sent to partition 0, unless said otherwise.
#[derive(Debug, Clone)]
pub struct Record {
    pub partition: i32,
    pub timestamp: i64,
    pub key: Option<Vec<u8>>,
    pub value: Option<Vec<u8>>,
    pub stamp: Option<(Uuid, u64)>,
}

impl Record {
    /// A stranger's record.
    pub fn of(value: impl AsRef<[u8]>) -> Self {
        let value = Some(value.as_ref().to_vec());
        Self { partition: 0, timestamp: 1_772_330_400_000, key: Some(b"k".to_vec()), value, stamp: None }
    }

    /// Row `sequence` of a run, as produce stamps it.
    pub fn row(run: Uuid, sequence: u64) -> Self {
        let row = row(sequence);
        let key = Some(sequence.to_string().into_bytes());
        Self { key, stamp: Some((run, sequence)), ..Self::of(row.to_string()) }
    }
}

/// The value of row `sequence`.
pub fn row(sequence: u64) -> Value {
    json!({"ind": sequence, "country": if sequence.is_multiple_of(2) { "Chad" } else { "Åland" }})
}

type Plain = ThreadedProducer<DefaultProducerContext>;

/// Sends records outside of any transaction.
pub fn send(topic: &str, records: &[Record]) {
    let mut config = client_config();
    let producer: Plain = config.set("message.max.bytes", "4000000").create().unwrap();
    put(&producer, topic, records);
}

fn put(producer: &Plain, topic: &str, records: &[Record]) {
    for record in records {
        let mut headers = OwnedHeaders::new();
        if let Some((run, sequence)) = record.stamp {
            let (run, sequence) = (run.to_string(), sequence.to_string());
            headers = headers
                .insert(Header { key: "pinsched.run", value: Some(&run) })
                .insert(Header { key: "pinsched.task", value: Some("produce") })
                .insert(Header { key: "pinsched.seq", value: Some(&sequence) });
        }
        let mut message: BaseRecord<'_, [u8], [u8]> =
            BaseRecord::to(topic).partition(record.partition).timestamp(record.timestamp).headers(headers);
        message.key = record.key.as_deref();
        message.payload = record.value.as_deref();
        producer.send(message).map_err(|(error, _)| error).unwrap();
    }
    producer.flush(DEADLINE).unwrap();
}

/// A transaction that is open.
pub struct Transaction {
    producer: Plain,
    topic: String,
    partitions: BTreeSet<i32>,
}

impl Transaction {
    pub fn begin(topic: &str, records: &[Record]) -> Self {
        let mut config = client_config();
        let producer: Plain = config.set("transactional.id", Uuid::new_v4().to_string()).create().unwrap();
        producer.init_transactions(DEADLINE).unwrap();
        producer.begin_transaction().unwrap();
        put(&producer, topic, records);
        let partitions = records.iter().map(|record| record.partition).collect();
        Self { producer, topic: topic.to_owned(), partitions }
    }

    pub fn commit(self) {
        self.end(|producer| producer.commit_transaction(DEADLINE));
    }

    pub fn abort(self) {
        self.end(|producer| producer.abort_transaction(DEADLINE));
    }

    /// Returns when the marker stands in each partition: the broker answers before it has written them.
    fn end(self, end: impl FnOnce(&Plain) -> KafkaResult<()>) {
        let before = ends(&self.topic);
        end(&self.producer).unwrap();
        let deadline = tokio::time::Instant::now() + DEADLINE;
        loop {
            let after = ends(&self.topic);
            if self.partitions.iter().all(|partition| after[partition] > before[partition]) {
                return;
            }
            assert!(tokio::time::Instant::now() < deadline, "no marker in {}", self.topic);
        }
    }
}
