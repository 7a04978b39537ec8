//! A DAG's params: their defaults, what a run sets in their place, and what their JSON Schemas say of that.

use serde_json::{Map, Value};

use crate::domain::dag::DagSettings;
use crate::domain::diagnostic::{closest, listed};
use crate::domain::param_schema::mistakes;

/// Something wrong with a run's params.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ParamProblem {
    /// The param.
    pub name: String,
    /// What is wrong with it, with its name and its rule.
    pub message: String,
}

/// What becomes of values for params that the DAG does not declare.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Undeclared {
    /// They are mistakes.
    Refused,
    /// They are kept, as a trigger's `conf` may carry them.
    Kept,
}

/// The params of a run: the DAG's defaults, with `overrides` in their place. All of them keep to their schemas.
///
/// # Errors
/// Every param that does not, that has no value, or that is not declared and has to be.
pub fn resolve(
    settings: &DagSettings,
    overrides: Map<String, Value>,
    undeclared: Undeclared,
) -> Result<Map<String, Value>, Vec<ParamProblem>> {
    let mut params = settings.params.clone();
    let mut problems = Vec::new();
    for (name, value) in overrides {
        if undeclared == Undeclared::Refused && !settings.params.contains_key(&name) {
            problems.push(not_declared(settings, &name));
        } else {
            params.insert(name, value);
        }
    }
    for (name, schema) in &settings.param_schemas {
        let value = params.get(name).unwrap_or(&Value::Null);
        problems.extend(mistakes(schema, value).into_iter().map(|mistake| {
            let message = match value {
                Value::Null => format!("param `{name}` needs a value: {mistake}"),
                value => format!("param `{name}` cannot be {value}: {mistake}"),
            };
            ParamProblem { name: name.clone(), message }
        }));
    }
    if problems.is_empty() { Ok(params) } else { Err(problems) }
}

fn not_declared(settings: &DagSettings, name: &str) -> ParamProblem {
    let dag = &settings.id;
    let names = || settings.params.keys().map(String::as_str);
    let message = if settings.params.is_empty() {
        format!("DAG `{dag}` has no params, so no `{name}` either; a DAG file declares them under `params`")
    } else {
        let hint = closest(name, names()).map(|name| format!("; did you mean `{name}`?")).unwrap_or_default();
        format!("DAG `{dag}` has no param `{name}`{hint} (it has {})", listed(names()))
    };
    ParamProblem { name: name.to_owned(), message }
}

/// A text, as somebody typed it, as a value of the param: of the type that its schema takes, or else its default has.
///
/// # Errors
/// The text is of no such type.
pub fn typed(settings: &DagSettings, name: &str, text: &str) -> Result<Value, ParamProblem> {
    let plain = || Value::String(text.to_owned());
    let parsed = || serde_json::from_str::<Value>(text).ok();
    if let Some(schema) = settings.param_schemas.get(name) {
        // As JSON, or as text: whichever the schema takes.
        let is_right = |value: &Value| mistakes(schema, value).is_empty();
        let right = parsed().filter(is_right).or_else(|| Some(plain()).filter(is_right));
        return Ok(right.or_else(parsed).unwrap_or_else(plain));
    }
    let default = settings.params.get(name).ok_or_else(|| not_declared(settings, name))?;
    let value = match default {
        Value::String(_) => Some(plain()),
        Value::Null => Some(parsed().unwrap_or_else(plain)),
        Value::Bool(_) => parsed().filter(Value::is_boolean),
        Value::Number(_) => parsed().filter(Value::is_number),
        Value::Array(_) => parsed().filter(Value::is_array),
        Value::Object(_) => parsed().filter(Value::is_object),
    };
    value.ok_or_else(|| {
        let message = format!("param `{name}` cannot be `{text}`: its default, {default}, is of another type");
        ParamProblem { name: name.to_owned(), message }
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::domain::check::check;
    use crate::domain::source::SourceFile;

    fn settings(params: &str) -> DagSettings {
        let text = format!("orders:\n  params: {params}\n  tasks: {{a: {{operator: x}}}}\n");
        static X: crate::domain::operator_kind::OperatorKind = crate::domain::operator_kind::OperatorKind {
            name: "x",
            class_paths: &[],
            about: "",
            schema: || schemars::json_schema!({"type": "object", "properties": {}, "additionalProperties": false}),
            check: |_| Vec::new(),
            late_fields: &[],
            file_keys: &[],
        };
        let mut checked = check(&SourceFile::new("x.yaml", text), &[&X]);
        assert!(checked.diagnostics.is_empty(), "{:?}", checked.diagnostics);
        checked.dags.pop().unwrap().settings
    }

    fn object(value: Value) -> Map<String, Value> {
        value.as_object().cloned().unwrap()
    }

    #[test]
    fn what_a_run_sets_keeps_to_the_schemas() {
        let settings = settings(
            "{rows: {type: integer, minimum: 1, default: 3}, mode: {enum: [full, delta], default: full}, \
             day: {type: string, format: date, default: null}, free: 1, shape: {type: circle}}",
        );
        let wrong = |overrides| {
            let problems = resolve(&settings, object(overrides), Undeclared::Refused).unwrap_err();
            problems.into_iter().map(|problem| problem.message).collect::<Vec<_>>()
        };
        let params = resolve(&settings, object(json!({"day": "2026-03-01"})), Undeclared::Refused).unwrap();
        let expected = json!({"rows": 3, "mode": "full", "day": "2026-03-01", "free": 1, "shape": {"type": "circle"}});
        assert_eq!(Value::Object(params), expected, "a mapping without a default is a default itself");
        insta::assert_debug_snapshot!([
            wrong(json!({})),
            wrong(json!({"rows": 0, "mode": "none", "day": "tomorrow"})),
            wrong(json!({"day": "2026-03-01", "row": 1})),
        ]);
        let kept = resolve(&settings, object(json!({"day": "2026-03-01", "row": 1})), Undeclared::Kept).unwrap();
        assert_eq!(kept["row"], 1);
    }

    #[test]
    fn typed_texts_are_of_the_params_type() {
        let settings = settings(
            "{rows: 500, who: x, any: null, flag: {type: boolean, default: true}, code: {type: string, default: '7'}, \
             either: {type: [string, integer], default: 1}}",
        );
        let typed = |name, text| typed(&settings, name, text).map_err(|problem| problem.message);
        assert_eq!(typed("rows", "11000"), Ok(json!(11_000)));
        assert_eq!(typed("who", "11000"), Ok(json!("11000")));
        assert_eq!(typed("any", "plain"), Ok(json!("plain")));
        assert_eq!(typed("flag", "false"), Ok(json!(false)));
        assert_eq!(typed("code", "11000"), Ok(json!("11000")));
        assert_eq!(typed("either", "5"), Ok(json!(5)));
        assert_eq!(typed("either", "five"), Ok(json!("five")));
        assert!(typed("rows", "many").unwrap_err().contains("is of another type"));
        assert!(typed("rows", "\"7\"").is_err());
        assert!(typed("row", "1").unwrap_err().contains("did you mean `rows`?"));
    }
}
