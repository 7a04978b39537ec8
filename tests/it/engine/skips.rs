//! Tasks that skip themselves, and tasks that keep others from running.

use pinsched::domain::run_state::RunState;
use pinsched::domain::task_state::TaskState;

use super::{drive, whole_run};
use crate::dags::House;

#[tokio::test]
async fn a_task_that_finds_nothing_to_do_is_skipped_and_its_reason_kept() {
    let picture = whole_run(
        "orders:
  tasks:
    extract: {operator: script, acts: [fail, skip], retries: 1, retry_delay: 0}
    load: {operator: script, dependencies: [extract]}
    report: {operator: script, dependencies: [load], trigger_rule: none_failed}",
    )
    .await;
    insta::assert_snapshot!(picture);
}

#[tokio::test]
async fn a_short_circuit_skips_all_that_comes_after_or_what_is_next() {
    let text = |act: &str| {
        format!(
            "orders:
  tasks:
    gate: {{operator: script, acts: [{act}]}}
    next: {{operator: script, dependencies: [gate]}}
    later: {{operator: script, dependencies: [next], trigger_rule: all_done}}
    beside: {{operator: script}}"
        )
    };
    let all = whole_run(&text("skip_downstream")).await;
    let next = whole_run(&text("skip_next")).await;
    insta::assert_snapshot!(format!("{all}\n{next}"));
}

/// `join` has two upstreams: the one that is done lets it run, before the other would skip it.
#[tokio::test]
async fn a_task_that_runs_already_is_not_skipped() {
    let house = House::open().await;
    let play = house
        .play(
            "orders:
  tasks:
    quick: {operator: script}
    gate: {operator: script, acts: [skip_next_at_gate]}
    join: {operator: script, acts: [gate], dependencies: [quick, gate], trigger_rule: one_success}",
        )
        .await;
    let driving = drive(&house, &play);
    let watching = async {
        house.until(&play, "join", TaskState::Running).await;
        play.stage.open("gate");
        house.until(&play, "gate", TaskState::Success).await;
        play.stage.open("join");
    };
    let (state, ()) = tokio::join!(driving, watching);
    assert_eq!(state, RunState::Success);
    let states = house.store.task_runs(play.run.key).await.unwrap();
    assert_eq!(states[play.task("join").as_usize()].state, TaskState::Success);
}
