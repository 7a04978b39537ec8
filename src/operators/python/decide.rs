//! `branch_python` and `short_circuit_python`: what a Python function returns decides which of the tasks after it run.

use async_trait::async_trait;
use serde_json::Value;

use crate::domain::choice;
use crate::domain::operator_kind::{NOT_MAPPED, OperatorKind};
use crate::domain::plan::Skips;
use crate::engine::operator::{Failure, Operator, Output, Registration, TaskContext};
use crate::operators::branch::follow;

use super::config::{self, Python};

pub(crate) const BRANCH: Registration = Registration { kind: &BRANCH_KIND, build: build_branch };
pub(crate) const SHORT_CIRCUIT: Registration = Registration { kind: &SHORT_CIRCUIT_KIND, build: build_short_circuit };

static BRANCH_KIND: OperatorKind = OperatorKind {
    name: "branch_python",
    class_paths: &[
        "airflow.providers.standard.operators.python.BranchPythonOperator",
        "airflow.providers.standard.operators.python.BranchExternalPythonOperator",
        "airflow.operators.python.BranchPythonOperator",
        "airflow.operators.python.BranchExternalPythonOperator",
        "airflow.operators.python_operator.BranchPythonOperator",
    ],
    about: "Lets a Python function choose which of the tasks right after it run",
    schema,
    check: |value| crate::operators::config::check(value, config::problems),
    late_fields: &[],
    file_keys: &["script", "python_callable_file"],
};

static SHORT_CIRCUIT_KIND: OperatorKind = OperatorKind {
    name: "short_circuit_python",
    class_paths: &[
        "airflow.providers.standard.operators.python.ShortCircuitOperator",
        "airflow.operators.python.ShortCircuitOperator",
        "airflow.operators.python_operator.ShortCircuitOperator",
    ],
    about: "Skips what comes after it unless a Python function returns something true",
    schema,
    check: |value| crate::operators::config::check(value, config::problems),
    late_fields: &[],
    file_keys: &["script", "python_callable_file"],
};

/// The keys of a `python` task, for one whose decision is about what comes after it.
fn schema() -> schemars::Schema {
    let mut schema = schemars::schema_for!(Python);
    schema.insert(NOT_MAPPED.to_owned(), Value::from("what it skips comes after the task as a whole"));
    schema
}

struct Branch(Python);

struct ShortCircuit(Python);

fn build_branch(config: Value) -> Result<Box<dyn Operator>, serde_json::Error> {
    Ok(Box::new(Branch(serde_json::from_value(config)?)))
}

fn build_short_circuit(config: Value) -> Result<Box<dyn Operator>, serde_json::Error> {
    Ok(Box::new(ShortCircuit(serde_json::from_value(config)?)))
}

#[async_trait]
impl Operator for Branch {
    async fn run(&self, context: &TaskContext) -> Result<Output, Failure> {
        let output = self.0.execute(context).await?;
        let names = names(output.get("return_value")).map_err(Failure::Fatal)?;
        follow(context, &names)?;
        Ok(output)
    }
}

#[async_trait]
impl Operator for ShortCircuit {
    async fn run(&self, context: &TaskContext) -> Result<Output, Failure> {
        let output = self.0.execute(context).await?;
        if choice::is_true(output.get("return_value").unwrap_or(&Value::Null)) {
            context.log.line("what it returned is true");
        } else {
            context.log.line("what it returned is not true: everything after this task is skipped");
            context.choice.skip(Skips::Downstream);
        }
        Ok(output)
    }
}

/// The ids that a function returned: one, several or none.
fn names(returned: Option<&Value>) -> Result<Vec<String>, String> {
    let wrong = |value: &Value| format!("it is to return a task's id, a list of them or None, and returned {value}");
    match returned {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::String(name)) => Ok(vec![name.clone()]),
        Some(list @ Value::Array(items)) => {
            items.iter().map(|item| item.as_str().map(str::to_owned).ok_or_else(|| wrong(list))).collect()
        }
        Some(other) => Err(wrong(other)),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::domain::check::check;
    use crate::domain::source::SourceFile;

    #[test]
    fn what_decides_is_not_mapped() {
        for operator in ["branch_python", "short_circuit_python"] {
            let task = format!("{{operator: {operator}, python_callable: a:b, expand: {{op_args: [[1], [2]]}}}}");
            let file = SourceFile::new("a.yaml", format!("a:\n  tasks:\n    choose: {task}\n"));
            let found = check(&file, &crate::operators::catalog()).diagnostics;
            let refused = format!("a task of the operator `{operator}` cannot be mapped: what it skips comes after");
            assert!(format!("{found:?}").contains(&refused), "{found:?}");
        }
    }

    #[test]
    fn a_branch_takes_ids_and_nothing_else() {
        assert_eq!(names(Some(&json!("a"))), Ok(vec!["a".to_owned()]));
        assert_eq!(names(Some(&json!(["a", "b"]))), Ok(vec!["a".to_owned(), "b".to_owned()]));
        assert_eq!((names(None), names(Some(&Value::Null))), (Ok(Vec::new()), Ok(Vec::new())));
        assert!(names(Some(&json!(["a", 1]))).is_err() && names(Some(&json!(true))).is_err());
    }
}
