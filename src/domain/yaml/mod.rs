//! YAML 1.2 as a tree in which every key and every value knows its place. Knows nothing of DAGs.

mod reader;
mod scalar;
mod syntax;

pub(in crate::domain) use reader::{Duplicate, read};

use serde_json::{Map, Number, Value};

use crate::domain::source::Span;

/// A value and where it stands.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::domain) struct Node {
    pub(in crate::domain) span: Span,
    pub(in crate::domain) kind: NodeKind,
}

/// What a value is, by the core schema of YAML 1.2: `yes` and `2026-01-01` are text.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::domain) enum NodeKind {
    Null,
    Bool(bool),
    Number(Number),
    Text(String),
    List(Vec<Node>),
    Mapping(Vec<Entry>),
}

/// A key with its value.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::domain) struct Entry {
    pub(in crate::domain) key: Key,
    pub(in crate::domain) value: Node,
}

/// A key and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::domain) struct Key {
    pub(in crate::domain) text: String,
    pub(in crate::domain) span: Span,
}

/// Whole numbers up to this one are told apart with a fraction's precision.
const LARGEST_EXACT: f64 = 1e15;

impl Node {
    /// What it is, for "expected … but this is …".
    pub(in crate::domain) fn describe(&self) -> &'static str {
        match &self.kind {
            NodeKind::Null => "nothing",
            NodeKind::Bool(_) => "a boolean",
            NodeKind::Number(number) if number.is_f64() => "a number with a fraction",
            NodeKind::Number(_) => "a number",
            NodeKind::Text(_) => "text",
            NodeKind::List(_) => "a list",
            NodeKind::Mapping(_) => "a mapping",
        }
    }

    /// Of a number with a fraction, what is wrong with it where `key` takes whole numbers, and what to write instead.
    pub(in crate::domain) fn not_whole(&self, key: &str) -> Option<(String, String)> {
        let NodeKind::Number(number) = &self.kind else { return None };
        let value = number.as_f64().filter(|_| number.is_f64())?;
        let (below, above) = (value.floor(), value.ceil());
        let instead = match (below == above, value.abs() < LARGEST_EXACT) {
            (_, false) => "write it out, without an exponent and a point".to_owned(),
            (true, true) => format!("write {below:.0}"),
            (false, true) => format!("{below:.0} and {above:.0} are the whole numbers next to it"),
        };
        Some((format!("`{key}` is {number}; it has to be a whole number"), instead))
    }

    /// Whether nothing stands there.
    pub(in crate::domain) fn is_null(&self) -> bool {
        matches!(self.kind, NodeKind::Null)
    }

    /// Its text, when it is text.
    pub(in crate::domain) fn as_text(&self) -> Option<&str> {
        match &self.kind {
            NodeKind::Text(text) => Some(text),
            NodeKind::Null | NodeKind::Bool(_) | NodeKind::Number(_) | NodeKind::List(_) | NodeKind::Mapping(_) => None,
        }
    }

    /// Its entries, when it is a mapping.
    pub(in crate::domain) fn as_mapping(&self) -> Option<&[Entry]> {
        match &self.kind {
            NodeKind::Mapping(entries) => Some(entries),
            NodeKind::Null | NodeKind::Bool(_) | NodeKind::Number(_) | NodeKind::Text(_) | NodeKind::List(_) => None,
        }
    }

    /// A JSON value, all of it in one place.
    pub(in crate::domain) fn from_json(value: &Value, span: Span) -> Self {
        let kind = match value {
            Value::Null => NodeKind::Null,
            Value::Bool(value) => NodeKind::Bool(*value),
            Value::Number(number) => NodeKind::Number(number.clone()),
            Value::String(text) => NodeKind::Text(text.clone()),
            Value::Array(items) => NodeKind::List(items.iter().map(|item| Self::from_json(item, span)).collect()),
            Value::Object(fields) => {
                let entry = |(key, value): (&String, &Value)| Entry {
                    key: Key { text: key.clone(), span },
                    value: Self::from_json(value, span),
                };
                NodeKind::Mapping(fields.iter().map(entry).collect())
            }
        };
        Self { span, kind }
    }

    /// The same as JSON.
    pub(in crate::domain) fn to_json(&self) -> Value {
        match &self.kind {
            NodeKind::Null => Value::Null,
            NodeKind::Bool(value) => Value::Bool(*value),
            NodeKind::Number(number) => Value::Number(number.clone()),
            NodeKind::Text(text) => Value::String(text.clone()),
            NodeKind::List(items) => Value::Array(items.iter().map(Self::to_json).collect()),
            NodeKind::Mapping(entries) => Value::Object(entries_to_json(entries)),
        }
    }

    /// The place of what `path` leads to, from this node downwards: a key's value, or as far as the path goes.
    pub(in crate::domain) fn span_at(&self, path: &[String]) -> Span {
        let Some((first, rest)) = path.split_first() else { return self.span };
        match &self.kind {
            NodeKind::Mapping(entries) => entries
                .iter()
                .find(|entry| entry.key.text == *first)
                .map_or(self.span, |entry| entry.value.span_at(rest)),
            NodeKind::List(items) => first
                .parse::<usize>()
                .ok()
                .and_then(|position| items.get(position))
                .map_or(self.span, |item| item.span_at(rest)),
            NodeKind::Null | NodeKind::Bool(_) | NodeKind::Number(_) | NodeKind::Text(_) => self.span,
        }
    }
}

/// A mapping's entries as a JSON object.
pub(in crate::domain) fn entries_to_json(entries: &[Entry]) -> Map<String, Value> {
    entries.iter().map(|entry| (entry.key.text.clone(), entry.value.to_json())).collect()
}
