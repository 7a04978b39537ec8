//! What a service counts and measures, for Prometheus. Counters and histograms are this process's; what stands in the
//! database is asked for when somebody looks, and remembered for a few seconds.
//!
//! No label has values without bound: states, outcomes, roles, and pools, of which there are a handful.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use chrono::TimeDelta;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

use crate::clock;
use crate::domain::Timestamp;
use crate::domain::ids::{RunKey, TaskIndex};
use crate::domain::plan::Move;
use crate::domain::run_state::RunState;
use crate::domain::task_state::{TaskEvent, TaskState};
use crate::engine::observer::Observer;
use crate::engine::operator::Progress;
use crate::service::Role;
use crate::store::{Load, Pool, Store, StoreError};

/// How long what the database said is good for.
const FRESH: Duration = Duration::from_secs(5);

/// Tasks that wait for their start, of which is remembered since when: more, and the wait of some is not measured.
const REMEMBERED: usize = 100_000;

type Label = [(&'static str, String); 1];

/// The metrics of a process.
pub struct Metrics {
    registry: Registry,
    attempts_started: Counter,
    attempts: Family<Label, Counter>,
    runs_ended: Family<Label, Counter>,
    ticks: Family<Label, Counter>,
    taken_over: Counter,
    database_losses: Counter,
    runs_deleted: Counter,
    schedule_delay: Histogram,
    start_delay: Histogram,
    step: Histogram,
    tasks: Family<Label, Gauge>,
    runs: Family<Label, Gauge>,
    pool_slots: Family<Label, Gauge>,
    pool_slots_free: Family<Label, Gauge>,
    oldest: Gauge<f64, AtomicU64>,
    broken_files: Gauge,
    database_up: Gauge,
    memory: Gauge,
    /// Since when tasks are ready that this process released.
    ready_since: Mutex<HashMap<(RunKey, TaskIndex), Timestamp>>,
    signs: Mutex<BTreeMap<Role, Instant>>,
    looked_at: tokio::sync::Mutex<Option<Instant>>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// Nothing has happened yet.
    #[must_use]
    pub fn new() -> Self {
        // From a millisecond, or ten, to minutes.
        let quick = || Histogram::new(exponential_buckets(0.001, 2.0, 14));
        let slow = || Histogram::new(exponential_buckets(0.01, 2.0, 16));
        let mut metrics = Self {
            registry: Registry::default(),
            attempts_started: Counter::default(),
            attempts: Family::default(),
            runs_ended: Family::default(),
            ticks: Family::default(),
            taken_over: Counter::default(),
            database_losses: Counter::default(),
            runs_deleted: Counter::default(),
            schedule_delay: slow(),
            start_delay: slow(),
            step: quick(),
            tasks: Family::default(),
            runs: Family::default(),
            pool_slots: Family::default(),
            pool_slots_free: Family::default(),
            oldest: Gauge::default(),
            broken_files: Gauge::default(),
            database_up: Gauge::default(),
            memory: Gauge::default(),
            ready_since: Mutex::default(),
            signs: Mutex::default(),
            looked_at: tokio::sync::Mutex::default(),
        };
        metrics.registry = metrics.register();
        metrics
    }

    fn register(&self) -> Registry {
        let mut all = Registry::default();
        all.register_with_unit(
            "process_resident_memory",
            "The memory that this process holds",
            Unit::Bytes,
            self.memory.clone(),
        );
        let ours = all.sub_registry_with_prefix("pinsched");
        ours.register("build", "The version that runs", Info::new([("version", env!("CARGO_PKG_VERSION"))]));
        ours.register("task_attempts_started", "Attempts that this process began", self.attempts_started.clone());
        ours.register("task_attempts", "Attempts that ended, by outcome", self.attempts.clone());
        ours.register("runs_ended", "Runs that ended, by state", self.runs_ended.clone());
        ours.register("ticks", "Ticks of schedules, by what became of them", self.ticks.clone());
        ours.register("leases_taken_over", "Attempts taken over from workers that were gone", self.taken_over.clone());
        ours.register("database_losses", "Times that the worker lost the database", self.database_losses.clone());
        ours.register("retention_runs_deleted", "Finished runs deleted past keeping", self.runs_deleted.clone());
        let in_seconds = [
            ("schedule_delay", "From a tick to the beginning of its run", &self.schedule_delay),
            ("task_start_delay", "From when a task was ready to the start of its attempt", &self.start_delay),
            ("engine_step", "One step of the engine, its commit included", &self.step),
        ];
        for (name, about, histogram) in in_seconds {
            ours.register_with_unit(name, about, Unit::Seconds, histogram.clone());
        }
        ours.register("tasks", "Tasks that wait or run, by state, of all processes", self.tasks.clone());
        ours.register("runs", "Runs that are not over, by state", self.runs.clone());
        ours.register("pool_slots", "Slots of each pool", self.pool_slots.clone());
        ours.register("pool_slots_free", "Slots of each pool that nothing takes", self.pool_slots_free.clone());
        ours.register_with_unit(
            "queue_oldest",
            "For how long the task that waits longest is ready",
            Unit::Seconds,
            self.oldest.clone(),
        );
        ours.register("broken_files", "DAG files that cannot be used as they are", self.broken_files.clone());
        ours.register("database_up", "1 when the database answered the last look, else 0", self.database_up.clone());
        all
    }

    /// A run of a tick, or one that waited for its turn, began so long after its time.
    pub(super) fn begun(&self, delay: TimeDelta) {
        self.schedule_delay.observe(delay.to_std().unwrap_or_default().as_secs_f64());
    }

    /// What became of ticks: `run`, `exists`, `skipped` or `dropped`.
    pub(super) fn ticked(&self, outcome: &'static str, ticks: u64) {
        self.ticks.get_or_create(&[("outcome", outcome.to_owned())]).inc_by(ticks);
    }

    /// Runs were deleted.
    pub(super) fn deleted(&self, runs: u64) {
        self.runs_deleted.inc_by(runs);
    }

    /// A role shows that it works.
    pub(super) fn works(&self, role: Role) {
        self.signs.lock().unwrap_or_else(PoisonError::into_inner).insert(role, clock::monotonic());
    }

    /// For how long a role has not shown that it works; none when it never has.
    pub(super) fn silent_for(&self, role: Role) -> Option<Duration> {
        self.signs.lock().unwrap_or_else(PoisonError::into_inner).get(&role).map(Instant::elapsed)
    }

    /// All of it in the text form of OpenMetrics, after a look at the database, unless the last one was just now.
    pub(super) async fn text(&self, store: &Store, patience: Duration) -> Result<String, std::fmt::Error> {
        let mut looked_at = self.looked_at.lock().await;
        if looked_at.is_none_or(|at| at.elapsed() >= FRESH) {
            let look = async { Ok::<_, StoreError>((store.load().await?, store.pools().await?)) };
            match tokio::time::timeout(patience, look).await {
                Ok(Ok((load, pools))) => self.show(&load, &pools),
                Ok(Err(_)) | Err(_) => self.show_nothing(),
            }
            *looked_at = Some(clock::monotonic());
        }
        drop(looked_at);
        self.memory.set(resident_bytes().unwrap_or_default());
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }

    fn show(&self, load: &Load, pools: &[Pool]) {
        let tasks = [
            (TaskState::Queued, load.queued),
            (TaskState::UpForRetry, load.up_for_retry),
            (TaskState::Running, load.running),
            (TaskState::Deferred, load.deferred),
        ];
        for (state, count) in tasks {
            self.tasks.get_or_create(&[("state", state.to_string())]).set(count);
        }
        for (state, count) in [(RunState::Queued, load.runs_queued), (RunState::Running, load.runs_running)] {
            self.runs.get_or_create(&[("state", state.to_string())]).set(count);
        }
        self.pool_slots.clear();
        self.pool_slots_free.clear();
        for pool in pools {
            let label = [("pool", pool.name.clone())];
            self.pool_slots.get_or_create(&label).set(pool.slots.into());
            self.pool_slots_free.get_or_create(&label).set(i64::from(pool.slots) - pool.used);
        }
        self.oldest.set(load.oldest_seconds);
        self.broken_files.set(load.broken_files);
        self.database_up.set(1);
    }

    /// What the database said before is not so any more, for all that is known.
    fn show_nothing(&self) {
        for family in [&self.tasks, &self.runs, &self.pool_slots, &self.pool_slots_free] {
            family.clear();
        }
        self.database_up.set(0);
    }
}

impl Observer for Metrics {
    fn attempt_started(&self, run: RunKey, task: TaskIndex, _try_number: i32, _progress: &Arc<Progress>) {
        self.attempts_started.inc();
        let ready = self.ready_since.lock().unwrap_or_else(PoisonError::into_inner).remove(&(run, task));
        if let Some(ready) = ready {
            self.start_delay.observe((clock::now() - ready).to_std().unwrap_or_default().as_secs_f64());
        }
    }

    fn task_moved(&self, run: RunKey, step: &Move, _error: Option<&str>) {
        let outcome = match step.event {
            // No attempt of its own ends with a mapped task.
            _ if step.from == TaskState::Mapped => None,
            TaskEvent::Expanded => Some("success"),
            TaskEvent::Succeeded => Some("success"),
            TaskEvent::FailedForNow | TaskEvent::FailedForGood => Some("failed"),
            TaskEvent::Interrupted => Some("interrupted"),
            TaskEvent::Lost | TaskEvent::LostForGood => Some("lost"),
            TaskEvent::SkippedItself => Some("skipped"),
            TaskEvent::Cancelled if matches!(step.from, TaskState::Running | TaskState::Deferred) => Some("cancelled"),
            _ => None,
        };
        if let Some(outcome) = outcome {
            self.attempts.get_or_create(&[("outcome", outcome.to_owned())]).inc();
        }
        if outcome == Some("lost") {
            self.taken_over.inc();
        }
        let mut ready_since = self.ready_since.lock().unwrap_or_else(PoisonError::into_inner);
        match step.ready_at {
            Some(ready_at) if ready_since.len() < REMEMBERED => {
                ready_since.insert((run, step.task), ready_at);
            }
            _ => {
                ready_since.remove(&(run, step.task));
            }
        }
    }

    fn run_concluded(&self, run: RunKey, state: RunState) {
        self.runs_ended.get_or_create(&[("state", state.to_string())]).inc();
        self.ready_since.lock().unwrap_or_else(PoisonError::into_inner).retain(|(of, _), _| *of != run);
    }

    fn database_lost(&self, _error: &str) {
        self.database_losses.inc();
    }

    fn stepped(&self, took: Duration) {
        self.step.observe(took.as_secs_f64());
    }

    fn looked_around(&self) {
        self.works(Role::Worker);
    }
}

/// What Linux says that this process holds.
fn resident_bytes() -> Option<i64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let held = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: i64 = held.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_page_for_production_has_every_metric_in_the_same_words() {
        let metrics = Metrics::new();
        // What has labels is there once something was counted.
        metrics.ticked("run", 1);
        metrics.run_concluded(RunKey(1), RunState::Success);
        metrics.attempts.get_or_create(&[("outcome", "success".to_owned())]).inc();
        let pool = Pool { name: "warehouse".to_owned(), slots: 4, used: 1, waiting: 0, description: None };
        metrics.show(&Load::default(), &[pool]);
        let mut text = String::new();
        encode(&mut text, &metrics.registry).unwrap();
        let words = |kind: &str| -> BTreeMap<String, String> {
            let lines = text.lines().filter_map(|line| line.strip_prefix(kind)?.trim().split_once(' '));
            lines.map(|(name, said)| (name.to_owned(), said.trim_end_matches('.').to_owned())).collect()
        };
        let (helps, types) = (words("# HELP"), words("# TYPE"));
        let real: BTreeSet<String> = types
            .iter()
            .map(|(name, kind)| {
                let ending = match kind.as_str() {
                    "counter" => "_total",
                    "info" => "_info",
                    _ => "",
                };
                format!("| `{name}{ending}` | {kind} | {} |", helps[name])
            })
            .collect();
        assert!(real.len() > 10, "{text}");
        let page = include_str!("../../docs/production.md");
        let section = page.split_once("## Metrics").unwrap().1.split_once("\n## ").unwrap().0;
        let told: BTreeSet<String> =
            section.lines().filter(|line| line.starts_with("| `")).map(str::to_owned).collect();
        assert_eq!(told, real);
    }

    #[test]
    fn a_run_that_is_over_is_not_remembered() {
        let metrics = Metrics::new();
        let ready = Move {
            task: TaskIndex(0),
            event: TaskEvent::Released,
            from: TaskState::None,
            to: TaskState::Queued,
            ready_at: Some(clock::now()),
            try_number: 1,
            lost: 0,
        };
        for run in [RunKey(1), RunKey(2)] {
            metrics.task_moved(run, &ready, None);
        }
        assert_eq!(metrics.ready_since.lock().unwrap().len(), 2);
        metrics.run_concluded(RunKey(1), RunState::Failed);
        metrics.attempt_started(RunKey(2), TaskIndex(0), 1, &Arc::default());
        assert!(metrics.ready_since.lock().unwrap().is_empty());
    }
}
