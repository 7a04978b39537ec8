//! Records that do not fit their topic: kept whole, with the reason, in an object of their own each.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::Serialize;

use super::naming::dead_letter_key;
use super::sorter::Decided;
use crate::domain::sinking::TopicPartition;

/// A record and why it does not fit.
#[derive(Debug, Serialize)]
pub(super) struct DeadLetter {
    topic: String,
    partition: i32,
    offset: i64,
    timestamp: i64,
    reason: String,
    /// In base64, like the value.
    key: Option<String>,
    value: Option<String>,
}

impl DeadLetter {
    pub(super) fn new(of: &TopicPartition, record: &Decided<'_>, reason: String) -> Self {
        Self {
            topic: of.topic.clone(),
            partition: of.partition,
            offset: record.offset,
            timestamp: record.timestamp,
            reason,
            key: record.key.map(|key| STANDARD.encode(key)),
            value: record.value.map(|value| STANDARD.encode(value)),
        }
    }

    /// About how much memory it takes.
    pub(super) fn size(&self) -> usize {
        let length = |text: &Option<String>| text.as_ref().map_or(0, String::len);
        200 + self.topic.len() + self.reason.len() + length(&self.key) + length(&self.value)
    }

    /// The key of its object: of its offset alone, so that a retry writes the same one.
    pub(super) fn object_key(&self) -> String {
        dead_letter_key(&self.topic, self.partition, self.offset)
    }

    /// The bytes of its object.
    pub(super) fn body(&self) -> Bytes {
        let mut body = serde_json::to_vec(self).expect("texts and numbers are JSON");
        body.push(b'\n');
        body.into()
    }
}
