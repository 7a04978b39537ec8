//! Driving one run to its end, or all that come: registering as a worker, taking a run over, and coming back after the
//! database was away.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use crate::clock;
use crate::connect::Endpoints;
use crate::domain::run_state::RunState;
use crate::engine::EngineError;
use crate::engine::bells::Bells;
use crate::engine::exports::{Exporter, Receivers};
use crate::engine::hand::Unwritten;
use crate::engine::lookup::Lookup;
use crate::engine::observer::Observer;
use crate::engine::operator::{Processes, Registration, chain};
use crate::engine::outputs::OutputStore;
use crate::engine::running::RunningRun;
use crate::engine::shutdown::Shutdown;
use crate::engine::versions::Versions;
use crate::engine::worker::{Anything, Assignment, Worker, answered};
use crate::store::{SignOfLife, Store, StoreError, WorkerId};

/// How long a database that went away is waited for.
const RECONNECT_LIMIT: Duration = Duration::from_secs(300);

/// How long a killed process's connection may still seem open.
pub const KILLED_LINGERS: Duration = Duration::from_secs(3);

/// What a worker works with; cheap to clone.
#[derive(Clone)]
pub struct Engine {
    /// pinsched's state.
    pub store: Store,
    /// The operators.
    pub registrations: &'static [Registration],
    /// The outside systems.
    pub endpoints: Arc<Endpoints>,
    /// Who watches.
    pub observer: Arc<dyn Observer>,
    /// How many attempts run at once.
    pub slots: usize,
    /// How many bytes a task may hold that can spill to disk instead.
    pub memory_limit: u64,
    /// How the programs that tasks start are kept.
    pub processes: Processes,
    /// Who is told of runs, beside people.
    pub receivers: Arc<Receivers>,
    /// How many instances a mapped task may have.
    pub max_map_length: u32,
    /// Where large outputs go.
    pub outputs: Arc<OutputStore>,
    /// Where connections and variables are found, and what is masked.
    pub lookup: Lookup,
}

/// How driving a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Driven {
    /// The run ended.
    Concluded(RunState),
    /// It was told to stop first: the run is unfinished, its attempts were handed back uncounted.
    Stopped,
}

/// Registers this process as a worker: a run that is created with it as its owner is nobody else's to take up.
///
/// # Errors
/// When the database does not answer, or stands behind a transaction pooler.
pub async fn register(store: &Store) -> Result<SignOfLife, EngineError> {
    let hostname = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let registered = store.register_worker(hostname.trim(), std::process::id(), clock::now());
    Ok(answered(registered).await?)
}

impl Engine {
    /// What tells its receivers of runs.
    #[must_use]
    pub fn exporter(&self, versions: &Arc<Versions>) -> Exporter {
        let (store, endpoints, receivers) =
            (self.store.clone(), Arc::clone(&self.endpoints), Arc::clone(&self.receivers));
        Exporter::new(store, Arc::clone(versions), endpoints, self.lookup.masks().clone(), receivers)
    }

    /// Registers as a worker and works on `run` until it concludes or `shutdown` says to stop.
    ///
    /// What another process left of it is taken over: attempts whose worker shows no sign of life for a second, or whose
    /// lease has ended.
    ///
    /// # Errors
    /// [`EngineError::Driven`] when another live process drives it; [`EngineError::DatabaseGone`] when the database
    /// stays away. The run stays as it is, to be resumed.
    pub async fn drive(&self, run: RunningRun, shutdown: &Shutdown) -> Result<Driven, EngineError> {
        let sign = register(&self.store).await?;
        self.drive_as(sign, run, shutdown).await
    }

    /// The same for a process that has registered before.
    ///
    /// # Errors
    /// As [`Self::drive`].
    pub async fn drive_as(
        &self,
        sign: SignOfLife,
        run: RunningRun,
        shutdown: &Shutdown,
    ) -> Result<Driven, EngineError> {
        // As a task of the runtime's: a run that is driven from the main thread wakes another for each of its attempts.
        let (engine, shutdown) = (self.clone(), shutdown.clone());
        let mut driving = JoinSet::new();
        driving.spawn(async move { engine.drive_to_its_end(sign, Assignment::Run(run), &shutdown).await });
        match driving.join_next().await.expect("one is spawned") {
            Ok(driven) => driven,
            Err(failed) => std::panic::resume_unwind(failed.into_panic()), // nobody aborts it who waits for it
        }
    }

    /// Works on every run that no process drives as its own, until `shutdown` says to stop. A database that goes away is
    /// waited for.
    ///
    /// # Errors
    /// When the database refuses what it should take.
    pub async fn work(
        &self,
        sign: SignOfLife,
        versions: Arc<Versions>,
        bells: Bells,
        shutdown: &Shutdown,
    ) -> Result<(), EngineError> {
        self.drive_to_its_end(sign, Assignment::Any(Anything { versions, bells }), shutdown).await.map(drop)
    }

    async fn drive_to_its_end(
        &self,
        mut sign: SignOfLife,
        mut assignment: Assignment,
        shutdown: &Shutdown,
    ) -> Result<Driven, EngineError> {
        let mut former = Vec::new();
        let mut unwritten = Unwritten::default();
        let mut gone_since = None;
        let was_anothers = match &mut assignment {
            Assignment::Run(run) => {
                let was_anothers = run.owner != Some(sign.worker);
                self.take_over(run, &sign, &former).await?;
                was_anothers
            }
            Assignment::Any(_) => true,
        };
        loop {
            if matches!(assignment, Assignment::Any(_))
                && let Err(error) = answered(self.store.takes_any(sign.worker)).await
            {
                tracing::debug!(error = %chain(&error), "who asks why a task waits will not be told of this worker");
            }
            let mut worker = Worker::new(self, sign, assignment.clone(), was_anothers, former.clone(), unwritten);
            let error = match worker.work(shutdown).await {
                Ok(driven) => {
                    worker.end().await;
                    return Ok(driven);
                }
                Err(error) => error,
            };
            let (was, is_idle) = (worker.id(), !worker.has_stepped());
            unwritten = worker.abandon().await;
            drop(worker); // and with it the old sign of life, if it still stands
            let lost = match error {
                EngineError::Store(lost) if lost.is_transient() => lost,
                fatal => return Err(fatal),
            };
            self.observer.database_lost(&chain(&lost));
            former.push(was);
            gone_since = gone_since.filter(|_| is_idle).or_else(|| Some(clock::monotonic()));
            let since = gone_since.unwrap_or_else(clock::monotonic);
            let back = self.come_back(&mut assignment, lost, &former, since);
            sign = tokio::select! {
                back = back => back?,
                () = shutdown.drained() => return Ok(Driven::Stopped), // nothing runs that could be let end
            };
        }
    }

    /// Makes this worker the run's driver, once nobody else lives who is.
    async fn take_over(&self, run: &mut RunningRun, sign: &SignOfLife, former: &[WorkerId]) -> Result<(), EngineError> {
        let begun = clock::monotonic();
        loop {
            match run.owner {
                Some(owner) if owner == sign.worker => return Ok(()),
                Some(owner) if !former.contains(&owner) && answered(self.store.is_alive(owner)).await? => {
                    // A process that was just killed still shows its sign of life until Postgres notices.
                    if begun.elapsed() > KILLED_LINGERS {
                        return Err(self.driven_by(owner).await?);
                    }
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                previous => {
                    if answered(self.store.take_over_run_if(run.key, previous, sign.worker)).await? {
                        run.owner = Some(sign.worker);
                        return Ok(());
                    }
                    // Somebody was quicker: perhaps this process, whose last answer was lost.
                    let now = answered(self.store.run(run.key)).await?.ok_or(EngineError::RunGone)?;
                    run.owner = now.owner;
                }
            }
        }
    }

    /// The error that names who drives the run.
    pub(super) async fn driven_by(&self, owner: WorkerId) -> Result<EngineError, StoreError> {
        let (hostname, pid) = answered(self.store.worker_place(owner)).await?;
        Ok(EngineError::Driven { hostname, pid })
    }

    /// Registers anew and takes its run over from what this process was before.
    async fn come_back(
        &self,
        assignment: &mut Assignment,
        lost: StoreError,
        former: &[WorkerId],
        since: Instant,
    ) -> Result<SignOfLife, EngineError> {
        let mut wait = Duration::from_millis(100);
        let mut last = lost;
        // Who works on all runs has nobody to tell that it gave up.
        while matches!(assignment, Assignment::Any(_)) || since.elapsed() < RECONNECT_LIMIT {
            tokio::time::sleep(wait).await;
            let back = async {
                let sign = register(&self.store).await?;
                if let Assignment::Run(run) = assignment {
                    self.take_over(run, &sign, former).await?;
                }
                Ok(sign)
            };
            match back.await {
                Err(EngineError::Store(error)) if error.is_transient() => last = error,
                done => return done,
            }
            wait = (wait * 2).min(Duration::from_secs(5));
        }
        Err(EngineError::DatabaseGone { after: since.elapsed(), source: last })
    }
}
