//! One transactional id as a value: its producer, its epoch, its current transaction. All changes of phase are in one
//! table; nothing here waits or writes.

use std::collections::BTreeSet;

use kafka_protocol::ResponseError;
use serde::{Deserialize, Serialize};

use crate::embedded::broker::groups::offsets::Place;
use crate::embedded::broker::log::batch::Outcome;

/// Where a transactional id is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Phase {
    /// No transaction since the producer was initialised.
    Idle,
    /// Partitions or groups take part; moved on by the producer, a successor or the timeout.
    Open,
    /// Durably decided, not yet told everywhere; moved on by the coordinator alone.
    Deciding(Outcome),
    /// Told everywhere.
    Ended(Outcome),
}

/// What happens to a transactional id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Event {
    /// A partition or a group takes part.
    Joined,
    /// The producer, its successor or the clock decided.
    Decided(Outcome),
    /// Every partition and group was told.
    Told,
    /// A producer was initialised.
    Initialised,
}

impl Phase {
    /// The one table of changes. The error is the answer to a producer that asked for an impossible one.
    pub(crate) fn next(self, event: Event) -> Result<Self, ResponseError> {
        Ok(match (self, event) {
            (Self::Idle | Self::Open | Self::Ended(_), Event::Joined) => Self::Open,
            (Self::Open, Event::Decided(outcome)) => Self::Deciding(outcome),
            // Repeated because the first answer was lost.
            (Self::Deciding(same), Event::Decided(outcome)) if same == outcome => Self::Deciding(same),
            (Self::Ended(same), Event::Decided(outcome)) if same == outcome => Self::Ended(same),
            (Self::Deciding(outcome), Event::Told) => Self::Ended(outcome),
            (Self::Idle | Self::Ended(_), Event::Initialised) => Self::Idle,
            (Self::Deciding(_), Event::Joined | Event::Initialised) => {
                return Err(ResponseError::ConcurrentTransactions);
            }
            (Self::Idle | Self::Deciding(_) | Self::Ended(_), Event::Decided(_))
            | (Self::Idle | Self::Open | Self::Ended(_), Event::Told)
            | (Self::Open, Event::Initialised) => return Err(ResponseError::InvalidTxnState),
        })
    }
}

/// One transactional id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) producer_id: i64,
    pub(crate) epoch: i16,
    /// The epoch before, if its owner is who got this one: it may have missed the answer and ask again.
    pub(crate) last_epoch: Option<i16>,
    pub(crate) timeout_ms: i64,
    pub(crate) phase: Phase,
    pub(crate) partitions: BTreeSet<Place>,
    pub(crate) groups: BTreeSet<String>,
    /// When the open transaction began.
    pub(crate) started_ms: i64,
    /// When anything last changed.
    pub(crate) updated_ms: i64,
}

/// What a producer that is initialised again gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Renewal {
    /// The next epoch. `known` tells whether it is the same producer that asked.
    Bump { known: bool },
    /// What it already has: only the answer was lost.
    Same,
    /// The epochs of this producer id are used up.
    NewProducerId,
}

impl Record {
    pub(crate) fn new(producer_id: i64, timeout_ms: i64, now_ms: i64) -> Self {
        Self {
            producer_id,
            epoch: 0,
            last_epoch: None,
            timeout_ms,
            phase: Phase::Idle,
            partitions: BTreeSet::new(),
            groups: BTreeSet::new(),
            started_ms: now_ms,
            updated_ms: now_ms,
        }
    }

    /// Whether a request under this id and epoch is the current producer's.
    pub(crate) fn check(&self, producer_id: i64, epoch: i16) -> Result<(), ResponseError> {
        if self.producer_id != producer_id {
            return Err(ResponseError::InvalidProducerIdMapping);
        }
        if self.epoch != epoch { Err(ResponseError::ProducerFenced) } else { Ok(()) }
    }

    /// Judges a new initialisation, by a producer that says who it was (`expected`) or does not.
    pub(crate) fn renewal(&self, expected: Option<(i64, i16)>) -> Result<Renewal, ResponseError> {
        let exhausted = self.epoch >= i16::MAX - 1;
        match expected {
            None if exhausted => Ok(Renewal::NewProducerId),
            None => Ok(Renewal::Bump { known: false }),
            Some((id, _)) if id != self.producer_id => Err(ResponseError::ProducerFenced),
            Some((_, epoch)) if epoch == self.epoch && exhausted => Ok(Renewal::NewProducerId),
            Some((_, epoch)) if epoch == self.epoch => Ok(Renewal::Bump { known: true }),
            Some((_, epoch)) if Some(epoch) == self.last_epoch => Ok(Renewal::Same),
            Some(_) => Err(ResponseError::ProducerFenced),
        }
    }

    /// Takes the next epoch, which fences whoever has this one. The last epoch of all is only ever a fence, so staying
    /// at it is as good.
    pub(crate) fn bump(&mut self, known: bool) {
        self.last_epoch = known.then_some(self.epoch);
        self.epoch = self.epoch.saturating_add(1);
    }

    /// Adds partitions and groups to the transaction, beginning one if none is open.
    pub(crate) fn join(&mut self, places: &[Place], group: Option<&str>, now_ms: i64) -> Result<(), ResponseError> {
        let next = self.phase.next(Event::Joined)?;
        if self.phase != Phase::Open {
            self.started_ms = now_ms;
            // Whoever writes under the new epoch has got the answer.
            self.last_epoch = None;
        }
        self.phase = next;
        self.partitions.extend(places.iter().cloned());
        self.groups.extend(group.map(str::to_owned));
        Ok(())
    }

    /// Whether its open transaction has outlived its timeout.
    pub(crate) fn is_overdue(&self, now_ms: i64) -> bool {
        self.phase == Phase::Open && now_ms - self.started_ms > self.timeout_ms
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_decision_is_final_and_may_be_repeated() {
        let open = Phase::Idle.next(Event::Joined).unwrap();
        let deciding = open.next(Event::Decided(Outcome::Commit)).unwrap();
        assert_eq!(deciding.next(Event::Decided(Outcome::Commit)), Ok(deciding));
        assert_eq!(deciding.next(Event::Decided(Outcome::Abort)), Err(ResponseError::InvalidTxnState));
        assert_eq!(deciding.next(Event::Joined), Err(ResponseError::ConcurrentTransactions));
        let ended = deciding.next(Event::Told).unwrap();
        assert_eq!(ended.next(Event::Decided(Outcome::Commit)), Ok(ended));
        assert_eq!(ended.next(Event::Decided(Outcome::Abort)), Err(ResponseError::InvalidTxnState));
        assert_eq!(Phase::Idle.next(Event::Decided(Outcome::Commit)), Err(ResponseError::InvalidTxnState));
    }

    #[test]
    fn only_the_latest_producer_may_renew() {
        let mut record = Record::new(7, 1_000, 0);
        assert_eq!(record.renewal(Some((7, 0))), Ok(Renewal::Bump { known: true }));
        record.bump(true);
        assert_eq!(record.renewal(Some((7, 0))), Ok(Renewal::Same), "its answer was lost");
        record.join(&[("t".to_owned(), 0)], None, 0).unwrap();
        assert_eq!(record.renewal(Some((7, 0))), Err(ResponseError::ProducerFenced));
        record.bump(false);
        assert_eq!(record.renewal(Some((7, 1))), Err(ResponseError::ProducerFenced), "another took over");
        assert_eq!(record.renewal(Some((8, 2))), Err(ResponseError::ProducerFenced));
        record.epoch = i16::MAX - 1;
        assert_eq!(record.renewal(None), Ok(Renewal::NewProducerId));
    }
}
