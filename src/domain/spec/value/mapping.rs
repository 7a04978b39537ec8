//! Mappings: params, and those that are read in a later step.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::domain::diagnostic::{Code, Diagnostic};
use crate::domain::param_schema;
use crate::domain::source::Span;
use crate::domain::spec::Problems;
use crate::domain::spec::value::{FromNode, described, wrong_type};
use crate::domain::yaml::{Entry, Node, NodeKind, entries_to_json};

/// Parameters with their defaults, and the schemas of those that have one.
#[derive(Debug, Clone)]
pub(in crate::domain) struct Params {
    pub(in crate::domain) defaults: Map<String, Value>,
    pub(in crate::domain) schemas: BTreeMap<String, Value>,
    /// Params without a value that their schema takes: who starts a run has to set them. With where they stand.
    pub(in crate::domain) required: Vec<(String, Span)>,
}

/// A mapping with one of these keys beside its `default` is a param with a JSON Schema, as Airflow's `Param` is.
const SCHEMA_KEYS: [&str; 6] = ["type", "enum", "const", "anyOf", "oneOf", "$ref"];

/// The mark by which dag-factory makes an object of a class, as `airflow.sdk.Param`.
const CLASS: &str = "__type__";

impl FromNode for Params {
    fn from_node(node: &Node, key: &str, problems: &mut Problems<'_>) -> Option<Self> {
        let Some(entries) = node.as_mapping() else {
            wrong_type(node, key, "a mapping from names to values", problems);
            return None;
        };
        entries.iter().for_each(|entry| refuse_what_json_lacks(&entry.value, problems));
        let mut params = Self { defaults: Map::new(), schemas: BTreeMap::new(), required: Vec::new() };
        for (entry, (name, value)) in entries.iter().zip(entries_to_json(entries)) {
            let schema = match value {
                Value::Object(fields) if is_param(&fields) => fields,
                value => {
                    params.defaults.insert(name, value);
                    continue;
                }
            };
            params.take(entry, name, schema, problems);
        }
        Some(params)
    }
}
described!(Params, "Params", {
    "type": "object",
    "additionalProperties": {
        "description": "The default; or a JSON Schema with its `default` in it."
    }
});

fn is_param(fields: &Map<String, Value>) -> bool {
    let is_schema = fields.contains_key("default") && SCHEMA_KEYS.iter().any(|key| fields.contains_key(*key));
    let class = fields.get(CLASS).and_then(Value::as_str);
    is_schema || class.is_some_and(|class| class.ends_with(".Param"))
}

impl Params {
    fn take(&mut self, entry: &Entry, name: String, mut schema: Map<String, Value>, problems: &mut Problems<'_>) {
        let default = schema.remove("default").unwrap_or(Value::Null);
        schema.remove(CLASS);
        let schema = Value::Object(schema);
        let span = entry.value.span_at(&["default".to_owned()]);
        if let Some(mistake) = param_schema::mistake(&schema) {
            let message = format!("the param `{name}` has a schema that is none: {mistake}");
            problems.add(
                Diagnostic::error(Code::BadParam, entry.key.span, message)
                    .help("it is a JSON Schema, as `{type: integer, minimum: 1, default: 3}`"),
            );
            self.defaults.insert(name, default);
            return;
        }
        let mistakes = param_schema::mistakes(&schema, &default);
        match mistakes.first() {
            Some(_) if default.is_null() => self.required.push((name.clone(), entry.key.span)),
            Some(mistake) => {
                let message = format!("the default of the param `{name}` does not keep to its schema: {mistake}");
                problems.add(Diagnostic::error(Code::BadParam, span, message));
            }
            None => {}
        }
        self.defaults.insert(name.clone(), default);
        self.schemas.insert(name, schema);
    }
}

fn refuse_what_json_lacks(node: &Node, problems: &mut Problems<'_>) {
    match &node.kind {
        NodeKind::List(items) => items.iter().for_each(|item| refuse_what_json_lacks(item, problems)),
        NodeKind::Mapping(entries) => entries.iter().for_each(|entry| refuse_what_json_lacks(&entry.value, problems)),
        NodeKind::Text(_) => {
            let typed = problems.file.slice(node.span);
            if matches!(typed.to_lowercase().trim_start_matches(['+', '-']), ".inf" | ".nan") {
                let message = format!("a param is JSON, and JSON has no `{typed}`");
                problems.add(
                    Diagnostic::error(Code::NotJson, node.span, message)
                        .help("put it in quotes if it is meant as text"),
                );
            }
        }
        NodeKind::Null | NodeKind::Bool(_) | NodeKind::Number(_) => {}
    }
}

/// A mapping that is read later.
#[derive(Debug, Clone)]
pub(in crate::domain) struct FreeMapping(pub(in crate::domain) Vec<Entry>);

impl FromNode for FreeMapping {
    fn from_node(node: &Node, key: &str, problems: &mut Problems<'_>) -> Option<Self> {
        let entries = node.as_mapping();
        if entries.is_none() {
            wrong_type(node, key, "a mapping", problems);
        }
        entries.map(|entries| Self(entries.to_vec()))
    }
}
described!(FreeMapping, "DefaultArgs", { "type": "object" });

/// The tasks of a DAG, in either form.
#[derive(Debug, Clone)]
pub(in crate::domain) struct Tasks(pub(in crate::domain) Node);

impl FromNode for Tasks {
    fn from_node(node: &Node, key: &str, problems: &mut Problems<'_>) -> Option<Self> {
        if matches!(node.kind, NodeKind::Mapping(_) | NodeKind::List(_)) {
            return Some(Self(node.clone()));
        }
        wrong_type(node, key, "a mapping from task ids to tasks, or a list of tasks", problems);
        None
    }
}
described!(Tasks, "Tasks", { "type": ["object", "array"] });

/// The task groups of a DAG, in either form.
#[derive(Debug, Clone)]
pub(in crate::domain) struct TaskGroups(pub(in crate::domain) Node);

impl FromNode for TaskGroups {
    fn from_node(node: &Node, key: &str, problems: &mut Problems<'_>) -> Option<Self> {
        if matches!(node.kind, NodeKind::Mapping(_) | NodeKind::List(_)) {
            return Some(Self(node.clone()));
        }
        wrong_type(node, key, "a mapping from names to task groups, or a list of task groups", problems);
        None
    }
}
described!(TaskGroups, "TaskGroups", { "type": ["object", "array"] });
