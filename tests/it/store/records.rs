//! What attempts leave: logs, outputs, and the fence that guards them.

use pinsched::domain::plan::Ending;
use pinsched::domain::task_output::TaskOutput;
use pinsched::store::{LogChunk, StoreError};
use serde_json::json;

use super::{claim, end, ended, key, succeeded, worker};
use crate::dags::House;

const TEXT: &str = "orders: {tasks: {one: {operator: script}, two: {operator: script}}}";

#[tokio::test]
async fn a_log_is_read_in_the_order_of_its_chunks_a_hundred_at_a_time() {
    let house = House::open().await;
    let play = house.play(TEXT).await;
    let worker = worker(&house).await;
    let claimed = claim(&house.store, &worker, 2).await;
    let (one, two) = (key(&play, &claimed[0]), key(&play, &claimed[1]));
    let chunk = |attempt, seq, body: &str| LogChunk { attempt, seq, body: body.to_owned() };
    let chunks: Vec<LogChunk> = (0..150).rev().map(|seq| chunk(one, seq, &format!("line {seq}\n"))).collect();
    house.store.append_logs(&chunks).await.unwrap();
    // The answer to its first writing was lost: it comes again, with what came meanwhile.
    let both = [chunk(one, 7, "line 7\nline 7, later\n"), chunk(two, 0, "nul \0 is no text\n")];
    house.store.append_logs(&both).await.unwrap();
    let read = async |from| house.store.read_log(play.run.key, one.task_run.task, 1, from).await.unwrap();
    let first = read(0).await;
    assert_eq!(first.len(), 100);
    assert_eq!(first[7], (7, "line 7\nline 7, later\n".to_owned()), "no line is lost");
    assert_eq!(first[99].0, 99);
    let rest = read(100).await;
    assert_eq!((rest.len(), &rest[49].1[..]), (50, "line 149\n"));
    assert!(read(150).await.is_empty());
    let other = house.store.read_log(play.run.key, two.task_run.task, 1, 0).await.unwrap();
    assert_eq!(other, [(0, "nul \u{fffd} is no text\n".to_owned())]);
}

#[tokio::test]
async fn outputs_are_kept_as_they_were_left() {
    let house = House::open().await;
    let play = house.play(TEXT).await;
    let worker = worker(&house).await;
    let claimed = claim(&house.store, &worker, 2).await;
    let left = json!({"rows": 9_007_199_254_740_993_i64, "name": "Zoë ✓", "nested": {"list": [1, null, 2.5]}});
    let mut done = succeeded(&claimed[0]);
    done.output = Some(TaskOutput::here(left.clone()));
    end(&house.store, &play, vec![done, ended(&claimed[1], Ending::Failed { retryable: false, jitter: 0.0 })]).await;
    let both = [claimed[0].task_run.task, claimed[1].task_run.task];
    let outputs = house.store.outputs(play.run.key, &play.dag, &both).await.unwrap();
    assert_eq!(outputs[&both[0]].as_ref().and_then(TaskOutput::value), Some(&left));
    assert!(outputs[&both[1]].is_none(), "who fails leaves none");
    let tasks = house.store.task_runs(play.run.key).await.unwrap();
    assert_eq!(json!(tasks[0].output), left);
    assert!(tasks[1].output.is_none());
}

#[tokio::test]
async fn what_failed_first_is_told_with_its_words() {
    let house = House::open().await;
    let play = house.play(TEXT).await;
    let worker = worker(&house).await;
    let claimed = claim(&house.store, &worker, 2).await;
    assert_eq!(house.store.first_failure(play.run.key).await.unwrap(), None);
    for (place, words) in [(1, Some("no shelf")), (0, None)] {
        let mut refused = ended(&claimed[place], Ending::Failed { retryable: false, jitter: 0.0 });
        refused.error = words.map(str::to_owned);
        end(&house.store, &play, vec![refused]).await;
    }
    let (task, error) = house.store.first_failure(play.run.key).await.unwrap().expect("two have failed");
    let first = play.dag.task(claimed[1].task_run.task).unwrap();
    assert_eq!((task.to_string(), error.as_deref()), (first.id.to_string(), Some("no shelf")));
}

#[tokio::test]
async fn words_that_postgres_cannot_hold_are_replaced() {
    let house = House::open().await;
    let play = house.play(TEXT).await;
    let worker = worker(&house).await;
    let claimed = claim(&house.store, &worker, 2).await;
    let mut done = succeeded(&claimed[0]);
    done.output = Some(TaskOutput::here(json!({"a\0b": ["c\0", {"d": "\0"}]})));
    let mut broken = ended(&claimed[1], Ending::Failed { retryable: false, jitter: 0.0 });
    broken.error = Some("half a\0word".to_owned());
    end(&house.store, &play, vec![done, broken]).await;
    let tasks = house.store.task_runs(play.run.key).await.unwrap();
    assert_eq!(json!(tasks[0].output), json!({"a\u{fffd}b": ["c\u{fffd}", {"d": "\u{fffd}"}]}));
    assert_eq!(tasks[1].error.as_deref(), Some("half a\u{fffd}word"));
}

#[tokio::test]
async fn the_fence_of_an_attempt_holds_until_another_has_the_task() {
    let house = House::open().await;
    let play = house.play(TEXT).await;
    let worker = worker(&house).await;
    let claimed = claim(&house.store, &worker, 1).await[0];
    house.store.check_fence(key(&play, &claimed)).await.unwrap();
    end(&house.store, &play, vec![ended(&claimed, Ending::Lost)]).await;
    let refused = house.store.check_fence(key(&play, &claimed)).await.unwrap_err();
    assert!(matches!(&refused, StoreError::Fenced { .. }) && !refused.is_transient());
    assert_eq!(refused.to_string(), "attempt 1 of task 0 lost its lease: it is queued under fence 1");
    let again = claim(&house.store, &worker, 2).await[0];
    let refused = house.store.check_fence(key(&play, &claimed)).await.unwrap_err();
    assert_eq!(refused.to_string(), "attempt 1 of task 0 lost its lease: it is running under fence 2");
    house.store.check_fence(key(&play, &again)).await.unwrap();
}
