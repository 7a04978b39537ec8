//! What people do to tasks, where it meets what the engine does at the same time.

use pinsched::clock;
use pinsched::domain::control::{Action, Reach};
use pinsched::domain::run_state::RunState;
use pinsched::domain::task_state::TaskState;
use pinsched::store::{Mode, Request};

use super::{assert_history_is_legal, claim, end, states, succeeded, worker};
use crate::dags::{House, Play};

async fn change(house: &House, play: &Play, action: Action, task: &str, reach: Reach) {
    let tasks = [play.task(task)];
    let request = Request { action, tasks: &tasks, reach, words: "by a test" };
    house.store.change_tasks(play.run.key, &play.dag, request, Mode::Do, clock::now()).await.unwrap();
}

/// It would run before what it waits for, which is to run again.
#[tokio::test]
async fn a_ready_task_that_is_cleared_with_what_it_waits_for_waits_once_more() {
    let house = House::open().await;
    let text = "orders: {tasks: {first: {operator: script}, second: {operator: script, dependencies: [first]}}}";
    let play = house.play(text).await;
    let worker = worker(&house).await;
    let first = claim(&house.store, &worker, 1).await[0];
    end(&house.store, &play, vec![succeeded(&first)]).await;
    assert_eq!(states(&house.store, play.run.key).await, [TaskState::Success, TaskState::Queued]);
    change(&house, &play, Action::Clear, "first", Reach { downstream: true, ..Reach::default() }).await;
    assert_eq!(states(&house.store, play.run.key).await, [TaskState::Queued, TaskState::None]);
    let again = claim(&house.store, &worker, 9).await;
    assert_eq!(again.iter().map(|claimed| claimed.task_run.task.0).collect::<Vec<_>>(), [0]);
    end(&house.store, &play, vec![succeeded(&again[0])]).await;
    assert_eq!(states(&house.store, play.run.key).await, [TaskState::Success, TaskState::Queued]);
    assert_history_is_legal(&house.store, play.run.key).await;
}

#[tokio::test]
async fn a_run_that_is_to_be_cancelled_fails_though_its_last_task_is_marked_as_success() {
    let house = House::open().await;
    let play = house.play("orders: {tasks: {only: {operator: script}}}").await;
    let worker = worker(&house).await;
    claim(&house.store, &worker, 1).await;
    house.store.request_cancel(play.run.key, clock::now()).await.unwrap();
    change(&house, &play, Action::MarkSuccess, "only", Reach::default()).await;
    let run = house.store.run(play.run.key).await.unwrap().unwrap();
    assert_eq!((run.state, run.cancel_requested_at.is_some()), (RunState::Failed, true));
    // Once it is over a person's word is the last one.
    change(&house, &play, Action::MarkFailed, "only", Reach::default()).await;
    change(&house, &play, Action::MarkSuccess, "only", Reach::default()).await;
    let run = house.store.run(play.run.key).await.unwrap().unwrap();
    assert_eq!((run.state, run.cancel_requested_at.is_some()), (RunState::Success, false));
}
