//! What is watched of a folder of DAG files: each folder that is read, by what it really is, and each name that a symbolic
//! link on the way may be swapped at.
//!
//! It is settled anew by each look, and a folder is watched before it is read: what changes after that is told.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use notify::event::{EventKind, ModifyKind};
use notify::{ErrorKind, Event, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::mpsc::UnboundedSender;

use crate::service::walk::Witness;

/// A folder itself, whatever its path leads to now: its device and inode.
type Identity = (u64, u64);

/// What is looked at of the events: a folder with links in it may be a busy one.
#[derive(Debug, Default)]
struct Interest {
    /// Folders of which every name counts.
    folders: BTreeSet<PathBuf>,
    /// Names that count in others.
    names: BTreeSet<PathBuf>,
    /// Whether a folder itself was moved or deleted, so that what is watched may be no more.
    is_doubtful: bool,
}

impl Interest {
    /// Notes an event; says whether something may have changed.
    fn take(&mut self, event: &Event) -> bool {
        if event.kind.is_access() {
            return false;
        }
        // Too many came at once: some are lost, and what they would have said may be anything.
        if event.need_rescan() {
            self.is_doubtful = true;
            return true;
        }
        let is_end = matches!(event.kind, EventKind::Remove(_) | EventKind::Modify(ModifyKind::Name(_)));
        let mut counts = false;
        for path in &event.paths {
            let is_folder = self.folders.contains(path);
            self.is_doubtful |= is_end && (is_folder || self.names.iter().any(|name| name.starts_with(path)));
            let is_in_one = || path.parent().is_some_and(|parent| self.folders.contains(parent));
            counts |= is_folder || self.names.contains(path) || is_in_one();
        }
        counts || self.is_doubtful
    }
}

/// Watches, and tells of changes for as long as it lives.
pub(super) struct Watch {
    watcher: Option<RecommendedWatcher>,
    watched: BTreeMap<PathBuf, Identity>,
    interest: Arc<Mutex<Interest>>,
    /// What the look that goes on came by.
    met: Interest,
    /// Why something could not be watched, told once.
    failed: Option<notify::Error>,
    has_failed: bool,
}

impl Watch {
    /// Tells of changes by these events.
    pub(super) fn new(events: UnboundedSender<()>) -> Self {
        let interest = Arc::new(Mutex::new(Interest::default()));
        let noted = Arc::clone(&interest);
        let watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
            // What is told of as an error may be a change that was lost.
            if event.map_or(true, |event| lock(&noted).take(&event)) {
                let _ = events.send(()); // nobody follows any more: the process stops
            }
        });
        let mut watch = Self {
            watcher: None,
            watched: BTreeMap::new(),
            interest,
            met: Interest::default(),
            failed: None,
            has_failed: false,
        };
        match watcher {
            Ok(watcher) => watch.watcher = Some(watcher),
            Err(error) => watch.fail(error),
        }
        watch
    }

    /// A look begins.
    pub(super) fn begin(&mut self) {
        self.met = Interest::default();
        let is_doubtful = std::mem::take(&mut lock(&self.interest).is_doubtful);
        if is_doubtful {
            // All of it, before anything is watched anew: a folder with another name now has the watch that it had by the old
            // one, and would lose it with that.
            for folder in std::mem::take(&mut self.watched).into_keys() {
                self.unwatch(&folder);
            }
        }
    }

    /// The look is over: what it did not come by is watched no more. What could not be watched, the first time that it could
    /// not.
    pub(super) fn end(&mut self) -> Option<notify::Error> {
        let met = std::mem::take(&mut self.met);
        let is_met = |path: &PathBuf| {
            met.folders.contains(path) || met.names.iter().any(|name| name.parent() == Some(path.as_path()))
        };
        let gone: Vec<PathBuf> = self.watched.keys().filter(|path| !is_met(path)).cloned().collect();
        for path in gone {
            self.watched.remove(&path);
            self.unwatch(&path);
        }
        let mut interest = lock(&self.interest);
        (interest.folders, interest.names) = (met.folders, met.names);
        self.failed.take()
    }

    /// Watches a folder, unless it is. No lock is held meanwhile: the watcher waits for who notes its events.
    fn watch(&mut self, folder: &Path) -> notify::Result<()> {
        let Ok(found) = std::fs::metadata(folder) else { return Ok(()) }; // it is gone
        let identity = (found.dev(), found.ino());
        match self.watched.get(folder) {
            Some(known) if *known == identity => return Ok(()),
            Some(_) => self.unwatch(folder),
            None => {}
        }
        let Some(watcher) = &mut self.watcher else { return Ok(()) };
        self.watched.remove(folder);
        match watcher.watch(folder, RecursiveMode::NonRecursive) {
            Ok(()) => drop(self.watched.insert(folder.to_owned(), identity)),
            Err(error) if matches!(error.kind, ErrorKind::PathNotFound) => {} // it has just gone
            Err(error) => return Err(error),
        }
        Ok(())
    }

    fn unwatch(&mut self, folder: &Path) {
        if let Some(watcher) = &mut self.watcher
            && let Err(error) = watcher.unwatch(folder)
        {
            tracing::debug!(error = %error, "{} was watched no more", folder.display());
        }
    }

    fn fail(&mut self, error: notify::Error) {
        if !std::mem::replace(&mut self.has_failed, true) {
            self.failed = Some(error);
        }
    }
}

impl Witness for Watch {
    fn folder(&mut self, folder: &Path) {
        self.met.folders.insert(folder.to_owned());
        lock(&self.interest).folders.insert(folder.to_owned());
        if let Err(error) = self.watch(folder) {
            self.fail(error);
        }
    }

    fn name(&mut self, folder: &Path, name: &OsStr) {
        let path = folder.join(name);
        self.met.names.insert(path.clone());
        lock(&self.interest).names.insert(path);
        // Who may pass through a folder need not be allowed to read it, as the one that the folder of DAG files lies in.
        if let Err(error) = self.watch(folder) {
            tracing::debug!(error = %error, "could not watch {}", folder.display());
        }
    }
}

/// A thread that panicked while it noted an event has left it noted or not.
fn lock(interest: &Mutex<Interest>) -> MutexGuard<'_, Interest> {
    interest.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use notify::event::{CreateKind, RemoveKind, RenameMode};

    use super::*;
    use crate::service::walk::walk;

    /// As a folder is renamed and the link to it follows: what it leads to has the same inode, and so the same watch.
    #[tokio::test]
    async fn a_folder_that_gets_another_name_before_the_next_look_is_watched_on() {
        let scratch = tempfile::tempdir().unwrap();
        let root = scratch.path().canonicalize().unwrap();
        let at = |path: &str| root.join(path);
        std::fs::create_dir_all(at("one/deep/dags")).unwrap();
        std::os::unix::fs::symlink("one", at("current")).unwrap();
        let (sender, mut events) = tokio::sync::mpsc::unbounded_channel();
        let mut watch = Watch::new(sender);
        let look = |watch: &mut Watch| {
            watch.begin();
            walk(&at("current/deep/dags"), watch, &|| false);
            assert!(watch.end().is_none());
        };
        look(&mut watch);
        std::fs::rename(at("one"), at("two")).unwrap();
        std::os::unix::fs::symlink("two", at("current.new")).unwrap();
        std::fs::rename(at("current.new"), at("current")).unwrap();
        let long = Duration::from_secs(10);
        while !lock(&watch.interest).is_doubtful {
            tokio::time::timeout(long, events.recv()).await.expect("the rename is told of");
        }
        // What was told of late is no word of what comes now, and that watches were made anew is no change.
        for _ in 0..2 {
            look(&mut watch);
            while tokio::time::timeout(Duration::from_millis(200), events.recv()).await.is_ok() {}
        }
        assert!(!lock(&watch.interest).is_doubtful);
        std::fs::write(at("two/deep/dags/a.yaml"), "").unwrap();
        let told = tokio::time::timeout(long, events.recv()).await;
        assert!(told.is_ok(), "nothing was told of a file that is new");
    }

    #[test]
    fn of_a_busy_folder_the_names_that_count_are_told_of_alone() {
        let mut interest = Interest {
            folders: ["/dags".into()].into(),
            names: ["/tmp/current".into(), "/dags/x".into()].into(),
            is_doubtful: false,
        };
        let created = |path: &str| Event::new(EventKind::Create(CreateKind::File)).add_path(path.into());
        assert!(interest.take(&created("/dags/a.yaml")));
        assert!(interest.take(&created("/tmp/current")));
        assert!(!interest.take(&created("/tmp/another")));
        assert!(!interest.take(&created("/dags/deep/a.yaml")));
        assert!(!interest.is_doubtful);
        let moved = Event::new(EventKind::Modify(ModifyKind::Name(RenameMode::From))).add_path("/tmp/another".into());
        assert!(!interest.take(&moved) && !interest.is_doubtful);
        let removed = Event::new(EventKind::Remove(RemoveKind::Folder)).add_path("/dags".into());
        assert!(interest.take(&removed) && interest.is_doubtful);
    }
}
