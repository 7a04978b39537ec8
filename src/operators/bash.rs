//! `bash`: runs a command by `bash -c`, as Airflow's `BashOperator` does.
//!
//! Stdout and stderr go to the attempt's log, line by line in the order in which they came; the last line is the
//! output's `return_value`. The working directory is the DAG file's folder unless `cwd` names another. What runs
//! belongs to a group that ends with the task, and has at most `engine.max_processes_per_task` processes at once: what
//! should outlive the task is started by somebody else, as by `systemd-run`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use async_trait::async_trait;
use serde::Deserialize;
use serde_json::Value;
use tokio::process::Command;

use crate::domain::operator_kind::{ConfigProblem, OperatorKind};
use crate::engine::operator::{Failure, Operator, Output, Registration, TaskContext};
use crate::operators::config::{self, Scalar};
use crate::operators::process::{self, ExitCodes, ProcessError};

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
    #[serde(default = "process::default_skip")]
    skip_on_exit_code: Option<ExitCodes>,
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
    problems.extend(bash.env.iter().flat_map(process::environment_problems));
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
            return Err(ProcessError::NoDirectory(directory).into());
        }
        let mut command = Command::new("bash");
        command.arg("-c").arg(&self.bash_command).current_dir(directory);
        self.set_environment(&mut command, context);
        let finished = process::run(command, "bash", context).await?;
        let status = finished.status;
        if let Some(code) = status.code()
            && code != 0
            && self.skip_on_exit_code.as_ref().is_some_and(|codes| codes.contain(code))
        {
            return Err(Failure::Skip(format!("the command exited with code {code}")));
        }
        if !status.success() {
            return Err(finished.failure(context));
        }
        let last_line = finished.lines.last_line().map_err(|error| Failure::fatal(&error))?;
        let mut output = Output::new();
        output.insert("exit_code".to_owned(), Value::from(0));
        output.insert("return_value".to_owned(), Value::from(&*context.lookup.masks().mask(&last_line)));
        Ok(output)
    }
}

impl Bash {
    /// Airflow's rules: `env` replaces what is inherited unless `append_env`; the run's own variables always come.
    fn set_environment(&self, command: &mut Command, context: &TaskContext) {
        if self.env.is_some() && !self.append_env {
            command.env_clear();
        } else {
            process::hide_our_own(command);
        }
        process::set_run(command, context);
        for (name, value) in self.env.iter().flatten() {
            command.env(name, value.clone().into_text());
        }
    }
}
