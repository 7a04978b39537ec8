//! What follows when a person takes a hand: tasks that are cleared run again, and tasks that are marked are over. Pure: the
//! whole run as it stands goes in, and what changes comes out, so that it can be shown before it is done.

use std::collections::{BTreeMap, BTreeSet};

use crate::domain::dag::{Dag, Task};
use crate::domain::ids::TaskIndex;
use crate::domain::plan::initial_counts;
use crate::domain::run_state::RunState;
use crate::domain::task_state::{IllegalTransition, TaskEvent, TaskState};
use crate::domain::trigger_rule::{UpstreamCounts, Verdict};

/// What is done to tasks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// They run again, once their trigger rule is met.
    Clear,
    /// They are taken for done.
    MarkSuccess,
    /// They are taken for failed; one that runs is stopped.
    MarkFailed,
}

/// Which tasks of a run, beside those that are named.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Reach {
    /// Also all that they wait for, directly or not.
    pub upstream: bool,
    /// Also all that waits for them, directly or not.
    pub downstream: bool,
    /// Of all these, those that failed or are `upstream_failed`.
    pub only_failed: bool,
}

/// A task whose state changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// The task.
    pub task: TaskIndex,
    /// What happens to it, in order: it may be cleared and at once released.
    pub events: [Option<TaskEvent>; 2],
    /// Where it stands.
    pub from: TaskState,
    /// Where it stands after.
    pub to: TaskState,
}

/// What changes of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// The tasks whose state changes, in the DAG's order.
    pub steps: Vec<Step>,
    /// How the upstreams of every task stand after.
    pub counts: Vec<UpstreamCounts>,
    /// How many tasks are not over after.
    pub tasks_unfinished: u32,
    /// How many leaves are failed after.
    pub leaves_failed: u32,
    /// Where the run stands after.
    pub run: RunState,
}

/// The tasks that are meant: `named`, or all where none is named, and what `reach` adds, less what it leaves out.
#[must_use]
pub fn select(dag: &Dag, states: &[TaskState], named: &[TaskIndex], reach: Reach) -> BTreeSet<TaskIndex> {
    let all = || dag.tasks().iter().map(|task| task.index);
    let mut selected: BTreeSet<TaskIndex> =
        if named.is_empty() { all().collect() } else { named.iter().copied().collect() };
    if reach.upstream {
        let ahead: Vec<TaskIndex> = selected.iter().flat_map(|&index| dag.ancestors(index)).collect();
        selected.extend(ahead);
    }
    if reach.downstream {
        let from: Vec<TaskIndex> = selected.iter().copied().collect();
        selected.extend(dag.descendants(&from));
    }
    if reach.only_failed {
        selected.retain(|index| states.get(index.as_usize()).is_some_and(|state| state.is_failure()));
    }
    selected
}

/// The same with the setups and teardowns that cleared tasks need, as in Airflow: a setup before a task whose teardown comes
/// after it (or that has none), with its teardowns; and the teardowns of a setup that is cleared itself.
#[must_use]
pub fn with_setups(dag: &Dag, mut selected: BTreeSet<TaskIndex>) -> BTreeSet<TaskIndex> {
    let is = |index: TaskIndex, role: fn(&Task) -> bool| dag.task(index).is_some_and(role);
    let works = |index: &TaskIndex| !is(*index, |task| task.is_setup || task.is_teardown);
    let mut needed = Vec::new();
    for setup in dag.tasks().iter().filter(|task| task.is_setup).map(|task| task.index) {
        let teardowns: Vec<TaskIndex> =
            dag.downstream(setup).into_iter().filter(|next| is(*next, |task| task.is_teardown)).collect();
        let before: BTreeSet<TaskIndex> = teardowns.iter().flat_map(|&teardown| dag.ancestors(teardown)).collect();
        let uses = |task: &TaskIndex| {
            selected.contains(task) && works(task) && (teardowns.is_empty() || before.contains(task))
        };
        if selected.contains(&setup) || dag.descendants(&[setup]).iter().any(uses) {
            needed.push(setup);
            needed.extend(teardowns);
        }
    }
    selected.extend(needed);
    selected
}

/// What follows when `action` is done to these tasks of a run whose tasks stand at `states`, in the DAG's order.
///
/// `kept_back` are, by task, those right after it that it decided not to let run: as in Airflow a cleared one of them is
/// skipped again, unless that task is cleared as well. A marked task's failed and `upstream_failed` downstreams are cleared, as in Airflow: they may run now.
///
/// # Errors
/// [`IllegalTransition`] when a state contradicts the table of transitions: a mistake of ours.
pub fn apply(
    dag: &Dag,
    states: &[TaskState],
    selected: &BTreeSet<TaskIndex>,
    action: Action,
    kept_back: &BTreeMap<TaskIndex, Vec<TaskIndex>>,
) -> Result<Outcome, IllegalTransition> {
    let mut after: Vec<TaskState> = states.to_vec();
    let mut happened: BTreeMap<TaskIndex, [Option<TaskEvent>; 2]> = BTreeMap::new();
    let mut happen = |after: &mut Vec<TaskState>, index: TaskIndex, event: TaskEvent| {
        let state = &mut after[index.as_usize()];
        *state = state.next(event)?;
        match happened.entry(index).or_default() {
            [first @ None, _] => *first = Some(event),
            [_, second] => *second = Some(event),
        }
        Ok(())
    };
    let event = match action {
        Action::Clear => TaskEvent::Cleared,
        Action::MarkSuccess => TaskEvent::MarkedSuccess,
        Action::MarkFailed => TaskEvent::MarkedFailed,
    };
    let marks = action != Action::Clear;
    for &index in selected {
        let state = after[index.as_usize()];
        let is_so = match action {
            Action::Clear => matches!(state, TaskState::None | TaskState::Queued), // it has not begun
            Action::MarkSuccess => state == TaskState::Success,
            Action::MarkFailed => state == TaskState::Failed,
        };
        if !is_so {
            happen(&mut after, index, event)?;
        }
    }
    if marks {
        let reach = Reach { downstream: true, only_failed: true, ..Reach::default() };
        let marked: Vec<TaskIndex> = selected.iter().copied().collect();
        for index in select(dag, states, &marked, reach).into_iter().filter(|index| !selected.contains(index)) {
            happen(&mut after, index, TaskEvent::Cleared)?;
        }
    }
    // In topological order each task sees its upstreams as they are after.
    let mut counts = vec![UpstreamCounts::default(); after.len()];
    for task in dag.topological().into_iter().filter_map(|index| dag.task(index)) {
        let index = task.index;
        let mut standing = initial_counts(dag, task);
        for upstream in dag.upstream(index).into_iter().filter_map(|upstream| dag.task(upstream)) {
            let state = after[upstream.index.as_usize()];
            if state.is_final() {
                standing.count(state, upstream.role());
            }
        }
        counts[index.as_usize()] = standing;
        let verdict = task.trigger_rule.verdict(standing);
        // One that was ready and is cleared with what it waits for waits for it once more.
        let is_early = after[index.as_usize()] == TaskState::Queued && verdict != Verdict::Run;
        if is_early && action == Action::Clear && selected.contains(&index) {
            happen(&mut after, index, TaskEvent::Cleared)?;
        }
        if after[index.as_usize()] == TaskState::None {
            let is_kept_back = dag.upstream(index).iter().any(|upstream| {
                after[upstream.as_usize()] == TaskState::Success
                    && kept_back.get(upstream).is_some_and(|kept| kept.contains(&index))
            });
            match verdict {
                _ if is_kept_back => happen(&mut after, index, TaskEvent::Skipped)?,
                Verdict::Wait => {}
                Verdict::Run => happen(&mut after, index, TaskEvent::Released)?,
                Verdict::Skip => happen(&mut after, index, TaskEvent::Skipped)?,
                Verdict::UpstreamFailed => happen(&mut after, index, TaskEvent::UpstreamFailed)?,
            }
        }
    }
    let steps = happened.into_iter().map(|(task, events)| {
        let (from, to) = (states[task.as_usize()], after[task.as_usize()]);
        Step { task, events, from, to }
    });
    let count = |is: &dyn Fn(TaskIndex) -> bool| {
        let found = dag.tasks().iter().filter(|task| is(task.index)).count();
        u32::try_from(found).unwrap_or(u32::MAX)
    };
    let tasks_unfinished = count(&|index| !after[index.as_usize()].is_final());
    let leaves_failed = count(&|index| after[index.as_usize()].is_failure() && dag.decides(index));
    let run = match (tasks_unfinished, leaves_failed) {
        (0, 0) => RunState::Success,
        (0, _) => RunState::Failed,
        _ => RunState::Running,
    };
    Ok(Outcome { steps: steps.collect(), counts, tasks_unfinished, leaves_failed, run })
}
