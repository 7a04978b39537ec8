//! Text, booleans, numbers and lists of words.

use crate::domain::diagnostic::{Code, Diagnostic};
use crate::domain::source::Span;
use crate::domain::spec::Problems;
use crate::domain::spec::value::{FromNode, described, wrong_type};
use crate::domain::yaml::{Node, NodeKind};

impl FromNode for String {
    fn from_node(node: &Node, key: &str, problems: &mut Problems<'_>) -> Option<Self> {
        let text = node.as_text().map(ToOwned::to_owned);
        if text.is_none() {
            wrong_type(node, key, "text", problems);
        }
        text
    }
}

impl FromNode for bool {
    fn from_node(node: &Node, key: &str, problems: &mut Problems<'_>) -> Option<Self> {
        if let NodeKind::Bool(value) = node.kind {
            return Some(value);
        }
        wrong_type(node, key, "true or false", problems);
        None
    }
}

fn whole_number(node: &Node, key: &str, least: i64, most: i64, problems: &mut Problems<'_>) -> Option<i64> {
    let NodeKind::Number(number) = &node.kind else {
        wrong_type(node, key, "a whole number", problems);
        return None;
    };
    let Some(value) = number.as_i64() else {
        wrong_type(node, key, "a whole number", problems);
        return None;
    };
    if (least..=most).contains(&value) {
        return Some(value);
    }
    let bound = if value < least { format!("at least {least}") } else { format!("at most {most}") };
    problems.add(Diagnostic::error(Code::OutOfRange, node.span, format!("`{key}` is {value}; it has to be {bound}")));
    None
}

impl FromNode for i32 {
    fn from_node(node: &Node, key: &str, problems: &mut Problems<'_>) -> Option<Self> {
        let value = whole_number(node, key, i64::from(Self::MIN), i64::from(Self::MAX), problems)?;
        Self::try_from(value).ok()
    }
}

/// A whole number from 0.
#[derive(Debug, Clone, Copy)]
pub(in crate::domain) struct Count(pub(in crate::domain) u32);

/// A whole number from 1.
#[derive(Debug, Clone, Copy)]
pub(in crate::domain) struct Positive(pub(in crate::domain) u32);

/// More retries, slots or runs at once than this is a slip of the keyboard; Postgres keeps them as 32-bit integers.
const LARGEST_COUNT: i64 = 1_000_000;

impl FromNode for Count {
    fn from_node(node: &Node, key: &str, problems: &mut Problems<'_>) -> Option<Self> {
        whole_number(node, key, 0, LARGEST_COUNT, problems).and_then(|value| u32::try_from(value).ok()).map(Self)
    }
}
described!(Count, "Count", { "type": "integer", "minimum": 0 });

impl FromNode for Positive {
    fn from_node(node: &Node, key: &str, problems: &mut Problems<'_>) -> Option<Self> {
        whole_number(node, key, 1, LARGEST_COUNT, problems).and_then(|value| u32::try_from(value).ok()).map(Self)
    }
}
described!(Positive, "Positive", { "type": "integer", "minimum": 1 });

/// Words to find a DAG by.
#[derive(Debug, Clone)]
pub(in crate::domain) struct Tags(pub(in crate::domain) Vec<String>);

impl FromNode for Tags {
    fn from_node(node: &Node, key: &str, problems: &mut Problems<'_>) -> Option<Self> {
        let NodeKind::List(items) = &node.kind else {
            wrong_type(node, key, "a list of words", problems);
            return None;
        };
        Some(Self(items.iter().filter_map(|item| String::from_node(item, key, problems)).collect()))
    }
}
described!(Tags, "Tags", { "type": "array", "items": { "type": "string" } });

/// The ids of the tasks that one waits for.
#[derive(Debug, Clone)]
pub(in crate::domain) struct Dependencies(pub(in crate::domain) Vec<(String, Span)>);

impl FromNode for Dependencies {
    fn from_node(node: &Node, key: &str, problems: &mut Problems<'_>) -> Option<Self> {
        let items = match &node.kind {
            NodeKind::List(items) => items.as_slice(),
            NodeKind::Text(_) => std::slice::from_ref(node),
            NodeKind::Null | NodeKind::Bool(_) | NodeKind::Number(_) | NodeKind::Mapping(_) => {
                wrong_type(node, key, "a list of task ids", problems);
                return None;
            }
        };
        let named = items.iter().filter_map(|item| match &item.kind {
            // A task whose id is digits is written as a number.
            NodeKind::Number(_) => Some((problems.file.slice(item.span).to_owned(), item.span)),
            NodeKind::Null | NodeKind::Bool(_) | NodeKind::Text(_) | NodeKind::List(_) | NodeKind::Mapping(_) => {
                String::from_node(item, key, problems).map(|id| (id, item.span))
            }
        });
        Some(Self(named.collect()))
    }
}
described!(Dependencies, "Dependencies", {
    "anyOf": [{ "type": "string" }, { "type": "array", "items": { "type": ["string", "integer"] } }]
});
