//! Which topics exist. A topic is there once its creation is durable, and gone for ever once its deletion is; its directory
//! is made before the first and removed after the second, so a crash leaves at most an orphan: one that is empty, or whose
//! deletion is in the journal. The next start removes those; records that nothing accounts for it puts aside.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use kafka_protocol::ResponseError;
use serde::{Deserialize, Serialize};
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use super::settings;
use crate::embedded::broker::error::BrokerError;
use crate::embedded::broker::group_commit::Disk;
use crate::embedded::broker::journal::{self, Journal};
use crate::embedded::broker::log::partition::Partition;
use crate::embedded::broker::log::partition_log::LogLimits;

/// The journal of which topics there are.
pub(crate) const TOPICS_JOURNAL: &str = "topics.journal";

/// A topic as it is at one moment; growing or deleting it makes a new value.
pub(crate) struct Topic {
    pub(crate) name: Arc<str>,
    pub(crate) id: Uuid,
    pub(crate) partitions: Vec<Arc<Partition>>,
    /// Settings that differ from the default.
    pub(crate) settings: BTreeMap<String, String>,
    /// The largest batch it takes.
    pub(crate) max_batch_bytes: usize,
}

impl Topic {
    /// The partition with this number, if there is one.
    pub(crate) fn partition(&self, index: i32) -> Option<&Arc<Partition>> {
        self.partitions.get(usize::try_from(index).ok()?)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
enum Entry {
    Created { name: String, id: Uuid, partitions: i32, settings: BTreeMap<String, String> },
    Grown { id: Uuid, partitions: i32 },
    Deleted { id: Uuid },
}

#[derive(Default)]
struct Known {
    by_name: BTreeMap<Arc<str>, Arc<Topic>>,
    names: HashMap<Uuid, Arc<str>>,
}

/// All topics of the broker.
pub(crate) struct Registry {
    dir: PathBuf,
    limits: LogLimits,
    max_batch_bytes: usize,
    max_partitions: usize,
    disk: Arc<dyn Disk>,
    tracker: TaskTracker,
    journal: Arc<Journal>,
    known: RwLock<Known>,
    /// One change at a time, from the check to the durable entry.
    changing: tokio::sync::Mutex<()>,
}

/// What the registry needs to know of the broker's settings.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RegistryLimits {
    pub(crate) log: LogLimits,
    pub(crate) max_batch_bytes: usize,
    /// Of all topics together.
    pub(crate) max_partitions: usize,
}

impl Registry {
    /// Opens every topic there is, and removes what a crash left of those that are not. Blocking.
    pub(crate) fn open(
        data_dir: &Path,
        limits: RegistryLimits,
        disk: Arc<dyn Disk>,
        tracker: TaskTracker,
    ) -> Result<Self, BrokerError> {
        let dir = data_dir.join("topics");
        fs::create_dir_all(&dir).map_err(BrokerError::io("create", &dir))?;
        let path = data_dir.join(TOPICS_JOURNAL);
        let Listed { live: entries, deleted } = listed(journal::read(&path)?);
        // Before the journal is begun anew, which forgets the deletions.
        remove_orphans(data_dir, &dir, &entries, &deleted)?;
        let journal = Arc::new(Journal::start(path, &entries, Arc::clone(&disk), tracker.clone())?);
        let registry = Self {
            dir,
            limits: limits.log,
            max_batch_bytes: limits.max_batch_bytes,
            max_partitions: limits.max_partitions,
            disk,
            tracker,
            journal,
            known: RwLock::default(),
            changing: tokio::sync::Mutex::default(),
        };
        let mut known = Known::default();
        for entry in entries {
            if let Entry::Created { name, id, partitions, settings } = entry {
                known.add(registry.build(name, id, partitions, settings, Vec::new())?);
            }
        }
        *registry.known.write().unwrap_or_else(PoisonError::into_inner) = known;
        Ok(registry)
    }

    fn topic_dir(&self, id: Uuid) -> PathBuf {
        self.dir.join(id.to_string())
    }

    /// Opens the partitions beyond those already open.
    fn build(
        &self,
        name: String,
        id: Uuid,
        partitions: i32,
        settings: BTreeMap<String, String>,
        mut open: Vec<Arc<Partition>>,
    ) -> Result<Topic, BrokerError> {
        let dir = self.topic_dir(id);
        for index in open.len()..usize::try_from(partitions).unwrap_or_default() {
            let (dir, disk) = (dir.join(index.to_string()), Arc::clone(&self.disk));
            open.push(Arc::new(Partition::open(&dir, self.limits, disk, self.tracker.clone())?));
        }
        for synced in [&dir, &self.dir] {
            fs::File::open(synced).and_then(|d| d.sync_all()).map_err(BrokerError::io("sync", synced))?;
        }
        let max_batch_bytes = settings::max_batch_bytes(&settings, self.max_batch_bytes);
        Ok(Topic { name: name.into(), id, partitions: open, settings, max_batch_bytes })
    }

    /// Whether a topic could be created now. Changes nothing.
    pub(crate) fn check_new(&self, name: &str, partitions: i32) -> Result<(), ResponseError> {
        if !settings::is_valid_name(name) {
            return Err(ResponseError::InvalidTopicException);
        }
        if self.topic(name).is_some() {
            return Err(ResponseError::TopicAlreadyExists);
        }
        match usize::try_from(partitions) {
            Ok(1..) => self.check_room(partitions),
            _ => Err(ResponseError::InvalidPartitions),
        }
    }

    /// Whether so many more partitions may be opened: each takes a file handle for ever.
    fn check_room(&self, more: i32) -> Result<(), ResponseError> {
        let open: usize = self.all().iter().map(|topic| topic.partitions.len()).sum();
        let fits = usize::try_from(more).is_ok_and(|more| open.saturating_add(more) <= self.max_partitions);
        if fits { Ok(()) } else { Err(ResponseError::PolicyViolation) }
    }

    /// Creates a topic; it is durable when this returns.
    pub(crate) async fn create(
        self: &Arc<Self>,
        name: &str,
        partitions: i32,
        settings: BTreeMap<String, String>,
    ) -> Result<Arc<Topic>, ResponseError> {
        let _changing = self.changing.lock().await;
        self.check_new(name, partitions)?;
        let id = Uuid::new_v4();
        let entry = Entry::Created { name: name.to_owned(), id, partitions, settings: settings.clone() };
        let name = name.to_owned();
        let topic = self.blocking(move |registry| registry.build(name, id, partitions, settings, Vec::new())).await?;
        self.record(&entry).await?;
        Ok(self.known.write().unwrap_or_else(PoisonError::into_inner).add(topic))
    }

    /// Gives a topic more partitions; they are durable when this returns.
    pub(crate) async fn grow(self: &Arc<Self>, name: &str, partitions: i32) -> Result<(), ResponseError> {
        let _changing = self.changing.lock().await;
        let old = self.check_grow(name, partitions)?;
        let (name, id, settings, open) = (old.name.to_string(), old.id, old.settings.clone(), old.partitions.clone());
        let topic = self.blocking(move |registry| registry.build(name, id, partitions, settings, open)).await?;
        self.record(&Entry::Grown { id, partitions }).await?;
        self.known.write().unwrap_or_else(PoisonError::into_inner).add(topic);
        Ok(())
    }

    /// Whether a topic could be given this many partitions now. Changes nothing.
    pub(crate) fn check_grow(&self, name: &str, partitions: i32) -> Result<Arc<Topic>, ResponseError> {
        let topic = self.topic(name).ok_or(ResponseError::UnknownTopicOrPartition)?;
        let has = i32::try_from(topic.partitions.len()).unwrap_or(i32::MAX);
        if partitions <= has {
            return Err(ResponseError::InvalidPartitions);
        }
        self.check_room(partitions - has)?;
        Ok(topic)
    }

    /// Deletes a topic; it stays deleted when this returns. `forget` makes others forget it, while no topic of the same
    /// name can be created; after a crash in between they must find by themselves that it is gone.
    pub(crate) async fn delete(
        self: &Arc<Self>,
        name: &str,
        forget: impl Future<Output = Result<(), ResponseError>>,
    ) -> Result<Arc<Topic>, ResponseError> {
        let _changing = self.changing.lock().await;
        let topic = self.topic(name).ok_or(ResponseError::UnknownTopicOrPartition)?;
        self.record(&Entry::Deleted { id: topic.id }).await?;
        {
            let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
            known.by_name.remove(name);
            known.names.remove(&topic.id);
        }
        let forgotten = forget.await;
        let gone = Arc::clone(&topic);
        let removed = self.blocking(move |registry| {
            gone.partitions.iter().for_each(|partition| partition.close_deleted());
            let dir = registry.topic_dir(gone.id);
            fs::remove_dir_all(&dir).map_err(BrokerError::io("remove", &dir))
        });
        if let Err(error) = removed.await {
            // The deletion is durable; the next start tries the directory again.
            tracing::warn!(%error, topic = name, "could not remove a deleted topic's directory");
        }
        forgotten.map(|()| topic)
    }

    async fn record(&self, entry: &Entry) -> Result<(), ResponseError> {
        let ticket = self.journal.append(entry)?;
        Ok(self.journal.durable(ticket).await?)
    }

    async fn blocking<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Self) -> Result<T, BrokerError> + Send + 'static,
    ) -> Result<T, ResponseError> {
        let registry = Arc::clone(self);
        match self.tracker.spawn_blocking(move || work(&registry)).await {
            Ok(Ok(done)) => Ok(done),
            Ok(Err(error)) => {
                tracing::error!(%error, "could not change a topic");
                Err(ResponseError::KafkaStorageError)
            }
            Err(_) => Err(ResponseError::UnknownServerError),
        }
    }

    /// The topic of this name.
    pub(crate) fn topic(&self, name: &str) -> Option<Arc<Topic>> {
        self.known.read().unwrap_or_else(PoisonError::into_inner).by_name.get(name).cloned()
    }

    /// The topic with this id.
    pub(crate) fn topic_by_id(&self, id: Uuid) -> Option<Arc<Topic>> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        known.by_name.get(known.names.get(&id)?).cloned()
    }

    /// The partition of this name and number.
    pub(crate) fn partition(&self, topic: &str, index: i32) -> Option<Arc<Partition>> {
        self.topic(topic)?.partition(index).cloned()
    }

    /// All topics, by name.
    pub(crate) fn all(&self) -> Vec<Arc<Topic>> {
        self.known.read().unwrap_or_else(PoisonError::into_inner).by_name.values().cloned().collect()
    }
}

impl Known {
    fn add(&mut self, topic: Topic) -> Arc<Topic> {
        let topic = Arc::new(topic);
        self.names.insert(topic.id, Arc::clone(&topic.name));
        self.by_name.insert(Arc::clone(&topic.name), Arc::clone(&topic));
        topic
    }
}

/// What a journal's entries come to.
struct Listed {
    /// The topics there are, each as one creation.
    live: Vec<Entry>,
    deleted: HashSet<Uuid>,
}

fn listed(entries: Vec<Entry>) -> Listed {
    let mut live: BTreeMap<Uuid, Entry> = BTreeMap::new();
    let mut deleted = HashSet::new();
    for entry in entries {
        match entry {
            Entry::Created { id, .. } => {
                live.insert(id, entry);
            }
            Entry::Grown { id, partitions: grown } => {
                if let Some(Entry::Created { partitions, .. }) = live.get_mut(&id) {
                    *partitions = grown;
                }
            }
            Entry::Deleted { id } => {
                live.remove(&id);
                deleted.insert(id);
            }
        }
    }
    Listed { live: live.into_values().collect(), deleted }
}

/// Removes the directories of topics that were deleted, or whose creation was cut short. Others that belong to no topic
/// hold records, and are put aside for a human.
fn remove_orphans(data_dir: &Path, dir: &Path, entries: &[Entry], deleted: &HashSet<Uuid>) -> Result<(), BrokerError> {
    let mut kept = HashSet::new();
    for entry in entries {
        if let Entry::Created { id, .. } = entry {
            kept.insert(id.to_string());
        }
    }
    for entry in fs::read_dir(dir).map_err(BrokerError::io("list", dir))? {
        let entry = entry.map_err(BrokerError::io("list", dir))?;
        let (path, name) = (entry.path(), entry.file_name());
        let name = name.to_string_lossy();
        if !path.is_dir() || kept.contains(name.as_ref()) {
            continue;
        }
        let was_deleted = name.parse().is_ok_and(|id: Uuid| deleted.contains(&id));
        if was_deleted || !holds_records(&path).map_err(BrokerError::io("list", &path))? {
            fs::remove_dir_all(&path).map_err(BrokerError::io("remove", &path))?;
            continue;
        }
        let aside = data_dir.join("orphans");
        fs::create_dir_all(&aside).map_err(BrokerError::io("create", &aside))?;
        let to = aside.join(name.as_ref());
        fs::rename(&path, &to).map_err(BrokerError::io("put aside", &path))?;
        tracing::error!(path = %to.display(), "put aside records that belong to no topic");
    }
    Ok(())
}

/// Whether any file in a directory has anything in it.
fn holds_records(path: &Path) -> io::Result<bool> {
    if !path.is_dir() {
        return Ok(fs::metadata(path)?.len() > 0);
    }
    for entry in fs::read_dir(path)? {
        if holds_records(&entry?.path())? {
            return Ok(true);
        }
    }
    Ok(false)
}
