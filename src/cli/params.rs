//! A run's params: the DAG's defaults with what its trigger gives.

use anyhow::Context;
use serde_json::{Map, Value};

use crate::domain::dag::Dag;
use crate::domain::diagnostic::closest;

/// The DAG's params with `conf` and then `overrides` (`key=value`) in their place, each of the type that its default has.
pub(crate) fn merge(dag: &Dag, overrides: &[String], conf: &Map<String, Value>) -> anyhow::Result<Map<String, Value>> {
    let mut params = dag.settings.params.clone();
    for (key, value) in conf {
        anyhow::ensure!(params.contains_key(key), "DAG `{}` {}", dag.id(), no_such_param(key, &params));
        params.insert(key.clone(), value.clone());
    }
    for text in overrides {
        let (key, value) =
            text.split_once('=').with_context(|| format!("`{text}` is no param: write --param key=value"))?;
        let Some(default) = params.get(key) else {
            anyhow::bail!("DAG `{}` {}", dag.id(), no_such_param(key, &params));
        };
        let Some(value) = typed(default, value) else {
            anyhow::bail!("param `{key}` cannot be `{value}`: its default, {default}, is of another type");
        };
        params.insert(key.to_owned(), value);
    }
    Ok(params)
}

fn no_such_param(key: &str, params: &Map<String, Value>) -> String {
    if params.is_empty() {
        return format!("has no params, so no `{key}` either; a DAG file declares them under `params`");
    }
    let known = || params.keys().map(String::as_str);
    let hint = closest(key, known()).map(|name| format!("; did you mean `{name}`?")).unwrap_or_default();
    format!("has no param `{key}`{hint} (it has: {})", known().collect::<Vec<_>>().join(", "))
}

/// The text as a value of the default's type; as any where the default is null.
fn typed(default: &Value, text: &str) -> Option<Value> {
    let plain = Value::String(text.to_owned());
    if default.is_string() {
        return Some(plain);
    }
    let value: Option<Value> = serde_json::from_str(text).ok();
    match default {
        Value::Null => Some(value.unwrap_or(plain)),
        Value::Bool(_) => value.filter(Value::is_boolean),
        Value::Number(_) => value.filter(Value::is_number),
        Value::String(_) => value.filter(Value::is_string),
        Value::Array(_) => value.filter(Value::is_array),
        Value::Object(_) => value.filter(Value::is_object),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn params_keep_the_type_of_their_default() {
        assert_eq!(typed(&Value::from(500), "11000").unwrap(), Value::from(11_000));
        assert_eq!(typed(&Value::from("x"), "11000").unwrap(), Value::from("11000"));
        assert!(typed(&Value::from(500), "many").is_none());
        assert!(typed(&Value::from(500), "\"7\"").is_none());
        assert_eq!(typed(&Value::Null, "plain").unwrap(), Value::from("plain"));
    }
}
