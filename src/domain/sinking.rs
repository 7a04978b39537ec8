//! The values in which a sink keeps account: ranges of offsets, cuts, objects, counts.

use std::collections::BTreeMap;
use std::ops::AddAssign;

use serde::{Deserialize, Serialize};

/// A partition of a topic.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicPartition {
    /// The topic.
    pub topic: String,
    /// The partition's number.
    pub partition: i32,
}

/// The offsets of one partition that a run sinks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SinkRange {
    /// Of which partition.
    pub of: TopicPartition,
    /// The first offset.
    pub start: i64,
    /// The offset after the last one.
    pub end: i64,
}

/// How far a run's sink is in one partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SinkProgress {
    /// What it took on.
    pub range: SinkRange,
    /// All offsets below it are done.
    pub next: i64,
    /// Offsets above `next` at which objects end, in order: there ended the ranges of runs whose rest this one took over.
    pub ends: Vec<i64>,
    /// The highest sequence sunk, by producing task.
    pub marks: BTreeMap<String, i64>,
    /// What was counted below `next`.
    pub counts: SinkCounts,
}

/// What became of records, and in how many objects; also as a sink's output tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct SinkCounts {
    /// In the objects.
    pub records: i64,
    /// In dead letters.
    pub dead_lettered: i64,
    /// Replayed sequences, dropped.
    pub duplicates: i64,
    /// Of other runs or of nobody, left to them.
    pub foreign: i64,
    /// Null values, skipped.
    pub tombstones: i64,
    /// Objects written.
    pub objects: i64,
    /// Their size together.
    pub bytes: i64,
}

impl AddAssign for SinkCounts {
    fn add_assign(&mut self, other: Self) {
        self.records += other.records;
        self.dead_lettered += other.dead_lettered;
        self.duplicates += other.duplicates;
        self.foreign += other.foreign;
        self.tombstones += other.tombstones;
        self.objects += other.objects;
        self.bytes += other.bytes;
    }
}

/// Consecutive offsets whose records went into objects that were finished together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SinkCut {
    /// The first offset.
    pub start: i64,
    /// The offset after the last one.
    pub end: i64,
    /// What became of the records.
    pub counts: SinkCounts,
    /// The objects, durable by now.
    pub objects: Vec<SinkObject>,
    /// The highest sequence, by producing task, of those that moved since the cut before.
    pub marks: BTreeMap<String, i64>,
}

/// An object that a sink wrote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SinkObject {
    /// Its key in the bucket.
    pub key: String,
    /// The offset of its first record.
    pub start: i64,
    /// The offset of its last record.
    pub last: i64,
    /// How many records it holds.
    pub records: i64,
    /// Its size.
    pub bytes: i64,
    /// The SHA-256 of its bytes.
    pub sha256: [u8; 32],
}
