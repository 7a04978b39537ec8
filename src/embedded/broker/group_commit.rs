//! One fsync for all who wait: what partitions and journals need to say "durable", in one place, because everything that is
//! acknowledged depends on it. A position only becomes durable by a sync that succeeded, and never after one that failed.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;
use tokio_util::task::TaskTracker;

/// What is asked of the disk where its failure must not lose anything. Tests give one that fails.
pub(crate) trait Disk: std::fmt::Debug + Send + Sync {
    /// Writes all of the bytes at this place, or fails having written some of them.
    fn write(&self, file: &File, bytes: &[u8], at: u64) -> io::Result<()>;

    /// Returns when the file's contents are on disk.
    fn sync(&self, file: &File) -> io::Result<()>;
}

/// The machine's own disk.
#[derive(Debug)]
pub(crate) struct RealDisk;

impl Disk for RealDisk {
    fn write(&self, file: &File, bytes: &[u8], at: u64) -> io::Result<()> {
        file.write_all_at(bytes, at)
    }

    fn sync(&self, file: &File) -> io::Result<()> {
        file.sync_data()
    }
}

/// A file that only grows and whose writers wait for the disk together.
pub(crate) trait Growing: Send + Sync + 'static {
    /// The file to sync for everything written so far to be durable, and the position after it.
    fn unsynced(&self) -> (Arc<File>, i64);

    /// How far it is durable.
    fn commit(&self) -> &GroupCommit;

    /// Called after every sync, successful or not.
    fn synced(&self) {}
}

#[derive(Debug, Clone, Copy)]
struct Durable {
    below: i64,
    closed: bool,
}

/// Nothing more becomes durable until a restart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Closed;

/// How far one growing file is durable.
pub(crate) struct GroupCommit {
    durable: watch::Sender<Durable>,
    /// Whether a thread is syncing now. Locked before the owner's locks, never after.
    syncing: Mutex<bool>,
    disk: Arc<dyn Disk>,
    tracker: TaskTracker,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl GroupCommit {
    /// Everything below `below` is durable already.
    pub(crate) fn new(below: i64, disk: Arc<dyn Disk>, tracker: TaskTracker) -> Self {
        let (durable, _) = watch::channel(Durable { below, closed: false });
        Self { durable, syncing: Mutex::new(false), disk, tracker }
    }

    pub(crate) fn disk(&self) -> &dyn Disk {
        &*self.disk
    }

    /// Everything below this is durable.
    pub(crate) fn durable_below(&self) -> i64 {
        self.durable.borrow().below
    }

    /// Whether nothing more may be written.
    pub(crate) fn is_closed(&self) -> bool {
        self.durable.borrow().closed
    }

    /// Ends it for good: after a failed sync the kernel may have dropped what it could not write, and the next sync may
    /// succeed all the same, so nothing that follows could be trusted.
    pub(crate) fn close(&self) {
        self.durable.send_modify(|durable| durable.closed = true);
    }

    /// Takes note that everything below `below` is durable, unless a sync has failed.
    pub(crate) fn advance(&self, below: i64) {
        self.durable.send_modify(|durable| {
            if !durable.closed {
                durable.below = durable.below.max(below);
            }
        });
    }

    /// Waits until everything below `position` is durable, or never will be.
    pub(crate) async fn wait(&self, position: i64) -> Result<(), Closed> {
        let mut durable = self.durable.subscribe();
        match durable.wait_for(|d| d.closed || d.below >= position).await {
            Ok(now) if now.below >= position => Ok(()),
            _ => Err(Closed),
        }
    }

    /// Sees to it that a thread syncs what was written; the one that runs takes later writes along.
    pub(crate) fn schedule<G: Growing>(owner: &Arc<G>) {
        let commit = owner.commit();
        let mut syncing = lock(&commit.syncing);
        if !*syncing {
            *syncing = true;
            let owner = Arc::clone(owner);
            commit.tracker.spawn_blocking(move || sync_until_idle(&*owner));
        }
    }
}

fn sync_until_idle<G: Growing>(owner: &G) {
    let commit = owner.commit();
    loop {
        let (file, position) = owner.unsynced();
        match commit.disk.sync(&file) {
            Ok(()) => commit.advance(position),
            Err(error) => {
                commit.close();
                tracing::error!(%error, "could not sync a file; it takes nothing more until a restart");
            }
        }
        owner.synced();
        let mut syncing = lock(&commit.syncing);
        if commit.is_closed() || owner.unsynced().1 == position {
            *syncing = false;
            return;
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    /// A disk that is full, or whose syncs fail, while it is told so.
    #[derive(Debug, Default)]
    pub(crate) struct FailingDisk {
        pub(crate) is_full: AtomicBool,
        pub(crate) is_failing: AtomicBool,
    }

    impl Disk for FailingDisk {
        fn write(&self, file: &File, bytes: &[u8], at: u64) -> io::Result<()> {
            match self.is_full.load(Ordering::SeqCst) {
                true => {
                    file.write_all_at(&bytes[..bytes.len() - 1], at)?;
                    Err(io::ErrorKind::StorageFull.into())
                }
                false => file.write_all_at(bytes, at),
            }
        }

        fn sync(&self, _: &File) -> io::Result<()> {
            match self.is_failing.load(Ordering::SeqCst) {
                true => Err(io::Error::other("the disk is told to fail")),
                false => Ok(()),
            }
        }
    }

    #[tokio::test]
    async fn nothing_becomes_durable_after_a_sync_that_failed() {
        let commit = GroupCommit::new(3, Arc::new(RealDisk), TaskTracker::new());
        commit.advance(5);
        commit.close();
        commit.advance(9);
        assert_eq!(commit.wait(5).await, Ok(()), "what was durable stays so");
        assert_eq!(commit.wait(6).await, Err(Closed));
        assert_eq!(commit.durable_below(), 5);
    }
}
