//! `bash` and `empty`, run for real.

use std::process::Stdio;
use std::time::Duration;

use pinsched::engine::operator::Failure;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde_json::{Value, json};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncBufReadExt, BufReader, Interest};

use crate::attempts::{self, Attempt, TestRun};

/// Waits for a process to be dead, reaped or not.
pub async fn dies(pid: &str) {
    let pid = Pid::from_raw(pid.parse().unwrap()).unwrap();
    // Without a process there is nothing to wait for.
    let Ok(process) = pidfd_open(pid, PidfdFlags::NONBLOCK) else { return };
    #[expect(deprecated, reason = "its unsafe successor asks for what an OwnedFd is: a descriptor of its own")]
    let process = AsyncFd::with_interest(process, Interest::READABLE).unwrap();
    let dead = tokio::time::timeout(Duration::from_secs(20), process.readable()).await;
    assert!(dead.is_ok(), "{pid:?} outlived its task");
}

#[tokio::test]
async fn empty_succeeds_with_an_empty_output() {
    let mut run = TestRun::start().await;
    assert_eq!(run.run("joint", "empty", json!({})).await, Ok(serde_json::Map::new()));
}

#[tokio::test]
async fn bash_logs_both_streams_in_order_and_returns_the_last_line() {
    let mut run = TestRun::start().await;
    let mut attempt = run.claim("hello").await;
    let command = "echo one; echo two >&2; echo \"$AIRFLOW_CTX_DAG_ID/$AIRFLOW_CTX_TRY_NUMBER $X\"; printf last";
    let config = json!({"bash_command": command, "env": {"X": 3}, "append_env": true});
    let output = attempts::run(&attempt.context, "airflow.operators.bash.BashOperator", config).await.unwrap();
    assert_eq!(Value::Object(output), json!({"exit_code": 0, "return_value": "last"}));
    assert_eq!(attempt.log.lines(), ["one", "two", "pinterest_daily/1 3", "last"]);
}

#[tokio::test]
async fn a_failing_command_shows_its_code_and_its_last_lines() {
    let mut run = TestRun::start().await;
    let failure = run.run("t", "bash", json!({"bash_command": "seq 1 50; exit 3"})).await.unwrap_err();
    let Failure::Retry(text) = failure else { panic!("another attempt may succeed: {failure}") };
    assert!(text.starts_with("the command exited with code 3; its last lines:\n  31\n"), "{text}");
    assert!(text.ends_with("\n  50"), "{text}");
    let failure = run.run("t", "bash", json!({"bash_command": "kill -9 $$"})).await.unwrap_err();
    assert_eq!(failure, Failure::Retry("the command was killed by signal 9 and printed nothing".to_owned()));
}

#[tokio::test]
async fn exit_code_99_or_another_that_is_said_skips_the_task() {
    let mut run = TestRun::start().await;
    let mut ends = async |config: Value| run.run("t", "bash", config).await.unwrap_err();
    let skipped = |code: i32| Failure::Skip(format!("the command exited with code {code}"));
    assert_eq!(ends(json!({"bash_command": "exit 99"})).await, skipped(99));
    assert_eq!(ends(json!({"bash_command": "exit 3", "skip_on_exit_code": 3})).await, skipped(3));
    assert_eq!(ends(json!({"bash_command": "exit 4", "skip_on_exit_code": [3, 4]})).await, skipped(4));
    let failed = |failure| matches!(failure, Failure::Retry(_));
    assert!(failed(ends(json!({"bash_command": "exit 99", "skip_on_exit_code": 3})).await));
    assert!(failed(ends(json!({"bash_command": "exit 99", "skip_on_exit_code": null})).await));
    assert!(failed(ends(json!({"bash_command": "exit 1", "skip_on_exit_code": [0, 99]})).await));
    let done = run.run("t", "bash", json!({"bash_command": "exit 0", "skip_on_exit_code": 0})).await;
    assert!(done.is_ok(), "success is no skip: {done:?}");
}

#[tokio::test]
async fn the_working_directory_is_the_dag_files_folder_or_cwd() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("below")).unwrap();
    let mut run = TestRun::start().await;
    run.dag_folder = folder.path().canonicalize().unwrap();
    let here = run.run("t", "bash", json!({"bash_command": "pwd"})).await.unwrap();
    assert_eq!(here["return_value"], json!(run.dag_folder.to_str()));
    let below = run.run("t", "bash", json!({"bash_command": "pwd", "cwd": "below"})).await.unwrap();
    assert_eq!(below["return_value"], json!(run.dag_folder.join("below").to_str()));
    let missing = run.run("t", "bash", json!({"bash_command": "pwd", "cwd": "nowhere"})).await.unwrap_err();
    assert!(matches!(&missing, Failure::Fatal(text) if text.contains("nowhere")), "{missing}");
}

#[tokio::test]
async fn pinscheds_own_variables_do_not_reach_the_command() {
    let mut run = TestRun::start().await;
    // The test itself was told by such a variable where its Postgres is.
    let config = json!({"bash_command": "env | grep -c -e ^PINSCHED_ -e ^DATABASE_URL= || true"});
    assert_eq!(run.run("t", "bash", config).await.unwrap()["return_value"], json!("0"));
    let config = json!({"bash_command": "echo ${HOME:-cleared}", "env": {"X": "1"}});
    assert_eq!(run.run("t", "bash", config).await.unwrap()["return_value"], json!("cleared"));
}

#[tokio::test]
async fn cancelling_kills_grandchildren_that_ignore_it() {
    let mut run = TestRun::start().await;
    let Attempt { context, mut log } = run.claim("slow").await;
    // The grandchild hears no SIGTERM; bash ends by it, and the rest of the group is killed then.
    let command = "(trap '' TERM; echo $BASHPID; exec sleep 600) & wait";
    let (grandchild, result) = tokio::join!(
        async {
            let line = log.next_line().await;
            context.cancel.cancel();
            line
        },
        attempts::run(&context, "bash", json!({"bash_command": command}))
    );
    let stopped = format!("the command was told to stop; its last lines:\n  {grandchild}");
    assert_eq!(result, Err(Failure::Retry(stopped)));
    dies(&grandchild).await;
}

#[tokio::test]
async fn what_a_cancelled_command_prints_while_it_cleans_up_is_heard() {
    let folder = tempfile::tempdir().unwrap();
    let mut run = TestRun::start().await;
    run.dag_folder = folder.path().to_owned();
    let Attempt { context, mut log } = run.claim("slow").await;
    let command = "trap 'echo cleaning up; echo done > cleaned; exit 1' TERM; echo ready; while :; do sleep 0.02; done";
    let (_, result) = tokio::join!(
        async {
            assert_eq!(log.next_line().await, "ready");
            context.cancel.cancel();
        },
        attempts::run(&context, "bash", json!({"bash_command": command}))
    );
    let Err(Failure::Retry(text)) = result else { panic!("it was told to stop: {result:?}") };
    // Bash itself may say that its sleep was terminated.
    assert!(text.starts_with("the command was told to stop; its last lines:\n  ready\n"), "{text}");
    assert!(text.contains("\n  cleaning up"), "{text}");
    assert_eq!(std::fs::read_to_string(folder.path().join("cleaned")).unwrap(), "done\n");
}

#[tokio::test]
async fn a_process_left_behind_is_no_line_of_the_command() {
    let mut run = TestRun::start().await;
    let mut attempt = run.claim("server").await;
    let command = "sleep 600 & echo ready";
    let output = attempts::run(&attempt.context, "bash", json!({"bash_command": command})).await.unwrap();
    assert_eq!(output["return_value"], json!("ready"));
    assert!(attempt.log.lines().last().unwrap().contains("left processes behind"));
}

/// Not a test of its own: the process that the next one kills.
#[tokio::test]
#[ignore = "`a_killed_pinsched_takes_its_commands_along` runs it"]
#[expect(clippy::print_stdout, reason = "that test reads the process id there")]
async fn a_command_that_would_sleep_for_long() {
    let mut run = TestRun::start().await;
    let Attempt { context, mut log } = run.claim("slow").await;
    let command = "(trap '' TERM HUP; echo $BASHPID; exec sleep 600) & wait";
    let printed = async { println!("\ngrandchild {}", log.next_line().await) };
    let _ = tokio::join!(printed, attempts::run(&context, "bash", json!({"bash_command": command})));
}

#[tokio::test]
async fn a_killed_pinsched_takes_its_commands_along() {
    let mut command = tokio::process::Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "bash::a_command_that_would_sleep_for_long", "--ignored", "--nocapture"]);
    let mut process = command.stdout(Stdio::piped()).kill_on_drop(true).spawn().unwrap();
    let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
    let grandchild = tokio::time::timeout(Duration::from_secs(60), async {
        loop {
            let line = lines.next_line().await.unwrap().expect("it says which process it started");
            if let Some(pid) = line.strip_prefix("grandchild ") {
                return pid.to_owned();
            }
        }
    });
    let grandchild = grandchild.await.expect("within 60 s");
    process.kill().await.unwrap();
    dies(&grandchild).await;
}

#[tokio::test]
async fn what_a_finished_command_leaves_behind_ends_with_it() {
    let mut run = TestRun::start().await;
    let command = "sleep 600 >/dev/null 2>&1 & echo $!";
    let output = run.run("t", "bash", json!({"bash_command": command})).await.unwrap();
    let pid = output["return_value"].as_str().unwrap();
    dies(pid).await;
}

#[tokio::test]
async fn a_line_without_end_is_logged_in_pieces() {
    let mut run = TestRun::start().await;
    let mut attempt = run.claim("t").await;
    let command = "head -c 1000000 /dev/zero | tr '\\0' x; printf '\\n\\xff\\n'";
    attempts::run(&attempt.context, "bash", json!({"bash_command": command})).await.unwrap();
    let log = attempt.log.lines();
    assert_eq!(log.iter().map(String::len).sum::<usize>(), 1_000_000 + '\u{fffd}'.len_utf8());
    assert!(log.iter().all(|line| line.len() <= 96 * 1024), "a line is longer than its limit");
    assert_eq!(log.last().unwrap(), "\u{fffd}");
}

#[test]
fn mistakes_name_their_key() {
    let check = |config: Value| (pinsched::operators::registration("bash").unwrap().kind.check)(&config);
    assert_eq!(check(json!({"bash_command": " "}))[0].path, ["bash_command"]);
    assert_eq!(check(json!({"bash_command": "true", "env": {"A=B": 1}}))[0].path, ["env", "A=B"]);
    assert_eq!(check(json!({"bash_command": "true", "evn": {}}))[0].path, ["evn"]);
    assert!(check(json!({}))[0].message.contains("bash_command"));
}
