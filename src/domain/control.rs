//! What follows when a person takes a hand: tasks that are cleared run again, and tasks that are marked are over. Pure: the
//! whole run as it stands goes in, and what changes comes out, so that it can be shown before it is done.

use std::collections::{BTreeMap, BTreeSet};

use crate::domain::dag::{Dag, Task};
use crate::domain::ids::TaskIndex;
use crate::domain::plan::{end_of_mapped, initial_counts};
use crate::domain::run_state::RunState;
use crate::domain::task_state::{IllegalTransition, TaskEvent, TaskState};
use crate::domain::trigger_rule::{Role, UpstreamCounts, Verdict};

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

/// An instance of a mapped task, as it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InstanceState {
    /// Its own index.
    pub task: TaskIndex,
    /// The mapped task.
    pub map_of: TaskIndex,
    /// Where it stands.
    pub state: TaskState,
}

/// How a whole run stands.
#[derive(Debug, Clone, Copy)]
pub struct RunStates<'a> {
    /// The DAG's tasks, in its order.
    pub states: &'a [TaskState],
    /// The instances of mapped tasks, in the order of their indexes.
    pub instances: &'a [InstanceState],
}

impl RunStates<'_> {
    fn instance(&self, index: TaskIndex) -> Option<&InstanceState> {
        let place = self.instances.binary_search_by_key(&index, |instance| instance.task).ok()?;
        self.instances.get(place)
    }

    fn of(&self, map_of: TaskIndex) -> impl Iterator<Item = &InstanceState> {
        self.instances.iter().filter(move |instance| instance.map_of == map_of)
    }

    fn is_failure(&self, index: TaskIndex) -> bool {
        self.states.get(index.as_usize()).is_some_and(|state| state.is_failure())
    }
}

/// What changes of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// The tasks whose state changes, in the DAG's order, and then instances by index.
    pub steps: Vec<Step>,
    /// Instances that are no more: their task is expanded anew.
    pub removed: Vec<TaskIndex>,
    /// How the upstreams of every task of the DAG stand after; of a mapped task that was expanded its instances.
    pub counts: Vec<UpstreamCounts>,
    /// How many tasks are not over after.
    pub tasks_unfinished: u32,
    /// How many leaves are failed after.
    pub leaves_failed: u32,
    /// Where the run stands after.
    pub run: RunState,
}

/// The tasks that are meant: `named`, or all where none is named, and what `reach` adds, less what it leaves out. Where only
/// what failed is meant, that is of a mapped task the instances that did.
#[must_use]
pub fn select(dag: &Dag, standing: RunStates<'_>, named: &[TaskIndex], reach: Reach) -> BTreeSet<TaskIndex> {
    let mut selected = reached(dag, standing, named, reach);
    if reach.only_failed {
        let failed = selected.iter().flat_map(|&index| {
            let instances: Vec<TaskIndex> = match standing.instance(index) {
                Some(instance) => vec![instance.task],
                None => standing.of(index).map(|instance| instance.task).collect(),
            };
            let failed = |index: &TaskIndex| standing.instance(*index).is_some_and(|one| one.state.is_failure());
            let failed: Vec<TaskIndex> = instances.into_iter().filter(failed).collect();
            match failed.is_empty() {
                true => Vec::from_iter(standing.is_failure(index).then_some(index)),
                false => failed,
            }
        });
        selected = failed.collect();
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

/// The same whatever became of the tasks.
fn reached(dag: &Dag, standing: RunStates<'_>, named: &[TaskIndex], reach: Reach) -> BTreeSet<TaskIndex> {
    let all = || dag.tasks().iter().map(|task| task.index);
    let mut selected: BTreeSet<TaskIndex> =
        if named.is_empty() { all().collect() } else { named.iter().copied().collect() };
    let in_dag = |&index: &TaskIndex| standing.instance(index).map_or(index, |instance| instance.map_of);
    let from: Vec<TaskIndex> = selected.iter().map(in_dag).collect();
    if reach.upstream {
        selected.extend(from.iter().flat_map(|&index| dag.ancestors(index)));
    }
    if reach.downstream {
        let from: Vec<TaskIndex> =
            from.into_iter().chain(selected.iter().copied().filter(|index| dag.task(*index).is_some())).collect();
        selected.extend(dag.descendants(&from));
    }
    selected
}

/// The run while it is changed.
struct Change<'a> {
    dag: &'a Dag,
    standing: RunStates<'a>,
    after: Vec<TaskState>,
    instances: BTreeMap<TaskIndex, TaskState>,
    happened: BTreeMap<TaskIndex, [Option<TaskEvent>; 2]>,
    removed: BTreeSet<TaskIndex>,
}

impl Change<'_> {
    fn happen(&mut self, index: TaskIndex, event: TaskEvent) -> Result<(), IllegalTransition> {
        let state = match self.after.get_mut(index.as_usize()) {
            Some(state) => state,
            None => self.instances.entry(index).or_insert(TaskState::None),
        };
        *state = state.next(event)?;
        match self.happened.entry(index).or_default() {
            [first @ None, _] => *first = Some(event),
            [_, second] => *second = Some(event),
        }
        // A task that runs anew is expanded anew.
        if event == TaskEvent::Cleared && index.as_usize() < self.after.len() {
            self.removed.extend(self.standing.of(index).map(|instance| instance.task));
        }
        Ok(())
    }

    /// Does it to one task run, unless it is so already; whether something was done.
    fn act(&mut self, index: TaskIndex, action: Action) -> Result<bool, IllegalTransition> {
        let state = match self.after.get(index.as_usize()) {
            Some(state) => *state,
            None => self.instances.get(&index).copied().unwrap_or(TaskState::None),
        };
        let (event, is_so) = match action {
            // It has not begun.
            Action::Clear => (TaskEvent::Cleared, matches!(state, TaskState::None | TaskState::Queued)),
            Action::MarkSuccess => (TaskEvent::MarkedSuccess, state == TaskState::Success),
            Action::MarkFailed => (TaskEvent::MarkedFailed, state == TaskState::Failed),
        };
        if !is_so {
            self.happen(index, event)?;
        }
        Ok(!is_so)
    }

    /// The instances of a mapped task that there are after.
    fn instances_of(&self, map_of: TaskIndex) -> impl Iterator<Item = TaskIndex> {
        self.standing.of(map_of).map(|instance| instance.task).filter(|index| !self.removed.contains(index))
    }

    /// How the instances of a mapped task stand after.
    fn counts_of(&self, map_of: TaskIndex) -> UpstreamCounts {
        let states: Vec<TaskState> =
            self.instances_of(map_of).filter_map(|index| self.instances.get(&index).copied()).collect();
        let unfinished = u32::try_from(states.len()).unwrap_or(u32::MAX);
        let mut counts = UpstreamCounts { unfinished, ..UpstreamCounts::default() };
        states.into_iter().filter(|state| state.is_final()).for_each(|state| counts.count(state, Role::Work));
        counts
    }

    /// Does it to instances, and to the mapped task what follows for it.
    fn act_on_instances(
        &mut self,
        map_of: TaskIndex,
        instances: &[TaskIndex],
        action: Action,
    ) -> Result<(), IllegalTransition> {
        for &index in instances {
            if self.act(index, action)? && action == Action::Clear {
                self.happen(index, TaskEvent::Released)?; // nothing but its task's expansion was waited for
            }
        }
        let stands = self.after[map_of.as_usize()];
        match end_of_mapped(self.counts_of(map_of)) {
            None if stands.is_final() => self.happen(map_of, TaskEvent::Reopened),
            Some(TaskEvent::FailedForGood) if stands != TaskState::Failed => {
                self.happen(map_of, TaskEvent::MarkedFailed)
            }
            Some(TaskEvent::Succeeded) if stands != TaskState::Success => self.happen(map_of, TaskEvent::MarkedSuccess),
            _ => Ok(()),
        }
    }
}

/// Where a mapped task stands that its instances end; a person may have said otherwise of the task.
fn ended_by(instances: UpstreamCounts) -> Option<TaskState> {
    end_of_mapped(instances).and_then(|event| TaskState::Mapped.next(event).ok())
}

/// What follows when `action` is done to these tasks of a run.
///
/// A marked task's failed and `upstream_failed` downstreams are cleared, as in Airflow: they may run now. A mapped task that
/// is cleared is expanded anew, and one that is marked is so with all of its instances; one whose instances are cleared goes
/// on, and ends when they do.
///
/// `kept_back` are, by task, those right after it that it decided not to let run: as in Airflow a cleared one of them is
/// skipped again, unless that task is cleared as well.
///
/// # Errors
/// [`IllegalTransition`] when a state contradicts the table of transitions: a mistake of ours.
pub fn apply(
    dag: &Dag,
    standing: RunStates<'_>,
    selected: &BTreeSet<TaskIndex>,
    action: Action,
    kept_back: &BTreeMap<TaskIndex, Vec<TaskIndex>>,
) -> Result<Outcome, IllegalTransition> {
    let mut change = Change {
        dag,
        standing,
        after: standing.states.to_vec(),
        instances: standing.instances.iter().map(|instance| (instance.task, instance.state)).collect(),
        happened: BTreeMap::new(),
        removed: BTreeSet::new(),
    };
    let (instances, tasks): (Vec<TaskIndex>, Vec<TaskIndex>) =
        selected.iter().partition(|index| dag.task(**index).is_none());
    let mut by_task: BTreeMap<TaskIndex, Vec<TaskIndex>> = BTreeMap::new();
    for instance in instances.iter().filter_map(|index| standing.instance(*index)) {
        by_task.entry(instance.map_of).or_default().push(instance.task);
    }
    for &index in &tasks {
        by_task.remove(&index);
        if action != Action::Clear {
            // Those that are over stay so, unless their failure is what is to be forgotten.
            let is_meant = |state: TaskState| !state.is_final() || action == Action::MarkSuccess && state.is_failure();
            let own = standing.of(index).filter(|instance| is_meant(instance.state));
            let own: Vec<TaskIndex> = own.map(|instance| instance.task).collect();
            own.into_iter().try_for_each(|instance| change.act(instance, action).map(drop))?;
        }
        change.act(index, action)?;
    }
    for (map_of, instances) in &by_task {
        change.act_on_instances(*map_of, instances, action)?;
    }
    if action != Action::Clear {
        let reach = Reach { downstream: true, ..Reach::default() };
        let marked: Vec<TaskIndex> = selected.iter().copied().collect();
        let after = reached(dag, standing, &marked, reach).into_iter();
        let is_marked = |index: &TaskIndex| selected.contains(index) || by_task.contains_key(index);
        for index in after.filter(|index| !is_marked(index) && standing.is_failure(*index)) {
            change.happen(index, TaskEvent::Cleared)?;
        }
    }
    let counts = change.follow(selected, action, kept_back)?;
    Ok(change.outcome(counts))
}

impl Change<'_> {
    /// In topological order each task sees its upstreams as they are after.
    fn follow(
        &mut self,
        selected: &BTreeSet<TaskIndex>,
        action: Action,
        kept_back: &BTreeMap<TaskIndex, Vec<TaskIndex>>,
    ) -> Result<Vec<UpstreamCounts>, IllegalTransition> {
        let dag = self.dag;
        let mapped =
            dag.tasks().iter().map(|task| task.index).filter(|index| self.instances_of(*index).next().is_some());
        let instances: BTreeMap<TaskIndex, UpstreamCounts> =
            mapped.map(|index| (index, self.counts_of(index))).collect();
        let mut counts = vec![UpstreamCounts::default(); self.after.len()];
        for task in dag.topological().into_iter().filter_map(|index| dag.task(index)) {
            let index = task.index;
            let mut standing = initial_counts(dag, task);
            let mut ended_instances = UpstreamCounts::default();
            for upstream in dag.upstream(index).into_iter().filter_map(|upstream| dag.task(upstream)) {
                let state = self.after[upstream.index.as_usize()];
                match instances.get(&upstream.index) {
                    Some(own) if state.is_final() && ended_by(*own) == Some(state) => {
                        standing.count_instances(*own, upstream.role());
                    }
                    Some(own) if state == TaskState::Mapped => ended_instances = ended_instances.with_ended_of(*own),
                    _ if state.is_final() => standing.count(state, upstream.role()),
                    _ => {}
                }
            }
            let verdict = match task.trigger_rule.waits_for_one() {
                true => task.trigger_rule.verdict(standing.with_ended_of(ended_instances)),
                false => task.trigger_rule.verdict(standing),
            };
            if self.after[index.as_usize()] == TaskState::Mapped {
                standing = instances.get(&index).copied().unwrap_or_default();
            }
            counts[index.as_usize()] = standing;
            // One that was ready and is cleared with what it waits for waits for it once more.
            let is_early = self.after[index.as_usize()] == TaskState::Queued && verdict != Verdict::Run;
            if is_early && action == Action::Clear && selected.contains(&index) {
                self.happen(index, TaskEvent::Cleared)?;
            }
            if self.after[index.as_usize()] == TaskState::None {
                let is_kept_back = dag.upstream(index).iter().any(|upstream| {
                    self.after[upstream.as_usize()] == TaskState::Success
                        && kept_back.get(upstream).is_some_and(|kept| kept.contains(&index))
                });
                match verdict {
                    _ if is_kept_back => self.happen(index, TaskEvent::Skipped)?,
                    Verdict::Wait => {}
                    Verdict::Run => self.happen(index, TaskEvent::Released)?,
                    Verdict::Skip => self.happen(index, TaskEvent::Skipped)?,
                    Verdict::UpstreamFailed => self.happen(index, TaskEvent::UpstreamFailed)?,
                }
            }
        }
        Ok(counts)
    }

    fn outcome(self, counts: Vec<UpstreamCounts>) -> Outcome {
        let Self { dag, standing, after, instances, happened, removed } = self;
        let left = || instances.iter().filter(|(index, _)| !removed.contains(index));
        let steps = happened.into_iter().filter(|(task, _)| !removed.contains(task)).map(|(task, events)| {
            let of_dag = standing.states.get(task.as_usize()).copied();
            let from = of_dag.or_else(|| Some(standing.instance(task)?.state)).unwrap_or(TaskState::None);
            let to = after.get(task.as_usize()).or_else(|| instances.get(&task)).copied().unwrap_or(from);
            Step { task, events, from, to }
        });
        let steps = steps.collect();
        let count = |is: &dyn Fn(TaskIndex) -> bool| {
            let found = dag.tasks().iter().filter(|task| is(task.index)).count();
            u32::try_from(found).unwrap_or(u32::MAX)
        };
        let instances_unfinished = left().filter(|(_, state)| !state.is_final()).count();
        let tasks_unfinished = count(&|index| !after[index.as_usize()].is_final())
            .saturating_add(u32::try_from(instances_unfinished).unwrap_or(u32::MAX));
        let leaves_failed = count(&|index| after[index.as_usize()].is_failure() && dag.decides(index));
        let run = match (tasks_unfinished, leaves_failed) {
            (0, 0) => RunState::Success,
            (0, _) => RunState::Failed,
            _ => RunState::Running,
        };
        Outcome { steps, removed: removed.into_iter().collect(), counts, tasks_unfinished, leaves_failed, run }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::check::check;
    use crate::domain::operator_kind::OperatorKind;
    use crate::domain::source::SourceFile;

    static NOTHING: OperatorKind = OperatorKind {
        name: "nothing",
        class_paths: &[],
        about: "",
        schema: || schemars::json_schema!({ "type": "object", "properties": { "value": {} } }),
        check: |_| Vec::new(),
        late_fields: &[],
        file_keys: &[],
    };

    /// Its instances are gone with the clearing: to what comes after it is one upstream that was skipped.
    #[test]
    fn a_mapped_task_that_is_cleared_and_skipped_again_is_one_upstream() {
        let text = "d:
  tasks:
    decides: {operator: nothing}
    each: {operator: nothing, dependencies: [decides], expand: {value: [1, 2, 3]}}
    after: {operator: nothing, dependencies: [each], trigger_rule: all_done}";
        let dag = check(&SourceFile::new("d.yaml", text), &[&NOTHING]).dags.remove(0);
        let [decides, each, after] = [0, 1, 2].map(TaskIndex);
        let instance = |index| InstanceState { task: TaskIndex(index), map_of: each, state: TaskState::Skipped };
        let standing = RunStates {
            states: &[TaskState::Success, TaskState::Skipped, TaskState::Success],
            instances: &[instance(3), instance(4), instance(5)],
        };
        let kept_back = BTreeMap::from([(decides, vec![each])]);
        let outcome = apply(&dag, standing, &[each].into(), Action::Clear, &kept_back).unwrap();
        assert_eq!(outcome.removed, [3, 4, 5].map(TaskIndex));
        let events = [Some(TaskEvent::Cleared), Some(TaskEvent::Skipped)];
        let step = Step { task: each, events, from: TaskState::Skipped, to: TaskState::Skipped };
        assert_eq!(outcome.steps, [step]);
        assert_eq!(outcome.counts[after.as_usize()], UpstreamCounts { skipped: 1, ..UpstreamCounts::default() });
    }
}
