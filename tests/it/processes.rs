//! `pinsched` as processes on a database of the test's, with nothing else to reach.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

/// A command of `pinsched`.
pub fn pinsched(database: &str, home: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pinsched"));
    command.env("DATABASE_URL", database).env("PINSCHED_HOME", home);
    command
        .env("PINSCHED_KAFKA_BOOTSTRAP_SERVERS", "127.0.0.1:1")
        .env("PINSCHED_SOURCE_URL", "mysql://a@127.0.0.1:1/a");
    command.env("PINSCHED_S3_ENDPOINT_URL", "http://127.0.0.1:1");
    command.env("PINSCHED_S3_ACCESS_KEY_ID", "a").env("PINSCHED_S3_SECRET_ACCESS_KEY", "a");
    command.stdin(Stdio::null());
    command
}

/// What a command that succeeds answers.
pub fn answer(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?}: {}\n{stdout}\n{stderr}", output.status);
    stdout.into_owned()
}

/// A service in a process of its own.
pub struct Process(Child);

impl Process {
    /// Serves a folder of DAG files.
    pub fn serve(database: &str, dags: &Path, home: &Path, parallelism: u32) -> Self {
        let mut command = pinsched(database, home);
        command.args(["serve", "--listen", "off", "--dags"]).arg(dags);
        command.env("PINSCHED_PARALLELISM", parallelism.to_string());
        Self(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        // One that ended by itself is found by the tasks that hang.
        let _ = kill_process(Pid::from_child(&self.0), signal);
    }

    /// Tells it to stop, and waits until it has handed back what it held.
    pub fn drain(&mut self) {
        self.signal(Signal::TERM);
        let _ = self.0.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
