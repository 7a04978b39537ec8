//! `python`, run for real by the machine's `python3`.

use std::fs;
use std::path::Path;

use pinsched::engine::operator::{Failure, Output};
use serde_json::{Value, json};

use crate::attempts::{self, TestRun};

const AT: &str = "2026-03-01T02:00:00+00:00";

async fn run_in(folder: &Path) -> TestRun {
    let mut run = TestRun::start().await;
    run.dag_folder = folder.canonicalize().unwrap();
    run.variables = json!({
        "ds": "2026-03-01", "ds_nodash": "20260301", "ts": AT, "logical_date": AT, "data_interval_start": AT,
        "data_interval_end": AT, "run_id": "manual", "params": {"factor": 2},
    });
    run
}

/// Runs this text as a script.
async fn script(text: &str, config: Value) -> Result<Output, Failure> {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("task.py"), text).unwrap();
    let mut config = config;
    config["script"] = json!("task.py");
    run_in(folder.path()).await.run("t", "python", config).await
}

#[tokio::test]
async fn a_function_gets_the_context_that_its_arguments_name_and_its_value_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(
        folder.path().join("tasks.py"),
        "import os, json\n\
         def some(first, params, ds='x', *, outputs, extra=1):\n\
         \x20   json.dump({'beside': 7}, open(os.environ['PINSCHED_OUTPUT'], 'w'))\n\
         \x20   return [first, params, ds, outputs, extra]\n\
         def every(**context):\n    return sorted(context)\n\
         class Deep:\n    @staticmethod\n    def inner(): return None\n\
         def unwritable(): return {1, 2}\n",
    )
    .unwrap();
    let mut run = run_in(folder.path()).await;
    run.finished("before", "bash", json!({"return_value": "b"}));
    let config = json!({"python_callable": "tasks:some", "op_args": [1], "op_kwargs": {"extra": "e"}});
    let output = run.run("t", "python", config).await.unwrap();
    let expected = json!([1, {"factor": 2}, "2026-03-01", {"before": {"return_value": "b"}}, "e"]);
    assert_eq!(Value::Object(output), json!({"beside": 7, "return_value": expected}));
    let output = run.run("t", "python", json!({"python_callable": "tasks.every"})).await.unwrap();
    let names = [
        "dag_id",
        "data_interval_end",
        "data_interval_start",
        "ds",
        "ds_nodash",
        "logical_date",
        "map_index",
        "outputs",
        "params",
        "run_id",
        "task_id",
        "try_number",
        "ts",
    ];
    assert_eq!(output["return_value"], json!(names));
    let output = run.run("t", "python", json!({"python_callable": "tasks:Deep.inner"})).await.unwrap();
    assert_eq!(output["return_value"], Value::Null);
    let failure = run.run("t", "python", json!({"python_callable": "tasks:unwritable"})).await.unwrap_err();
    assert!(failure.to_string().contains("Object of type set is not JSON serializable"), "{failure}");
    let failure = run.run("t", "python", json!({"python_callable": "tasks:missing"})).await.unwrap_err();
    assert!(failure.to_string().contains("has no attribute 'missing'"), "{failure}");
}

#[tokio::test]
async fn a_script_leaves_an_object_and_no_more_than_there_is_room_for() {
    let leave = |text: &str| format!("import os\nopen(os.environ['PINSCHED_OUTPUT'], 'wb').write({text})");
    let left = script(&leave("b'{\"rows\": 3}'"), json!({})).await.unwrap();
    assert_eq!(Value::Object(left), json!({"rows": 3}));
    assert_eq!(script("pass", json!({})).await, Ok(Output::new()));
    let fatal = async |text: &str| match script(&leave(text), json!({})).await {
        Err(Failure::Fatal(text)) => text,
        other => panic!("{other:?}"),
    };
    let large = fatal("b'{\"rows\": \"' + b'x' * 100_000_000 + b'\"}'").await;
    assert_eq!(
        large,
        "the output has 100000012 bytes, and `outputs.limit` (PINSCHED_OUTPUTS_LIMIT) allows 67108864: write the data to \
         object storage or a table in the task, and leave its name"
    );
    assert!(fatal("b'{'").await.starts_with("the output is not JSON"));
    assert!(fatal("b'\\xff\\xfe'").await.starts_with("the output is not JSON"));
    assert_eq!(fatal("b'[1]'").await, "the output is not a JSON object");
}

#[tokio::test]
async fn what_is_printed_is_logged_whatever_its_bytes_and_an_exception_shows_its_last_lines() {
    let folder = tempfile::tempdir().unwrap();
    let text = "import sys\nsys.stdout.buffer.write(b'caf\\xe9\\n')\nprint(sys.argv[1:])\nraise ValueError('too few')";
    fs::write(folder.path().join("task.py"), text).unwrap();
    let mut run = run_in(folder.path()).await;
    let mut attempt = run.claim("t").await;
    let config = json!({"script": "task.py", "op_args": ["a", 1, null]});
    let failure = attempts::run(&attempt.context, "python", config).await.unwrap_err();
    let Failure::Retry(text) = failure else { panic!("{failure:?}") };
    assert!(text.starts_with("the command exited with code 1; its last lines:"), "{text}");
    assert!(text.ends_with("ValueError: too few"), "{text}");
    let lines = attempt.log.lines();
    assert!(lines.contains(&"caf\u{fffd}".to_owned()) && lines.contains(&"['a', '1', 'null']".to_owned()), "{lines:?}");
}

/// A line of 200 MB is logged in pieces, and no more of it than an attempt may log.
#[tokio::test]
async fn a_line_without_an_end_is_logged_in_pieces_and_not_beyond_the_limit() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("task.py"), "for _ in range(200): print('x' * 1_000_000, end='')").unwrap();
    let mut run = run_in(folder.path()).await;
    let mut attempt = run.claim("t").await;
    attempts::run(&attempt.context, "python", json!({"script": "task.py"})).await.unwrap();
    let lines = attempt.log.lines();
    assert!(lines.iter().all(|line| line.len() <= 128 * 1024), "{:?}", lines.iter().map(String::len).max());
    assert!(lines.iter().map(String::len).sum::<usize>() < 34 * 1024 * 1024);
    assert!(lines.last().unwrap().contains("further output is not logged"), "{}", lines.len());
}

#[tokio::test]
async fn skips_and_missing_interpreters_are_told_apart() {
    let skipped = |code: i32| Err(Failure::Skip(format!("the process exited with code {code}")));
    assert_eq!(script("import sys; sys.exit(99)", json!({})).await, skipped(99));
    assert_eq!(script("import sys; sys.exit(3)", json!({"skip_on_exit_code": 3})).await, skipped(3));
    let missing = script("pass", json!({"venv": "no/such"})).await;
    assert!(matches!(&missing, Err(Failure::Fatal(text)) if text.contains("is it installed?")), "{missing:?}");
    let hidden = "import os, sys; sys.exit(any(n.startswith('PINSCHED_') and n not in \
                  ('PINSCHED_CONTEXT', 'PINSCHED_OUTPUT') for n in os.environ))";
    assert!(script(hidden, json!({})).await.is_ok());
}
