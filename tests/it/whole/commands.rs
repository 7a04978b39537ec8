//! The commands around a run, as processes: going on with it, reading its log while it grows, asking for its end, and what
//! goes to which stream.

use std::io::pipe;
use std::process::Stdio;

use serde_json::Value;
use sqlx::Connection;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStderr, ChildStdout};

use crate::stack::scratch::PROGRAM;
use crate::whole::account::output;
use crate::whole::interrupted::{lines, waiting};
use crate::whole::product::{PATIENCE, Product};

/// A run whose first task waits for a file, as a process.
struct Waiting {
    product: Product,
    file: String,
    flag: std::path::PathBuf,
    child: Child,
}

impl Waiting {
    /// Returns when the first task runs.
    async fn begun() -> Self {
        let product = Product::embedded().await;
        let flag = product.folder().join("flag");
        let file = product.write("waiting.yaml", &waiting(&flag));
        let child = product.start(&["run", &file, "--output", "json"]);
        lines(&flag.with_extension("log"), 1).await;
        Self { product, file, flag, child }
    }

    /// The same after its process was killed.
    async fn killed() -> Self {
        let mut begun = Self::begun().await;
        begun.child.kill().await.unwrap();
        begun
    }

    /// Lets the first task end.
    fn release(&self) {
        std::fs::write(&self.flag, "").unwrap();
    }
}

async fn code(child: &mut Child) -> Option<i32> {
    tokio::time::timeout(PATIENCE, child.wait()).await.expect("the command ends").unwrap().code()
}

fn stdout_lines(child: &mut Child) -> Lines<BufReader<ChildStdout>> {
    BufReader::new(child.stdout.take().unwrap()).lines()
}

fn stderr_lines(child: &mut Child) -> Lines<BufReader<ChildStderr>> {
    BufReader::new(child.stderr.take().unwrap()).lines()
}

/// Returns when a line with these words has come.
async fn said<R: tokio::io::AsyncRead + Unpin>(lines: &mut Lines<BufReader<R>>, words: &str) {
    let reading = async {
        while let Some(line) = lines.next_line().await.unwrap() {
            if line.contains(words) {
                return;
            }
        }
        panic!("nothing said `{words}`");
    };
    tokio::time::timeout(PATIENCE, reading).await.unwrap_or_else(|_| panic!("nothing said `{words}` in time"));
}

#[tokio::test]
async fn resume_goes_on_with_a_run_that_was_killed_and_refuses_one_that_is_finished() {
    let run = Waiting::killed().await;
    run.release();
    let resumed = run.product.answer(&["resume", "latest"]).await;
    assert_eq!(resumed.status.code(), Some(0), "{}\n{}", resumed.stdout, resumed.stderr);
    assert!(resumed.stderr.contains("  resuming: "), "{}", resumed.stderr);
    assert!(resumed.stdout.contains("success"), "{}", resumed.stdout);
    let again = run.product.answer(&["resume", "latest"]).await;
    assert_eq!(again.status.code(), Some(1));
    assert!(again.stderr.contains("is finished (success)") && again.stderr.contains("--rerun"), "{}", again.stderr);
    assert!(
        again.stderr.contains("`pinsched restart ") && again.stderr.contains("`pinsched clear "),
        "{}",
        again.stderr
    );
}

#[tokio::test]
async fn a_run_goes_on_with_the_file_as_it_was_and_says_so() {
    let run = Waiting::killed().await;
    run.release();
    let text = std::fs::read_to_string(&run.file).unwrap();
    run.product.write("waiting.yaml", &format!("{text}    more: {{operator: empty}}\n"));
    let again = run.product.answer(&["run", &run.file, "--output", "json"]).await;
    assert_eq!(again.status.code(), Some(0), "{}", again.stderr);
    assert!(again.stderr.contains("the file has changed since the run began"), "{}", again.stderr);
    let report: Value = serde_json::from_str(&again.stdout).unwrap();
    assert_eq!(report["tasks"].as_array().unwrap().len(), 2, "the task that was added is not of this run");
}

#[tokio::test]
async fn a_transform_runs_the_sql_that_a_task_before_it_wrote() {
    let product = Product::embedded().await;
    let write = format!("echo 'SELECT 42 AS answer' > {}/made.sql", product.folder().display());
    let file = product.write(
        "made.yaml",
        &format!(
            "made:\n  tasks:\n    write: {{operator: bash, bash_command: \"{write}\"}}\n    report: {{operator: transform, \
             dependencies: [write], sql: made.sql, tables: {{}}, bucket: none}}\n"
        ),
    );
    let run = product.answer(&["run", &file, "--output", "json"]).await;
    assert_eq!(run.status.code(), Some(0), "{}", run.stderr);
    assert!(run.stderr.contains("warning[DAG034]: there is no file `made.sql`"), "{}", run.stderr);
    let report: Value = serde_json::from_str(&run.stdout).unwrap();
    assert_eq!(output(&report, "report")["results"]["made"]["preview"], serde_json::json!([[42]]));
    let again = product.answer(&["run", &file, "--output", "json"]).await;
    assert!(!again.stderr.contains("DAG034"), "it is there now: {}", again.stderr);
}

#[tokio::test]
async fn a_log_is_followed_to_the_end_of_its_task() {
    let run = Waiting::begun().await;
    let mut follower = run.product.start(&["logs", "latest", "wait", "--follow"]);
    let mut program = run.product.start(&["logs", "latest", "wait", "--follow", "--output", "json"]);
    let mut heard = stdout_lines(&mut follower);
    said(&mut heard, "waits").await;
    run.release();
    said(&mut heard, "through").await;
    assert_eq!(code(&mut follower).await, Some(0));
    let mut answer = String::new();
    program.stdout.take().unwrap().read_to_string(&mut answer).await.unwrap();
    assert_eq!(code(&mut program).await, Some(0));
    let answer: Value = serde_json::from_str(&answer).unwrap();
    assert_eq!((&answer["outcome"], &answer["attempt"]), (&"success".into(), &1.into()), "{answer}");
    assert!(answer["lines"].as_array().unwrap().iter().any(|line| line.as_str().unwrap().ends_with("through")));
}

#[tokio::test]
async fn a_log_is_not_waited_for_when_its_task_never_begins() {
    let mut run = Waiting::begun().await;
    let mut follower = run.product.start(&["logs", "latest", "after", "--follow"]);
    let mut heard = stderr_lines(&mut follower);
    said(&mut heard, "waiting for task `after` to begin").await;
    let cancel = run.product.json(&["cancel", "latest"]).await;
    said(&mut heard, "task `after` has not run: it is failed").await;
    assert_eq!(code(&mut follower).await, Some(0));
    assert_eq!(code(&mut run.child).await, Some(1));
    assert_eq!(cancel, run.product.json(&["show", "latest"]).await, "cancel answers with the run, whoever drove it");
}

#[tokio::test]
async fn cancel_ends_a_run_that_nobody_drives_and_answers_alike() {
    let run = Waiting::killed().await;
    let cancel = run.product.json(&["cancel", "latest"]).await;
    assert_eq!(cancel["state"], "failed");
    assert_eq!(cancel, run.product.json(&["show", "latest"]).await);
}

#[tokio::test]
async fn a_run_as_json_has_every_key() {
    let product = Product::embedded().await;
    let file = product.write("one.yaml", "one: {tasks: {a: {operator: empty}}}\n");
    let report = product.json(&["run", &file, "--logical-date", "2026-01-05"]).await;
    let keys = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>().join(" ");
    assert_eq!(
        keys(&report),
        "run_id dag_id run_uuid run_type triggered_by logical_date data_interval_start data_interval_end state driven \
         cancel_requested_at cancel_reason note queued_at started_at finished_at duration_ms params conf tasks reconciliation"
    );
    assert_eq!(
        keys(&report["tasks"][0]),
        "task_id map_index label instances operator state attempts lost started_at finished_at duration_ms error output spilled"
    );
    assert_eq!((&report["run_type"], &report["triggered_by"]), (&"manual".into(), &"run".into()));
    assert_eq!(report["data_interval_start"], report["logical_date"]);
    for instant in ["queued_at", "started_at", "finished_at"] {
        assert!(report[instant].as_str().is_some_and(|at| at.starts_with("20")), "{instant}: {report}");
    }
    let shown = product.answer(&["show", "one@latest"]).await.stdout;
    for fact in ["uuid ", "type           manual, by run", "logical date   2026-01-05 00:00:00", "queued ", "finished "]
    {
        assert!(shown.lines().any(|line| line.starts_with(fact)), "{fact}: {shown}");
    }
}

#[tokio::test]
async fn a_run_that_nobody_drives_is_said_to_be_left_and_how_to_go_on() {
    let mut run = Waiting::begun().await;
    let listed = run.product.json(&["runs"]).await;
    assert_eq!((&listed["runs"][0]["state"], &listed["runs"][0]["driven"]), (&"running".into(), &true.into()));
    assert!(!run.product.answer(&["show", "latest"]).await.stdout.contains("nobody drives it"));
    run.child.kill().await.unwrap();
    // Postgres frees the lock of a process that was killed in a moment.
    let left = async {
        loop {
            let shown = run.product.json(&["show", "latest"]).await;
            if shown["driven"] == false {
                return shown;
            }
        }
    };
    let shown = tokio::time::timeout(PATIENCE, left).await.expect("the lock of a killed process is freed");
    assert_eq!((&shown["state"], &shown["tasks"][0]["duration_ms"]), (&"running".into(), &Value::Null));
    let text = run.product.answer(&["show", "latest"]).await.stdout;
    let id = shown["run_id"].as_str().unwrap();
    assert!(text.contains(&format!("nobody drives it; `pinsched resume {id}` goes on")), "{text}");
    let text = run.product.answer(&["runs"]).await.stdout;
    let line = text.lines().find(|line| line.contains(id)).unwrap();
    assert!(line.contains("running") && line.ends_with("nobody drives it"), "{text}");
    assert!(text.contains("`pinsched resume RUN` goes on"), "{text}");
    run.release();
    assert_eq!(run.product.json(&["resume", "latest"]).await["driven"], false, "it is over");
    let text = run.product.answer(&["runs"]).await.stdout;
    assert!(!text.contains("nobody"), "{text}");
}

#[tokio::test]
async fn runs_of_a_dag_without_any_names_those_that_have_some() {
    let product = Product::embedded().await;
    let said = async |arguments: &[&str]| {
        let answer = product.answer(arguments).await;
        assert_eq!(answer.status.code(), Some(0), "{}", answer.stderr);
        answer.stdout
    };
    assert_eq!(said(&["runs", "--dag", "orders"]).await, "no runs yet; start one by `pinsched run FILE`\n");
    for dag in ["orders", "people"] {
        let file = product.write("one.yaml", &format!("{dag}: {{tasks: {{a: {{operator: empty}}}}}}\n"));
        product.json(&["run", &file]).await;
    }
    let told = said(&["runs", "--dag", "order"]).await;
    assert_eq!(told, "there is no run of `order`; did you mean `orders`?\nthere are runs of `orders` and `people`\n");
    let told = said(&["runs", "--dag", "nope"]).await;
    assert_eq!(told, "there is no run of `nope`\nthere are runs of `orders` and `people`\n");
    assert_eq!(product.json(&["runs", "--dag", "nope"]).await["runs"], Value::Array(Vec::new()));
}

#[tokio::test]
async fn a_run_whose_file_is_not_valid_any_more_is_shown_and_the_way_on_is_named() {
    let run = Waiting::killed().await;
    let url = run.product.database_url();
    let mut database = sqlx::PgConnection::connect(&url).await.unwrap();
    let stricter = "UPDATE dag_version SET source = 'waiting: {tasks: {wait: {operator: gone}}}'";
    sqlx::query(stricter).execute(&mut database).await.unwrap();
    let shown = run.product.answer(&["show", "latest", "--output", "json"]).await;
    assert_eq!(shown.status.code(), Some(0), "{}", shown.stderr);
    assert!(shown.stderr.contains("there is no operator `gone`"), "{}", shown.stderr);
    let report: Value = serde_json::from_str(&shown.stdout).unwrap();
    assert_eq!((&report["tasks"][0]["task_id"], &report["tasks"][0]["operator"]), (&"wait".into(), &Value::Null));
    let resumed = run.product.answer(&["resume", "latest"]).await;
    assert_eq!(resumed.status.code(), Some(2));
    assert!(resumed.stderr.contains("cannot go on; `pinsched run FILE --new` starts another"), "{}", resumed.stderr);
}

#[tokio::test]
async fn up_prints_the_urls_and_keeps_the_stack_until_down() {
    let product = Product::embedded().await;
    let mut up = product.start(&["up", "--output", "json"]);
    said(&mut stderr_lines(&mut up), "the stack stays up until Ctrl-C").await;
    let down = product.json(&["down"]).await;
    assert_eq!(down["stopped"], true);
    assert_eq!(code(&mut up).await, Some(1), "it says that somebody stopped the stack");
    let mut answer = String::new();
    up.stdout.take().unwrap().read_to_string(&mut answer).await.unwrap();
    let urls: Value = serde_json::from_str(&answer).unwrap();
    assert_eq!(urls["database_url"], product.database_url());
    let kafka = product.kafka();
    assert_eq!(urls["kafka_bootstrap_servers"].as_str(), kafka.get("bootstrap.servers"));
    assert_eq!(urls["kafka_properties"]["sasl.password"].as_str(), kafka.get("sasl.password"));
    let again = product.answer(&["down"]).await;
    assert_eq!(again.status.code(), Some(0));
    assert!(again.stdout.starts_with("no stack runs in"), "{}", again.stdout);
}

/// A command that needs no stack.
fn plain(arguments: &[&str]) -> tokio::process::Command {
    let mut command = tokio::process::Command::new(PROGRAM);
    command.args(arguments).env_clear().env("PATH", env!("PATH")).current_dir(env!("CARGO_MANIFEST_DIR"));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

#[tokio::test]
async fn config_says_where_each_setting_comes_from() {
    let output = plain(&["config"]).env("PINSCHED_PARALLELISM", "3").output().await.unwrap();
    assert_eq!(output.status.code(), Some(0));
    let text = String::from_utf8(output.stdout).unwrap();
    let line = text.lines().find(|line| line.starts_with("engine.parallelism")).unwrap();
    assert!(line.contains(" 3 ") && line.ends_with("PINSCHED_PARALLELISM"), "{line}");
}

#[tokio::test]
async fn completions_are_a_script_of_the_shell() {
    for (shell, words) in
        [("bash", "complete -F _pinsched"), ("zsh", "#compdef pinsched"), ("fish", "complete -c pinsched")]
    {
        let output = plain(&["completions", shell]).output().await.unwrap();
        assert_eq!(output.status.code(), Some(0));
        assert!(String::from_utf8(output.stdout).unwrap().contains(words), "{shell}");
    }
}

#[tokio::test]
async fn a_reader_that_goes_away_is_no_error_and_a_full_disk_is() {
    let (reader, writer) = pipe().unwrap();
    drop(reader);
    let output = plain(&["schema"]).stdout(writer).spawn().unwrap().wait_with_output().await.unwrap();
    assert_eq!((output.status.code(), output.stderr), (Some(0), Vec::new()));
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let output = plain(&["schema"]).stdout(full).spawn().unwrap().wait_with_output().await.unwrap();
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.starts_with("error: could not write the answer to stdout: No space left"), "{said}");
}

#[tokio::test]
async fn another_run_of_a_logical_date_is_asked_for_by_rerun_not_by_new() {
    let output = plain(&["run", "x.yaml", "--logical-date", "2026-01-05", "--new"]).output().await.unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8(output.stderr).unwrap().contains("cannot be used with"));
}
