//! Mappings: params, and those that are read in a later step.

use serde_json::{Map, Value};

use crate::domain::diagnostic::{Code, Diagnostic};
use crate::domain::spec::Problems;
use crate::domain::spec::value::{FromNode, described, wrong_type};
use crate::domain::yaml::{Entry, Node, NodeKind, entries_to_json};

/// Parameters with their defaults.
#[derive(Debug, Clone)]
pub(in crate::domain) struct Params(pub(in crate::domain) Map<String, Value>);

impl FromNode for Params {
    fn from_node(node: &Node, key: &str, problems: &mut Problems<'_>) -> Option<Self> {
        let Some(entries) = node.as_mapping() else {
            wrong_type(node, key, "a mapping from names to values", problems);
            return None;
        };
        entries.iter().for_each(|entry| refuse_what_json_lacks(&entry.value, problems));
        Some(Self(entries_to_json(entries)))
    }
}
described!(Params, "Params", { "type": "object" });

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
