//! Runs that are cancelled, drained and stopped, and how they go on.

use pinsched::clock;
use pinsched::domain::run_state::RunState;
use pinsched::domain::task_state::{AttemptOutcome, TaskState};
use pinsched::engine::Driven;
use pinsched::engine::shutdown::Shutdown;

use super::drive;
use crate::dags::House;

/// `deaf` does not listen: it is dropped ten seconds after it was told to stop.
#[tokio::test]
async fn a_cancelled_run_stops_what_runs_and_fails_what_waits() {
    let house = House::open().await;
    let play = house
        .play(
            "orders:
  tasks:
    early: {operator: script}
    slow: {operator: script, dependencies: [early], acts: [hang], retries: 3}
    deaf: {operator: script, acts: [ignore]}
    resting: {operator: script, acts: [fail], retries: 1, retry_delay: 1h}
    waits: {operator: script, dependencies: [slow]}
    clean_up: {operator: script, dependencies: [waits], trigger_rule: all_done}",
        )
        .await;
    let canceller = async {
        house.until(&play, "resting", TaskState::UpForRetry).await;
        play.stage.wait_for("`slow`", |scene| scene.is_running("slow", 1)).await;
        play.stage.wait_for("`deaf`", |scene| scene.is_running("deaf", 1)).await;
        let first = house.store.request_cancel(play.run.key, clock::now()).await.unwrap();
        let second = house.store.request_cancel(play.run.key, clock::now()).await.unwrap();
        assert_eq!(first, second, "it is asked for once");
    };
    let (state, ()) = tokio::join!(drive(&house, &play), canceller);
    assert_eq!(state, RunState::Failed);
    insta::assert_snapshot!(house.picture(&play).await);
    let tasks = house.store.task_runs(play.run.key).await.unwrap();
    let resting = &tasks[play.task("resting").as_usize()];
    let last_try = house.store.attempts(play.run.key, resting.task).await.unwrap().remove(0).error;
    assert_eq!(resting.error, last_try, "why its last try failed");
    assert!(last_try.is_some(), "{resting:?}");
    assert_eq!(house.store.request_cancel(play.run.key, clock::now()).await.unwrap(), None, "it is over");
}

/// A leaf may have succeeded early; what was cancelled behind it is no leaf. The run was cancelled all the same.
#[tokio::test]
async fn a_cancelled_run_has_failed_though_its_leaf_had_succeeded() {
    let house = House::open().await;
    let play = house
        .play(
            "orders:
  tasks:
    quick: {operator: script}
    slow: {operator: script, acts: [hang]}
    first_come: {operator: script, dependencies: [quick, slow], trigger_rule: one_success}",
        )
        .await;
    let canceller = async {
        play.stage.wait_for("the leaf", |scene| scene.is_over("first_come", 1) && scene.is_running("slow", 1)).await;
        house.store.request_cancel(play.run.key, clock::now()).await.unwrap();
    };
    let (state, ()) = tokio::join!(drive(&house, &play), canceller);
    assert_eq!(state, RunState::Failed);
    insta::assert_snapshot!(house.picture(&play).await);
}

#[tokio::test]
async fn a_run_that_nobody_drives_is_cancelled_by_who_drives_it_next() {
    let house = House::open().await;
    let play = house.play("orders: {tasks: {extract: {operator: script}, load: {operator: script}}}").await;
    house.store.request_cancel(play.run.key, clock::now()).await.unwrap();
    assert_eq!(drive(&house, &play).await, RunState::Failed);
    insta::assert_snapshot!(house.picture(&play).await);
}

#[tokio::test]
async fn a_drained_run_ends_what_runs_begins_nothing_and_goes_on_later() {
    let house = House::open().await;
    let play = house
        .play(
            "orders:
  tasks:
    slow: {operator: script, acts: [gate], say: from before}
    next: {operator: script, dependencies: [slow], say: \"{{ outputs.slow.said }}\"}",
        )
        .await;
    let shutdown = Shutdown::default();
    let engine = house.engine().await;
    let drainer = async {
        play.stage.wait_for("`slow`", |scene| scene.is_running("slow", 1)).await;
        shutdown.drain();
        play.stage.open("slow");
    };
    let (driven, ()) = tokio::join!(engine.drive(house.running(&play).await, &shutdown), drainer);
    assert_eq!(driven.unwrap(), Driven::Stopped);
    let drained = house.picture(&play).await;
    assert_eq!(drive(&house, &play).await, RunState::Success);
    let tasks = house.store.task_runs(play.run.key).await.unwrap();
    assert_eq!(tasks[1].output.as_ref().unwrap()["said"], "from before");
    insta::assert_snapshot!(format!("{drained}\n\n{}", house.picture(&play).await));
}

#[tokio::test]
async fn a_stopped_run_hands_its_attempts_back_uncounted() {
    let house = House::open().await;
    let play = house
        .play(
            "orders:
  tasks:
    slow: {operator: script, acts: [hang, hang, succeed]}
    next: {operator: script, dependencies: [slow]}",
        )
        .await;
    for fence in 1..=2 {
        let shutdown = Shutdown::default();
        let engine = house.engine().await;
        let stopper = async {
            play.stage.wait_for("`slow`", |scene| scene.is_running("slow", fence)).await;
            shutdown.stop();
        };
        let (driven, ()) = tokio::join!(engine.drive(house.running(&play).await, &shutdown), stopper);
        assert_eq!(driven.unwrap(), Driven::Stopped);
    }
    let stopped = house.picture(&play).await;
    assert_eq!(drive(&house, &play).await, RunState::Success);
    insta::assert_snapshot!(format!("{stopped}\n\n{}", house.picture(&play).await));
    let attempts = house.store.attempts(play.run.key, play.task("slow")).await.unwrap();
    let kept: Vec<_> =
        attempts.iter().map(|at| (at.fence, at.try_number, at.outcome.map(AttemptOutcome::as_str))).collect();
    assert_eq!(kept, [(1, 1, Some("interrupted")), (2, 1, Some("interrupted")), (3, 1, Some("success"))]);
}
