//! DAGs of scripted tasks, their runs on a database of their own, and what became of a run as text.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use pinsched::clock;
use pinsched::connect::NamedSettings;
use pinsched::domain::Timestamp;
use pinsched::domain::check::check;
use pinsched::domain::dag::Dag;
use pinsched::domain::ids::{RunKey, TaskIndex};
use pinsched::domain::masking::Masks;
use pinsched::domain::run_type::RunType;
use pinsched::domain::source::SourceFile;
use pinsched::domain::task_state::TaskState;
use pinsched::engine::Engine;
use pinsched::engine::lookup::Lookup;
use pinsched::engine::observer::Nobody;
use pinsched::engine::outputs::{OutputLimits, OutputStore};
use pinsched::engine::running::RunningRun;
use pinsched::store::{Begin, NewRun, Run, SecretKeys, Store};
use secrecy::{ExposeSecret, SecretString};
use sqlx::{Connection, Executor, PgConnection};

use crate::script::{self, Stage};
use crate::{attempts, services};

/// pinsched's state on a database of its own, and a connection to look at it with.
pub struct House {
    pub store: Store,
    pub url: SecretString,
    pub sql: PgConnection,
}

/// A run of a DAG, as a test holds it.
pub struct Play {
    pub dag: Dag,
    pub run: Run,
    pub stage: Stage,
}

/// The DAG of a file whose tasks are scripts.
pub fn dag(text: &str) -> Dag {
    let file = SourceFile::new("orders.yaml", text);
    let mut checked = check(&file, &[&script::KIND]);
    let said: Vec<String> = checked.diagnostics.iter().map(|diagnostic| diagnostic.render(&file, false)).collect();
    assert!(!checked.has_errors(), "{}", said.join("\n"));
    checked.dags.pop().expect("a DAG in the file")
}

/// The logical date of all runs, unless a test wants another.
pub fn date() -> Timestamp {
    "2026-02-01T00:00:00Z".parse().unwrap()
}

/// What a run of `dag` is made from.
pub fn new_run<'a>(dag: &'a Dag, text: &'a str) -> NewRun<'a> {
    NewRun {
        dag,
        file: "/dags/orders.yaml",
        source: text,
        run_id: "manual__2026-02-01T00:00:00+00:00".parse().unwrap(),
        run_type: RunType::Manual,
        rerun: 0,
        logical_date: date(),
        data_interval_start: date(),
        data_interval_end: date(),
        params: serde_json::Map::new(),
        conf: serde_json::Map::new(),
        note: None,
        triggered_by: "test",
        begin: Begin::InTurn,
    }
}

impl House {
    pub async fn open() -> Self {
        Self::on(services::database().await).await
    }

    /// On that empty database.
    pub async fn on(url: SecretString) -> Self {
        let store = Store::connect(&url, 12).await.expect("the new database answers");
        store.migrate().await.expect("the migrations run on an empty database");
        let mut sql = PgConnection::connect(url.expose_secret()).await.unwrap();
        // Far apart, so that one id in another's place is found out, and beyond 32 bits, since ids are bigints.
        for (table, start) in
            [("dag_version", 5_000), ("dag", 7_000_000_321_i64), ("worker", 6_000_000_123_i64), ("run", 9_000_000_000)]
        {
            let restart = format!("ALTER TABLE {table} ALTER COLUMN id RESTART WITH {start}");
            sql.execute(sqlx::AssertSqlSafe(restart)).await.unwrap();
        }
        Self { store, url, sql }
    }

    /// Creates a run of that DAG file.
    pub async fn play(&self, text: &str) -> Play {
        let dag = dag(text);
        let run = self.store.create_run(&new_run(&dag, text), clock::now()).await.expect("the run is new");
        Play { stage: Stage::of(run.uuid), dag, run }
    }

    /// The engine with its scripted operators, on connections of its own.
    pub async fn engine(&self) -> Engine {
        let store = Store::connect(&self.url, 6).await.expect("the test's Postgres answers");
        Engine {
            lookup: Lookup::new(store.clone(), NamedSettings::default(), SecretKeys::default(), Masks::default()),
            store,
            registrations: script::REGISTRATIONS,
            endpoints: Arc::new(attempts::nowhere()),
            observer: Arc::new(Nobody),
            slots: 8,
            memory_limit: 64 * 1024 * 1024,
            processes: Default::default(),
            receivers: Default::default(),
            max_map_length: 10_000,
            outputs: Arc::new(OutputStore::new(attempts::nowhere().s3, OutputLimits::default())),
        }
    }

    /// The run as a worker takes it up now.
    pub async fn running(&self, play: &Play) -> RunningRun {
        let run = self.store.run(play.run.key).await.unwrap().expect("the run was created");
        RunningRun::new(&run, play.dag.clone())
    }

    /// What became of the run, as text.
    pub async fn picture(&self, play: &Play) -> String {
        picture(&self.store, play.run.key).await
    }

    /// Waits until the task is stored in that state.
    pub async fn until(&self, play: &Play, task: &str, state: TaskState) {
        let index = play.task(task).as_usize();
        let waiting = async {
            let mut look = tokio::time::interval(Duration::from_millis(20));
            while self.store.task_runs(play.run.key).await.unwrap()[index].state != state {
                look.tick().await;
            }
        };
        let waited = tokio::time::timeout(Duration::from_secs(60), waiting).await;
        assert!(waited.is_ok(), "waited 60 s for `{task}` to be {state}");
    }

    /// How often `event` happened to each of the run's tasks, for comparison and for messages.
    pub async fn happened(&self, play: &Play, event: &str) -> Vec<(TaskIndex, usize)> {
        let history = self.store.transitions(play.run.key).await.unwrap();
        let count = |task: TaskIndex| history.iter().filter(|t| t.task == task && t.event.as_str() == event).count();
        play.dag.tasks().iter().map(|task| (task.index, count(task.index))).collect()
    }

    pub async fn execute(&mut self, statement: &str) -> u64 {
        let done = self.sql.execute(sqlx::AssertSqlSafe(statement.to_owned())).await;
        done.unwrap_or_else(|error| panic!("{statement}: {error}")).rows_affected()
    }
}

impl Play {
    /// The task's place.
    pub fn task(&self, id: &str) -> TaskIndex {
        self.dag.task_named(&id.parse().unwrap()).unwrap_or_else(|| panic!("no task `{id}`")).index
    }
}

/// A run and its tasks, a line each: state, attempt, losses, error.
pub async fn picture(store: &Store, run: RunKey) -> String {
    let tasks = store.task_runs(run).await.unwrap();
    let run = store.run(run).await.unwrap().expect("the run was created");
    let mut text = format!("{} @ {}  {}", run.dag_id, run.logical_date.format("%Y-%m-%d"), run.state);
    if run.cancel_requested_at.is_some() {
        text.push_str("  (cancelled)");
    }
    let width = tasks.iter().map(|task| task.name().to_string().len()).max().unwrap_or(0);
    for task in tasks {
        let mut line = format!("  {:<width$}  {:<15}", task.name().to_string(), task.state.as_str());
        if task.fence > 0 {
            write!(line, "  attempt {}", task.try_number).unwrap();
        }
        if task.lost > 0 {
            write!(line, "  lost {}", task.lost).unwrap();
        }
        if let Some(error) = task.error {
            write!(line, "  {error:?}").unwrap();
        }
        text.push('\n');
        text.push_str(line.trim_end());
    }
    text
}
