//! Mapped tasks whose instances several services take: each instance once, and their task ends with the last one.

use pinsched::domain::run_state::RunState;
use pinsched::domain::task_state::TaskEvent;

use super::Served;

const TEXT: &str = "orders:
  tasks:
    each: {operator: script, expand: {say: \"{{ range(60) | map('string') | list }}\"}}
    after: {operator: script, dependencies: [each], say: \"{{ outputs.each | length }} left\"}
";

#[tokio::test]
async fn services_share_the_instances_of_a_task_and_each_succeeds_once() {
    let mut served = Served::by_one(&[("orders.yaml", TEXT)]).await;
    served.start().await;
    served.start().await;
    served.dag("orders", |state| state.version.is_some()).await;
    let run = served.trigger(TEXT, "one").await;
    let ended = served
        .until("the run's end", async |house| {
            house.store.run(run.key).await.unwrap().filter(|run| run.state.is_final())
        })
        .await;
    assert_eq!(ended.state, RunState::Success);
    let history = served.house.store.transitions(run.key).await.unwrap();
    let tasks = served.house.store.task_runs(run.key).await.unwrap();
    assert_eq!(tasks.len(), 62);
    for task in &tasks {
        let ends = history.iter().filter(|at| at.task == task.task && at.event == TaskEvent::Succeeded).count();
        assert_eq!(ends, 1, "of {}", task.name());
    }
    assert_eq!(tasks[1].output.as_ref().unwrap()["said"], "60 left");
}
