//! How transactions end: the decision, the markers, the offsets, and the sweep that ends what nobody else does.

use std::sync::Arc;
use std::time::Duration;

use kafka_protocol::ResponseError as E;
use tokio_util::sync::CancellationToken;

use super::coordinator::{Identity, Transactions};
use super::record::{Event, Phase, Record};
use crate::clock;
use crate::embedded::broker::log::batch::Outcome;

/// An id unused for a week is forgotten, as in Apache's broker; a producer that returns begins anew.
const FORGET_AFTER_MS: i64 = 7 * 24 * 3_600 * 1_000;

impl Transactions {
    /// Ends the producer's transaction. When this returns the outcome is durable and every partition and group has it;
    /// asking again for the same outcome changes nothing.
    pub(crate) async fn end(&self, id: &str, identity: Identity, outcome: Outcome) -> Result<(), E> {
        let gate = self.gate_of_known(id)?;
        let _gate = gate.lock().await;
        self.check_durable()?;
        let mut record = self.record(id).ok_or(E::InvalidProducerIdMapping)?;
        record.check(identity.0, identity.1)?;
        let next = record.phase.next(Event::Decided(outcome))?;
        if next != record.phase {
            record.phase = next;
            self.set(id, record.clone()).await?;
        }
        if let Phase::Deciding(_) = record.phase {
            self.tell(id, record).await?;
        }
        Ok(())
    }

    /// Tells every partition and group the durable decision. May be repeated: who knows it already does nothing.
    pub(super) async fn tell(&self, id: &str, mut record: Record) -> Result<Record, E> {
        let Phase::Deciding(outcome) = record.phase else { return Ok(record) };
        self.check_durable()?;
        let (producer_id, epoch) = (record.producer_id, record.epoch);
        let mut markers = Vec::new();
        for (topic, index) in &record.partitions {
            // A topic deleted meanwhile needs no marker.
            let Some(partition) = self.topics.partition(topic, *index) else { continue };
            let job = self.tracker.spawn_blocking(move || {
                let marker = partition.end_transaction(producer_id, epoch, outcome);
                (partition, marker)
            });
            markers.push((topic, *index, job));
        }
        for (topic, index, job) in markers {
            let (partition, marker) = job.await.map_err(|_| E::UnknownServerError)?;
            let told = match marker {
                Ok(Some(marker)) => partition.durable(marker.end_offset).await,
                Ok(None) => Ok(()),
                Err(error) => Err(error),
            };
            let is_gone = || self.topics.partition(topic, index).is_none();
            if let Err(error) = told
                && !is_gone()
            {
                return Err(error);
            }
        }
        self.groups.end_transaction(producer_id, outcome).await?;
        record.phase = record.phase.next(Event::Told)?;
        record.partitions.clear();
        record.groups.clear();
        // Need not be durable: a restart would tell everyone again, to no effect.
        self.set_soon(id, record.clone())?;
        Ok(record)
    }

    /// Sweeps at every interval until the shutdown; the first sweep, before any client is served, is the caller's.
    pub(crate) async fn run(self: Arc<Self>, interval: Duration, shutdown: CancellationToken) {
        loop {
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(interval) => self.sweep().await,
            }
        }
    }

    /// Aborts what is open in partitions and in no transaction of ours: records may reach the disk where the journal's entry
    /// that let them in did not. Left open they would hide all that follows them for ever. For the start, before any
    /// client is served.
    pub(crate) async fn abort_unclaimed(&self) {
        for topic in self.topics.all() {
            for (index, partition) in (0..).zip(&topic.partitions) {
                let place = (topic.name.to_string(), index);
                for (producer_id, epoch) in partition.open_transactions() {
                    if self.is_claimed(producer_id, &place) {
                        continue;
                    }
                    tracing::warn!(
                        topic = place.0,
                        partition = index,
                        producer_id,
                        "aborting a transaction that nobody knows of"
                    );
                    if let Err(error) = partition.end_transaction(producer_id, epoch, Outcome::Abort) {
                        tracing::error!(%error, topic = place.0, partition = index, "could not abort a transaction");
                    }
                }
            }
        }
    }

    /// Finishes what was decided, aborts what outlived its timeout, forgets what nobody uses.
    pub(crate) async fn sweep(&self) {
        if self.check_durable().is_err() {
            return;
        }
        let now_ms = clock::unix_ms();
        for id in self.ids_where(|record| is_due(record, now_ms)) {
            if let Err(error) = self.sweep_one(&id, now_ms).await {
                tracing::warn!(transactional_id = id, %error, "could not end a transaction; it is tried again");
            }
        }
    }

    async fn sweep_one(&self, id: &str, now_ms: i64) -> Result<(), E> {
        let gate = self.gate_of_known(id)?;
        let _gate = gate.lock().await;
        // Looked up again under the gate: a client may have been quicker.
        let Some(mut record) = self.record(id).filter(|record| is_due(record, now_ms)) else { return Ok(()) };
        if record.phase == Phase::Open {
            tracing::debug!(transactional_id = id, timeout_ms = record.timeout_ms, "aborting an overdue transaction");
            // The next epoch fences its producer, which may ask for that epoch and go on.
            record.bump(true);
            record.phase = record.phase.next(Event::Decided(Outcome::Abort))?;
            self.set(id, record.clone()).await?;
        }
        if let Phase::Deciding(_) = record.phase {
            self.tell(id, record).await?;
        } else {
            self.forget(id)?;
        }
        Ok(())
    }
}

fn is_due(record: &Record, now_ms: i64) -> bool {
    match record.phase {
        Phase::Deciding(_) => true,
        Phase::Open => record.is_overdue(now_ms),
        Phase::Idle | Phase::Ended(_) => now_ms - record.updated_ms > FORGET_AFTER_MS,
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::atomic::Ordering;

    use tokio_util::task::TaskTracker;

    use super::*;
    use crate::embedded::broker::group_commit::tests::FailingDisk;
    use crate::embedded::broker::group_commit::{Disk, RealDisk};
    use crate::embedded::broker::groups::coordinator::{GroupLimits, Groups};
    use crate::embedded::broker::log::batch::BatchHeader;
    use crate::embedded::broker::log::batch::tests::one_record;
    use crate::embedded::broker::log::partition::Partition;
    use crate::embedded::broker::log::partition_log::LogLimits;
    use crate::embedded::broker::topics::registry::{Registry, RegistryLimits};

    /// Transactions on this disk, and partition 0 of a topic `t` on a sound one.
    async fn open(dir: &Path, disk: Arc<dyn Disk>) -> (Transactions, Arc<Partition>) {
        let log = LogLimits { segment_bytes: 1 << 20, index_interval_bytes: 1_000, max_producers: 10 };
        let limits = RegistryLimits { log, max_batch_bytes: 1_000, max_partitions: 10 };
        let tracker = TaskTracker::new();
        let topics = Arc::new(Registry::open(dir, limits, Arc::new(RealDisk), tracker.clone()).unwrap());
        let topic = topics.create("t", 1, Default::default()).await.unwrap();
        let limits = GroupLimits { initial_delay: Duration::ZERO, max_members: 10 };
        let path = dir.join("groups");
        let groups = Arc::new(Groups::open(path, limits, |_| true, Arc::new(RealDisk), tracker.clone()).unwrap());
        let path = dir.join("transactions");
        let transactions = Transactions::open(path, 60_000, (topics, groups), disk, tracker).unwrap();
        (transactions, Arc::clone(topic.partition(0).unwrap()))
    }

    fn append(partition: &Arc<Partition>, producer: Identity) {
        let batch = one_record(Some(producer));
        partition.append(&BatchHeader::verify(&batch).unwrap(), &batch, || Ok(())).unwrap();
    }

    #[tokio::test]
    async fn nobody_is_told_of_a_decision_that_did_not_reach_the_disk() {
        let dir = tempfile::tempdir().unwrap();
        let disk = Arc::new(FailingDisk::default());
        let (transactions, partition) = open(dir.path(), Arc::clone(&disk) as Arc<dyn Disk>).await;
        let producer = transactions.initialise("tx", 1_000, None).await.unwrap();
        let place = ("t".to_owned(), 0);
        transactions.add_partitions("tx", producer, std::slice::from_ref(&place)).await.unwrap();
        append(&partition, producer);
        disk.is_failing.store(true, Ordering::SeqCst);
        for _ in 0..2 {
            let ended = transactions.end("tx", producer, Outcome::Commit).await;
            assert_eq!(ended, Err(E::KafkaStorageError));
        }
        transactions.sweep().await;
        let again = transactions.add_partitions("tx", producer, &[place]).await;
        assert_eq!(again, Err(E::KafkaStorageError));
        assert_eq!(partition.open_transactions(), [producer], "a restart may know nothing of the commit");
    }

    #[tokio::test]
    async fn what_no_transaction_claims_is_aborted_at_the_start() {
        let dir = tempfile::tempdir().unwrap();
        let (transactions, partition) = open(dir.path(), Arc::new(RealDisk)).await;
        let claimed = transactions.initialise("tx", 1_000, None).await.unwrap();
        transactions.add_partitions("tx", claimed, &[("t".to_owned(), 0)]).await.unwrap();
        append(&partition, claimed);
        append(&partition, (77, 3));
        transactions.abort_unclaimed().await;
        assert_eq!(partition.open_transactions(), [claimed]);
    }
}
