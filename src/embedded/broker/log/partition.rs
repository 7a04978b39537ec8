//! A partition as the requests see it: appends under one lock, one fsync for all who wait (group commit), watermarks that
//! never run ahead of the disk, and a wake-up for fetches that wait. Appending and reading are blocking and belong on
//! blocking threads; waiting is async.

use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use bytes::Bytes;
use kafka_protocol::ResponseError;
use tokio::sync::{Notify, watch};
use tokio_util::task::TaskTracker;

use super::batch::{BatchHeader, Outcome, marker};
use super::cursor::{Run, Slice, Want, read_run};
use super::partition_log::{LogLimits, PartitionLog, find_time};
use super::producers::{Aborted, Refusal, Verdict};
use super::records::Found;
use crate::clock;
use crate::embedded::broker::error::BrokerError;

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

#[derive(Debug, Clone, Copy)]
struct Durable {
    offset: i64,
    /// A sync failed or the partition was deleted: nothing more is accepted.
    closed: bool,
}

/// One partition of one topic.
pub(crate) struct Partition {
    log: Mutex<PartitionLog>,
    /// Whether a thread is syncing now. Locked before `log`, never after.
    syncing: Mutex<bool>,
    durable: watch::Sender<Durable>,
    waiting: Mutex<Vec<Weak<Notify>>>,
    tracker: TaskTracker,
}

/// A panic elsewhere leaves no half-made change behind these locks: each is taken for one complete step.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Partition {
    /// Opens or creates the partition in `dir`. Blocking.
    pub(crate) fn open(dir: &Path, limits: LogLimits, tracker: TaskTracker) -> Result<Self, BrokerError> {
        let log = PartitionLog::open(dir, limits)?;
        let (durable, _) = watch::channel(Durable { offset: log.next_offset(), closed: false });
        Ok(Self { log: Mutex::new(log), syncing: Mutex::new(false), durable, waiting: Mutex::default(), tracker })
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
        self.schedule_sync();
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
        self.schedule_sync();
        Ok(Some(Appended { base_offset: header.base_offset, end_offset: header.next_offset(), start_offset }))
    }

    fn write(&self, log: &mut PartitionLog, header: &BatchHeader, bytes: &[u8]) -> Result<BatchHeader, ResponseError> {
        log.append(header, bytes).map_err(|error| {
            tracing::error!(%error, "could not append to a partition");
            ResponseError::KafkaStorageError
        })
    }

    fn writable(&self) -> Result<(), ResponseError> {
        if self.durable.borrow().closed { Err(ResponseError::KafkaStorageError) } else { Ok(()) }
    }

    /// Waits until everything below `end_offset` is on disk, or never will be.
    pub(crate) async fn durable(&self, end_offset: i64) -> Result<(), ResponseError> {
        let mut durable = self.durable.subscribe();
        match durable.wait_for(|d| d.closed || d.offset >= end_offset).await {
            Ok(now) if now.offset >= end_offset => Ok(()),
            _ => Err(ResponseError::KafkaStorageError),
        }
    }

    /// Sees to it that a thread syncs what was appended; the one that runs takes later appends along.
    fn schedule_sync(self: &Arc<Self>) {
        let mut syncing = lock(&self.syncing);
        if !*syncing {
            *syncing = true;
            let partition = Arc::clone(self);
            self.tracker.spawn_blocking(move || partition.sync_until_idle());
        }
    }

    fn sync_until_idle(&self) {
        loop {
            let (file, end) = lock(&self.log).unsynced();
            let result = rustix::fs::fdatasync(&*file);
            self.durable.send_modify(|durable| match result {
                Ok(()) => durable.offset = end,
                // The kernel may have dropped what it could not write: nothing that follows could be trusted.
                Err(_) => durable.closed = true,
            });
            if let Err(error) = result {
                tracing::error!(%error, "could not sync a partition; it takes no more records until a restart");
            }
            self.wake_all();
            let mut syncing = lock(&self.syncing);
            if result.is_err() || lock(&self.log).next_offset() == end {
                *syncing = false;
                return;
            }
        }
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
        self.durable.send_modify(|durable| durable.closed = true);
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
        let high = self.durable.borrow().offset;
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
        lock(&self.log).close()
    }
}

fn refusal(refusal: Refusal) -> ResponseError {
    match refusal {
        Refusal::StaleEpoch => ResponseError::InvalidProducerEpoch,
        Refusal::OutOfOrder => ResponseError::OutOfOrderSequenceNumber,
        Refusal::OutsideTransaction => ResponseError::InvalidTxnState,
    }
}
