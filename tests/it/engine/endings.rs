//! How attempts end: well, badly, too late, in a panic; and what follows for the run.

use pinsched::domain::run_state::RunState;

use super::{drive, whole_run};
use crate::dags::House;

#[tokio::test]
async fn a_task_that_fails_to_the_last_try_fails_what_waits_for_it() {
    let picture = whole_run(
        "orders:
  default_args: {retries: 2, retry_delay: 0.02, retry_exponential_backoff: true}
  tasks:
    extract: {operator: script}
    transform: {operator: script, dependencies: [extract], acts: [fail]}
    publish: {operator: script, dependencies: [transform]}
    clean_up: {operator: script, dependencies: [publish], trigger_rule: all_done}
    report: {operator: script, dependencies: [transform], trigger_rule: one_failed}",
    )
    .await;
    insta::assert_snapshot!(picture);
}

#[tokio::test]
async fn a_run_fails_by_its_leaves_and_not_by_what_was_made_good() {
    let picture = whole_run(
        "orders:
  tasks:
    extract: {operator: script, acts: [refuse]}
    make_good: {operator: script, dependencies: [extract], trigger_rule: all_failed}
    not_needed: {operator: script, dependencies: [make_good], trigger_rule: one_failed}",
    )
    .await;
    insta::assert_snapshot!(picture);
}

#[tokio::test]
async fn retries_go_on_until_one_succeeds_and_each_attempt_is_kept() {
    let house = House::open().await;
    let play = house
        .play(
            "orders:
  tasks:
    flaky: {operator: script, acts: [fail, panic, hang, succeed], retries: 5, retry_delay: 0.01, execution_timeout: 0.05}
    hopeless: {operator: script, acts: [refuse], retries: 5, retry_delay: 0.01}",
        )
        .await;
    assert_eq!(drive(&house, &play).await, RunState::Failed);
    let mut text = house.picture(&play).await;
    for task in play.dag.tasks() {
        for attempt in house.store.attempts(play.run.key, task.index).await.unwrap() {
            assert!(attempt.finished_at.unwrap() >= attempt.started_at);
            let outcome = attempt.outcome.unwrap();
            let error = attempt.error.unwrap_or_default();
            text.push_str(&format!("\n{} {}/{} {outcome} {error:?}", task.id, attempt.try_number, attempt.fence));
        }
    }
    insta::assert_snapshot!(text);
}

#[tokio::test]
async fn a_task_waits_for_its_retry_delay_and_no_longer_than_that_for_a_poll() {
    let house = House::open().await;
    let play = house
        .play("orders: {tasks: {flaky: {operator: script, acts: [fail, fail, succeed], retries: 2, retry_delay: 0.3}}}")
        .await;
    assert_eq!(drive(&house, &play).await, RunState::Success);
    let history = house.store.transitions(play.run.key).await.unwrap();
    let at = |event: &str| history.iter().filter(|t| t.event.as_str() == event).map(|t| t.at).collect::<Vec<_>>();
    for (failed, claimed) in at("failed_for_now").iter().zip(&at("claimed")[1..]) {
        assert!(*claimed - *failed >= chrono::TimeDelta::milliseconds(300), "claimed before its time");
    }
}

/// An operator that does not listen is dropped ten seconds after it was told to stop.
#[tokio::test]
async fn an_operator_that_ignores_its_timeout_is_given_up() {
    let picture = whole_run(
        "orders:
  tasks:
    deaf: {operator: script, acts: [ignore], execution_timeout: 0.05}
    other: {operator: script}",
    )
    .await;
    insta::assert_snapshot!(picture);
}

#[tokio::test]
async fn what_an_operator_says_of_its_end_is_in_the_words_of_its_timeout() {
    let house = House::open().await;
    let text = "orders: {tasks: {slow: {operator: script, acts: [complain], execution_timeout: 0.05}}}";
    let play = house.play(text).await;
    assert_eq!(drive(&house, &play).await, RunState::Failed);
    let error = house.store.task_runs(play.run.key).await.unwrap()[0].error.clone().unwrap();
    assert_eq!(error, "it ran longer than its execution_timeout of 0.05 s: half of it was done");
}

#[tokio::test]
async fn words_that_postgres_cannot_hold_do_not_stop_the_engine() {
    let house = House::open().await;
    let play = house
        .play(
            "orders:
  tasks:
    output: {operator: script, acts: [garble_output]}
    error: {operator: script, acts: [garble_error]}",
        )
        .await;
    assert_eq!(drive(&house, &play).await, RunState::Failed);
    let tasks = house.store.task_runs(play.run.key).await.unwrap();
    let output = serde_json::to_string(&tasks[0].output).unwrap();
    insta::assert_snapshot!(format!("{}\n{output}", house.picture(&play).await));
}

#[tokio::test]
async fn outputs_reach_direct_and_indirect_successors() {
    let house = House::open().await;
    let play = house
        .play(
            "orders:
  tasks:
    extract: {operator: script, say: \"{{ ds }}\"}
    transform: {operator: script, dependencies: [extract], say: \"{{ outputs.extract.said }} twice\"}
    publish:
      operator: script
      dependencies: [transform]
      say: \"{{ ti.xcom_pull(task_ids='transform').said }}, {{ outputs.extract.attempt }}\"",
        )
        .await;
    assert_eq!(drive(&house, &play).await, RunState::Success);
    let said: Vec<String> = house
        .store
        .task_runs(play.run.key)
        .await
        .unwrap()
        .into_iter()
        .map(|task| format!("{} {}", task.task_id, task.output.unwrap()["said"]))
        .collect();
    insta::assert_snapshot!(said.join("\n"), @r#"
    extract "2026-02-01"
    transform "2026-02-01 twice"
    publish "2026-02-01 twice, 1"
    "#);
}

#[tokio::test]
async fn no_more_attempts_run_at_once_than_there_are_slots() {
    let house = House::open().await;
    let tasks: Vec<String> = (0..12).map(|n| format!("t{n}: {{operator: script, acts: [gate]}}")).collect();
    let play = house.play(&format!("orders: {{tasks: {{{}}}}}", tasks.join(", "))).await;
    let mut engine = house.engine().await;
    engine.slots = 3;
    let opener = async {
        for wave in 1..=4 {
            play.stage.wait_for("three more", |scene| scene.attempts.len() == wave * 3).await;
            let running: Vec<_> = play.stage.attempts().into_iter().filter(|attempt| !attempt.ended).collect();
            assert_eq!(running.len(), 3);
            running.iter().for_each(|attempt| play.stage.open(&attempt.task));
        }
    };
    let (state, ()) = tokio::join!(super::drive_with(&engine, &house, &play), opener);
    assert_eq!(state, RunState::Success);
}
