//! Wishes that are refused, and what people are told beside an answer: exit code, stdout, stderr.

use pinsched::domain::run_state::RunState;
use pinsched::domain::task_state::TaskState;
use serde_json::Value;
use tempfile::TempDir;

use crate::whole::desk::Desk;
use crate::whole::upkeep::on;

const PAST: &str = "orders:
  schedule: '@daily'
  start_date: 2026-01-01
  catchup: none
  is_paused_upon_creation: true
  tasks:
    one: {operator: empty, depends_on_past: true}
    two: {operator: empty, wait_for_downstream: true}
    free: {operator: empty}
ticks: {schedule: 1s, catchup: none, is_paused_upon_creation: true, tasks: {one: {operator: empty}}}
";

#[tokio::test]
async fn a_backfill_does_not_run_before_its_past_or_its_time() {
    let desk = Desk::with(PAST).await;
    for dag in ["orders", "ticks"] {
        desk.knows(dag).await;
    }
    let refused = async |arguments: &[&str], words: &str| {
        for dry in [&["--dry-run"][..], &[]] {
            let (code, stdout, stderr) = desk.ask(&[&["backfill"], arguments, dry].concat()).await;
            assert_eq!((code, stdout.as_str()), (Some(2), ""), "{arguments:?}: {stderr}");
            assert!(stderr.contains(words), "{arguments:?}: {stderr}");
        }
    };
    let january = ["orders", "--from", "2026-01-01", "--to", "2026-01-03"];
    refused(&[&january[..], &["--reverse"]].concat(), "with `--reverse`: `one` and `two` wait for the run before")
        .await;
    let to_come = "the tick of 2098-01-01T00:00:00+00:00 is still to come";
    refused(&["orders", "--from", "2098-01-01", "--to", "2098-01-03"], to_come).await;
    refused(&["ticks", "--from", "2098-01-01T00:00:00Z", "--to", "2098-01-01T00:00:03Z"], to_come).await;
    // From the past on, the first one to come is named, before which the stretch may end.
    let now = pinsched::clock::now();
    let from = (now - chrono::TimeDelta::seconds(5)).to_rfc3339();
    let to = (now + chrono::TimeDelta::hours(1)).to_rfc3339();
    refused(&["ticks", "--from", &from, "--to", &to], "is still to come").await;
    assert_eq!(desk.json(&["backfills"]).await.as_array().map(Vec::len), Some(0));
    let made = desk.json(&[&["backfill"][..], &january, &["--dry-run"]].concat()).await;
    assert_eq!(made["runs"].as_array().map(Vec::len), Some(2), "{made}");
    let one = ["backfill", "ticks", "--from", "2026-01-01T00:00:00Z", "--to", "2026-01-01T00:00:03Z", "--reverse"];
    assert_eq!(desk.json(&one).await["runs"].as_array().map(Vec::len), Some(3));
    desk.stop().await;
}

#[tokio::test]
async fn a_date_that_is_taken_is_told_with_the_run_that_has_it() {
    let desk = Desk::with(PAST).await;
    desk.knows("orders").await;
    let (code, _, stderr) = desk.ask(&["backfill", "orders", "--from", "2026-01-03", "--to", "2026-01-04"]).await;
    assert_eq!(code, Some(0), "{stderr}");
    let (code, _, stderr) = desk.ask(&["trigger", "orders", "--logical-date", "2026-01-03"]).await;
    assert_eq!(code, Some(2));
    assert!(stderr.contains("2026-01-03T00:00:00+00:00 already, `backfill__2026-01-03T00:00:00+00:00`"), "{stderr}");
    assert!(!stderr.contains("manual__"), "{stderr}");
    let (code, _, stderr) = desk.ask(&["trigger", "orders", "--run-id", "backfill__2026-01-03T00:00:00+00:00"]).await;
    assert_eq!(code, Some(2));
    assert!(stderr.contains("has a run `backfill__2026-01-03T00:00:00+00:00` already"), "{stderr}");
    desk.stop().await;
}

#[tokio::test]
async fn what_a_person_wrote_commands_no_terminal() {
    let mut desk = Desk::with("orders: {schedule: none, params: {who: me}, tasks: {one: {operator: empty}}}").await;
    desk.knows("orders").await;
    let (code, _, stderr) = desk.ask(&["trigger", "orders", "--param", "who=\u{1b}[31mred", "--wait"]).await;
    assert_eq!(code, Some(0), "{stderr}");
    desk.ask(&["note", "orders@latest", "\u{1b}]0;x\u{7}late\nand \u{9b}2Jagain"]).await;
    desk.stand.house.execute("UPDATE run SET cancel_reason = E'\\x1b[2Jgone', triggered_by = E'a\\x1bb'").await;
    let (_, stdout, _) = desk.ask(&["show", "orders@latest"]).await;
    assert!(stdout.contains("note:  ]0;x late\n      and  2Jagain\n"), "{stdout:?}");
    assert!(stdout.contains("cancelled:  [2Jgone\n") && stdout.contains(", by a b\n"), "{stdout:?}");
    let (_, runs, _) = desk.ask(&["runs"]).await;
    for said in [stdout, runs] {
        assert!(!said.contains(|letter: char| letter.is_control() && letter != '\n'), "{said:?}");
    }
    desk.stop().await;
}

#[tokio::test]
async fn a_pause_says_where_runs_stop_and_its_end_which_go_on() {
    let text = "orders:
  schedule: none
  max_active_runs: 1
  tasks:
    flag: {operator: file_sensor, filepath: /nowhere/flag, poke_interval: 1h}
";
    let desk = Desk::with(text).await;
    desk.knows("orders").await;
    for run in ["first", "second"] {
        let (code, _, stderr) = desk.ask(&["trigger", "orders", "--run-id", run]).await;
        assert_eq!(code, Some(0), "{stderr}");
    }
    let (_, stdout, _) = desk.ask(&["pause", "orders"]).await;
    assert!(stdout.contains("their runs stop there until `pinsched unpause`"), "{stdout}");
    let said = "one run that has begun goes on; one run that waits begins in its turn";
    for (arguments, goes_on) in
        [(&["unpause", "orders", "--dry-run"][..], "would go on"), (&["unpause", "orders"], "goes on")]
    {
        let (_, stdout, _) = desk.ask(arguments).await;
        assert!(stdout.contains(said) && stdout.contains(goes_on), "{stdout}");
    }
    let again = desk.json(&["unpause", "orders", "--dry-run"]).await;
    assert_eq!((&again["runs_begun"], &again["runs_waiting"]), (&Value::from(1), &Value::from(1)));
    desk.stop().await;
}

#[tokio::test]
async fn a_mark_lists_what_changes_alone() {
    let text = "orders:
  schedule: none
  tasks:
    left: {operator: bash, bash_command: exit 1}
    right: {operator: bash, bash_command: exit 1}
    both: {operator: empty, dependencies: [left, right]}
    after: {operator: empty, dependencies: [left]}
";
    let desk = Desk::with(text).await;
    let run = desk.stand.trigger("orders").await;
    assert_eq!(desk.stand.ended(&run).await, RunState::Failed);
    for dry in [&["--dry-run"][..], &[]] {
        let marked = desk.json(&[&["mark", "orders@latest", "left", "--as", "success"][..], dry].concat()).await;
        let changes: Vec<&str> =
            marked["changes"].as_array().unwrap().iter().map(|line| line["task_id"].as_str().unwrap()).collect();
        assert_eq!(changes, ["left", "after"], "{marked}");
    }
    desk.stand.until_tasks(&run, 2, TaskState::Success).await;
    assert_eq!(desk.stand.ended(&run).await, RunState::Failed);
    desk.stop().await;
}

#[tokio::test]
async fn every_mistake_of_the_params_is_told_at_once() {
    let text = "orders:
  schedule: none
  params: {n: {type: integer, maximum: 10, default: 1}, mode: {enum: [full, delta], default: full}, rows: 5}
  tasks: {one: {operator: empty}}
";
    let desk = Desk::with(text).await;
    desk.knows("orders").await;
    let wrong = ["--param", "n=11", "--param", "mode=x", "--param", "foo=1", "--param", "rows=many", "--param", "bare"];
    let (code, _, stderr) = desk.ask(&[&["trigger", "orders"][..], &wrong].concat()).await;
    assert_eq!(code, Some(2));
    for said in
        ["param `n` cannot be 11", "param `mode` cannot be \"x\"", "no param `foo`", "param `rows`", "`bare` is no"]
    {
        assert!(stderr.contains(said), "{said}: {stderr}");
    }
    desk.stop().await;
}

/// A `?` of a password that is not written as `%3F` ends it.
#[tokio::test]
async fn a_mistyped_url_shows_nothing_of_its_password() {
    let folder = TempDir::new().unwrap();
    for url in ["postgres://etl:12?s3cretPass=x@127.0.0.1:9/db", "postgres://etl:12/s3cretPass@127.0.0.1:9/db"] {
        for arguments in [&["runs"][..], &["runs", "--log", "sqlx=trace"]] {
            let (code, stdout, stderr) = on(&folder, url, arguments).await;
            assert_eq!((code, stdout.as_str()), (Some(2), ""), "{stderr}");
            assert!(!stderr.contains("s3cret") && stderr.contains("are written `%2F`"), "{stderr}");
        }
    }
}
