//! What a worker has in hand: its runs with what it knows of them, and what happened to them and is not written yet.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::domain::dag::Dag;
use crate::domain::ids::{RunKey, TaskIndex};
use crate::domain::mapping::Instance;
use crate::engine::running::{KnownOutputs, RunningRun};
use crate::store::{EndedAttempt, RunBatch};

/// How long a run is remembered that this worker has nothing to do with any more, unless it ends here.
const REMEMBERED: Duration = Duration::from_secs(60);

/// Ends of attempts that are not written yet, by run; their fences say what still counts.
pub(super) type Unwritten = BTreeMap<RunKey, Vec<EndedAttempt>>;

/// A run in hand.
pub(super) struct Held {
    pub(super) run: RunningRun,
    pub(super) outputs: KnownOutputs,
    /// How often tasks of it had been cleared when its outputs were last known to hold.
    clears: Option<i32>,
    used: Instant,
    /// Of the instances of mapped tasks that began here: their task, and which of its instances.
    instances: HashMap<TaskIndex, (TaskIndex, u32)>,
}

impl Held {
    /// These instances begin here.
    pub(super) fn note_instances(&mut self, instances: &BTreeMap<TaskIndex, (TaskIndex, Instance)>) {
        let noted = instances.iter().map(|(index, (map_of, instance))| (*index, (*map_of, instance.map_index)));
        self.instances.extend(noted);
    }

    /// What a task is called, and which instance of it is meant, where one is.
    pub(super) fn name_of(&self, task: TaskIndex) -> (Option<&str>, Option<u32>) {
        let instance = self.instances.get(&task);
        let described = instance.map_or(task, |(map_of, _)| *map_of);
        (self.run.dag.task(described).map(|task| task.id.as_str()), instance.map(|(_, map_index)| *map_index))
    }
}

/// The runs of a worker.
#[derive(Default)]
pub(super) struct Hand {
    runs: HashMap<RunKey, Held>,
    /// What ended and is not written.
    pub(super) ended: Unwritten,
    /// Runs to be looked at whole, since somebody asked for their cancellation.
    pub(super) sweep: BTreeSet<RunKey>,
}

impl Hand {
    /// Nothing but what could not be written before.
    pub(super) fn with(unwritten: Unwritten) -> Self {
        Self { runs: HashMap::new(), ended: unwritten, sweep: BTreeSet::new() }
    }

    pub(super) fn take_in(&mut self, run: RunningRun, now: Instant) {
        let (outputs, instances) = (KnownOutputs::default(), HashMap::new());
        self.runs.entry(run.key).or_insert(Held { run, outputs, clears: None, used: now, instances });
    }

    pub(super) fn has(&self, run: RunKey) -> bool {
        self.runs.contains_key(&run)
    }

    /// Tasks of a run were cleared so often: if that is more than before, what they left is not known any more.
    pub(super) fn note_clears(&mut self, run: RunKey, clears: Option<i32>) {
        let (Some(held), Some(clears)) = (self.runs.get_mut(&run), clears) else { return };
        if held.clears.replace(clears).unwrap_or(0) != clears {
            held.outputs = KnownOutputs::default();
        }
    }

    pub(super) fn held(&self, run: RunKey) -> Option<&Held> {
        self.runs.get(&run)
    }

    pub(super) fn held_mut(&mut self, run: RunKey, now: Instant) -> Option<&mut Held> {
        let held = self.runs.get_mut(&run)?;
        held.used = now;
        Some(held)
    }

    /// The run is over, or gone.
    pub(super) fn let_go(&mut self, run: RunKey) {
        self.runs.remove(&run);
        self.ended.remove(&run);
        self.sweep.remove(&run);
    }

    /// Forgets runs that were not used for a while and that nothing `is_live` of; says which.
    pub(super) fn forget_idle(&mut self, now: Instant, is_live: impl Fn(RunKey) -> bool) -> Vec<RunKey> {
        let is_idle = |held: &Held| now.duration_since(held.used) > REMEMBERED;
        let candidates = self.runs.iter().filter(|(run, held)| is_idle(held) && !is_live(**run)).map(|(run, _)| *run);
        let idle: Vec<RunKey> = candidates.filter(|run| !self.ended.contains_key(run)).collect();
        for run in &idle {
            self.runs.remove(run);
        }
        idle
    }

    /// Runs that something happened to, and that are not in hand.
    pub(super) fn missing(&self) -> Vec<RunKey> {
        let happened: BTreeSet<RunKey> = self.ended.keys().chain(&self.sweep).copied().collect();
        happened.into_iter().filter(|run| !self.has(*run)).collect()
    }

    /// An attempt ended, or waits for something outside; that it waits is forgotten once it has ended.
    pub(super) fn end(&mut self, run: RunKey, ended: EndedAttempt) {
        let waiting = self.ended.entry(run).or_default();
        waiting.retain(|earlier| (earlier.task, earlier.fence) != (ended.task, ended.fence));
        waiting.push(ended);
    }

    /// Whether anything waits to be written.
    pub(super) fn is_idle(&self) -> bool {
        self.ended.is_empty() && self.sweep.is_empty()
    }

    /// The runs that something happened to, with their DAGs and what ended of them, up to so many ends: those are kept until
    /// they are written, for a step that fails is done again.
    pub(super) fn happened(&self, most: usize) -> Vec<(RunKey, Arc<Dag>, Vec<EndedAttempt>)> {
        let mut left = most;
        let runs: BTreeSet<RunKey> = self.ended.keys().chain(&self.sweep).copied().collect();
        let portion = |run: RunKey| {
            let ended = self.ended.get(&run).map(Vec::as_slice).unwrap_or_default();
            let taken = &ended[..ended.len().min(left)];
            left -= taken.len();
            // Without an end it is a sweep, which a run's ends are not held back for.
            let is_told = !taken.is_empty() || ended.is_empty();
            is_told.then(|| Some((run, Arc::clone(&self.runs.get(&run)?.run.dag), taken.to_vec()))).flatten()
        };
        runs.into_iter().filter_map(portion).collect()
    }

    /// These ends were written: the first so many of each run.
    pub(super) fn wrote(&mut self, written: &[RunBatch<'_>]) {
        for batch in written {
            if let Some(ended) = self.ended.get_mut(&batch.run) {
                ended.drain(..batch.ended.len().min(ended.len()));
                if ended.is_empty() {
                    self.ended.remove(&batch.run);
                }
            }
            if batch.ended.is_empty() {
                self.sweep.remove(&batch.run);
            }
        }
    }
}
