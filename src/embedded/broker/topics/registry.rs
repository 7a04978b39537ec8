//! Which topics exist. A topic is there once its creation is durable, and gone for ever once its deletion is; its directory
//! is made before the first and removed after the second, so a crash leaves at most an orphan that the next start removes.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use kafka_protocol::ResponseError;
use serde::{Deserialize, Serialize};
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use super::settings;
use crate::embedded::broker::error::BrokerError;
use crate::embedded::broker::journal::{self, Journal};
use crate::embedded::broker::log::partition::Partition;
use crate::embedded::broker::log::partition_log::LogLimits;

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
    max_partitions: i32,
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
    pub(crate) max_partitions: i32,
}

impl Registry {
    /// Opens every topic there is, and removes what a crash left of those that are not. Blocking.
    pub(crate) fn open(data_dir: &Path, limits: RegistryLimits, tracker: TaskTracker) -> Result<Self, BrokerError> {
        let dir = data_dir.join("topics");
        fs::create_dir_all(&dir).map_err(BrokerError::io("create", &dir))?;
        let path = data_dir.join("topics.journal");
        let entries = live(journal::read(&path)?);
        let journal = Arc::new(Journal::start(path, &entries, tracker.clone())?);
        let registry = Self {
            dir,
            limits: limits.log,
            max_batch_bytes: limits.max_batch_bytes,
            max_partitions: limits.max_partitions,
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
        registry.remove_orphans(&known)?;
        *registry.known.write().unwrap_or_else(PoisonError::into_inner) = known;
        Ok(registry)
    }

    fn remove_orphans(&self, known: &Known) -> Result<(), BrokerError> {
        let kept: HashSet<PathBuf> = known.names.keys().map(|id| self.topic_dir(*id)).collect();
        for entry in fs::read_dir(&self.dir).map_err(BrokerError::io("list", &self.dir))? {
            let path = entry.map_err(BrokerError::io("list", &self.dir))?.path();
            if !kept.contains(&path) {
                fs::remove_dir_all(&path).map_err(BrokerError::io("remove", &path))?;
            }
        }
        Ok(())
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
            let partition = Partition::open(&dir.join(index.to_string()), self.limits, self.tracker.clone())?;
            open.push(Arc::new(partition));
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
        self.check_partitions(partitions)
    }

    fn check_partitions(&self, partitions: i32) -> Result<(), ResponseError> {
        let in_range = (1..=self.max_partitions).contains(&partitions);
        if in_range { Ok(()) } else { Err(ResponseError::InvalidPartitions) }
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
        self.check_partitions(partitions)?;
        let grows = usize::try_from(partitions).is_ok_and(|count| count > topic.partitions.len());
        if grows { Ok(topic) } else { Err(ResponseError::InvalidPartitions) }
    }

    /// Deletes a topic; it stays deleted when this returns.
    pub(crate) async fn delete(self: &Arc<Self>, name: &str) -> Result<Arc<Topic>, ResponseError> {
        let _changing = self.changing.lock().await;
        let topic = self.topic(name).ok_or(ResponseError::UnknownTopicOrPartition)?;
        self.record(&Entry::Deleted { id: topic.id }).await?;
        {
            let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
            known.by_name.remove(name);
            known.names.remove(&topic.id);
        }
        for partition in &topic.partitions {
            partition.close_deleted();
        }
        let id = topic.id;
        let removed = self.blocking(move |registry| {
            let dir = registry.topic_dir(id);
            fs::remove_dir_all(&dir).map_err(BrokerError::io("remove", &dir))
        });
        if let Err(error) = removed.await {
            // The deletion is durable; the next start tries the directory again.
            tracing::warn!(%error, topic = name, "could not remove a deleted topic's directory");
        }
        Ok(topic)
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

/// The topics that a journal's entries leave, each as one creation.
fn live(entries: Vec<Entry>) -> Vec<Entry> {
    let mut left: BTreeMap<Uuid, Entry> = BTreeMap::new();
    for entry in entries {
        match entry {
            Entry::Created { id, .. } => {
                left.insert(id, entry);
            }
            Entry::Grown { id, partitions: grown } => {
                if let Some(Entry::Created { partitions, .. }) = left.get_mut(&id) {
                    *partitions = grown;
                }
            }
            Entry::Deleted { id } => {
                left.remove(&id);
            }
        }
    }
    left.into_values().collect()
}
