//! What a mapped task is expanded over: `expand` and `expand_kwargs`. Whether its keys can be mapped is `check`'s business.

use crate::domain::spec::Problems;
use crate::domain::spec::value::{FromNode, described, wrong_type};
use crate::domain::template::is_template;
use crate::domain::yaml::{Entry, Node, NodeKind};

/// Keys of the operator, each with the values that the instances have.
#[derive(Debug, Clone)]
pub(in crate::domain) struct Expand(pub(in crate::domain) Vec<Entry>);

impl FromNode for Expand {
    fn from_node(node: &Node, key: &str, problems: &mut Problems<'_>) -> Option<Self> {
        match node.as_mapping() {
            Some(entries) => Some(Self(entries.to_vec())),
            None => {
                wrong_type(node, key, "a mapping from the operator's keys to lists of values", problems);
                None
            }
        }
    }
}
described!(Expand, "Expand", {
    "type": "object",
    "minProperties": 1,
    "additionalProperties": {
        "description": "The values, one for each instance: a list, a mapping, or a template that comes to one.",
        "type": ["array", "object", "string"]
    }
});

/// A list of mappings, an instance each; or a template that comes to one.
#[derive(Debug, Clone)]
pub(in crate::domain) struct ExpandKwargs(pub(in crate::domain) Node);

impl FromNode for ExpandKwargs {
    fn from_node(node: &Node, key: &str, problems: &mut Problems<'_>) -> Option<Self> {
        let is_one = match &node.kind {
            NodeKind::List(_) => true,
            NodeKind::Text(text) => is_template(text) || output_of(text).is_some(),
            NodeKind::Null | NodeKind::Bool(_) | NodeKind::Number(_) | NodeKind::Mapping(_) => false,
        };
        if !is_one {
            wrong_type(node, key, "a list of mappings, or a template that comes to one", problems);
        }
        is_one.then(|| Self(node.clone()))
    }
}
described!(ExpandKwargs, "ExpandKwargs", {
    "anyOf": [
        { "type": "array", "minItems": 1, "items": { "type": "object" } },
        { "type": "string" }
    ]
});

/// The task of dag-factory's `task_id.output`.
pub(in crate::domain) fn output_of(text: &str) -> Option<&str> {
    let is_id = |id: &&str| !id.is_empty() && id.chars().all(|c| c.is_alphanumeric() || matches!(c, '_' | '-' | '.'));
    text.strip_suffix(".output").filter(is_id)
}
