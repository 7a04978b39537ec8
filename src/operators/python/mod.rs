//! `python`: runs the user's own script, module or function in a process of its own.
//!
//! The process is told what it may know by a JSON file, `PINSCHED_CONTEXT`, and leaves its output in another,
//! `PINSCHED_OUTPUT`; what a function returns becomes the output's `return_value`. What it prints is logged.

mod config;
mod decide;

use std::path::{Path, PathBuf};

use async_trait::async_trait;
use serde_json::{Map, Value, json};
use tokio::io::AsyncReadExt;
use tokio::process::Command;

use crate::domain::operator_kind::OperatorKind;
use crate::engine::operator::{Failure, Operator, Output, Registration, TaskContext};
use crate::operators::process::{self, ProcessError};

use config::{Python, Target};

pub(crate) use decide::{BRANCH, SHORT_CIRCUIT};

pub(crate) const REGISTRATION: Registration = Registration { kind: &KIND, build };

static KIND: OperatorKind = OperatorKind {
    name: "python",
    class_paths: &[
        "airflow.providers.standard.operators.python.PythonOperator",
        "airflow.providers.standard.operators.python.ExternalPythonOperator",
        "airflow.operators.python.PythonOperator",
        "airflow.operators.python.ExternalPythonOperator",
        "airflow.operators.python_operator.PythonOperator",
    ],
    about: "Runs a Python script, module or function",
    schema: || schemars::schema_for!(Python),
    check: |value| crate::operators::config::check(value, config::problems),
    late_fields: &[],
    file_keys: &["script", "python_callable_file"],
};

/// What calls a function.
const RUNNER: &str = include_str!("runner.py");

/// Why a Python process did not succeed.
#[derive(Debug, thiserror::Error)]
enum PythonError {
    #[error("a folder for the process's files could not be made, or read")]
    Files(#[source] std::io::Error),
    #[error(
        "the output has {bytes} bytes, and `outputs.limit` (PINSCHED_OUTPUTS_LIMIT) allows {limit}: write the data to object \
         storage or a table in the task, and leave its name"
    )]
    OutputTooLarge { bytes: u64, limit: u64 },
    #[error("the output is not JSON: PINSCHED_OUTPUT is to hold one object")]
    OutputNotJson(#[source] serde_json::Error),
    #[error(
        "the output has {found} in line {line}, column {column}, which JSON does not have: write null, or leave it out"
    )]
    OutputNotFinite { found: &'static str, line: usize, column: usize },
    #[error("the output cannot be kept: {0}")]
    OutputRefused(String),
    #[error("the output is not a JSON object")]
    OutputNoObject,
}

impl From<PythonError> for Failure {
    fn from(error: PythonError) -> Self {
        match error {
            PythonError::Files(_) => Self::retry(&error),
            PythonError::OutputTooLarge { .. }
            | PythonError::OutputNotJson(_)
            | PythonError::OutputNotFinite { .. }
            | PythonError::OutputRefused(_)
            | PythonError::OutputNoObject => Self::fatal(&error),
        }
    }
}

fn build(config: Value) -> Result<Box<dyn Operator>, serde_json::Error> {
    Ok(Box::new(serde_json::from_value::<Python>(config)?))
}

#[async_trait]
impl Operator for Python {
    async fn run(&self, context: &TaskContext) -> Result<Output, Failure> {
        self.execute(context).await
    }
}

impl Python {
    /// Runs it, and gives what it left.
    async fn execute(&self, context: &TaskContext) -> Result<Output, Failure> {
        let Some(target) = self.target() else {
            return Err(Failure::Fatal("it names nothing to run, or several things".to_owned()));
        };
        let directory =
            self.cwd.as_ref().map_or_else(|| context.dag_folder.clone(), |cwd| context.dag_folder.join(cwd));
        if !tokio::fs::metadata(&directory).await.is_ok_and(|found| found.is_dir()) {
            return Err(ProcessError::NoDirectory(directory).into());
        }
        let scratch = tempfile::tempdir().map_err(PythonError::Files)?;
        let [told, left, refused] =
            ["context.json", "output.json", "refused.txt"].map(|name| scratch.path().join(name));
        write(&told, &known(context)?).await?;
        let mut command = Command::new(self.interpreter(&context.dag_folder));
        command.current_dir(&directory);
        let words =
            self.op_args.iter().map(|argument| argument.as_str().map_or_else(|| argument.to_string(), str::to_owned));
        match &target {
            Target::Script(script) => command.arg(context.dag_folder.join(script)).args(words),
            Target::Module(module) => command.arg("-m").arg(module).args(words),
            Target::Function { .. } | Target::FunctionOfFile { .. } => {
                let call = scratch.path().join("call.json");
                write(&call, &self.call(&target, &context.dag_folder, &refused)).await?;
                command.arg("-c").arg(RUNNER).arg(call)
            }
        };
        process::hide_our_own(&mut command);
        process::set_run(&mut command, context);
        command.env("PINSCHED_CONTEXT", &told).env("PINSCHED_OUTPUT", &left);
        command.env("PYTHONUNBUFFERED", "1").env("PYTHONIOENCODING", "utf-8:backslashreplace");
        for (name, value) in self.env.iter().flatten() {
            command.env(name, value.clone().into_text());
        }
        let finished = process::run(command, "python", context).await?;
        let status = finished.status;
        if status.success() {
            return Ok(output(&left, context.output_limit).await?);
        }
        // First: Python exits with 1 then, which may be a code that skips.
        if let Ok(words) = tokio::fs::read_to_string(&refused).await {
            return Err(PythonError::OutputRefused(words).into());
        }
        if let Some(code) = status.code()
            && self.skip_on_exit_code.as_ref().is_some_and(|codes| codes.contain(code))
        {
            return Err(Failure::Skip(format!("the process exited with code {code}")));
        }
        Err(finished.failure(context))
    }
}

impl Python {
    fn interpreter(&self, folder: &Path) -> PathBuf {
        match (&self.venv, &self.python) {
            (Some(venv), _) => folder.join(venv).join("bin/python"),
            // A bare name is looked up in PATH; anything else is a path.
            (None, Some(python)) if python.components().count() > 1 => folder.join(python),
            (None, Some(python)) => python.clone(),
            (None, None) => PathBuf::from("python3"),
        }
    }

    /// What the runner is to call, and where it says why it cannot keep what that returned.
    fn call(&self, target: &Target<'_>, folder: &Path, refused: &Path) -> Value {
        let (module, file, function) = match target {
            Target::Function { module, function } => (Some(*module), None, Some(*function)),
            Target::FunctionOfFile { file, function } => (None, Some(folder.join(file)), Some(*function)),
            Target::Script(_) | Target::Module(_) => (None, None, None),
        };
        json!({
            "module": module,
            "file": file,
            "function": function,
            "args": self.op_args,
            "kwargs": self.op_kwargs,
            "refused": refused,
            "skip": self.skip_on_exit_code.as_ref().map_or(99, |codes| codes.first()),
        })
    }
}

/// What the process may know, by Airflow's names.
fn known(context: &TaskContext) -> Result<Value, Failure> {
    let names = ["ds", "ds_nodash", "ts", "logical_date", "data_interval_start", "data_interval_end", "params"];
    let templates: Map<String, Value> =
        names.into_iter().map(|name| (name.to_owned(), Value::from(format!("{{{{ {name} }}}}")))).collect();
    let rendered = context.templates.scope().render_config(&Value::Object(templates), &[])?;
    let Value::Object(mut known) = rendered else { return Ok(rendered) };
    let outputs: Map<String, Value> =
        context.outputs.iter().filter_map(|(task, output)| Some((task.to_string(), output.value()?.clone()))).collect();
    known.insert("dag_id".to_owned(), json!(context.dag_id.as_str()));
    known.insert("run_id".to_owned(), json!(context.run_id.as_str()));
    known.insert("task_id".to_owned(), json!(context.task_id.as_str()));
    known.insert("try_number".to_owned(), json!(context.attempt.try_number));
    known.insert("map_index".to_owned(), json!(context.map_index.map_or(-1, i64::from)));
    known.insert("outputs".to_owned(), Value::Object(outputs));
    Ok(Value::Object(known))
}

async fn write(path: &Path, value: &Value) -> Result<(), PythonError> {
    tokio::fs::write(path, value.to_string()).await.map_err(PythonError::Files)
}

/// What the process left, an empty object where it left nothing. What is too large is not read.
async fn output(path: &Path, limit: u64) -> Result<Output, PythonError> {
    let file = match tokio::fs::metadata(path).await {
        Ok(found) if found.is_file() => tokio::fs::File::open(path).await.map_err(PythonError::Files)?,
        _ => return Ok(Output::new()),
    };
    let bytes = file.metadata().await.map_err(PythonError::Files)?.len();
    if bytes > limit {
        return Err(PythonError::OutputTooLarge { bytes, limit });
    }
    let mut text = Vec::new();
    file.take(limit).read_to_end(&mut text).await.map_err(PythonError::Files)?;
    if text.trim_ascii().is_empty() {
        return Ok(Output::new());
    }
    match serde_json::from_slice(&text).map_err(|error| not_json(&text, error))? {
        Value::Object(output) => Ok(output),
        _ => Err(PythonError::OutputNoObject),
    }
}

/// Python's own `json` writes numbers that are none, and says nothing of it.
fn not_json(text: &[u8], error: serde_json::Error) -> PythonError {
    let (line, column) = (error.line(), error.column());
    let typed = text.split(|byte| *byte == b'\n').nth(line.saturating_sub(1));
    // The place is that of the first byte that does not fit, which may be the second one of the word.
    let found = typed.and_then(|typed| {
        let near = typed.get(column.saturating_sub(2)..)?;
        let begins = |word: &&&str| {
            near.starts_with(word.as_bytes()) || near.get(1..).is_some_and(|near| near.starts_with(word.as_bytes()))
        };
        ["NaN", "-Infinity", "Infinity"].iter().find(begins).copied()
    });
    match found {
        Some(found) => PythonError::OutputNotFinite { found, line, column },
        None => PythonError::OutputNotJson(error),
    }
}
