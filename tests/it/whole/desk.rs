//! What people are told, and what they can name, when they ask about runs that a service has: exit code, stdout, stderr.

use pinsched::domain::run_state::RunState;
use pinsched::domain::task_state::TaskState;
use secrecy::ExposeSecret;
use serde_json::Value;
use tempfile::TempDir;

use crate::sensors::Stand;
use crate::whole::upkeep::{json_on, on};

/// A service on a file of real operators, and commands about what it does.
pub(super) struct Desk {
    pub(super) stand: Stand,
    folder: TempDir,
    url: String,
}

/// Exit code, stdout, stderr.
pub(super) type Answer = (Option<i32>, String, String);

impl Desk {
    pub(super) async fn with(text: &str) -> Self {
        let (stand, _service) = Stand::with(4, text).await;
        let url = stand.house.url.expose_secret().to_owned();
        Self { stand, folder: TempDir::new().unwrap(), url }
    }

    pub(super) async fn ask(&self, arguments: &[&str]) -> Answer {
        on(&self.folder, &self.url, arguments).await
    }

    pub(super) async fn json(&self, arguments: &[&str]) -> Value {
        json_on(&self.folder, &self.url, arguments).await
    }

    /// The DAG is registered.
    pub(super) async fn knows(&self, dag: &str) {
        let dag = dag.parse().unwrap();
        let look = async |house: &crate::dags::House| {
            house.store.dag_state(&dag).await.unwrap().is_some_and(|state| state.version.is_some())
        };
        self.stand.until("the DAG", look).await;
    }

    pub(super) async fn stop(self) {
        self.stand.stop().await;
    }
}

const TWO: &str = "orders: {schedule: none, tasks: {one: {operator: empty}}}
returns: {schedule: none, tasks: {one: {operator: empty}}}
";

#[tokio::test]
async fn a_run_is_named_by_its_dag_or_by_an_end_of_its_uuid_and_what_is_ambiguous_is_listed() {
    let desk = Desk::with(TWO).await;
    for dag in ["orders", "returns"] {
        desk.knows(dag).await;
        let (code, _, stderr) = desk.ask(&["trigger", dag, "--run-id", "monday"]).await;
        assert_eq!(code, Some(0), "{stderr}");
    }
    let (code, _, stderr) = desk.ask(&["show", "monday"]).await;
    assert_eq!(code, Some(2));
    assert!(stderr.contains("`monday` names 2 runs"), "{stderr}");
    assert!(stderr.contains("\n  orders@monday  ") && stderr.contains("\n  returns@monday  "), "{stderr}");
    let listed = desk.json(&["runs", "--dag", "orders"]).await;
    let uuid = listed["runs"][0]["run_uuid"].as_str().unwrap().to_owned();
    let (_, table, _) = desk.ask(&["runs", "--dag", "orders"]).await;
    let end = &uuid[uuid.len() - 8..];
    assert!(table.contains(end), "{table}");
    for name in ["orders@monday", "orders@latest", end, &uuid, &format!("orders@{end}")] {
        assert_eq!(desk.json(&["show", name]).await["run_uuid"], uuid.as_str(), "{name}");
    }
    let (_, _, stderr) = desk.ask(&["show", "order@latest"]).await;
    assert!(stderr.contains("did you mean `orders@latest`?"), "{stderr}");
    let (code, _, stderr) = desk.ask(&["show", "orders@tuesday"]).await;
    assert_eq!(code, Some(2));
    assert!(stderr.contains("there is no run `orders@tuesday`"), "{stderr}");
    desk.stop().await;
}

#[tokio::test]
async fn a_trigger_tells_the_run_and_where_to_look_and_its_end_what_failed() {
    let text = "orders:
  schedule: none
  tasks:
    good: {operator: empty}
    bad: {operator: bash, bash_command: 'echo the shelf is empty >&2; exit 3'}
    after: {operator: empty, dependencies: [bad]}
";
    let desk = Desk::with(text).await;
    desk.knows("orders").await;
    let (code, stdout, stderr) = desk.ask(&["trigger", "orders", "--run-id", "one"]).await;
    assert_eq!((code, stdout.lines().count()), (Some(0), 1), "{stdout}");
    assert!(stdout.starts_with("orders  one  "), "{stdout}");
    assert!(stderr.contains("it has begun; `pinsched show "), "{stderr}");
    let (code, stdout, _) = desk.ask(&["trigger", "orders", "--run-id", "two", "--wait"]).await;
    assert_eq!(code, Some(1));
    assert!(stdout.contains("the shelf is empty") && stdout.contains("upstream_failed"), "{stdout}");
    assert!(!stdout.contains("good"), "what succeeded is not listed: {stdout}");
    assert!(stdout.contains("1 of 3 tasks failed, 1 upstream_failed; `pinsched show "), "{stdout}");
    let report = desk.json(&["show", "two"]).await;
    assert_eq!((report["tasks"].as_array().unwrap().len(), &report["triggered_by"]), (3, &"cli".into()));
    desk.stop().await;
}

/// An hour after its end.
#[tokio::test]
async fn what_is_said_of_a_task_later_makes_it_and_its_run_no_longer() {
    let text = "orders: {schedule: none, tasks: {one: {operator: bash, bash_command: exit 1}, two: {operator: bash, \
                bash_command: exit 1, retries: 1, retry_delay: 2h}}}";
    let mut desk = Desk::with(text).await;
    desk.knows("orders").await;
    desk.ask(&["trigger", "orders"]).await;
    let run = desk.stand.runs("orders").await.remove(0);
    desk.stand.until_tasks(&run, 1, TaskState::UpForRetry).await;
    desk.stand.until_tasks(&run, 1, TaskState::Failed).await;
    let earlier = |table: &str| {
        format!(
            "UPDATE {table} SET started_at = started_at - interval '1 hour', finished_at = finished_at - interval '1 hour'"
        )
    };
    for table in ["attempt", "task_run"] {
        desk.stand.house.execute(&earlier(table)).await;
    }
    let (code, _, stderr) = desk.ask(&["cancel", "orders@latest"]).await;
    assert_eq!(code, Some(0), "{stderr}");
    let (code, _, stderr) = desk.ask(&["mark", "orders@latest", "one", "--as", "success"]).await;
    assert_eq!(code, Some(0), "{stderr}");
    let report = desk.json(&["show", "orders@latest"]).await;
    for task in report["tasks"].as_array().unwrap() {
        assert!(task["duration_ms"].as_i64().unwrap() < 60_000, "{task}");
    }
    desk.stand.house.execute(&earlier("run")).await;
    let before = desk.json(&["show", "orders@latest"]).await["duration_ms"].clone();
    desk.ask(&["mark", "orders@latest", "two", "--as", "success"]).await;
    let after = desk.json(&["show", "orders@latest"]).await;
    assert_eq!((&after["state"], &after["duration_ms"]), (&"success".into(), &before));
    desk.stop().await;
}

#[tokio::test]
async fn a_backfill_that_is_over_stays_as_it_is() {
    let text = "orders: {schedule: '@daily', start_date: 2026-01-01, catchup: none, tasks: {one: {operator: empty}}}";
    let desk = Desk::with(text).await;
    desk.knows("orders").await;
    let (code, stdout, _) = desk.ask(&["backfill", "orders", "--from", "2026-01-02", "--to", "2026-01-03"]).await;
    assert_eq!(code, Some(0));
    assert!(stdout.contains("backfill 1: 1 run, "), "{stdout}");
    let done = async |_: &crate::dags::House| desk.json(&["backfills"]).await[0]["state"] == "done";
    desk.stand.until("its end", done).await;
    let before = desk.json(&["backfills"]).await;
    for what in ["pause", "resume", "cancel"] {
        let (code, _, stderr) = desk.ask(&["backfills", what, "1"]).await;
        assert_eq!(code, Some(1), "{what}");
        assert!(stderr.contains("backfill 1 is over (done): nothing changes"), "{what}: {stderr}");
    }
    assert_eq!(desk.json(&["backfills"]).await, before);
    let (code, _, stderr) = desk.ask(&["backfills", "cancel", "7"]).await;
    assert_eq!(code, Some(2));
    assert!(stderr.contains("there is no backfill 7"), "{stderr}");
    desk.stop().await;
}

#[tokio::test]
async fn a_task_that_waits_outside_says_for_what_and_since_when() {
    let text = "orders: {schedule: none, tasks: {flag: {operator: file_sensor, filepath: /nowhere/flag, poke_interval: 20ms}}}";
    let desk = Desk::with(text).await;
    desk.knows("orders").await;
    desk.ask(&["trigger", "orders"]).await;
    let run = desk.stand.runs("orders").await.remove(0);
    desk.stand.until_tasks(&run, 1, TaskState::Deferred).await;
    let said = async |_: &crate::dags::House| {
        let (_, stdout, _) = desk.ask(&["why", "orders@latest", "flag"]).await;
        assert!(stdout.contains("it waits for something outside since 20"), "{stdout}");
        stdout.contains("its log says: `/nowhere/flag` is not there")
    };
    desk.stand.until("its log", said).await;
    desk.stop().await;
}

#[tokio::test]
async fn unpause_tells_of_runs_that_wait_and_a_priority_may_be_negative() {
    let text = "orders: {schedule: none, is_paused_upon_creation: true, tasks: {one: {operator: empty, pool: shut}}}";
    let desk = Desk::with(text).await;
    desk.knows("orders").await;
    desk.ask(&["pools", "set", "shut", "0"]).await;
    let (_, stdout, stderr) = desk.ask(&["trigger", "orders", "--note", "-5 of them"]).await;
    assert!(stdout.ends_with("queued\n") && stderr.contains("the DAG is paused"), "{stdout}{stderr}");
    let (_, stdout, _) = desk.ask(&["unpause", "orders", "--dry-run"]).await;
    assert!(stdout.contains("one run that waits begins in its turn"), "{stdout}");
    assert_eq!(desk.json(&["unpause", "orders"]).await["runs_waiting"], 1);
    let run = desk.stand.runs("orders").await.remove(0);
    desk.stand.until_tasks(&run, 1, TaskState::Queued).await;
    let (code, stdout, stderr) = desk.ask(&["priority", "orders@latest", "one", "-5"]).await;
    assert_eq!((code, stdout.as_str()), (Some(0), ""), "{stderr}");
    assert!(stderr.contains("has priority -5"), "{stderr}");
    let (code, _, stderr) = desk.ask(&["note", "orders@latest", "-3 today"]).await;
    assert_eq!(code, Some(0), "{stderr}");
    assert_eq!(desk.json(&["show", "orders@latest"]).await["note"], "-3 today");
    let (code, _, stderr) = desk.ask(&["trigger", "orders", "--param", "-1"]).await;
    assert_eq!(code, Some(2));
    assert!(!stderr.contains("unexpected argument"), "{stderr}");
    desk.stop().await;
}

#[tokio::test]
async fn a_broken_file_is_said_to_go_on_only_if_it_ever_was_good_and_a_folder_nobody_serves_is_told() {
    let desk = Desk::with("orders: {schedule: none, tasks: {one: {operator: empty}}}").await;
    desk.knows("orders").await;
    std::fs::write(desk.stand.path("never.yaml"), "never: {tasks: {one: {operator: emty}}}").unwrap();
    let told = async |_: &crate::dags::House| desk.ask(&["dags"]).await.1.contains("never.yaml is broken");
    desk.stand.until("the broken file", told).await;
    let (code, stdout, _) = desk.ask(&["dags"]).await;
    assert_eq!(code, Some(1));
    assert!(stdout.contains("never.yaml is broken; nothing of it runs:"), "{stdout}");
    assert!(!stdout.contains("no service is alive"), "{stdout}");
    std::fs::write(desk.stand.path("waits.yaml"), "orders: {tasks: {one: {operator: emty}}}").unwrap();
    let told = async |_: &crate::dags::House| desk.ask(&["dags"]).await.1.contains("waits.yaml is broken");
    desk.stand.until("the file that broke", told).await;
    let (_, stdout, _) = desk.ask(&["dags"]).await;
    assert!(stdout.contains("waits.yaml is broken; the last good version of its DAGs goes on:"), "{stdout}");
    let Desk { stand, folder, url } = desk;
    stand.stop().await;
    let (_, stdout, _) = on(&folder, &url, &["dags"]).await;
    assert!(stdout.contains("no service is alive that runs tasks"), "{stdout}");
}

#[tokio::test]
async fn a_cleared_task_that_its_branch_skipped_is_skipped_again_and_runs_with_its_branch() {
    let text = "orders:
  schedule: none
  tasks:
    choose: {operator: branch, follow: left}
    left: {operator: empty, dependencies: [choose]}
    right: {operator: empty, dependencies: [choose]}
    gate: {operator: short_circuit, condition: false, dependencies: [left]}
    last: {operator: empty, dependencies: [gate]}
";
    let desk = Desk::with(text).await;
    let run = desk.stand.trigger("orders").await;
    assert_eq!(desk.stand.ended(&run).await, RunState::Success);
    let shown = async |arguments: &[&str]| {
        let changed = desk.json(&[&["clear", "orders@latest"], arguments, &["--dry-run"]].concat()).await;
        let lines = changed["changes"].as_array().unwrap().clone();
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        lines.iter().map(|line| format!("{} {}", text(&line["task_id"]), text(&line["to"]))).collect::<Vec<_>>()
    };
    assert_eq!(shown(&["right", "last"]).await, ["right skipped", "last skipped"]);
    assert_eq!(shown(&["choose", "right"]).await, ["choose queued", "right none"]);
    assert_eq!(shown(&["left"]).await, ["left queued"]);
    let (code, _, stderr) = desk.ask(&["clear", "orders@latest", "right"]).await;
    assert_eq!(code, Some(0), "{stderr}");
    assert_eq!(desk.stand.ended(&run).await, RunState::Success);
    assert!(desk.stand.picture(&run).await.contains("right   skipped"), "{}", desk.stand.picture(&run).await);
    desk.stop().await;
}

#[tokio::test]
async fn a_cleared_task_brings_its_setups_and_teardowns_along() {
    let text = "orders:
  schedule: none
  tasks:
    open: {operator: empty}
    work: {operator: empty, dependencies: [open]}
    more: {operator: empty, dependencies: [open]}
    close: {operator: empty, teardown: true, setups: [open], dependencies: [work, more]}
    report: {operator: empty, dependencies: [close]}
";
    let desk = Desk::with(text).await;
    let run = desk.stand.trigger("orders").await;
    assert_eq!(desk.stand.ended(&run).await, RunState::Success);
    let (_, stdout, _) = desk.ask(&["clear", "orders@latest", "work", "--dry-run"]).await;
    let cleared = |name: &str| stdout.lines().any(|line| line.contains(&format!("  {name} ")));
    assert_eq!(["open", "work", "close", "more", "report"].map(cleared), [true, true, true, false, false], "{stdout}");
    let (_, stdout, _) = desk.ask(&["clear", "orders@latest", "report", "--dry-run"]).await;
    assert!(!stdout.contains("open"), "what comes after the teardown needs none of it: {stdout}");
    desk.ask(&["clear", "orders@latest", "work"]).await;
    assert_eq!(desk.stand.ended(&run).await, RunState::Success);
    let attempts = desk.json(&["show", "orders@latest"]).await;
    let attempts: Vec<i64> =
        attempts["tasks"].as_array().unwrap().iter().map(|task| task["attempts"].as_i64().unwrap()).collect();
    assert_eq!(attempts, [2, 2, 1, 2, 1]);
    desk.stop().await;
}

/// A variable may be there by the next try; Airflow tries again as well.
#[tokio::test]
async fn a_template_whose_variable_is_not_there_is_tried_again() {
    let text = "orders: {schedule: none, tasks: {one: {operator: bash, bash_command: 'echo {{ var.value.nope }}', retries: 1, \
                retry_delay: 0s}}}";
    let desk = Desk::with(text).await;
    let run = desk.stand.trigger("orders").await;
    assert_eq!(desk.stand.ended(&run).await, RunState::Failed);
    let report = desk.json(&["show", "orders@latest"]).await;
    let task = &report["tasks"][0];
    assert_eq!(task["attempts"], 2, "{task}");
    assert!(task["error"].as_str().unwrap().contains("no variable is named `nope`"), "{task}");
    desk.stop().await;
}

#[tokio::test]
async fn the_output_of_a_task_in_a_group_is_named_with_dots() {
    let text = "orders:
  schedule: none
  task_groups: {etl: {tooltip: the work}}
  tasks:
    count: {operator: bash, bash_command: echo 7, task_group_name: etl}
    say: {operator: bash, bash_command: 'echo {{ outputs.etl.count.return_value }} and {{ outputs[\"etl.count\"].return_value }}', dependencies: [etl]}
";
    let desk = Desk::with(text).await;
    let run = desk.stand.trigger("orders").await;
    assert_eq!(desk.stand.ended(&run).await, RunState::Success);
    let report = desk.json(&["show", "orders@latest"]).await;
    assert_eq!(report["tasks"][1]["output"]["return_value"], "7 and 7");
    desk.stop().await;
}

#[tokio::test]
async fn a_log_that_has_fewer_attempts_says_so_in_good_english() {
    let desk = Desk::with("orders: {schedule: none, tasks: {one: {operator: empty}}}").await;
    let run = desk.stand.trigger("orders").await;
    assert_eq!(desk.stand.ended(&run).await, RunState::Success);
    let (code, _, stderr) = desk.ask(&["logs", "orders@latest", "one", "--attempt", "3"]).await;
    assert_eq!(code, Some(2));
    assert!(stderr.contains("task `one` has 1 attempt; there is no attempt 3"), "{stderr}");
    desk.stop().await;
}

/// As in Airflow: params by their names, and whatever else.
#[tokio::test]
async fn templates_read_the_conf_that_a_trigger_gave() {
    let text = "orders:
  schedule: none
  params: {rows: 5}
  tasks:
    say: {operator: bash, bash_command: 'echo {{ params.rows }} {{ dag_run.conf.day }} {{ dag_run.conf.get(\"to\", \"me\") }}'}
";
    let desk = Desk::with(text).await;
    desk.knows("orders").await;
    let report = desk.json(&["trigger", "orders", "--conf", r#"{"rows": 7, "day": "monday"}"#, "--wait"]).await;
    assert_eq!(report["tasks"][0]["output"]["return_value"], "7 monday me", "{report}");
    assert_eq!(report["conf"], serde_json::json!({"rows": 7, "day": "monday"}));
    let (code, _, stderr) = desk.ask(&["trigger", "orders", "--param", "day=monday"]).await;
    assert_eq!(code, Some(2));
    assert!(stderr.contains("has no param `day`"), "{stderr}");
    desk.stop().await;
}

/// Of three runs, one has a third instance.
#[tokio::test]
async fn what_is_named_in_several_runs_is_done_to_those_that_have_it() {
    let text = "orders:
  schedule: none
  params: {many: 2}
  tasks:
    each:
      operator: bash
      bash_command: \"true\"
      expand: {skip_on_exit_code: \"{{ range(100, 100 + params.many) | list }}\"}
";
    let desk = Desk::with(text).await;
    desk.knows("orders").await;
    for (run, many) in [("first", "2"), ("second", "3"), ("third", "2")] {
        let conf = format!("{{\"many\": {many}}}");
        let (code, _, stderr) = desk.ask(&["trigger", "orders", "--run-id", run, "--conf", &conf, "--wait"]).await;
        assert_eq!(code, Some(0), "{stderr}");
    }
    let all = ["--past", "--future"];
    let (code, _, stderr) =
        desk.ask(&[&["mark", "orders@first", "each[2]", "--as", "failed"][..], &all].concat()).await;
    assert_eq!(code, Some(2), "the run that is named has to have it");
    assert!(stderr.contains("there is no `each[2]` in run `first`: task `each` has 2 instances"), "{stderr}");
    let report = desk.json(&[&["clear", "orders@second", "each[2]", "--dry-run"][..], &all].concat()).await;
    let changed: Vec<(&str, i64)> = report["changes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|line| (line["run_id"].as_str().unwrap(), line["map_index"].as_i64().unwrap()))
        .collect();
    assert_eq!(changed, [("second", -1), ("second", 2)]);
    let report = desk.json(&[&["clear", "orders@second", "each[1]", "--dry-run"][..], &all].concat()).await;
    let runs: std::collections::BTreeSet<&str> =
        report["changes"].as_array().unwrap().iter().map(|line| line["run_id"].as_str().unwrap()).collect();
    assert_eq!(runs.into_iter().collect::<Vec<_>>(), ["first", "second", "third"]);
    desk.stop().await;
}
