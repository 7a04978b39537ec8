//! What the store's statements promise, in memory: each function is one transaction, and what it says is what
//! `store/sql` does. `conformance` holds it to the real one.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, TimeDelta};
use pinsched::domain::Timestamp;
use pinsched::domain::control::{self, Action, InstanceState, Reach, RunStates};
use pinsched::domain::dag::{Dag, Task as DagTask};
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
    /// The instances of a mapped task are not among a run's unfinished tasks.
    InstancesNotCounted,
    /// A mapped task that is cleared keeps the instances that it had.
    InstancesStay,
    /// A worker that found the queue empty does not look again for what others let into it.
    QueueForgotten,
}

impl Flaw {
    pub const ALL: [Self; 14] = [
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
        Self::InstancesNotCounted,
        Self::InstancesStay,
        Self::QueueForgotten,
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
    /// Of an instance: the mapped task, and which it is.
    pub instance_of: Option<(TaskIndex, u32)>,
}

impl Task {
    /// One that is stored for the first time.
    fn new(state: TaskState, upstream: UpstreamCounts, now: Timestamp) -> Self {
        let released = Told { fence: 0, event: TaskEvent::Released, from: TaskState::None, to: state };
        Self {
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
            history: (state == TaskState::Queued).then_some(released).into_iter().collect(),
            attempts: Vec::new(),
            instance_of: None,
        }
    }

    pub fn snapshot(&self) -> TaskSnapshot {
        let Self { state, upstream, try_number, first_try, lost, instance_of, .. } = *self;
        TaskSnapshot { state, upstream, try_number, first_try, lost, map_of: instance_of.map(|(task, _)| task) }
    }

    pub fn is_waiting(&self, now: Timestamp) -> bool {
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

/// A row of `run` with its tasks, in the DAG's order, and then the instances of mapped ones.
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
    pub tasks: BTreeMap<TaskIndex, Task>,
    /// Instances that were cleared away: of them attempts and history stay.
    pub removed: BTreeMap<TaskIndex, Task>,
    /// Indexes below it are never given again.
    pub indexes_used: u32,
}

impl Run {
    /// The task of the DAG that a task run is one of: of an instance the mapped task.
    pub fn described(&self, index: TaskIndex) -> &DagTask {
        let own = self.tasks.get(&index).or_else(|| self.removed.get(&index)).and_then(|task| task.instance_of);
        self.dag.task(own.map_or(index, |(task, _)| task)).expect("a task")
    }

    /// The instances of mapped tasks, as `domain::control` sees them.
    pub fn instances(&self) -> Vec<InstanceState> {
        let instance = |(task, row): (&TaskIndex, &Task)| {
            let (map_of, _) = row.instance_of?;
            Some(InstanceState { task: *task, map_of, state: row.state })
        };
        self.tasks.iter().filter_map(instance).collect()
    }

    /// The states of the DAG's own tasks.
    pub fn states(&self) -> Vec<TaskState> {
        self.tasks.values().filter(|task| task.instance_of.is_none()).map(|task| task.state).collect()
    }
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
    /// What becomes of the queue in the same statement.
    pub queue: Queue,
}

/// How a statement is with the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Queue {
    /// It claims from it.
    Claimed,
    /// It leaves it to the claim that counts limits.
    Left,
    /// It does not look at it.
    Unlooked,
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
    /// Of each mapped task that was expanded the index of its first instance.
    pub instances: BTreeMap<(RunKey, TaskIndex), TaskIndex>,
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

    pub fn has(&self, flaw: Flaw) -> bool {
        self.flaw == Some(flaw)
    }

    pub fn create_run(&mut self, key: RunKey, dag: &Arc<Dag>, now: Timestamp) {
        let begun = plan::begin(dag).into_iter().zip(dag.tasks());
        let tasks: BTreeMap<TaskIndex, Task> =
            begun.map(|((state, upstream), task)| (task.index, Task::new(state, upstream, now))).collect();
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
            removed: BTreeMap::new(),
            indexes_used: 0,
        };
        self.runs.insert(key, run);
        self.dirty.insert(key);
    }

    pub fn task(&self, key: TaskRunKey) -> &Task {
        &self.runs[&key.run].tasks[&key.task]
    }

    /// The same, where it is still there.
    pub fn find(&self, key: TaskRunKey) -> Option<&Task> {
        self.runs[&key.run].tasks.get(&key.task)
    }

    pub fn described(&self, key: TaskRunKey) -> &DagTask {
        self.runs[&key.run].described(key.task)
    }

    fn task_mut(&mut self, key: TaskRunKey) -> &mut Task {
        self.dirty.insert(key.run);
        let run = self.runs.get_mut(&key.run).expect("runs stay");
        run.tasks.get_mut(&key.task).expect("it is there")
    }

    pub fn task_keys(&self) -> impl Iterator<Item = TaskRunKey> + '_ {
        self.runs.iter().flat_map(|(run, row)| row.tasks.keys().map(|task| TaskRunKey { run: *run, task: *task }))
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
            let tasks = &self.runs[&planned.run].tasks;
            let moves_from = |step: &plan::Move| tasks.get(&step.task).is_some_and(|task| task.state == step.from);
            if !planned.plan.moves.iter().all(moves_from) && !self.has(Flaw::StateNotChecked) {
                return None;
            }
        }
        // The claim sees the queue as it was before, less what the plans touch.
        let chosen = self.choose(wish, taken.len(), now);
        let limited = wish.is_some_and(|wish| wish.queue != Queue::Unlooked)
            && self.task_keys().any(|key| self.is_limited(key) && self.task(key).is_waiting(now));
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
        let mut instances = BTreeMap::new();
        for planned in &current {
            for (map_of, expansion) in &planned.plan.expansions {
                let first = self.expand(planned.run, *map_of, expansion.count(), now);
                instances.insert((planned.run, *map_of), first);
            }
        }
        let runs = current.iter().map(|planned| planned.run).collect();
        Some(Written { runs, claims, instances, contended, limited })
    }

    /// `insert_instances.sql`: in the transaction of the step, after its statement.
    fn expand(&mut self, key: RunKey, map_of: TaskIndex, count: u32, now: Timestamp) -> TaskIndex {
        let counts_them = !self.has(Flaw::InstancesNotCounted);
        let run = self.runs.get_mut(&key).expect("runs stay");
        let first = run.indexes_used.max(u32::try_from(run.dag.tasks().len()).unwrap());
        run.indexes_used = first + count;
        run.tasks_unfinished += if counts_them { count } else { 0 };
        for map_index in 0..count {
            let instance_of = Some((map_of, map_index));
            let task = Task { instance_of, ..Task::new(TaskState::Queued, UpstreamCounts::default(), now) };
            run.tasks.insert(TaskIndex(first + map_index), task);
        }
        TaskIndex(first)
    }

    fn apply(&mut self, planned: &PlannedRun<'_>, touched: &mut BTreeSet<TaskRunKey>) {
        for ended in planned.held {
            let key = TaskRunKey { run: planned.run, task: ended.task };
            let Some(task) = self.find(key) else {
                self.written_stale.push((key, ended.fence));
                continue;
            };
            if task.fence != ended.fence || !task.state.is_held() {
                self.written_stale.push((key, ended.fence));
            }
        }
        for (task, counts) in &planned.plan.counts {
            let key = TaskRunKey { run: planned.run, task: *task };
            let is_moved = planned.plan.moves.iter().any(|step| step.task == *task);
            touched.insert(key);
            if self.find(key).is_some() && (is_moved || !self.has(Flaw::CountsNotWritten)) {
                self.task_mut(key).upstream = *counts;
            }
        }
        for step in &planned.plan.moves {
            let key = TaskRunKey { run: planned.run, task: step.task };
            touched.insert(key);
            let counts_losses = !self.has(Flaw::LossesNotCounted);
            if self.find(key).is_none() {
                continue; // only where versions are not looked at
            }
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

    pub fn claim(&mut self, key: TaskRunKey, worker: WorkerId, clears: Option<i32>) -> ClaimedRow {
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
        let (states, instances) = (run.states(), run.instances());
        let standing = RunStates { states: &states, instances: &instances };
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
        let removes = !self.has(Flaw::InstancesStay);
        for index in outcome.removed.iter().filter(|_| removes) {
            let run = self.runs.get_mut(&key).expect("runs stay");
            let mut task = run.tasks.remove(index).expect("what is removed was there");
            let open = task.attempts.iter_mut().filter(|attempt| attempt.outcome.is_none());
            open.for_each(|attempt| attempt.outcome = Some(AttemptOutcome::Cancelled));
            task.set(TaskEvent::Cleared, task.state, TaskState::None, None);
            run.removed.insert(*index, task);
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
