//! The scheduler: makes ticks runs, and lets runs begin whose turn it is. It sleeps until the next tick, or until
//! something changed.
//!
//! Several may work on one database: a tick becomes a run in the transaction that notes how far its schedule is, so that
//! it does so once.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use chrono::TimeDelta;
use serde_json::Map;
use tokio::sync::watch;

use crate::clock;
use crate::domain::Timestamp;
use crate::domain::catchup::{self, Due};
use crate::domain::ids::DagId;
use crate::domain::run_state::RunState;
use crate::domain::run_type::RunType;
use crate::domain::schedule::Schedule;
use crate::engine::bells::Bells;
use crate::engine::operator::chain;
use crate::engine::shutdown::Shutdown;
use crate::engine::versions::Versions;
use crate::service::Role;
use crate::service::metrics::Metrics;
use crate::service::registry::{Dags, Registered, Registry};
use crate::store::{Begin, DagState, Fired, NewRun, Store, StoreError, Tick};

/// The slow look, at what nobody told of.
const LOOK: Duration = Duration::from_secs(5);

/// The wait after a database error.
const AGAIN: Duration = Duration::from_secs(1);

/// Why the scheduler does a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Because {
    /// How DAGs stand may have changed, or was not looked at for a while.
    DagsChanged,
    /// A run ended.
    RunEnded,
    /// Something is due.
    Due,
}

/// Makes ticks runs.
pub(super) struct Scheduler {
    store: Store,
    versions: Arc<Versions>,
    bells: Bells,
    /// How late a missed tick may run that nothing catches up with.
    grace: TimeDelta,
    dags: watch::Receiver<Dags>,
    states: BTreeMap<DagId, DagState>,
    /// When each DAG is due next.
    due: BTreeSet<(Timestamp, DagId)>,
    metrics: Arc<Metrics>,
}

impl Scheduler {
    pub(super) fn new(
        store: Store,
        registry: &Registry,
        versions: Arc<Versions>,
        bells: Bells,
        grace: TimeDelta,
        metrics: Arc<Metrics>,
    ) -> Self {
        let dags = registry.watch();
        Self { store, versions, bells, grace, dags, states: BTreeMap::new(), due: BTreeSet::new(), metrics }
    }

    /// Works until the process stops.
    pub(super) async fn work(mut self, shutdown: Shutdown) {
        let mut because = Because::DagsChanged;
        let mut looked_at = clock::monotonic();
        loop {
            if because == Because::DagsChanged {
                looked_at = clock::monotonic();
            }
            let wait = match self.step(because).await {
                Ok(wait) => {
                    self.metrics.works(Role::Scheduler);
                    wait
                }
                Err(error) => {
                    tracing::warn!(error = %chain(&error), "the scheduler could not go on; trying again");
                    AGAIN
                }
            };
            because = tokio::select! {
                () = shutdown.drained() => return,
                () = self.bells.schedule().rung() => Because::DagsChanged,
                () = self.bells.turn().rung() => Because::RunEnded,
                changed = self.dags.changed() => {
                    if changed.is_err() {
                        return; // who knows the DAGs is gone: the process stops
                    }
                    Because::DagsChanged
                }
                () = tokio::time::sleep(wait.min(LOOK)) => Because::Due,
            };
            if looked_at.elapsed() >= LOOK {
                because = Because::DagsChanged;
            }
        }
    }

    /// Fires what is due and lets runs begin; says how long nothing will be due.
    async fn step(&mut self, because: Because) -> Result<Duration, StoreError> {
        match because {
            Because::DagsChanged => self.look().await?,
            Because::RunEnded => self.look_at_continuous(),
            Because::Due => {}
        }
        let mut fired = false;
        loop {
            let now = clock::now();
            let next = self.due.first().cloned();
            let Some((at, id)) = next.filter(|(at, _)| *at <= now) else { break };
            self.due.remove(&(at, id.clone()));
            fired |= self.fire_due(&id, now).await?;
        }
        if fired || because != Because::Due {
            self.begin_runs().await?;
        }
        let next = self.due.first().map(|(at, _)| (*at - clock::now()).to_std().unwrap_or_default());
        Ok(next.unwrap_or(LOOK))
    }

    /// Reads how all DAGs stand.
    async fn look(&mut self) -> Result<(), StoreError> {
        let states = self.store.dag_states().await?;
        let dags = self.dags.borrow_and_update().clone();
        self.due.clear();
        self.states.clear();
        let mut next_ticks = Vec::new();
        for state in states {
            if let Some(registered) = dags.get(&state.dag_id)
                && let Some(next) = next_look(registered, &state)
            {
                if state.next_tick != Some(next) && registered.dag.settings.schedule.is_by_the_clock() {
                    next_ticks.push((state.key, next));
                }
                self.due.insert((next, state.dag_id.clone()));
            }
            self.states.insert(state.dag_id.clone(), state);
        }
        self.store.note_next_ticks(&next_ticks).await
    }

    /// Looks at those DAGs again whose next run is due when none goes on.
    fn look_at_continuous(&mut self) {
        let dags = self.dags.borrow();
        let continuous = self.states.iter().filter_map(|(id, state)| {
            let registered = dags.get(id).filter(|dag| dag.dag.settings.schedule == Schedule::Continuous)?;
            next_look(registered, state).map(|at| (at, id.clone()))
        });
        self.due.extend(continuous);
    }

    /// Makes the ticks of a DAG runs that are due; whether it made one.
    async fn fire_due(&mut self, id: &DagId, now: Timestamp) -> Result<bool, StoreError> {
        let registered = self.dags.borrow().get(id).cloned();
        let (Some(registered), Some(state)) = (registered, self.states.get(id).cloned()) else { return Ok(false) };
        let settings = &registered.dag.settings;
        let due = match (&settings.schedule, state.scheduled_until) {
            (Schedule::Continuous, _) => {
                let is_free = !self.store.has_unfinished_run(state.key).await?;
                Due { ticks: is_free.then_some(now).into_iter().collect(), ..Due::default() }
            }
            (_, None) => Due { ticks: vec![now], ..Due::default() }, // once, and at once
            (_, Some(until)) => catchup::due(settings, until, now, self.grace),
        };
        if due.dropped > 0 {
            self.metrics.ticked("dropped", u64::try_from(due.dropped).unwrap_or_default());
            tracing::info!(dag.id = %id, missed = due.dropped, "ticks were missed that its catchup leaves out");
        }
        let mut until = state.scheduled_until;
        let mut fired = false;
        for tick in &due.ticks {
            match self.fire(&registered, until, *tick, now).await? {
                None => {
                    self.metrics.ticked("exists", 1);
                    tracing::info!(dag.id = %id, tick = %tick, "there is a run of this tick's logical date already");
                }
                Some(Fired::Run(run, cancelled)) => {
                    tracing::info!(dag.id = %id, run.id = %run.run_id, state = %run.state, "scheduled");
                    self.metrics.ticked("run", 1);
                    if run.state == RunState::Running {
                        self.metrics.begun(clock::now() - *tick);
                    }
                    self.bells.work().ring();
                    if !cancelled.is_empty() {
                        self.bells.look().ring();
                    }
                    fired = true;
                }
                Some(Fired::Skipped) => {
                    self.metrics.ticked("skipped", 1);
                    tracing::info!(dag.id = %id, tick = %tick, "skipped: an earlier run is unfinished (overlap: skip)");
                }
                Some(Fired::Elsewhere) => {
                    // Another process was first, or a person paused it: how it stands now is read anew.
                    self.bells.schedule().ring();
                    return Ok(fired);
                }
            }
            until = Some(*tick);
        }
        if due.ticks.is_empty() && settings.schedule.is_by_the_clock() {
            // What was missed and is left out is over.
            let next = settings.next_tick(now);
            self.store.pass_ticks(state.key, until, Some(now), next).await?;
            until = Some(now);
        }
        let state = DagState { scheduled_until: until, ..state };
        let next = if due.more { Some(now) } else { next_look(&registered, &state) };
        if settings.schedule != Schedule::Continuous
            && let Some(next) = next
        {
            self.due.insert((next, id.clone()));
        }
        self.states.insert(id.clone(), state);
        Ok(fired)
    }

    /// Makes a tick a run; nothing where somebody has made the run of its logical date before.
    async fn fire(
        &self,
        registered: &Registered,
        was_until: Option<Timestamp>,
        tick: Timestamp,
        now: Timestamp,
    ) -> Result<Option<Fired>, StoreError> {
        let settings = &registered.dag.settings;
        let interval = settings.data_interval(tick);
        let next = if settings.schedule.is_by_the_clock() { settings.next_tick(tick) } else { None };
        let new = NewRun {
            dag: &registered.dag,
            file: &registered.file,
            source: &registered.source,
            run_id: RunType::Scheduled.run_id(interval.logical_date, 0),
            run_type: RunType::Scheduled,
            rerun: 0,
            logical_date: interval.logical_date,
            data_interval_start: interval.start,
            data_interval_end: interval.end,
            params: settings.params.clone(),
            conf: Map::new(),
            note: None,
            triggered_by: "schedule",
            begin: Begin::InTurn,
        };
        let (dag, version, overlap) = (registered.key, registered.version, settings.overlap);
        let tick = Tick { dag, version, new, was_until, until: tick, next, overlap };
        match self.store.fire(&tick, now).await {
            Err(StoreError::RunExists { .. }) => {
                self.store.pass_ticks(dag, was_until, Some(tick.until), next).await?;
                Ok(None)
            }
            fired => fired.map(Some),
        }
    }

    /// Lets runs begin that waited for their turn.
    async fn begin_runs(&self) -> Result<(), StoreError> {
        for run in self.store.runs_in_turn().await? {
            match self.versions.of_run(&self.store, &run).await? {
                Ok(dag) => {
                    if self.store.begin_run_if_its_turn(&run, &dag, clock::now()).await? {
                        tracing::info!(dag.id = %run.dag_id, run.id = %run.run_id, "begun");
                        if run.run_type == RunType::Scheduled {
                            self.metrics.begun(clock::now() - run.queued_at);
                        }
                        self.bells.work().ring();
                    }
                }
                Err(error) => self.store.give_up_run(run.key, &error.to_string(), clock::now()).await?,
            }
        }
        Ok(())
    }
}

/// When a DAG is to be looked at next: at its next tick, or at once where no clock decides.
fn next_look(registered: &Registered, state: &DagState) -> Option<Timestamp> {
    if state.is_paused || state.retired_at.is_some() {
        return None;
    }
    let settings = &registered.dag.settings;
    match (&settings.schedule, state.scheduled_until) {
        (Schedule::None, _) => None,
        (Schedule::Continuous, _) | (_, None) => Some(Timestamp::UNIX_EPOCH),
        (_, Some(until)) => settings.next_tick(until),
    }
}
