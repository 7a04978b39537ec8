//! The offsets of one group: those committed, and those that a transaction will commit or drop.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::embedded::broker::log::batch::Outcome;

/// A topic's name and a partition's number.
pub(crate) type Place = (String, i32);

/// How far a group has read one partition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Committed {
    pub(crate) offset: i64,
    pub(crate) leader_epoch: i32,
    pub(crate) metadata: String,
}

/// Offsets by place, as they come in one request.
pub(crate) type Batch = Vec<(Place, Committed)>;

/// The offsets of one group.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Offsets {
    pub(crate) committed: BTreeMap<Place, Committed>,
    /// By the producer whose transaction decides.
    pub(crate) pending: BTreeMap<i64, BTreeMap<Place, Committed>>,
}

impl Offsets {
    pub(crate) fn commit(&mut self, batch: Batch) {
        self.committed.extend(batch);
    }

    /// Keeps offsets until the producer's transaction ends.
    pub(crate) fn hold(&mut self, producer_id: i64, batch: Batch) {
        self.pending.entry(producer_id).or_default().extend(batch);
    }

    /// Applies or drops what was held for a producer; nothing the second time.
    pub(crate) fn end(&mut self, producer_id: i64, outcome: Outcome) {
        if let (Some(held), Outcome::Commit) = (self.pending.remove(&producer_id), outcome) {
            self.committed.extend(held);
        }
    }

    /// Whether an open transaction may still change this offset.
    pub(crate) fn is_unstable(&self, place: &Place) -> bool {
        self.pending.values().any(|held| held.contains_key(place))
    }

    /// Whether there are offsets of this topic.
    pub(crate) fn has_topic(&self, topic: &str) -> bool {
        self.committed.keys().chain(self.pending.values().flat_map(BTreeMap::keys)).any(|(name, _)| name == topic)
    }

    /// Drops the offsets of all topics that are not to be kept.
    pub(crate) fn keep_topics(&mut self, keep: impl Fn(&str) -> bool) {
        self.committed.retain(|(name, _), _| keep(name));
        for held in self.pending.values_mut() {
            held.retain(|(name, _), _| keep(name));
        }
        self.pending.retain(|_, held| !held.is_empty());
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.committed.is_empty() && self.pending.is_empty()
    }
}
