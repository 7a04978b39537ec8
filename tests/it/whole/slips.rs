//! Slips of the keyboard and of the mind, as people make them: exit code, stdout, stderr.

use std::process::Stdio;

use secrecy::ExposeSecret;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::process::Command;

use crate::services;
use crate::stack::scratch::PROGRAM;
use crate::whole::desk::Desk;
use crate::whole::product::PATIENCE;
use crate::whole::upkeep::on;

const MAPPED: &str = "orders:
  schedule: none
  tasks:
    each: {operator: bash, expand: {bash_command: [\"true\", exit 3, \"true\"]}}
    alone: {operator: empty}
    none: {operator: bash, bash_command: \"true\", expand: {skip_on_exit_code: \"{{ [] }}\"}}
    late: {operator: bash, dependencies: [each], expand: {bash_command: [\"true\"]}}
";

/// Every command that takes the name of a task says the same about one that is none.
#[tokio::test]
async fn what_names_no_instance_is_told_with_what_there_is() {
    let desk = Desk::with(MAPPED).await;
    desk.knows("orders").await;
    let (code, _, _) = desk.ask(&["trigger", "orders", "--run-id", "monday", "--wait"]).await;
    assert_eq!(code, Some(1));
    let form = "; an instance of a mapped task is named by its number, from 0, as `each[0]`";
    let three = "task `each` has 3 instances, `each[0]` to `each[2]`";
    let tasks = "it has `each`, `alone`, `none` and `late`";
    let slips = [
        ("each[x]", format!("`each[x]` has `x` in its brackets, which is no number from 0 on{form}; {three}")),
        ("each[-1]", format!("`each[-1]` has `-1` in its brackets, which is no number from 0 on{form}; {three}")),
        ("each[1", format!("`each[1` lacks the `]` at its end{form}; {three}")),
        ("each]", format!("`each]` has a `]` without a `[` before it{form}; {three}")),
        ("each1]", format!("DAG `orders` has no task `each1`; did you mean `each`? {tasks}")),
        ("each[99]", format!("there is no `each[99]` in run `monday`: {three}")),
        (
            "alone[0]",
            "there is no `alone[0]` in run `monday`: task `alone` is not mapped, and is named `alone`".to_owned(),
        ),
        ("alone[x]", "as `alone[0]`; task `alone` is not mapped, and is named `alone`".to_owned()),
        ("none[0]", "there is no `none[0]` in run `monday`: task `none` has no instances: it is skipped".to_owned()),
        ("late[0]", "task `late` has no instances: it is upstream_failed".to_owned()),
        ("eech[0]", format!("DAG `orders` has no task `eech`; did you mean `each`? {tasks}")),
        ("a b", format!("a task id `a b` has ` ` in it; letters, digits, `_`, `-` and `.` are allowed; {tasks}")),
    ];
    let commands: [&[&str]; 7] = [
        &["logs", "monday"],
        &["show", "monday", "--task"],
        &["why", "monday"],
        &["cancel", "monday"],
        &["clear", "monday", "--dry-run"],
        &["mark", "monday", "--as", "failed", "--dry-run"],
        &["priority", "monday", "--", "TASK", "5"],
    ];
    for (name, words) in &slips {
        // Each with a command of its own, and the first of them with all.
        let all = usize::from(*name == "each[x]") * commands.len();
        let place = slips.iter().position(|(slip, _)| slip == name).unwrap() % commands.len();
        for command in commands.iter().skip(place).take(all.max(1)) {
            let mut arguments: Vec<&str> = command.to_vec();
            match arguments.iter().position(|argument| *argument == "TASK") {
                Some(place) => arguments[place] = name,
                None => arguments.push(name),
            }
            let (code, stdout, stderr) = desk.ask(&arguments).await;
            assert_eq!((code, stdout.as_str()), (Some(2), ""), "{arguments:?}: {stderr}");
            assert!(stderr.contains(words.as_str()), "{arguments:?}: {words}: {stderr}");
        }
    }
    assert_eq!(desk.ask(&["logs", "monday", "each[0]"]).await.0, Some(0));
    desk.stop().await;
}

const MANY: &str = "orders:
  schedule: none
  tasks:
    few: {operator: bash, expand: {bash_command: [\"true\", exit 3]}}
    many: {operator: bash, bash_command: exit 3, expand: {skip_on_exit_code: \"{{ range(100, 125) | list }}\"}}
    after: {operator: empty, dependencies: [few, many]}
";

#[tokio::test]
async fn the_instances_that_a_clear_takes_away_are_named_and_many_are_counted() {
    let desk = Desk::with(MANY).await;
    desk.knows("orders").await;
    let (_, stdout, _) = desk.ask(&["trigger", "orders", "--run-id", "monday", "--wait"]).await;
    let left_out = "more instances of `many` failed: `pinsched show monday --task many` lists all\n";
    assert!(stdout.contains(left_out), "{stdout}");
    let table = async |arguments: &[&str]| {
        let (code, stdout, stderr) = desk.ask(arguments).await;
        assert_eq!(code, Some(0), "{stderr}");
        let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
        stdout.lines().map(words).collect::<Vec<_>>()
    };
    assert_eq!(
        table(&["clear", "monday", "few", "--dry-run"]).await,
        [
            "DAG RUN TASK FROM TO",
            "orders monday few failed queued",
            "orders monday few[0] success removed",
            "orders monday few[1] failed removed",
            "",
            "1 task would change, 2 instances would be removed: their task is expanded anew",
        ]
    );
    let many = table(&["clear", "monday", "many", "--dry-run"]).await;
    assert_eq!(many[2], "orders monday many [25] 25 failed removed");
    let report = desk.json(&["clear", "monday", "few", "many", "--dry-run"]).await;
    assert_eq!(report["removed"].as_array().unwrap().len(), 27);
    assert_eq!(
        report["removed"][1],
        json!({"dag_id": "orders", "run_id": "monday", "task_id": "few", "map_index": 1, "from": "failed"})
    );
    // One whose instances run again goes on with them.
    let report = desk.json(&["clear", "monday", "few[1]", "--dry-run"]).await;
    assert_eq!(report["removed"], json!([]));
    // A mark takes none away of what it names.
    let report = desk.json(&["mark", "monday", "few", "--as", "success", "--dry-run"]).await;
    assert_eq!(report["removed"], json!([]));
    let done = table(&["clear", "monday", "few"]).await;
    assert_eq!(done.last().unwrap(), "1 task changed, 2 instances removed: their task is expanded anew");
    desk.stop().await;
}

#[tokio::test]
async fn a_run_id_means_that_run_to_every_command() {
    let (folder, url) = (TempDir::new().unwrap(), services::database().await);
    let url = url.expose_secret();
    let trigger = async |id: &str| {
        let (code, _, stderr) = on(&folder, url, &["trigger", "orders", &format!("--run-id={id}")]).await;
        assert_eq!(code, Some(2), "{stderr}");
        stderr
    };
    let words = "a run id cannot be `latest`: it stands for the latest run where commands name one; choose another";
    assert!(trigger("latest").await.contains(words));
    assert!(trigger("-x").await.contains("a run id cannot be `-x`: commands would take it for a flag"));
    let allowed = "letters, digits, `_`, `-`, `.`, `:`, `+` and `~` are allowed";
    for id in ["orders@monday", "a b"] {
        let said = trigger(id).await;
        assert!(said.contains(allowed), "{said}");
    }
    assert!(trigger(&"x".repeat(251)).await.contains("has 251 characters; at most 250 are allowed"));
    let (_, help, _) = on(&folder, url, &["trigger", "--help"]).await;
    let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(help.contains("up to 250 letters, digits and any of `_ - . : + ~`, other than `latest`"), "{help}");
    // What a DAG file gives to the runs that a task triggers is a run id as well.
    let file = folder.path().join("next.yaml");
    let text = "next: {tasks: {go: {operator: trigger_dag_run, trigger_dag_id: orders, trigger_run_id: latest}}}\n";
    std::fs::write(&file, text).unwrap();
    let (code, stdout, _) = on(&folder, url, &["validate", "next.yaml"]).await;
    assert_eq!(code, Some(1));
    assert!(stdout.contains("a run id cannot be `latest`"), "{stdout}");
}

#[tokio::test]
async fn slips_in_flags_and_names_are_told_as_such() {
    let (folder, url) = (TempDir::new().unwrap(), services::database().await);
    let url = url.expose_secret();
    assert_eq!(on(&folder, url, &["db", "migrate"]).await.0, Some(0));
    for age in [["db", "clean", "--older-than", "-5d"], ["clean", "--dry-run", "--old-records", "-5d"]] {
        let (code, _, stderr) = on(&folder, url, &age).await;
        assert_eq!(code, Some(2));
        assert!(stderr.contains("a duration cannot be negative; an age is written as 30d, 12h or 90m"), "{stderr}");
    }
    let (code, _, stderr) = on(&folder, url, &["show", "01a2"]).await;
    assert_eq!(code, Some(2));
    let words = "there is no run `01a2` (of a uuid, 6 or more characters of its beginning or its end do)";
    assert!(stderr.contains(words), "{stderr}");
    let (_, _, stderr) = on(&folder, url, &["show", "monday"]).await;
    assert!(stderr.contains("there is no run `monday`; `pinsched runs` lists them"), "{stderr}");
    let (code, _, stderr) = on(&folder, url, &["runs", "--log-file", "no/such/pinsched.log"]).await;
    assert_eq!(code, Some(2));
    let words = "there is no folder ./no/such; make it (`mkdir -p ./no/such`), or name another file";
    assert!(stderr.contains(words), "{stderr}");
    assert!(!folder.path().join("no").exists());
}

#[tokio::test]
async fn otel_sdk_disabled_is_true_or_counts_as_false_with_a_warning() {
    let (folder, url) = (TempDir::new().unwrap(), services::database().await);
    let said = async |value: &str| {
        let mut command = Command::new(PROGRAM);
        command.args(["db", "migrate"]).current_dir(folder.path()).stdin(Stdio::null()).kill_on_drop(true);
        command.env_clear().env("DATABASE_URL", url.expose_secret()).env("OTEL_SDK_DISABLED", value);
        let output = tokio::time::timeout(PATIENCE, command.output()).await.expect("it ends").unwrap();
        assert_eq!(output.status.code(), Some(0));
        String::from_utf8(output.stderr).unwrap()
    };
    let warned = said("1").await;
    assert!(
        warned.contains("OTEL_SDK_DISABLED is `1`, which counts as false: only `true` turns traces off"),
        "{warned}"
    );
    assert_eq!(said("TRUE").await, "");
    assert_eq!(said("false").await, "");
}

/// Of a pool of connections, a scheduler of jobs and clients of clouds nobody who asks for `info` wants to know.
#[tokio::test]
async fn libraries_are_quiet_at_info_unless_a_filter_names_them() {
    let (folder, url) = (TempDir::new().unwrap(), services::database().await);
    let targets = async |filter: &str| {
        let arguments = ["db", "migrate", "--log-format", "json", "--log", filter];
        let (code, _, stderr) = on(&folder, url.expose_secret(), &arguments).await;
        assert_eq!(code, Some(0), "{stderr}");
        let lines = stderr.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        lines.map(|line| line["target"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let is_ours = |target: &String| target.starts_with("pinsched");
    let quiet = targets("debug").await;
    assert!(quiet.iter().all(is_ours), "{quiet:?}");
    let named = targets("debug,sqlx=debug").await;
    assert!(!named.iter().all(is_ours), "{named:?}");
}

/// A log is looked at several times a second while it is followed: outputs may be megabytes, and are not read for it.
#[tokio::test]
async fn a_log_is_read_without_the_outputs_of_its_run() {
    let mut desk = Desk::with("orders: {schedule: none, tasks: {one: {operator: bash, bash_command: echo hi}}}").await;
    desk.knows("orders").await;
    assert_eq!(desk.ask(&["trigger", "orders", "--run-id", "monday", "--wait"]).await.0, Some(0));
    desk.stand.house.execute("UPDATE task_output SET output = NULL, spilled = '{}'").await;
    let (code, _, stderr) = desk.ask(&["show", "monday"]).await;
    assert_eq!(code, Some(2), "the output cannot be read: {stderr}");
    for arguments in [&["logs", "monday", "one"][..], &["logs", "monday", "one", "--follow"]] {
        assert_eq!(desk.ask(arguments).await, (Some(0), "hi\n".to_owned(), String::new()));
    }
    desk.stop().await;
}
