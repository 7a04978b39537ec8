//! An append-only file of small JSON entries, for what must survive but is no record: topics, group offsets, transactions.
//! An entry is durable when [`Journal::durable`] returns; many that wait share one fsync. The owner applies entries to its
//! state in the order it wrote them, and on opening gets them back in that order.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio_util::task::TaskTracker;

use super::error::BrokerError;
use super::group_commit::{Disk, GroupCommit, Growing};

/// Length and checksum in front of each entry.
const FRAME_BYTES: usize = 8;
/// No entry is longer, so a greater length in a file is damage. JSON text read as a length is always greater.
const MAX_ENTRY_BYTES: usize = 64 << 20;
/// Below this size a journal is not worth rewriting.
const REWRITE_BYTES: u64 = 8 << 20;

/// An entry's place; pass it to [`Journal::durable`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Ticket(i64);

struct Tail {
    file: Arc<File>,
    /// Of this file.
    bytes: u64,
    /// The next rewrite is due beyond this.
    rewrite_beyond: u64,
    /// Entries written since the start, over all rewrites.
    written: i64,
}

/// Why an entry is not in the journal, or may not be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum JournalError {
    /// A sync failed; nothing more is accepted until a restart.
    #[error("the journal could not be synced")]
    Closed,
    /// This entry could not be written (most likely a full disk) and has left nothing behind; a later one may succeed.
    #[error("the journal could not be written")]
    NotWritten,
    /// An entry of this size could not be read back.
    #[error("the journal's entry is too large")]
    TooLarge,
}

/// One journal.
pub(crate) struct Journal {
    path: PathBuf,
    tail: Mutex<Tail>,
    commit: GroupCommit,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Reads the entries of a journal; none if there is no file. A torn last entry was never acknowledged and is left out;
/// anything else that is no entry is damage, and refused: what lies behind it may have been acknowledged.
pub(crate) fn read<E: DeserializeOwned>(path: &Path) -> Result<Vec<E>, BrokerError> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(BrokerError::io("read", path)(error)),
    };
    let corrupt = |reason| BrokerError::Corrupt { path: path.to_owned(), reason };
    let mut entries = Vec::new();
    let mut rest = &bytes[..];
    while !rest.is_empty() {
        let at = bytes.len() - rest.len();
        match unframe(rest) {
            Frame::Whole { payload, after } => {
                let entry =
                    serde_json::from_slice(payload).map_err(|error| corrupt(format!("at byte {at}: {error}")))?;
                entries.push(entry);
                rest = after;
            }
            // Zeros: the size of a file may reach the disk before what is in it.
            Frame::Torn | Frame::Damaged if rest.iter().all(|byte| *byte == 0) => break,
            Frame::Torn if !holds_an_entry(&rest[1..]) => {
                let cut_bytes = rest.len();
                tracing::warn!(path = %path.display(), cut_bytes, "left out a torn entry that was never acknowledged");
                break;
            }
            Frame::Torn | Frame::Damaged => return Err(corrupt(format!("at byte {at} there is no valid entry"))),
        }
    }
    Ok(entries)
}

enum Frame<'a> {
    Whole {
        payload: &'a [u8],
        after: &'a [u8],
    },
    /// It runs past the end of the file.
    Torn,
    Damaged,
}

fn unframe(bytes: &[u8]) -> Frame<'_> {
    let Some((head, rest)) = bytes.split_first_chunk::<FRAME_BYTES>() else { return Frame::Torn };
    let [l0, l1, l2, l3, c0, c1, c2, c3] = *head;
    let length = u32::from_be_bytes([l0, l1, l2, l3]) as usize;
    if length == 0 || length > MAX_ENTRY_BYTES {
        return Frame::Damaged;
    }
    match rest.split_at_checked(length) {
        None => Frame::Torn,
        Some((payload, after)) if crc32c::crc32c(payload) == u32::from_be_bytes([c0, c1, c2, c3]) => {
            Frame::Whole { payload, after }
        }
        Some(_) => Frame::Damaged,
    }
}

/// Whether an entry begins anywhere in what looks like the torn last one: then it is the length that is damaged.
fn holds_an_entry(bytes: &[u8]) -> bool {
    (0..bytes.len()).any(|at| matches!(unframe(&bytes[at..]), Frame::Whole { .. }))
}

fn frame<E: Serialize>(entry: &E, out: &mut Vec<u8>) -> Result<(), JournalError> {
    let payload = serde_json::to_vec(entry).map_err(|error| {
        tracing::error!(%error, "could not write an entry of a journal as JSON");
        JournalError::NotWritten
    })?;
    if payload.len() > MAX_ENTRY_BYTES {
        return Err(JournalError::TooLarge);
    }
    out.reserve(FRAME_BYTES + payload.len());
    out.extend_from_slice(&(payload.len() as u32).to_be_bytes());
    out.extend_from_slice(&crc32c::crc32c(&payload).to_be_bytes());
    out.extend_from_slice(&payload);
    Ok(())
}

/// Writes a journal with just these entries beside the one at `path`, durably; [`put_in_place`] makes it the journal.
fn write_beside<E: Serialize>(path: &Path, entries: &[E]) -> io::Result<(File, u64)> {
    let mut bytes = Vec::new();
    for entry in entries {
        frame(entry, &mut bytes).map_err(io::Error::other)?;
    }
    let file = OpenOptions::new().write(true).create(true).truncate(true).open(beside(path))?;
    file.write_all_at(&bytes, 0)?;
    file.sync_all()?;
    Ok((file, bytes.len() as u64))
}

fn beside(path: &Path) -> PathBuf {
    path.with_extension("new")
}

/// A crash in here leaves the old journal or the new one.
fn put_in_place(path: &Path) -> io::Result<()> {
    fs::rename(beside(path), path)
}

fn sync_dir_of(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), |dir| File::open(dir)?.sync_all())
}

impl Journal {
    /// Begins the journal anew with `entries`, the compact form of what [`read`] gave.
    pub(crate) fn start<E: Serialize>(
        path: PathBuf,
        entries: &[E],
        disk: Arc<dyn Disk>,
        tracker: TaskTracker,
    ) -> Result<Self, BrokerError> {
        let (file, bytes) = write_beside(&path, entries).map_err(BrokerError::io("write", &path))?;
        put_in_place(&path).and_then(|()| sync_dir_of(&path)).map_err(BrokerError::io("replace", &path))?;
        let tail = Tail { file: Arc::new(file), bytes, rewrite_beyond: REWRITE_BYTES.max(bytes * 2), written: 0 };
        Ok(Self { path, tail: Mutex::new(tail), commit: GroupCommit::new(0, disk, tracker) })
    }

    /// Whether entries are still taken. Where this fails, what the owner holds may be ahead of the disk.
    pub(crate) fn check_open(&self) -> Result<(), JournalError> {
        if self.commit.is_closed() { Err(JournalError::Closed) } else { Ok(()) }
    }

    /// Writes an entry; after an error it is as if it had never been tried. Call it under the lock of the state it
    /// changes, so that both keep the same order.
    pub(crate) fn append<E: Serialize>(self: &Arc<Self>, entry: &E) -> Result<Ticket, JournalError> {
        let mut bytes = Vec::new();
        frame(entry, &mut bytes)?;
        let mut tail = lock(&self.tail);
        self.check_open()?;
        if let Err(error) = self.commit.disk().write(&tail.file, &bytes, tail.bytes) {
            tracing::error!(path = %self.path.display(), %error, "could not write to a journal");
            if let Err(error) = tail.file.set_len(tail.bytes) {
                tracing::error!(path = %self.path.display(), %error, "could not cut half an entry off a journal; it takes no more until a restart");
                self.commit.close();
            }
            return Err(JournalError::NotWritten);
        }
        tail.bytes += bytes.len() as u64;
        tail.written += 1;
        let ticket = Ticket(tail.written);
        drop(tail);
        GroupCommit::schedule(self);
        Ok(ticket)
    }

    /// Whether so much has been written that the owner should call [`Self::compact`].
    pub(crate) fn wants_compaction(&self) -> bool {
        let tail = lock(&self.tail);
        tail.bytes > tail.rewrite_beyond
    }

    /// Replaces everything written so far by `entries`, which must say the same. Call it under the state's lock, which
    /// then waits for the disk: once in every eight megabytes of entries, which is rare enough. A failure loses nothing:
    /// the journal stays as it was, and is rewritten when it has doubled.
    pub(crate) fn compact<E: Serialize>(&self, entries: &[E]) {
        let mut tail = lock(&self.tail);
        let written_beside = write_beside(&self.path, entries);
        match written_beside.and_then(|fresh| put_in_place(&self.path).map(|()| fresh)) {
            Ok((file, bytes)) => {
                tail.file = Arc::new(file);
                tail.bytes = bytes;
                let written = tail.written;
                match sync_dir_of(&self.path) {
                    Ok(()) => self.commit.advance(written),
                    Err(error) => {
                        tracing::error!(path = %self.path.display(), %error, "could not sync a journal's directory; it takes no more until a restart");
                        self.commit.close();
                    }
                }
            }
            Err(error) => {
                tracing::warn!(path = %self.path.display(), %error, "could not rewrite a journal; it goes on as it is");
            }
        }
        tail.rewrite_beyond = REWRITE_BYTES.max(tail.bytes * 2);
    }

    /// Waits until the entry is on disk, or never will be.
    pub(crate) async fn durable(&self, ticket: Ticket) -> Result<(), JournalError> {
        self.commit.wait(ticket.0).await.map_err(|_| JournalError::Closed)
    }
}

impl Growing for Journal {
    fn unsynced(&self) -> (Arc<File>, i64) {
        let tail = lock(&self.tail);
        (Arc::clone(&tail.file), tail.written)
    }

    fn commit(&self) -> &GroupCommit {
        &self.commit
    }
}

impl From<JournalError> for kafka_protocol::ResponseError {
    fn from(error: JournalError) -> Self {
        match error {
            JournalError::Closed | JournalError::NotWritten => Self::KafkaStorageError,
            // Only offsets with their metadata can grow so large.
            JournalError::TooLarge => Self::InvalidCommitOffsetSize,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use super::super::group_commit::RealDisk;
    use super::super::group_commit::tests::FailingDisk;
    use super::*;

    fn start(path: &Path, entries: &[u32], tracker: TaskTracker) -> Arc<Journal> {
        Arc::new(Journal::start(path.to_owned(), entries, Arc::new(RealDisk), tracker).unwrap())
    }

    fn start_failing(path: &Path) -> (Arc<Journal>, Arc<FailingDisk>) {
        let disk = Arc::new(FailingDisk::default());
        let seam: Arc<dyn Disk> = Arc::clone(&disk) as _;
        (Arc::new(Journal::start::<u32>(path.to_owned(), &[], seam, TaskTracker::new()).unwrap()), disk)
    }

    /// A journal's bytes: whole entries, one each.
    async fn written(path: &Path, entries: std::ops::RangeInclusive<u32>) -> Vec<u8> {
        let tracker = TaskTracker::new();
        let journal = start(path, &[], tracker.clone());
        for entry in entries {
            let ticket = journal.append(&entry).unwrap();
            journal.durable(ticket).await.unwrap();
        }
        tracker.close();
        tracker.wait().await;
        fs::read(path).unwrap()
    }

    #[tokio::test]
    async fn entries_come_back_in_order_and_a_torn_one_does_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("j");
        let whole = written(&path, 1..=50).await;
        assert_eq!(read::<u32>(&path).unwrap(), (1..=50).collect::<Vec<_>>());
        for cut in 1..10 {
            fs::write(&path, &whole[..whole.len() - cut]).unwrap();
            assert_eq!(read::<u32>(&path).unwrap(), (1..=49).collect::<Vec<_>>());
        }
        fs::write(&path, [&whole[..], &[0; 100]].concat()).unwrap();
        assert_eq!(read::<u32>(&path).unwrap(), (1..=50).collect::<Vec<_>>(), "a file may grow before it is filled");
    }

    #[tokio::test]
    async fn a_flipped_bit_is_refused_and_never_cuts_off_what_follows() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("j");
        let whole = written(&path, 1_000_001..=1_000_004).await;
        let last = whole.len() - FRAME_BYTES - 7;
        for bit in 0..whole.len() * 8 {
            // A greater length of the last entry cannot be told from an entry that was torn.
            if (last * 8..(last + 4) * 8).contains(&bit) {
                continue;
            }
            let mut flipped = whole.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            fs::write(&path, &flipped).unwrap();
            assert!(matches!(read::<u32>(&path), Err(BrokerError::Corrupt { .. })), "bit {bit}");
        }
    }

    #[tokio::test]
    async fn an_entry_that_could_not_be_read_back_is_refused_and_the_journal_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("j");
        let journal = start(&path, &[], TaskTracker::new());
        assert_eq!(journal.append(&"x".repeat(MAX_ENTRY_BYTES)), Err(JournalError::TooLarge));
        let ticket = journal.append(&"small").unwrap();
        journal.durable(ticket).await.unwrap();
        assert_eq!(read::<String>(&path).unwrap(), ["small"]);
    }

    #[tokio::test]
    async fn compaction_keeps_what_waits_and_what_follows() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("j");
        let journal = start(&path, &[], TaskTracker::new());
        let first = journal.append(&1u32).unwrap();
        journal.compact(&[7u32]);
        journal.durable(first).await.unwrap();
        let last = journal.append(&8u32).unwrap();
        journal.durable(last).await.unwrap();
        assert_eq!(read::<u32>(&path).unwrap(), [7, 8]);
    }

    #[tokio::test]
    async fn a_compaction_that_fails_leaves_the_journal_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("j");
        let journal = start(&path, &[], TaskTracker::new());
        journal.append(&1u32).unwrap();
        // What cannot be opened for writing.
        fs::create_dir(beside(&path)).unwrap();
        journal.compact(&[7u32]);
        let last = journal.append(&2u32).unwrap();
        journal.durable(last).await.unwrap();
        assert_eq!(read::<u32>(&path).unwrap(), [1, 2]);
    }

    #[tokio::test]
    async fn a_full_disk_leaves_nothing_behind_and_is_forgotten_when_there_is_room() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("j");
        let (journal, disk) = start_failing(&path);
        let first = journal.append(&1u32).unwrap();
        journal.durable(first).await.unwrap();
        disk.is_full.store(true, Ordering::SeqCst);
        // Longer than what follows it, so that a rest of it would show.
        assert_eq!(journal.append(&u32::MAX), Err(JournalError::NotWritten));
        assert_eq!(read::<u32>(&path).unwrap(), [1]);
        disk.is_full.store(false, Ordering::SeqCst);
        let second = journal.append(&2u32).unwrap();
        journal.durable(second).await.unwrap();
        assert_eq!(read::<u32>(&path).unwrap(), [1, 2]);
    }

    #[tokio::test]
    async fn a_sync_that_fails_ends_the_journal() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("j");
        let (journal, disk) = start_failing(&path);
        disk.is_failing.store(true, Ordering::SeqCst);
        let lost = journal.append(&1u32).unwrap();
        assert_eq!(journal.durable(lost).await, Err(JournalError::Closed));
        disk.is_failing.store(false, Ordering::SeqCst);
        assert_eq!(journal.append(&2u32), Err(JournalError::Closed), "the next sync would succeed, and mean nothing");
    }
}
