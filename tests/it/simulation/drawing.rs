//! Random DAG files, and what becomes of each try of their tasks: drawn before anything runs, so that neither crashes nor
//! the order of things change what a task would do.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

use pinsched::domain::dag::Dag;
use pinsched::domain::ids::TaskIndex;
use pinsched::domain::mapping::Expansion;
use pinsched::domain::plan::{Ending, Skips};
use pinsched::domain::trigger_rule::TriggerRule;
use rand::rngs::StdRng;
use rand::{Rng, RngExt};
use serde_json::Map;

use crate::dags;

/// A DAG with what its tasks do.
pub struct Drawn {
    pub text: String,
    pub dag: Arc<Dag>,
    /// By task, by try since it was last cleared: how that try ends. The last one goes on for all further ones. A mapped
    /// task's tries are those of its expansion.
    pub fates: Vec<Vec<Ending>>,
    /// The same of the instances of mapped tasks.
    pub instance_fates: BTreeMap<(TaskIndex, u32), Vec<Ending>>,
    /// By task: whether its attempts wait for something outside before they end.
    pub defers: Vec<bool>,
}

/// The slots of the pools that drawn DAGs name.
pub const POOLS: [(&str, u32); 2] = [("narrow", 2), ("wide", 5)];

/// What is drawn of a task before it is put into words.
#[derive(Default)]
struct Sketch {
    upstream: Vec<usize>,
    keys: String,
    is_setup: bool,
    is_teardown: bool,
}

pub fn chance(random: &mut StdRng, percent: u32) -> bool {
    random.random_range(0..100) < percent
}

/// One of these.
pub fn pick<T: Copy>(random: &mut StdRng, among: &[T]) -> T {
    among[random.random_range(0..among.len())]
}

impl Drawn {
    /// A DAG of up to `most` tasks, with every kind of key that scheduling knows.
    pub fn draw(random: &mut StdRng, id: &str, most: usize) -> Self {
        let text = draw_text(random, id, most);
        let dag = Arc::new(dags::dag(&text));
        let mut instance_fates = BTreeMap::new();
        let mut fates = Vec::new();
        for task in dag.tasks() {
            let tries = task.retry.retries as usize + 1;
            let width = task.mapping.is_some().then(|| random.random_range(0..=5_u32));
            for map_index in 0..width.unwrap_or(0) {
                let fates = (0..tries).map(|_| draw_instance_fate(random, &dag, task.index)).collect();
                instance_fates.insert((task.index, map_index), fates);
            }
            fates.push((0..tries).map(|_| draw_fate(random, &dag, task.index, width)).collect());
        }
        let defers = dag.tasks().iter().map(|_| chance(random, 12)).collect();
        Self { text, dag, fates, instance_fates, defers }
    }

    /// What becomes of the tries of a task, or of an instance of it.
    pub fn fates_of(&self, task: TaskIndex, instance_of: Option<(TaskIndex, u32)>) -> &[Ending] {
        match instance_of {
            Some(instance) => &self.instance_fates[&instance],
            None => &self.fates[task.as_usize()],
        }
    }

    /// Whether attempts of it wait for something outside; an expansion does not.
    pub fn defers(&self, task: TaskIndex, instance_of: Option<(TaskIndex, u32)>) -> bool {
        match instance_of {
            Some((map_of, _)) => self.defers[map_of.as_usize()],
            None => self.defers[task.as_usize()] && self.dag.task(task).is_some_and(|task| task.mapping.is_none()),
        }
    }
}

/// Instances choose nothing.
fn draw_instance_fate(random: &mut StdRng, dag: &Dag, task: TaskIndex) -> Ending {
    match draw_fate(random, dag, task, None) {
        Ending::Chose(_) => Ending::Succeeded,
        other => other,
    }
}

/// How a try ends; of a mapped task, with so many instances, how its expansion does.
fn draw_fate(random: &mut StdRng, dag: &Dag, task: TaskIndex, width: Option<u32>) -> Ending {
    let jitter = f64::from(random.next_u32() % 1000) / 1000.0;
    match random.random_range(0..100) {
        0..88 if width == Some(0) => Ending::Skipped,
        0..88 if let Some(width) = width => {
            let (items, labels) = (vec![Map::new(); width as usize], vec![None; width as usize]);
            Ending::Expanded(Arc::new(Expansion { items, labels }))
        }
        0..56 => Ending::Succeeded,
        56..64 => Ending::Chose(match random.random_range(0..3) {
            0 => Skips::Next,
            1 => Skips::Downstream,
            _ => Skips::AllBut(dag.downstream(task).into_iter().filter(|_| chance(random, 50)).collect()),
        }),
        64..70 => Ending::Skipped,
        70..92 => Ending::Failed { retryable: true, jitter },
        _ => Ending::Failed { retryable: false, jitter },
    }
}

fn draw_text(random: &mut StdRng, id: &str, most: usize) -> String {
    let count = random.random_range(1..=most);
    // Tasks of a group stand together; what comes later may wait for the group.
    let group = (count >= 5 && chance(random, 40)).then(|| {
        let first = random.random_range(1..count - 2);
        first..random.random_range(first + 1..count - 1)
    });
    let in_group = |at: usize| group.as_ref().is_some_and(|group| group.contains(&at));
    let mut sketches: Vec<Sketch> = Vec::new();
    for at in 0..count {
        let mut sketch = Sketch { is_setup: !in_group(at) && chance(random, 12), ..Sketch::default() };
        for back in 1..=at.min(5) {
            if chance(random, 30) && sketch.upstream.len() < 4 {
                sketch.upstream.push(at - back);
            }
        }
        let setups: Vec<usize> = (0..at).filter(|&before| sketches[before].is_setup).collect();
        sketch.is_teardown = !sketch.is_setup && !in_group(at) && !setups.is_empty() && chance(random, 35);
        draw_keys(random, &mut sketch, &sketches, &setups);
        sketches.push(sketch);
    }
    let mut text = format!("{id}:\n  max_active_runs: 100\n");
    if chance(random, 30) {
        writeln!(text, "  max_active_tasks: {}", random.random_range(1..5)).unwrap();
    }
    if let Some(group) = &group {
        let waits: Vec<String> = (0..group.start)
            .filter(|&at| !sketches[at].is_setup && chance(random, 20))
            .map(|at| format!("t{at}"))
            .collect();
        writeln!(text, "  task_groups:\n    g: {{prefix_group_id: false, dependencies: [{}]}}", waits.join(", "))
            .unwrap();
    }
    text.push_str("  tasks:\n");
    for (at, sketch) in sketches.iter().enumerate() {
        let mut upstream: Vec<String> = sketch.upstream.iter().map(|at| format!("t{at}")).collect();
        if group.as_ref().is_some_and(|group| at >= group.end) && chance(random, 30) {
            upstream.push("g".to_owned());
        }
        let group = if in_group(at) { ", task_group_name: g" } else { "" };
        let keys = &sketch.keys;
        writeln!(text, "    t{at}: {{operator: script, dependencies: [{}]{group}{keys}}}", upstream.join(", "))
            .unwrap();
    }
    text
}

fn draw_keys(random: &mut StdRng, sketch: &mut Sketch, before: &[Sketch], setups: &[usize]) {
    let mut keys = String::new();
    if sketch.is_setup {
        keys.push_str(", setup: true");
    }
    if sketch.is_teardown {
        let setup = pick(random, setups);
        write!(keys, ", teardown: true, setups: [t{setup}]").unwrap();
        if chance(random, 50) {
            keys.push_str(", on_failure_fail_dagrun: true");
        }
    }
    let uses_setup = sketch.upstream.iter().any(|&at| before[at].is_setup);
    if !sketch.is_teardown && !uses_setup && chance(random, 60) {
        write!(keys, ", trigger_rule: {}", pick(random, &TriggerRule::ALL).as_str()).unwrap();
    }
    if chance(random, 50) {
        let (retries, delay) = (random.random_range(1..4), random.random_range(0..5));
        write!(keys, ", retries: {retries}, retry_delay: {delay}").unwrap();
        if chance(random, 30) {
            keys.push_str(", retry_exponential_backoff: true");
        }
    }
    if chance(random, 25) {
        let (pool, slots) = pick(random, &POOLS);
        write!(keys, ", pool: {pool}, pool_slots: {}", random.random_range(1..=slots)).unwrap();
    }
    if chance(random, 30) {
        write!(keys, ", weight_rule: absolute, priority_weight: {}", random.random_range(-3..9)).unwrap();
    }
    if chance(random, 20) {
        // Over what, its fate says.
        keys.push_str(", expand: {say: \"{{ [] }}\"}");
    }
    if chance(random, 10) {
        keys.push_str(", max_active_tis_per_dag: 1");
    }
    if chance(random, 8) {
        keys.push_str(pick(random, &[", depends_on_past: true", ", wait_for_downstream: true"]));
    }
    sketch.keys = keys;
}
