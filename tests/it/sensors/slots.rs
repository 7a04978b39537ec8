//! What waits takes no slot, and outlives its service.

use std::fmt::Write as _;

use pinsched::domain::run_state::RunState;
use pinsched::domain::task_state::TaskState;

use super::Stand;

#[tokio::test]
async fn fifty_sensors_wait_while_the_one_slot_works() {
    let mut text = "waits:\n  schedule: none\n  tasks:\n".to_owned();
    for n in 0..50 {
        writeln!(text, "    s{n}: {{operator: file_sensor, filepath: go, poke_interval: 200ms, priority_weight: 9}}")
            .unwrap();
    }
    text.push_str("    work: {operator: script}\n");
    let (stand, _) = Stand::with(1, &text).await;
    let run = stand.trigger("waits").await;
    stand.until_tasks(&run, 50, TaskState::Deferred).await;
    stand.until_tasks(&run, 1, TaskState::Success).await;
    std::fs::write(stand.path("go"), "").unwrap();
    assert_eq!(stand.ended(&run).await, RunState::Success);
    stand.stop().await;
}

#[tokio::test]
async fn what_a_killed_service_waited_for_another_does() {
    let text = "waits: {schedule: none, tasks: {wait: {operator: file_sensor, filepath: go, poke_interval: 100ms}}}";
    let (mut stand, victim) = Stand::with(4, text).await;
    let run = stand.trigger("waits").await;
    stand.until_tasks(&run, 1, TaskState::Deferred).await;
    victim.abort();
    stand.start().await;
    stand.until("the takeover", async |house| house.store.task_runs(run.key).await.unwrap()[0].fence == 2).await;
    std::fs::write(stand.path("go"), "").unwrap();
    assert_eq!(stand.ended(&run).await, RunState::Success);
    assert_eq!(stand.picture(&run).await, "  wait  success          attempt 1");
    stand.stop().await;
}
