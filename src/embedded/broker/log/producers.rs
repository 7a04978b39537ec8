//! What one partition remembers of its idempotent and transactional producers: sequence numbers, epochs, and which
//! transactions are open. Pure state: fed with batch headers, whether they come from a request or from a replay.

use std::collections::{HashMap, VecDeque};

use serde::{Deserialize, Serialize};

use super::batch::{BatchHeader, Outcome};

/// A client has at most five requests in flight, so a resent batch is one of the last five.
const REMEMBERED_BATCHES: usize = 5;

/// Why a numbered batch may not be appended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// A newer incarnation of this producer has written here.
    StaleEpoch,
    /// A batch is missing before this one.
    OutOfOrder,
    /// A batch outside the producer's open transaction.
    OutsideTransaction,
}

/// What to do with a batch that may be appended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It is new.
    Append,
    /// It is already there, at these offsets.
    Duplicate { base_offset: i64, last_offset: i64 },
}

/// A transaction whose records must not be shown to readers of committed records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Aborted {
    pub(crate) producer_id: i64,
    pub(crate) first_offset: i64,
    /// Of the marker.
    pub(crate) last_offset: i64,
    /// The first offset still undecided after it: no later entry begins before this.
    pub(crate) stable_offset: i64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Remembered {
    first_sequence: i32,
    last_sequence: i32,
    base_offset: i64,
    last_offset: i64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Producer {
    epoch: i16,
    batches: VecDeque<Remembered>,
    /// The first offset of its open transaction.
    open_since: Option<i64>,
    /// The offset of what it wrote last, the measure of recency.
    last_offset: i64,
}

/// The producers of one partition.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Producers {
    by_id: HashMap<i64, Producer>,
    /// The smallest `open_since`; asked for by every fetch, so not sought every time.
    first_open: Option<i64>,
}

impl Producers {
    /// Whether a batch may be appended now. Changes nothing.
    pub(crate) fn check(&self, header: &BatchHeader) -> Result<Verdict, Refusal> {
        let Some(producer) = self.by_id.get(&header.producer_id) else {
            // Unknown here: never seen, or forgotten for space. Either way its numbers cannot be judged.
            return Ok(Verdict::Append);
        };
        if header.producer_epoch < producer.epoch {
            return Err(Refusal::StaleEpoch);
        }
        if producer.open_since.is_some() && !header.is_transactional() {
            return Err(Refusal::OutsideTransaction);
        }
        if header.producer_epoch > producer.epoch {
            return if header.base_sequence == 0 { Ok(Verdict::Append) } else { Err(Refusal::OutOfOrder) };
        }
        let resent = producer
            .batches
            .iter()
            .find(|b| b.first_sequence == header.base_sequence && b.last_sequence == header.last_sequence());
        if let Some(found) = resent {
            return Ok(Verdict::Duplicate { base_offset: found.base_offset, last_offset: found.last_offset });
        }
        let expected = match producer.batches.back() {
            Some(last) if last.last_sequence == i32::MAX => 0,
            Some(last) => last.last_sequence + 1,
            None => 0,
        };
        if header.base_sequence == expected { Ok(Verdict::Append) } else { Err(Refusal::OutOfOrder) }
    }

    /// Takes note of a data batch that was appended (its header has its real offset).
    pub(crate) fn appended(&mut self, header: &BatchHeader) {
        let producer = self.entry(header);
        if producer.batches.len() == REMEMBERED_BATCHES {
            producer.batches.pop_front();
        }
        producer.batches.push_back(Remembered {
            first_sequence: header.base_sequence,
            last_sequence: header.last_sequence(),
            base_offset: header.base_offset,
            last_offset: header.last_offset(),
        });
        if header.is_transactional() && producer.open_since.is_none() {
            producer.open_since = Some(header.base_offset);
            // Offsets only grow, so whatever was open before began before.
            self.first_open.get_or_insert(header.base_offset);
        }
    }

    /// Takes note of a marker that was appended. Tells the transaction it aborted, if it did.
    pub(crate) fn ended(&mut self, marker: &BatchHeader, outcome: Outcome) -> Option<Aborted> {
        let first_offset = self.entry(marker).open_since.take()?;
        self.first_open = self.by_id.values().filter_map(|p| p.open_since).min();
        let last_offset = marker.last_offset();
        (outcome == Outcome::Abort).then(|| Aborted {
            producer_id: marker.producer_id,
            first_offset,
            last_offset,
            stable_offset: self.first_open.unwrap_or(last_offset + 1),
        })
    }

    fn entry(&mut self, header: &BatchHeader) -> &mut Producer {
        let fresh =
            || Producer { epoch: header.producer_epoch, batches: VecDeque::new(), open_since: None, last_offset: 0 };
        let producer = self.by_id.entry(header.producer_id).or_insert_with(fresh);
        if header.producer_epoch != producer.epoch {
            producer.epoch = header.producer_epoch;
            producer.batches.clear();
        }
        producer.last_offset = header.last_offset();
        producer
    }

    /// Whether this producer has an open transaction here.
    pub(crate) fn is_open(&self, producer_id: i64) -> bool {
        self.by_id.get(&producer_id).is_some_and(|p| p.open_since.is_some())
    }

    /// The producers with an open transaction, and their epochs.
    pub(crate) fn open(&self) -> Vec<(i64, i16)> {
        self.by_id.iter().filter(|(_, p)| p.open_since.is_some()).map(|(id, p)| (*id, p.epoch)).collect()
    }

    /// The first offset that belongs to an open transaction.
    pub(crate) fn first_open(&self) -> Option<i64> {
        self.first_open
    }

    /// Forgets the least recently used idle producers beyond `limit`, an eighth more than needed so that it is rare.
    pub(crate) fn shrink(&mut self, limit: usize) {
        if self.by_id.len() <= limit {
            return;
        }
        let mut idle: Vec<(i64, i64)> =
            self.by_id.iter().filter(|(_, p)| p.open_since.is_none()).map(|(id, p)| (p.last_offset, *id)).collect();
        idle.sort_unstable();
        let surplus = self.by_id.len() - limit + limit / 8;
        for (_, id) in idle.into_iter().take(surplus) {
            self.by_id.remove(&id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::batch::{BatchHeader, marker};
    use super::*;

    fn header(epoch: i16, sequence: i32, offset: i64, count: i32, transactional: bool) -> BatchHeader {
        let mut header = BatchHeader::parse(&marker(9, epoch, Outcome::Commit, 0)).unwrap();
        header.attributes = if transactional { 0x10 } else { 0 };
        header.base_sequence = sequence;
        header.base_offset = offset;
        header.last_offset_delta = count - 1;
        header.record_count = count;
        header
    }

    #[test]
    fn resent_batches_are_recognised_and_gaps_refused() {
        let mut producers = Producers::default();
        for n in 0..7 {
            let batch = header(0, n * 10, i64::from(n) * 10, 10, false);
            assert_eq!(producers.check(&batch), Ok(Verdict::Append));
            producers.appended(&batch);
        }
        let resent = header(0, 40, 0, 10, false);
        assert_eq!(producers.check(&resent), Ok(Verdict::Duplicate { base_offset: 40, last_offset: 49 }));
        assert_eq!(producers.check(&header(0, 80, 0, 10, false)), Err(Refusal::OutOfOrder));
        assert_eq!(producers.check(&header(0, 0, 0, 10, false)), Err(Refusal::OutOfOrder), "too old to remember");
        assert_eq!(producers.check(&header(1, 0, 0, 10, false)), Ok(Verdict::Append));
        assert_eq!(producers.check(&header(1, 5, 0, 10, false)), Err(Refusal::OutOfOrder));
    }

    #[test]
    fn a_marker_with_a_newer_epoch_fences_and_tells_the_stable_offset() {
        let mut producers = Producers::default();
        producers.appended(&header(3, 0, 100, 5, true));
        assert_eq!(producers.first_open(), Some(100));
        let aborted = producers.ended(&header(4, -1, 105, 1, true), Outcome::Abort).unwrap();
        assert_eq!((aborted.first_offset, aborted.last_offset, aborted.stable_offset), (100, 105, 106));
        assert_eq!(producers.check(&header(3, 5, 0, 1, true)), Err(Refusal::StaleEpoch));
        assert_eq!(producers.check(&header(4, 0, 0, 1, true)), Ok(Verdict::Append));
        assert_eq!(producers.ended(&header(4, -1, 106, 1, true), Outcome::Abort), None, "a second marker ends nothing");
    }

    #[test]
    fn shrinking_keeps_open_transactions_and_the_most_recent() {
        let mut producers = Producers::default();
        for id in 0..100 {
            let mut batch = header(0, 0, id, 1, id == 0);
            batch.producer_id = id;
            producers.appended(&batch);
        }
        producers.shrink(50);
        assert!(producers.is_open(0));
        assert!(producers.by_id.len() <= 50 && producers.by_id.contains_key(&99) && !producers.by_id.contains_key(&1));
    }
}
