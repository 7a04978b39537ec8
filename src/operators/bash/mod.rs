//! `bash`: runs a command by `bash -c`, as Airflow's `BashOperator` does.
//!
//! Stdout and stderr go to the attempt's log, line by line in the order in which they came; the last line is the
//! output's `return_value`. The working directory is the DAG file's folder unless `cwd` names another. What runs
//! belongs to a [`group`] that ends with the task: a process that should outlive it is started by `setsid`.

mod group;
mod lines;

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use async_trait::async_trait;
use rustix::process::Signal;
use serde::Deserialize;
use serde_json::Value;
use tokio::net::unix::pipe;
use tokio::process::Command;

use crate::domain::operator_kind::{ConfigProblem, OperatorKind};
use crate::engine::operator::{Failure, Operator, Output, Registration, TaskContext};
use crate::operators::config::{self, Scalar};

use group::ProcessGroup;
use lines::Lines;

pub(crate) const REGISTRATION: Registration = Registration { kind: &KIND, build };

static KIND: OperatorKind = OperatorKind {
    name: "bash",
    class_paths: &[
        "airflow.providers.standard.operators.bash.BashOperator",
        "airflow.operators.bash.BashOperator",
        "airflow.operators.bash_operator.BashOperator",
    ],
    about: "Runs a command by bash",
    schema: || schemars::schema_for!(Bash),
    check: |value| config::check(value, problems),
    late_fields: &[],
    file_keys: &[],
};

/// How long a group that was asked to end by SIGTERM has before SIGKILL.
const TERMINATION_GRACE: Duration = Duration::from_secs(5);

/// How long what bash left running may still write before it is killed: a `tee` behind `> >(tee log)` needs an instant.
const LEFTOVER_GRACE: Duration = Duration::from_secs(5);

/// How long a killed group's output may take to end: no longer than an instant, unless somebody outside of it holds it.
const KILLED_GRACE: Duration = Duration::from_secs(1);

/// The keys of a `bash` task.
#[derive(Debug, Clone, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
struct Bash {
    /// The command, as one would type it; several lines are a script.
    bash_command: String,
    /// Environment variables. As in Airflow they replace the inherited ones unless `append_env` is set.
    #[serde(default)]
    env: Option<BTreeMap<String, Scalar>>,
    /// Adds `env` to the inherited environment rather than replacing it.
    #[serde(default)]
    append_env: bool,
    /// The working directory; relative ones start at the DAG file's folder, which is also the default.
    #[serde(default)]
    cwd: Option<PathBuf>,
    /// The exit code, or codes, with which the command says that there is nothing to do: the task counts as skipped. 99
    /// unless given; `null` for none.
    #[serde(default = "default_skip")]
    skip_on_exit_code: Option<ExitCodes>,
}

/// Airflow's default.
fn default_skip() -> Option<ExitCodes> {
    Some(ExitCodes::One(99))
}

/// One exit code or several.
#[derive(Debug, Clone, Deserialize, schemars::JsonSchema)]
#[serde(untagged)]
enum ExitCodes {
    /// One.
    One(u8),
    /// Several.
    Several(Vec<u8>),
}

impl ExitCodes {
    fn contain(&self, code: i32) -> bool {
        match self {
            Self::One(one) => i32::from(*one) == code,
            Self::Several(several) => several.iter().any(|one| i32::from(*one) == code),
        }
    }
}

/// Why a command did not succeed.
#[derive(Debug, thiserror::Error)]
enum BashError {
    #[error("the working directory `{}` does not exist or is not a directory", .0.display())]
    NoDirectory(PathBuf),
    #[error("could not start `{program}`{}", if .source.kind() == io::ErrorKind::NotFound { ": is it installed?" } else { "" })]
    Spawn { program: &'static str, source: io::Error },
    #[error("could not make a pipe for the command's output")]
    Pipe(#[source] io::Error),
    #[error("could not wait for the command")]
    Wait(#[source] io::Error),
    #[error("the command was told to stop{last_lines}")]
    Stopped { last_lines: String },
    #[error("the command {}{last_lines}", ending(*.status))]
    Unsuccessful { status: ExitStatus, last_lines: String },
}

fn ending(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exited with code {code}"),
        (None, Some(signal)) => format!("was killed by signal {signal}"),
        (None, None) => format!("ended with status {status}"),
    }
}

impl From<BashError> for Failure {
    fn from(error: BashError) -> Self {
        match error {
            BashError::NoDirectory(_) => Self::fatal(&error),
            BashError::Spawn { ref source, .. } if source.kind() == io::ErrorKind::NotFound => Self::fatal(&error),
            BashError::Spawn { .. }
            | BashError::Pipe(_)
            | BashError::Wait(_)
            | BashError::Stopped { .. }
            | BashError::Unsuccessful { .. } => Self::retry(&error),
        }
    }
}

fn build(config: Value) -> Result<Box<dyn Operator>, serde_json::Error> {
    Ok(Box::new(serde_json::from_value::<Bash>(config)?))
}

fn problems(bash: &Bash) -> Vec<ConfigProblem> {
    let mut problems = Vec::new();
    if bash.bash_command.trim().is_empty() {
        problems.push(ConfigProblem::at("bash_command", "the command is empty"));
    }
    if bash.bash_command.contains('\0') {
        problems.push(ConfigProblem::at("bash_command", "a command cannot have a NUL character in it"));
    }
    for (name, value) in bash.env.iter().flatten() {
        if name.is_empty() || name.contains(['=', '\0']) || value.clone().into_text().contains('\0') {
            let message = format!("`{name}` is not the name of an environment variable, or its value has a NUL in it");
            problems.push(ConfigProblem { path: vec!["env".to_owned(), name.clone()], message, help: None });
        }
    }
    problems
}

#[async_trait]
impl Operator for Bash {
    async fn run(&self, context: &TaskContext) -> Result<Output, Failure> {
        let directory = match &self.cwd {
            Some(directory) => context.dag_folder.join(directory),
            None => context.dag_folder.clone(),
        };
        if !tokio::fs::metadata(&directory).await.is_ok_and(|found| found.is_dir()) {
            return Err(BashError::NoDirectory(directory).into());
        }
        let group = ProcessGroup::new().map_err(|source| BashError::Spawn { program: "sh", source })?;
        let (mut output, writer) = output_pipe().map_err(BashError::Pipe)?;
        let mut command = Command::new("bash");
        command.arg("-c").arg(&self.bash_command).current_dir(directory).stdin(Stdio::null());
        command.stdout(writer.try_clone().map_err(BashError::Pipe)?).stderr(writer);
        command.process_group(group.id()).kill_on_drop(true);
        self.set_environment(&mut command, context);
        let mut child = command.spawn().map_err(|source| BashError::Spawn { program: "bash", source })?;
        // The command holds the pipe's writing ends: without this the output would never end.
        drop(command);

        let mut lines = Lines::new(context.log.clone());
        let running = lines.copy_while(&mut output, child.wait());
        let Some(status) = context.cancel.run_until_cancelled(running).await else {
            group.signal(Signal::TERM);
            // What it prints while it cleans up is read on: a pipe without a reader would kill it by SIGPIPE. Whether it
            // ends in time makes no difference: what is left of the group is killed either way.
            let ending = lines.copy_while(&mut output, child.wait());
            let _ = tokio::time::timeout(TERMINATION_GRACE, ending).await;
            group.kill().await;
            let _ = lines.copy_rest(&mut output, KILLED_GRACE).await;
            return Err(BashError::Stopped { last_lines: lines.last_lines(context.lookup.masks()) }.into());
        };
        if lines.copy_rest(&mut output, LEFTOVER_GRACE).await.is_err() {
            // Ours, not the command's: it must be neither among its last lines nor its value.
            context.log.line("the command ended and left processes behind that hold its output: they are killed");
        }
        group.kill().await;
        let status = status.map_err(BashError::Wait)?;
        if let Some(code) = status.code()
            && code != 0
            && self.skip_on_exit_code.as_ref().is_some_and(|codes| codes.contain(code))
        {
            return Err(Failure::Skip(format!("the command exited with code {code}")));
        }
        if !status.success() {
            return Err(BashError::Unsuccessful { status, last_lines: lines.last_lines(context.lookup.masks()) }.into());
        }
        let mut output = Output::new();
        output.insert("exit_code".to_owned(), Value::from(0));
        output.insert("return_value".to_owned(), Value::from(&*context.lookup.masks().mask(&lines.last_line())));
        Ok(output)
    }
}

impl Bash {
    /// Airflow's rules: `env` replaces what is inherited unless `append_env`; the run's own variables always come.
    #[expect(clippy::disallowed_methods, reason = "the names alone, to keep pinsched's own from the command")]
    fn set_environment(&self, command: &mut Command, context: &TaskContext) {
        if self.env.is_some() && !self.append_env {
            command.env_clear();
        } else {
            for (name, _) in std::env::vars_os() {
                if is_our_own(&name.to_string_lossy()) {
                    command.env_remove(name);
                }
            }
        }
        let logical_date = context.logical_date.to_rfc3339();
        command
            .env("AIRFLOW_CTX_DAG_ID", context.dag_id.as_str())
            .env("AIRFLOW_CTX_TASK_ID", context.task_id.as_str())
            .env("AIRFLOW_CTX_DAG_RUN_ID", context.run_id.as_str())
            .env("AIRFLOW_CTX_LOGICAL_DATE", &logical_date)
            .env("AIRFLOW_CTX_EXECUTION_DATE", &logical_date)
            .env("AIRFLOW_CTX_TRY_NUMBER", context.attempt.try_number.to_string());
        for (name, value) in self.env.iter().flatten() {
            command.env(name, value.clone().into_text());
        }
    }
}

/// Whether a variable is pinsched's configuration, which may hold passwords and is no business of a command's.
fn is_our_own(name: &str) -> bool {
    name.starts_with("PINSCHED_") || name.starts_with("AIRFLOW_CONN_") || name == "DATABASE_URL"
}

/// One pipe for both streams, so that their lines stay in order.
fn output_pipe() -> io::Result<(pipe::Receiver, OwnedFd)> {
    let (reader, writer) = io::pipe()?;
    Ok((pipe::Receiver::from_owned_fd(reader.into())?, writer.into()))
}
