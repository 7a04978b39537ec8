//! Steps: guarded by the fence, whole or undone, and right under concurrency.

use pinsched::clock;
use pinsched::domain::ids::TaskIndex;
use pinsched::domain::plan::{Ending, LOST_LIMIT};
use pinsched::domain::run_state::RunState;
use pinsched::domain::task_state::TaskState;
use sqlx::{AssertSqlSafe, Executor, Row};

use super::{assert_history_is_legal, claim, end, ended, failed, states, succeeded, worker};
use crate::dags::House;

#[tokio::test]
async fn an_end_under_an_old_fence_is_stale_and_changes_nothing() {
    let house = House::open().await;
    let play = house
        .play("orders: {tasks: {first: {operator: script}, second: {operator: script, dependencies: [first]}}}")
        .await;
    let worker = worker(&house).await;
    let old = claim(&house.store, &worker, 1).await[0];
    end(&house.store, &play, vec![ended(&old, Ending::Lost)]).await;
    let before = format!("{:?}", house.store.task_runs(play.run.key).await.unwrap());
    let whilst_queued = end(&house.store, &play, vec![succeeded(&old)]).await;
    assert_eq!(whilst_queued.ended_before, [old.task_run]);
    assert_eq!(before, format!("{:?}", house.store.task_runs(play.run.key).await.unwrap()));
    let new = claim(&house.store, &worker, 1).await[0];
    let before = format!("{:?}", house.store.task_runs(play.run.key).await.unwrap());
    let history = house.store.transitions(play.run.key).await.unwrap().len();
    let whilst_running = end(&house.store, &play, vec![succeeded(&old), failed(&old, false)]).await;
    assert_eq!(whilst_running.stale, [(old.task_run, 1), (old.task_run, 1)]);
    assert!(whilst_running.moves.is_empty() && whilst_running.concluded.is_empty());
    assert_eq!(before, format!("{:?}", house.store.task_runs(play.run.key).await.unwrap()));
    assert_eq!(house.store.transitions(play.run.key).await.unwrap().len(), history);
    assert!(
        house.store.outputs(play.run.key, &play.dag, &[old.task_run.task]).await.unwrap().is_empty(),
        "a zombie's output was kept"
    );
    end(&house.store, &play, vec![succeeded(&new)]).await;
    let twice = end(&house.store, &play, vec![succeeded(&new)]).await;
    assert!(twice.moves.is_empty() && twice.stale.is_empty(), "an end is written once");
    assert_eq!(twice.ended_before, [new.task_run]);
    let left = house.store.outputs(play.run.key, &play.dag, &[TaskIndex(0)]).await.unwrap();
    assert_eq!(left[&TaskIndex(0)].as_ref().unwrap().object().unwrap()["fence"], 2);
    assert_history_is_legal(&house.store, play.run.key).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn last_parents_that_finish_at_once_release_their_child_once() {
    let house = House::open().await;
    let worker = worker(&house).await;
    let mut text = "orders:\n  tasks:".to_owned();
    let parents: Vec<String> = (0..8).map(|n| format!("p{n}")).collect();
    for parent in &parents {
        text.push_str(&format!("\n    {parent}: {{operator: script}}"));
    }
    text.push_str(&format!("\n    child: {{operator: script, dependencies: [{}]}}", parents.join(", ")));
    let play = std::sync::Arc::new(house.play(&text).await);
    let claimed = claim(&house.store, &worker, 8).await;
    let mut enders = tokio::task::JoinSet::new();
    for claimed in claimed {
        let (store, play) = (house.store.clone(), std::sync::Arc::clone(&play));
        enders.spawn(async move { end(&store, &play, vec![succeeded(&claimed)]).await.moves });
    }
    let moves: Vec<_> = enders.join_all().await.into_iter().flatten().collect();
    let releases = moves.iter().filter(|(_, step)| step.event.as_str() == "released").count();
    assert_eq!((moves.len(), releases), (9, 1));
    assert_eq!(claim(&house.store, &worker, 8).await.len(), 1);
    assert_history_is_legal(&house.store, play.run.key).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn last_tasks_that_finish_at_once_conclude_the_run_once() {
    let house = House::open().await;
    let worker = worker(&house).await;
    let text: String = (0..8).map(|n| format!("\n    t{n}: {{operator: script}}")).collect();
    let play = std::sync::Arc::new(house.play(&format!("orders:\n  tasks:{text}")).await);
    let claimed = claim(&house.store, &worker, 8).await;
    let mut enders = tokio::task::JoinSet::new();
    for (place, claimed) in claimed.into_iter().enumerate() {
        let (store, play) = (house.store.clone(), std::sync::Arc::clone(&play));
        let how = if place == 3 { failed(&claimed, false) } else { succeeded(&claimed) };
        enders.spawn(async move { end(&store, &play, vec![how]).await.concluded });
    }
    let concluded: Vec<_> = enders.join_all().await.into_iter().flatten().collect();
    assert_eq!(concluded, [(play.run.key, RunState::Failed)]);
    let run = house.store.run(play.run.key).await.unwrap().unwrap();
    assert!(run.state == RunState::Failed && run.finished_at.is_some());
}

#[tokio::test]
async fn ends_of_a_whole_batch_are_written_together() {
    let house = House::open().await;
    let play = house
        .play(
            "orders:
  tasks:
    good: {operator: script}
    bad: {operator: script}
    retried: {operator: script, retries: 1, retry_delay: 1h}
    returned: {operator: script}
    both: {operator: script, dependencies: [good, bad]}
    either: {operator: script, dependencies: [good, bad], trigger_rule: one_success}
    mended: {operator: script, dependencies: [bad], trigger_rule: all_failed}",
        )
        .await;
    let worker = worker(&house).await;
    let claimed = claim(&house.store, &worker, 9).await;
    let batch = vec![
        succeeded(&claimed[0]),
        failed(&claimed[1], true),
        failed(&claimed[2], true),
        ended(&claimed[3], Ending::Interrupted),
    ];
    end(&house.store, &play, batch).await;
    insta::assert_snapshot!(house.picture(&play).await, @r#"
    orders @ 2026-02-01  running
      good      success          attempt 1
      bad       failed           attempt 1  "exit status 1"
      retried   up_for_retry     attempt 2  "exit status 1"
      returned  queued           attempt 1
      both      upstream_failed
      either    queued
      mended    queued
    "#);
    assert_history_is_legal(&house.store, play.run.key).await;
}

/// A chain of `length` tasks behind the first, all but it with `rule`.
fn chain(length: usize, rule: &str) -> String {
    let mut text = "orders:\n  tasks:\n    t0: {operator: script}".to_owned();
    for n in 1..=length {
        text.push_str(&format!("\n    t{n}: {{operator: script, dependencies: [t{}], trigger_rule: {rule}}}", n - 1));
    }
    text
}

#[tokio::test]
async fn a_failure_runs_through_a_thousand_tasks_in_one_step() {
    let house = House::open().await;
    let play = house.play(&chain(1_000, "all_success")).await;
    let worker = worker(&house).await;
    let claimed = claim(&house.store, &worker, 9).await;
    let stepped = end(&house.store, &play, vec![failed(&claimed[0], false)]).await;
    assert_eq!(stepped.concluded, [(play.run.key, RunState::Failed)]);
    let states = states(&house.store, play.run.key).await;
    assert!(states[1..].iter().all(|state| *state == TaskState::UpstreamFailed));
    assert_history_is_legal(&house.store, play.run.key).await;
}

#[tokio::test]
async fn a_skip_runs_through_ten_thousand_tasks_in_one_step() {
    let house = House::open().await;
    let text = chain(10_000, "all_success").replacen("trigger_rule: all_success", "trigger_rule: all_failed", 1);
    let play = house.play(&text).await;
    let worker = worker(&house).await;
    let claimed = claim(&house.store, &worker, 9).await;
    let stepped = end(&house.store, &play, vec![succeeded(&claimed[0])]).await;
    assert_eq!(stepped.concluded, [(play.run.key, RunState::Success)], "skipped leaves are no failure");
    let states = states(&house.store, play.run.key).await;
    assert!(states[1..].iter().all(|state| *state == TaskState::Skipped));
    assert_history_is_legal(&house.store, play.run.key).await;
}

#[tokio::test]
async fn a_cancelled_run_is_swept_but_for_what_runs() {
    let house = House::open().await;
    let play = house
        .play(
            "orders:
  tasks:
    done: {operator: script, priority_weight: 3}
    running: {operator: script, priority_weight: 2}
    queued: {operator: script}
    waiting: {operator: script, dependencies: [running]}",
        )
        .await;
    let worker = worker(&house).await;
    let claimed = claim(&house.store, &worker, 2).await;
    end(&house.store, &play, vec![succeeded(&claimed[0])]).await;
    assert!(end(&house.store, &play, vec![]).await.moves.is_empty(), "there is nothing to sweep yet");
    house.store.request_cancel(play.run.key, clock::now()).await.unwrap();
    let swept = end(&house.store, &play, vec![]).await;
    assert_eq!((swept.moves.len(), swept.concluded.len()), (2, 0));
    assert!(end(&house.store, &play, vec![]).await.moves.is_empty(), "it is swept once");
    let last = end(&house.store, &play, vec![ended(&claimed[1], Ending::Interrupted)]).await;
    assert_eq!(last.concluded, [(play.run.key, RunState::Failed)]);
    insta::assert_snapshot!(house.picture(&play).await, @r"
    orders @ 2026-02-01  failed  (cancelled)
      done     success          attempt 1
      running  failed           attempt 1
      queued   failed
      waiting  failed
    ");
    assert_history_is_legal(&house.store, play.run.key).await;
}

#[tokio::test]
async fn a_task_is_lost_five_times_at_the_most() {
    let house = House::open().await;
    let play = house.play("orders: {tasks: {deadly: {operator: script, retries: 3}}}").await;
    let worker = worker(&house).await;
    for loss in 1..=LOST_LIMIT {
        let claimed = claim(&house.store, &worker, 1).await;
        assert_eq!((claimed[0].fence, claimed[0].try_number), (i64::from(loss), 1), "a loss costs no try");
        end(&house.store, &play, vec![ended(&claimed[0], Ending::Lost)]).await;
    }
    let task = house.store.task_runs(play.run.key).await.unwrap().remove(0);
    assert_eq!((task.state, task.lost), (TaskState::Failed, LOST_LIMIT));
    assert_history_is_legal(&house.store, play.run.key).await;
}

#[tokio::test]
async fn a_task_that_waits_is_not_blamed_for_the_ends_of_its_workers() {
    let house = House::open().await;
    let play = house.play("orders: {tasks: {patient: {operator: script}}}").await;
    let worker = worker(&house).await;
    for _ in 0..=LOST_LIMIT {
        let claimed = claim(&house.store, &worker, 1).await;
        end(&house.store, &play, vec![ended(&claimed[0], Ending::Deferred)]).await;
        end(&house.store, &play, vec![ended(&claimed[0], Ending::Lost)]).await;
    }
    let task = house.store.task_runs(play.run.key).await.unwrap().remove(0);
    assert_eq!((task.state, task.lost), (TaskState::Queued, 0));
    assert_history_is_legal(&house.store, play.run.key).await;
}

#[tokio::test]
async fn a_step_about_a_run_that_is_gone_does_nothing() {
    let mut house = House::open().await;
    let play = house.play("orders: {tasks: {only: {operator: script}}}").await;
    let worker = worker(&house).await;
    let claimed = claim(&house.store, &worker, 1).await;
    house.execute("DELETE FROM run").await;
    let stepped = end(&house.store, &play, vec![succeeded(&claimed[0])]).await;
    assert!(stepped.moves.is_empty() && stepped.concluded.is_empty());
    for table in ["task_run", "attempt", "transition", "task_output"] {
        let left = house.sql.fetch_one(AssertSqlSafe(format!("SELECT count(*) FROM {table}"))).await.unwrap();
        assert_eq!(left.get::<i64, _>(0), 0, "rows of a deleted run are left in {table}");
    }
}

/// The answer to the step that wrote it may be lost: then it is said again.
#[tokio::test]
async fn that_an_attempt_waits_may_be_said_twice() {
    let house = House::open().await;
    let play = house.play("orders: {tasks: {waits: {operator: script}, other: {operator: script}}}").await;
    let worker = worker(&house).await;
    let claimed = claim(&house.store, &worker, 2).await;
    for _ in 0..2 {
        end(&house.store, &play, vec![ended(&claimed[0], Ending::Deferred)]).await;
        assert_eq!(states(&house.store, play.run.key).await, [TaskState::Deferred, TaskState::Running]);
    }
    let both = vec![ended(&claimed[0], Ending::Deferred), succeeded(&claimed[1])];
    assert_eq!(end(&house.store, &play, both).await.moves.len(), 1);
    let last = end(&house.store, &play, vec![succeeded(&claimed[0])]).await;
    assert_eq!(last.concluded, [(play.run.key, RunState::Success)]);
    assert_history_is_legal(&house.store, play.run.key).await;
}
