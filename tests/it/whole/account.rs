//! The test's own account of a run: what was drawn, what S3 holds, what an independent consumer reads. It uses none of
//! the product's numbers, only the names of the bucket and the staged files.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::TryFutureExt;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::{ClientConfig, Message, Offset, TopicPartitionList};
use serde_json::Value;

use crate::whole::product::Product;

/// Rows by table, each with how often it is there.
pub type Rows = BTreeMap<&'static str, BTreeMap<String, usize>>;

pub const TABLES: [&str; 3] = ["pin", "geo", "user"];

/// What emulate drew, from the files that it staged.
pub async fn drawn(product: &Product, report: &Value) -> Rows {
    let s3 = product.s3().await;
    let staged = &output(report, "emulate")["staged"];
    let bucket = staged["bucket"].as_str().unwrap();
    let manifest = s3.get(bucket, staged["manifest"].as_str().unwrap()).await.unwrap();
    let manifest: Value = serde_json::from_slice(&manifest).unwrap();
    let mut rows = Rows::new();
    for part in manifest["parts"].as_array().unwrap() {
        let body = s3.get(bucket, part["key"].as_str().unwrap()).await.unwrap();
        let text = String::from_utf8(zstd::decode_all(body.as_ref()).unwrap()).unwrap();
        for line in text.lines() {
            let triple: Value = serde_json::from_str(line).unwrap();
            for table in TABLES {
                count(&mut rows, table, &triple[table]);
            }
        }
    }
    rows
}

/// What the bucket holds for the user's topics.
pub async fn sunk(product: &Product, user: &str) -> Rows {
    let s3 = product.s3().await;
    let bucket = format!("user-{user}-bucket");
    let mut rows = Rows::new();
    for table in TABLES {
        for object in s3.list(&bucket, &format!("topics/{user}.{table}/")).await.unwrap() {
            let body = s3.get(&bucket, &object.key).map_ok(|body| body.to_vec()).await.unwrap();
            assert!(body.ends_with(b"\n"), "{} ends in the middle of a record", object.key);
            for line in String::from_utf8(body).unwrap().lines() {
                count(&mut rows, table, &serde_json::from_str(line).unwrap());
            }
        }
    }
    rows
}

/// What a consumer that reads only what was committed finds in the user's topics, counted by record, not by offset:
/// aborted records and transaction markers take offsets too.
pub async fn consumed(product: &Product, user: &str) -> Rows {
    let kafka = product.kafka();
    let topics = TABLES.map(|table| (table, format!("{user}.{table}")));
    tokio::task::spawn_blocking(move || {
        let mut rows = Rows::new();
        for (table, topic) in topics {
            for payload in read_committed(&kafka, &topic) {
                count(&mut rows, table, &serde_json::from_slice(&payload).unwrap());
            }
        }
        rows
    })
    .await
    .unwrap()
}

fn read_committed(kafka: &ClientConfig, topic: &str) -> Vec<Vec<u8>> {
    let consumer: BaseConsumer = kafka
        .clone()
        .set("group.id", "an-independent-reader")
        .set("enable.auto.commit", "false")
        .set("isolation.level", "read_committed")
        .set("auto.offset.reset", "error")
        .set("enable.partition.eof", "true")
        .create()
        .unwrap();
    let timeout = Duration::from_secs(30);
    let metadata = consumer.fetch_metadata(Some(topic), timeout).unwrap();
    let partitions = metadata.topics()[0].partitions();
    let mut assignment = TopicPartitionList::new();
    for partition in partitions {
        assignment.add_partition_offset(topic, partition.id(), Offset::Beginning).unwrap();
    }
    consumer.assign(&assignment).unwrap();
    let mut unfinished = partitions.len();
    let mut payloads = Vec::new();
    while unfinished > 0 {
        match consumer.poll(timeout).expect("the broker answers within half a minute") {
            Ok(message) => payloads.push(message.payload().unwrap().to_vec()),
            Err(KafkaError::PartitionEOF(_)) => unfinished -= 1,
            Err(error) => panic!("{topic}: {error}"),
        }
    }
    payloads
}

/// The output of a task, as the report has it.
pub fn output<'a>(report: &'a Value, task: &str) -> &'a Value {
    let tasks = report["tasks"].as_array().unwrap();
    &tasks.iter().find(|found| found["task_id"] == task).unwrap()["output"]
}

/// Counts a row by its whole content: keys in one order, whatever order they came in.
fn count(rows: &mut Rows, table: &'static str, row: &Value) {
    let sorted: BTreeMap<&String, &Value> = row.as_object().unwrap().iter().collect();
    *rows.entry(table).or_default().entry(serde_json::to_string(&sorted).unwrap()).or_default() += 1;
}
