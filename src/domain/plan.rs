//! What follows from what happened: the ends of attempts, or a cancel request, become decisions; the store applies them.
//!
//! Planning looks at the neighbourhood only: a completion costs its out-degree, not the size of the DAG. Where a skip
//! or a failure runs on through the graph, [`plan`] asks for the tasks that it has not been shown yet.

use std::collections::btree_map::{BTreeMap, Entry};
use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use crate::domain::Timestamp;
use crate::domain::dag::{Dag, Task};
use crate::domain::ids::TaskIndex;
use crate::domain::mapping::Expansion;
use crate::domain::run_state::RunState;
use crate::domain::task_state::{IllegalTransition, TaskEvent, TaskState};
use crate::domain::trigger_rule::{Role, UpstreamCounts, Verdict};

/// How often a worker may die under one task before the task is failed: so that a task that kills its worker ends.
pub const LOST_LIMIT: i32 = 5;

/// A task run as it was seen at the run's version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TaskSnapshot {
    /// Where it stands.
    pub state: TaskState,
    /// How its upstreams stand; of a mapped task that was expanded, how its instances stand.
    pub upstream: UpstreamCounts,
    /// Its current try, from 1.
    pub try_number: i32,
    /// The first of its tries that count against its retries: a clear begins anew.
    pub first_try: i32,
    /// How many workers died under it.
    pub lost: i32,
    /// The mapped task whose instance it is.
    pub map_of: Option<TaskIndex>,
}

/// A run as it was seen at one version of it: the run's own row, and the tasks of the neighbourhood, at least.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// Whether somebody asked for its cancellation.
    pub cancel_requested: bool,
    /// Tasks that are not final.
    pub tasks_unfinished: u32,
    /// Tasks that decide the run's state ([`Dag::decides`]) and ended in a failure.
    pub leaves_failed: u32,
    /// The tasks that were looked up.
    pub tasks: BTreeMap<TaskIndex, TaskSnapshot>,
}

/// How an attempt ended.
#[derive(Debug, Clone, PartialEq)]
pub enum Ending {
    /// With an output.
    Succeeded,
    /// With an output, and a word on what after it is not to run.
    Chose(Skips),
    /// With the instances of a mapped task, one at least: the attempt was its expansion.
    Expanded(Arc<Expansion>),
    /// With nothing to do: the task counts as skipped.
    Skipped,
    /// With an error.
    Failed {
        /// Whether another try may help.
        retryable: bool,
        /// Drawn from `[0, 1)` for the wait before the next try.
        jitter: f64,
    },
    /// Stopped because the run was cancelled.
    Cancelled,
    /// Handed back by a worker that stops.
    Interrupted,
    /// Its worker died.
    Lost,
    /// It goes on, waiting for something outside, and takes no slot any more.
    Deferred,
}

/// What a task that succeeded keeps from running. Teardowns run all the same, unless a branch leaves them out.
///
/// As in Airflow this is done at once, whatever the trigger rules of the skipped tasks say. It is done only to tasks that wait
/// or are queued: one that another upstream let start before goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Skips {
    /// Of the tasks right after it all but these, and but those that come after one of these as well.
    AllBut(Vec<TaskIndex>),
    /// The tasks right after it; what comes later goes by its trigger rules.
    Next,
    /// Everything that comes after it.
    Downstream,
}

/// One step of one task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Move {
    /// The task.
    pub task: TaskIndex,
    /// What happened to it.
    pub event: TaskEvent,
    /// The state that it must still be in.
    pub from: TaskState,
    /// The state after.
    pub to: TaskState,
    /// Not to be claimed before this instant; set exactly when `to` is queued or `up_for_retry`.
    pub ready_at: Option<Timestamp>,
    /// The try after.
    pub try_number: i32,
    /// The losses after.
    pub lost: i32,
}

/// What is to be written, in order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    /// The steps; a task has at most one.
    pub moves: Vec<Move>,
    /// The upstream counts of tasks whose upstreams ended, as they are after.
    pub counts: BTreeMap<TaskIndex, UpstreamCounts>,
    /// Mapped tasks with the instances that they are to have, ready at once.
    pub expansions: Vec<(TaskIndex, Arc<Expansion>)>,
    /// How many tasks became final.
    pub finished: u32,
    /// How many of them decide the run's state and ended in a failure.
    pub leaves_failed: u32,
    /// The run's end, when this was its last task.
    pub concluded: Option<RunState>,
}

impl Plan {
    /// How many task runs come to be by it: the instances of mapped tasks.
    #[must_use]
    pub fn added(&self) -> u32 {
        self.expansions.iter().map(|(_, expansion)| expansion.count()).sum()
    }
}

/// Why there is no plan.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// The consequences reach these tasks: look them up and plan again.
    #[error("{} more tasks are needed", .0.len())]
    Needs(BTreeSet<TaskIndex>),
    /// The snapshot contradicts what is said to have happened.
    #[error(transparent)]
    Illegal(#[from] IllegalTransition),
    /// The run has a task that its DAG does not have.
    #[error("the DAG has no task {}", .0.0)]
    UnknownTask(TaskIndex),
}

/// The first states of a new run's tasks: what is ready at once, and what waits for how many.
#[must_use]
pub fn begin(dag: &Dag) -> Vec<(TaskState, UpstreamCounts)> {
    dag.tasks()
        .iter()
        .map(|task| {
            let counts = initial_counts(dag, task);
            let ready = task.trigger_rule.verdict(counts) == Verdict::Run;
            (if ready { TaskState::Queued } else { TaskState::None }, counts)
        })
        .collect()
}

/// How a task's upstreams stand before any of them is over.
pub(in crate::domain) fn initial_counts(dag: &Dag, task: &Task) -> UpstreamCounts {
    UpstreamCounts {
        unfinished: u32::try_from(dag.upstream(task.index).len()).unwrap_or(u32::MAX),
        setups: dag.setups_upstream(task.index),
        ..UpstreamCounts::default()
    }
}

/// Plans what follows from attempts that ended, and, where the run's cancellation was asked for, ends everything in the
/// snapshot that is not running: what runs is told to stop by its worker.
///
/// # Errors
/// [`PlanError::Needs`] when the snapshot is too small; [`PlanError::Illegal`] when it contradicts `ended`.
pub fn plan(dag: &Dag, snapshot: &Snapshot, ended: &[(TaskIndex, Ending)], now: Timestamp) -> Result<Plan, PlanError> {
    let mut planner = Planner::new(dag, snapshot, now);
    for (index, ending) in ended {
        planner.end_attempt(*index, ending)?;
    }
    if snapshot.cancel_requested {
        planner.cancel_idle()?;
    } else {
        // Before anybody is told of an end: a task that one upstream would release and another skips is skipped.
        for (index, ending) in ended {
            if let Ending::Chose(skips) = ending {
                planner.skip(*index, skips)?;
            }
        }
    }
    planner.follow()
}

struct Planner<'a> {
    dag: &'a Dag,
    snapshot: &'a Snapshot,
    now: Timestamp,
    /// The tasks that changed; the others are in the snapshot.
    changed: BTreeMap<TaskIndex, TaskSnapshot>,
    needs: BTreeSet<TaskIndex>,
    ended: VecDeque<Ended>,
    plan: Plan,
}

/// A task that became final, before others are told.
struct Ended {
    task: TaskIndex,
    state: TaskState,
    /// How its instances stand, where they ended it.
    instances: Option<UpstreamCounts>,
}

impl<'a> Planner<'a> {
    fn new(dag: &'a Dag, snapshot: &'a Snapshot, now: Timestamp) -> Self {
        Self {
            dag,
            snapshot,
            now,
            changed: BTreeMap::new(),
            needs: BTreeSet::new(),
            ended: VecDeque::new(),
            plan: Plan::default(),
        }
    }

    fn task(&self, index: TaskIndex) -> Option<TaskSnapshot> {
        self.changed.get(&index).or_else(|| self.snapshot.tasks.get(&index)).copied()
    }

    fn task_mut(&mut self, index: TaskIndex) -> Option<&mut TaskSnapshot> {
        match self.changed.entry(index) {
            Entry::Occupied(changed) => Some(changed.into_mut()),
            Entry::Vacant(vacant) => Some(vacant.insert(*self.snapshot.tasks.get(&index)?)),
        }
    }

    fn end_attempt(&mut self, index: TaskIndex, ending: &Ending) -> Result<(), PlanError> {
        let Some(task) = self.task(index) else {
            self.needs.insert(index);
            return Ok(());
        };
        let policy = &self.described(index, task)?.retry;
        match *ending {
            Ending::Expanded(_) if self.snapshot.cancel_requested => self.step(index, TaskEvent::Cancelled, None),
            Ending::Expanded(ref expansion) => {
                self.step(index, TaskEvent::Expanded, None)?;
                self.expand(index, expansion);
                Ok(())
            }
            Ending::Succeeded | Ending::Chose(_) => self.step(index, TaskEvent::Succeeded, None),
            Ending::Skipped => self.step(index, TaskEvent::SkippedItself, None),
            Ending::Cancelled => self.step(index, TaskEvent::Cancelled, None),
            Ending::Failed { .. } | Ending::Interrupted | Ending::Lost if self.snapshot.cancel_requested => {
                self.step(index, TaskEvent::Cancelled, None)
            }
            Ending::Failed { retryable, jitter } if retryable && policy.allows_another(tries_of(task)) => {
                let wait = policy.wait_after(tries_of(task), jitter);
                self.step(index, TaskEvent::FailedForNow, Some(later(self.now, wait)))
            }
            Ending::Failed { .. } => self.step(index, TaskEvent::FailedForGood, None),
            Ending::Interrupted => self.step(index, TaskEvent::Interrupted, Some(self.now)),
            Ending::Lost if task.state == TaskState::Running && task.lost + 1 >= LOST_LIMIT => {
                self.step(index, TaskEvent::LostForGood, None)
            }
            Ending::Lost => self.step(index, TaskEvent::Lost, Some(self.now)),
            // It was written before, by a step whose answer was lost.
            Ending::Deferred if task.state == TaskState::Deferred => Ok(()),
            Ending::Deferred => self.step(index, TaskEvent::Deferred, None),
        }
    }

    /// The task of the DAG that a task run is one of: of an instance the mapped task.
    fn described(&self, index: TaskIndex, task: TaskSnapshot) -> Result<&'a Task, PlanError> {
        let index = task.map_of.unwrap_or(index);
        self.dag.task(index).ok_or(PlanError::UnknownTask(index))
    }

    /// Gives a mapped task its instances: they are what it waits for from now on.
    fn expand(&mut self, index: TaskIndex, expansion: &Arc<Expansion>) {
        if let Some(task) = self.task_mut(index) {
            task.upstream = UpstreamCounts { unfinished: expansion.count(), ..UpstreamCounts::default() };
            let counts = task.upstream;
            self.plan.counts.insert(index, counts);
            self.plan.expansions.push((index, Arc::clone(expansion)));
        }
    }

    /// Skips what a task that succeeded keeps from running. What this plan has moved already was started.
    fn skip(&mut self, index: TaskIndex, skips: &Skips) -> Result<(), PlanError> {
        for index in skipped_by(self.dag, index, skips) {
            match self.task(index) {
                None => {
                    self.needs.insert(index);
                }
                Some(TaskSnapshot { state: TaskState::None | TaskState::Queued, .. })
                    if !self.plan.moves.iter().any(|step| step.task == index) =>
                {
                    self.step(index, TaskEvent::Skipped, None)?;
                }
                Some(_) => {}
            }
        }
        Ok(())
    }

    fn cancel_idle(&mut self) -> Result<(), PlanError> {
        let is_idle = |task: TaskSnapshot| !task.state.is_final() && !task.state.is_held();
        let seen = self.snapshot.tasks.keys().copied();
        let idle: Vec<TaskIndex> = seen.filter(|&index| self.task(index).is_some_and(is_idle)).collect();
        idle.into_iter().try_for_each(|index| self.step(index, TaskEvent::Cancelled, None))
    }

    /// Moves one task on and notes what its end means to others.
    fn step(&mut self, index: TaskIndex, event: TaskEvent, ready_at: Option<Timestamp>) -> Result<(), PlanError> {
        let Some(task) = self.task_mut(index) else {
            self.needs.insert(index);
            return Ok(());
        };
        let from = task.state;
        let to = from.next(event)?;
        task.state = to;
        match event {
            TaskEvent::FailedForNow => task.try_number += 1,
            // One that only waits is not what its worker died of.
            TaskEvent::Lost | TaskEvent::LostForGood => task.lost += i32::from(from == TaskState::Running),
            TaskEvent::Released
            | TaskEvent::Claimed
            | TaskEvent::Deferred
            | TaskEvent::Expanded
            | TaskEvent::Succeeded
            | TaskEvent::FailedForGood
            | TaskEvent::Interrupted
            | TaskEvent::Skipped
            | TaskEvent::SkippedItself
            | TaskEvent::UpstreamFailed
            | TaskEvent::Cancelled
            | TaskEvent::Cleared
            | TaskEvent::MarkedSuccess
            | TaskEvent::MarkedFailed
            | TaskEvent::Reopened => {}
        }
        let (try_number, lost) = (task.try_number, task.lost);
        let instances = (from == TaskState::Mapped && event != TaskEvent::Cancelled).then_some(task.upstream);
        self.plan.moves.push(Move { task: index, event, from, to, ready_at, try_number, lost });
        if to.is_final() {
            self.plan.finished += 1;
            self.plan.leaves_failed += u32::from(to.is_failure() && self.dag.decides(index));
            self.ended.push_back(Ended { task: index, state: to, instances });
        }
        Ok(())
    }

    /// Tells each ended task's downstreams, and theirs where they end by that.
    fn follow(mut self) -> Result<Plan, PlanError> {
        while let Some(ended) = self.ended.pop_front() {
            let task = self.task(ended.task).ok_or(PlanError::UnknownTask(ended.task))?;
            if let Some(parent) = task.map_of {
                self.tell_mapped(parent, ended.state)?;
                self.tell_who_waits_for_one(parent, ended.state)?;
                continue;
            }
            let role = self.described(ended.task, task)?.role();
            for downstream in self.dag.downstream(ended.task) {
                self.tell(downstream, &ended, role)?;
            }
        }
        if !self.needs.is_empty() {
            return Err(PlanError::Needs(self.needs));
        }
        let unfinished = self.snapshot.tasks_unfinished + self.plan.added();
        if self.plan.finished > 0 && self.plan.finished >= unfinished {
            let failed = self.snapshot.cancel_requested || self.snapshot.leaves_failed + self.plan.leaves_failed > 0;
            self.plan.concluded = Some(if failed { RunState::Failed } else { RunState::Success });
        }
        Ok(self.plan)
    }

    /// Tells a mapped task that an instance of it ended: it ends with the last one.
    fn tell_mapped(&mut self, parent: TaskIndex, state: TaskState) -> Result<(), PlanError> {
        let Some(task) = self.task_mut(parent) else {
            self.needs.insert(parent);
            return Ok(());
        };
        task.upstream.count(state, Role::Work);
        let (stands, counts) = (task.state, task.upstream);
        self.plan.counts.insert(parent, counts);
        match end_of_mapped(counts) {
            Some(event) if stands == TaskState::Mapped => self.step(parent, event, None),
            _ => Ok(()),
        }
    }

    /// Releases what one ended instance is enough for. It is counted with its task, once that is over.
    fn tell_who_waits_for_one(&mut self, parent: TaskIndex, state: TaskState) -> Result<(), PlanError> {
        if self.snapshot.cancel_requested {
            return Ok(());
        }
        for downstream in self.dag.downstream(parent) {
            let described = self.dag.task(downstream).ok_or(PlanError::UnknownTask(downstream))?;
            if !described.trigger_rule.waits_for_one() {
                continue;
            }
            let Some(task) = self.task(downstream) else {
                self.needs.insert(downstream);
                continue;
            };
            let mut instance = UpstreamCounts::default();
            instance.count(state, Role::Work);
            let verdict = described.trigger_rule.verdict(task.upstream.with_ended_of(instance));
            if task.state == TaskState::None && verdict == Verdict::Run {
                self.step(downstream, TaskEvent::Released, Some(self.now))?;
            }
        }
        Ok(())
    }

    fn tell(&mut self, downstream: TaskIndex, ended: &Ended, role: Role) -> Result<(), PlanError> {
        let described = self.dag.task(downstream).ok_or(PlanError::UnknownTask(downstream))?;
        let Some(task) = self.task_mut(downstream) else {
            self.needs.insert(downstream);
            return Ok(());
        };
        if described.mapping.is_some() && (task.state == TaskState::Mapped || task.state.is_final()) {
            return Ok(()); // it did not wait for this one, and what it counts now are its instances
        }
        match ended.instances {
            Some(instances) => task.upstream.count_instances(instances, role),
            None => task.upstream.count(ended.state, role),
        }
        let (stands, counts) = (task.state, task.upstream);
        self.plan.counts.insert(downstream, counts);
        if stands != TaskState::None {
            return Ok(()); // it did not wait for this one, or was cancelled
        }
        match described.trigger_rule.verdict(counts) {
            Verdict::Wait => Ok(()),
            Verdict::Run if self.snapshot.cancel_requested => self.step(downstream, TaskEvent::Cancelled, None),
            Verdict::Run => self.step(downstream, TaskEvent::Released, Some(self.now)),
            Verdict::Skip => self.step(downstream, TaskEvent::Skipped, None),
            Verdict::UpstreamFailed => self.step(downstream, TaskEvent::UpstreamFailed, None),
        }
    }
}

/// How a mapped task ends, given how its instances stand; not yet while one of them is unfinished.
pub(in crate::domain) fn end_of_mapped(instances: UpstreamCounts) -> Option<TaskEvent> {
    if instances.unfinished > 0 {
        None
    } else if instances.failed + instances.upstream_failed > 0 {
        Some(TaskEvent::FailedForGood)
    } else if instances.success == 0 {
        Some(TaskEvent::SkippedItself)
    } else {
        Some(TaskEvent::Succeeded)
    }
}

/// How many tries there were that count, the current one included.
fn tries_of(task: TaskSnapshot) -> i32 {
    task.try_number - task.first_try + 1
}

/// The tasks that `index` keeps from running by `skips`, in index order.
pub(in crate::domain) fn skipped_by(dag: &Dag, index: TaskIndex, skips: &Skips) -> Vec<TaskIndex> {
    let is_teardown = |index: &TaskIndex| dag.task(*index).is_some_and(|task| task.is_teardown);
    match skips {
        Skips::AllBut(chosen) => {
            let followed = dag.descendants(chosen);
            let is_followed = |next: &TaskIndex| chosen.contains(next) || followed.binary_search(next).is_ok();
            dag.downstream(index).into_iter().filter(|next| !is_followed(next)).collect()
        }
        Skips::Next => dag.downstream(index).into_iter().filter(|next| !is_teardown(next)).collect(),
        Skips::Downstream => dag.descendants(&[index]).into_iter().filter(|next| !is_teardown(next)).collect(),
    }
}

fn later(now: Timestamp, wait: Duration) -> Timestamp {
    chrono::Duration::from_std(wait).ok().and_then(|wait| now.checked_add_signed(wait)).unwrap_or(Timestamp::MAX_UTC)
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
