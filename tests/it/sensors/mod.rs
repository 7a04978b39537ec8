//! Tasks that wait without a slot: sensors, `trigger_dag_run`, `http_job`; one by one, and within services.

mod examples;
mod jobs;
mod looks;
mod slots;
mod triggers;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::LazyLock;
use std::time::Duration;

use chrono::TimeDelta;
use pinsched::clock;
use pinsched::domain::check::check;
use pinsched::domain::dag::Dag;
use pinsched::domain::ids::DagId;
use pinsched::domain::operator_kind::OperatorKind;
use pinsched::domain::run_state::RunState;
use pinsched::domain::source::SourceFile;
use pinsched::domain::task_state::TaskState;
use pinsched::engine::operator::Registration;
use pinsched::engine::shutdown::Shutdown;
use pinsched::engine::{Engine, register};
use pinsched::operators;
use pinsched::service::{Metrics, Retention, Role, Service, ServiceError};
use pinsched::store::{Begin, NewRun, Run};
use tempfile::TempDir;
use tokio::task::{AbortHandle, JoinSet};

use crate::dags::{House, new_run};
use crate::script;

/// The real operators, and scripts beside them.
static OPERATORS: LazyLock<Vec<Registration>> =
    LazyLock::new(|| operators::registry().iter().chain(script::REGISTRATIONS).copied().collect());

fn kinds() -> Vec<&'static OperatorKind> {
    OPERATORS.iter().map(|registration| registration.kind).collect()
}

/// The DAG of that id in a file with real operators and scripts.
fn dag(text: &str, id: &str) -> Dag {
    let file = SourceFile::new("waits.yaml", text);
    let checked = check(&file, &kinds());
    let said: Vec<String> = checked.diagnostics.iter().map(|diagnostic| diagnostic.render(&file, false)).collect();
    assert!(!checked.has_errors(), "{}", said.join("\n"));
    checked.dags.into_iter().find(|dag| dag.id().as_str() == id).expect("the file has the DAG")
}

/// Services with real operators that follow one file.
pub(crate) struct Stand {
    pub(crate) house: House,
    folder: TempDir,
    text: String,
    slots: usize,
    services: JoinSet<Result<(), ServiceError>>,
    shutdown: Shutdown,
}

impl Stand {
    /// One service with so many slots.
    pub(crate) async fn with(slots: usize, text: &str) -> (Self, AbortHandle) {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("waits.yaml"), text).unwrap();
        let (services, shutdown) = (JoinSet::new(), Shutdown::default());
        let mut stand = Self { house: House::open().await, folder, text: text.to_owned(), slots, services, shutdown };
        let first = stand.start().await;
        (stand, first)
    }

    /// Starts one more service; it can be killed by the handle.
    async fn start(&mut self) -> AbortHandle {
        let engine = Engine { registrations: OPERATORS.as_slice(), slots: self.slots, ..self.house.engine().await };
        let sign = register(&engine.store).await.unwrap();
        let roles = BTreeSet::from([Role::Scheduler, Role::Worker]);
        let dags = self.folder.path().canonicalize().unwrap();
        let (misfire_grace, retention) = (TimeDelta::hours(1), Retention { days: None, runs_per_dag: None });
        let (metrics, door) = (Arc::new(Metrics::new()), None);
        let service = Service { engine, dags, roles, misfire_grace, sign, retention, metrics, door };
        let shutdown = self.shutdown.clone();
        self.services.spawn(async move { service.run(&shutdown).await })
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().canonicalize().unwrap().join(name)
    }

    /// Waits until something is so.
    pub(crate) async fn until(&self, what: &str, is_so: impl AsyncFn(&House) -> bool) {
        let waiting = async {
            let mut tick = tokio::time::interval(Duration::from_millis(20));
            while !is_so(&self.house).await {
                tick.tick().await;
            }
        };
        let waited = tokio::time::timeout(Duration::from_secs(60), waiting).await;
        assert!(waited.is_ok(), "waited 60 s for {what}");
    }

    /// Triggers a run of one of the file's DAGs once it is registered.
    pub(crate) async fn trigger(&self, id: &str) -> Run {
        let dag_id: DagId = id.parse().unwrap();
        self.until("the DAG", async |house: &House| {
            house.store.dag_state(&dag_id).await.unwrap().is_some_and(|state| state.version.is_some())
        })
        .await;
        let (dag, now) = (dag(&self.text, id), clock::now());
        let file = self.path("waits.yaml");
        let new = NewRun {
            run_id: "manual__1".parse().unwrap(),
            logical_date: now,
            data_interval_start: now,
            data_interval_end: now,
            begin: Begin::InTurn,
            file: &file.to_string_lossy(),
            ..new_run(&dag, &self.text)
        };
        self.house.store.create_run(&new, now).await.unwrap()
    }

    /// Waits until that many of the run's tasks are in a state.
    pub(crate) async fn until_tasks(&self, run: &Run, count: usize, state: TaskState) {
        self.until(&format!("{count} tasks that are {state}"), async |house: &House| {
            let tasks = house.store.task_runs(run.key).await.unwrap();
            tasks.iter().filter(|task| task.state == state).count() == count
        })
        .await;
    }

    pub(crate) async fn ended(&self, run: &Run) -> RunState {
        let now = async |house: &House| house.store.run(run.key).await.unwrap().expect("it is there").state;
        self.until(&format!("the end of `{}`", run.run_id), async |house: &House| now(house).await.is_final()).await;
        now(&self.house).await
    }

    /// The runs of a DAG, oldest first.
    pub(crate) async fn runs(&self, id: &str) -> Vec<Run> {
        let mut runs = self.house.store.list_runs(Some(&id.parse().unwrap()), 100).await.unwrap();
        runs.reverse();
        runs
    }

    /// What became of the run's tasks, as text.
    pub(crate) async fn picture(&self, run: &Run) -> String {
        let picture = crate::dags::picture(&self.house.store, run.key).await;
        picture.split_once('\n').unwrap().1.to_owned()
    }

    /// Stops all services, and fails if one had failed.
    pub(crate) async fn stop(mut self) {
        self.shutdown.stop();
        while let Some(ended) = self.services.join_next().await {
            match ended {
                Ok(served) => served.unwrap(),
                Err(error) => assert!(error.is_cancelled(), "{error}"),
            }
        }
    }
}
