//! The keys of `python` tasks, and which of them go together.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::domain::operator_kind::ConfigProblem;
use crate::operators::config::Scalar;
use crate::operators::process::{self, ExitCodes};

/// The keys of a `python` task.
#[derive(Debug, Clone, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("x-reads-outputs" = true))]
pub(super) struct Python {
    /// A script to run, from the DAG file's folder on.
    #[serde(default)]
    pub(super) script: Option<PathBuf>,
    /// A module to run, as `python -m` does.
    #[serde(default)]
    pub(super) module: Option<String>,
    /// A function to call, as `module:function` or `module.function`; what it returns is the output's `return_value`.
    #[serde(default)]
    pub(super) python_callable: Option<String>,
    /// A function to call, of `python_callable_file`.
    #[serde(default)]
    pub(super) python_callable_name: Option<String>,
    /// The file of `python_callable_name`, from the DAG file's folder on.
    #[serde(default)]
    pub(super) python_callable_file: Option<PathBuf>,
    /// Arguments: of the function as they are, of a script or module as text.
    #[serde(default)]
    pub(super) op_args: Vec<Value>,
    /// Arguments of the function, by name.
    #[serde(default)]
    pub(super) op_kwargs: Map<String, Value>,
    /// The interpreter; `python3` unless given.
    #[serde(default)]
    pub(super) python: Option<PathBuf>,
    /// The folder of a virtual environment whose interpreter is used, from the DAG file's folder on.
    #[serde(default)]
    pub(super) venv: Option<PathBuf>,
    /// Environment variables beside the inherited ones.
    #[serde(default)]
    pub(super) env: Option<BTreeMap<String, Scalar>>,
    /// The working directory; relative ones start at the DAG file's folder, which is also the default.
    #[serde(default)]
    pub(super) cwd: Option<PathBuf>,
    /// The exit code, or codes, with which a script says that there is nothing to do: the task counts as skipped. 99 unless
    /// given; `null` for none.
    #[serde(default = "process::default_skip")]
    pub(super) skip_on_exit_code: Option<ExitCodes>,
}

/// What is to be run.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Target<'a> {
    Script(&'a PathBuf),
    Module(&'a str),
    Function { module: &'a str, function: &'a str },
    FunctionOfFile { file: &'a PathBuf, function: &'a str },
}

impl Python {
    /// What is to be run; `None` unless exactly one thing is named.
    pub(super) fn target(&self) -> Option<Target<'_>> {
        let of_module = |name: &'_ String| -> Option<(usize, usize)> {
            let at = name.find(':').or_else(|| name.rfind('.'))?;
            (at > 0 && at + 1 < name.len()).then_some((at, at + 1))
        };
        match (
            &self.script,
            &self.module,
            &self.python_callable,
            &self.python_callable_name,
            &self.python_callable_file,
        ) {
            (Some(script), None, None, None, None) => Some(Target::Script(script)),
            (None, Some(module), None, None, None) => Some(Target::Module(module)),
            (None, None, Some(callable), None, None) => {
                let (end, start) = of_module(callable)?;
                Some(Target::Function { module: &callable[..end], function: &callable[start..] })
            }
            (None, None, None, Some(function), Some(file)) => Some(Target::FunctionOfFile { file, function }),
            _ => None,
        }
    }
}

pub(super) fn problems(python: &Python) -> Vec<ConfigProblem> {
    let mut problems = Vec::new();
    let target = python.target();
    if target.is_none() {
        let message = "it runs one thing: a `script`, a `module`, a `python_callable` as `module:function`, or a \
                       `python_callable_name` of a `python_callable_file`";
        problems.push(ConfigProblem { path: Vec::new(), message: message.to_owned(), help: None });
    }
    if matches!(target, Some(Target::Script(_) | Target::Module(_))) && !python.op_kwargs.is_empty() {
        problems.push(
            ConfigProblem::at("op_kwargs", "a script or module takes no arguments by name")
                .help("it reads the run's params in the file named by PINSCHED_CONTEXT; or give it `op_args`"),
        );
    }
    if python.python.is_some() && python.venv.is_some() {
        problems.push(ConfigProblem::at("venv", "`python` and `venv` both say which interpreter"));
    }
    problems.extend(python.env.iter().flat_map(process::environment_problems));
    problems
}
