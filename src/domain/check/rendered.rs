//! What is wrong with a configuration whose values came late: out of an expansion, or out of a template that only a run
//! can render. Each problem is laid to the key whose value it is about.

use serde_json::Value;

use crate::domain::check::config::mismatches_of_key;
use crate::domain::diagnostic::closest;
use crate::domain::operator_kind::{ConfigProblem, OperatorKind};
use crate::domain::source::Span;
use crate::domain::yaml::Node;

/// What is wrong with it: values of a wrong type, in the words of the file's own check; else what the operator says.
#[must_use]
pub fn rendered_problems(kind: &OperatorKind, config: &Value) -> Vec<ConfigProblem> {
    let schema = (kind.schema)().to_value();
    let of_key = |(key, value): (&String, &Value)| {
        if let Some(known) = schema.get("properties").and_then(Value::as_object)
            && !known.contains_key(key)
        {
            let hint = closest(key, known.keys().map(String::as_str));
            let hint = hint.map(|close| format!(" (did you mean `{close}`?)")).unwrap_or_default();
            return vec![ConfigProblem::at(key, format!("the operator `{}` has no key `{key}`{hint}", kind.name))];
        }
        let found = mismatches_of_key(&schema, key, &Node::from_json(value, Span::default()));
        found.into_iter().map(|problem| ConfigProblem::at(key, problem.message)).collect::<Vec<_>>()
    };
    let of_types: Vec<ConfigProblem> = config.as_object().into_iter().flatten().flat_map(of_key).collect();
    if of_types.is_empty() { problems_by_key(kind, config) } else { of_types }
}

/// What the operator says, each with the key that it is about.
pub(in crate::domain) fn problems_by_key(kind: &OperatorKind, config: &Value) -> Vec<ConfigProblem> {
    let problems = (kind.check)(config).into_iter().map(|problem| match problem.path.is_empty() {
        true => ConfigProblem { path: blamed(kind, config, &problem).into_iter().collect(), ..problem },
        false => problem,
    });
    problems.collect()
}

/// The key without which that problem would not be there. Serde does not say which it is.
fn blamed(kind: &OperatorKind, config: &Value, problem: &ConfigProblem) -> Option<String> {
    let fields = config.as_object()?;
    let is_there = |config: &Value| (kind.check)(config).iter().any(|found| found.message == problem.message);
    let mut keys = fields.keys().filter(|key| {
        let mut others = fields.clone();
        others.remove(*key);
        !is_there(&Value::Object(others))
    });
    keys.next().cloned()
}
