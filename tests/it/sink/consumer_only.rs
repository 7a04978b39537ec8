//! A sink that no produce of its run fed: it takes all records since its last run.

use pinsched::domain::sinking::{SinkRange, TopicPartition};
use pinsched::engine::operator::Failure;
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use rdkafka::{Offset, TopicPartitionList};
use serde_json::json;
use uuid::Uuid;

use super::{BUCKET, Bench, DEADLINE, Record, Transaction, client_config, row, send};
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
async fn what_a_run_put_and_did_not_record_is_put_again_the_same() {
    let mut bench = Bench::start().await;
    let topic = bench.topic("pin", 1).await;
    send(&topic, &strangers(0..6));
    let config = bench.config(json!({"put": "create"}));
    // A run that took six records on, put their object, and died: somebody else puts the same for it here.
    let first = bench.run.claim("sink").await.context;
    let heads = [SinkRange { of: TopicPartition { topic: topic.clone(), partition: 0 }, start: 0, end: 6 }];
    let whose = (&first.dag_id, &first.task_id);
    let now = "2026-03-01T02:00:00Z".parse().unwrap();
    first.store.claim_sink_ranges_if_fenced(first.attempt, whose, &heads, now).await.unwrap();
    bench.run.run("for_the_first", "sink", config.clone()).await.unwrap();
    let object = bench.objects("topics/").await;

    send(&topic, &strangers(6..9));
    let key = bench.run.beside().await;
    let held = bench.run.run("sink", "sink", config.clone()).await.unwrap_err();
    assert!(matches!(&held, Failure::Retry(text) if text.contains("offsets 0..6")), "{held}");
    bench.run.end(key, "failed").await;
    let output = bench.run.run("sink", "sink", config).await.unwrap();
    assert_eq!(output["topics"][&topic]["partitions"], json!({"0": {"start": 0, "end": 9}}));
    assert_eq!(bench.lines("topics/").await, (0..9).map(row).collect::<Vec<_>>());
    let mut objects = bench.objects("topics/").await;
    let second = format!("topics/{topic}/partition=0/{topic}+0+0000000006.json");
    assert!(objects.remove(&second).is_some());
    assert_eq!(objects, object);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_that_comes_to_the_next_run_is_dropped_there() {
    let mut bench = Bench::start().await;
    let topic = bench.topic("pin", 1).await;
    let stranger = Uuid::new_v4();
    let rows =
        |sequences: std::ops::Range<u64>| sequences.map(|sequence| Record::row(stranger, sequence)).collect::<Vec<_>>();
    let config = bench.config(json!({}));
    send(&topic, &rows(0..5));
    bench.run.run("sink", "sink", config.clone()).await.unwrap();
    bench.run.next("success").await;
    send(&topic, &rows(3..8));
    let output = bench.run.run("sink", "sink", config).await.unwrap();
    assert_eq!(output["topics"][&topic]["records"], 3);
    assert_eq!(output["topics"][&topic]["duplicates"], 2);
    assert_eq!(bench.lines("topics/").await, (0..8).map(row).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn with_all_records_runs_that_produced_at_once_do_not_sink_each_others_twice() {
    let mut bench = Bench::start().await;
    let topic = bench.topic("pin", 1).await;
    send(&topic, &strangers(0..2));
    send(&topic, &[Record::row(bench.run.uuid, 2)]);
    let config = bench.config(json!({"records": "all"}));
    bench.produced(&[(&topic, 1)]);
    bench.run.run("sink", "sink", config.clone()).await.unwrap();

    bench.run.next("success").await;
    send(&topic, &[Record::row(bench.run.uuid, 3)]);
    // From the beginning: its produce began when the first run's did.
    bench.produced(&[(&topic, 1)]);
    let output = bench.run.run("sink", "sink", config).await.unwrap();
    assert_eq!(output["topics"][&topic]["partitions"], json!({"0": {"start": 3, "end": 4}}));
    assert_eq!(bench.lines("topics/").await, (0..4).map(row).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_runs_own_records_need_a_produce() {
    let mut bench = Bench::start().await;
    let topic = bench.topic("pin", 1).await;
    send(&topic, &strangers(0..2));
    let config = bench.config(json!({"records": "run"}));
    let failure = bench.run.run("sink", "sink", config).await.unwrap_err();
    assert!(matches!(&failure, Failure::Fatal(text) if text.contains("no produce ran before")), "{failure}");
}

#[tokio::test(flavor = "multi_thread")]
async fn retention_that_passes_what_was_read_is_nobodys_loss() {
    let mut bench = Bench::start().await;
    let topic = bench.topic("pin", 1).await;
    let run = bench.run.uuid;
    send(&topic, &(0..40).map(|sequence| Record::row(run, sequence)).collect::<Vec<_>>());
    // So that the range ends in what no reader is shown.
    Transaction::begin(&topic, &[Record::row(run, 40)]).abort();
    bench.produced(&[(&topic, 40)]);
    let config = bench.config(json!({"flush_size": 1}));
    let attempt = bench.run.claim("sink").await;
    // No cut is recorded while the table is held, so the reader stands in the middle of the topic.
    let held = bench.run.hold("sink_cut").await;
    let s3 = bench.s3.clone();
    let (output, ()) = tokio::join!(attempts::run(&attempt.context, "sink", config), async {
        let comes = async { while s3.list(BUCKET, "topics/").await.unwrap().is_empty() {} };
        tokio::time::timeout(DEADLINE, comes).await.expect("an object comes in time");
        expire(&topic, 5).await;
        held.rollback().await.unwrap();
    });
    assert_eq!(output.unwrap()["topics"][&topic]["records"], 40);
}

/// Removes the records before `offset`, as retention does.
async fn expire(topic: &str, offset: i64) {
    let admin: AdminClient<DefaultClientContext> = client_config().create().unwrap();
    let mut expired = TopicPartitionList::new();
    expired.add_partition_offset(topic, 0, Offset::Offset(offset)).unwrap();
    let options = AdminOptions::new().operation_timeout(Some(DEADLINE));
    admin.delete_records(&expired, &options).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn records_that_expired_are_an_error_and_never_a_jump() {
    let mut bench = Bench::start().await;
    let topic = bench.topic("pin", 1).await;
    let run = bench.run.uuid;
    send(&topic, &(0..10).map(|sequence| Record::row(run, sequence)).collect::<Vec<_>>());
    bench.produced(&[(&topic, 10)]);
    expire(&topic, 4).await;
    let config = bench.config(json!({}));
    let failure = bench.run.run("sink", "sink", config).await.unwrap_err();
    let text = format!(
        "records of {topic}/0 expired before they were sunk: offset 0 is needed, the first one left is 4 (raise the \
         topic's `retention.ms`, then run the draw again; a sink without one goes on at the first record left under a new \
         task id)"
    );
    assert_eq!(failure, Failure::Fatal(text));
    assert!(bench.objects("").await.is_empty());
}
