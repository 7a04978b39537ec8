//! From a task's rendered JSON to an operator's own type, and its mistakes as problems that name their key.

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::domain::operator_kind::ConfigProblem;

/// Deserialises a configuration and, when that works, asks `rules` what is wrong with it beyond its shape.
pub(crate) fn check<T: DeserializeOwned>(config: &Value, rules: fn(&T) -> Vec<ConfigProblem>) -> Vec<ConfigProblem> {
    match T::deserialize(config) {
        Ok(parsed) => rules(&parsed),
        Err(error) => vec![shape_problem(config, &error)],
    }
}

/// Serde's words, at the key that they quote where it is one of the mapping's own.
fn shape_problem(config: &Value, error: &serde_json::Error) -> ConfigProblem {
    let message = error.to_string();
    let quoted = message.split('`').nth(1).filter(|name| config.get(name).is_some());
    ConfigProblem { path: quoted.map(str::to_owned).into_iter().collect(), message, help: None }
}

/// A YAML scalar where text is wanted: `3` and `true` are taken as they were typed.
#[derive(Debug, Clone, PartialEq, Deserialize, schemars::JsonSchema)]
#[serde(untagged)]
pub(crate) enum Scalar {
    /// Text.
    Text(String),
    /// A number.
    Number(serde_json::Number),
    /// `true` or `false`.
    Boolean(bool),
}

impl Scalar {
    /// As text.
    pub(crate) fn into_text(self) -> String {
        match self {
            Self::Text(text) => text,
            Self::Number(number) => number.to_string(),
            Self::Boolean(boolean) => boolean.to_string(),
        }
    }
}

/// A whole number, typed as one or as its digits: a template renders to text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Count(pub(crate) u64);

impl<'de> Deserialize<'de> for Count {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let scalar = Scalar::deserialize(deserializer)
            .map_err(|_| serde::de::Error::custom("a whole number is wanted, as `500`"))?;
        let text = scalar.into_text();
        let digits = text.trim().replace('_', "");
        digits.parse().map(Self).map_err(|_| serde::de::Error::custom(format!("`{text}` is not a whole number")))
    }
}

impl schemars::JsonSchema for Count {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Count".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "description": "A whole number, or a template that renders to one.",
            "anyOf": [{ "type": "integer", "minimum": 0 }, { "type": "string" }]
        })
    }
}
