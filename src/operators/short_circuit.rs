//! `short_circuit`: lets what comes after it run only if its condition holds, and skips it otherwise.

use async_trait::async_trait;
use serde::Deserialize;
use serde_json::Value;

use crate::domain::operator_kind::OperatorKind;
use crate::domain::plan::Skips;
use crate::engine::operator::{Failure, Operator, Output, Registration, TaskContext};
use crate::operators::config;

pub(crate) const REGISTRATION: Registration = Registration { kind: &KIND, build };

static KIND: OperatorKind = OperatorKind {
    name: "short_circuit",
    class_paths: &[],
    about: "Skips what comes after it unless its condition holds",
    schema: || schemars::schema_for!(ShortCircuit),
    check: |value| config::check::<ShortCircuit>(value, |_| Vec::new()),
    late_fields: &[],
    file_keys: &[],
};

/// The keys of a `short_circuit` task.
#[derive(Debug, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("x-not-mapped" = "what it skips comes after the task as a whole"))]
struct ShortCircuit {
    /// What has to hold, as a template: false are `false`, 0, nothing, and text, lists and mappings that are empty; so
    /// are the words `false`, `no`, `off`, `none` and `0`.
    condition: Value,
    /// Whether everything that comes after is skipped, as in Airflow unless this is false: then the tasks right after
    /// are, and what comes later goes by its trigger rules.
    #[serde(default = "yes")]
    ignore_downstream_trigger_rules: bool,
}

fn yes() -> bool {
    true
}

fn build(config: Value) -> Result<Box<dyn Operator>, serde_json::Error> {
    Ok(Box::new(serde_json::from_value::<ShortCircuit>(config)?))
}

/// Whether a rendered condition holds.
pub(super) fn holds(condition: &Value) -> bool {
    match condition {
        Value::Null => false,
        Value::Bool(value) => *value,
        Value::Number(number) => number.as_f64() != Some(0.0),
        // A template with text around its `{{ }}` renders to text, Python's `False` and YAML's `no` among it.
        Value::String(text) => {
            !matches!(text.trim().to_lowercase().as_str(), "" | "false" | "no" | "off" | "none" | "null" | "0")
        }
        Value::Array(items) => !items.is_empty(),
        Value::Object(fields) => !fields.is_empty(),
    }
}

#[async_trait]
impl Operator for ShortCircuit {
    async fn run(&self, context: &TaskContext) -> Result<Output, Failure> {
        let holds = holds(&self.condition);
        if holds {
            context.log.line("the condition holds");
        } else if self.ignore_downstream_trigger_rules {
            context.log.line("the condition does not hold: everything after this task is skipped");
            context.choice.skip(Skips::Downstream);
        } else {
            context.log.line("the condition does not hold: the tasks right after this one are skipped");
            context.choice.skip(Skips::Next);
        }
        let mut output = Output::new();
        output.insert("return_value".to_owned(), Value::from(holds));
        Ok(output)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_people_mean_by_false_does_not_hold() {
        for condition in
            [json!(null), json!(false), json!(0), json!(0.0), json!(""), json!([]), json!({}), json!("False")]
        {
            assert!(!holds(&condition), "{condition}");
        }
        for condition in
            [json!(true), json!(-1), json!("yes"), json!("a"), json!([0]), json!({"a": null}), json!("True")]
        {
            assert!(holds(&condition), "{condition}");
        }
    }
}
