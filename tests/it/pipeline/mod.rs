//! `emulate` and `produce` against MariaDB, Postgres, Apache Kafka and an S3 server in process.

mod accounts;
mod draws;
mod embedded;
mod exactly_once;
mod letters;
mod topics;
mod values;

use std::collections::BTreeMap;
use std::io::BufRead;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use pinsched::connect::s3::S3;
use pinsched::connect::{KafkaEndpoint, S3Credentials, S3Endpoint};
use pinsched::embedded::broker::{Broker, BrokerConfig};
use pinsched::embedded::s3::{S3Server, S3ServerConfig};
use pinsched::embedded::source::{Post, SEED, generate};
use pinsched::engine::operator::{Output, TaskContext};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{Headers, Message};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;
use sqlx::{Connection, Executor, MySql, MySqlConnection, PgConnection, QueryBuilder};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::attempts::TestRun;
use crate::services;

const DEADLINE: Duration = Duration::from_secs(30);

/// A run with an S3 server, Kafka, and a user id under which no topic exists yet.
pub struct Bench {
    pub run: TestRun,
    pub s3: S3,
    pub user: String,
    _broker: Option<Broker>,
    _server: S3Server,
    _folder: TempDir,
}

/// The two brokers that everything must hold on.
#[derive(Debug, Clone, Copy)]
pub enum Kafka {
    Apache,
    Embedded,
}

impl Bench {
    pub async fn start() -> Self {
        Self::on(Kafka::Apache).await
    }

    pub async fn on(kafka: Kafka) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = S3ServerConfig {
            root: folder.path().join("s3"),
            listen: "127.0.0.1:0".parse().unwrap(),
            access_key_id: "test".to_owned(),
            secret_access_key: SecretString::from("test-secret"),
        };
        let server = S3Server::start(config, CancellationToken::new()).await.unwrap();
        let mut run = TestRun::start().await;
        let broker = match kafka {
            Kafka::Apache => None,
            Kafka::Embedded => {
                let config = BrokerConfig::new(folder.path().join("kafka"), "127.0.0.1:0".parse().unwrap());
                Some(Broker::start(config, CancellationToken::new()).await.unwrap())
            }
        };
        let bootstrap_servers = broker.as_ref().map_or_else(services::kafka, |broker| broker.address().to_string());
        run.endpoints.kafka = KafkaEndpoint { bootstrap_servers, properties: BTreeMap::new() };
        run.endpoints.s3 = S3Endpoint {
            endpoint_url: Some(server.endpoint_url().parse().unwrap()),
            region: None,
            credentials: Some(S3Credentials {
                access_key_id: "test".to_owned(),
                secret_access_key: SecretString::from("test-secret"),
            }),
            path_style: true,
            create_buckets: true,
            staging_bucket: "staging".to_owned(),
        };
        let s3 = S3::connect(&run.endpoints.s3).await;
        let user = Uuid::new_v4().simple().to_string()[..12].to_owned();
        Self { run, s3, user, _broker: broker, _server: server, _folder: folder }
    }

    /// The same with `posts` in a Postgres database of its own as the default source.
    pub async fn with_source(posts: &[Post]) -> Self {
        Self::with_source_on(Kafka::Apache, posts).await
    }

    pub async fn with_source_on(kafka: Kafka, posts: &[Post]) -> Self {
        let mut bench = Self::on(kafka).await;
        bench.run.endpoints.source_url = postgres(posts).await;
        bench
    }

    /// Runs `emulate` as task `emulate` and hands its output to the tasks that follow.
    pub async fn emulate(&mut self, config: Value) -> Output {
        let output = self.run.run("emulate", "emulate", config).await.unwrap();
        self.run.finished("emulate", "emulate", Value::Object(output.clone()));
        output
    }

    /// The topics of the tables, by a template as people write it.
    pub fn topics(&self) -> String {
        format!("{}.{{{{ table }}}}", self.user)
    }

    pub fn topic(&self, table: &str) -> String {
        format!("{}.{table}", self.user)
    }

    /// How tests reach the run's cluster.
    pub fn client(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &self.run.endpoints.kafka.bootstrap_servers);
        config
    }

    /// All committed records of a table's topic.
    pub fn records(&self, table: &str) -> Vec<Record> {
        committed_records(self.client(), &self.topic(table))
    }

    /// All staged lines that the output names.
    pub async fn staged(&self, output: &Output) -> Vec<Value> {
        let manifest = self.s3.get("staging", output["staged"]["manifest"].as_str().unwrap()).await.unwrap();
        let manifest: Value = serde_json::from_slice(&manifest).unwrap();
        let mut rows = Vec::new();
        for part in manifest["parts"].as_array().unwrap() {
            assert_eq!(part["first_row"], rows.len());
            let body = self.s3.get("staging", part["key"].as_str().unwrap()).await.unwrap();
            let lines = zstd::stream::read::Decoder::new(&body[..]).unwrap();
            rows.extend(
                std::io::BufReader::new(lines).lines().map(|line| serde_json::from_str(&line.unwrap()).unwrap()),
            );
            assert_eq!(part["first_row"].as_u64().unwrap() + part["rows"].as_u64().unwrap(), rows.len() as u64);
        }
        rows
    }
}

/// The first posts of the embedded tables, with gaps in their keys when `every` is above 1.
pub fn posts(count: u32, every: i32) -> Vec<Post> {
    generate(count, SEED).map(|post| Post { index: post.index * every, ..post }).collect()
}

/// What `emulate` should make of a post.
pub fn triple(post: &Post) -> Value {
    serde_json::json!({
        "pin": {
            "index": post.index, "unique_id": post.unique_id, "title": post.title, "description": post.description,
            "poster_name": post.poster_name, "follower_count": post.follower_count, "tag_list": post.tag_list,
            "is_image_or_video": post.is_image_or_video, "image_src": post.image_src, "downloaded": post.downloaded,
            "save_location": post.save_location, "category": post.category,
        },
        "geo": {
            "ind": post.index, "timestamp": post.timestamp.format("%Y-%m-%dT%H:%M:%S").to_string(),
            "latitude": shortest(post.latitude), "longitude": shortest(post.longitude), "country": post.country,
        },
        "user": {
            "ind": post.index, "first_name": post.first_name, "last_name": post.last_name, "age": post.age,
            "date_joined": post.date_joined.format("%Y-%m-%dT%H:%M:%S").to_string(),
        },
    })
}

/// The double that the float's shortest form reads as.
fn shortest(value: f32) -> f64 {
    value.to_string().parse().unwrap()
}

/// Waits until an attempt has done so much.
pub async fn comes_to(context: &TaskContext, rows: u64) {
    let coming = async {
        while context.progress.read().0 < rows {
            tokio::task::yield_now().await;
        }
    };
    let came = tokio::time::timeout(DEADLINE, coming).await;
    assert!(came.is_ok(), "it stays at {} of {rows} after {} s", context.progress.read().0, DEADLINE.as_secs());
}

/// A Postgres database with these posts, by the same tables as the embedded one's.
pub async fn postgres(posts: &[Post]) -> SecretString {
    let url = services::database().await;
    pinsched::embedded::source::ensure(&url).await.unwrap();
    let mut connection = PgConnection::connect(url.expose_secret()).await.unwrap();
    connection.execute("TRUNCATE pinterest_data, geolocation_data, user_data").await.unwrap();
    for chunk in posts.chunks(1000) {
        QueryBuilder::<sqlx::Postgres>::new("INSERT INTO pinterest_data ")
            .push_values(chunk, |mut row, post| {
                row.push_bind(post.index).push_bind(post.unique_id.to_string());
                row.push_bind(&post.title).push_bind(&post.description).push_bind(&post.poster_name);
                row.push_bind(&post.follower_count).push_bind(&post.tag_list).push_bind(post.is_image_or_video);
                row.push_bind(&post.image_src).push_bind(post.downloaded).push_bind(&post.save_location);
                row.push_bind(post.category);
            })
            .build()
            .execute(&mut connection)
            .await
            .unwrap();
        QueryBuilder::<sqlx::Postgres>::new("INSERT INTO geolocation_data ")
            .push_values(chunk, |mut row, post| {
                row.push_bind(post.index).push_bind(post.timestamp).push_bind(post.latitude);
                row.push_bind(post.longitude).push_bind(post.country);
            })
            .build()
            .execute(&mut connection)
            .await
            .unwrap();
        QueryBuilder::<sqlx::Postgres>::new("INSERT INTO user_data ")
            .push_values(chunk, |mut row, post| {
                row.push_bind(post.index).push_bind(&post.first_name).push_bind(&post.last_name);
                row.push_bind(post.age).push_bind(post.date_joined);
            })
            .build()
            .execute(&mut connection)
            .await
            .unwrap();
    }
    url
}

/// A MariaDB database with these posts, with the types of the original's RDS.
pub async fn mariadb(posts: &[Post]) -> SecretString {
    let (url, mut connection) = mariadb_database().await;
    for table in [
        "CREATE TABLE pinterest_data (`index` INT PRIMARY KEY, unique_id TEXT, title TEXT, description TEXT,
         poster_name TEXT, follower_count TEXT, tag_list TEXT, is_image_or_video TEXT, image_src TEXT,
         downloaded TINYINT(1), save_location TEXT, category TEXT)",
        "CREATE TABLE geolocation_data (ind INT PRIMARY KEY, timestamp DATETIME, latitude FLOAT, longitude FLOAT,
         country TEXT)",
        "CREATE TABLE user_data (ind INT PRIMARY KEY, first_name TEXT, last_name TEXT, age BIGINT,
         date_joined DATETIME)",
    ] {
        connection.execute(table).await.unwrap();
    }
    for chunk in posts.chunks(1000) {
        QueryBuilder::<MySql>::new("INSERT INTO pinterest_data ")
            .push_values(chunk, |mut row, post| {
                row.push_bind(post.index).push_bind(post.unique_id.to_string());
                row.push_bind(&post.title).push_bind(&post.description).push_bind(&post.poster_name);
                row.push_bind(&post.follower_count).push_bind(&post.tag_list).push_bind(post.is_image_or_video);
                row.push_bind(&post.image_src).push_bind(post.downloaded).push_bind(&post.save_location);
                row.push_bind(post.category);
            })
            .build()
            .execute(&mut connection)
            .await
            .unwrap();
        QueryBuilder::<MySql>::new("INSERT INTO geolocation_data ")
            .push_values(chunk, |mut row, post| {
                row.push_bind(post.index).push_bind(post.timestamp).push_bind(post.latitude);
                row.push_bind(post.longitude).push_bind(post.country);
            })
            .build()
            .execute(&mut connection)
            .await
            .unwrap();
        QueryBuilder::<MySql>::new("INSERT INTO user_data ")
            .push_values(chunk, |mut row, post| {
                row.push_bind(post.index).push_bind(&post.first_name).push_bind(&post.last_name);
                row.push_bind(post.age).push_bind(post.date_joined);
            })
            .build()
            .execute(&mut connection)
            .await
            .unwrap();
    }
    url
}

/// An empty MariaDB database of the test's own, utf8mb4 as the original's.
pub async fn mariadb_database() -> (SecretString, MySqlConnection) {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let mut url: url::Url = services::mariadb().parse().unwrap();
    let name = format!("it_{}_{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
    let mut admin = MySqlConnection::connect(url.as_str()).await.unwrap();
    let create = format!("CREATE OR REPLACE DATABASE {name} CHARACTER SET utf8mb4");
    admin.execute(sqlx::raw_sql(sqlx::AssertSqlSafe(create))).await.unwrap();
    url.set_path(&name);
    let connection = MySqlConnection::connect(url.as_str()).await.unwrap();
    (SecretString::from(url.to_string()), connection)
}

/// A record as a reader of committed records sees it.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    pub partition: i32,
    pub offset: i64,
    pub key: String,
    pub run: String,
    pub task: String,
    pub sequence: u64,
    pub value: Value,
}

/// All committed records of a topic, read by a consumer that knows nothing of pinsched.
fn committed_records(mut config: ClientConfig, topic: &str) -> Vec<Record> {
    config.set("group.id", "it").set("enable.auto.commit", "false");
    config.set("isolation.level", "read_committed").set("enable.partition.eof", "true");
    let consumer: BaseConsumer = config.create().unwrap();
    let metadata = consumer.fetch_metadata(Some(topic), DEADLINE).unwrap();
    let mut assignment = TopicPartitionList::new();
    let count = metadata.topics()[0].partitions().len();
    for partition in 0..count {
        let partition = i32::try_from(partition).unwrap();
        assignment.add_partition_offset(topic, partition, Offset::Beginning).unwrap();
    }
    consumer.assign(&assignment).unwrap();
    let (mut records, mut ended) = (Vec::new(), 0);
    while ended < count {
        match consumer.poll(DEADLINE).expect("the broker answers within 30 s") {
            Err(rdkafka::error::KafkaError::PartitionEOF(_)) => ended += 1,
            Err(error) => panic!("{error}"),
            Ok(message) => {
                let headers = message.headers().expect("each record has headers");
                let header = |key: &str| {
                    let header = headers.iter().find(|header| header.key == key).unwrap();
                    String::from_utf8(header.value.unwrap().to_vec()).unwrap()
                };
                records.push(Record {
                    partition: message.partition(),
                    offset: message.offset(),
                    key: String::from_utf8(message.key().unwrap().to_vec()).unwrap(),
                    run: header("pinsched.run"),
                    task: header("pinsched.task"),
                    sequence: header("pinsched.seq").parse().unwrap(),
                    value: serde_json::from_slice(message.payload().unwrap()).unwrap(),
                });
            }
        }
    }
    records
}

/// Asserts that a topic holds each staged row exactly once, in order within a partition, inside of the output's ranges.
pub fn assert_exactly_once(bench: &Bench, output: &Output, staged: &[Value], table: &str) {
    let topic = bench.topic(table);
    let found = bench.records(table);
    let mut sequences: Vec<u64> = found.iter().map(|record| record.sequence).collect();
    sequences.sort_unstable();
    let wanted: Vec<u64> = (0..staged.len() as u64).collect();
    assert_eq!(sequences, wanted, "topic {topic}");
    let mut last: BTreeMap<i32, u64> = BTreeMap::new();
    for record in &found {
        let row = &staged[usize::try_from(record.sequence).unwrap()];
        assert_eq!(record.value, row[table]);
        let key = row[table].get("index").or_else(|| row[table].get("ind")).unwrap();
        assert_eq!((&record.key, &record.run), (&key.to_string(), &bench.run.uuid.to_string()));
        assert_eq!(record.task, "produce");
        let before = last.insert(record.partition, record.sequence);
        assert!(before.is_none_or(|before| before < record.sequence), "partition {} is out of order", record.partition);
        let range = &output["topics"][&topic]["partitions"][record.partition.to_string()];
        let (start, end) = (range["start"].as_i64().unwrap(), range["end"].as_i64().unwrap());
        assert!((start..end).contains(&record.offset), "{} is not in {range}", record.offset);
    }
    assert_eq!(output["topics"][&topic]["produced"], staged.len());
}
