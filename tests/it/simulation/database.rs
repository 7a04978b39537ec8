//! What the store's statements promise, in memory: each function is one transaction, and what it says is what
//! `store/sql` does. `conformance` holds it to the real one.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, TimeDelta};
use pinsched::domain::Timestamp;
use pinsched::domain::control::{self, Action, Reach, RunStates};
use pinsched::domain::dag::Dag;
use pinsched::domain::ids::{RunKey, TaskIndex, TaskRunKey};
use pinsched::domain::plan::{self, Plan, TaskSnapshot};
use pinsched::domain::run_state::RunState;
use pinsched::domain::task_state::{AttemptOutcome, TaskEvent, TaskState};
use pinsched::domain::trigger_rule::UpstreamCounts;
use pinsched::store::{EndedAttempt, LEASE, WorkerId};

/// A rule that is left out, to see that the simulation finds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flaw {
    /// Plans are written whatever the run's version is.
    VersionNotChecked,
    /// A task is moved on from whatever state it is in.
    StateNotChecked,
    /// An end counts whatever its fence is.
    FenceNotChecked,
    /// A claim does not raise the fence.
    FenceNotRaised,
    /// A claim takes what the limits keep back.
    LimitsNotCounted,
    /// The counts of tasks that are only told of an end are not written.
    CountsNotWritten,
    /// What a person does leaves the run's version as it is.
    ControlInSilence,
    /// Nobody takes over what the dead left.
    OrphansLeft,
    /// A worker never finds out what it holds without knowing of it.
    AnswersLostForGood,
    /// A loss is not counted.
    LossesNotCounted,
    /// A step that concludes a run leaves its state as it is.
    RunNotConcluded,
}

impl Flaw {
    pub const ALL: [Self; 11] = [
        Self::VersionNotChecked,
        Self::StateNotChecked,
        Self::FenceNotChecked,
        Self::FenceNotRaised,
        Self::LimitsNotCounted,
        Self::CountsNotWritten,
        Self::ControlInSilence,
        Self::OrphansLeft,
        Self::AnswersLostForGood,
        Self::LossesNotCounted,
        Self::RunNotConcluded,
    ];
}

/// A step of a task, as the history has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Told {
    pub fence: i64,
    pub event: TaskEvent,
    pub from: TaskState,
    pub to: TaskState,
}

/// A row of `attempt`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attempt {
    pub fence: i64,
    pub try_number: i32,
    pub outcome: Option<AttemptOutcome>,
}

/// A row of `task_run`.
#[derive(Debug, Clone)]
pub struct Task {
    pub state: TaskState,
    pub upstream: UpstreamCounts,
    pub try_number: i32,
    pub first_try: i32,
    pub lost: i32,
    pub fence: i64,
    pub worker: Option<WorkerId>,
    pub lease_until: Option<Timestamp>,
    pub ready_at: Option<Timestamp>,
    pub has_started: bool,
    pub history: Vec<Told>,
    pub attempts: Vec<Attempt>,
}

impl Task {
    pub fn snapshot(&self) -> TaskSnapshot {
        let Self { state, upstream, try_number, first_try, lost, .. } = *self;
        TaskSnapshot { state, upstream, try_number, first_try, lost, map_of: None }
    }

    fn is_waiting(&self, now: Timestamp) -> bool {
        matches!(self.state, TaskState::Queued | TaskState::UpForRetry) && self.ready_at.is_some_and(|at| at <= now)
    }

    /// Moves it on; a task that goes anywhere but to running or deferred is in nobody's hands.
    fn set(&mut self, event: TaskEvent, from: TaskState, to: TaskState, ready_at: Option<Timestamp>) {
        self.history.push(Told { fence: self.fence, event, from, to });
        self.state = to;
        self.ready_at = ready_at;
        self.lease_until = None;
        if to != TaskState::Deferred {
            self.worker = None;
        }
    }

    fn end_attempt(&mut self, fence: i64, outcome: AttemptOutcome) {
        for attempt in self.attempts.iter_mut().filter(|attempt| attempt.fence == fence) {
            attempt.outcome = Some(outcome);
        }
    }
}

/// A row of `run` with its tasks, in the DAG's order.
#[derive(Debug, Clone)]
pub struct Run {
    pub dag: Arc<Dag>,
    /// Which it is of its DAG's, by logical date.
    pub place: usize,
    pub version: i64,
    pub state: RunState,
    pub tasks_unfinished: u32,
    pub leaves_failed: u32,
    pub cancel_requested: bool,
    pub clears: i32,
    pub tasks: Vec<Task>,
}

/// A row of `worker`, and whether its advisory lock is held.
#[derive(Debug, Clone, Copy)]
pub struct Worker {
    pub is_locked: bool,
    pub seen_at: Timestamp,
}

/// What a step writes of one run.
pub struct PlannedRun<'a> {
    pub run: RunKey,
    pub version: i64,
    pub plan: &'a Plan,
    pub held: &'a [EndedAttempt],
}

/// A wish for tasks of any run.
#[derive(Clone, Copy)]
pub struct Wish {
    pub worker: WorkerId,
    pub slots: usize,
    /// Whether the statement claims from the queue, or leaves it to the claim that counts limits.
    pub from_queue: bool,
}

/// A claimed row.
#[derive(Debug, Clone, Copy)]
pub struct ClaimedRow {
    pub task_run: TaskRunKey,
    pub fence: i64,
    pub clears: Option<i32>,
    pub task: TaskSnapshot,
}

/// What a step's statement wrote.
pub struct Written {
    pub runs: BTreeSet<RunKey>,
    pub claims: Vec<ClaimedRow>,
    pub contended: bool,
    pub limited: bool,
}

/// The whole of pinsched's state.
pub struct Database {
    /// Postgres's clock.
    pub clock: Timestamp,
    pub runs: BTreeMap<RunKey, Run>,
    pub workers: BTreeMap<WorkerId, Worker>,
    pub pools: BTreeMap<String, u32>,
    pub flaw: Option<Flaw>,
    /// Runs that were written since they were last looked at.
    pub dirty: BTreeSet<RunKey>,
    /// Ends that were written though their fence was not the task's: there must never be one.
    pub written_stale: Vec<(TaskRunKey, i64)>,
}

pub fn instant() -> Timestamp {
    DateTime::from_timestamp(1_772_330_400, 0).expect("an instant in 2026")
}

pub fn delta(duration: Duration) -> TimeDelta {
    TimeDelta::from_std(duration).expect("a short time")
}

impl Database {
    pub fn new(clock: Timestamp, flaw: Option<Flaw>) -> Self {
        let pools = super::drawing::POOLS.iter().map(|(name, slots)| ((*name).to_owned(), *slots)).collect();
        let (runs, workers) = (BTreeMap::new(), BTreeMap::new());
        Self { clock, runs, workers, pools, flaw, dirty: BTreeSet::new(), written_stale: Vec::new() }
    }

    fn has(&self, flaw: Flaw) -> bool {
        self.flaw == Some(flaw)
    }

    pub fn create_run(&mut self, key: RunKey, dag: &Arc<Dag>, now: Timestamp) {
        let tasks = plan::begin(dag).into_iter().map(|(state, upstream)| Task {
            state,
            upstream,
            try_number: 1,
            first_try: 1,
            lost: 0,
            fence: 0,
            worker: None,
            lease_until: None,
            ready_at: (state == TaskState::Queued).then_some(now),
            has_started: false,
            history: (state == TaskState::Queued)
                .then_some(Told { fence: 0, event: TaskEvent::Released, from: TaskState::None, to: state })
                .into_iter()
                .collect(),
            attempts: Vec::new(),
        });
        let tasks: Vec<Task> = tasks.collect();
        let run = Run {
            dag: Arc::clone(dag),
            place: self.runs.values().filter(|run| run.dag.id() == dag.id()).count(),
            version: 0,
            state: RunState::Running,
            tasks_unfinished: u32::try_from(tasks.len()).unwrap(),
            leaves_failed: 0,
            cancel_requested: false,
            clears: 0,
            tasks,
        };
        self.runs.insert(key, run);
        self.dirty.insert(key);
    }

    pub fn task(&self, key: TaskRunKey) -> &Task {
        &self.runs[&key.run].tasks[key.task.as_usize()]
    }

    fn task_mut(&mut self, key: TaskRunKey) -> &mut Task {
        self.dirty.insert(key.run);
        &mut self.runs.get_mut(&key.run).expect("runs stay").tasks[key.task.as_usize()]
    }

    pub fn task_keys(&self) -> impl Iterator<Item = TaskRunKey> + '_ {
        self.runs
            .iter()
            .flat_map(|(run, row)| row.dag.tasks().iter().map(|task| TaskRunKey { run: *run, task: task.index }))
    }

    /// `step.sql`: the plans of runs that are still at their versions, and a claim; `None` where a task is not in the state
    /// that its plan moves it from, and then nothing of it is written.
    pub fn write(
        &mut self,
        planned: &[PlannedRun<'_>],
        taken: &BTreeSet<TaskRunKey>,
        wish: Option<Wish>,
        now: Timestamp,
    ) -> Option<Written> {
        let current = |planned: &&PlannedRun<'_>| {
            self.has(Flaw::VersionNotChecked) || self.runs[&planned.run].version == planned.version
        };
        let current: Vec<&PlannedRun<'_>> = planned.iter().filter(current).collect();
        for planned in &current {
            let moves_from = |step: &plan::Move| self.runs[&planned.run].tasks[step.task.as_usize()].state == step.from;
            if !planned.plan.moves.iter().all(moves_from) && !self.has(Flaw::StateNotChecked) {
                return None;
            }
        }
        // The claim sees the queue as it was before, less what the plans touch.
        let chosen = self.choose(wish, taken.len(), now);
        let limited =
            wish.is_some() && self.task_keys().any(|key| self.is_limited(key) && self.task(key).is_waiting(now));
        let mut claims = Vec::new();
        let mut touched: BTreeSet<TaskRunKey> = BTreeSet::new();
        for planned in &current {
            self.apply(planned, &mut touched);
            let of_run = taken.iter().filter(|key| key.run == planned.run);
            let of_run: Vec<TaskRunKey> = of_run.copied().collect();
            for key in of_run {
                claims.push(self.claim(key, wish.expect("a claim takes").worker, None));
            }
        }
        let ready: Vec<TaskRunKey> = chosen.iter().copied().filter(|key| !touched.contains(key)).collect();
        let contended = chosen.len() > ready.len();
        for key in ready {
            let clears = self.runs[&key.run].clears;
            claims.push(self.claim(key, wish.expect("a claim chooses").worker, Some(clears)));
        }
        Some(Written { runs: current.iter().map(|planned| planned.run).collect(), claims, contended, limited })
    }

    fn apply(&mut self, planned: &PlannedRun<'_>, touched: &mut BTreeSet<TaskRunKey>) {
        for ended in planned.held {
            let key = TaskRunKey { run: planned.run, task: ended.task };
            let task = self.task(key);
            if task.fence != ended.fence || !task.state.is_held() {
                self.written_stale.push((key, ended.fence));
            }
        }
        for (task, counts) in &planned.plan.counts {
            let key = TaskRunKey { run: planned.run, task: *task };
            let is_moved = planned.plan.moves.iter().any(|step| step.task == *task);
            touched.insert(key);
            if is_moved || !self.has(Flaw::CountsNotWritten) {
                self.task_mut(key).upstream = *counts;
            }
        }
        for step in &planned.plan.moves {
            let key = TaskRunKey { run: planned.run, task: step.task };
            touched.insert(key);
            let counts_losses = !self.has(Flaw::LossesNotCounted);
            let task = self.task_mut(key);
            let ended = planned.held.iter().find(|ended| ended.task == step.task);
            if let (Some(ended), Some(outcome)) = (ended, AttemptOutcome::of(step.event)) {
                task.end_attempt(ended.fence, outcome);
            }
            task.set(step.event, step.from, step.to, step.ready_at);
            task.try_number = step.try_number;
            task.lost = if counts_losses { step.lost } else { task.lost };
        }
        let concludes = !self.has(Flaw::RunNotConcluded);
        let run = self.runs.get_mut(&planned.run).expect("runs stay");
        run.version += 1;
        run.tasks_unfinished = run.tasks_unfinished.saturating_sub(planned.plan.finished);
        run.leaves_failed += planned.plan.leaves_failed;
        run.state = planned.plan.concluded.filter(|_| concludes).unwrap_or(RunState::Running);
    }

    fn claim(&mut self, key: TaskRunKey, worker: WorkerId, clears: Option<i32>) -> ClaimedRow {
        let (until, raises) = (self.clock + delta(LEASE), !self.has(Flaw::FenceNotRaised));
        let task = self.task_mut(key);
        task.fence += i64::from(raises || task.fence == 0);
        task.set(TaskEvent::Claimed, task.state, TaskState::Running, None);
        task.worker = Some(worker);
        task.lease_until = Some(until);
        task.has_started = true;
        task.attempts.push(Attempt { fence: task.fence, try_number: task.try_number, outcome: None });
        ClaimedRow { task_run: key, fence: task.fence, clears, task: task.snapshot() }
    }

    pub fn is_limited(&self, key: TaskRunKey) -> bool {
        self.runs[&key.run].dag.is_limited(key.task)
    }

    fn priority(&self, key: TaskRunKey) -> i32 {
        self.runs[&key.run].dag.task(key.task).expect("a task").priority_weight
    }

    /// What is ready, by DAG, in the order in which a DAG's tasks go.
    fn queues(&self, now: Timestamp, is_candidate: impl Fn(TaskRunKey) -> bool) -> Vec<Vec<TaskRunKey>> {
        let mut queues: BTreeMap<String, Vec<TaskRunKey>> = BTreeMap::new();
        for key in self.task_keys() {
            let run = &self.runs[&key.run];
            if self.task(key).is_waiting(now) && !run.cancel_requested && is_candidate(key) {
                queues.entry(run.dag.id().to_string()).or_default().push(key);
            }
        }
        for queue in queues.values_mut() {
            queue.sort_by_key(|key| (-self.priority(*key), self.task(*key).ready_at, *key));
        }
        queues.into_values().collect()
    }

    /// The first `slots` of several DAGs' queues: by priority, a DAG's first before another's second.
    fn fairly(&self, queues: &[Vec<TaskRunKey>], slots: usize) -> Vec<TaskRunKey> {
        let mut all: Vec<_> = queues
            .iter()
            .flat_map(|queue| queue.iter().take(slots).enumerate())
            .map(|(place, key)| (-self.priority(*key), place, self.task(*key).ready_at, *key))
            .collect();
        all.sort_unstable();
        all.into_iter().take(slots).map(|(.., key)| key).collect()
    }

    fn choose(&self, wish: Option<Wish>, taken: usize, now: Timestamp) -> Vec<TaskRunKey> {
        let Some(wish) = wish.filter(|wish| wish.from_queue) else { return Vec::new() };
        let queues = self.queues(now, |key| !self.is_limited(key));
        self.fairly(&queues, wish.slots.saturating_sub(taken))
    }

    /// `claim_limited.sql`, round after round, under the lock of such claims.
    pub fn claim_limited(&mut self, worker: WorkerId, mut slots: usize, now: Timestamp) -> (Vec<ClaimedRow>, bool) {
        let mut claims = Vec::new();
        while slots > 0 {
            let chosen = self.choose_limited(slots, now);
            if chosen.is_empty() {
                return (claims, true);
            }
            slots -= chosen.len();
            for key in chosen {
                let clears = self.runs[&key.run].clears;
                claims.push(self.claim(key, worker, Some(clears)));
            }
        }
        (claims, false)
    }

    fn choose_limited(&self, slots: usize, now: Timestamp) -> Vec<TaskRunKey> {
        let ignores = self.has(Flaw::LimitsNotCounted);
        let is_free = |free: Option<i64>, wanted: i64| ignores || free.is_none_or(|free| free >= wanted);
        let queues = self.queues(now, |key| {
            let task = self.runs[&key.run].dag.task(key.task).expect("a task");
            is_free(self.pool_free(key), i64::from(task.pool_slots))
                && is_free(self.task_free(key), 1)
                && is_free(self.dag_free(key), 1)
                && self.past_allows(key)
        });
        let mut within: Vec<Vec<TaskRunKey>> = Vec::new();
        let mut places: BTreeMap<TaskRunKey, usize> = BTreeMap::new();
        for queue in queues {
            let (mut of_task, mut of_dag) = (BTreeMap::<String, i64>::new(), 0);
            let mut kept = Vec::new();
            for (place, key) in queue.into_iter().take(slots).enumerate() {
                places.insert(key, place);
                let id = self.runs[&key.run].dag.task(key.task).expect("a task").id.to_string();
                let same = of_task.entry(id).or_default();
                *same += 1;
                if !is_free(self.task_free(key), *same) {
                    continue;
                }
                of_dag += 1;
                if is_free(self.dag_free(key), of_dag) {
                    kept.push(key);
                }
            }
            within.push(kept);
        }
        let mut all: Vec<_> = within
            .into_iter()
            .flatten()
            .map(|key| (-self.priority(key), places[&key], self.task(key).ready_at, key))
            .collect();
        all.sort_unstable();
        let mut of_pool = BTreeMap::<String, i64>::new();
        let fits = |key: &TaskRunKey| {
            let task = self.runs[&key.run].dag.task(key.task).expect("a task");
            let Some(pool) = &task.pool else { return true };
            let sum = of_pool.entry(pool.clone()).or_default();
            *sum += i64::from(task.pool_slots);
            is_free(self.pool_free(*key), *sum)
        };
        all.into_iter().map(|(.., key)| key).filter(fits).take(slots).collect()
    }

    fn running<'a>(
        &'a self,
        is_so: impl Fn(&pinsched::domain::dag::Task, &Run) -> bool + 'a,
    ) -> impl Iterator<Item = i64> + 'a {
        self.task_keys().filter(|key| self.task(*key).state == TaskState::Running).filter_map(move |key| {
            let run = &self.runs[&key.run];
            let task = run.dag.task(key.task).expect("a task");
            is_so(task, run).then_some(i64::from(task.pool_slots))
        })
    }

    fn pool_free(&self, key: TaskRunKey) -> Option<i64> {
        let pool = self.runs[&key.run].dag.task(key.task)?.pool.clone()?;
        let slots = i64::from(self.pools[&pool]);
        Some(slots - self.running(|task, _| task.pool.as_deref() == Some(&pool)).sum::<i64>())
    }

    fn task_free(&self, key: TaskRunKey) -> Option<i64> {
        let this = &self.runs[&key.run].dag;
        let limit = i64::from(this.task(key.task)?.max_active_tis_per_dag?);
        let running = self.running(|task, run| run.dag.id() == this.id() && task.index == key.task).count();
        Some(limit - i64::try_from(running).unwrap())
    }

    fn dag_free(&self, key: TaskRunKey) -> Option<i64> {
        let this = &self.runs[&key.run].dag;
        let limit = i64::from(this.settings.max_active_tasks?);
        Some(limit - i64::try_from(self.running(|_, run| run.dag.id() == this.id()).count()).unwrap())
    }

    /// What of the run before keeps that task back; empty where nothing does.
    pub fn kept_back_by(&self, key: TaskRunKey) -> Vec<TaskRunKey> {
        let this = &self.runs[&key.run];
        let task = this.dag.task(key.task).expect("a task");
        let before = this.place.checked_sub(1).filter(|_| task.depends_on_past);
        let Some(before) = before else { return Vec::new() };
        let is_before = |(_, run): &(&RunKey, &Run)| run.dag.id() == this.dag.id() && run.place == before;
        let (run, _) = self.runs.iter().find(is_before).expect("the run before");
        let after = this.dag.downstream(key.task).into_iter().filter(|_| task.wait_for_downstream);
        let waited = std::iter::once(key.task).chain(after).map(|task| TaskRunKey { run: *run, task });
        waited.filter(|key| !matches!(self.task(*key).state, TaskState::Success | TaskState::Skipped)).collect()
    }

    fn past_allows(&self, key: TaskRunKey) -> bool {
        self.kept_back_by(key).is_empty()
    }

    /// Renews the leases of a worker, and says what it holds.
    pub fn renew(&mut self, worker: WorkerId) -> Vec<(TaskRunKey, i64)> {
        let (now, until) = (self.clock, self.clock + delta(LEASE));
        self.workers.get_mut(&worker).expect("it registered").seen_at = now;
        let held: Vec<TaskRunKey> = self.task_keys().filter(|key| self.task(*key).worker == Some(worker)).collect();
        for key in &held {
            let task = self.task_mut(*key);
            task.lease_until = task.lease_until.map(|_| until);
        }
        held.into_iter().map(|key| (key, self.task(key).fence)).collect()
    }

    /// The held tasks whose worker is one of these, has no lock, or let its lease end; and whether that was it.
    pub fn orphans(&self, former: &[WorkerId]) -> Vec<(TaskRunKey, i64, WorkerId, bool)> {
        let held = self.task_keys().filter_map(|key| Some((key, self.task(key), self.task(key).worker?)));
        let orphans = held.filter_map(|(key, task, worker)| {
            let row = self.workers[&worker];
            let expired = match task.lease_until {
                Some(until) => until < self.clock,
                None => row.seen_at < self.clock - delta(LEASE),
            };
            (former.contains(&worker) || expired || !row.is_locked).then_some((key, task.fence, worker, expired))
        });
        orphans.collect()
    }

    pub fn request_cancel(&mut self, key: RunKey) {
        let run = self.runs.get_mut(&key).expect("runs stay");
        if !run.state.is_final() {
            run.cancel_requested = true;
            run.version += 1;
        }
    }

    /// `control.sql`.
    pub fn change_tasks(&mut self, key: RunKey, action: Action, named: &[TaskIndex], reach: Reach, now: Timestamp) {
        let run = &self.runs[&key];
        let (dag, was_final) = (Arc::clone(&run.dag), run.state.is_final());
        let states: Vec<TaskState> = run.tasks.iter().map(|task| task.state).collect();
        let standing = RunStates { states: &states, instances: &[] };
        let mut selected = control::select(&dag, standing, named, reach);
        if action == Action::Clear {
            selected = control::with_setups(&dag, selected);
        }
        // What a script skips is not kept in its output, as a branch's choice is.
        let kept_back = BTreeMap::new();
        let outcome = control::apply(&dag, standing, &selected, action, &kept_back)
            .expect("a person's word counts in every state");
        if outcome.steps.is_empty() {
            return;
        }
        for step in &outcome.steps {
            let task = self.task_mut(TaskRunKey { run: key, task: step.task });
            let open =
                task.attempts.iter_mut().filter(|attempt| attempt.fence == task.fence && attempt.outcome.is_none());
            open.for_each(|attempt| attempt.outcome = Some(AttemptOutcome::Cancelled));
            let mut from = step.from;
            for event in step.events.iter().flatten() {
                let to = from.next(*event).expect("the outcome is of legal steps");
                task.set(*event, from, to, (to == TaskState::Queued).then_some(now));
                from = to;
            }
            if step.events[0] == Some(TaskEvent::Cleared) {
                task.try_number += i32::from(task.has_started);
                task.first_try = if task.has_started { task.try_number } else { task.first_try };
                task.lost = 0;
                task.has_started = false;
            }
        }
        for (task, counts) in dag.tasks().iter().zip(&outcome.counts) {
            self.task_mut(TaskRunKey { run: key, task: task.index }).upstream = *counts;
        }
        let is_silent = self.has(Flaw::ControlInSilence);
        let run = self.runs.get_mut(&key).expect("runs stay");
        run.tasks_unfinished = outcome.tasks_unfinished;
        run.leaves_failed = outcome.leaves_failed;
        run.version += i64::from(!is_silent);
        run.clears += i32::from(action == Action::Clear);
        run.cancel_requested &= !was_final;
        run.state = match outcome.run {
            RunState::Success if run.cancel_requested => RunState::Failed, // it was to be cancelled, and is over
            state => state,
        };
    }
}
