//! A sink that no produce of its run fed: it takes all records since its last run.

use pinsched::engine::operator::Failure;
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use rdkafka::{Offset, TopicPartitionList};
use serde_json::json;
use uuid::Uuid;

use super::{Bench, DEADLINE, Record, Transaction, client_config, row, send};
use crate::attempts;

fn strangers(sequences: std::ops::Range<u64>) -> Vec<Record> {
    sequences.map(|sequence| Record::of(row(sequence).to_string())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_takes_all_records_since_the_run_before() {
    let mut bench = Bench::start().await;
    let topic = bench.topic("pin", 1).await;
    send(&topic, &strangers(0..5));
    Transaction::begin(&topic, &[Record::row(Uuid::new_v4(), 5)]).commit();
    let config = bench.config(json!({"flush_size": 4}));
    let output = bench.run.run("sink", "sink", config.clone()).await.unwrap();
    assert_eq!(output["topics"][&topic]["records"], 6);
    assert_eq!(output["topics"][&topic]["partitions"], json!({"0": {"start": 0, "end": 7}}));

    send(&topic, &strangers(6..8));
    bench.run.next("success").await;
    let output = bench.run.run("sink", "sink", config).await.unwrap();
    assert_eq!(output["topics"][&topic]["records"], 2);
    assert_eq!(output["topics"][&topic]["partitions"], json!({"0": {"start": 7, "end": 9}}));
    assert_eq!(bench.lines("topics/").await, (0..8).map(row).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_failed_run_left_is_the_next_runs_and_no_longer_its_own() {
    let mut bench = Bench::start().await;
    let topic = bench.topic("pin", 1).await;
    send(&topic, &strangers(0..6));
    send(&topic, &[Record { value: None, ..Record::of("") }]);
    send(&topic, &strangers(6..8));
    let failing = bench.config(json!({"flush_size": 4, "tombstones": "fail"}));
    let first = bench.run.claim("sink").await;
    let failure = attempts::run(&first.context, "sink", failing.clone()).await.unwrap_err();
    assert!(matches!(failure, Failure::Fatal(_)), "{failure}");

    bench.run.next("failed").await;
    let config = bench.config(json!({"flush_size": 4}));
    let output = bench.run.run("sink", "sink", config).await.unwrap();
    let start = output["topics"][&topic]["partitions"]["0"]["start"].as_i64().unwrap();
    assert!(start == 0 || start == 4, "a cut's end, not {start}");
    assert_eq!(bench.lines("topics/").await, (0..8).map(row).collect::<Vec<_>>());
    let left = bench.run.store.sink_progress(first.context.attempt.task_run).await.unwrap();
    assert_eq!((left[0].range.end, left[0].next), (start, start));
}

#[tokio::test(flavor = "multi_thread")]
async fn records_that_expired_are_an_error_and_never_a_jump() {
    let mut bench = Bench::start().await;
    let topic = bench.topic("pin", 1).await;
    let run = bench.run.uuid;
    send(&topic, &(0..10).map(|sequence| Record::row(run, sequence)).collect::<Vec<_>>());
    bench.produced(&[(&topic, 10)]);
    let admin: AdminClient<DefaultClientContext> = client_config().create().unwrap();
    let mut expired = TopicPartitionList::new();
    expired.add_partition_offset(&topic, 0, Offset::Offset(4)).unwrap();
    let options = AdminOptions::new().operation_timeout(Some(DEADLINE));
    admin.delete_records(&expired, &options).await.unwrap();
    let config = bench.config(json!({}));
    let failure = bench.run.run("sink", "sink", config).await.unwrap_err();
    let text = format!(
        "records of {topic}/0 expired before they were sunk: offset 0 is needed, the first one left is 4 (raise the \
         topic's `retention.ms`, then run the draw again)"
    );
    assert_eq!(failure, Failure::Fatal(text));
    assert!(bench.objects("").await.is_empty());
}
