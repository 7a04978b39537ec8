//! The folder of DAG files: read whole once, then what changes. A file that breaks leaves its DAGs at their last good
//! version, with what is wrong told; one that goes away retires its DAGs.
//!
//! inotify tells of changes at once, those of symbolic links on the way included (`watch.rs`); a slow look finds what it does
//! not see (a network's file system, say). A look costs a `stat` for each file, and reads and checks what changed, on all
//! cores.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::{Instant, sleep_until};

use crate::clock;
use crate::domain::catchup;
use crate::domain::check::check;
use crate::domain::dag::{Catchup, Dag};
use crate::domain::ids::DagId;
use crate::domain::operator_kind::OperatorKind;
use crate::domain::source::SourceFile;
use crate::engine::bells::Bells;
use crate::engine::operator::chain;
use crate::engine::shutdown::Shutdown;
use crate::engine::versions::Versions;
use crate::service::dag_files::{LoadedFile, cut_link, load, why_same};
use crate::service::registry::{Registered, Registry};
use crate::service::walk::{Found, What, walk};
use crate::service::watch::Watch;
use crate::store::{DagRegistration, ImportError, Store, StoreError};

/// What is written in pieces is read once: an editor's save is several events.
const SETTLING: Duration = Duration::from_millis(50);

/// The slow look.
const LOOK: Duration = Duration::from_secs(30);

/// DAGs that are registered in one transaction.
const BATCH: usize = 500;

/// How a file looked when it was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    modified: Option<SystemTime>,
    changed: (i64, i64),
    length: u64,
    inode: u64,
}

impl Stamp {
    fn of(path: &Path) -> Option<Self> {
        use std::os::unix::fs::MetadataExt as _;
        let found = std::fs::metadata(path).ok()?;
        Some(Self {
            modified: found.modified().ok(),
            changed: (found.ctime(), found.ctime_nsec()),
            length: found.len(),
            inode: found.ino(),
        })
    }
}

/// A file as it was last read.
struct Known {
    stamp: Option<Stamp>,
    /// Where it really is, without a symbolic link on the way.
    real: PathBuf,
    /// The last good version's DAGs and text.
    good: Box<[Arc<Dag>]>,
    source: Arc<str>,
    /// What is wrong with it now, if anything is.
    broken: Option<ImportError>,
}

/// A DAG to be registered, with its file and the file's text.
type Fresh = (Arc<Dag>, Arc<str>, Arc<str>);

/// The folder, and what is known of it.
pub(super) struct Folder {
    path: PathBuf,
    operators: Vec<&'static OperatorKind>,
    store: Store,
    registry: Registry,
    versions: Arc<Versions>,
    bells: Bells,
    files: BTreeMap<PathBuf, Known>,
    /// Files that are gone, and whether something changed, since the last time that all was registered.
    gone: BTreeSet<PathBuf>,
    is_due: bool,
    /// Whether what the database knows of these files was looked at.
    begun: bool,
}

impl Folder {
    pub(super) fn new(
        path: PathBuf,
        operators: Vec<&'static OperatorKind>,
        store: Store,
        registry: Registry,
        versions: Arc<Versions>,
        bells: Bells,
    ) -> Self {
        let (files, gone) = (BTreeMap::new(), BTreeSet::new());
        Self { path, operators, store, registry, versions, bells, files, gone, is_due: true, begun: false }
    }

    /// Follows the folder until the process stops.
    pub(super) async fn follow(mut self, shutdown: Shutdown) {
        let (sender, mut events) = tokio::sync::mpsc::unbounded_channel();
        let watch = Arc::new(Mutex::new(Watch::new(sender)));
        loop {
            if let Err(error) = self.look(&watch, &shutdown).await {
                tracing::warn!(error = %chain(&error), "could not register DAGs; trying again");
            }
            tokio::select! {
                () = shutdown.drained() => return,
                () = changed(&mut events) => {}
                () = tokio::time::sleep(LOOK) => {}
            }
        }
    }

    /// Looks once: reads what changed, registers it, and publishes the result.
    async fn look(&mut self, watch: &Arc<Mutex<Watch>>, shutdown: &Shutdown) -> Result<(), StoreError> {
        let (path, operators, watch) = (self.path.clone(), self.operators.clone(), Arc::clone(watch));
        let stop = shutdown.clone();
        let stamps: BTreeMap<PathBuf, Option<Stamp>> =
            self.files.iter().map(|(path, known)| (path.clone(), known.stamp)).collect();
        let looked = tokio::task::spawn_blocking(move || read_changes(&path, &stamps, &operators, &watch, &stop));
        let Ok(Some((present, changes))) = looked.await else { return Ok(()) }; // the process stops
        let gone: Vec<PathBuf> = self.files.keys().filter(|path| !present.contains_key(*path)).cloned().collect();
        self.is_due |= !changes.is_empty() || !gone.is_empty();
        for path in gone {
            self.files.remove(&path);
            self.gone.insert(path);
        }
        for (path, known) in &mut self.files {
            if let Some(real) = present.get(path).filter(|real| **real != known.real) {
                known.real.clone_from(real);
                self.is_due = true;
            }
        }
        for (found, stamp, loaded) in changes {
            self.take(found, stamp, loaded).await?;
        }
        if self.is_due {
            self.register().await?;
            self.gone.clear();
            (self.is_due, self.begun) = (false, true);
            self.bells.schedule().ring();
        }
        Ok(())
    }

    async fn take(&mut self, found: Found, stamp: Option<Stamp>, loaded: LoadedFile) -> Result<(), StoreError> {
        let Found { path, real, what } = found;
        let before = self.files.remove(&path);
        let known = if loaded.checked.has_errors() {
            let broken = import_error(&path, &loaded);
            let (good, source) = match before {
                Some(before) => (before.good, before.source),
                None => self.last_good(&path).await?,
            };
            let goes_on = match what {
                What::CutLink => "what was found behind it runs",
                What::File if good.is_empty() => "nothing of it runs",
                What::File => "its last good version goes on",
            };
            tracing::error!("{} is broken; {goes_on}:\n{}", path.display(), broken.message);
            Known { stamp, real, good, source, broken: Some(broken) }
        } else {
            // As a slice: a vector would keep the room that the DAGs had before they were moved, ten times as much.
            let good = loaded.checked.dags.into_iter().map(Arc::new).collect();
            Known { stamp, real, good, source: loaded.source.text().into(), broken: None }
        };
        self.files.insert(path, known);
        Ok(())
    }

    /// The version of a file that the database has: for one that is broken when the service begins.
    async fn last_good(&self, path: &Path) -> Result<(Box<[Arc<Dag>]>, Arc<str>), StoreError> {
        let name = path.to_string_lossy();
        let states = self.store.dag_states().await?;
        let stored = states.iter().find(|state| state.file.as_deref() == Some(&*name) && state.retired_at.is_none());
        let Some(version) = stored.and_then(|state| state.version) else { return Ok((Box::default(), "".into())) };
        let source = self.store.version_source(version).await?;
        let checked = check(&SourceFile::new(&source.file, source.source.clone()), &self.operators);
        let good = if checked.has_errors() { Box::default() } else { checked.dags.into_iter().map(Arc::new).collect() };
        Ok((good, source.source.into()))
    }

    /// Registers what changed since the last time, and publishes all.
    async fn register(&mut self) -> Result<(), StoreError> {
        let (now, before) = (clock::now(), self.registry.dags());
        let mut dags: BTreeMap<DagId, Registered> = BTreeMap::new();
        let mut fresh: BTreeMap<DagId, Fresh> = BTreeMap::new();
        let held = self.held(&before).await?;
        let seconds = self.seconds(&held);
        let owners = self.owners(&held, &seconds);
        let mut broken: Vec<ImportError> = Vec::new();
        for (path, known) in &self.files {
            if let Some(other) = seconds.get(path) {
                broken.push(same_file(path, other));
                continue;
            }
            broken.extend(known.broken.clone());
            let file: Arc<str> = path.to_string_lossy().into();
            for dag in &known.good {
                if let Some(other) = owners.get(dag.id()).filter(|owner| *owner != path) {
                    broken.push(twice(path, dag.id(), other));
                    continue;
                }
                match before.get(dag.id()) {
                    Some(same) if same.source == known.source && same.file == file => {
                        dags.insert(dag.id().clone(), same.clone());
                    }
                    _ => drop(fresh.insert(dag.id().clone(), (Arc::clone(dag), file.clone(), known.source.clone()))),
                }
            }
        }
        let all: Vec<_> = fresh.into_iter().collect();
        for batch in all.chunks(BATCH) {
            let registrations: Vec<DagRegistration<'_>> = batch
                .iter()
                .map(|(_, (dag, file, source))| DagRegistration {
                    dag,
                    file,
                    source,
                    begins: catchup::begin(&dag.settings, now),
                    begins_anew: dag.settings.catchup == Catchup::None,
                })
                .collect();
            for state in self.store.register_dags(&registrations, now).await? {
                let Some((_, (dag, file, source))) = batch.iter().find(|(id, _)| *id == state.dag_id) else { continue };
                let Some(version) = state.version else { continue };
                self.versions.keep(version, Arc::clone(dag));
                let (dag, file, source) = (Arc::clone(dag), Arc::clone(file), Arc::clone(source));
                dags.insert(state.dag_id, Registered { key: state.key, version, dag, file, source });
            }
        }
        self.retire(&before.keys().filter(|id| !dags.contains_key(*id)).cloned().collect(), &dags).await?;
        let mut fixed: Vec<String> =
            self.files.keys().chain(&self.gone).map(|path| path.to_string_lossy().into()).collect();
        if !self.begun {
            let noted = self.store.import_errors().await?;
            let ours = noted.into_iter().filter(|error| Path::new(&error.file).starts_with(&self.path));
            fixed.extend(ours.map(|error| error.file));
        }
        self.store.note_import_errors(&one_each(broken), &fixed, now).await?;
        self.registry.publish(dags);
        Ok(())
    }

    /// Which file each DAG was taken from until now.
    async fn held(&self, before: &BTreeMap<DagId, Registered>) -> Result<BTreeMap<DagId, PathBuf>, StoreError> {
        let mut held: BTreeMap<DagId, PathBuf> =
            before.iter().map(|(id, registered)| (id.clone(), PathBuf::from(&*registered.file))).collect();
        if !self.begun {
            let states = self.store.dag_states().await?.into_iter().filter(|state| state.retired_at.is_none());
            held.extend(states.filter_map(|state| Some((state.dag_id, state.file?.into()))));
        }
        Ok(held)
    }

    /// Paths that lead to a file which another one leads to, too, each with that: the path that its DAGs were taken from
    /// until now, else the first.
    fn seconds(&self, held: &BTreeMap<DagId, PathBuf>) -> BTreeMap<PathBuf, PathBuf> {
        let mut by_file: BTreeMap<&Path, Vec<&PathBuf>> = BTreeMap::new();
        for (path, known) in &self.files {
            by_file.entry(&known.real).or_default().push(path);
        }
        by_file.retain(|_, paths| paths.len() > 1);
        let held: BTreeSet<&PathBuf> = if by_file.is_empty() { BTreeSet::new() } else { held.values().collect() };
        let seconds = by_file.into_values().flat_map(|paths| {
            let first = paths.iter().copied().find(|path| held.contains(path)).unwrap_or(paths[0]);
            paths.into_iter().filter(move |path| *path != first).map(move |path| (path.clone(), first.clone()))
        });
        seconds.collect()
    }

    /// Which file each DAG is taken from, where several have it: the one that it was taken from until now, else the first.
    fn owners(
        &self,
        held: &BTreeMap<DagId, PathBuf>,
        seconds: &BTreeMap<PathBuf, PathBuf>,
    ) -> BTreeMap<DagId, PathBuf> {
        let mut owners: BTreeMap<DagId, PathBuf> = BTreeMap::new();
        for (path, known) in self.files.iter().filter(|(path, _)| !seconds.contains_key(*path)) {
            for dag in &known.good {
                if held.get(dag.id()) == Some(path) || !owners.contains_key(dag.id()) {
                    owners.insert(dag.id().clone(), path.clone());
                }
            }
        }
        owners
    }

    /// Retires DAGs that are gone: since the last look, or, at the first one, since this folder was last followed.
    async fn retire(&self, gone: &BTreeSet<DagId>, dags: &BTreeMap<DagId, Registered>) -> Result<(), StoreError> {
        let mut gone: BTreeSet<DagId> = gone.clone();
        if !self.begun {
            let is_ours =
                |file: &Option<String>| file.as_deref().is_some_and(|file| Path::new(file).starts_with(&self.path));
            let states = self.store.dag_states().await?;
            let missing = states.into_iter().filter(|state| {
                state.retired_at.is_none() && is_ours(&state.file) && !dags.contains_key(&state.dag_id)
            });
            gone.extend(missing.map(|state| state.dag_id));
        }
        if gone.is_empty() {
            return Ok(());
        }
        for id in &gone {
            tracing::info!(dag.id = %id, "its file is gone: the DAG is retired, its history stays");
        }
        self.store.retire_dags(&gone.into_iter().collect::<Vec<_>>(), clock::now()).await
    }
}

/// Waits for a change, and until nothing changed for a moment.
async fn changed(events: &mut UnboundedReceiver<()>) {
    if events.recv().await.is_none() {
        return std::future::pending().await; // it cannot be watched
    }
    let latest = Instant::now() + SETTLING * 4; // a file that is always written is read all the same
    loop {
        let settled = (Instant::now() + SETTLING).min(latest);
        tokio::select! {
            event = events.recv() => if event.is_none() || Instant::now() >= latest { return },
            () = sleep_until(settled) => return,
        }
    }
}

type Change = (Found, Option<Stamp>, LoadedFile);

/// The files that there are, each with where it really is; and those that are new or look otherwise than `known`, read and
/// checked. Nothing when the process stops meanwhile: what was found until then is not all.
fn read_changes(
    folder: &Path,
    known: &BTreeMap<PathBuf, Option<Stamp>>,
    operators: &[&'static OperatorKind],
    watch: &Mutex<Watch>,
    shutdown: &Shutdown,
) -> Option<(BTreeMap<PathBuf, PathBuf>, Vec<Change>)> {
    let is_over = || shutdown.is_draining();
    let present = {
        let mut watch = watch.lock().unwrap_or_else(PoisonError::into_inner); // nobody else looks
        watch.begin();
        let present = walk(folder, &mut *watch, &is_over);
        if let Some(error) = watch.end() {
            tracing::warn!(error = %error, "could not watch all of {}: it is looked at twice a minute", folder.display());
        }
        present
    };
    let stamped = present.iter().map(|found| (found, Stamp::of(&found.path)));
    let changed: Vec<(&Found, Option<Stamp>)> =
        stamped.filter(|(found, stamp)| stamp.is_none() || known.get(&found.path) != Some(stamp)).collect();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let share = changed.len().div_ceil(cores).max(1);
    let read = |part: &[(&Found, Option<Stamp>)]| -> Vec<Change> {
        let read_one = |(found, stamp): &(&Found, Option<Stamp>)| {
            let loaded = match found.what {
                What::File => load(&found.path, operators),
                What::CutLink => cut_link(&found.path),
            };
            ((*found).clone(), *stamp, loaded)
        };
        part.iter().take_while(|_| !is_over()).map(read_one).collect()
    };
    let changes = std::thread::scope(|scope| {
        let parts: Vec<_> = changed.chunks(share).map(|part| scope.spawn(move || read(part))).collect();
        // A check that panics is a bug of ours: its files are looked at again by the next look.
        parts.into_iter().flat_map(|part| part.join().unwrap_or_default()).collect()
    });
    let present = present.into_iter().map(|found| (found.path, found.real)).collect();
    (!is_over()).then_some((present, changes))
}

fn import_error(path: &Path, loaded: &LoadedFile) -> ImportError {
    ImportError {
        file: path.to_string_lossy().into_owned(),
        message: loaded.render(false),
        findings: serde_json::to_value(loaded.findings()).expect("findings are text and numbers"),
    }
}

/// What is wrong with a file that has a DAG which another has, too.
fn twice(path: &Path, id: &DagId, other: &Path) -> ImportError {
    ImportError {
        file: path.to_string_lossy().into_owned(),
        message: format!("the DAG `{id}` is in `{}` already; give one of them another id", other.display()),
        findings: serde_json::json!([]),
    }
}

/// What is wrong with a path that leads to a file which another path leads to, too.
fn same_file(path: &Path, other: &Path) -> ImportError {
    let (message, help) = why_same(path, other);
    ImportError {
        file: path.to_string_lossy().into_owned(),
        message: format!("{message}; {help}"),
        findings: serde_json::json!([]),
    }
}

/// One error for each file.
fn one_each(errors: Vec<ImportError>) -> Vec<ImportError> {
    let mut by_file: BTreeMap<String, ImportError> = BTreeMap::new();
    for error in errors {
        match by_file.get_mut(&error.file) {
            Some(first) => {
                first.message.push_str("\n\n");
                first.message.push_str(&error.message);
            }
            None => drop(by_file.insert(error.file.clone(), error)),
        }
    }
    by_file.into_values().collect()
}
