//! What the DAG file's checks need to know of an operator, without the operator.

use serde_json::Value;

/// The mark, in an operator's schema, of a key whose text, or list of texts, names tasks right after its own.
pub const NAMES_DOWNSTREAM: &str = "x-names-downstream";

/// The mark, in an operator's schema, of one whose tasks cannot be mapped; with the reason.
pub const NOT_MAPPED: &str = "x-not-mapped";

/// The mark, in an operator's schema, of one that looks at the outputs of the tasks before it by itself.
pub const READS_OUTPUTS: &str = "x-reads-outputs";

/// The pure side of an operator: its names, the keys that it takes, and its own check.
pub struct OperatorKind {
    /// Its short name in a DAG file, as `sink`.
    pub name: &'static str,
    /// Airflow class paths that mean the same, as `airflow.providers.standard.operators.bash.BashOperator`.
    pub class_paths: &'static [&'static str],
    /// One line on what it does.
    pub about: &'static str,
    /// The JSON Schema of its own keys, made from the type that its `build` deserialises; unknown keys are refused.
    pub schema: fn() -> schemars::Schema,
    /// Checks a rendered configuration beyond what the schema says. Pure. Also reports what does not deserialise.
    pub check: fn(&Value) -> Vec<ConfigProblem>,
    /// Keys whose templates the operator renders itself, since they name variables that only it knows.
    pub late_fields: &'static [LateField],
    /// Keys whose text, or list of texts, names files that the task reads: from the DAG file's folder on, with `*` and `?`
    /// in their names.
    pub file_keys: &'static [&'static str],
}

impl OperatorKind {
    /// Whether it looks at the outputs of the tasks before it by itself, and not by its templates alone.
    #[must_use]
    pub fn reads_outputs(&self) -> bool {
        let schema = (self.schema)();
        schema.get(READS_OUTPUTS) == Some(&Value::Bool(true)) || schema.get(NOT_MAPPED).is_some()
    }
}

/// A key whose template is rendered by the operator.
pub struct LateField {
    /// The key, as `topics`.
    pub key: &'static str,
    /// The variables that it may use beside the usual ones, as `table`.
    pub variables: &'static [&'static str],
}

/// Something wrong with a task's configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigProblem {
    /// Where, from the task's own mapping downwards, as `["partitioner", "path_format"]`; list positions as digits.
    pub path: Vec<String>,
    /// What is wrong, lower case, no period.
    pub message: String,
    /// What to do about it.
    pub help: Option<String>,
}

impl ConfigProblem {
    /// A problem at one key.
    #[must_use]
    pub fn at(key: &str, message: impl Into<String>) -> Self {
        Self { path: vec![key.to_owned()], message: message.into(), help: None }
    }

    /// The same with advice.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}
