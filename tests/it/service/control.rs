//! What people do to runs: cleared, marked and restarted, while a service works.

use pinsched::clock;
use pinsched::domain::control::{Action, Reach};
use pinsched::domain::run_state::RunState;
use pinsched::domain::task_state::TaskState;
use pinsched::store::{Changed, Mode, Request, Run, Word};

use super::Served;
use crate::dags::{dag, picture};
use crate::script::Stage;

const TEXT: &str = "orders:
  tasks:
    extract: {operator: script}
    load: {operator: script, dependencies: [extract], acts: [refuse, succeed]}
    publish: {operator: script, dependencies: [load]}";

async fn change(served: &Served, run: &Run, text: &str, action: Action, tasks: &[&str], reach: Reach) -> Vec<Changed> {
    let dag = dag(text);
    let tasks: Vec<_> = tasks.iter().map(|task| dag.task_named(&task.parse().unwrap()).unwrap().index).collect();
    let request = Request { action, tasks: &tasks, reach, words: "by a test" };
    let store = &served.house.store;
    let would = store.change_tasks(run.key, &dag, request, Mode::DryRun, clock::now()).await.unwrap();
    let did = store.change_tasks(run.key, &dag, request, Mode::Do, clock::now()).await.unwrap();
    assert_eq!(would, did, "what is shown is what is done");
    store.tell(Word::Look).await.unwrap();
    store.tell(Word::Work).await.unwrap();
    did
}

async fn failed_run(text: &str) -> (Served, Run) {
    let served = Served::by_one(&[("orders.yaml", text)]).await;
    served.dag("orders", |state| state.version.is_some()).await;
    let run = served.trigger(text, "1").await;
    assert_eq!(served.ended(&run).await, RunState::Failed);
    (served, run)
}

/// PEERS: restarting stuck runs is tedious; every bulk action can be previewed.
#[tokio::test]
async fn what_is_cleared_runs_again_and_what_waits_for_it_after_it() {
    let (served, run) = failed_run(TEXT).await;
    let reach = Reach { downstream: true, ..Reach::default() };
    let changed = change(&served, &run, TEXT, Action::Clear, &["load"], reach).await;
    let states: Vec<_> = changed.iter().map(|one| (one.task.0, one.from, one.to)).collect();
    assert_eq!(states, [(1, TaskState::Failed, TaskState::Queued), (2, TaskState::UpstreamFailed, TaskState::None)]);
    assert_eq!(served.ended(&run).await, RunState::Success);
    insta::assert_snapshot!(picture(&served.house.store, run.key).await.split_once('\n').unwrap().1, @r"
      extract  success          attempt 1
      load     success          attempt 2
      publish  success          attempt 1
    ");
    served.stop().await;
}

#[tokio::test]
async fn a_task_that_is_marked_as_success_lets_those_after_it_run() {
    let (served, run) = failed_run(TEXT).await;
    let changed = change(&served, &run, TEXT, Action::MarkSuccess, &["load"], Reach::default()).await;
    let states: Vec<_> = changed.iter().map(|one| (one.task.0, one.to)).collect();
    assert_eq!(states, [(1, TaskState::Success), (2, TaskState::Queued)]);
    assert_eq!(served.ended(&run).await, RunState::Success);
    served.stop().await;
}

#[tokio::test]
async fn a_run_whose_last_task_is_marked_is_over() {
    let (served, run) = failed_run("orders: {tasks: {one: {operator: script, acts: [refuse]}}}").await;
    let text = "orders: {tasks: {one: {operator: script, acts: [refuse]}}}";
    change(&served, &run, text, Action::MarkSuccess, &["one"], Reach::default()).await;
    let now = served.house.store.run(run.key).await.unwrap().unwrap();
    assert_eq!((now.state, now.finished_at.is_some()), (RunState::Success, true));
    served.stop().await;
}

/// An attempt whose task is cleared under it is stopped, writes nothing, and the task runs once more.
#[tokio::test]
async fn a_task_that_is_cleared_while_it_runs_begins_anew() {
    let text = "orders: {tasks: {one: {operator: script, acts: [hang, succeed]}, two: {operator: script, dependencies: [one]}}}";
    let served = Served::by_one(&[("orders.yaml", text)]).await;
    served.dag("orders", |state| state.version.is_some()).await;
    let run = served.trigger(text, "1").await;
    let stage = Stage::of(run.uuid);
    stage.wait_for("`one`", |scene| scene.is_running("one", 1)).await;
    change(&served, &run, text, Action::Clear, &["one"], Reach::default()).await;
    stage.wait_for("its end", |scene| scene.is_over("one", 1)).await;
    assert_eq!(served.ended(&run).await, RunState::Success);
    insta::assert_snapshot!(picture(&served.house.store, run.key).await.split_once('\n').unwrap().1, @r"
      one  success          attempt 2
      two  success          attempt 1
    ");
    served.stop().await;
}

#[tokio::test]
async fn a_cleared_tasks_retries_count_anew() {
    let text = "orders: {tasks: {one: {operator: script, acts: [fail], retries: 1, retry_delay: 0s}}}";
    let (served, run) = failed_run(text).await;
    change(&served, &run, text, Action::Clear, &["one"], Reach::default()).await;
    assert_eq!(served.ended(&run).await, RunState::Failed);
    let attempts = served.house.store.attempts(run.key, pinsched::domain::ids::TaskIndex(0)).await.unwrap();
    assert_eq!(attempts.iter().map(|attempt| attempt.try_number).collect::<Vec<_>>(), [1, 2, 3, 4]);
    served.stop().await;
}

#[tokio::test]
async fn one_task_is_stopped_and_the_rest_of_the_run_goes_on() {
    let text = "orders: {tasks: {slow: {operator: script, acts: [hang]}, other: {operator: script, acts: [gate]}}}";
    let served = Served::by_one(&[("orders.yaml", text)]).await;
    served.dag("orders", |state| state.version.is_some()).await;
    let run = served.trigger(text, "1").await;
    let stage = Stage::of(run.uuid);
    stage.wait_for("both", |scene| scene.is_running("slow", 1) && scene.is_running("other", 1)).await;
    change(&served, &run, text, Action::MarkFailed, &["slow"], Reach::default()).await;
    stage.wait_for("its end", |scene| scene.is_over("slow", 1)).await;
    stage.open("other");
    assert_eq!(served.ended(&run).await, RunState::Failed);
    insta::assert_snapshot!(picture(&served.house.store, run.key).await.split_once('\n').unwrap().1, @r#"
      slow   failed           attempt 1  "by a test"
      other  success          attempt 1
    "#);
    served.stop().await;
}
