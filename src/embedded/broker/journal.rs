//! An append-only file of small JSON entries, for what must survive but is no record: topics, group offsets, transactions.
//! An entry is durable when [`Journal::durable`] returns; many that wait share one fsync. The owner applies entries to its
//! state in the order it wrote them, and on opening gets them back in that order.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tokio_util::task::TaskTracker;

use super::error::BrokerError;

/// Length and checksum in front of each entry.
const FRAME_BYTES: usize = 8;
/// A length beyond this is a torn or damaged frame, not an entry.
const MAX_ENTRY_BYTES: usize = 64 << 20;
/// Below this size a journal is not worth rewriting.
const REWRITE_BYTES: u64 = 8 << 20;

/// An entry's place; pass it to [`Journal::durable`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Ticket(u64);

#[derive(Debug, Clone, Copy)]
struct Synced {
    upto: u64,
    failed: bool,
}

struct Tail {
    file: Arc<File>,
    /// Of this file.
    bytes: u64,
    /// The size after the last rewrite: the next one is due at twice that.
    rewritten_bytes: u64,
    /// Entries written since the start, over all rewrites.
    written: u64,
}

/// The journal could not be written; nothing more is accepted until a restart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the journal could not be written")]
pub(crate) struct JournalFailed;

/// One journal.
pub(crate) struct Journal {
    path: PathBuf,
    tail: Mutex<Tail>,
    /// Whether a thread is syncing now. Locked before `tail`, never after.
    syncing: Mutex<bool>,
    synced: watch::Sender<Synced>,
    tracker: TaskTracker,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Reads the entries of a journal; none if there is no file. A torn last entry was never acknowledged and is left out.
pub(crate) fn read<E: DeserializeOwned>(path: &Path) -> Result<Vec<E>, BrokerError> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(BrokerError::io("read", path)(error)),
    };
    let mut entries = Vec::new();
    let mut rest = &bytes[..];
    while let Some((payload, after)) = unframe(rest) {
        let entry = serde_json::from_slice(payload)
            .map_err(|error| BrokerError::Corrupt { path: path.to_owned(), reason: error.to_string() })?;
        entries.push(entry);
        rest = after;
    }
    if !rest.is_empty() {
        tracing::warn!(path = %path.display(), cut_bytes = rest.len(), "left out a torn entry that was never acknowledged");
    }
    Ok(entries)
}

fn unframe(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    let (crc, rest) = rest.split_first_chunk::<4>()?;
    let length = u32::from_be_bytes(*length) as usize;
    if length > MAX_ENTRY_BYTES {
        return None;
    }
    let (payload, after) = rest.split_at_checked(length)?;
    (crc32c::crc32c(payload) == u32::from_be_bytes(*crc)).then_some((payload, after))
}

fn frame<E: Serialize>(entry: &E, out: &mut Vec<u8>) -> io::Result<()> {
    let payload = serde_json::to_vec(entry)?;
    out.reserve(FRAME_BYTES + payload.len());
    out.extend_from_slice(&(payload.len() as u32).to_be_bytes());
    out.extend_from_slice(&crc32c::crc32c(&payload).to_be_bytes());
    out.extend_from_slice(&payload);
    Ok(())
}

/// Replaces a journal by one with just these entries, durably: a crash leaves the old one or the new one.
fn rewrite<E: Serialize>(path: &Path, entries: &[E]) -> io::Result<(File, u64)> {
    let mut bytes = Vec::new();
    for entry in entries {
        frame(entry, &mut bytes)?;
    }
    let fresh = path.with_extension("new");
    let mut file = File::create(&fresh)?;
    file.write_all(&bytes)?;
    file.sync_all()?;
    fs::rename(&fresh, path)?;
    if let Some(dir) = path.parent() {
        File::open(dir)?.sync_all()?;
    }
    let file = OpenOptions::new().append(true).open(path)?;
    Ok((file, bytes.len() as u64))
}

impl Journal {
    /// Begins the journal anew with `entries`, the compact form of what [`read`] gave.
    pub(crate) fn start<E: Serialize>(path: PathBuf, entries: &[E], tracker: TaskTracker) -> Result<Self, BrokerError> {
        let (file, bytes) = rewrite(&path, entries).map_err(BrokerError::io("write", &path))?;
        let tail = Tail { file: Arc::new(file), bytes, rewritten_bytes: bytes, written: 0 };
        let (synced, _) = watch::channel(Synced { upto: 0, failed: false });
        Ok(Self { path, tail: Mutex::new(tail), syncing: Mutex::new(false), synced, tracker })
    }

    /// Writes an entry. Call it under the lock of the state it changes, so that both keep the same order.
    pub(crate) fn append<E: Serialize>(self: &Arc<Self>, entry: &E) -> Result<Ticket, JournalFailed> {
        let mut bytes = Vec::new();
        frame(entry, &mut bytes).map_err(|error| self.fail(&error))?;
        let mut tail = lock(&self.tail);
        if self.synced.borrow().failed {
            return Err(JournalFailed);
        }
        (&*tail.file).write_all(&bytes).map_err(|error| self.fail(&error))?;
        tail.bytes += bytes.len() as u64;
        tail.written += 1;
        let ticket = Ticket(tail.written);
        drop(tail);
        self.schedule_sync();
        Ok(ticket)
    }

    /// Whether so much has been written that the owner should call [`Self::compact`].
    pub(crate) fn wants_compaction(&self) -> bool {
        let tail = lock(&self.tail);
        tail.bytes > REWRITE_BYTES.max(tail.rewritten_bytes * 2)
    }

    /// Replaces everything written so far by `entries`, which must say the same. Call it under the state's lock.
    pub(crate) fn compact<E: Serialize>(&self, entries: &[E]) -> Result<(), JournalFailed> {
        let mut tail = lock(&self.tail);
        let (file, bytes) = rewrite(&self.path, entries).map_err(|error| self.fail(&error))?;
        tail.file = Arc::new(file);
        tail.bytes = bytes;
        tail.rewritten_bytes = bytes;
        let written = tail.written;
        drop(tail);
        self.synced.send_modify(|synced| synced.upto = synced.upto.max(written));
        Ok(())
    }

    /// Waits until the entry is on disk, or never will be.
    pub(crate) async fn durable(&self, ticket: Ticket) -> Result<(), JournalFailed> {
        let mut synced = self.synced.subscribe();
        match synced.wait_for(|s| s.failed || s.upto >= ticket.0).await {
            Ok(now) if now.upto >= ticket.0 => Ok(()),
            _ => Err(JournalFailed),
        }
    }

    fn schedule_sync(self: &Arc<Self>) {
        let mut syncing = lock(&self.syncing);
        if !*syncing {
            *syncing = true;
            let journal = Arc::clone(self);
            self.tracker.spawn_blocking(move || journal.sync_until_idle());
        }
    }

    fn sync_until_idle(&self) {
        loop {
            let (file, written) = {
                let tail = lock(&self.tail);
                (Arc::clone(&tail.file), tail.written)
            };
            match rustix::fs::fdatasync(&*file) {
                Ok(()) => self.synced.send_modify(|synced| synced.upto = synced.upto.max(written)),
                Err(error) => {
                    self.fail(&error.into());
                }
            }
            let mut syncing = lock(&self.syncing);
            if self.synced.borrow().failed || lock(&self.tail).written == written {
                *syncing = false;
                return;
            }
        }
    }

    fn fail(&self, error: &io::Error) -> JournalFailed {
        tracing::error!(path = %self.path.display(), %error, "could not write a journal; it takes no more until a restart");
        self.synced.send_modify(|synced| synced.failed = true);
        JournalFailed
    }
}

impl From<JournalFailed> for kafka_protocol::ResponseError {
    fn from(_: JournalFailed) -> Self {
        Self::KafkaStorageError
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn entries_come_back_in_order_and_a_torn_one_does_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("j");
        let tracker = TaskTracker::new();
        let journal = Arc::new(Journal::start::<u32>(path.clone(), &[1, 2], tracker.clone()).unwrap());
        for n in 3..=50u32 {
            let ticket = journal.append(&n).unwrap();
            journal.durable(ticket).await.unwrap();
        }
        tracker.close();
        tracker.wait().await;
        let whole = fs::read(&path).unwrap();
        assert_eq!(read::<u32>(&path).unwrap(), (1..=50).collect::<Vec<_>>());
        for cut in 1..10 {
            fs::write(&path, &whole[..whole.len() - cut]).unwrap();
            assert_eq!(read::<u32>(&path).unwrap(), (1..=49).collect::<Vec<_>>());
        }
    }

    #[tokio::test]
    async fn compaction_keeps_what_waits_and_what_follows() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("j");
        let journal = Arc::new(Journal::start::<u32>(path.clone(), &[], TaskTracker::new()).unwrap());
        let first = journal.append(&1u32).unwrap();
        journal.compact(&[7u32]).unwrap();
        journal.durable(first).await.unwrap();
        let last = journal.append(&8u32).unwrap();
        journal.durable(last).await.unwrap();
        assert_eq!(read::<u32>(&path).unwrap(), [7, 8]);
    }
}
