//! What runs other programs share: a process group that ends with the task and is bound in its number of processes, its
//! output as lines, and how it is stopped.

mod bound;
mod cgroup;
mod group;
mod lines;

use std::collections::BTreeMap;
use std::io;
use std::num::NonZeroU32;
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::Signal;
use serde::Deserialize;
use tokio::net::unix::pipe;
use tokio::process::Command;

use crate::domain::operator_kind::ConfigProblem;
use crate::domain::trace;
use crate::engine::operator::{Failure, TaskContext};
use crate::operators::config::Scalar;

use bound::Bound;
use group::ProcessGroup;
use lines::Lines;

/// How long a group that was asked to end by SIGTERM has before SIGKILL.
const TERMINATION_GRACE: Duration = Duration::from_secs(5);

/// How long what bash left running may still write before it is killed: a `tee` behind `> >(tee log)` needs an instant.
const LEFTOVER_GRACE: Duration = Duration::from_secs(5);

/// How long a killed group's output may take to end: no longer than an instant, unless somebody outside of it holds it.
const KILLED_GRACE: Duration = Duration::from_secs(1);

/// Why a command did not succeed.
#[derive(Debug, thiserror::Error)]
pub(super) enum ProcessError {
    #[error("the working directory `{}` does not exist or is not a directory", .0.display())]
    NoDirectory(PathBuf),
    #[error("could not start `{program}`{}", if .source.kind() == io::ErrorKind::NotFound { ": is it installed?" } else { "" })]
    Spawn { program: &'static str, source: io::Error },
    #[error("could not set up what bounds the command's processes (`engine.max_processes_per_task`)")]
    Bound(#[source] io::Error),
    #[error("could not make a pipe for the command's output")]
    Pipe(#[source] io::Error),
    #[error("could not wait for the command")]
    Wait(#[source] io::Error),
    #[error("the command was told to stop{last_lines}")]
    Stopped { last_lines: String },
    #[error("the command {}{last_lines}", ending(*.status))]
    Unsuccessful { status: ExitStatus, last_lines: String },
    #[error("the command ended and left processes behind{last_lines}")]
    Crowded { last_lines: String },
}

fn ending(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exited with code {code}"),
        (None, Some(signal)) => format!("was killed by signal {signal}"),
        (None, None) => format!("ended with status {status}"),
    }
}

impl From<ProcessError> for Failure {
    fn from(error: ProcessError) -> Self {
        match error {
            ProcessError::NoDirectory(_) => Self::fatal(&error),
            ProcessError::Spawn { ref source, .. } if source.kind() == io::ErrorKind::NotFound => Self::fatal(&error),
            ProcessError::Spawn { .. }
            | ProcessError::Bound(_)
            | ProcessError::Pipe(_)
            | ProcessError::Wait(_)
            | ProcessError::Stopped { .. }
            | ProcessError::Crowded { .. }
            | ProcessError::Unsuccessful { .. } => Self::retry(&error),
        }
    }
}

/// Airflow's default.
pub(super) fn default_skip() -> Option<ExitCodes> {
    Some(ExitCodes::One(99))
}

/// One exit code or several.
#[derive(Debug, Clone, Deserialize, schemars::JsonSchema)]
#[serde(untagged)]
pub(super) enum ExitCodes {
    /// One.
    One(u8),
    /// Several.
    Several(Vec<u8>),
}

impl ExitCodes {
    /// One of them.
    pub(super) fn first(&self) -> u8 {
        match self {
            Self::One(one) => *one,
            Self::Several(several) => several.first().copied().unwrap_or(99),
        }
    }

    pub(super) fn contain(&self, code: i32) -> bool {
        match self {
            Self::One(one) => i32::from(*one) == code,
            Self::Several(several) => several.iter().any(|one| i32::from(*one) == code),
        }
    }
}

/// A command that ended by itself.
pub(super) struct Finished {
    /// How.
    pub(super) status: ExitStatus,
    /// What it printed.
    pub(super) lines: Lines,
    /// How many processes it may have at once, where it wanted more.
    reached: Option<NonZeroU32>,
}

impl Finished {
    /// The failure of a command that did not end well.
    pub(super) fn failure(&self, context: &TaskContext) -> Failure {
        let last_lines = last_words(&self.lines, self.reached, context);
        ProcessError::Unsuccessful { status: self.status, last_lines }.into()
    }
}

/// The end of an error: the bound that was reached, and the last lines.
fn last_words(lines: &Lines, reached: Option<NonZeroU32>, context: &TaskContext) -> String {
    let reached = reached.map(|limit| {
        format!(" once it had as many processes as a task may have, {limit} (`engine.max_processes_per_task`)")
    });
    reached.unwrap_or_default() + &lines.last_lines(context.lookup.masks())
}

/// Runs a command in a group of its own, whose output goes to the attempt's log. When it returns nothing of the group is
/// left.
pub(super) async fn run(
    mut command: Command,
    program: &'static str,
    context: &TaskContext,
) -> Result<Finished, ProcessError> {
    let limit = context.processes.limit;
    let bound = Bound::new(limit).map_err(ProcessError::Bound)?;
    let mut group = ProcessGroup::new(bound).map_err(|source| ProcessError::Spawn { program: "sh", source })?;
    let (mut output, writer) = output_pipe().map_err(ProcessError::Pipe)?;
    command.stdin(Stdio::null()).stdout(writer.try_clone().map_err(ProcessError::Pipe)?).stderr(writer);
    command.kill_on_drop(true);
    group.admit(&mut command);
    // Aside, for it waits until the process is in its cgroup, which takes the kernel some milliseconds. With the command
    // go the pipe's writing ends that it holds: with them the output would never end.
    let spawned = tokio::task::spawn_blocking(move || command.spawn()).await;
    let spawned = spawned.unwrap_or_else(|error| Err(io::Error::other(error)));
    let mut child = spawned.map_err(|source| ProcessError::Spawn { program, source })?;

    let mut lines = Lines::new(context.log.clone(), context.output_limit);
    let running = lines.copy_while(&mut output, child.wait());
    let Some(status) = context.cancel.run_until_cancelled(running).await else {
        group.signal(Signal::TERM);
        // What it prints while it cleans up is read on: a pipe without a reader would kill it by SIGPIPE. Whether it
        // ends in time makes no difference: what is left of the group is killed either way, and at once where another
        // attempt may begin beside it.
        let ending = lines.copy_while(&mut output, child.wait());
        let _ = tokio::time::timeout(TERMINATION_GRACE, context.lost.run_until_cancelled(ending)).await;
        let seen = group.kill().await;
        let _ = lines.copy_rest(&mut output, KILLED_GRACE).await;
        let reached = limit.filter(|_| seen.refused > 0);
        return Err(ProcessError::Stopped { last_lines: last_words(&lines, reached, context) });
    };
    if lines.copy_rest(&mut output, LEFTOVER_GRACE).await.is_err() {
        // Ours, not the command's: it must be neither among its last lines nor its value.
        context.log.line("the command ended and left processes behind that hold its output: they are killed");
    }
    let seen = group.kill().await;
    let status = status.map_err(ProcessError::Wait)?;
    let reached = limit.filter(|_| seen.refused > 0);
    if status.success() && reached.is_some() && seen.is_alive {
        return Err(ProcessError::Crowded { last_lines: last_words(&lines, reached, context) });
    }
    Ok(Finished { status, lines, reached })
}

/// Keeps pinsched's own configuration from a command that inherits the environment.
#[expect(clippy::disallowed_methods, reason = "the names alone, to keep pinsched's own from the command")]
pub(super) fn hide_our_own(command: &mut Command) {
    for (name, _) in std::env::vars_os() {
        if is_our_own(&name.to_string_lossy()) {
            command.env_remove(name);
        }
    }
}

/// Tells a command which run it belongs to, by Airflow's variables.
pub(super) fn set_run(command: &mut Command, context: &TaskContext) {
    let logical_date = context.logical_date.to_rfc3339();
    command
        .env("AIRFLOW_CTX_DAG_ID", context.dag_id.as_str())
        .env("AIRFLOW_CTX_TASK_ID", context.task_id.as_str())
        .env("AIRFLOW_CTX_DAG_RUN_ID", context.run_id.as_str())
        .env("AIRFLOW_CTX_LOGICAL_DATE", &logical_date)
        .env("AIRFLOW_CTX_EXECUTION_DATE", &logical_date)
        .env("AIRFLOW_CTX_TRY_NUMBER", context.attempt.try_number.to_string());
    if context.processes.are_traced {
        command.env("TRACEPARENT", trace::traceparent(&context.attempt));
    }
}

/// What is wrong with a variable of `env`.
pub(super) fn environment_problems(env: &BTreeMap<String, Scalar>) -> Vec<ConfigProblem> {
    let mut problems = Vec::new();
    for (name, value) in env {
        if name.is_empty() || name.contains(['=', '\0']) || value.clone().into_text().contains('\0') {
            let message = format!("`{name}` is not the name of an environment variable, or its value has a NUL in it");
            problems.push(ConfigProblem { path: vec!["env".to_owned(), name.clone()], message, help: None });
        }
    }
    problems
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
