//! Whose offsets are whose, where all records of a topic are taken: the store's account alone, without Kafka.

use std::collections::BTreeMap;

use chrono::TimeDelta;
use pinsched::domain::Timestamp;
use pinsched::domain::sinking::{SinkCounts, SinkCut, SinkProgress, SinkRange, TopicPartition};
use pinsched::engine::operator::TaskContext;
use pinsched::store::{SinkClaimError, StoreError};

use crate::attempts::TestRun;

fn pin() -> TopicPartition {
    TopicPartition { topic: "u.pin".to_owned(), partition: 0 }
}

fn now() -> Timestamp {
    "2026-03-01T02:00:00Z".parse().unwrap()
}

async fn claim(context: &TaskContext, start: i64, end: i64) -> Result<(), SinkClaimError> {
    claim_at(context, start, end, now()).await
}

async fn claim_at(context: &TaskContext, start: i64, end: i64, now: Timestamp) -> Result<(), SinkClaimError> {
    let heads = [SinkRange { of: pin(), start, end }];
    let whose = (&context.dag_id, &context.task_id);
    context.store.claim_sink_ranges_if_fenced(context.attempt, whose, &heads, now).await
}

async fn record(context: &TaskContext, start: i64, end: i64, marks: &[(&str, i64)]) -> Result<(), StoreError> {
    let marks = marks.iter().map(|(producer, sequence)| ((*producer).to_owned(), *sequence)).collect();
    let cut = SinkCut { start, end, counts: SinkCounts::default(), objects: Vec::new(), marks };
    context.store.record_sink_cuts_if_fenced(context.attempt, &pin(), &[cut], now()).await
}

async fn standing(context: &TaskContext) -> SinkProgress {
    context.store.sink_progress(context.attempt.task_run).await.unwrap().remove(0)
}

fn marks(of: &[(&str, i64)]) -> BTreeMap<String, i64> {
    of.iter().map(|(producer, sequence)| ((*producer).to_owned(), *sequence)).collect()
}

#[tokio::test]
async fn one_run_at_a_time_holds_a_partition_and_the_next_takes_its_rest() {
    let mut run = TestRun::start().await;
    let first = run.claim("sink").await.context;
    claim(&first, 0, 1000).await.unwrap();
    record(&first, 0, 400, &[("a/produce", 7), ("b/produce", 1)]).await.unwrap();

    // Its process is gone, but its task is not over: it may be resumed.
    let key = run.beside().await;
    let second = run.claim("sink").await.context;
    let held = claim(&second, 0, 1500).await.unwrap_err();
    assert!(matches!(&held, SinkClaimError::Held { next: 400, end: 1000, .. }), "{held}");
    assert!(held.to_string().contains("`pinsched cancel manual__2026-03-01T02:00:00+00:00`"), "{held}");
    assert!(second.store.sink_progress(second.attempt.task_run).await.unwrap().is_empty());

    run.end(key, "failed").await;
    claim(&second, 0, 1500).await.unwrap();
    let found = standing(&second).await;
    assert_eq!((found.range.start, found.range.end, found.next), (400, 1500, 400));
    assert_eq!(found.ends, [1000], "objects end where those of the first run would have");
    assert_eq!(found.marks, marks(&[("a/produce", 7), ("b/produce", 1)]));
    let left = standing(&first).await;
    assert_eq!((left.range.end, left.next), (400, 400), "no offset is two runs' to write");

    // Nor is the rest lost when the runs before are forgotten.
    record(&second, 400, 700, &[("a/produce", 9)]).await.unwrap();
    let key = run.beside().await;
    run.end(key, "failed").await;
    run.forget(key).await;
    let third = run.claim("sink").await.context;
    claim(&third, 0, 2000).await.unwrap();
    let found = standing(&third).await;
    assert_eq!((found.range.start, found.range.end), (700, 2000));
    assert_eq!(found.ends, [1000, 1500]);
    assert_eq!(found.marks, marks(&[("a/produce", 9), ("b/produce", 1)]));

    // What is sunk to its end is nobody's to wait for, also while the task is still at work elsewhere.
    record(&third, 700, 2000, &[]).await.unwrap();
    run.beside().await;
    let fourth = run.claim("sink").await.context;
    claim_at(&fourth, 0, 2000, now() + TimeDelta::days(31)).await.unwrap();
    let found = standing(&fourth).await;
    assert_eq!((found.range.start, found.range.end, found.ends.len()), (2000, 2000, 0));
    assert_eq!(found.marks, marks(&[]), "producers that are long gone are forgotten");
}

#[tokio::test]
async fn a_partition_that_ends_before_what_was_taken_is_an_error_and_never_a_jump() {
    let mut run = TestRun::start().await;
    let first = run.claim("sink").await.context;
    claim(&first, 0, 1000).await.unwrap();
    record(&first, 0, 1000, &[]).await.unwrap();
    run.next("success").await;
    let second = run.claim("sink").await.context;
    let receded = claim(&second, 0, 300).await.unwrap_err();
    assert!(matches!(receded, SinkClaimError::Receded { end: 300, taken: 1000, .. }), "{receded}");
    // A task of another id has another position: the way out that the error names.
    let renamed = run.claim("sink_again").await.context;
    claim(&renamed, 0, 300).await.unwrap();
    assert_eq!(standing(&renamed).await.range, SinkRange { of: pin(), start: 0, end: 300 });
}

#[tokio::test]
async fn who_does_not_stand_where_it_thinks_records_nothing() {
    let mut run = TestRun::start().await;
    let first = run.claim("sink").await.context;
    claim(&first, 0, 1000).await.unwrap();
    let stale = record(&first, 400, 1000, &[]).await.unwrap_err();
    assert!(matches!(stale, StoreError::Stale { .. }) && stale.is_transient(), "{stale}");
    assert_eq!(stale.to_string(), "could not move on how far task 0 is in u.pin/0: it does not stand at offset 400");
    let settled = claim(&first, 0, 1000).await.unwrap_err();
    assert!(matches!(settled, SinkClaimError::Held { .. }), "{settled}");
    let other = [SinkRange { of: pin(), start: 0, end: 9 }];
    let again = first.store.settle_sink_ranges_if_fenced(first.attempt, &other).await.unwrap_err();
    assert!(matches!(again, StoreError::Stale { .. }), "{again}");
    let second = run.claim("sink").await.context;
    let fenced = record(&first, 0, 1000, &[]).await.unwrap_err();
    assert!(matches!(fenced, StoreError::Fenced { .. }), "{fenced}");
    record(&second, 0, 1000, &[]).await.unwrap();
}
