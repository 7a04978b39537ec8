//! Random DAGs under random fates, driven through `plan` by a simulated worker and clock: what holds of every run.
//!
//! The worker plans each step twice, as the store does from a neighbourhood that grows on demand and from the whole
//! run, and the two must agree.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, TimeDelta};
use proptest::prelude::*;
use serde_json::{Map, Value};

use super::{Ending, LOST_LIMIT, Move, Plan, PlanError, Skips, Snapshot, TaskSnapshot, begin, end_of_mapped, plan};
use crate::domain::Timestamp;
use crate::domain::callbacks::Callbacks;
use crate::domain::dag::{Catchup, Dag, DagSettings, DataIntervals, DstPolicy, Overlap, Schedule, Task};
use crate::domain::ids::TaskIndex;
use crate::domain::mapping::{Expansion, Mapping, Over};
use crate::domain::retry::RetryPolicy;
use crate::domain::run_state::RunState;
use crate::domain::task_state::{TaskEvent, TaskState};
use crate::domain::trigger_rule::{TriggerRule, UpstreamCounts};

#[path = "plan_test_rules.rs"]
mod rules;

use rules::{Upstream, deciding, is_met, may_be_met, recounted, seen_by};

/// How often a task may be handed back before its fate turns: so that a simulated run ends.
const PATIENCE: i32 = 4;

fn start() -> Timestamp {
    DateTime::from_timestamp(1_772_330_400, 0).expect("an instant in 2026")
}

/// A task as it is drawn: its upstreams are earlier tasks, `back` places before it.
#[derive(Debug, Clone)]
struct Drawn {
    rule: TriggerRule,
    back: BTreeSet<usize>,
    retries: u32,
    is_setup: bool,
    is_teardown: bool,
    fails_run: bool,
    /// How many instances it is expanded into; 0 where it is not mapped.
    instances: usize,
}

impl Drawn {
    /// A task that is neither setup nor teardown.
    fn work(rule: TriggerRule, back: &[usize], retries: u32) -> Self {
        let back = back.iter().copied().collect();
        Self { rule, back, retries, is_setup: false, is_teardown: false, fails_run: false, instances: 0 }
    }
}

fn dag_of(drawn: &[Drawn], schedule: Schedule) -> Dag {
    let settings = DagSettings {
        id: "random".parse().unwrap(),
        description: None,
        doc_md: None,
        schedule,
        timezone: chrono_tz::UTC,
        data_interval: DataIntervals::Trigger,
        start_date: None,
        end_date: None,
        catchup: Catchup::None,
        overlap: Overlap::Queue,
        dst: DstPolicy::default(),
        max_active_runs: 1,
        max_active_tasks: None,
        paused_upon_creation: false,
        dagrun_timeout: None,
        deadline: None,
        callbacks: Callbacks::default(),
        owner: None,
        tags: Vec::new(),
        params: Map::new(),
        param_schemas: BTreeMap::new(),
    };
    let index = |position: usize| TaskIndex(u32::try_from(position).unwrap());
    let tasks = drawn.iter().enumerate().map(|(position, drawn)| Task {
        index: index(position),
        id: format!("task{position}").parse().unwrap(),
        operator: "empty",
        config: Value::Object(Map::new()),
        retry: RetryPolicy {
            retries: drawn.retries,
            delay: Duration::from_secs(300),
            exponential: true,
            ..RetryPolicy::default()
        },
        execution_timeout: None,
        deadline: None,
        callbacks: Callbacks::default(),
        trigger_rule: drawn.rule,
        is_setup: drawn.is_setup,
        is_teardown: drawn.is_teardown,
        on_failure_fail_dagrun: drawn.fails_run,
        pool: None,
        pool_slots: 1,
        priority_weight: 1,
        depends_on_past: false,
        wait_for_downstream: false,
        max_active_tis_per_dag: None,
        max_active_tis_per_dagrun: None,
        mapping: (drawn.instances > 0).then(|| {
            // Of the values only how many there are counts here.
            let over = Over::Kwargs(Value::Array(vec![Value::Null; drawn.instances]));
            Mapping::new(over, None).into()
        }),
        doc_md: None,
    });
    let mut edges = Vec::new();
    for (position, drawn) in drawn.iter().enumerate() {
        for upstream in drawn.back.iter().filter_map(|back| position.checked_sub(*back)) {
            edges.push((index(upstream), index(position)));
        }
    }
    Dag::assemble(settings, tasks.collect(), &edges)
}

/// What the drawn fate decides, choice by choice; over and over when it is used up.
struct Fate<'a> {
    choices: &'a [u8],
    at: usize,
}

impl Fate<'_> {
    fn below(&mut self, bound: usize) -> usize {
        let choice = self.choices[self.at % self.choices.len()];
        self.at += 1;
        // The place is mixed in: else a short fate would always say the same.
        (usize::from(choice) + self.at / self.choices.len()) % bound
    }
}

/// A run in memory, as the store keeps it.
struct World<'a> {
    dag: &'a Dag,
    now: Timestamp,
    cancel_requested: bool,
    tasks_unfinished: u32,
    leaves_failed: u32,
    concluded: Option<RunState>,
    tasks: BTreeMap<TaskIndex, TaskSnapshot>,
    ready_at: BTreeMap<TaskIndex, Timestamp>,
    handed_back: BTreeMap<TaskIndex, i32>,
    tried_again: u32,
    /// The mapped tasks that their instances ended, not a cancellation.
    ended_by_instances: BTreeSet<TaskIndex>,
}

impl<'a> World<'a> {
    fn new(dag: &'a Dag, now: Timestamp) -> Self {
        let first = begin(dag);
        let mut world = Self {
            dag,
            now,
            cancel_requested: false,
            tasks_unfinished: u32::try_from(first.len()).unwrap(),
            leaves_failed: 0,
            concluded: None,
            tasks: BTreeMap::new(),
            ready_at: BTreeMap::new(),
            handed_back: BTreeMap::new(),
            tried_again: 0,
            ended_by_instances: BTreeSet::new(),
        };
        for (task, (state, upstream)) in dag.tasks().iter().zip(first) {
            world.tasks.insert(
                task.index,
                TaskSnapshot { state, upstream, try_number: 1, first_try: 1, lost: 0, map_of: None },
            );
            if state == TaskState::Queued {
                world.ready_at.insert(task.index, now);
            }
        }
        world
    }

    fn in_state(&self, state: TaskState) -> Vec<TaskIndex> {
        self.tasks.iter().filter(|(_, task)| task.state == state).map(|(&index, _)| index).collect()
    }

    /// The task of the DAG that a task run is one of.
    fn described(&self, index: TaskIndex) -> &'a Task {
        self.dag.task(self.tasks[&index].map_of.unwrap_or(index)).unwrap()
    }

    /// The states of the instances of a mapped task.
    fn instances_of(&self, index: TaskIndex) -> Vec<TaskState> {
        self.tasks.values().filter(|task| task.map_of == Some(index)).map(|task| task.state).collect()
    }

    /// How a mapped task is to end, told naively.
    fn assert_ends_by_its_instances(&self, index: TaskIndex, instances: &[TaskState]) {
        let state = self.tasks[&index].state;
        let open = instances.iter().any(|state| !state.is_final());
        let failed = instances.iter().any(|state| state.is_failure());
        let expected = match (open, failed) {
            (true, _) => TaskState::Mapped,
            (false, true) => TaskState::Failed,
            (false, false) if instances.contains(&TaskState::Success) => TaskState::Success,
            (false, false) => TaskState::Skipped,
        };
        let cancelled = self.cancel_requested && state == TaskState::Failed;
        assert!(state == expected || cancelled, "{index:?} is {state}, and its instances are {instances:?}");
        assert!(state.is_final() || end_of_mapped(self.tasks[&index].upstream).is_none() == open);
    }

    /// The upstreams as they are once these steps are taken, too.
    fn upstream(&self, index: TaskIndex, steps: &[Move]) -> Vec<Upstream> {
        let state_of = |index: &TaskIndex, task: &TaskSnapshot| {
            steps.iter().find(|step| step.task == *index).map_or(task.state, |step| step.to)
        };
        let upstream = self.dag.upstream(index).into_iter().map(|up| {
            let state = state_of(&up, &self.tasks[&up]);
            let own = self.tasks.iter().filter(|(_, task)| task.map_of == Some(up));
            let is_told = state == TaskState::Mapped || self.ended_by_instances.contains(&up);
            let instances = own.filter(|_| is_told).map(|(index, task)| state_of(index, task)).collect();
            Upstream { state, is_setup: self.dag.task(up).unwrap().is_setup, instances }
        });
        upstream.collect()
    }

    /// Takes what is ready, as a claim does, into at most `slots` running ones.
    fn claim(&mut self, slots: usize) {
        let free = slots.saturating_sub(self.in_state(TaskState::Running).len());
        let now = self.now;
        let ready: Vec<TaskIndex> =
            self.ready_at.iter().filter(|(_, at)| **at <= now).map(|(&index, _)| index).take(free).collect();
        if self.cancel_requested {
            return;
        }
        for index in ready {
            self.ready_at.remove(&index);
            let task = self.tasks.get_mut(&index).unwrap();
            let claim = TaskEvent::Claimed;
            let running = task.state.next(claim).expect("only what is not running is claimed");
            *task = TaskSnapshot { state: running, ..*task };
        }
    }

    /// Plans as the store does, and from the whole run: the plans must be the same.
    fn decide(&self, ended: &[(TaskIndex, Ending)]) -> Plan {
        let shown = |tasks: BTreeMap<TaskIndex, TaskSnapshot>| Snapshot {
            cancel_requested: self.cancel_requested,
            tasks_unfinished: self.tasks_unfinished,
            leaves_failed: self.leaves_failed,
            tasks,
        };
        let whole = plan(self.dag, &shown(self.tasks.clone()), ended, self.now).expect("the whole run is shown");
        let mut near: BTreeMap<TaskIndex, TaskSnapshot> = BTreeMap::new();
        if self.cancel_requested {
            near.extend(self.tasks.iter().filter(|(_, task)| !task.state.is_final()));
        }
        for _ in 0..=self.tasks.len() {
            match plan(self.dag, &shown(near.clone()), ended, self.now) {
                Ok(plan) => {
                    assert_eq!(plan, whole, "the neighbourhood decides otherwise than the whole");
                    return plan;
                }
                Err(PlanError::Needs(more)) => {
                    assert!(more.iter().any(|index| !near.contains_key(index)), "asks for what it was shown");
                    near.extend(more.iter().map(|index| (*index, self.tasks[index])));
                }
                Err(error @ (PlanError::Illegal(_) | PlanError::UnknownTask(_))) => panic!("{error}"),
            }
        }
        panic!("the plan is never satisfied");
    }

    /// What the ended attempts keep from running, told naively: by walking the tasks' own lists of edges.
    fn kept_from_running(&self, ended: &[(TaskIndex, Ending)]) -> BTreeSet<TaskIndex> {
        let comes_after = |later: TaskIndex, earlier: TaskIndex| self.dag.ancestors(later).contains(&earlier);
        let is_teardown = |task: TaskIndex| self.dag.task(task).unwrap().is_teardown;
        let all = || self.dag.tasks().iter().map(|task| task.index);
        let mut kept = BTreeSet::new();
        for (index, ending) in ended {
            let Ending::Chose(skips) = ending else { continue };
            let is_next = |task: TaskIndex| self.dag.upstream(task).contains(index);
            let is_kept = |task: TaskIndex| match skips {
                Skips::Next => is_next(task) && !is_teardown(task),
                Skips::Downstream => comes_after(task, *index) && !is_teardown(task),
                Skips::AllBut(chosen) => {
                    is_next(task) && !chosen.iter().any(|one| *one == task || comes_after(task, *one))
                }
            };
            kept.extend(all().filter(|task| is_kept(*task)));
        }
        let ended_now = |task: &TaskIndex| ended.iter().any(|(index, _)| index == task);
        let waits = |task: &TaskIndex| matches!(self.tasks[task].state, TaskState::None | TaskState::Queued);
        kept.retain(|task| waits(task) && !ended_now(task) && !self.cancel_requested);
        kept
    }

    fn apply(&mut self, plan: &Plan, ended: &[(TaskIndex, Ending)]) {
        let kept = self.kept_from_running(ended);
        for task in &kept {
            let step = plan.moves.iter().find(|step| step.task == *task);
            assert_eq!(step.map(|step| step.event), Some(TaskEvent::Skipped), "{task:?} was to be skipped");
        }
        let by_instances = |step: &&Move| step.from == TaskState::Mapped && step.event != TaskEvent::Cancelled;
        self.ended_by_instances.extend(plan.moves.iter().filter(by_instances).map(|step| step.task));
        let mut moved = BTreeSet::new();
        for step in &plan.moves {
            assert!(moved.insert(step.task), "two steps of one task in one plan");
            if step.from == TaskState::Queued {
                let is_kept = step.event == TaskEvent::Skipped && kept.contains(&step.task);
                assert!(is_kept || step.event == TaskEvent::Cancelled, "a queued task was {}", step.event);
            }
            if step.from == TaskState::None && step.event != TaskEvent::Cancelled && !kept.contains(&step.task) {
                self.assert_rule_says(step.task, step.event, plan);
            }
            let task = self.tasks.get_mut(&step.task).unwrap();
            assert_eq!(task.state, step.from);
            assert_eq!(step.from.next(step.event), Ok(step.to));
            assert!(!step.from.is_final(), "a final state changed");
            assert_eq!(
                step.ready_at.is_some(),
                matches!(step.to, TaskState::Queued | TaskState::UpForRetry),
                "{} has {:?}",
                step.to,
                step.ready_at
            );
            *task = TaskSnapshot { state: step.to, try_number: step.try_number, lost: step.lost, ..*task };
            match step.ready_at {
                Some(at) => self.ready_at.insert(step.task, at),
                None => self.ready_at.remove(&step.task),
            };
            self.tasks_unfinished -= u32::from(step.to.is_final());
            self.tried_again += u32::from(step.event == TaskEvent::FailedForNow);
        }
        for (map_of, expansion) in &plan.expansions {
            for _ in 0..expansion.count() {
                let index = TaskIndex(self.tasks.keys().last().unwrap().0 + 1);
                let (state, upstream) = (TaskState::Queued, UpstreamCounts::default());
                let map_of = Some(*map_of);
                self.tasks
                    .insert(index, TaskSnapshot { state, upstream, try_number: 1, first_try: 1, lost: 0, map_of });
                self.ready_at.insert(index, self.now);
                self.tasks_unfinished += 1;
            }
        }
        for (index, counts) in &plan.counts {
            self.tasks.get_mut(index).unwrap().upstream = *counts;
        }
        self.leaves_failed += plan.leaves_failed;
        if let Some(state) = plan.concluded {
            assert_eq!(self.concluded.replace(state), None, "concluded twice");
        }
    }

    /// A rule lets a task run only when it is met, and gives it up only when nothing that may still happen meets it.
    fn assert_rule_says(&self, index: TaskIndex, event: TaskEvent, plan: &Plan) {
        let rule = self.dag.task(index).unwrap().trigger_rule;
        // The upstreams as they are after this plan: the steps are in order, but their counts are not told apart.
        let states = seen_by(rule, &self.upstream(index, &plan.moves));
        match event {
            TaskEvent::Released => assert!(is_met(rule, &states), "{rule:?} let it run with {states:?}"),
            TaskEvent::Skipped | TaskEvent::UpstreamFailed => {
                assert!(!may_be_met(rule, &mut states.clone(), 0), "{rule:?} gave up with {states:?}");
                let failed = states.iter().any(|(state, _)| state.is_failure());
                assert!(event == TaskEvent::Skipped || failed, "upstream_failed without a failure: {states:?}");
            }
            other => panic!("a waiting task was {other}"),
        }
    }

    /// What must hold between any two steps.
    fn assert_consistent(&self) {
        let unfinished = self.tasks.values().filter(|task| !task.state.is_final()).count();
        assert_eq!(self.tasks_unfinished as usize, unfinished);
        let deciding = deciding(self.dag);
        let failed_leaves = self.tasks.iter().filter(|(index, task)| {
            deciding.contains(index) && matches!(task.state, TaskState::Failed | TaskState::UpstreamFailed)
        });
        assert_eq!(self.leaves_failed as usize, failed_leaves.count());
        for (&index, task) in &self.tasks {
            let mut upstream = self.upstream(index, &[]);
            let instances = self.instances_of(index);
            if !instances.is_empty() {
                self.assert_ends_by_its_instances(index, &instances);
                let one = |state| Upstream { state, is_setup: false, instances: Vec::new() };
                upstream = instances.into_iter().map(one).collect();
            }
            let recounted = recounted(&upstream);
            // A mapped task that is over counts nothing any more.
            let is_over = task.map_of.is_none() && self.described(index).mapping.is_some() && task.state.is_final();
            assert!(is_over || task.upstream == recounted, "of {index:?}: {:?} is not {recounted:?}", task.upstream);
            let known = self.described(index);
            assert!(task.try_number <= i32::try_from(known.retry.retries).unwrap() + 1, "{} tries", task.try_number);
            assert!(task.lost < LOST_LIMIT || task.state == TaskState::Failed, "lost {} times", task.lost);
            if task.state == TaskState::None {
                let states = seen_by(known.trigger_rule, &upstream);
                assert!(!is_met(known.trigger_rule, &states), "{index:?} waits, though its rule is met by {states:?}");
            }
            assert_eq!(
                self.ready_at.contains_key(&index),
                matches!(task.state, TaskState::Queued | TaskState::UpForRetry)
            );
        }
        match self.concluded {
            None => assert!(unfinished > 0, "all tasks ended, and the run goes on"),
            Some(state) => {
                assert_eq!(unfinished, 0, "concluded with unfinished tasks");
                let failed = self.cancel_requested || self.leaves_failed > 0;
                assert_eq!(state, if failed { RunState::Failed } else { RunState::Success });
            }
        }
    }

    /// Ends some of what runs, as fate has it.
    fn end_some(&mut self, running: &[TaskIndex], fate: &mut Fate<'_>) -> Vec<(TaskIndex, Ending)> {
        let count = 1 + fate.below(running.len());
        running.iter().take(count).map(|&index| (index, self.ending(index, fate))).collect()
    }

    fn ending(&mut self, index: TaskIndex, fate: &mut Fate<'_>) -> Ending {
        let jitter = f64::from(u8::try_from(fate.below(100)).unwrap()) / 100.0;
        let drawn = match fate.below(11) {
            0 | 1 => Ending::Succeeded,
            8 => Ending::Skipped,
            9 | 10 => Ending::Chose(self.skips(index, fate)),
            2 | 3 => Ending::Failed { retryable: true, jitter },
            4 => Ending::Failed { retryable: false, jitter },
            5 => Ending::Interrupted,
            6 if self.cancel_requested => Ending::Cancelled,
            6 => Ending::Succeeded,
            _ => Ending::Lost,
        };
        let handed_back = self.handed_back.entry(index).or_default();
        if drawn == Ending::Interrupted {
            *handed_back += 1;
        }
        let drawn = if drawn == Ending::Interrupted && *handed_back > PATIENCE { Ending::Succeeded } else { drawn };
        let is_instance = self.tasks[&index].map_of.is_some();
        match (&self.described(index).mapping, &drawn) {
            (Some(_), Ending::Chose(_)) if is_instance => Ending::Succeeded,
            (Some(mapping), Ending::Succeeded | Ending::Chose(_)) if !is_instance => {
                let Over::Kwargs(Value::Array(items)) = &mapping.over else { unreachable!("they are drawn so") };
                let (items, labels) = (vec![Map::new(); items.len()], vec![None; items.len()]);
                Ending::Expanded(Arc::new(Expansion { items, labels }))
            }
            _ => drawn,
        }
    }

    fn skips(&self, index: TaskIndex, fate: &mut Fate<'_>) -> Skips {
        match fate.below(4) {
            0 => Skips::Next,
            1 => Skips::Downstream,
            _ => Skips::AllBut(self.dag.downstream(index).into_iter().filter(|_| fate.below(2) == 0).collect()),
        }
    }

    /// Runs to the conclusion; the cancel request comes before step `cancel_at`.
    fn run(&mut self, fate: &mut Fate<'_>, slots: usize, cancel_at: Option<usize>) -> RunState {
        let each = |task: &Task| {
            let instances = match task.mapping.as_ref().map(|mapping| &mapping.over) {
                Some(Over::Kwargs(Value::Array(items))) => items.len(),
                _ => 0,
            };
            (task.retry.retries as usize + 12) * (1 + instances)
        };
        let most: usize = self.dag.tasks().iter().map(each).sum::<usize>() * 2 + 11;
        for step in 0..most {
            if let Some(state) = self.concluded {
                return state;
            }
            if cancel_at == Some(step) {
                self.cancel_requested = true;
                let swept = self.decide(&[]);
                self.apply(&swept, &[]);
                self.assert_consistent();
                continue;
            }
            self.claim(slots);
            let running = self.in_state(TaskState::Running);
            if running.is_empty() {
                // Nothing runs and nothing is ready: time passes until something is.
                let next = self.ready_at.values().min().expect("a run that is not concluded has something to wait for");
                assert!(*next > self.now);
                self.now = *next;
                continue;
            }
            let ended = self.end_some(&running, fate);
            let decided = self.decide(&ended);
            self.apply(&decided, &ended);
            self.assert_consistent();
            self.now += TimeDelta::seconds(1);
        }
        panic!("the run does not conclude");
    }
}

fn drawn_task() -> impl Strategy<Value = Drawn> {
    let rule =
        prop_oneof![2 => Just(TriggerRule::AllSuccess), 5 => proptest::sample::select(TriggerRule::ALL.to_vec())];
    let back = proptest::collection::btree_set(1_usize..6, 0..4);
    let instances = prop_oneof![3 => Just(0_usize), 1 => 1_usize..5];
    let rest = (0_u8..10, any::<bool>(), instances);
    (rule, back, 0_u32..4, rest).prop_map(|(rule, back, retries, (role, fails_run, instances))| Drawn {
        rule,
        back,
        retries,
        is_setup: role < 2,
        is_teardown: role > 7,
        fails_run,
        instances,
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_run_of_every_dag_concludes_by_its_rules(
        drawn in proptest::collection::vec(drawn_task(), 1..14),
        choices in proptest::collection::vec(any::<u8>(), 1..60),
        slots in 1_usize..6,
        cancel_at in proptest::option::weighted(0.3, 0_usize..12),
    ) {
        let dag = dag_of(&drawn, Schedule::None);
        let mut world = World::new(&dag, start());
        world.assert_consistent();
        let state = world.run(&mut Fate { choices: &choices, at: 0 }, slots, cancel_at);
        if world.cancel_requested {
            prop_assert_eq!(state, RunState::Failed);
        }
    }
}

#[test]
fn an_end_that_contradicts_the_snapshot_is_illegal_and_plans_nothing() {
    let dag = dag_of(&[Drawn::work(TriggerRule::AllSuccess, &[], 0)], Schedule::None);
    let world = World::new(&dag, start());
    let snapshot =
        Snapshot { cancel_requested: false, tasks_unfinished: 1, leaves_failed: 0, tasks: world.tasks.clone() };
    let refused = plan(&dag, &snapshot, &[(TaskIndex(0), Ending::Succeeded)], start());
    assert_eq!(refused.unwrap_err().to_string(), "a task that is queued cannot be succeeded");
}

#[test]
fn a_completion_looks_at_its_own_downstreams_only() {
    let chain: Vec<Drawn> = (0..10_000).map(|_| Drawn::work(TriggerRule::AllSuccess, &[1], 0)).collect();
    let dag = dag_of(&chain, Schedule::None);
    let mut tasks = World::new(&dag, start()).tasks;
    tasks.retain(|index, _| index.0 < 2);
    tasks.get_mut(&TaskIndex(0)).unwrap().state = TaskState::Running;
    let snapshot = Snapshot { cancel_requested: false, tasks_unfinished: 10_000, leaves_failed: 0, tasks };
    let decided = plan(&dag, &snapshot, &[(TaskIndex(0), Ending::Succeeded)], start()).unwrap();
    let moved: Vec<_> = decided.moves.iter().map(|step| (step.task.0, step.to)).collect();
    assert_eq!(moved, [(0, TaskState::Success), (1, TaskState::Queued)]);
}

/// A week of an hourly DAG whose tasks fail often: 168 runs, hours of waits for retries, and not one of them waited for.
#[test]
fn a_week_of_retries_passes_in_simulated_time() {
    let link = |back: &[usize], rule| Drawn::work(rule, back, 3);
    let dag = dag_of(
        &[
            link(&[], TriggerRule::AllSuccess),
            link(&[1], TriggerRule::AllSuccess),
            link(&[1], TriggerRule::AllSuccess),
            link(&[1, 2], TriggerRule::NoneFailed),
            link(&[1], TriggerRule::AllDone),
        ],
        "0 * * * *".parse().unwrap(),
    );
    let choices: Vec<u8> = (0..=255_u8).map(|n| n.wrapping_mul(157).wrapping_add(11)).collect();
    let mut fate = Fate { choices: &choices, at: 0 };
    let (mut tick, mut runs, mut tried_again, mut waited) = (start(), 0, 0, TimeDelta::zero());
    let end = start() + TimeDelta::days(7);
    let mut states = BTreeSet::new();
    loop {
        let settings = &dag.settings;
        tick = settings.schedule.next_after(tick, settings.timezone, settings.dst, None).expect("hours go on");
        if tick > end {
            break;
        }
        let mut world = World::new(&dag, tick);
        states.insert(world.run(&mut fate, 2, None).as_str());
        runs += 1;
        tried_again += world.tried_again;
        waited += world.now - tick;
    }
    assert_eq!(runs, 7 * 24);
    assert!(tried_again > runs / 2, "{tried_again} retries in {runs} runs");
    assert!(waited > TimeDelta::hours(12), "only {waited} were waited");
    assert_eq!(states, BTreeSet::from(["failed", "success"]));
}
