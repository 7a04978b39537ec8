//! What a task left, as those after it see it: at hand, or in object storage where it was too large for a row.

use std::io;
use std::ops::Deref;
use std::sync::{Arc, OnceLock};

use minijinja::value::Serde;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::domain::ids::TaskIndex;

/// The output of a task; of a mapped task a list of its instances' outputs. Cheap to clone.
#[derive(Debug, Clone)]
pub enum Left {
    /// It is at hand.
    Here(Arc<Kept>),
    /// It is in object storage.
    Spilled(Arc<Spilled>),
    /// Of instances, some of whose outputs are in object storage.
    Each(Arc<Vec<Left>>),
    /// Of a mapped task whose instances' outputs are read when somebody asks for them.
    Listed(Arc<Listed>),
}

/// The list of what the instances of a mapped task left, read once.
#[derive(Debug)]
pub struct Listed {
    /// The mapped task.
    pub task: TaskIndex,
    /// The list, once it was read.
    pub read: OnceLock<Left>,
}

/// A value that templates take as their own without making it anew for each of them.
#[derive(Debug)]
pub struct Kept {
    value: Value,
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

impl Left {
    /// A value that is at hand.
    #[must_use]
    pub fn here(value: Value) -> Self {
        Self::Here(Arc::new(Kept { value, in_templates: OnceLock::new() }))
    }

    /// Of a mapped task: its instances' outputs in order, as one list where all are at hand.
    #[must_use]
    pub fn each(outputs: Vec<Self>) -> Self {
        if outputs.iter().any(|output| !matches!(output, Self::Here(_))) {
            return Self::Each(Arc::new(outputs));
        }
        // Whoever read them holds the only copy as a rule.
        let value = |output| match output {
            Self::Here(kept) => Arc::try_unwrap(kept).map_or_else(|kept| kept.value.clone(), |kept| kept.value),
            Self::Spilled(_) | Self::Each(_) | Self::Listed(_) => Value::Null,
        };
        Self::here(Value::Array(outputs.into_iter().map(value).collect()))
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
    pub fn to_object(&self) -> Option<LeftObject> {
        match self {
            Self::Here(kept) if kept.value.is_object() => Some(LeftObject(Arc::clone(kept))),
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
pub struct LeftObject(Arc<Kept>);

impl Deref for LeftObject {
    type Target = Map<String, Value>;

    fn deref(&self) -> &Self::Target {
        self.0.value.as_object().expect("it was made of an object")
    }
}

impl From<Map<String, Value>> for LeftObject {
    fn from(output: Map<String, Value>) -> Self {
        Self(Arc::new(Kept { value: Value::Object(output), in_templates: OnceLock::new() }))
    }
}

impl From<Map<String, Value>> for Left {
    fn from(output: Map<String, Value>) -> Self {
        Self::here(Value::Object(output))
    }
}

/// How many bytes a value is as JSON, without writing it anywhere.
#[must_use]
pub fn json_size(value: &Value) -> u64 {
    struct Counter(u64);
    impl io::Write for Counter {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0 += bytes.len() as u64;
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let mut counter = Counter(0);
    let written = serde_json::to_writer(&mut counter, value);
    debug_assert!(written.is_ok(), "a value is JSON, and counting does not fail");
    counter.0
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_size_is_that_of_the_text() {
        let value = json!({"a": ["é", 1, null, {"b": "\n"}]});
        assert_eq!(json_size(&value), value.to_string().len() as u64);
    }

    #[test]
    fn instances_outputs_are_one_list_when_all_are_at_hand() {
        let spilled = Left::Spilled(Arc::new(Spilled { url: "s3://b/k".to_owned(), bytes: 1, sha256: String::new() }));
        assert_eq!(
            Left::each(vec![Left::here(json!({"a": 1})), Left::here(json!({"a": 2}))]).value(),
            Some(&json!([{"a": 1}, {"a": 2}]))
        );
        assert!(matches!(Left::each(vec![Left::here(json!({})), spilled]), Left::Each(two) if two.len() == 2));
        assert_eq!(Left::each(Vec::new()).value(), Some(&json!([])));
    }
}
