//! The DAGs that a service knows from its files, each at its last good version, as they are registered in the database.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::watch;

use crate::domain::dag::Dag;
use crate::domain::ids::DagId;
use crate::store::{DagKey, DagVersionId};

/// A DAG that is registered.
#[derive(Debug, Clone)]
pub struct Registered {
    /// Its key.
    pub key: DagKey,
    /// The version that its next run is made from.
    pub version: DagVersionId,
    /// What it is.
    pub dag: Arc<Dag>,
    /// Its file, absolute.
    pub file: Arc<str>,
    /// The file's text.
    pub source: Arc<str>,
}

/// The DAGs, by id.
pub type Dags = Arc<BTreeMap<DagId, Registered>>;

/// Who knows the DAGs tells, who needs them looks.
#[derive(Debug, Clone)]
pub struct Registry {
    dags: watch::Sender<Dags>,
}

impl Default for Registry {
    fn default() -> Self {
        Self { dags: watch::Sender::new(Dags::default()) }
    }
}

impl Registry {
    /// What there is now, and how to learn of changes.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Dags> {
        self.dags.subscribe()
    }

    /// What there is now.
    #[must_use]
    pub fn dags(&self) -> Dags {
        Arc::clone(&self.dags.borrow())
    }

    pub(super) fn publish(&self, dags: BTreeMap<DagId, Registered>) {
        self.dags.send_replace(Arc::new(dags));
    }
}
