//! `pinsched serve`, within the test's process: services on one database, a folder of DAG files, scripted operators.

mod callbacks;
mod chaos;
mod control;
mod files;
mod large;
mod limits;
mod links;
mod mapping;
mod schedules;
mod upgrade;
mod upkeep;
mod watched;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use chrono::TimeDelta;
use pinsched::clock;
use pinsched::connect::NamedSettings;
use pinsched::domain::ids::DagId;
use pinsched::domain::masking::Masks;
use pinsched::domain::run_state::RunState;
use pinsched::engine::exports::Receivers;
use pinsched::engine::lookup::Lookup;
use pinsched::engine::observer::Observer;
use pinsched::engine::shutdown::Shutdown;
use pinsched::engine::{Engine, register};
use pinsched::service::{Door, Metrics, Retention, Role, Service, ServiceError};
use pinsched::store::{Begin, DagState, NewRun, Run, SecretKeys, Store};
use tempfile::TempDir;
use tokio::task::JoinSet;

use crate::dags::{self, House};

/// Services and what they serve.
pub struct Served {
    pub house: House,
    folder: TempDir,
    /// What the services follow within the folder, where it is not all of it.
    within: Option<&'static str>,
    pub services: JoinSet<Result<(), ServiceError>>,
    pub shutdown: Shutdown,
    retention: Retention,
    /// Who the services tell of runs.
    pub receivers: Receivers,
    /// Where the services tell of their health, in the order of their start.
    addresses: Vec<SocketAddr>,
}

impl Served {
    /// A database and an empty folder; no service yet.
    pub async fn nothing() -> Self {
        Self::in_house(House::open().await)
    }

    /// The same on that database.
    fn in_house(house: House) -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self {
            house,
            folder,
            within: None,
            services: JoinSet::new(),
            shutdown: Shutdown::default(),
            retention: Retention::default(),
            receivers: Receivers::default(),
            addresses: Vec::new(),
        }
    }

    /// The same with one service on these files.
    pub async fn by_one(files: &[(&str, &str)]) -> Self {
        let mut served = Self::nothing().await;
        for (name, text) in files {
            served.write(name, text);
        }
        served.start().await;
        served
    }

    /// Starts one more service; it can be killed by the handle.
    pub async fn start(&mut self) -> tokio::task::AbortHandle {
        self.start_with(NamedSettings::default()).await
    }

    /// The same with connections and variables.
    async fn start_with(&mut self, named: NamedSettings) -> tokio::task::AbortHandle {
        let mut engine = self.house.engine().await;
        let url = &self.house.url;
        engine.store = Store::connect_telling(url, 6, self.receivers.wanted()).await.unwrap();
        engine.receivers = Arc::new(self.receivers.clone());
        engine.lookup = Lookup::new(engine.store.clone(), named, SecretKeys::default(), Masks::default());
        let sign = register(&engine.store).await.unwrap();
        let roles = BTreeSet::from([Role::Scheduler, Role::Worker]);
        let mut dags = self.folder.path().canonicalize().unwrap();
        dags.extend(self.within);
        let metrics = Arc::new(Metrics::new());
        let engine = Engine { observer: Arc::clone(&metrics) as Arc<dyn Observer>, ..engine };
        let door = Door::open("127.0.0.1:0".parse().unwrap()).await.unwrap();
        self.addresses.push(door.address());
        let (misfire_grace, retention, door) = (TimeDelta::hours(1), self.retention, Some(door));
        let service = Service { engine, dags, roles, misfire_grace, sign, retention, metrics, door };
        let shutdown = self.shutdown.clone();
        self.services.spawn(async move { service.run(&shutdown).await })
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn write(&self, name: &str, text: &str) {
        // As editors do: whole, beside it, and then in its place.
        let beside = self.path(&format!("{name}.part"));
        std::fs::write(&beside, text).unwrap();
        std::fs::rename(beside, self.path(name)).unwrap();
    }

    /// Waits until something is so, and gives what was seen then.
    pub async fn until<T>(&self, what: &str, look: impl AsyncFn(&House) -> Option<T>) -> T {
        let waiting = async {
            let mut tick = tokio::time::interval(Duration::from_millis(20));
            loop {
                tick.tick().await;
                if let Some(seen) = look(&self.house).await {
                    return seen;
                }
            }
        };
        let waited = tokio::time::timeout(Duration::from_secs(60), waiting).await;
        waited.unwrap_or_else(|_| panic!("waited 60 s for {what}"))
    }

    pub async fn dag(&self, id: &str, is_so: impl Fn(&DagState) -> bool) -> DagState {
        let dag: DagId = id.parse().unwrap();
        let look = async |house: &House| house.store.dag_state(&dag).await.unwrap().filter(|state| is_so(state));
        self.until(&format!("DAG `{id}`"), look).await
    }

    /// The DAG's runs, oldest first.
    async fn runs(&self, id: &str) -> Vec<Run> {
        let mut runs = self.house.store.list_runs(Some(&id.parse().unwrap()), 1000).await.unwrap();
        runs.reverse();
        runs
    }

    /// Triggers a run of a registered DAG from its text.
    pub async fn trigger(&self, text: &str, name: &str) -> Run {
        let dag = dags::dag(text);
        let run_id = format!("manual__{name}").parse().unwrap();
        let (begin, now) = (Begin::InTurn, clock::now());
        let file = self.path("orders.yaml").canonicalize().unwrap();
        let file = file.to_string_lossy();
        let new = NewRun { run_id, logical_date: now, begin, file: &file, ..dags::new_run(&dag, text) };
        self.house.store.create_run(&new, now).await.unwrap()
    }

    pub async fn ended(&self, run: &Run) -> RunState {
        let look = async |house: &House| {
            let now = house.store.run(run.key).await.unwrap().expect("it is there");
            now.state.is_final().then_some(now.state)
        };
        self.until(&format!("the end of `{}`", run.run_id), look).await
    }

    /// Stops all services, and fails if one had failed.
    pub async fn stop(mut self) {
        self.shutdown.stop();
        while let Some(ended) = self.services.join_next().await {
            match ended {
                Ok(served) => served.unwrap(),
                Err(error) => assert!(error.is_cancelled(), "{error}"),
            }
        }
    }
}
