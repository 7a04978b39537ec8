//! DAG files: what appears is live, what breaks stays as it was, what goes away is retired, and a run keeps its version.

use pinsched::domain::run_state::RunState;

use super::Served;
use crate::script::Stage;

/// PEERS: a changed DAG takes minutes to appear.
#[tokio::test]
async fn files_come_change_break_and_go() {
    let served = Served::by_one(&[]).await;
    served.write("orders.yaml", "orders: {tasks: {one: {operator: script}}}");
    let first = served.dag("orders", |state| state.version.is_some()).await;
    served.write("orders.yaml", "orders: {tasks: {one: {operator: script}, two: {operator: script}}}");
    let second = served.dag("orders", |state| state.version != first.version).await;

    served.write("orders.yaml", "orders: {tasks: {one: {operator: skript}}}");
    let errors = async |house: &crate::dags::House| {
        let errors = house.store.import_errors().await.unwrap();
        errors.into_iter().next()
    };
    let error = served.until("what is wrong", errors).await;
    assert!(error.message.contains("did you mean `script`?"), "{}", error.message);
    assert!(error.message.contains("^^^^^^"), "the place is underlined: {}", error.message);
    let broken = served.dag("orders", |state| state.retired_at.is_none()).await;
    assert_eq!(broken.version, second.version, "the last good version stays");

    served.write(
        "orders.yaml",
        "orders: {tasks: {one: {operator: script}, two: {operator: script}, three: {operator: script}}}",
    );
    served.dag("orders", |state| state.version != second.version).await;
    let none = async |house: &crate::dags::House| house.store.import_errors().await.unwrap().is_empty().then_some(());
    served.until("the error's end", none).await;

    std::fs::remove_file(served.path("orders.yaml")).unwrap();
    served.dag("orders", |state| state.retired_at.is_some()).await;
    served.write("orders.yaml", "orders: {tasks: {one: {operator: script}}}");
    served.dag("orders", |state| state.retired_at.is_none()).await;
    served.stop().await;
}

#[tokio::test]
async fn a_file_that_is_broken_when_the_service_begins_has_its_last_good_version() {
    let mut served =
        Served::by_one(&[("orders.yaml", "orders: {schedule: '* * * * * *', tasks: {one: {operator: script}}}")]).await;
    served.dag("orders", |state| state.version.is_some()).await;
    served.shutdown.stop();
    while served.services.join_next().await.is_some() {}
    let before = served.runs("orders").await.len();
    served.write("orders.yaml", "orders: {schedule: '* * * * * *', tasks: ");
    served.shutdown = pinsched::engine::shutdown::Shutdown::default();
    served.start().await;
    let goes_on = async |house: &crate::dags::House| {
        let runs = house.store.list_runs(None, 1000).await.unwrap();
        (runs.len() > before + 1 && !house.store.import_errors().await.unwrap().is_empty()).then_some(())
    };
    served.until("runs of the last good version", goes_on).await;
    served.stop().await;
}

#[tokio::test]
async fn a_named_pipe_among_the_files_is_not_waited_for() {
    let mut served = Served::nothing().await;
    assert!(std::process::Command::new("mkfifo").arg(served.path("pipe.yaml")).status().unwrap().success());
    served.start().await;
    served.write("orders.yaml", "orders: {tasks: {one: {operator: script}}}");
    served.dag("orders", |state| state.version.is_some()).await;
    served.stop().await;
}

#[tokio::test]
async fn a_run_keeps_the_version_that_it_began_with() {
    let text = "orders: {tasks: {one: {operator: script, acts: [gate]}, two: {operator: script, dependencies: [one]}}}";
    let served = Served::by_one(&[("orders.yaml", text)]).await;
    let first = served.dag("orders", |state| state.version.is_some()).await;
    let run = served.trigger(text, "1").await;
    Stage::of(run.uuid).wait_for("`one`", |scene| scene.is_running("one", 1)).await;
    served.write("orders.yaml", "orders: {tasks: {other: {operator: script}}}");
    served.dag("orders", |state| state.version != first.version).await;
    Stage::of(run.uuid).open("one");
    assert_eq!(served.ended(&run).await, RunState::Success);
    let tasks = served.house.store.task_runs(run.key).await.unwrap();
    assert_eq!(tasks.iter().map(|task| task.task_id.as_str()).collect::<Vec<_>>(), ["one", "two"]);
    served.stop().await;
}

#[tokio::test]
async fn two_files_with_one_dag_are_told_apart() {
    let text = "orders: {tasks: {one: {operator: script}}}";
    let served = Served::by_one(&[("a.yaml", text), ("b.yaml", text)]).await;
    let errors = async |house: &crate::dags::House| house.store.import_errors().await.unwrap().into_iter().next();
    let error = served.until("the second one's error", errors).await;
    assert!(error.file.ends_with("b.yaml") && error.message.contains("is in"), "{error:?}");
    let state = served.dag("orders", |state| state.version.is_some()).await;
    assert!(state.file.unwrap().ends_with("a.yaml"));
    served.stop().await;
}

/// Somebody copies a file and forgets the id: what runs goes on from the file that it runs from.
#[tokio::test]
async fn a_file_that_comes_later_does_not_take_another_files_dag_away() {
    let text = "orders: {tasks: {one: {operator: script}}}";
    let mut served = Served::by_one(&[("m.yaml", text)]).await;
    let first = served.dag("orders", |state| state.version.is_some()).await;
    served.write("a.yaml", "orders: {tasks: {other: {operator: script}}}");
    let errors = async |house: &crate::dags::House| house.store.import_errors().await.unwrap().into_iter().next();
    let error = served.until("the newcomer's error", errors).await;
    assert!(error.file.ends_with("a.yaml") && error.message.contains("m.yaml` already"), "{error:?}");
    assert_eq!(served.dag("orders", |_| true).await, first);
    // Nor after a restart.
    served.shutdown.stop();
    while served.services.join_next().await.is_some() {}
    served.house.execute("DELETE FROM import_error").await;
    served.shutdown = pinsched::engine::shutdown::Shutdown::default();
    served.start().await;
    let error = served.until("the newcomer's error", errors).await;
    assert!(error.file.ends_with("a.yaml"), "{error:?}");
    assert_eq!(served.dag("orders", |_| true).await.version, first.version);
    std::fs::remove_file(served.path("m.yaml")).unwrap();
    served.dag("orders", |state| state.version != first.version && state.retired_at.is_none()).await;
    served.stop().await;
}
