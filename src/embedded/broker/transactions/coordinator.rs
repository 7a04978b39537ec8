//! All transactional ids behind one lock, and their journal. A change is written and applied under the lock and answered
//! when it is durable; changes of one id come one after another through its gate.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kafka_protocol::ResponseError as E;
use serde::{Deserialize, Serialize};
use tokio_util::task::TaskTracker;

use super::record::{Event, Phase, Record, Renewal};
use crate::clock;
use crate::embedded::broker::error::BrokerError;
use crate::embedded::broker::group_commit::Disk;
use crate::embedded::broker::groups::coordinator::Groups;
use crate::embedded::broker::groups::offsets::Place;
use crate::embedded::broker::journal::{self, Journal, JournalError, Ticket};
use crate::embedded::broker::log::batch::Outcome;
use crate::embedded::broker::topics::registry::Registry;

/// Producer ids are set aside in blocks, one journal entry each; a restart skips the rest of a block.
const ID_BLOCK: i64 = 1_000;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
enum Entry {
    Is {
        id: String,
        record: Record,
    },
    Forgotten {
        id: String,
    },
    /// Producer ids below this may have been given out.
    ReservedIds {
        until: i64,
    },
}

#[derive(Default)]
struct Known {
    records: BTreeMap<String, Record>,
    gates: BTreeMap<String, Arc<tokio::sync::Mutex<()>>>,
    next_producer_id: i64,
    reserved_until: i64,
    /// The entry that reserved the current block.
    reservation: Option<Ticket>,
}

/// A producer's identity: its id and epoch.
pub(crate) type Identity = (i64, i16);

/// All transactional ids of the broker.
pub(crate) struct Transactions {
    known: Mutex<Known>,
    journal: Arc<Journal>,
    max_timeout_ms: i64,
    pub(super) topics: Arc<Registry>,
    pub(super) groups: Arc<Groups>,
    pub(super) tracker: TaskTracker,
}

impl Transactions {
    /// Restores all ids. Decided transactions are finished by [`Self::sweep`]. Blocking.
    pub(crate) fn open(
        path: PathBuf,
        max_timeout_ms: i64,
        (topics, groups): (Arc<Registry>, Arc<Groups>),
        disk: Arc<dyn Disk>,
        tracker: TaskTracker,
    ) -> Result<Self, BrokerError> {
        let mut known = Known::default();
        for entry in journal::read(&path)? {
            known.apply(entry);
        }
        known.next_producer_id = known.reserved_until;
        let journal = Arc::new(Journal::start(path, &known.entries(), disk, tracker.clone())?);
        Ok(Self { known: Mutex::new(known), journal, max_timeout_ms, topics, groups, tracker })
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        // A panic elsewhere leaves no half-made change: an entry is applied in one step.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn gate(&self, id: &str) -> Arc<tokio::sync::Mutex<()>> {
        Arc::clone(self.lock().gates.entry(id.to_owned()).or_default())
    }

    /// Whether what is known here is on disk or soon will be. Once the journal has failed it may never be, and acting on
    /// it would tell others of decisions that a restart knows nothing of.
    pub(super) fn check_durable(&self) -> Result<(), JournalError> {
        self.journal.check_open()
    }

    pub(super) fn record(&self, id: &str) -> Option<Record> {
        self.lock().records.get(id).cloned()
    }

    /// Changes one id; the change is durable when this returns. Hold the id's gate.
    pub(super) async fn set(&self, id: &str, record: Record) -> Result<(), E> {
        let ticket = self.set_soon(id, record)?;
        Ok(self.journal.durable(ticket).await?)
    }

    /// Changes one id without waiting for the disk, for changes that a restart would make again.
    pub(super) fn set_soon(&self, id: &str, mut record: Record) -> Result<Ticket, JournalError> {
        record.updated_ms = clock::unix_ms();
        self.write(&mut self.lock(), Entry::Is { id: id.to_owned(), record })
    }

    fn write(&self, known: &mut Known, entry: Entry) -> Result<Ticket, JournalError> {
        let ticket = self.journal.append(&entry)?;
        known.apply(entry);
        if self.journal.wants_compaction() {
            self.journal.compact(&known.entries());
        }
        Ok(ticket)
    }

    /// A producer id never given out before, nor ever again.
    pub(crate) async fn new_producer_id(&self) -> Result<i64, E> {
        let (id, reservation) = {
            let mut known = self.lock();
            let id = known.next_producer_id;
            if id == known.reserved_until {
                known.reservation = Some(self.write(&mut known, Entry::ReservedIds { until: id + ID_BLOCK })?);
            }
            known.next_producer_id += 1;
            (id, known.reservation)
        };
        // Also for ids in the middle of a block: whoever reserved it may still be waiting for the disk.
        if let Some(ticket) = reservation {
            self.journal.durable(ticket).await?;
        }
        Ok(id)
    }

    /// Initialises the producer of a transactional id: whoever had it is fenced and its open transaction aborted.
    pub(crate) async fn initialise(
        &self,
        id: &str,
        timeout_ms: i64,
        expected: Option<Identity>,
    ) -> Result<Identity, E> {
        if id.is_empty() {
            return Err(E::InvalidRequest);
        }
        if timeout_ms <= 0 || timeout_ms > self.max_timeout_ms {
            return Err(E::InvalidTransactionTimeout);
        }
        let gate = self.gate(id);
        let _gate = gate.lock().await;
        let Some(record) = self.record(id) else {
            let record = Record::new(self.new_producer_id().await?, timeout_ms, clock::unix_ms());
            let identity = (record.producer_id, record.epoch);
            self.set(id, record).await?;
            return Ok(identity);
        };
        let renewal = record.renewal(expected)?;
        if renewal == Renewal::Same {
            return Ok((record.producer_id, record.epoch));
        }
        let mut record = self.settle(id, record, renewal).await?;
        record.phase = record.phase.next(Event::Initialised)?;
        if renewal == Renewal::NewProducerId {
            record = Record::new(self.new_producer_id().await?, timeout_ms, clock::unix_ms());
        }
        record.timeout_ms = timeout_ms;
        let identity = (record.producer_id, record.epoch);
        self.set(id, record).await?;
        Ok(identity)
    }

    /// Fences the old producer and leaves no transaction undecided or untold.
    async fn settle(&self, id: &str, mut record: Record, renewal: Renewal) -> Result<Record, E> {
        if let Phase::Deciding(_) = record.phase {
            record = self.tell(id, record).await?;
        }
        record.bump(renewal == Renewal::Bump { known: true });
        if record.phase == Phase::Open {
            record.phase = record.phase.next(Event::Decided(Outcome::Abort))?;
            self.set(id, record.clone()).await?;
            record = self.tell(id, record).await?;
        }
        Ok(record)
    }

    /// Lets partitions take part in the producer's transaction; durable when this returns.
    pub(crate) async fn add_partitions(&self, id: &str, identity: Identity, places: &[Place]) -> Result<(), E> {
        self.add(id, identity, places, None).await
    }

    /// Lets a group's offsets take part in the producer's transaction; durable when this returns.
    pub(crate) async fn add_group(&self, id: &str, identity: Identity, group: &str) -> Result<(), E> {
        self.add(id, identity, &[], Some(group)).await
    }

    async fn add(&self, id: &str, identity: Identity, places: &[Place], group: Option<&str>) -> Result<(), E> {
        let gate = self.gate_of_known(id)?;
        let _gate = gate.lock().await;
        self.check_durable()?;
        let mut record = self.record(id).ok_or(E::InvalidProducerIdMapping)?;
        record.check(identity.0, identity.1)?;
        let before = record.clone();
        record.join(places, group, clock::unix_ms())?;
        if record == before { Ok(()) } else { self.set(id, record).await }
    }

    /// Ids that were never initialised get no gate, so that nonsense leaves nothing behind.
    pub(super) fn gate_of_known(&self, id: &str) -> Result<Arc<tokio::sync::Mutex<()>>, E> {
        if self.record(id).is_none() {
            return Err(E::InvalidProducerIdMapping);
        }
        Ok(self.gate(id))
    }

    /// Whether this producer may write to this partition in its transaction now. For use under the partition's lock.
    pub(crate) fn admit_records(&self, id: &str, identity: Identity, topic: &str, partition: i32) -> Result<(), E> {
        let known = self.lock();
        let record = known.records.get(id).ok_or(E::InvalidProducerIdMapping)?;
        record.check(identity.0, identity.1)?;
        let takes_part = record.partitions.contains(&(topic.to_owned(), partition));
        if record.phase == Phase::Open && takes_part { Ok(()) } else { Err(E::InvalidTxnState) }
    }

    /// Whether this producer may commit this group's offsets in its transaction now. For use under the groups' lock.
    pub(crate) fn admit_offsets(&self, id: &str, identity: Identity, group: &str) -> Result<(), E> {
        let known = self.lock();
        let record = known.records.get(id).ok_or(E::InvalidProducerIdMapping)?;
        record.check(identity.0, identity.1)?;
        let takes_part = record.groups.contains(group);
        if record.phase == Phase::Open && takes_part { Ok(()) } else { Err(E::InvalidTxnState) }
    }

    /// The ids for which `wanted` holds.
    pub(super) fn ids_where(&self, wanted: impl Fn(&Record) -> bool) -> Vec<String> {
        let known = self.lock();
        known.records.iter().filter(|(_, record)| wanted(record)).map(|(id, _)| id.clone()).collect()
    }

    /// Whether a producer's open transaction in a partition is one that somebody will end.
    pub(super) fn is_claimed(&self, producer_id: i64, place: &Place) -> bool {
        let claims = |record: &Record| {
            let is_under_way = matches!(record.phase, Phase::Open | Phase::Deciding(_));
            is_under_way && record.producer_id == producer_id && record.partitions.contains(place)
        };
        self.lock().records.values().any(claims)
    }

    /// Forgets an id that has no transaction. Hold its gate.
    pub(super) fn forget(&self, id: &str) -> Result<(), JournalError> {
        let mut known = self.lock();
        self.write(&mut known, Entry::Forgotten { id: id.to_owned() })?;
        known.gates.remove(id);
        Ok(())
    }
}

impl Known {
    fn apply(&mut self, entry: Entry) {
        match entry {
            Entry::Is { id, record } => drop(self.records.insert(id, record)),
            Entry::Forgotten { id } => drop(self.records.remove(&id)),
            Entry::ReservedIds { until } => self.reserved_until = until,
        }
    }

    fn entries(&self) -> Vec<Entry> {
        let reserved = std::iter::once(Entry::ReservedIds { until: self.reserved_until });
        let records = self.records.iter().map(|(id, record)| Entry::Is { id: id.clone(), record: record.clone() });
        reserved.chain(records).collect()
    }
}
