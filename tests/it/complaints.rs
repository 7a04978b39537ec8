//! What users of other orchestrators complain of, as far as it concerns scheduling, and the tests that hold pinsched to the
//! contrary. Those that nothing else tests are here.
//!
//! | # | complaint | tests |
//! |---|---|---|
//! | 1 | tasks are stuck in queued for ever | `simulation::a_thousand_dags_end_as_their_rules_say_whatever_crashes`, `service::limits::why_and_the_claim_are_of_one_mind` |
//! | 2 | one big DAG starves the rest | `service::limits::what_a_limit_keeps_back_stands_in_nobodys_way`, `service::limits::each_dag_has_its_share_of_the_slots` |
//! | 3 | zombies: false alarms, double runs | `store::steps::an_end_under_an_old_fence_is_stale_and_changes_nothing`, `no_two_ends_count_attempts_stop_in_time_and_every_task_is_over_in_the_end`, `service::chaos::whatever_is_killed_every_task_succeeds_once` |
//! | 4 | a run stays running after its worker died | `service::schedules::what_a_killed_service_left_another_goes_on_with`, `service::schedules::a_run_whose_process_is_gone_is_adopted`, `final_states_accept_no_event_but_a_persons_word` |
//! | 5 | changes of the clocks: skipped, doubled or crashing runs | `schedules::zones::every_change_of_the_clocks_does_what_the_policy_says` |
//! | 6 | catchup off still runs something on unpause | `service::schedules::without_catchup_nothing_runs_before_the_next_tick_and_with_it_everything_does`, `complaints::what_runs_is_shown_before_a_dag_is_unpaused` |
//! | 7 | missed schedules pile up or are lost | `service::schedules::each_tick_becomes_one_run_whichever_of_three_services_is_first`, `simulation::ticks::each_tick_is_one_run_whatever_becomes_of_the_schedulers`, `service::large::three_minutes_of_a_thousand_dags_that_fire_every_minute_are_each_tick_once` |
//! | 8 | a backfill cannot do only what is missing | `complaints::a_backfill_is_shown_first_and_makes_only_what_is_missing`, `service::schedules::dates_have_each_its_place_in_a_backfill` |
//! | 10 | the database grows without bound | `service::upkeep::what_must_stay_stays_and_all_else_that_is_old_goes_whatever_the_ages`, `service::upkeep::services_delete_what_is_past_keeping_by_themselves` |
//! | 11 | a changed DAG takes minutes to appear | `service::files::files_come_change_break_and_go`, `complaints::a_changed_dag_is_there_within_seconds` |
//! | 13 | seconds of latency per task | `complaints::the_next_task_begins_in_the_step_that_ends_the_one_before`, `store::claims::what_a_step_releases_it_also_claims` |
//! | 16 | what mark and clear do is a surprise | `service::control::what_is_cleared_runs_again_and_what_waits_for_it_after_it`, `store::control::a_ready_task_that_is_cleared_with_what_it_waits_for_waits_once_more`, `complaints::a_run_is_restarted_from_any_state_by_one_word` |
//! | 17 | deadlines are told of when it is over, or not at all | `service::callbacks::a_deadline_fires_while_the_task_runs_and_once_and_one_that_is_kept_does_not` |
//! | 18 | restarting stuck runs is tedious | `complaints::a_run_is_restarted_from_any_state_by_one_word` |
//! | 19 | retries are lost, and all come at the same time | `engine::endings::retries_go_on_until_one_succeeds_and_each_attempt_is_kept`, `complaints::tasks_that_failed_together_do_not_come_back_together` |
//! | 20 | scaling down kills tasks | `engine::stops::a_drained_run_ends_what_runs_begins_nothing_and_goes_on_later`, `engine::stops::a_stopped_run_hands_its_attempts_back_uncounted` |

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use chrono::TimeDelta;
use pinsched::clock;
use pinsched::domain::run_state::RunState;
use pinsched::domain::task_state::TaskState;
use pinsched::store::{DagRegistration, Run};
use secrecy::ExposeSecret;
use serde_json::Value;

use crate::dags::{House, new_run};
use crate::processes::{answer, pinsched};
use crate::service::Served;

/// The complaints that concern scheduling.
const ROWS: [&str; 16] = ["1", "2", "3", "4", "5", "6", "7", "8", "10", "11", "13", "16", "17", "18", "19", "20"];

#[test]
fn each_complaint_has_tests_that_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let this = std::fs::read_to_string(root.join("tests/it/complaints.rs")).unwrap();
    let rows: Vec<Vec<&str>> = this
        .lines()
        .filter_map(|line| line.strip_prefix("//! | "))
        .map(|row| row.trim_end_matches('|').split(" | ").map(str::trim).collect())
        .filter(|row: &Vec<&str>| row[0] != "#")
        .collect();
    assert_eq!(rows.iter().map(|row| row[0]).collect::<Vec<_>>(), ROWS);
    for row in rows {
        let tests: Vec<&str> = row[2].split('`').skip(1).step_by(2).collect();
        assert!(!tests.is_empty(), "{} has no test", row[1]);
        for test in tests {
            let mut parts: Vec<&str> = test.split("::").collect();
            let name = format!("fn {}(", parts.pop().unwrap());
            let path = format!("tests/it/{}", parts.join("/"));
            let places = [
                format!("{path}.rs"),
                format!("{path}/mod.rs"),
                "src/engine/lease_protocol.rs".to_owned(),
                "src/domain/task_state.rs".to_owned(),
            ];
            let texts = places.iter().filter_map(|place| std::fs::read_to_string(root.join(place)).ok());
            assert!(texts.into_iter().any(|text| text.contains(&name)), "there is no `{test}`");
        }
    }
}

/// A house with a DAG that a service registered, and its command line.
struct Registered {
    house: House,
    folder: tempfile::TempDir,
}

impl Registered {
    /// With a DAG of real operators that began to count its ticks five days ago.
    async fn with(keys: &str) -> Self {
        let (house, folder) = (House::open().await, tempfile::tempdir().unwrap());
        let text = format!("orders: {{{keys}, tasks: {{one: {{operator: empty}}}}}}");
        let file = folder.path().join("orders.yaml");
        std::fs::write(&file, &text).unwrap();
        let source = pinsched::domain::source::SourceFile::new("orders.yaml", &text);
        let checked = pinsched::domain::check::check(&source, &pinsched::operators::catalog());
        assert!(!checked.has_errors(), "{:?}", checked.diagnostics);
        let begins = Some(clock::now() - TimeDelta::days(5));
        let registration = DagRegistration {
            dag: &checked.dags[0],
            file: file.to_str().unwrap(),
            source: &text,
            begins,
            begins_anew: false,
        };
        house.store.register_dags(&[registration], clock::now()).await.unwrap();
        Self { house, folder }
    }

    fn ask(&self, arguments: &[&str]) -> Value {
        let mut command = pinsched(self.house.url.expose_secret(), self.folder.path());
        serde_json::from_str(&answer(command.args(arguments).args(["--output", "json"]))).unwrap()
    }
}

#[tokio::test]
async fn what_runs_is_shown_before_a_dag_is_unpaused() {
    for (catchup, expected) in [("none", 0), ("latest", 1), ("all", 5)] {
        let registered = Registered::with(&format!(
            "schedule: '@daily', start_date: 2020-01-01, catchup: {catchup}, is_paused_upon_creation: true"
        ))
        .await;
        let shown = registered.ask(&["unpause", "orders", "--dry-run"]);
        assert_eq!(shown["runs_now"].as_array().map(Vec::len), Some(expected), "catchup {catchup}: {shown}");
        assert_eq!((&shown["is_paused"], &shown["changed"]), (&Value::Bool(true), &Value::Bool(false)));
        assert!(shown["next_tick"].as_str().is_some(), "{shown}");
        let dag = registered.house.store.dag_state(&"orders".parse().unwrap()).await.unwrap().unwrap();
        assert!(dag.is_paused, "it was only asked what would run");
        let done = registered.ask(&["unpause", "orders"]);
        assert_eq!(done["runs_now"], shown["runs_now"], "what was shown is what is done");
    }
}

#[tokio::test]
async fn a_backfill_is_shown_first_and_makes_only_what_is_missing() {
    let registered = Registered::with("schedule: '@daily', start_date: 2026-01-01").await;
    let of = |from: &str, to: &str, dry: &[&str]| {
        let mut arguments = vec!["backfill", "orders", "--from", from, "--to", to];
        arguments.extend(dry);
        let made = registered.ask(&arguments);
        let runs = made["runs"].as_array().unwrap_or_else(|| panic!("{made}")).len();
        (runs, made["left_out"].as_u64())
    };
    assert_eq!(of("2026-01-02", "2026-01-04", &["--dry-run"]), (2, Some(0)));
    assert_eq!(registered.house.store.list_runs(None, 9).await.unwrap().len(), 0, "it was only shown");
    assert_eq!(of("2026-01-02", "2026-01-04", &[]), (2, Some(0)));
    assert_eq!(of("2026-01-01", "2026-01-06", &["--dry-run"]), (3, Some(2)));
    assert_eq!(of("2026-01-01", "2026-01-06", &[]), (3, Some(2)));
    assert_eq!(of("2026-01-01", "2026-01-06", &[]), (0, Some(5)), "nothing is missing any more");
    let runs = registered.house.store.list_runs(None, 99).await.unwrap();
    let dates: BTreeSet<_> = runs.iter().map(|run| run.logical_date).collect();
    assert_eq!((runs.len(), dates.len()), (5, 5));
}

#[tokio::test]
async fn a_changed_dag_is_there_within_seconds() {
    let served = Served::by_one(&[("orders.yaml", "orders: {tasks: {one: {operator: script}}}")]).await;
    let first = served.dag("orders", |state| state.version.is_some()).await;
    let began = clock::monotonic();
    served.write("orders.yaml", "orders: {tasks: {one: {operator: script}, two: {operator: script}}}");
    served.dag("orders", |state| state.version != first.version).await;
    assert!(began.elapsed() < Duration::from_secs(5), "it took {:?}, on a machine that is busy", began.elapsed());
    served.stop().await;
}

#[tokio::test]
async fn the_next_task_begins_in_the_step_that_ends_the_one_before() {
    let mut text = "orders:\n  tasks:\n    t0: {operator: script}\n".to_owned();
    for n in 1..40 {
        writeln!(text, "    t{n}: {{operator: script, dependencies: [t{}]}}", n - 1).unwrap();
    }
    let served = Served::by_one(&[("orders.yaml", &text)]).await;
    served.dag("orders", |state| state.version.is_some()).await;
    let run = served.trigger(&text, "1").await;
    assert_eq!(served.ended(&run).await, RunState::Success);
    let history = served.house.store.transitions(run.key).await.unwrap();
    let at = |task: u32, event: &str| {
        history.iter().find(|step| step.task.0 == task && step.event.as_str() == event).map(|step| step.at)
    };
    let at_once = (1..40).filter(|task| at(*task, "claimed") == at(task - 1, "succeeded")).count();
    assert!(at_once >= 38, "only {at_once} of 39 tasks began as the one before ended");
    served.stop().await;
}

/// Whatever state a run is in.
#[tokio::test]
async fn a_run_is_restarted_from_any_state_by_one_word() {
    let mut served = Served::nothing().await;
    let text = "orders: {tasks: {one: {operator: script, acts: [refuse, succeed]}, two: {operator: script, dependencies: [one], acts: [hang, succeed]}}}";
    served.write("orders.yaml", text);
    served.start().await;
    served.dag("orders", |state| state.version.is_some()).await;
    let home = served.path("home");
    let database = served.house.url.expose_secret().to_owned();
    let restart = |run: &Run, arguments: &[&str]| {
        let uuid = run.uuid.to_string();
        let mut command = pinsched(&database, &home);
        let command = command.args(["restart", &uuid, "--output", "json"]).args(arguments);
        let said: Value = serde_json::from_str(&answer(command)).unwrap();
        said["changes"].as_array().unwrap().len()
    };
    // Its DAG file has scripted operators, which the command line does not know; those of the run are of `empty`.
    let real = "orders: {tasks: {one: {operator: empty}, two: {operator: empty, dependencies: [one]}}}";
    let source = pinsched::domain::source::SourceFile::new("orders.yaml", real);
    let checked = pinsched::domain::check::check(&source, &pinsched::operators::catalog());
    let run = served.house.store.create_run(&new_run(&checked.dags[0], real), clock::now()).await.unwrap();
    // No service here has its operator: the run fails.
    assert_eq!(served.ended(&run).await, RunState::Failed);
    served.shutdown.stop();
    while served.services.join_next().await.is_some() {}
    let states = async || {
        let tasks = served.house.store.task_runs(run.key).await.unwrap();
        tasks.into_iter().map(|task| task.state).collect::<Vec<_>>()
    };
    let ready = [TaskState::Queued, TaskState::None];
    assert_eq!(restart(&run, &["--dry-run"]), 2);
    assert!(states().await.iter().all(|state| state.is_failure()), "it was only shown");
    assert_eq!(restart(&run, &[]), 2);
    assert_eq!(states().await, ready);
    let now = served.house.store.run(run.key).await.unwrap().unwrap();
    assert_eq!((now.state, now.finished_at), (RunState::Running, None));
    // One that has not begun stays as it is, one that was cancelled goes on, and of one that succeeded `--all` runs again.
    assert_eq!(restart(&run, &[]), 0);
    served.house.store.give_up_run(run.key, "cancelled by a test", clock::now()).await.unwrap();
    assert_eq!(restart(&run, &[]), 2);
    assert_eq!(states().await, ready);
    let request = pinsched::store::Request {
        action: pinsched::domain::control::Action::MarkSuccess,
        tasks: &[],
        reach: pinsched::domain::control::Reach::default(),
        words: "by a test",
    };
    let (store, dag) = (&served.house.store, &checked.dags[0]);
    store.change_tasks(run.key, dag, request, pinsched::store::Mode::Do, clock::now()).await.unwrap();
    assert_eq!(states().await, [TaskState::Success; 2]);
    assert_eq!(restart(&run, &[]), 0, "nothing is left to be done");
    assert_eq!(restart(&run, &["--all"]), 2);
    assert_eq!(states().await, ready);
}

#[tokio::test]
async fn tasks_that_failed_together_do_not_come_back_together() {
    let mut text =
        "orders:\n  default_args: {retries: 3, retry_delay: 10m, retry_exponential_backoff: true}\n  tasks:\n"
            .to_owned();
    for n in 0..20 {
        writeln!(text, "    t{n}: {{operator: script, acts: [fail]}}").unwrap();
    }
    let served = Served::by_one(&[("orders.yaml", &text)]).await;
    served.dag("orders", |state| state.version.is_some()).await;
    let run = served.trigger(&text, "1").await;
    let all_wait = async |house: &House| {
        let tasks = house.store.task_runs(run.key).await.unwrap();
        tasks.iter().all(|task| task.state == TaskState::UpForRetry).then_some(tasks)
    };
    let tasks = served.until("all of them to have failed", all_wait).await;
    let waits: BTreeSet<i64> =
        tasks.iter().map(|task| (task.ready_at.unwrap() - task.started_at.unwrap()).num_seconds()).collect();
    assert!(waits.len() > 12, "they come back after {waits:?} s");
    assert!(waits.iter().all(|wait| (600..1_260).contains(wait)), "{waits:?}");
    served.stop().await;
}
