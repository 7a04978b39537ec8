//! `pinsched` as a process, and a home whose stack stays up while a test looks inside.

use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use pinsched::connect::s3::S3;
use pinsched::embedded::StackLease;
use rdkafka::ClientConfig;
use serde_json::Value;
use tokio::process::{Child, Command};

use crate::stack::scratch::{PROGRAM, Scratch, kafka, lease, s3};

/// Longer than any run of a test takes on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(180);

/// A home with its stack.
pub struct Product {
    scratch: Scratch,
    lease: StackLease,
    kafka: Option<String>,
}

/// What a command answered.
pub struct Answer {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

impl Product {
    /// Everything embedded.
    pub async fn embedded() -> Self {
        Self::embedded_in(Scratch::new()).await
    }

    /// The same, in a folder that was prepared.
    pub async fn embedded_in(scratch: Scratch) -> Self {
        let lease = lease(&scratch.request("home")).await;
        Self { scratch, lease, kafka: None }
    }

    /// The same with another Kafka.
    pub async fn with_kafka(bootstrap_servers: String) -> Self {
        Self { kafka: Some(bootstrap_servers), ..Self::embedded().await }
    }

    /// What a Kafka client of the test's own starts from.
    pub fn kafka(&self) -> ClientConfig {
        let Some(servers) = &self.kafka else { return kafka(&self.lease) };
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", servers);
        config
    }

    /// The database of pinsched's own state.
    pub fn database_url(&self) -> String {
        self.lease.urls().database_url.clone().unwrap()
    }

    /// The object store, by a client of the test's own.
    pub async fn s3(&self) -> S3 {
        s3(&self.lease).await
    }

    /// The folder in which commands run.
    pub fn folder(&self) -> &Path {
        self.scratch.path()
    }

    /// Writes a file into that folder.
    pub fn write(&self, name: &str, text: &str) -> String {
        let path = self.scratch.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_string_lossy().into_owned()
    }

    /// Holds the stack anew, which was killed under this.
    pub async fn hold_again(&mut self) {
        self.lease = lease(&self.scratch.request("home")).await;
    }

    /// The home of its stack.
    pub fn home(&self) -> PathBuf {
        self.scratch.path().join("home")
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(PROGRAM);
        command.args(arguments).arg("--home").arg(self.home()).current_dir(self.scratch.path());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        command.env_clear().env("PATH", env!("PATH")).env("HOME", self.scratch.path());
        if let Some(kafka) = &self.kafka {
            command.env("PINSCHED_KAFKA_BOOTSTRAP_SERVERS", kafka);
        }
        command
    }

    /// Starts a command.
    pub fn start(&self, arguments: &[&str]) -> Child {
        self.command(arguments).spawn().unwrap()
    }

    /// Runs a command to its end.
    pub async fn answer(&self, arguments: &[&str]) -> Answer {
        let output = tokio::time::timeout(PATIENCE, self.command(arguments).output()).await;
        let output = output.unwrap_or_else(|_| panic!("{arguments:?} has not ended after {PATIENCE:?}")).unwrap();
        Answer {
            status: output.status,
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// Runs a command that must succeed, with a JSON answer.
    pub async fn json(&self, arguments: &[&str]) -> Value {
        let answer = self.answer(&[arguments, &["--output", "json"]].concat()).await;
        assert!(answer.status.success(), "{arguments:?}: {}\n{}\n{}", answer.status, answer.stdout, answer.stderr);
        serde_json::from_str(&answer.stdout).unwrap_or_else(|error| panic!("{error}: {}", answer.stdout))
    }
}

/// A DAG file of the repository.
pub fn dag_file(name: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("dags").join(name).to_string_lossy().into_owned()
}
