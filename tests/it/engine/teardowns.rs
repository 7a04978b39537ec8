//! Teardowns, and what decides a run's state beside them.

use super::whole_run;

#[tokio::test]
async fn a_teardowns_failure_fails_the_run_only_if_it_says_so() {
    let text = |teardown: &str, work: &str| {
        format!(
            "orders:
  tasks:
    create: {{operator: script}}
    work: {{operator: script, dependencies: [create], acts: [{work}]}}
    drop: {{operator: script, teardown: true, setups: [create], dependencies: [work], acts: [refuse]{teardown}}}"
        )
    };
    let silent = whole_run(&text("", "succeed")).await;
    let loud = whole_run(&text(", on_failure_fail_dagrun: true", "succeed")).await;
    let failed = whole_run(&text("", "refuse")).await;
    insta::assert_snapshot!(format!("{silent}\n{loud}\n{failed}"));
}

#[tokio::test]
async fn a_teardown_runs_only_if_a_setup_of_its_own_did_and_a_short_circuit_leaves_it_alone() {
    let failed = whole_run(
        "orders:
  tasks:
    create: {operator: script, acts: [refuse]}
    work: {operator: script, dependencies: [create]}
    drop: {operator: script, teardown: true, setups: [create], dependencies: [work]}",
    )
    .await;
    let short = whole_run(
        "orders:
  tasks:
    create: {operator: script}
    gate: {operator: script, dependencies: [create], acts: [skip_downstream]}
    work: {operator: script, dependencies: [gate]}
    drop: {operator: script, teardown: true, setups: [create], dependencies: [work]}",
    )
    .await;
    insta::assert_snapshot!(format!("{failed}\n{short}"));
}

/// As in Airflow 3: each instance of a mapped setup counts, and one that succeeded left something to take away.
#[tokio::test]
async fn a_teardown_runs_when_one_instance_of_its_mapped_setup_succeeded() {
    let text = |instances: &str| {
        format!(
            "orders:
  tasks:
    create: {{operator: script, expand_kwargs: [{instances}]}}
    work: {{operator: script, dependencies: [create]}}
    drop: {{operator: script, teardown: true, setups: [create], dependencies: [work]}}"
        )
    };
    let one_failed = whole_run(&text("{say: a}, {acts: [refuse]}")).await;
    let all_failed = whole_run(&text("{acts: [refuse]}, {acts: [refuse]}")).await;
    let all_skipped = whole_run(&text("{acts: [skip]}, {acts: [skip]}")).await;
    let none_ran = whole_run(&text("{acts: [skip]}, {acts: [refuse]}")).await;
    insta::assert_snapshot!(format!("{one_failed}\n{all_failed}\n{all_skipped}\n{none_ran}"));
}
