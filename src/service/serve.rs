//! The service: its parts by role, started together, stopped together.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use chrono::TimeDelta;
use tokio::task::JoinSet;
use tokio_cron_scheduler::JobSchedulerError;

use crate::engine::bells::Bells;
use crate::engine::notices::Notifier;
use crate::engine::shutdown::Shutdown;
use crate::engine::versions::Versions;
use crate::engine::{Engine, EngineError};
use crate::service::folder::Folder;
use crate::service::http::{Door, Watched};
use crate::service::listener::{listen, pass_on};
use crate::service::metrics::Metrics;
use crate::service::notifier;
use crate::service::registry::Registry;
use crate::service::scheduler::Scheduler;
use crate::service::upkeep::{Retention, keep_house};
use crate::store::{SignOfLife, Word};

/// What a process does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Follows the DAG files and makes ticks runs.
    Scheduler,
    /// Runs tasks.
    Worker,
}

impl Role {
    /// Its name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Scheduler => "scheduler",
            Self::Worker => "worker",
        }
    }
}

/// A role that there is not.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no role: there are `scheduler` and `worker`")]
pub struct NoRole(String);

impl FromStr for Role {
    type Err = NoRole;

    fn from_str(text: &str) -> Result<Self, NoRole> {
        match text {
            "scheduler" => Ok(Self::Scheduler),
            "worker" => Ok(Self::Worker),
            other => Err(NoRole(other.to_owned())),
        }
    }
}

/// Why the service ended by itself.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// Its worker gave up.
    #[error("the worker gave up")]
    Engine(#[from] EngineError),
    /// Its housekeeping could not be set up.
    #[error("could not set the housekeeping up")]
    Upkeep(#[from] JobSchedulerError),
    /// A part of it panicked, which is a mistake of ours.
    #[error("a part of the service panicked: {0}")]
    Panicked(String),
}

/// A service that is set up.
pub struct Service {
    /// What its worker works with.
    pub engine: Engine,
    /// The folder of DAG files, absolute.
    pub dags: PathBuf,
    /// What it does.
    pub roles: BTreeSet<Role>,
    /// How late a missed tick may run that nothing catches up with.
    pub misfire_grace: TimeDelta,
    /// The process's registration.
    pub sign: SignOfLife,
    /// Which finished runs are kept.
    pub retention: Retention,
    /// What it counts and measures; the engine's observer counts there, too.
    pub metrics: Arc<Metrics>,
    /// Where it tells of its health and its metrics.
    pub door: Option<Door>,
}

impl Service {
    /// Works until `shutdown` says to stop, and what runs has ended then.
    ///
    /// # Errors
    /// When a part cannot go on; the others are stopped first. A database that is away is waited for.
    pub async fn run(self, shutdown: &Shutdown) -> Result<(), ServiceError> {
        let (bells, registry) = (Bells::default(), Registry::default());
        let versions = Arc::new(Versions::new(self.engine.registrations));
        let store = self.engine.store.clone();
        // Told of for as long as anything goes on, a drain included; it ends by being dropped.
        let mut answering = JoinSet::new();
        if let Some(door) = self.door {
            let (store, metrics, roles) = (store.clone(), Arc::clone(&self.metrics), self.roles.clone());
            answering.spawn(door.answer(Watched { store, metrics, roles, shutdown: shutdown.clone() }));
        }
        let mut parts: JoinSet<Result<(), ServiceError>> = JoinSet::new();
        let notifier = Notifier::new(store.clone(), Arc::clone(&versions), self.engine.lookup.clone());
        let stopping = shutdown.clone();
        parts.spawn(async move {
            notifier::work(notifier, stopping).await;
            Ok(())
        });
        let exporter = self.engine.exporter(&versions);
        if !exporter.is_idle() {
            let stopping = shutdown.clone();
            parts.spawn(async move {
                notifier::work(exporter, stopping).await;
                Ok(())
            });
        }
        let stopping = shutdown.clone();
        let heard = (store.clone(), bells.clone(), self.roles.clone());
        parts.spawn(async move {
            listen(heard.0, heard.1, heard.2, stopping).await;
            Ok(())
        });
        // What a part of this process says to one that it does not have is said to the other processes.
        let absent = [(Role::Scheduler, bells.turn(), Word::Turn), (Role::Worker, bells.work(), Word::Work)];
        for (_, bell, word) in absent.into_iter().filter(|(role, ..)| !self.roles.contains(role)) {
            let (store, bell, stopping) = (store.clone(), bell.clone(), shutdown.clone());
            parts.spawn(async move {
                pass_on(store, bell, word, stopping).await;
                Ok(())
            });
        }
        if self.roles.contains(&Role::Scheduler) {
            let operators = self.engine.registrations.iter().map(|registration| registration.kind).collect();
            let (versions, bells) = (Arc::clone(&versions), bells.clone());
            let outputs = Arc::clone(&self.engine.outputs);
            let metrics = Arc::clone(&self.metrics);
            let keeping = keep_house(store.clone(), outputs, self.retention, metrics, shutdown.clone());
            parts.spawn(async move { Ok(keeping.await?) });
            let scheduler = Scheduler::new(
                store.clone(),
                &registry,
                Arc::clone(&versions),
                bells.clone(),
                self.misfire_grace,
                Arc::clone(&self.metrics),
            );
            let folder = Folder::new(self.dags, operators, store, registry, versions, bells);
            let stopping = (shutdown.clone(), shutdown.clone());
            parts.spawn(async move {
                folder.follow(stopping.0).await;
                Ok(())
            });
            parts.spawn(async move {
                scheduler.work(stopping.1).await;
                Ok(())
            });
        }
        if self.roles.contains(&Role::Worker) {
            let (engine, sign, stopping) = (self.engine, self.sign, shutdown.clone());
            parts.spawn(async move { Ok(engine.work(sign, versions, bells, &stopping).await?) });
        }
        let mut ended = Ok(());
        while let Some(part) = parts.join_next().await {
            let part = part.unwrap_or_else(|error| Err(ServiceError::Panicked(error.to_string())));
            if ended.is_ok() && part.is_err() {
                ended = part;
                shutdown.stop();
            }
        }
        ended
    }
}
