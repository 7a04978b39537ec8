//! What most commands need first: settings, logs, and the store behind them.

use std::sync::Arc;

use anyhow::Context;
use secrecy::SecretString;

use crate::cli::arguments::Everywhere;
use crate::cli::output::Printer;
use crate::config::{Environment, Flags, OutputSettings, Settings, key};
use crate::domain::diagnostic::closest;
use crate::domain::ids::DagId;
use crate::domain::masking::Masks;
use crate::embedded::{self, Component, LeaseRequest, Phase, Progress, Resolved, StackError, StackLease};
use crate::engine::Engine;
use crate::engine::lookup::{Lookup, secrets_of};
use crate::engine::observer::Observer;
use crate::engine::outputs::{OutputLimits, OutputStore, SpillPlace};
use crate::operators;
use crate::store::{DagState, Run, SecretKeys, Store};

/// A command's settings and its printer.
pub(crate) struct Session {
    pub(crate) settings: Settings,
    pub(crate) printer: Printer,
    /// What is masked in all that this process writes to logs.
    pub(crate) masks: Masks,
}

impl Session {
    /// Reads settings and sets logs up.
    ///
    /// A process that stays tells what it does by its logs; a command tells it otherwise.
    pub(crate) fn open(flags: &Everywhere, stays: bool) -> anyhow::Result<Self> {
        let settings = Settings::load(&to_flags(flags), &Environment::capture(), ".".as_ref())?;
        // A pool that loses its connections says so in many lines; what follows from it the engine tells in one.
        let default = if stays { "info,sqlx_core=error,aws_config=warn" } else { "warn,sqlx_core=error" };
        let masks = Masks::default();
        masks.add(&settings.secrets());
        crate::telemetry::init(&settings.log, default, masks.clone())?;
        let printer = Printer::new(flags.output, settings.no_color);
        Ok(Self { settings, printer, masks })
    }

    /// Connects the store alone, for commands that read: of the embedded stack only Postgres is started.
    ///
    /// A home that is not there is not made: nothing can have run in it.
    pub(crate) async fn connect_store(&self) -> anyhow::Result<(Option<StackLease>, Store)> {
        self.must_have_run()?;
        let (lease, store) = self.connect_database().await?;
        // Who only reads leaves a database that is not pinsched's as it is.
        if lease.is_none() && !store.has_tables().await? {
            anyhow::bail!(
                "nothing has run with this database: it has no tables of pinsched's (is `database_url` right?)"
            )
        }
        store.migrate().await?;
        Ok((lease, store))
    }

    /// The same for commands that may be the first ones: the home and the tables are made.
    pub(crate) async fn connect_or_make_store(&self) -> anyhow::Result<(Option<StackLease>, Store)> {
        let (lease, store) = self.connect_database().await?;
        store.migrate().await?;
        Ok((lease, store))
    }

    /// Whether there may be a database at all: one is configured, or the home is there.
    pub(crate) fn may_have_store(&self) -> bool {
        self.settings.database_url.is_some() || self.settings.home.is_dir()
    }

    async fn connect_database(&self) -> anyhow::Result<(Option<StackLease>, Store)> {
        let (lease, url) = self.database().await?;
        Ok((lease, Store::connect(&url, 2).await?))
    }

    /// Where the database is; the embedded one is started, and runs for as long as the lease is held.
    pub(crate) async fn database(&self) -> anyhow::Result<(Option<StackLease>, SecretString)> {
        Ok(match &self.settings.database_url {
            Some(url) => (None, url.clone()),
            None => {
                let request = LeaseRequest::new(&self.settings, vec![Component::Postgres]);
                let lease = embedded::attach(&request, &mut self.starting()).await?;
                let url = lease.urls().database_url.clone().context("the embedded stack has no database")?;
                (Some(lease), SecretString::from(url))
            }
        })
    }

    /// For commands about runs: fails when there can be none, for want of a home.
    pub(crate) fn must_have_run(&self) -> anyhow::Result<()> {
        let home = &self.settings.home;
        anyhow::ensure!(
            self.may_have_store(),
            "nothing has run in {}: there is no such folder (--home or PINSCHED_HOME names another)",
            home.display()
        );
        Ok(())
    }

    /// The keys of what the database keeps of connections and variables.
    pub(crate) fn secret_keys(&self) -> anyhow::Result<SecretKeys> {
        Ok(self.settings.secrets.key.as_ref().map(SecretKeys::parse).transpose()?.unwrap_or_default())
    }

    /// Finds or starts everything that is not configured, telling the person who waits, and connects the store.
    pub(crate) async fn connect(&self, connections: u32) -> anyhow::Result<(Resolved, Store)> {
        let resolved = embedded::resolve(&self.settings, &mut self.starting()).await?;
        let store = Store::connect(&resolved.database_url, connections).await?;
        store.migrate().await?;
        Ok((resolved, store))
    }
}

impl Session {
    /// Tells the person who waits what of the stack is being started.
    pub(crate) fn starting(&self) -> impl FnMut(Progress) + Send + use<> {
        let printer = self.printer;
        move |progress| match progress {
            Progress::Launching => printer.say("starting the embedded stack (for what is not configured)"),
            Progress::Component(component, Phase::Ready) if printer.talks_to_terminal() => {
                printer.say(&format!("  {component} is ready"));
            }
            Progress::Component(..) => {}
        }
    }
}

impl Session {
    /// What a worker of this process works with.
    pub(crate) fn engine(
        &self,
        store: &Store,
        resolved: &Resolved,
        observer: Arc<dyn Observer>,
    ) -> anyhow::Result<Engine> {
        let endpoints = Arc::new(resolved.endpoints.clone());
        let keys = self.secret_keys()?;
        self.masks.add(&secrets_of(&endpoints));
        Ok(Engine {
            lookup: Lookup::new(store.clone(), endpoints.named.clone(), keys, self.masks.clone()),
            store: store.clone(),
            registrations: operators::registry(),
            endpoints,
            observer,
            slots: self.settings.parallelism.get(),
            memory_limit: self.settings.memory_limit,
            max_map_length: self.settings.max_map_length,
            outputs: self.output_store(resolved),
        })
    }
}

impl Session {
    /// Where large outputs are: where the settings say, else in the embedded stack's object store, if that is in use.
    pub(crate) fn output_store(&self, resolved: &Resolved) -> Arc<OutputStore> {
        let s3 = resolved.endpoints.s3.clone();
        let embedded =
            s3.create_buckets.then(|| SpillPlace { bucket: s3.staging_bucket.clone(), prefix: "outputs".to_owned() });
        let OutputSettings { inline_limit, limit, spill_to } = &self.settings.outputs;
        let of_settings =
            spill_to.as_ref().map(|(bucket, prefix)| SpillPlace { bucket: bucket.clone(), prefix: prefix.clone() });
        let limits = OutputLimits { inline: *inline_limit, most: *limit, spill_to: of_settings.or(embedded) };
        Arc::new(OutputStore::new(s3, limits))
    }
}

/// Keeps the embedded stack, where there is one, and says what becomes of it; returns when it is gone for good.
pub(crate) async fn keep(stack: Option<&mut StackLease>, say: impl Fn(&str) + Send + Sync) -> StackError {
    match stack {
        Some(stack) => stack.keep(&mut |news| say(&news.to_string())).await,
        None => std::future::pending().await,
    }
}

/// The run that a person means: an id, the start of a uuid, or `latest`.
pub(crate) async fn find_run(store: &Store, text: &str) -> anyhow::Result<Run> {
    if text == "latest" {
        let latest = store.list_runs(None, 1).await?.into_iter().next();
        return latest.context("there is no run yet; start one by `pinsched run FILE`");
    }
    let mut found = store.runs_named(text).await?;
    match found.len() {
        1 => Ok(found.remove(0)),
        0 => anyhow::bail!("there is no run `{text}`; `pinsched runs` lists them"),
        count => {
            let uuids: Vec<String> = found.iter().map(|run| format!("{} of {}", run.uuid, run.dag_id)).collect();
            anyhow::bail!("`{text}` names {count} runs; name one by its uuid: {}", uuids.join(", "))
        }
    }
}

fn to_flags(flags: &Everywhere) -> Flags {
    Flags::default()
        .with_config(flags.config.clone())
        .with(&key::HOME, flags.home.as_ref().map(|home| home.to_string_lossy().into_owned()))
        .with(&key::DATABASE_URL, flags.database_url.clone())
        .with(&key::LOG_FILTER, flags.log.clone())
        .with(&key::LOG_FORMAT, flags.log_format.clone())
}

/// The DAG of that id, as it stands; an error that says what there is.
pub(crate) async fn find_dag(store: &Store, id: &DagId) -> anyhow::Result<DagState> {
    if let Some(state) = store.dag_state(id).await? {
        return Ok(state);
    }
    let states = store.dag_states().await?;
    let names = || states.iter().map(|state| state.dag_id.as_str());
    let near = closest(id.as_str(), names()).map(|near| format!("; did you mean `{near}`?")).unwrap_or_default();
    match states.is_empty() {
        true => {
            anyhow::bail!("there is no DAG `{id}`: none is registered yet (`pinsched serve` registers those of ./dags)")
        }
        false => anyhow::bail!("there is no DAG `{id}`{near} (`pinsched dags` lists them)"),
    }
}
