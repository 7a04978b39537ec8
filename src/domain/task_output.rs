//! The output of a task, as those after it see it: at hand, or in object storage where it was too large for a row.

use std::ops::Deref;
use std::sync::{Arc, OnceLock};

use minijinja::value::Serde;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::domain::ids::TaskIndex;

/// The largest output that a row takes, where no setting says otherwise: Postgres keeps such a value in some pages aside.
pub const INLINE_LIMIT: &str = "256KiB";

/// The largest output at all, where no setting says otherwise: it is held in memory by each task that uses it.
pub const OUTPUT_LIMIT: &str = "64MiB";

/// The output of a task; of a mapped task a list of its instances' outputs. Cheap to clone.
#[derive(Debug, Clone)]
pub enum TaskOutput {
    /// It is at hand.
    Here(Arc<Kept>),
    /// It is in object storage.
    Spilled(Arc<Spilled>),
    /// Of instances, some of whose outputs are in object storage.
    Each(Arc<Vec<InstanceOutput>>),
    /// Of a mapped task whose instances' outputs are read when somebody asks for them.
    Listed(Arc<Listed>),
}

/// What an instance of a mapped task left.
#[derive(Debug, Clone)]
pub struct InstanceOutput {
    /// Which instance.
    pub map_index: u32,
    /// What it left.
    pub output: TaskOutput,
}

/// The list of what the instances of a mapped task left, read once.
#[derive(Debug)]
pub struct Listed {
    /// The mapped task.
    pub task: TaskIndex,
    /// The list, once it was read.
    pub read: OnceLock<TaskOutput>,
}

/// A value that templates take as their own without making it anew for each of them.
#[derive(Debug)]
pub struct Kept {
    value: Value,
    /// Of the list that a mapped task left: whose outputs they are.
    map_indexes: Option<Vec<u32>>,
    in_templates: OnceLock<minijinja::Value>,
}

/// Where an output is that was too large for a row.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spilled {
    /// The object, as `s3://bucket/key`.
    pub url: String,
    /// Its size, which is that of the output as JSON.
    pub bytes: u64,
    /// Its SHA-256, in hex.
    pub sha256: String,
}

impl TaskOutput {
    /// A value that is at hand.
    #[must_use]
    pub fn here(value: Value) -> Self {
        Self::Here(Arc::new(Kept { value, map_indexes: None, in_templates: OnceLock::new() }))
    }

    /// Of a mapped task: its instances' outputs in the order of their indexes, as one list where all are at hand.
    #[must_use]
    pub fn each(outputs: Vec<InstanceOutput>) -> Self {
        if outputs.iter().any(|one| !matches!(one.output, Self::Here(_))) {
            return Self::Each(Arc::new(outputs));
        }
        let map_indexes = Some(outputs.iter().map(|one| one.map_index).collect());
        // Whoever read them holds the only copy as a rule.
        let value = |one: InstanceOutput| match one.output {
            Self::Here(kept) => Arc::try_unwrap(kept).map_or_else(|kept| kept.value.clone(), |kept| kept.value),
            Self::Spilled(_) | Self::Each(_) | Self::Listed(_) => Value::Null,
        };
        let value = Value::Array(outputs.into_iter().map(value).collect());
        Self::Here(Arc::new(Kept { value, map_indexes, in_templates: OnceLock::new() }))
    }

    /// Of the list that a mapped task left, at hand: whose outputs they are, in its order.
    #[must_use]
    pub fn map_indexes(&self) -> Option<&[u32]> {
        match self {
            Self::Here(kept) => kept.map_indexes.as_deref(),
            Self::Spilled(_) | Self::Each(_) | Self::Listed(_) => None,
        }
    }

    /// Of a mapped task: a list that nobody has read yet.
    #[must_use]
    pub fn listed(task: TaskIndex) -> Self {
        Self::Listed(Arc::new(Listed { task, read: OnceLock::new() }))
    }

    /// The value, where it is at hand.
    #[must_use]
    pub fn value(&self) -> Option<&Value> {
        match self {
            Self::Here(kept) => Some(&kept.value),
            Self::Spilled(_) | Self::Each(_) | Self::Listed(_) => None,
        }
    }

    /// The same as an object, to keep.
    #[must_use]
    pub fn to_object(&self) -> Option<OutputObject> {
        match self {
            Self::Here(kept) if kept.value.is_object() => Some(OutputObject(Arc::clone(kept))),
            Self::Here(_) | Self::Spilled(_) | Self::Each(_) | Self::Listed(_) => None,
        }
    }

    /// The same as an object.
    #[must_use]
    pub fn object(&self) -> Option<&Map<String, Value>> {
        self.value().and_then(Value::as_object)
    }

    /// As templates see it; undefined where it is not at hand.
    #[must_use]
    pub fn in_templates(&self) -> minijinja::Value {
        match self {
            Self::Here(kept) => kept.in_templates.get_or_init(|| minijinja::Value::from(Serde(&kept.value))).clone(),
            Self::Spilled(_) | Self::Each(_) | Self::Listed(_) => minijinja::Value::UNDEFINED,
        }
    }
}

/// An output that is at hand, as the object that it is. Cheap to clone.
#[derive(Debug, Clone)]
pub struct OutputObject(Arc<Kept>);

impl Deref for OutputObject {
    type Target = Map<String, Value>;

    fn deref(&self) -> &Self::Target {
        self.0.value.as_object().expect("it was made of an object")
    }
}

impl From<Map<String, Value>> for OutputObject {
    fn from(output: Map<String, Value>) -> Self {
        Self(Arc::new(Kept { value: Value::Object(output), map_indexes: None, in_templates: OnceLock::new() }))
    }
}

impl From<Map<String, Value>> for TaskOutput {
    fn from(output: Map<String, Value>) -> Self {
        Self::here(Value::Object(output))
    }
}

/// How many bytes a value is as JSON, without writing it anywhere.
#[must_use]
pub fn json_size(value: &Value) -> u64 {
    let between = |count: usize| count.saturating_sub(1) as u64; // commas
    match value {
        Value::Null | Value::Bool(true) => 4,
        Value::Bool(false) => 5,
        Value::Number(number) => number.to_string().len() as u64,
        Value::String(text) => text_size(text),
        Value::Array(items) => 2 + between(items.len()) + items.iter().map(json_size).sum::<u64>(),
        Value::Object(fields) => {
            let fields_size: u64 = fields.iter().map(|(key, value)| text_size(key) + 1 + json_size(value)).sum();
            2 + between(fields.len()) + fields_size
        }
    }
}

/// A text with its quotes and escapes.
fn text_size(text: &str) -> u64 {
    let size = |byte: u8| match byte {
        b'"' | b'\\' | b'\n' | b'\r' | b'\t' | 0x08 | 0x0c => 2,
        0..0x20 => 6,
        _ => 1,
    };
    2 + text.bytes().map(size).sum::<u64>()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_size_is_that_of_the_text() {
        let value =
            json!({"a": ["é", 1, -2.5e10, null, {"b": "\n\"\\\u{8}\u{c}\u{1}\u{7f}"}, true, false], "\t": [], "c": {}});
        assert_eq!(json_size(&value), value.to_string().len() as u64);
    }

    #[test]
    fn instances_outputs_are_one_list_when_all_are_at_hand() {
        let spilled =
            TaskOutput::Spilled(Arc::new(Spilled { url: "s3://b/k".to_owned(), bytes: 1, sha256: String::new() }));
        let each = |outputs: Vec<(u32, TaskOutput)>| {
            TaskOutput::each(
                outputs.into_iter().map(|(map_index, output)| InstanceOutput { map_index, output }).collect(),
            )
        };
        let list = each(vec![(0, TaskOutput::here(json!({"a": 1}))), (3, TaskOutput::here(json!({"a": 2})))]);
        assert_eq!(list.value(), Some(&json!([{"a": 1}, {"a": 2}])));
        assert_eq!(list.map_indexes(), Some([0, 3].as_slice()));
        let mixed = each(vec![(0, TaskOutput::here(json!({}))), (1, spilled)]);
        assert!(matches!(mixed, TaskOutput::Each(two) if two.len() == 2));
        assert_eq!(each(Vec::new()).value(), Some(&json!([])));
    }
}
