//! What the pipeline's tasks leave for each other: written by one, read by the next, by the account and by people.
//!
//! No count has a default: an output that lacks one is an error or unknown, never a zero that balances.

use std::collections::BTreeMap;

use indexmap::IndexMap;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::domain::sinking::SinkCounts;

/// What `emulate` leaves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EmulateOutput {
    /// How many rows were drawn, each of all tables.
    pub rows: u64,
    /// Their size as they are staged.
    pub bytes: u64,
    /// How they were drawn.
    pub draw: String,
    /// The seed of the drawing.
    pub seed: u64,
    /// The tables that make up a row, by their short names.
    pub tables: IndexMap<String, StagedTable>,
    /// Where the rows are.
    pub staged: StagedRows,
}

/// One table of a drawn row.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StagedTable {
    /// Its name in the source.
    pub table: String,
    /// The column that tells its rows apart.
    pub key: String,
    /// Its columns, in order.
    pub columns: Vec<String>,
}

/// Where drawn rows wait to be produced.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StagedRows {
    /// The bucket of the manifest and of the files that it lists.
    pub bucket: String,
    /// The manifest's key.
    pub manifest: String,
    /// The manifest's SHA-256, in hex.
    pub sha256: String,
    /// How many files it lists.
    pub parts: u64,
}

/// What `produce` leaves, as far as its successors ask.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProduceOutput {
    /// Each topic.
    pub topics: BTreeMap<String, ProducedTopic>,
}

/// What `produce` says of a topic.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProducedTopic {
    /// The short name of the table whose rows it holds.
    pub table: String,
    /// The columns of that table.
    pub columns: Vec<String>,
    /// How many rows the manifest that was sent holds, each owed to the topic.
    pub drawn: u64,
    /// How many of them Kafka acknowledged.
    pub produced: u64,
    /// How many of them the topic does not take.
    pub dead_lettered: u64,
    /// Where the records lie.
    pub partitions: BTreeMap<i32, OffsetSpan>,
}

/// Offsets of one partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct OffsetSpan {
    /// The first one.
    pub start: i64,
    /// One past the last one.
    pub end: i64,
}

/// What `sink` leaves, as far as the account asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SinkOutput {
    /// Each topic.
    pub topics: BTreeMap<String, SunkTopic>,
    /// Whose records were taken, where it was not this run's alone.
    #[serde(default)]
    pub records: SunkRecords,
}

/// Whose records a sink took.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SunkRecords {
    /// Those that this run's `produce` tasks sent.
    #[default]
    Run,
    /// Also those of strangers, which no count of ours knows.
    All,
}

/// What `sink` says of a topic: its counts, as keys of the topic's own.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct SunkTopic {
    /// What became of its records.
    #[serde(flatten)]
    pub counts: SinkCounts,
    /// Which offsets were gone through.
    pub partitions: BTreeMap<i32, OffsetSpan>,
}

/// Reads a task's output as its operator wrote it.
///
/// # Errors
/// The text names the key that is missing or is none.
pub fn read<T: DeserializeOwned>(output: &Map<String, Value>) -> Result<T, serde_json::Error> {
    T::deserialize(output)
}

/// Writes a task's output.
///
/// # Panics
/// When `output` is no struct of the kind above: that would be a mistake of ours.
#[must_use]
pub fn written<T: Serialize>(output: &T) -> Map<String, Value> {
    match serde_json::to_value(output) {
        Ok(Value::Object(output)) => output,
        other => panic!("an output is a struct with text keys, which JSON writes as an object: {other:?}"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_count_that_is_missing_is_no_zero() {
        let mut output = json!({"topics": {"u.pin": {
            "table": "pin", "columns": [], "drawn": 1, "produced": 1, "dead_lettered": 0,
            "partitions": {"0": {"start": 0, "end": 1}}}}});
        let read = |output: &Value| read::<ProduceOutput>(output.as_object().unwrap());
        assert_eq!(Value::Object(written(&read(&output).unwrap())), output);
        output["topics"]["u.pin"].as_object_mut().unwrap().remove("dead_lettered");
        assert_eq!(read(&output).unwrap_err().to_string(), "missing field `dead_lettered`");
    }

    #[test]
    fn the_counts_of_a_sunk_topic_are_its_own_keys_and_none_has_a_default() {
        let topic = r#"{"records":9,"dead_lettered":1,"duplicates":2,"foreign":3,"tombstones":4,"objects":5,"bytes":6,"partitions":{"7":{"start":0,"end":19}}}"#;
        let read = |text: &str| serde_json::from_str::<SunkTopic>(text);
        assert_eq!(serde_json::to_string(&read(topic).unwrap()).unwrap(), topic);
        let without = topic.replace(r#""tombstones":4,"#, "");
        assert!(read(&without).unwrap_err().to_string().starts_with("missing field `tombstones`"));
        let output = json!({"topics": {"u.pin": serde_json::from_str::<Value>(topic).unwrap()}});
        let sunk = super::read::<SinkOutput>(output.as_object().unwrap()).unwrap();
        assert_eq!((sunk.topics["u.pin"].counts.foreign, sunk.topics["u.pin"].partitions[&7].end), (3, 19));
    }
}
