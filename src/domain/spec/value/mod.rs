//! The forms that values take: how each is read from YAML, and how the JSON Schema describes it.

mod callbacks;
mod expand;
mod mapping;
mod plain;
mod policy;
mod time;

pub(in crate::domain) use callbacks::CallbackList;
pub(in crate::domain) use expand::{Expand, ExpandKwargs, output_of};
pub(in crate::domain) use mapping::{FreeMapping, Params, TaskGroups, Tasks};
pub(in crate::domain) use plain::{Count, Dependencies, Positive, Tags};
pub(in crate::domain) use time::{DateOrInstant, Seconds, Zone};

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator};

use crate::domain::diagnostic::{Code, Diagnostic, listed};
use crate::domain::source::Span;
use crate::domain::spec::Problems;
use crate::domain::yaml::{Node, NodeKind};

/// A value with its place and that of its key.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::domain) struct Spanned<T> {
    pub(in crate::domain) value: T,
    pub(in crate::domain) span: Span,
    pub(in crate::domain) key: Span,
}

/// A form of value. Reading says what is wrong with one that does not have it, and leaves it out.
pub(in crate::domain) trait FromNode: Sized {
    /// Whether `key:` with nothing behind it is more than a key left out.
    const NULL_MEANS_SOMETHING: bool = false;

    fn from_node(node: &Node, key: &str, problems: &mut Problems<'_>) -> Option<Self>;
}

/// Reports that a value has the wrong form.
fn wrong_type(node: &Node, key: &str, expected: &str, problems: &mut Problems<'_>) {
    if let Some((message, help)) = node.not_whole(key).filter(|_| expected == "a whole number") {
        problems.add(Diagnostic::error(Code::WrongType, node.span, message).help(help));
        return;
    }
    let message = format!("`{key}` is {expected}, but this is {}", node.describe());
    let problem = Diagnostic::error(Code::WrongType, node.span, message).label(format!("expected {expected}"));
    let typed = problems.file.slice(node.span);
    let problem = match (&node.kind, expected) {
        (NodeKind::Text(text), "true or false") if matches!(text.as_str(), "yes" | "no" | "on" | "off") => {
            problem.help("YAML 1.2 has `true` and `false`; yes, no, on and off are text")
        }
        (NodeKind::Text(text), _) if text.contains("{{") => {
            problem.help("templates are rendered in the operator's own keys only")
        }
        (NodeKind::Text(text), _) if text.parse::<f64>().is_ok() && typed.starts_with(['"', '\'']) => {
            problem.help("remove the quotes")
        }
        (NodeKind::Number(_) | NodeKind::Bool(_), "text") => problem.help(format!("put it in quotes: \"{typed}\"")),
        _ => problem,
    };
    problems.add(problem);
}

fn choice<T: Copy>(node: &Node, key: &str, choices: &[(&str, T)], problems: &mut Problems<'_>) -> Option<T> {
    let Some(text) = node.as_text() else {
        wrong_type(node, key, "one word", problems);
        return None;
    };
    let found = choices.iter().find(|(name, _)| *name == text).map(|(_, value)| *value);
    if found.is_none() {
        let names = || choices.iter().map(|(name, _)| *name);
        problems.add(
            Diagnostic::error(Code::BadChoice, node.span, format!("`{key}` cannot be `{text}`")).did_you_mean(
                text,
                names(),
                || Some(format!("it is one of {}", listed(names()))),
            ),
        );
    }
    found
}

impl<T: JsonSchema> JsonSchema for Spanned<T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        T::schema_name()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        generator.subschema_for::<T>()
    }
}

/// Implements [`JsonSchema`] with a schema that stands where it is used.
macro_rules! described {
    ($type:ty, $name:literal, $schema:tt) => {
        impl schemars::JsonSchema for $type {
            fn inline_schema() -> bool {
                true
            }

            fn schema_name() -> std::borrow::Cow<'static, str> {
                $name.into()
            }

            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!($schema)
            }
        }
    };
}

use described;
