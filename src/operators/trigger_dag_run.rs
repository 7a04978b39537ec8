//! `trigger_dag_run`: begins a run of another DAG, and waits for its end without a slot where it is told to.
//!
//! That a try is about to make its run is kept before it does, and the run's id follows from run, task and try: whichever
//! attempt of the try comes later finds the run and makes no second one.

use std::time::Duration;

use async_trait::async_trait;
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::clock;
use crate::domain::Timestamp;
use crate::domain::control::{Action, Reach};
use crate::domain::dag::Dag;
use crate::domain::ids::{DagId, RunId, RunKey};
use crate::domain::operator_kind::{ConfigProblem, OperatorKind};
use crate::domain::params::{self, Undeclared};
use crate::domain::run_state::RunState;
use crate::domain::run_type::RunType;
use crate::domain::schedule::Moment;
use crate::engine::operator::{Failure, Operator, Output, Registration, TaskContext};
use crate::engine::versions::reread;
use crate::operators::config::{self, Scalar};
use crate::operators::sensor::patience::{Patience, positive};
use crate::operators::sensor::watch::{self, Look, Seen};
use crate::store::{Begin, ExternalJob, Mode, NewRun, Request, Run, RunSource, StoreError, Word};

pub(crate) const REGISTRATION: Registration = Registration { kind: &KIND, build };

static KIND: OperatorKind = OperatorKind {
    name: "trigger_dag_run",
    class_paths: &[
        "airflow.providers.standard.operators.trigger_dagrun.TriggerDagRunOperator",
        "airflow.operators.trigger_dagrun.TriggerDagRunOperator",
        "airflow.operators.dagrun_operator.TriggerDagRunOperator",
    ],
    about: "Begins a run of another DAG",
    schema: || schemars::schema_for!(TriggerDagRun),
    check: |value| config::check(value, problems),
    late_fields: &[],
    file_keys: &[],
};

/// Airflow's pause between two looks at the run.
const INTERVAL: Duration = Duration::from_secs(60);

/// The longest task id that a run's id can have in it.
const LONGEST_TASK_ID: usize = 150;

/// The keys of a `trigger_dag_run` task.
#[derive(Clone, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
struct TriggerDagRun {
    /// The DAG, which a service has to know.
    trigger_dag_id: String,
    /// What the run is given: params by their names, and whatever its templates read as `dag_run.conf`.
    #[serde(default)]
    conf: Map<String, Value>,
    /// The run's logical date. Default: now.
    #[serde(default)]
    logical_date: Option<String>,
    /// The run's id. Default: made from this run, task and try.
    #[serde(default)]
    trigger_run_id: Option<String>,
    /// Whether the task waits for the run's end; it takes no slot meanwhile.
    #[serde(default)]
    wait_for_completion: bool,
    /// How long it is between two looks at the run. Default: 60s.
    #[serde(default)]
    poke_interval: Option<Scalar>,
    /// The states of the run with which the task succeeds. Default: `success`.
    #[serde(default)]
    allowed_states: Option<Vec<RunEnd>>,
    /// The states of the run with which the task fails. Default: `failed`.
    #[serde(default)]
    failed_states: Option<Vec<RunEnd>>,
    /// Whether a run of that id that is there already is cleared, and so runs again.
    #[serde(default)]
    reset_dag_run: bool,
    /// Whether the task is skipped where a run of that id is there already.
    #[serde(default)]
    skip_when_already_exists: bool,
    /// As in Airflow. No slot is taken either way.
    #[serde(default, rename = "deferrable")]
    _deferrable: Option<bool>,
}

/// How a run ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
enum RunEnd {
    /// Well.
    Success,
    /// Not.
    Failed,
}

impl RunEnd {
    fn state(self) -> RunState {
        match self {
            Self::Success => RunState::Success,
            Self::Failed => RunState::Failed,
        }
    }
}

/// Why there is no run.
#[derive(Debug, thiserror::Error)]
enum TriggerError {
    #[error("{0}")]
    Key(String),
    #[error("no service has registered DAG `{0}`: its file has to be in the folder that a service follows")]
    Unregistered(DagId),
    #[error("DAG `{0}` is retired: its file is gone")]
    Retired(DagId),
    #[error("the registered version of DAG `{dag}` cannot be used: {message}")]
    Version { dag: DagId, message: String },
    #[error("DAG `{dag}` does not take this conf: {problems}")]
    Params { dag: DagId, problems: String },
    #[error(
        "DAG `{dag}` has a run `{run_id}` already, which this task did not make; `reset_dag_run` runs it again, \
         `skip_when_already_exists` skips this task"
    )]
    Exists { dag: DagId, run_id: RunId },
    #[error("DAG `{dag}` has a run of {date} already, of another id")]
    DateTaken { dag: DagId, date: Timestamp },
    #[error("`{0}` is the run that this task is of: it cannot make or reset itself")]
    Own(RunId),
    #[error("run `{0}` was deleted")]
    Deleted(RunId),
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<TriggerError> for Failure {
    fn from(error: TriggerError) -> Self {
        match &error {
            TriggerError::Store(StoreError::Fenced { .. }) => Self::Interrupted,
            TriggerError::Store(_) => Self::retry(&error),
            TriggerError::Key(_)
            | TriggerError::Unregistered(_)
            | TriggerError::Retired(_)
            | TriggerError::Version { .. }
            | TriggerError::Params { .. }
            | TriggerError::Exists { .. }
            | TriggerError::DateTaken { .. }
            | TriggerError::Own(_)
            | TriggerError::Deleted(_) => Self::fatal(&error),
        }
    }
}

fn build(config: Value) -> Result<Box<dyn Operator>, serde_json::Error> {
    Ok(Box::new(serde_json::from_value::<TriggerDagRun>(config)?))
}

fn problems(trigger: &TriggerDagRun) -> Vec<ConfigProblem> {
    let mut problems = Vec::new();
    let said = |key: &str, error: &dyn std::fmt::Display| ConfigProblem::at(key, error.to_string());
    problems.extend(trigger.trigger_dag_id.parse::<DagId>().err().map(|error| said("trigger_dag_id", &error)));
    if let Some(id) = &trigger.trigger_run_id {
        problems.extend(id.parse::<RunId>().err().map(|error| said("trigger_run_id", &error)));
    }
    if let Some(date) = &trigger.logical_date {
        let wrong = date.parse::<Moment>().err();
        problems.extend(wrong.map(|error| said("logical_date", &error).help("write it as `2026-03-01T02:00:00Z`")));
    }
    problems.extend(positive("poke_interval", trigger.poke_interval.as_ref()).err());
    if trigger.reset_dag_run && trigger.skip_when_already_exists {
        let message = "a run that is there is cleared, by `reset_dag_run`, and not skipped";
        problems.push(ConfigProblem::at("skip_when_already_exists", message));
    }
    let (allowed, failed) = (trigger.allowed(), trigger.failed());
    if let Some(both) = allowed.iter().find(|state| failed.contains(state)) {
        let message = format!("`{both}` is among `allowed_states` and `failed_states`");
        problems.push(ConfigProblem::at("failed_states", message));
    }
    problems
}

#[async_trait]
impl Operator for TriggerDagRun {
    async fn run(&self, context: &TaskContext) -> Result<Output, Failure> {
        // Not cut short by a cancellation: it is a few statements, and then the run is there or is not.
        let Some(run) = self.begun(context).await? else {
            return Err(Failure::Skip(format!("DAG `{}` has that run already", self.trigger_dag_id)));
        };
        if !self.wait_for_completion {
            return Ok(output(&run));
        }
        let interval = positive("poke_interval", self.poke_interval.as_ref()).ok().flatten().unwrap_or(INTERVAL);
        let end = End { run: run.key, run_id: &run.run_id, allowed: self.allowed(), failed: self.failed() };
        watch::wait(context, &Patience::endless(interval), &end).await
    }
}

impl TriggerDagRun {
    fn allowed(&self) -> Vec<RunState> {
        match &self.allowed_states {
            Some(states) => states.iter().map(|state| state.state()).collect(),
            None => vec![RunState::Success],
        }
    }

    fn failed(&self) -> Vec<RunState> {
        match &self.failed_states {
            Some(states) => states.iter().map(|state| state.state()).collect(),
            None => vec![RunState::Failed].into_iter().filter(|state| !self.allowed().contains(state)).collect(),
        }
    }

    /// The run: made now, by an earlier attempt, or, where the task says so, cleared. Nothing where it is to be skipped.
    async fn begun(&self, context: &TaskContext) -> Result<Option<Run>, TriggerError> {
        let dag_id: DagId = self.trigger_dag_id.parse().map_err(|error| TriggerError::Key(format!("{error}")))?;
        let run_id = self.run_id(context)?;
        let store = &context.store;
        let job = store.begin_external_job(context.attempt, run_id.as_str(), clock::now()).await?;
        // The token stays what the try's first attempt made it.
        let run_id: RunId = job.token.parse().map_err(|error| TriggerError::Key(format!("{error}")))?;
        let run = match store.run_of_dag(&dag_id, &run_id).await? {
            None if job.handle.is_some() => return Err(TriggerError::Deleted(run_id)),
            None => self.create(context, &dag_id, &run_id).await?,
            Some(run) if is_ours(context, &job, &run) => {
                context.log.line(format!("goes on with run `{run_id}`, which an earlier attempt began"));
                run
            }
            Some(run) if run.key == context.attempt.task_run.run => return Err(TriggerError::Own(run_id)),
            Some(_) if self.skip_when_already_exists => return Ok(None),
            Some(run) if self.reset_dag_run => self.reset(context, &run).await?,
            Some(_) => return Err(TriggerError::Exists { dag: dag_id, run_id }),
        };
        let handle = serde_json::json!({"dag_id": run.dag_id, "run_id": run.run_id});
        store.keep_external_handle(context.attempt, &handle).await?;
        store.tell(Word::Work).await?;
        Ok(Some(run))
    }

    fn run_id(&self, context: &TaskContext) -> Result<RunId, TriggerError> {
        let text = self.trigger_run_id.clone().unwrap_or_else(|| {
            let attempt = context.attempt;
            let task = match context.task_id.as_str() {
                id if id.len() <= LONGEST_TASK_ID => id.to_owned(),
                // Of an instance its own index: above all of the DAG's tasks.
                _ => attempt.task_run.task.0.to_string(),
            };
            let instance = context.map_index.map(|index| format!("__{index}")).unwrap_or_default();
            format!("{}__{}__{task}{instance}__{}", RunType::OperatorTriggered, attempt.run_uuid, attempt.try_number)
        });
        text.parse().map_err(|error| TriggerError::Key(format!("{error}")))
    }

    async fn create(&self, context: &TaskContext, dag_id: &DagId, run_id: &RunId) -> Result<Run, TriggerError> {
        let store = &context.store;
        let state = store.dag_state(dag_id).await?;
        let Some((state, version)) = state.and_then(|state| state.version.map(|version| (state, version))) else {
            return Err(TriggerError::Unregistered(dag_id.clone()));
        };
        if state.retired_at.is_some() {
            return Err(TriggerError::Retired(dag_id.clone()));
        }
        let source = store.version_source(version).await?;
        let (file, text) = (source.file.clone(), source.source.clone());
        let dag = checked(source, dag_id)?;
        let params = params::resolve(&dag.settings, self.conf.clone(), Undeclared::Kept).map_err(|problems| {
            let problems: Vec<String> = problems.into_iter().map(|problem| problem.message).collect();
            TriggerError::Params { dag: dag_id.clone(), problems: problems.join("; ") }
        })?;
        let now = clock::now();
        let logical_date = self.logical_date(&dag, now)?;
        let interval = dag.settings.manual_data_interval(logical_date);
        let new = NewRun {
            dag: &dag,
            file: &file,
            source: &text,
            run_id: run_id.clone(),
            run_type: RunType::OperatorTriggered,
            rerun: 0,
            logical_date,
            data_interval_start: interval.start,
            data_interval_end: interval.end,
            params,
            conf: self.conf.clone(),
            note: None,
            triggered_by: &triggered_by(context),
            begin: Begin::InTurn,
        };
        match store.create_run(&new, now).await {
            Ok(run) => {
                let words = if state.is_paused { ", which waits: its DAG is paused" } else { "" };
                context.log.line(format!("began run `{run_id}` of DAG `{dag_id}`{words}"));
                Ok(run)
            }
            Err(StoreError::RunExists { .. }) => {
                Err(TriggerError::DateTaken { dag: dag_id.clone(), date: logical_date })
            }
            Err(error) => Err(error.into()),
        }
    }

    fn logical_date(&self, dag: &Dag, now: Timestamp) -> Result<Timestamp, TriggerError> {
        let Some(text) = &self.logical_date else { return Ok(now) };
        let moment: Moment = text.parse().map_err(|error| TriggerError::Key(format!("{error}")))?;
        let (zone, dst) = (dag.settings.timezone, dag.settings.dst);
        moment.first_instant(zone, dst).ok_or_else(|| TriggerError::Key(format!("`{text}` is no time in {zone}")))
    }

    /// Clears a run that was there, so that all of it runs again.
    async fn reset(&self, context: &TaskContext, run: &Run) -> Result<Run, TriggerError> {
        let store = &context.store;
        let dag = checked(store.run_source(run.key).await?, &run.dag_id)?;
        let every: Vec<_> = dag.tasks().iter().map(|task| task.index).collect();
        let words = format!("cleared by {}", triggered_by(context));
        let request = Request { action: Action::Clear, tasks: &every, reach: Reach::default(), words: &words };
        store.change_tasks(run.key, &dag, request, Mode::Do, clock::now()).await?;
        context.log.line(format!("cleared run `{}` of DAG `{}`", run.run_id, run.dag_id));
        store.run(run.key).await?.ok_or_else(|| TriggerError::Deleted(run.run_id.clone()))
    }
}

/// Whether an earlier attempt of this try made the run, or cleared it.
fn is_ours(context: &TaskContext, job: &ExternalJob, run: &Run) -> bool {
    let is_made = run.triggered_by == triggered_by(context) && run.queued_at >= job.begun_at;
    job.was_begun && (job.handle.is_some() || is_made)
}

fn triggered_by(context: &TaskContext) -> String {
    format!("{}.{}", context.dag_id, context.task_id)
}

fn checked(source: RunSource, dag: &DagId) -> Result<Dag, TriggerError> {
    reread(source, dag, &crate::operators::catalog())
        .map_err(|error| TriggerError::Version { dag: dag.clone(), message: error.to_string() })
}

fn output(run: &Run) -> Output {
    let mut output = Output::new();
    output.insert("trigger_dag_id".to_owned(), Value::from(run.dag_id.as_str()));
    output.insert("trigger_run_id".to_owned(), Value::from(run.run_id.as_str()));
    output.insert("state".to_owned(), Value::from(run.state.as_str()));
    output.insert("return_value".to_owned(), Value::from(run.run_id.as_str()));
    output
}

/// The end of a run, to wait for.
struct End<'a> {
    run: RunKey,
    run_id: &'a RunId,
    allowed: Vec<RunState>,
    failed: Vec<RunState>,
}

#[async_trait]
impl Look for End<'_> {
    async fn look(&self, context: &TaskContext) -> Result<Seen, Failure> {
        let run = context.store.run(self.run).await.map_err(|error| Failure::retry(&error))?;
        let run = run.ok_or_else(|| Failure::from(TriggerError::Deleted(self.run_id.clone())))?;
        if self.allowed.contains(&run.state) {
            return Ok(Seen::Met(output(&run)));
        }
        if self.failed.contains(&run.state) || run.state.is_final() {
            // Another look would find the same. Whether the task is tried again, and so makes another run, it says itself.
            return Ok(Seen::Failed(format!("run `{}` of DAG `{}` is {}", run.run_id, run.dag_id, run.state)));
        }
        Ok(Seen::NotYet(format!("run `{}` is {}", run.run_id, run.state)))
    }
}
