//! A partition as the requests see it: appends under one lock, one fsync for all who wait (group commit), watermarks that
//! never run ahead of the disk, and a wake-up for fetches that wait. Appending and reading are blocking and belong on
//! blocking threads; waiting is async.

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use bytes::Bytes;
use kafka_protocol::ResponseError;
use tokio::sync::Notify;
use tokio_util::task::TaskTracker;

use super::batch::{BatchHeader, Outcome, marker};
use super::cursor::{Run, Slice, Want, read_run};
use super::partition_log::{AppendError, LogLimits, PartitionLog, find_time};
use super::producers::{Aborted, Refusal, Verdict};
use super::records::Found;
use crate::clock;
use crate::embedded::broker::error::BrokerError;
use crate::embedded::broker::group_commit::{Disk, GroupCommit, Growing};

/// What a client may see of a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Watermarks {
    /// The first offset there is.
    pub(crate) start: i64,
    /// Everything below is durable; nothing above is shown.
    pub(crate) high: i64,
    /// Everything below belongs to no open transaction.
    pub(crate) stable: i64,
}

/// A batch's place in the log; acknowledge it only after [`Partition::durable`] says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Appended {
    pub(crate) base_offset: i64,
    /// The offset after its last record.
    pub(crate) end_offset: i64,
    pub(crate) start_offset: i64,
}

/// One partition of one topic.
pub(crate) struct Partition {
    log: Mutex<PartitionLog>,
    /// Closed when a sync failed or the topic was deleted: nothing more is accepted then.
    commit: GroupCommit,
    waiting: Mutex<Vec<Weak<Notify>>>,
}

/// A panic elsewhere leaves no half-made change behind these locks: each is taken for one complete step.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Partition {
    /// Opens or creates the partition in `dir`. Blocking.
    pub(crate) fn open(
        dir: &Path,
        limits: LogLimits,
        disk: Arc<dyn Disk>,
        tracker: TaskTracker,
    ) -> Result<Self, BrokerError> {
        let log = PartitionLog::open(dir, limits)?;
        let commit = GroupCommit::new(log.next_offset(), disk, tracker);
        Ok(Self { log: Mutex::new(log), commit, waiting: Mutex::default() })
    }

    /// Appends one verified batch, unless `admit` refuses or it is a resent one, which gets its first offset again.
    /// `admit` is asked under the log's lock, so that a transaction cannot end between the answer and the append.
    pub(crate) fn append(
        self: &Arc<Self>,
        header: &BatchHeader,
        bytes: &[u8],
        admit: impl FnOnce() -> Result<(), ResponseError>,
    ) -> Result<Appended, ResponseError> {
        let mut log = lock(&self.log);
        self.writable()?;
        admit()?;
        let start_offset = log.start_offset();
        if header.is_idempotent() {
            match log.producers().check(header).map_err(refusal)? {
                Verdict::Append => {}
                Verdict::Duplicate { base_offset, last_offset } => {
                    return Ok(Appended { base_offset, end_offset: last_offset + 1, start_offset });
                }
            }
        }
        let header = self.write(&mut log, header, bytes)?;
        drop(log);
        GroupCommit::schedule(self);
        Ok(Appended { base_offset: header.base_offset, end_offset: header.next_offset(), start_offset })
    }

    /// Ends a producer's transaction here. Does nothing if it has none open, so it may be repeated.
    pub(crate) fn end_transaction(
        self: &Arc<Self>,
        producer_id: i64,
        producer_epoch: i16,
        outcome: Outcome,
    ) -> Result<Option<Appended>, ResponseError> {
        let mut log = lock(&self.log);
        self.writable()?;
        if !log.producers().is_open(producer_id) {
            return Ok(None);
        }
        let bytes = marker(producer_id, producer_epoch, outcome, clock::unix_ms());
        let header = BatchHeader::parse(&bytes).map_err(|_| ResponseError::UnknownServerError)?;
        let start_offset = log.start_offset();
        let header = self.write(&mut log, &header, &bytes)?;
        drop(log);
        GroupCommit::schedule(self);
        Ok(Some(Appended { base_offset: header.base_offset, end_offset: header.next_offset(), start_offset }))
    }

    /// The producers that have a transaction open here, with their epochs.
    pub(crate) fn open_transactions(&self) -> Vec<(i64, i16)> {
        lock(&self.log).producers().open()
    }

    fn write(&self, log: &mut PartitionLog, header: &BatchHeader, bytes: &[u8]) -> Result<BatchHeader, ResponseError> {
        log.append(header, bytes, self.commit.disk()).map_err(|error| {
            if let AppendError::NotSynced(_) = error {
                self.commit.close();
            }
            let error = &error as &dyn std::error::Error;
            tracing::error!(error, "could not append to a partition");
            ResponseError::KafkaStorageError
        })
    }

    fn writable(&self) -> Result<(), ResponseError> {
        if self.commit.is_closed() { Err(ResponseError::KafkaStorageError) } else { Ok(()) }
    }

    /// Waits until everything below `end_offset` is on disk, or never will be.
    pub(crate) async fn durable(&self, end_offset: i64) -> Result<(), ResponseError> {
        self.commit.wait(end_offset).await.map_err(|_| ResponseError::KafkaStorageError)
    }

    /// Wakes `waiter` once, at the next change of a watermark.
    pub(crate) fn wake_on_change(&self, waiter: &Arc<Notify>) {
        let waiter = Arc::downgrade(waiter);
        let mut waiting = lock(&self.waiting);
        // A fetch that gave up is gone, and one that looked again has asked before.
        waiting.retain(|other| other.strong_count() > 0 && !other.ptr_eq(&waiter));
        waiting.push(waiter);
    }

    /// Refuses all further appends and wakes everyone: the topic was deleted.
    pub(crate) fn close_deleted(&self) {
        let _log = lock(&self.log);
        self.commit.close();
        self.wake_all();
    }

    fn wake_all(&self) {
        for waiter in lock(&self.waiting).drain(..).filter_map(|waiter| waiter.upgrade()) {
            waiter.notify_one();
        }
    }

    pub(crate) fn watermarks(&self) -> Watermarks {
        let log = lock(&self.log);
        self.watermarks_of(&log)
    }

    fn watermarks_of(&self, log: &PartitionLog) -> Watermarks {
        let high = self.commit.durable_below();
        let stable = log.producers().first_open().map_or(high, |open| open.min(high));
        Watermarks { start: log.start_offset(), high, stable }
    }

    /// The offset the next record will get, durable or not.
    pub(crate) fn end_offset(&self) -> i64 {
        lock(&self.log).next_offset()
    }

    /// About how many bytes a fetch from `offset` could get.
    pub(crate) fn bytes_from(&self, offset: i64) -> u64 {
        lock(&self.log).bytes_from(offset)
    }

    /// Reads whole batches for a fetch. Blocking.
    pub(crate) fn read(&self, want: Want) -> io::Result<Run> {
        let slice = lock(&self.log).slice_at(want.from);
        slice.map_or(Ok(Run { bytes: Bytes::new(), next_offset: want.from }), |slice| read_run(&slice, want))
    }

    /// The aborted transactions a reader of these offsets must leave out.
    pub(crate) fn aborted_between(&self, from: i64, until: i64) -> Vec<Aborted> {
        lock(&self.log).aborted_between(from, until)
    }

    /// The first record at or after `timestamp` and below offset `until`. Blocking.
    pub(crate) fn find_time(&self, timestamp: i64, until: i64) -> io::Result<Option<Found>> {
        let slices: Vec<Slice> = lock(&self.log).slices_since(timestamp);
        find_time(&slices, timestamp, until)
    }

    /// Syncs, and saves what makes the next start quick. Blocking.
    pub(crate) fn close(&self) -> io::Result<()> {
        let log = lock(&self.log);
        // After a failed sync nobody knows what is on disk: the next start must read it all.
        if self.commit.is_closed() { Ok(()) } else { log.close() }
    }
}

impl Growing for Partition {
    fn unsynced(&self) -> (Arc<File>, i64) {
        lock(&self.log).unsynced()
    }

    fn commit(&self) -> &GroupCommit {
        &self.commit
    }

    fn synced(&self) {
        self.wake_all();
    }
}

fn refusal(refusal: Refusal) -> ResponseError {
    match refusal {
        Refusal::StaleEpoch => ResponseError::InvalidProducerEpoch,
        Refusal::OutOfOrder => ResponseError::OutOfOrderSequenceNumber,
        Refusal::OutsideTransaction => ResponseError::InvalidTxnState,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use super::super::batch::tests::one_record;
    use super::*;
    use crate::embedded::broker::group_commit::tests::FailingDisk;

    #[tokio::test]
    async fn a_sync_that_fails_at_the_change_of_segment_closes_the_partition() {
        let dir = tempfile::tempdir().unwrap();
        let batch = one_record(None);
        let header = BatchHeader::parse(&batch).unwrap();
        // Room for one batch a segment.
        let limits = LogLimits { segment_bytes: batch.len() as u64, index_interval_bytes: 100, max_producers: 10 };
        let disk = Arc::new(FailingDisk::default());
        let seam: Arc<dyn Disk> = Arc::clone(&disk) as _;
        let partition = Arc::new(Partition::open(dir.path(), limits, seam, TaskTracker::new()).unwrap());
        let append = || partition.append(&header, &batch, || Ok(()));
        let first = append().unwrap();
        partition.durable(first.end_offset).await.unwrap();
        disk.is_failing.store(true, Ordering::SeqCst);
        assert_eq!(append(), Err(ResponseError::KafkaStorageError), "the segment that is left could not be synced");
        // The next sync succeeds, as it does once the kernel has reported the error, and must not count.
        disk.is_failing.store(false, Ordering::SeqCst);
        assert_eq!(append(), Err(ResponseError::KafkaStorageError));
        partition.close().unwrap();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "nothing vouches for what may not be there");
    }
}
