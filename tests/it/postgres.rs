//! A Postgres server of a test's own, which it may stop and start as it likes.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, geteuid, kill_process};
use secrecy::SecretString;
use sqlx::{Connection, PgConnection};
use tempfile::TempDir;

use crate::services;

/// A server with its data.
pub struct Server {
    folder: TempDir,
    programs: PathBuf,
    port: u16,
    running: Option<Child>,
}

/// How a server is stopped.
#[derive(Debug, Clone, Copy)]
pub enum Stop {
    /// In good order, but without waiting for its clients.
    Fast,
    /// At once: it recovers when it starts again.
    Immediate,
}

impl Server {
    /// Starts one whose only user trusts everybody.
    pub async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let programs = programs();
        if geteuid().is_root() {
            // Postgres refuses to run as root: its data is another user's, who must pass.
            run(Command::new("chmod").arg("711").arg(folder.path()));
            fs::create_dir(folder.path().join("data")).unwrap();
            run(Command::new("chown").arg("postgres:").arg(folder.path().join("data")));
        }
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut server = Self { folder, programs, port, running: None };
        let arguments = ["--username", "dev", "--auth", "trust", "--encoding", "UTF8", "--locale", "C", "--no-sync"];
        run(server.command("initdb").arg("--pgdata").arg(server.data()).args(arguments));
        server.go_on().await;
        server
    }

    /// The address of its database.
    pub fn url(&self) -> SecretString {
        SecretString::from(format!("postgres://dev@127.0.0.1:{}/postgres", self.port))
    }

    /// Stops it and starts it again.
    pub async fn restart(&mut self, stop: Stop) {
        self.stop(stop);
        self.go_on().await;
    }

    fn stop(&mut self, stop: Stop) {
        let Some(mut running) = self.running.take() else { return };
        let signal = match stop {
            Stop::Fast => Signal::INT,
            Stop::Immediate => Signal::QUIT,
        };
        kill_process(Pid::from_child(&running), signal).unwrap();
        running.wait().unwrap();
    }

    async fn go_on(&mut self) {
        let mut command = self.command("postgres");
        command.arg("-D").arg(self.data()).arg("-p").arg(self.port.to_string());
        for setting in ["listen_addresses=127.0.0.1", "unix_socket_directories=", "max_connections=200", "fsync=off"] {
            command.args(["-c", setting]);
        }
        self.running = Some(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
        let answers = async {
            let mut look = tokio::time::interval(Duration::from_millis(50));
            let url = format!("postgres://dev@127.0.0.1:{}/postgres", self.port);
            loop {
                look.tick().await;
                if let Ok(connection) = PgConnection::connect(&url).await {
                    connection.close().await.unwrap();
                    return;
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(60), answers).await.expect("the server answers within 60 s");
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn command(&self, program: &str) -> Command {
        let program = self.programs.join(program);
        if !geteuid().is_root() {
            return Command::new(program);
        }
        let mut command = Command::new("setpriv");
        command.args(["--reuid", "postgres", "--regid", "postgres", "--init-groups", "--"]).arg(program);
        command
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop(Stop::Immediate);
    }
}

/// PostgreSQL 18's programs, where the tests have them; else the newest of the distribution's.
fn programs() -> PathBuf {
    services::postgres_18().or_else(distributions).expect("the machine has Postgres's programs")
}

fn distributions() -> Option<PathBuf> {
    let versions = fs::read_dir(Path::new("/usr/lib/postgresql")).ok()?;
    let mut found: Vec<PathBuf> = versions.filter_map(|entry| Some(entry.ok()?.path().join("bin"))).collect();
    found.retain(|folder| folder.join("initdb").exists());
    found.sort();
    found.pop()
}

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}
