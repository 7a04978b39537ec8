//! `empty`: does nothing, and succeeds. A joint of a graph.

use async_trait::async_trait;
use serde::Deserialize;
use serde_json::Value;

use crate::domain::operator_kind::OperatorKind;
use crate::engine::operator::{Failure, Operator, Output, Registration, TaskContext};
use crate::operators::config;

pub(crate) const REGISTRATION: Registration = Registration { kind: &KIND, build };

static KIND: OperatorKind = OperatorKind {
    name: "empty",
    class_paths: &[
        "airflow.providers.standard.operators.empty.EmptyOperator",
        "airflow.operators.empty.EmptyOperator",
        "airflow.operators.dummy.DummyOperator",
        "airflow.operators.dummy_operator.DummyOperator",
    ],
    about: "Does nothing: a joint of the graph",
    schema: || schemars::schema_for!(Empty),
    check: |value| config::check::<Empty>(value, |_| Vec::new()),
    late_fields: &[],
    file_keys: &[],
};

/// `empty` takes no keys of its own.
#[derive(Debug, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
struct Empty {}

fn build(config: Value) -> Result<Box<dyn Operator>, serde_json::Error> {
    Ok(Box::new(serde_json::from_value::<Empty>(config)?))
}

#[async_trait]
impl Operator for Empty {
    async fn run(&self, _context: &TaskContext) -> Result<Output, Failure> {
        Ok(Output::new())
    }
}
