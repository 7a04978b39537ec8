//! Each row of the run exactly once, whatever stands between them in the topic and whoever dies.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::task::{Context, Poll};

use pinsched::engine::operator::Failure;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::{Offset, TopicPartitionList};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{BUCKET, Bench, DEADLINE, Record, Transaction, client_config, ends, row, send};
use crate::attempts;

fn rows(run: Uuid, sequences: std::ops::Range<u64>) -> Vec<Record> {
    sequences.map(|sequence| Record::row(run, sequence)).collect()
}

/// Rows 0..40 of the run on one partition, among all that a topic of several runs may hold. Returns the offset of each.
fn crowd(topic: &str, run: Uuid) {
    Transaction::begin(topic, &rows(run, 0..25)).commit();
    Transaction::begin(topic, &rows(run, 25..30)).abort();
    send(topic, &[Record::of("{\"ind\":1}"), Record::of("not even json")]);
    Transaction::begin(topic, &rows(Uuid::new_v4(), 0..7)).commit();
    // Replayed by a producer that died before it learned of its commit.
    Transaction::begin(topic, &rows(run, 20..40)).commit();
    Transaction::begin(topic, &rows(run, 40..43)).abort();
}

fn topic_output<'a>(output: &'a serde_json::Map<String, Value>, topic: &str) -> &'a Value {
    &output["topics"][topic]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_runs_rows_arrive_once_among_aborted_foreign_and_replayed_ones() {
    let mut bench = Bench::start().await;
    let topic = bench.topic("pin", 1).await;
    crowd(&topic, bench.run.uuid);
    bench.run.finished("emulate", "emulate", json!({"rows": 40}));
    bench.produced(&[(&topic, 40)]);

    let config = bench.config(json!({"flush_size": 10}));
    let output = bench.run.run("sink", "sink", config).await.unwrap();
    let end = ends(&topic)[&0];
    let counts = topic_output(&output, &topic);
    assert_eq!(counts["records"], 40);
    assert_eq!(counts["duplicates"], 5);
    assert_eq!(counts["foreign"], 9);
    assert_eq!(counts["dead_lettered"], 0);
    assert_eq!(counts["objects"], 4);
    assert_eq!(counts["partitions"], json!({"0": {"start": 0, "end": end}}));
    assert_eq!(output["bucket"], BUCKET);

    let objects = bench.objects("").await;
    let first = format!("topics/{topic}/partition=0/{topic}+0+0000000000.json");
    assert_eq!(objects.keys().next(), Some(&first));
    let expected: String = (0..10).map(|sequence| format!("{}\n", row(sequence))).collect();
    assert_eq!(objects[&first], expected);
    assert_eq!(bench.lines("topics/").await, (0..40).map(row).collect::<Vec<_>>());

    let head = bench.s3.head(BUCKET, &first).await.unwrap().unwrap();
    assert_eq!(head.metadata["start-offset"], "0");
    assert_eq!(head.metadata["end-offset"], "9");
    assert_eq!(head.metadata["record-count"], "10");
    assert_eq!(head.metadata["run"], bench.run.uuid.to_string());

    // For Kafka's own tools, the group stands at the range's end.
    let mut config = client_config();
    let consumer: BaseConsumer = config.set("group.id", "pinsched-pinterest_daily-sink").create().unwrap();
    let mut asked = TopicPartitionList::new();
    asked.add_partition(&topic, 0);
    let committed = consumer.committed_offsets(asked, DEADLINE).unwrap();
    assert_eq!(committed.find_partition(&topic, 0).unwrap().offset(), Offset::Offset(end));
}

/// Ends an attempt as a kill does: at its n-th poll it is dropped where it stands.
struct Killed<F> {
    attempt: Pin<Box<F>>,
    polls: u32,
}

impl<F: Future> Future for Killed<F> {
    type Output = Option<F::Output>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        if self.polls == 0 {
            return Poll::Ready(None);
        }
        self.polls -= 1;
        self.attempt.as_mut().poll(context).map(Some)
    }
}

/// What the objects must be: the rows in chunks, named by the offset of their first row.
fn expected(
    topic: &str,
    flush_size: usize,
    per_partition: &BTreeMap<i32, Vec<(i64, u64)>>,
) -> BTreeMap<String, String> {
    let mut objects = BTreeMap::new();
    for (partition, rows) in per_partition {
        for chunk in rows.chunks(flush_size) {
            let key = format!("topics/{topic}/partition={partition}/{topic}+{partition}+{:010}.json", chunk[0].0);
            objects.insert(key, chunk.iter().map(|(_, sequence)| format!("{}\n", row(*sequence))).collect());
        }
    }
    objects
}

async fn survives(flush_size: usize, rows_per_partition: u64, kills: impl Iterator<Item = u32>) {
    let mut bench = Bench::start().await;
    let topic = bench.topic("pin", 3).await;
    let run = bench.run.uuid;
    let mut per_partition: BTreeMap<i32, Vec<(i64, u64)>> = BTreeMap::new();
    for partition in 0..3 {
        let records: Vec<Record> = (0..rows_per_partition)
            .map(|number| Record { partition, ..Record::row(run, number * 3 + partition.cast_unsigned() as u64) })
            .collect();
        Transaction::begin(&topic, &records).commit();
        // All of them once more: a retry that knew nothing.
        Transaction::begin(&topic, &records).commit();
        let offsets = (0_i64..).zip(records.iter().map(|record| record.stamp.unwrap().1));
        per_partition.insert(partition, offsets.collect());
    }
    bench.produced(&[(&topic, rows_per_partition * 3)]);

    let config = bench.config(json!({"flush_size": flush_size}));
    let mut killed = 0;
    let mut output = None;
    for polls in kills.chain(std::iter::repeat(u32::MAX)) {
        let attempt = bench.run.claim("sink").await;
        let attempt = Box::pin(attempts::run(&attempt.context, "sink", config.clone()));
        match (Killed { attempt, polls }).await {
            None => killed += 1,
            Some(ended) => {
                output = Some(ended.unwrap());
                break;
            }
        }
    }
    let output = output.unwrap();
    assert!(killed > 3, "only {killed} attempts were killed");
    let objects = bench.objects("").await;
    let objects: BTreeMap<String, String> =
        objects.into_iter().map(|(key, body)| (key, String::from_utf8(body.to_vec()).unwrap())).collect();
    assert_eq!(objects, expected(&topic, flush_size, &per_partition));
    let counts = topic_output(&output, &topic);
    assert_eq!(counts["records"], rows_per_partition * 3);
    assert_eq!(counts["duplicates"], rows_per_partition * 3);
    assert_eq!(counts["objects"].as_u64(), u64::try_from(objects.len()).ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn attempts_killed_at_any_point_leave_the_objects_of_one_that_was_not() {
    survives(7, 200, (1..200).step_by(9)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn so_do_attempts_with_an_object_for_each_record() {
    survives(1, 60, [5, 20, 30, 40, 60, 80, 90, 100, 120].into_iter()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_attempt_is_interrupted_and_the_next_one_goes_on() {
    let mut bench = Bench::start().await;
    let topic = bench.topic("pin", 1).await;
    Transaction::begin(&topic, &rows(bench.run.uuid, 0..50)).commit();
    bench.produced(&[(&topic, 50)]);
    let config = bench.config(json!({"flush_size": 10}));
    let attempt = bench.run.claim("sink").await;
    attempt.context.cancel.cancel();
    assert_eq!(attempts::run(&attempt.context, "sink", config.clone()).await, Err(Failure::Interrupted));
    let output = bench.run.run("sink", "sink", config).await.unwrap();
    assert_eq!(topic_output(&output, &topic)["records"], 50);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_that_lost_its_lease_records_nothing() {
    let mut bench = Bench::start().await;
    let topic = bench.topic("pin", 1).await;
    Transaction::begin(&topic, &rows(bench.run.uuid, 0..5)).commit();
    bench.produced(&[(&topic, 5)]);
    let config = bench.config(json!({}));
    let stale = bench.run.claim("sink").await;
    let current = bench.run.claim("sink").await;
    assert_eq!(attempts::run(&stale.context, "sink", config.clone()).await, Err(Failure::Interrupted));
    let standing = bench.run.store.sink_progress(stale.context.attempt.task_run).await.unwrap();
    assert!(standing.is_empty());
    attempts::run(&current.context, "sink", config).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_strangers_open_transaction_is_waited_for_and_said() {
    let mut bench = Bench::start().await;
    let topic = bench.topic("pin", 1).await;
    Transaction::begin(&topic, &rows(bench.run.uuid, 0..5)).commit();
    let stranger = Transaction::begin(&topic, &[Record::of("{}")]);
    Transaction::begin(&topic, &rows(bench.run.uuid, 5..10)).commit();
    bench.produced(&[(&topic, 10)]);
    let config = bench.config(json!({}));
    let mut attempt = bench.run.claim("sink").await;
    let (output, ()) = tokio::join!(attempts::run(&attempt.context, "sink", config), async {
        let line = attempt.log.next_line().await;
        assert!(line.contains("an open transaction holds it at 6"), "{line}");
        tokio::task::spawn_blocking(|| stranger.commit()).await.unwrap();
    });
    assert_eq!(topic_output(&output.unwrap(), &topic)["foreign"], 1);
    assert_eq!(bench.lines("topics/").await, (0..10).map(row).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_did_not_arrive_fails_the_task_with_the_numbers() {
    let mut bench = Bench::start().await;
    let topic = bench.topic("pin", 1).await;
    Transaction::begin(&topic, &rows(bench.run.uuid, 0..9)).commit();
    bench.run.finished("emulate", "emulate", json!({"rows": 10}));
    bench.produced(&[(&topic, 10)]);
    let config = bench.config(json!({}));
    let failure = bench.run.run("sink", "sink", config).await.unwrap_err();
    let numbers = format!("topic `{topic}`: 10 drawn, 10 produced, 9 sunk, 0 dead-lettered");
    assert_eq!(failure, Failure::Fatal(format!("not every row arrived: {numbers}")));
}
