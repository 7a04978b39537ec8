//! A DAG that was checked: what the engine plans with. Only `domain::check` makes one.

use std::collections::BTreeMap;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use chrono_tz::Tz;
use petgraph::Direction;
use petgraph::graph::{DiGraph, NodeIndex};
use petgraph::visit::EdgeRef;
use serde_json::{Map, Value};

use crate::domain::Timestamp;
use crate::domain::callbacks::{Callbacks, Deadline};
use crate::domain::ids::{DagId, TaskId, TaskIndex};
use crate::domain::mapping::Mapping;
use crate::domain::retry::RetryPolicy;
pub use crate::domain::schedule::Schedule;
use crate::domain::trigger_rule::{Role, TriggerRule};

/// A DAG: acyclic, every edge names a task, every key was understood.
#[derive(Debug, Clone)]
pub struct Dag {
    /// What a file says of the DAG as a whole.
    pub settings: DagSettings,
    tasks: Vec<Task>,
    graph: DiGraph<TaskIndex, ()>,
    /// By task: how many of its direct upstreams are setups.
    setups_upstream: Vec<u32>,
    /// By task: whether its failure fails the run.
    decides: Vec<bool>,
    groups: Vec<TaskGroup>,
}

/// The keys of a DAG that are not its tasks.
#[derive(Debug, Clone)]
pub struct DagSettings {
    /// Its id, unique over all files.
    pub id: DagId,
    /// One line about it.
    pub description: Option<String>,
    /// Markdown about it (Airflow's `doc_md`).
    pub doc_md: Option<String>,
    /// When it runs, in `timezone`.
    pub schedule: Schedule,
    /// The zone in which `schedule` is read.
    pub timezone: Tz,
    /// What the run of a tick is for.
    pub data_interval: DataIntervals,
    /// No logical date before this instant.
    pub start_date: Option<Timestamp>,
    /// No logical date after this instant.
    pub end_date: Option<Timestamp>,
    /// What becomes of ticks that were missed.
    pub catchup: Catchup,
    /// What becomes of a tick while an earlier run is unfinished.
    pub overlap: Overlap,
    /// What becomes of local times that a change of the clocks skips or repeats.
    pub dst: DstPolicy,
    /// Runs at once.
    pub max_active_runs: u32,
    /// Task runs at once, over all runs of the DAG.
    pub max_active_tasks: Option<u32>,
    /// Whether a new DAG starts paused (`is_paused_upon_creation`).
    pub paused_upon_creation: bool,
    /// A run that takes longer is failed.
    pub dagrun_timeout: Option<Duration>,
    /// By when a run is to have ended.
    pub deadline: Option<Deadline>,
    /// Who is told of its runs.
    pub callbacks: Callbacks,
    /// Who looks after it.
    pub owner: Option<String>,
    /// Words to find it by.
    pub tags: Vec<String>,
    /// Parameters with their defaults; `--param` and `conf` override them ([`crate::domain::params::resolve`]).
    pub params: Map<String, Value>,
    /// JSON Schemas of those that have one.
    pub param_schemas: BTreeMap<String, Value>,
}

/// What the run of a tick is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DataIntervals {
    /// The tick itself (Airflow 3's way).
    #[default]
    Trigger,
    /// The time from the tick before, which is its logical date, to the tick (Airflow 2's way).
    Cron,
}

/// What becomes of ticks that were missed while nothing ran.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Catchup {
    /// Nothing before the next tick.
    #[default]
    None,
    /// The latest one.
    Latest,
    /// Every one.
    All,
    /// Those of the last `window`, at most `max`.
    Window {
        /// How far back.
        window: Duration,
        /// How many at the most.
        max: Option<u32>,
    },
}

/// What becomes of a tick while an earlier run is unfinished.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Overlap {
    /// It waits.
    #[default]
    Queue,
    /// It is dropped.
    Skip,
    /// The earlier run is cancelled.
    CancelRunning,
}

/// What becomes of local times around a change of the clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DstPolicy {
    /// A local time that does not exist.
    pub gap: DstGap,
    /// A local time that comes twice.
    pub overlap: DstOverlap,
}

/// A local time that the clocks skip.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DstGap {
    /// Runs as much later as the clocks moved: 02:30 runs at 03:30, and the schedule goes on from there (Airflow's way).
    #[default]
    Shift,
    /// Runs when the gap ends: 02:30 runs at 03:00.
    RunAtEnd,
    /// Does not run.
    Skip,
}

/// A local time that the clocks repeat.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DstOverlap {
    /// Runs the second time; what takes every hour runs both times (Airflow's way).
    #[default]
    Second,
    /// Runs the first time.
    First,
    /// Runs both times.
    Both,
}

/// One task of a DAG.
#[derive(Debug, Clone)]
pub struct Task {
    /// Its place in the DAG.
    pub index: TaskIndex,
    /// Its id, unique in the DAG.
    pub id: TaskId,
    /// The operator's short name, as registered.
    pub operator: &'static str,
    /// The operator's own keys as typed, templates not rendered yet; an object.
    pub config: Value,
    /// When it is tried again.
    pub retry: RetryPolicy,
    /// An attempt that takes longer is stopped and fails.
    pub execution_timeout: Option<Duration>,
    /// How long after its first attempt began it is to have ended.
    pub deadline: Option<Duration>,
    /// Who is told of it.
    pub callbacks: Callbacks,
    /// When it may run.
    pub trigger_rule: TriggerRule,
    /// Whether it prepares what others use (Airflow's setup tasks).
    pub is_setup: bool,
    /// Whether it cleans up what setups prepared (Airflow's teardown tasks).
    pub is_teardown: bool,
    /// Whether a teardown's failure fails the run.
    pub on_failure_fail_dagrun: bool,
    /// The pool whose slots it takes.
    pub pool: Option<String>,
    /// How many slots of the pool.
    pub pool_slots: u32,
    /// Higher goes first among ready tasks: what its weight rule makes of the weights in the file.
    pub priority_weight: i32,
    /// Waits for its own previous run's success.
    pub depends_on_past: bool,
    /// Waits for its previous run's direct downstreams.
    pub wait_for_downstream: bool,
    /// At most so many of it at once, over all runs.
    pub max_active_tis_per_dag: Option<u32>,
    /// At most so many of it at once in a run: of a mapped task's instances.
    pub max_active_tis_per_dagrun: Option<u32>,
    /// What it is expanded over, where it is mapped.
    pub mapping: Option<Arc<Mapping>>,
    /// Markdown about it.
    pub doc_md: Option<String>,
}

/// What counts beside a task's own `priority_weight`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum WeightRule {
    /// The weights of all tasks that come after it (Airflow's default): what much waits for goes first.
    #[default]
    Downstream,
    /// The weights of all tasks that come before it: runs that are far go first.
    Upstream,
    /// Nothing.
    Absolute,
}

/// A task of a DAG that is shared: thousands may be at work, and none holds a copy of what its file says.
#[derive(Debug, Clone)]
pub struct SharedTask {
    dag: Arc<Dag>,
    index: TaskIndex,
}

impl Deref for SharedTask {
    type Target = Task;

    fn deref(&self) -> &Task {
        &self.dag.tasks[self.index.as_usize()] // it was there when this was made, and a DAG does not change
    }
}

/// Tasks that belong together: drawn as one, and waited for as one. The engine knows tasks alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskGroup {
    /// Its id: the names of the groups that it is in, and its own.
    pub id: String,
    /// Its own name.
    pub label: String,
    /// A line about it.
    pub tooltip: Option<String>,
    /// The place, in [`Dag::groups`], of the group that it is in.
    pub parent: Option<usize>,
    /// The tasks that are in it, those in its own groups aside.
    pub tasks: Vec<TaskIndex>,
}

impl Task {
    /// What it is for, as trigger rules see it.
    #[must_use]
    pub fn role(&self) -> Role {
        if self.is_setup { Role::Setup } else { Role::Work }
    }
}

impl Dag {
    /// Puts a DAG together; `edges` go from upstream to downstream and name tasks by their place in `tasks`. None of them
    /// closes a circle: `check` has refused those, with their places.
    ///
    /// Duplicate edges count once.
    pub(in crate::domain) fn assemble(
        settings: DagSettings,
        tasks: Vec<Task>,
        edges: &[(TaskIndex, TaskIndex)],
    ) -> Self {
        let mut graph = DiGraph::with_capacity(tasks.len(), edges.len());
        for task in &tasks {
            graph.add_node(task.index);
        }
        for (upstream, downstream) in edges {
            graph.update_edge(node(*upstream), node(*downstream), ());
        }
        debug_assert!(petgraph::algo::toposort(&graph, None).is_ok(), "`check` refuses circles");
        let is_setup = |task: &NodeIndex| tasks[graph[*task].as_usize()].is_setup;
        let setups_upstream = |task: &Task| {
            let setups = graph.neighbors_directed(node(task.index), Direction::Incoming).filter(is_setup).count();
            u32::try_from(setups).unwrap_or(u32::MAX)
        };
        let setups_upstream = tasks.iter().map(setups_upstream).collect();
        let decides = deciding(&tasks, &graph);
        Self { settings, tasks, graph, setups_upstream, decides, groups: Vec::new() }
    }

    /// With its task groups.
    pub(in crate::domain) fn with_groups(self, groups: Vec<TaskGroup>) -> Self {
        Self { groups, ..self }
    }

    /// The task groups, in the file's order.
    #[must_use]
    pub fn groups(&self) -> &[TaskGroup] {
        &self.groups
    }

    /// The tasks of the group at that place and of the groups in it, in index order.
    #[must_use]
    pub fn tasks_of_group(&self, position: usize) -> Vec<TaskIndex> {
        let is_within = |at: usize| {
            std::iter::successors(Some(at), |at| self.groups.get(*at)?.parent).any(|around| around == position)
        };
        let within = self.groups.iter().enumerate().filter(|(at, _)| is_within(*at));
        let mut tasks: Vec<TaskIndex> = within.flat_map(|(_, group)| group.tasks.iter().copied()).collect();
        tasks.sort_unstable();
        tasks
    }

    /// The DAG's id.
    #[must_use]
    pub fn id(&self) -> &DagId {
        &self.settings.id
    }

    /// The tasks, in the file's order; a task's place is its [`TaskIndex`].
    #[must_use]
    pub fn tasks(&self) -> &[Task] {
        &self.tasks
    }

    /// The task at `index`, when there is one.
    #[must_use]
    pub fn task(&self, index: TaskIndex) -> Option<&Task> {
        self.tasks.get(index.as_usize())
    }

    /// The task at `index`, to be kept without a copy of it.
    #[must_use]
    pub fn share_task(self: &Arc<Self>, index: TaskIndex) -> Option<SharedTask> {
        self.task(index).map(|_| SharedTask { dag: Arc::clone(self), index })
    }

    /// The task with that id.
    #[must_use]
    pub fn task_named(&self, id: &TaskId) -> Option<&Task> {
        self.tasks.iter().find(|task| task.id == *id)
    }

    /// The tasks that `index` waits for, in index order.
    #[must_use]
    pub fn upstream(&self, index: TaskIndex) -> Vec<TaskIndex> {
        self.neighbours(index, Direction::Incoming)
    }

    /// The tasks that wait for `index`, in index order.
    #[must_use]
    pub fn downstream(&self, index: TaskIndex) -> Vec<TaskIndex> {
        self.neighbours(index, Direction::Outgoing)
    }

    /// How many of a task's direct upstreams are setups.
    #[must_use]
    pub fn setups_upstream(&self, index: TaskIndex) -> u32 {
        self.setups_upstream.get(index.as_usize()).copied().unwrap_or(0)
    }

    /// Whether more than a worker's free slot is needed for that task: a pool's, the DAG's, its own, or a run before.
    #[must_use]
    pub fn is_limited(&self, index: TaskIndex) -> bool {
        let is_limited = |task: &Task| {
            let is_bounded = task.max_active_tis_per_dag.is_some() || task.max_active_tis_per_dagrun.is_some();
            task.pool.is_some() || is_bounded || task.depends_on_past
        };
        self.settings.max_active_tasks.is_some() || self.task(index).is_some_and(is_limited)
    }

    /// Whether the task's failure fails the run: it is one of the last, teardowns aside that do not ask to count
    /// (`on_failure_fail_dagrun`). Where there are only such teardowns the last of them decide.
    #[must_use]
    pub fn decides(&self, index: TaskIndex) -> bool {
        self.decides.get(index.as_usize()).copied().unwrap_or(false)
    }

    /// Everything that `index` waits for, directly or not, in index order. Costs the edges among them.
    #[must_use]
    pub fn ancestors(&self, index: TaskIndex) -> Vec<TaskIndex> {
        self.reached(&[index], Direction::Incoming)
    }

    /// Everything that waits for one of `indexes`, directly or not, in index order. Costs the edges among them.
    #[must_use]
    pub fn descendants(&self, indexes: &[TaskIndex]) -> Vec<TaskIndex> {
        self.reached(indexes, Direction::Outgoing)
    }

    fn reached(&self, from: &[TaskIndex], direction: Direction) -> Vec<TaskIndex> {
        let mut seen = vec![false; self.tasks.len()];
        let mut ahead: Vec<NodeIndex> = from.iter().map(|index| node(*index)).collect();
        while let Some(next) = ahead.pop() {
            for neighbour in self.graph.neighbors_directed(next, direction) {
                if !std::mem::replace(&mut seen[neighbour.index()], true) {
                    ahead.push(neighbour);
                }
            }
        }
        self.tasks.iter().map(|task| task.index).filter(|index| seen[index.as_usize()]).collect()
    }

    /// Whether anybody is told of anything.
    #[must_use]
    pub fn has_callbacks(&self) -> bool {
        !self.settings.callbacks.is_empty() || self.tasks.iter().any(|task| !task.callbacks.is_empty())
    }

    /// How many tasks wait for `index`.
    #[must_use]
    pub fn out_degree(&self, index: TaskIndex) -> usize {
        self.graph.edges_directed(node(index), Direction::Outgoing).count()
    }

    /// Every edge, upstream first, in index order.
    #[must_use]
    pub fn edges(&self) -> Vec<(TaskIndex, TaskIndex)> {
        let mut edges: Vec<_> =
            self.graph.edge_references().map(|edge| (self.graph[edge.source()], self.graph[edge.target()])).collect();
        edges.sort_unstable();
        edges
    }

    /// The tasks so that each comes after all of its upstreams; equal ones in index order.
    #[must_use]
    pub fn topological(&self) -> Vec<TaskIndex> {
        let mut waiting: Vec<usize> = self
            .tasks
            .iter()
            .map(|task| self.graph.edges_directed(node(task.index), Direction::Incoming).count())
            .collect();
        let mut ready: std::collections::BTreeSet<TaskIndex> =
            self.tasks.iter().map(|task| task.index).filter(|index| waiting[index.as_usize()] == 0).collect();
        let mut order = Vec::with_capacity(self.tasks.len());
        while let Some(index) = ready.pop_first() {
            order.push(index);
            for next in self.downstream(index) {
                waiting[next.as_usize()] -= 1;
                if waiting[next.as_usize()] == 0 {
                    ready.insert(next);
                }
            }
        }
        order
    }

    fn neighbours(&self, index: TaskIndex, direction: Direction) -> Vec<TaskIndex> {
        let mut found: Vec<TaskIndex> =
            self.graph.neighbors_directed(node(index), direction).map(|node| self.graph[node]).collect();
        found.sort_unstable();
        found
    }
}

/// Which tasks decide a run's state.
fn deciding(tasks: &[Task], graph: &DiGraph<TaskIndex, ()>) -> Vec<bool> {
    let counts = |task: &Task| !task.is_teardown || task.on_failure_fail_dagrun;
    let after = |task: &Task| graph.neighbors_directed(node(task.index), Direction::Outgoing);
    let is_last = |task: &Task| counts(task) && !after(task).any(|next| counts(&tasks[next.index()]));
    let deciding: Vec<bool> = tasks.iter().map(is_last).collect();
    if deciding.contains(&true) {
        return deciding;
    }
    tasks.iter().map(|task| after(task).next().is_none()).collect()
}

fn node(index: TaskIndex) -> NodeIndex {
    NodeIndex::new(index.as_usize())
}
