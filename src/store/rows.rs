//! Rows to domain and back. What no version of pinsched writes is an error, never a default.

use std::sync::Arc;

use serde::Deserialize;
use serde_json::Value;

use crate::domain::run_state::RunState;
use crate::domain::run_type::RunType;
use crate::domain::task_output::{Spilled, TaskOutput};
use crate::domain::task_state::{AttemptOutcome, TaskEvent, TaskState};
use crate::domain::trigger_rule::UpstreamCounts;
use crate::store::StoreError;

/// The task state of a row.
pub(in crate::store) fn task_state(text: &str) -> Result<TaskState, StoreError> {
    TaskState::ALL
        .into_iter()
        .find(|state| state.as_str() == text)
        .ok_or_else(|| StoreError::Corrupt { what: "a task state", value: text.to_owned() })
}

/// The run state of a row.
pub(in crate::store) fn run_state(text: &str) -> Result<RunState, StoreError> {
    RunState::ALL
        .into_iter()
        .find(|state| state.as_str() == text)
        .ok_or_else(|| StoreError::Corrupt { what: "a run state", value: text.to_owned() })
}

/// The run type of a row.
pub(in crate::store) fn run_type(text: &str) -> Result<RunType, StoreError> {
    RunType::ALL
        .into_iter()
        .find(|kind| kind.as_str() == text)
        .ok_or_else(|| StoreError::Corrupt { what: "a run type", value: text.to_owned() })
}

/// The event of a row of the history.
pub(in crate::store) fn task_event(text: &str) -> Result<TaskEvent, StoreError> {
    TaskEvent::ALL
        .into_iter()
        .find(|event| event.as_str() == text)
        .ok_or_else(|| StoreError::Corrupt { what: "a task event", value: text.to_owned() })
}

/// An id of a row: it was checked before it was written.
pub(in crate::store) fn id<T: std::str::FromStr>(what: &'static str, text: &str) -> Result<T, StoreError> {
    text.parse().map_err(|_| StoreError::Corrupt { what, value: text.to_owned() })
}

/// How an attempt of a row ended.
pub(in crate::store) fn attempt_outcome(text: &str) -> Result<AttemptOutcome, StoreError> {
    AttemptOutcome::ALL
        .into_iter()
        .find(|outcome| outcome.as_str() == text)
        .ok_or_else(|| StoreError::Corrupt { what: "an attempt's outcome", value: text.to_owned() })
}

/// A count of a row.
pub(in crate::store) fn count(value: i32) -> Result<u32, StoreError> {
    u32::try_from(value).map_err(|_| StoreError::Corrupt { what: "a count", value: value.to_string() })
}

/// A count for a row: of tasks, of which a DAG has far fewer.
pub(in crate::store) fn stored(value: u32) -> i32 {
    i32::try_from(value).expect("a DAG file of at most 10 MB has fewer tasks than an integer column can count")
}

/// Words for a row: Postgres's text cannot hold a NUL, and nobody's error message is worth a step of the engine.
pub(in crate::store) fn text(words: &str) -> String {
    words.replace('\0', "\u{FFFD}")
}

/// The same for all the words of a JSON value.
pub(in crate::store) fn json(value: &Value) -> Value {
    match value {
        Value::String(words) => Value::String(text(words)),
        Value::Array(items) => items.iter().map(json).collect(),
        Value::Object(fields) => fields.iter().map(|(key, value)| (text(key), json(value))).collect(),
        Value::Null | Value::Bool(_) | Value::Number(_) => value.clone(),
    }
}

/// Where an output is that is not in its row.
pub(in crate::store) fn spilled(output: &TaskOutput) -> Option<Value> {
    match output {
        TaskOutput::Spilled(spilled) => serde_json::to_value(&**spilled).ok(),
        TaskOutput::Here(_) | TaskOutput::Each(_) | TaskOutput::Listed(_) => None,
    }
}

/// What a task left, of its row; `None` where it left nothing.
pub(in crate::store) fn left(output: Option<Value>, spilled: Option<Value>) -> Result<Option<TaskOutput>, StoreError> {
    let corrupt = |value: &Value| StoreError::Corrupt { what: "a task's output", value: value.to_string() };
    match (output, spilled) {
        (Some(output @ Value::Object(_)), None) => Ok(Some(TaskOutput::here(output))),
        (None, Some(spilled)) => {
            let read = Spilled::deserialize(&spilled).map_err(|_| corrupt(&spilled))?;
            Ok(Some(TaskOutput::Spilled(Arc::new(read))))
        }
        (None, None) => Ok(None),
        (Some(other), _) => Err(corrupt(&other)),
    }
}

/// How the upstreams of tasks stand, a column each.
#[derive(Default)]
pub(in crate::store) struct UpstreamColumns {
    pub(in crate::store) unfinished: Vec<i32>,
    pub(in crate::store) success: Vec<i32>,
    pub(in crate::store) failed: Vec<i32>,
    pub(in crate::store) upstream_failed: Vec<i32>,
    pub(in crate::store) skipped: Vec<i32>,
    pub(in crate::store) setups_succeeded: Vec<i32>,
    pub(in crate::store) setups_skipped: Vec<i32>,
}

impl UpstreamColumns {
    /// Adds a task's.
    pub(in crate::store) fn push(&mut self, counts: &UpstreamCounts) {
        self.unfinished.push(stored(counts.unfinished));
        self.success.push(stored(counts.success));
        self.failed.push(stored(counts.failed));
        self.upstream_failed.push(stored(counts.upstream_failed));
        self.skipped.push(stored(counts.skipped));
        self.setups_succeeded.push(stored(counts.setups_succeeded));
        self.setups_skipped.push(stored(counts.setups_skipped));
    }
}
