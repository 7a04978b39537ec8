//! What a terminal shows: colours, tables as wide as it is, errors in bounds, progress that leaves nothing behind.

use std::process::Stdio;

use axum::http::StatusCode;
use axum::{Router, routing};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::process::Command;
use tokio::task::JoinSet;

use crate::stack::scratch::PROGRAM;
use crate::whole::interrupted::waiting;
use crate::whole::product::{PATIENCE, Product};

/// A command with a terminal; `script` gives it one, and is part of every Debian.
fn terminal(inner: &str) -> Command {
    let mut command = Command::new("script");
    command.args(["--quiet", "--return", "--command", inner, "/dev/null"]).stdin(Stdio::null());
    command.env_clear().env("PATH", env!("PATH")).env("SHELL", "/bin/sh").env("TERM", "xterm");
    command
}

#[tokio::test]
async fn colours_are_for_terminals_and_no_color_turns_them_off() {
    let on_a_terminal = async |no_color: Option<&str>| {
        let mut command = terminal(&format!("{PROGRAM} validate tests/fixtures/bad/cycle.yaml"));
        command.current_dir(env!("CARGO_MANIFEST_DIR")).envs(no_color.map(|value| ("NO_COLOR", value)));
        let output = command.output().await.unwrap();
        assert_eq!(output.status.code(), Some(1));
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(text.contains("DAG003"), "{text}");
        text.contains("\u{1b}[")
    };
    assert!(on_a_terminal(None).await);
    assert!(!on_a_terminal(Some("1")).await);
}

/// What a command answers on a terminal of so many columns.
async fn on_columns(product: &Product, columns: usize, arguments: &str) -> String {
    let home = product.folder().join("home");
    let inner = format!("stty cols {columns}; {PROGRAM} {arguments} --home {} 2>/dev/null", home.display());
    let output = terminal(&inner).env("NO_COLOR", "1").current_dir(product.folder()).output().await.unwrap();
    String::from_utf8(output.stdout).unwrap().replace('\r', "")
}

/// A server whose every page is an error of many lines.
async fn broken_pages(tasks: &mut JoinSet<()>) -> std::net::SocketAddr {
    let page = "<html>\n<body>\n  <h1>it is broken</h1>\n".to_owned() + &"  <p>this page</p>\n".repeat(9);
    let router =
        Router::new().fallback(routing::any(move || std::future::ready((StatusCode::NOT_FOUND, page.clone()))));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tasks.spawn(async move { axum::serve(listener, router).await.unwrap() });
    address
}

#[tokio::test]
async fn nothing_is_garbled_on_a_narrow_terminal_and_a_long_error_by_how_it_begins() {
    let mut servers = JoinSet::new();
    let address = broken_pages(&mut servers).await;
    let product = Product::embedded().await;
    let file = product.write(
        "orders.yaml",
        &format!(
            "orders:\n  tasks:\n    greet: {{operator: bash, bash_command: echo hello}}\n    fetch: {{operator: http, url: \"http://{address}/page\"}}\n"
        ),
    );
    let run = product.answer(&["run", &file, "--logical-date", "2026-01-05"]).await;
    assert_eq!(run.status.code(), Some(1));
    let mut shown = vec![("run_with_a_long_error", run.stdout)];
    for (name, columns, command) in [
        ("runs_on_40_columns", 40, "runs"),
        ("runs_on_80_columns", 80, "runs"),
        ("show_on_40_columns", 40, "show latest"),
        ("show_on_80_columns", 80, "show latest"),
    ] {
        let text = on_columns(&product, columns, command).await;
        let tables = text.split("\nerror of").next().unwrap_or_default();
        assert_eq!(tables.lines().find(|line| line.chars().count() > columns), None, "{text}");
        shown.push((name, text));
    }
    for (name, text) in shown {
        insta::with_settings!({filters => vec![
            (r"127\.0\.0\.1:\d+", "[server]"),
            (r"\b[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\b", "[uuid]"),
            (r"\b[0-9a-f]{8}\b", "[tail]"),
            (r" *\b\d+(\.\d)? m?s\b", " [time]"),
            (r"20\d\d-\d\d-\d\d \d\d:\d\d:\d\d", "[queued]"),
        ]}, {
            insta::assert_snapshot!(name, text);
        });
    }
    assert_eq!(run.stderr.lines().filter(|line| line.contains("<p>")).count(), 1, "{}", run.stderr);
}

#[tokio::test]
async fn what_the_keyboard_echoes_does_not_freeze_a_line_of_progress() {
    let product = Product::embedded().await;
    let flag = product.folder().join("flag");
    let file = product.write("waiting.yaml", &waiting(&flag));
    let home = product.folder().join("home");
    let inner = format!("stty cols 80; exec {PROGRAM} run {file} --home {}", home.display());
    let mut command = terminal(&inner);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).current_dir(product.folder()).kill_on_drop(true);
    let mut child = command.spawn().unwrap();
    let (mut keyboard, mut screen) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    let mut shown = String::new();
    let mut until = async |words: &str| {
        let reading = async {
            let mut bytes = [0; 1024];
            while !shown.contains(words) {
                let count = screen.read(&mut bytes).await.unwrap();
                assert!(count > 0, "nothing showed `{words}`: {shown:?}");
                shown.push_str(&String::from_utf8_lossy(&bytes[..count]));
            }
            shown.clone()
        };
        tokio::time::timeout(PATIENCE, reading).await.unwrap_or_else(|_| panic!("nothing showed `{words}` in time"))
    };
    let begun = until("1s").await;
    assert!(begun.contains("wait ") && !begun.contains("rows"), "a command has no rows: {begun:?}");
    keyboard.write_all(b"\x03").await.unwrap();
    let echoed = until("draining").await;
    let (_, after) = echoed.split_once("^C").expect("the terminal echoes");
    let (cleared, broken) = (after.find("\u{1b}[2K"), after.find('\n'));
    assert!(cleared.is_some() && broken.is_none_or(|at| cleared < Some(at)), "the echo is drawn over: {echoed:?}");
    keyboard.write_all(b"\x03").await.unwrap();
    let stopped = until("stopped before its end").await;
    let (_, after) = stopped.rsplit_once("\u{1b}[2K").unwrap();
    let is_spinner = |letter: char| ('\u{2800}'..='\u{28ff}').contains(&letter);
    assert!(!after.contains(is_spinner), "a line of progress is left: {after:?}");
}
