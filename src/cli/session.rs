//! What most commands need first: settings, logs, and the store behind them.

use std::sync::Arc;

use anyhow::Context;
use secrecy::SecretString;

use crate::cli::arguments::Everywhere;
use crate::cli::output::Printer;
use crate::config::{Environment, Flags, OutputSettings, Settings, key};
use crate::domain::diagnostic::closest;
use crate::domain::ids::{DagId, LATEST};
use crate::domain::masking::Masks;
use crate::embedded::{self, Component, LeaseRequest, Phase, Progress, Resolved, StackError, StackLease};
use crate::engine::Engine;
use crate::engine::exports::{LineageReceiver, Receivers, TraceReceiver};
use crate::engine::lookup::{Lookup, secrets_of};
use crate::engine::observer::Observer;
use crate::engine::operator::Processes;
use crate::engine::outputs::{OutputLimits, OutputStore, SpillPlace};
use crate::operators;
use crate::store::{DagState, Run, SHORTEST_OF_UUID, SecretKeys, Store};

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
        let default = if stays { "info" } else { "warn" };
        let masks = Masks::default();
        masks.add(&settings.secrets());
        crate::telemetry::init(&settings.log, default, masks.clone())?;
        for warning in &settings.warnings {
            tracing::warn!("{warning}");
        }
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
        Ok((lease, Store::connect_telling(&url, 2, self.receivers().wanted()).await?))
    }

    /// Where the database is; the embedded one is started, and runs for as long as the lease is held.
    pub(crate) async fn database(&self) -> anyhow::Result<(Option<StackLease>, SecretString)> {
        Ok(match &self.settings.database_url {
            Some(url) => (None, url.clone()),
            None => {
                let request = LeaseRequest::new(&self.settings, vec![Component::Postgres]);
                let lease = embedded::attach(&request, &mut self.starting(&[Component::Postgres])).await?;
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
        let mut starting = self.starting(&embedded::lacking(&self.settings));
        let resolved = embedded::resolve(&self.settings, &mut starting).await?;
        let exports = self.receivers().wanted();
        let store = Store::connect_telling(&resolved.database_url, connections, exports).await?;
        store.migrate().await?;
        Ok((resolved, store))
    }
}

impl Session {
    /// Tells the person who waits that these parts of the stack are being started, and why where others are configured.
    pub(crate) fn starting(&self, components: &[Component]) -> impl FnMut(Progress) + Send + use<> {
        let printer = self.printer;
        let names: Vec<String> = components.iter().map(ToString::to_string).collect();
        let launching = match embedded::lacking(&self.settings).len() == Component::ALL.len() {
            true => "starting the embedded stack (for what is not configured)".to_owned(),
            false => format!(
                "starting the embedded stack for {}: no setting says where they are (`pinsched config`)",
                names.join(", ")
            ),
        };
        move |progress| match progress {
            Progress::Launching => printer.say(&launching),
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
            processes: Processes {
                limit: self.settings.max_processes_per_task,
                are_traced: self.settings.telemetry.traces_url.is_some(),
            },
            receivers: Arc::new(self.receivers()),
            max_map_length: self.settings.max_map_length,
            outputs: self.output_store(resolved),
        })
    }
}

impl Session {
    /// Who is told of runs, beside people.
    fn receivers(&self) -> Receivers {
        let (telemetry, openlineage) = (&self.settings.telemetry, &self.settings.openlineage);
        Receivers {
            traces: telemetry.traces_url.as_ref().map(|url| TraceReceiver {
                url: SecretString::from(url.as_str()),
                headers: telemetry.headers.clone(),
                resource: telemetry.resource.clone(),
            }),
            lineage: openlineage.url.as_ref().map(|url| LineageReceiver {
                url: SecretString::from(url.as_str()),
                api_key: openlineage.api_key.clone(),
                namespace: openlineage.namespace.clone(),
            }),
        }
    }

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

/// The run that a person means: a run id, a uuid or the beginning or end of one, or `latest`; of one DAG's runs after `DAG@`.
pub(crate) async fn find_run(store: &Store, text: &str) -> anyhow::Result<Run> {
    let mut found = runs_meant(store, None, text).await?;
    if found.is_empty()
        && let Some((dag, of_dag)) = text.split_once('@')
    {
        let id: DagId = dag.parse().with_context(|| format!("`{text}` names no run: `{dag}` is no DAG id"))?;
        if store.list_runs(Some(&id), 1).await?.is_empty() {
            let dags = store.dags_with_runs().await?;
            let near = closest(dag, dags.iter().map(DagId::as_str));
            let near = near.map(|near| format!("; did you mean `{near}@{of_dag}`?")).unwrap_or_default();
            anyhow::bail!("there is no run of DAG `{dag}`{near} (`pinsched runs` lists all)");
        }
        found = runs_meant(store, Some(&id), of_dag).await?;
    }
    match found.len() {
        1 => Ok(found.remove(0)),
        0 if text == LATEST => anyhow::bail!("there is no run yet; start one by `pinsched run FILE`"),
        0 => {
            let of_uuid = text.rsplit('@').next().unwrap_or(text);
            let is_part = of_uuid.bytes().all(|letter| letter.is_ascii_hexdigit() || letter == b'-');
            let too_short = match is_part && of_uuid.len() < SHORTEST_OF_UUID {
                true => format!(" (of a uuid, {SHORTEST_OF_UUID} or more characters of its beginning or its end do)"),
                false => String::new(),
            };
            anyhow::bail!("there is no run `{text}`{too_short}; `pinsched runs` lists them")
        }
        count => {
            let mut message = format!("`{text}` names {count} runs; name one by its DAG, or by its uuid:");
            for run in &found {
                let said = format!("\n  {}@{}  {}  {}", run.dag_id, run.run_id, run.uuid, run.state);
                message.push_str(&said);
            }
            Err(anyhow::anyhow!(message))
        }
    }
}

async fn runs_meant(store: &Store, dag: Option<&DagId>, text: &str) -> anyhow::Result<Vec<Run>> {
    Ok(match text {
        LATEST => store.list_runs(dag, 1).await?,
        text => store.runs_named(dag.map(DagId::as_str), text).await?,
    })
}

fn to_flags(flags: &Everywhere) -> Flags {
    Flags::default()
        .with_config(flags.config.clone())
        .with(&key::HOME, flags.home.as_ref().map(|home| home.to_string_lossy().into_owned()))
        .with(&key::DATABASE_URL, flags.database_url.clone())
        .with(&key::LOG_FILTER, flags.log.clone())
        .with(&key::LOG_FORMAT, flags.log_format.clone())
        .with(&key::LOG_FILE, flags.log_file.as_ref().map(|file| file.to_string_lossy().into_owned()))
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
