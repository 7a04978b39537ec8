//! What the user's shell, folder and settings hold neither reaches the stack nor is passed over in silence.

use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;

use super::scratch::{PROGRAM, Scratch, gone, kill, pid};

/// All that the stack stands in for, configured.
const CONFIGURED: [(&str, &str); 4] = [
    ("DATABASE_URL", "postgres://db.example/pinsched"),
    ("PINSCHED_KAFKA_BOOTSTRAP_SERVERS", "kafka.example:9092"),
    ("PINSCHED_S3_REGION", "eu-west-1"),
    ("PINSCHED_SOURCE_URL", "mysql://db.example/source"),
];

/// A command in the scratch folder, with an environment of its own.
fn command(scratch: &Scratch, arguments: &[&str], environment: &[(&str, &str)]) -> Command {
    let mut command = Command::new(PROGRAM);
    command.args(arguments).current_dir(scratch.path()).stdin(Stdio::null()).stdout(Stdio::piped());
    command.stderr(Stdio::piped()).kill_on_drop(true);
    command.env_clear().env("PATH", env!("PATH")).envs(environment.iter().copied());
    command
}

/// Exit code, stdout and stderr.
async fn answer(mut command: Command) -> (Option<i32>, String, String) {
    let output = tokio::time::timeout(Duration::from_secs(60), command.output()).await.expect("it ends").unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[tokio::test]
async fn up_with_everything_configured_starts_nothing() {
    let scratch = Scratch::new();
    let (code, stdout, stderr) = answer(command(&scratch, &["up"], &CONFIGURED)).await;
    assert_eq!((code, stderr.as_str()), (Some(0), ""));
    assert_eq!(stdout, "nothing to start: all is configured (`pinsched config` shows where)\n");
    let (code, stdout, _) = answer(command(&scratch, &["up", "--output", "json"], &CONFIGURED)).await;
    let report: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    assert!(code == Some(0) && report["database_url"].is_null(), "{stdout}");
    assert!(!scratch.path().join(".pinsched").exists());
}

#[tokio::test]
async fn the_stack_needs_no_settings_but_those_that_it_is_told() {
    let scratch = Scratch::new();
    std::fs::write(scratch.path().join("pinsched.toml"), "[s3]\naccess_key_id = \"AKIA\"\nregion = \"eu-west-1\"\n")
        .unwrap();
    // Each would stop a stack that reads settings by itself, or its server, or a client of that.
    let environment = [
        ("PINSCHED_S3_SECRET_ACCESS_KEY", "half of a pair whose other half is in the file"),
        ("DATABASE_URL", "mysql://me@db.example/overridden-by-the-flag"),
        ("PGPORT", "the usual"),
        ("PGDATESTYLE", "upside down"),
        ("PGOPTIONS", "-c statement_timeout=10min"),
        ("PGSSLMODE", "require"),
    ];
    let arguments = ["up", "--output", "json", "--database-url", "postgres://db.example/pinsched"];
    let mut up = command(&scratch, &arguments, &environment).spawn().unwrap();
    let mut stdout = BufReader::new(up.stdout.take().unwrap()).lines();
    let mut report = String::new();
    let read = async {
        while let Some(line) = stdout.next_line().await.unwrap() {
            report.push_str(&line);
            if line == "}" {
                return;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(60), read).await.expect("it answers");
    let report: serde_json::Value = serde_json::from_str(&report).unwrap_or_else(|_| panic!("it did not start"));
    assert!(report["source_url"].as_str().unwrap().ends_with("/pinterest_data?sslmode=disable"), "{report}");
    let pid = pid(&scratch.path().join(".pinsched"));
    let inherited = std::fs::read(format!("/proc/{pid}/environ")).unwrap();
    let inherited = String::from_utf8_lossy(&inherited);
    assert!(
        inherited.contains("PATH=") && !inherited.contains("PINSCHED_") && !inherited.contains("PG"),
        "{inherited}"
    );
    assert!(!inherited.contains("DATABASE_URL"), "{inherited}");

    // A client is told by the URL what PGSSLMODE says otherwise.
    up.kill().await.unwrap();
    std::fs::remove_file(scratch.path().join("pinsched.toml")).unwrap();
    let (code, _, stderr) = answer(command(&scratch, &["runs"], &[("PGSSLMODE", "require")])).await;
    assert_eq!(code, Some(0), "{stderr}");
    let (code, stdout, stderr) = answer(command(&scratch, &["down"], &[])).await;
    assert_eq!((code, stderr.as_str()), (Some(0), ""));
    assert!(stdout.starts_with("stopped the stack of"), "{stdout}");
    gone(&scratch.path().join(".pinsched")).await;
}

#[tokio::test]
async fn up_starts_a_killed_stack_again_and_ends_with_one_that_was_stopped() {
    let scratch = Scratch::new();
    let home = scratch.path().join(".pinsched");
    let mut up = command(&scratch, &["up"], &[]).spawn().unwrap();
    let mut stderr = BufReader::new(up.stderr.take().unwrap()).lines();
    let mut said = async || {
        let line = tokio::time::timeout(Duration::from_secs(60), stderr.next_line()).await.expect("it says something");
        line.unwrap().unwrap_or_default()
    };
    assert_eq!(said().await, "starting the embedded stack (for what is not configured)");
    assert_eq!(said().await, "the stack stays up until Ctrl-C");
    let before = pid(&home);
    kill(before);
    assert_eq!(said().await, "the embedded stack was killed: starting it again");
    assert_eq!(said().await, "the embedded stack is back");
    assert_ne!(pid(&home), before);
    let (code, _, _) = answer(command(&scratch, &["down"], &[])).await;
    assert_eq!(code, Some(0));
    let end = said().await;
    assert!(end.starts_with("error: the stack of ") && end.ends_with("was stopped: by `pinsched down`"), "{end}");
    assert_eq!(up.wait().await.unwrap().code(), Some(1));
}

#[tokio::test]
async fn a_working_directory_that_was_deleted_is_told() {
    let scratch = Scratch::new();
    let here = scratch.path().join("here");
    std::fs::create_dir(&here).unwrap();
    let mut shell = Command::new("sh");
    shell.args(["-c", "rmdir ../here && exec \"$0\" config", PROGRAM]).current_dir(&here);
    shell.env_clear().env("PATH", env!("PATH")).stdout(Stdio::piped()).stderr(Stdio::piped());
    let (code, _, stderr) = answer(shell).await;
    assert_eq!(code, Some(2));
    assert!(stderr.starts_with("error: default: `home` is relative to a working directory"), "{stderr}");
}
