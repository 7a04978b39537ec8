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

    /// Finishes what was decided, aborts what outlived its timeout, forgets what nobody uses.
    pub(crate) async fn sweep(&self) {
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
