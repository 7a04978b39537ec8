//! `trigger_dag_run`: one run for each try, whatever dies.

use pinsched::clock;
use pinsched::domain::run_state::RunState;
use pinsched::domain::run_type::RunType;
use pinsched::domain::task_state::TaskState;
use pinsched::engine::operator::{Failure, Output};
use pinsched::store::DagRegistration;
use serde_json::{Value, json};

use super::{Stand, dag};
use crate::attempts::{self, TestRun};

const FAMILY: &str = "
parent:
  schedule: none
  tasks:
    call:
      operator: trigger_dag_run
      trigger_dag_id: child
      conf: {rows: 7, more: x}
      wait_for_completion: true
      poke_interval: 100ms
child:
  schedule: none
  params: {rows: 1}
  tasks:
    work: {operator: file_sensor, filepath: go, poke_interval: 100ms}
";

#[tokio::test]
async fn a_child_is_waited_for_and_a_killed_service_makes_no_second_one() {
    let (mut stand, victim) = Stand::with(4, FAMILY).await;
    let parent = stand.trigger("parent").await;
    stand.until_tasks(&parent, 1, TaskState::Deferred).await;
    let child = stand.runs("child").await.remove(0);
    assert_eq!((child.run_type, child.triggered_by.as_str()), (RunType::OperatorTriggered, "parent.call"));
    assert_eq!(Value::Object(child.params.clone()), json!({"rows": 7, "more": "x"}));
    victim.abort();
    stand.start().await;
    stand.until("the takeover", async |house| house.store.task_runs(parent.key).await.unwrap()[0].fence == 2).await;
    stand.until_tasks(&parent, 1, TaskState::Deferred).await;
    std::fs::write(stand.path("go"), "").unwrap();
    assert_eq!(stand.ended(&parent).await, RunState::Success);
    assert_eq!(stand.picture(&parent).await, "  call  success          attempt 1");
    assert_eq!(stand.runs("child").await.len(), 1);
    stand.stop().await;
}

#[tokio::test]
async fn a_child_that_fails_fails_its_parent() {
    let text = FAMILY.replace("filepath: go,", "filepath: never, timeout: 1ms,");
    let (stand, _) = Stand::with(4, &text).await;
    let parent = stand.trigger("parent").await;
    assert_eq!(stand.ended(&parent).await, RunState::Failed);
    let picture = stand.picture(&parent).await;
    assert!(picture.ends_with("of DAG `child` is failed\""), "{picture}");
    stand.stop().await;
}

#[tokio::test]
async fn a_run_that_is_there_is_refused_skipped_or_run_again() {
    let mut run = TestRun::start().await;
    let text = "child: {params: {rows: {type: integer, default: 1}}, tasks: {work: {operator: empty}}}";
    let child = dag(text, "child");
    let config = |more: Value| {
        let mut config = json!({"trigger_dag_id": "child", "trigger_run_id": "mine"});
        config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        config
    };
    let failure = run.run("early", "trigger_dag_run", config(json!({}))).await.unwrap_err();
    assert!(matches!(&failure, Failure::Fatal(text) if text.contains("no service has registered")), "{failure:?}");
    let registration =
        DagRegistration { dag: &child, file: "/dags/child.yaml", source: text, begins: None, begins_anew: false };
    run.store.register_dags(&[registration], clock::now()).await.unwrap();

    let failure = run.run("a", "trigger_dag_run", config(json!({"conf": {"rows": "many"}}))).await.unwrap_err();
    assert!(matches!(&failure, Failure::Fatal(text) if text.contains("param `rows`")), "{failure:?}");
    let id = |output: Output| output["trigger_run_id"].clone();
    assert_eq!(id(run.run("a", "trigger_dag_run", config(json!({}))).await.unwrap()), json!("mine"));
    // The same try again, as after a crash: it finds its run.
    assert_eq!(id(run.run("a", "trigger_dag_run", config(json!({}))).await.unwrap()), json!("mine"));

    let failure = run.run("b", "trigger_dag_run", config(json!({}))).await.unwrap_err();
    assert!(matches!(&failure, Failure::Fatal(text) if text.contains("has a run `mine` already")), "{failure:?}");
    let skip = config(json!({"skip_when_already_exists": true}));
    assert!(matches!(run.run("c", "trigger_dag_run", skip).await, Err(Failure::Skip(_))));
    let before = run.store.list_runs(Some(&"child".parse().unwrap()), 10).await.unwrap().remove(0);
    run.store.give_up_run(before.key, "given up", clock::now()).await.unwrap();
    assert_eq!(run.store.run(before.key).await.unwrap().unwrap().state, RunState::Failed);
    let again = run.claim("d").await;
    let reset = config(json!({"reset_dag_run": true}));
    attempts::run(&again.context, "trigger_dag_run", reset).await.unwrap();
    let after = run.store.run(before.key).await.unwrap().unwrap();
    assert_eq!(after.state, RunState::Running, "all of it runs again");
    assert_eq!(run.store.list_runs(Some(&"child".parse().unwrap()), 10).await.unwrap().len(), 1);

    let mut derived = config(json!({}));
    derived.as_object_mut().unwrap().remove("trigger_run_id");
    let first = id(run.run("e", "trigger_dag_run", derived.clone()).await.unwrap());
    assert_eq!(first, json!(format!("operator_triggered__{}__e__1", run.uuid)));
    assert_eq!(id(run.run("e", "trigger_dag_run", derived).await.unwrap()), first);
}
