//! Connections, variables and secrets, as processes have them: where they are found, how they are kept, what is shown.

mod found;
mod kept;
mod tried;

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::http::StatusCode;
use axum::response::Json;
use axum::routing::any;
use secrecy::ExposeSecret;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio::process::Command;
use tokio::task::JoinSet;

use crate::services;
use crate::stack::scratch::{PROGRAM, Scratch};

/// Longer than any command of these tests takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// A folder and a database of its own in which `pinsched` runs, with nothing else to reach.
struct Place {
    scratch: Scratch,
    database: String,
    variables: Vec<(String, String)>,
}

/// What a command answered.
struct Answer {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl Answer {
    #[track_caller]
    fn done(self) -> String {
        assert_eq!(self.code, Some(0), "{}\n{}", self.stdout, self.stderr);
        self.stdout
    }

    #[track_caller]
    fn refused(self, code: i32) -> String {
        assert_eq!(self.code, Some(code), "{}\n{}", self.stdout, self.stderr);
        self.stderr
    }
}

impl Place {
    async fn new() -> Self {
        let database = services::database().await.expose_secret().to_owned();
        Self { scratch: Scratch::new(), database, variables: Vec::new() }
    }

    /// The same with a key for what is sealed.
    async fn with_key() -> Self {
        let mut place = Self::new().await;
        let key = place.answer(&["secrets", "key"], "").await.done();
        place.set("PINSCHED_SECRET_KEY", key.trim());
        place
    }

    fn set(&mut self, name: &str, value: &str) {
        self.variables.retain(|(known, _)| known != name);
        self.variables.push((name.to_owned(), value.to_owned()));
    }

    fn folder(&self) -> &Path {
        self.scratch.path()
    }

    fn write(&self, name: &str, text: &str) -> String {
        let path = self.folder().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_string_lossy().into_owned()
    }

    async fn answer(&self, arguments: &[&str], stdin: &str) -> Answer {
        let mut command = Command::new(PROGRAM);
        command.args(arguments).current_dir(self.folder()).kill_on_drop(true);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.env_clear().env("PATH", env!("PATH")).env("HOME", self.folder()).env("DATABASE_URL", &self.database);
        // All is configured, and nothing is there: what these tests run reaches for none of it.
        command
            .env("PINSCHED_KAFKA_BOOTSTRAP_SERVERS", "127.0.0.1:9")
            .env("PINSCHED_SOURCE_URL", "mysql://127.0.0.1:9/x");
        command.env("PINSCHED_S3_ENDPOINT_URL", "http://127.0.0.1:9");
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        let run = async {
            let mut child = command.spawn().unwrap();
            let mut input = child.stdin.take().unwrap();
            let _ = input.write_all(stdin.as_bytes()).await; // a command that does not read it closes it
            drop(input);
            child.wait_with_output().await.unwrap()
        };
        let output = tokio::time::timeout(PATIENCE, run).await;
        let output = output.unwrap_or_else(|_| panic!("{arguments:?} has not ended after {PATIENCE:?}"));
        Answer {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    async fn json(&self, arguments: &[&str]) -> Value {
        let answer = self.answer(&[arguments, &["--output", "json"]].concat(), "").await.done();
        serde_json::from_str(&answer).unwrap_or_else(|error| panic!("{error}: {answer}"))
    }

    /// The whole log of a task's last attempt of the latest run.
    async fn log(&self, task: &str) -> String {
        self.answer(&["logs", "latest", task], "").await.done()
    }
}

/// A service that says back what it was sent, and refuses a login on `/denied`.
async fn service(tasks: &mut JoinSet<()>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let router = Router::new().route("/denied", any(|| async { StatusCode::UNAUTHORIZED })).fallback(echo);
    tasks.spawn(async move { axum::serve(listener, router).await.unwrap() });
    address
}

async fn echo(request: Request) -> Json<Value> {
    let header = |name| request.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    Json(json!({
        "target": request.uri().to_string(),
        "authorization": header("authorization"),
        "version": header("x-api-version"),
    }))
}
