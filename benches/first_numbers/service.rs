//! The service on the embedded Postgres, in this process: the shapes by which schedulers are compared. Times are those of
//! the database's rows, from a run's creation by another connection to its last task's end.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use chrono::TimeDelta;
use futures::StreamExt as _;
use pinsched::clock;
use pinsched::domain::Timestamp;
use pinsched::domain::check;
use pinsched::domain::dag::Dag;
use pinsched::domain::ids::DagId;
use pinsched::domain::operator_kind::OperatorKind;
use pinsched::domain::run_type::RunType;
use pinsched::domain::source::SourceFile;
use pinsched::engine::lookup::Lookup;
use pinsched::engine::observer::Nobody;
use pinsched::engine::operator::{Failure, Operator, Output, Registration, TaskContext};
use pinsched::engine::outputs::{OutputLimits, OutputStore};
use pinsched::engine::shutdown::Shutdown;
use pinsched::engine::{Engine, register};
use pinsched::operators;
use pinsched::service::{Metrics, Retention, Role, Service};
use pinsched::store::{Begin, NewRun, Run, Store, Word};
use secrecy::SecretString;
use serde_json::Value;
use tokio::task::JoinSet;

use super::{chain, durable_commits, line, median, milliseconds, nowhere};

/// Sleeps a tenth of a second.
static SLEEP: OperatorKind = OperatorKind {
    name: "sleep",
    class_paths: &[],
    about: "Sleeps a tenth of a second",
    schema: || schemars::json_schema!({ "type": "object", "additionalProperties": false }),
    check: |_| Vec::new(),
    late_fields: &[],
    file_keys: &[],
};

/// Who triggers runs at the same time.
const CLIENTS: usize = 8;

const NAP: Duration = Duration::from_millis(100);

struct Sleep;

#[async_trait]
impl Operator for Sleep {
    async fn run(&self, _: &TaskContext) -> Result<Output, Failure> {
        tokio::time::sleep(NAP).await;
        Ok(Output::new())
    }
}

fn registrations() -> &'static [Registration] {
    let sleep = Registration { kind: &SLEEP, build: |_: Value| Ok(Box::new(Sleep)) };
    operators::registry().iter().copied().chain([sleep]).collect::<Vec<_>>().leak()
}

/// A service at work, and the DAGs of its folder.
struct Served {
    store: Store,
    shutdown: Shutdown,
    work: JoinSet<()>,
    dags: Vec<(Dag, String)>,
    runs: AtomicI64,
}

impl Served {
    async fn start(url: &str, folder: &Path, slots: usize, files: &[String]) -> Self {
        let registrations = registrations();
        let kinds: Vec<_> = registrations.iter().map(|registration| registration.kind).collect();
        std::fs::create_dir_all(folder).unwrap();
        let mut dags = Vec::new();
        for (place, text) in files.iter().enumerate() {
            std::fs::write(folder.join(format!("{place}.yaml")), text).unwrap();
            let checked = check::check(&SourceFile::new("bench.yaml", text), &kinds);
            dags.extend(checked.dags.into_iter().map(|dag| (dag, text.clone())));
        }
        let store = Store::connect(&SecretString::from(url), 20).await.unwrap();
        store.migrate().await.unwrap();
        let engine = Engine {
            store: store.clone(),
            registrations,
            endpoints: Arc::new(nowhere()),
            observer: Arc::new(Nobody),
            slots,
            memory_limit: 512 * 1024 * 1024,
            processes: Default::default(),
            receivers: Default::default(),
            max_map_length: 10_000,
            outputs: Arc::new(OutputStore::new(nowhere().s3, OutputLimits::default())),
            lookup: Lookup::new(store.clone(), Default::default(), Default::default(), Default::default()),
        };
        let sign = register(&store).await.unwrap();
        let roles = BTreeSet::from([Role::Scheduler, Role::Worker]);
        let service = Service {
            engine,
            dags: folder.to_owned(),
            roles,
            misfire_grace: TimeDelta::hours(1),
            sign,
            door: None,
            metrics: Arc::new(Metrics::default()),
            retention: Retention { days: None, runs_per_dag: None },
        };
        let (shutdown, mut work) = (Shutdown::default(), JoinSet::new());
        let stopping = shutdown.clone();
        work.spawn(async move { service.run(&stopping).await.unwrap() });
        let served = Self { store, shutdown, work, dags, runs: AtomicI64::new(0) };
        for (dag, _) in &served.dags {
            while served.store.dag_state(dag.id()).await.unwrap().is_none_or(|state| state.version.is_none()) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
        served
    }

    /// Asks for a run, as `pinsched trigger` does.
    async fn trigger(&self, dag: usize) -> Run {
        let place = self.runs.fetch_add(1, Ordering::Relaxed);
        let (dag, text) = &self.dags[dag];
        let now = clock::now();
        let logical_date = now + TimeDelta::microseconds(place);
        let new = NewRun {
            dag,
            file: "/bench.yaml",
            source: text,
            run_id: RunType::Manual.run_id(logical_date, 0),
            run_type: RunType::Manual,
            rerun: 0,
            logical_date,
            data_interval_start: logical_date,
            data_interval_end: logical_date,
            params: serde_json::Map::new(),
            conf: serde_json::Map::new(),
            note: None,
            triggered_by: "benchmark",
            begin: Begin::InTurn,
        };
        let run = self.store.create_run(&new, now).await.unwrap();
        self.store.tell(Word::Work).await.unwrap();
        run
    }

    /// When these runs were created and when they ended, first and last of all.
    async fn ended(&self, runs: &[Run]) -> (Timestamp, Timestamp) {
        let mut last = Timestamp::UNIX_EPOCH;
        for run in runs {
            loop {
                let now = self.store.run(run.key).await.unwrap().unwrap();
                if let Some(finished) = now.finished_at {
                    last = last.max(finished);
                    break;
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
        (runs.iter().map(|run| run.queued_at).min().unwrap(), last)
    }

    async fn stop(mut self) {
        self.shutdown.stop();
        while self.work.join_next().await.is_some() {}
    }
}

fn between((from, to): (Timestamp, Timestamp)) -> Duration {
    (to - from).to_std().unwrap_or_default()
}

/// Prints the figures.
pub(super) async fn figures(url: &str, folder: &Path) {
    let commits =
        median(vec![durable_commits(url, 5).await, durable_commits(url, 5).await, durable_commits(url, 5).await]);
    let many = |name: &str, length: usize| {
        chain(length).replacen("chain:\n", &format!("{name}:\n  max_active_runs: 1000\n"), 1)
    };
    let files = [many("steps", 3), many("burst", 10), fan_of_naps(10_000)];
    let served = Served::start(url, &folder.join("shapes"), 16, &files[..2]).await;
    for _ in 0..5 {
        let run = served.trigger(0).await;
        served.ended(&[run]).await;
    }
    let mut steps = Vec::new();
    for _ in 0..50 {
        let run = served.trigger(0).await;
        steps.push(between(served.ended(&[run]).await));
    }
    line("steps-3, trigger to end, of 50", median(steps), ("5 durable commits", commits), Duration::from_millis(8));
    rate(&served, "steps-3, 100 at once", 0, 100, 500.0, "workflows/s").await;
    rate(&served, "burst, 50 runs of a chain of 10", 1, 50, 1000.0, "runs/s").await;
    served.stop().await;

    let served = Served::start(url, &folder.join("naps"), 100, &files[2..]).await;
    let run = served.trigger(0).await;
    let took = between(served.ended(&[run]).await);
    let ideal = NAP * 10_000 / 100;
    let share = ideal.as_secs_f64() / took.as_secs_f64() * 100.0;
    println!(
        "{:<40} {:>9.1} ms {:>9.1} ms {share:>6.1}%  98% of ideal: {}",
        "sleepers, 10,000 x 0.1 s, 100 slots",
        milliseconds(took),
        milliseconds(ideal),
        super::verdict(share >= 98.0)
    );
    served.stop().await;

    heavy(&folder.join("heavy"), url).await;

    let every_second = "second: {schedule: '* * * * * *', tasks: {one: {operator: empty}}}".to_owned();
    let served = Served::start(url, &folder.join("cron"), 16, &[every_second]).await;
    cron(&served).await;
    served.stop().await;
}

/// Ten processes of Python that compute, one after the other; the floor is a shell that starts them.
async fn heavy(folder: &Path, url: &str) {
    let fib = "def fib(n):\n    return n if n < 2 else fib(n - 1) + fib(n - 2)\nfib(33)\n";
    std::fs::create_dir_all(folder).unwrap();
    let script = folder.join("fib.py");
    std::fs::write(&script, fib).unwrap();
    let mut file = String::from("heavy:\n  tasks:\n");
    for place in 0..10 {
        let after = if place > 0 { format!(", dependencies: [t{}]", place - 1) } else { String::new() };
        let _ = writeln!(file, "    t{place}: {{operator: bash, bash_command: 'python3 {}'{after}}}", script.display());
    }
    let served = Served::start(url, &folder.join("dags"), 16, &[file]).await;
    let run = served.trigger(0).await;
    let took = between(served.ended(&[run]).await);
    served.stop().await;
    let begun = clock::monotonic();
    for _ in 0..10 {
        assert!(tokio::process::Command::new("python3").arg(&script).status().await.unwrap().success());
    }
    let floor = begun.elapsed();
    line("heavy-10, python fib(33) in sequence", took, ("the same by hand", floor), floor.mul_f64(1.1));
}

/// So many runs at once.
async fn rate(served: &Served, figure: &str, dag: usize, count: usize, goal: f64, unit: &str) {
    let triggers = futures::stream::iter((0..count).map(|_| served.trigger(dag)));
    let runs: Vec<Run> = triggers.buffer_unordered(CLIENTS).collect().await;
    let took = between(served.ended(&runs).await);
    let rate = f64::from(u32::try_from(count).unwrap()) / took.as_secs_f64();
    println!(
        "{figure:<40} {:>9.1} ms {:>12} {:>8}  {rate:.0} {unit}, at least {goal:.0}: {}",
        milliseconds(took),
        "-",
        "-",
        super::verdict(rate >= goal)
    );
}

/// From a tick to the start of its run's first task, over thirty ticks.
async fn cron(served: &Served) {
    let id: DagId = "second".parse().unwrap();
    let mut delays = Vec::new();
    while delays.len() < 30 {
        tokio::time::sleep(Duration::from_millis(500)).await;
        delays.clear();
        for run in served.store.list_runs(Some(&id), 100).await.unwrap() {
            let attempts = served.store.attempts(run.key, pinsched::domain::ids::TaskIndex(0)).await.unwrap();
            delays.extend(attempts.first().map(|attempt| between((run.logical_date, attempt.started_at))));
        }
    }
    delays.sort();
    let (p50, p99) = (delays[delays.len() / 2], *delays.last().unwrap());
    println!(
        "{:<40} {:>9.1} ms {:>12} {:>8}  worst of {} {:.1} ms, under 5 ms: {}",
        "cron, tick to first task's start",
        milliseconds(p50),
        "-",
        "-",
        delays.len(),
        milliseconds(p99),
        super::verdict(p99 < Duration::from_millis(5))
    );
}

fn fan_of_naps(width: usize) -> String {
    let mut file = String::from("naps:\n  tasks:\n");
    for place in 0..width {
        let _ = writeln!(file, "    t{place}: {{operator: sleep}}");
    }
    file
}
