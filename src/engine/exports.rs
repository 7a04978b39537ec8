//! Tells who gathers traces and lineage of runs: makes the messages from what the state says, sends them, and notes so.
//!
//! It is at least once: ids follow from the run, so that what comes twice is the same.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use chrono::TimeDelta;
use secrecy::SecretString;

use crate::clock;
use crate::connect::Endpoints;
use crate::connect::notify::{Answer, NotifyError, Post, exchange};
use crate::domain::dag::Dag;
use crate::domain::ids::{RunKey, TaskIndex};
use crate::domain::lineage::{EventType, LineageEvent, names_data, read_by, reads_after, written_by};
use crate::domain::masking::Masks;
use crate::domain::run_state::RunState;
use crate::domain::task_output::TaskOutput;
use crate::domain::task_state::AttemptOutcome;
use crate::domain::trace::{self, TracedAttempt, TracedRun};
use crate::engine::notices::{Waits, first_failure};
use crate::engine::versions::Versions;
use crate::store::{DueExport, ExportKind, ExportedAttempt, Exports, Run, RunEnd, Store, StoreError, TaskAttempt};

/// How many are sent at once.
const BATCH: i64 = 16;

/// How long one exchange may take, as OTLP's own exporters have it.
const LIMIT: Duration = Duration::from_secs(10);

/// The waits between tries.
const WAITS: Waits = Waits { first: TimeDelta::seconds(1), longest: TimeDelta::minutes(10) };

/// Who is told.
#[derive(Debug, Clone, Default)]
pub struct Receivers {
    /// A collector of traces.
    pub traces: Option<TraceReceiver>,
    /// A keeper of lineage.
    pub lineage: Option<LineageReceiver>,
}

/// A collector of traces, by OTLP over HTTP with JSON.
#[derive(Debug, Clone)]
pub struct TraceReceiver {
    /// Where it is.
    pub url: SecretString,
    /// What goes with each request.
    pub headers: Vec<(String, SecretString)>,
    /// Whose traces they are.
    pub resource: Vec<(String, String)>,
}

/// A keeper of lineage, by OpenLineage.
#[derive(Debug, Clone)]
pub struct LineageReceiver {
    /// Where it is.
    pub url: SecretString,
    /// What opens its door.
    pub api_key: Option<SecretString>,
    /// The namespace of jobs.
    pub namespace: String,
}

impl Receivers {
    /// What they want to know.
    #[must_use]
    pub fn wanted(&self) -> Exports {
        Exports { traces: self.traces.is_some(), lineage: self.lineage.is_some() }
    }
}

/// Sends what the outbox has for them.
#[derive(Clone)]
pub struct Exporter {
    store: Store,
    versions: Arc<Versions>,
    endpoints: Arc<Endpoints>,
    masks: Masks,
    receivers: Arc<Receivers>,
}

/// Why something was not sent.
enum Unsent {
    /// It is tried again, not before so long.
    Again(String, Option<Duration>),
    /// It never will be.
    Never(String),
}

impl From<NotifyError> for Unsent {
    fn from(error: NotifyError) -> Self {
        match error {
            NotifyError::Again(words) => Self::Again(words, None),
            NotifyError::Never(words) => Self::Never(words),
        }
    }
}

impl Exporter {
    /// Tells these, of runs whose DAGs are looked up there.
    #[must_use]
    pub fn new(
        store: Store,
        versions: Arc<Versions>,
        endpoints: Arc<Endpoints>,
        masks: Masks,
        receivers: Arc<Receivers>,
    ) -> Self {
        Self { store, versions, endpoints, masks, receivers }
    }

    /// Whether anybody is told.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.receivers.wanted() == Exports::default()
    }

    /// Sends what is due, of one run or of all; says how many were due.
    ///
    /// # Errors
    /// When the database does not answer; what was not noted is sent again.
    pub async fn send_due(&self, of: Option<RunKey>) -> Result<usize, StoreError> {
        if self.is_idle() {
            return Ok(0);
        }
        let due = self.store.claim_exports(self.receivers.wanted(), of, BATCH, clock::now()).await?;
        let sent = futures::future::join_all(due.iter().map(|due| self.settle(due))).await;
        sent.into_iter().collect::<Result<Vec<()>, _>>()?;
        Ok(due.len())
    }

    /// Whether something of a run is still to be told.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn has_more(&self, run: RunKey) -> Result<bool, StoreError> {
        Ok(!self.is_idle() && self.store.unsent_exports(self.receivers.wanted(), run).await? > 0)
    }

    async fn settle(&self, due: &DueExport) -> Result<(), StoreError> {
        let Some(run) = self.store.run(due.run).await? else { return self.store.forget_export(due.id).await };
        let dag = self.versions.of_run(&self.store, &run).await?.ok(); // without it operators have no names
        let told = match (due.kind, &self.receivers.traces, &self.receivers.lineage) {
            (ExportKind::Trace, Some(receiver), _) => self.trace(receiver, &run, dag.as_deref()).await?,
            (ExportKind::Lineage, _, Some(receiver)) => self.lineage(receiver, &run, dag.as_deref(), due).await?,
            _ => Ok(()), // it claims what it has a receiver for
        };
        let now = clock::now();
        let (words, again) = match told {
            Ok(()) => return self.store.forget_export(due.id).await,
            Err(Unsent::Again(words, wait)) => (words, WAITS.next_try(due.attempts, due.happened_at, wait, now)),
            Err(Unsent::Never(words)) => (words, None),
        };
        let words = self.masks.mask(&words);
        let what = match due.kind {
            ExportKind::Trace => "a trace",
            ExportKind::Lineage => "an event of lineage",
        };
        match again {
            Some(again) => {
                tracing::warn!(run.id = %run.run_id, error = %words, "{what} could not be sent; trying again");
                self.store.put_off_export(due.id, again).await
            }
            None => {
                tracing::error!(run.id = %run.run_id, error = %words, "{what} was given up");
                self.store.forget_export(due.id).await
            }
        }
    }

    async fn trace(
        &self,
        receiver: &TraceReceiver,
        run: &Run,
        dag: Option<&Dag>,
    ) -> Result<Result<(), Unsent>, StoreError> {
        // One that goes on again, since it was cleared, is told of once it has ended again.
        let Some(finished_at) = run.finished_at else { return Ok(Ok(())) };
        let attempts = self.store.attempts_of_run(run.key).await?;
        let attempts: Vec<_> = attempts
            .into_iter()
            .filter_map(|attempt| traced(attempt, dag).map(|attempt| self.masked(attempt)))
            .collect();
        let failure = match (run.state, run.cancel_requested_at) {
            (RunState::Failed, Some(_)) => Some(run.cancel_reason.clone().unwrap_or("it was cancelled".to_owned())),
            (RunState::Failed, None) => first_failure(&self.store, run.key).await?,
            _ => None,
        };
        let told = TracedRun {
            uuid: run.uuid,
            dag_id: run.dag_id.clone(),
            run_id: run.run_id.clone(),
            run_type: run.run_type,
            state: run.state,
            logical_date: run.logical_date,
            queued_at: run.queued_at,
            started_at: run.started_at.unwrap_or(run.queued_at),
            finished_at,
            error: failure.map(|text| self.masks.mask(&text).into_owned()),
        };
        for request in trace::requests(&receiver.resource, &told, &attempts) {
            let post = Post {
                url: receiver.url.clone(),
                headers: receiver.headers.clone(),
                body: request.to_string().into_bytes(),
            };
            // OTLP says which answers mean that it may be tried again.
            if let Err(unsent) = send(post, "the collector", "telemetry.otlp_endpoint", &[429, 502, 503, 504]).await {
                return Ok(Err(unsent));
            }
        }
        Ok(Ok(()))
    }

    fn masked(&self, mut attempt: TracedAttempt) -> TracedAttempt {
        attempt.error = attempt.error.map(|text| self.masks.mask(&text).into_owned());
        attempt
    }

    async fn lineage(
        &self,
        receiver: &LineageReceiver,
        run: &Run,
        dag: Option<&Dag>,
        due: &DueExport,
    ) -> Result<Result<(), Unsent>, StoreError> {
        let mut event = LineageEvent {
            namespace: &receiver.namespace,
            event: EventType::Start,
            at: due.happened_at,
            dag_id: &run.dag_id,
            run: run.uuid,
            nominal: (run.logical_date, run.data_interval_end.max(run.logical_date)),
            attempt: None,
            error: None,
            inputs: BTreeSet::new(),
            outputs: BTreeSet::new(),
        };
        let (found, failure);
        match due.attempt {
            None if due.is_end => {
                event.event = match due.run_end {
                    Some(RunEnd::Success) => EventType::Complete,
                    Some(RunEnd::Cancelled) => EventType::Abort,
                    Some(RunEnd::Failed) | None => EventType::Fail,
                };
                // Of one that goes on since, what failed may be what is done again.
                if event.event != EventType::Complete && run.finished_at == Some(due.happened_at) {
                    failure = first_failure(&self.store, run.key).await?;
                    event.error = failure.as_deref();
                }
            }
            None => {}
            Some(ExportedAttempt { task, of_task, fence }) => {
                found = self.store.attempt_of_run(run.key, task, fence).await?;
                let (Some(record), Some(dag)) = (&found, dag) else { return Ok(Ok(())) };
                let Some(known) = dag.task(of_task) else { return Ok(Ok(())) };
                event.attempt = Some((task, &known.id, known.operator, fence));
                if due.is_end {
                    event.at = record.finished_at.unwrap_or(due.happened_at);
                    event.event = how_it_ended(record.outcome);
                    event.error = record.error.as_deref().filter(|_| event.event == EventType::Fail);
                }
                if event.event == EventType::Complete && names_data(known.operator) {
                    let from = reads_after(known.operator);
                    let names_it = |index: &TaskIndex| dag.task(*index).is_some_and(|task| Some(task.operator) == from);
                    let ancestors: Vec<TaskIndex> = dag.ancestors(known.index).into_iter().filter(names_it).collect();
                    let wanted: Vec<TaskIndex> = ancestors.iter().copied().chain([task]).collect();
                    let outputs = self.store.outputs(run.key, dag, &wanted).await?;
                    let kafka = &self.endpoints.kafka.bootstrap_servers;
                    (event.inputs, event.outputs) = data(dag, known.operator, task, &ancestors, &outputs, kafka);
                }
            }
        }
        let masked = event.error.map(|error| self.masks.mask(error));
        event.error = masked.as_deref();
        let mut headers = Vec::new();
        if let Some(key) = &receiver.api_key {
            use secrecy::ExposeSecret;
            headers.push(("Authorization".to_owned(), format!("Bearer {}", key.expose_secret()).into()));
        }
        let body = event.to_json().to_string().into_bytes();
        let post = Post { url: receiver.url.clone(), headers, body };
        let passing = [408, 425, 429, 500, 502, 503, 504];
        Ok(send(post, "the keeper of lineage", "openlineage.url", &passing).await)
    }
}

fn traced(attempt: TaskAttempt, dag: Option<&Dag>) -> Option<TracedAttempt> {
    let known = dag.and_then(|dag| dag.task(attempt.of_task()));
    let TaskAttempt { task, task_id, instance_of, record } = attempt;
    Some(TracedAttempt {
        task,
        task_id,
        operator: known.map(|task| task.operator.to_owned()),
        map_index: instance_of.map(|(_, index)| index),
        fence: record.fence,
        try_number: record.try_number,
        started_at: record.started_at,
        finished_at: record.finished_at?,
        outcome: record.outcome?,
        error: record.error,
    })
}

fn how_it_ended(outcome: Option<AttemptOutcome>) -> EventType {
    match outcome {
        Some(AttemptOutcome::Success | AttemptOutcome::Skipped) => EventType::Complete,
        Some(AttemptOutcome::Failed) => EventType::Fail,
        Some(AttemptOutcome::Interrupted | AttemptOutcome::Lost | AttemptOutcome::Cancelled) | None => EventType::Abort,
    }
}

type Datasets = BTreeSet<crate::domain::lineage::Dataset>;

/// What a task read and wrote, by what it and the tasks before it left.
fn data(
    dag: &Dag,
    operator: &str,
    task: TaskIndex,
    ancestors: &[TaskIndex],
    outputs: &BTreeMap<TaskIndex, Option<TaskOutput>>,
    kafka: &str,
) -> (Datasets, Datasets) {
    let output = |task: &TaskIndex| outputs.get(task)?.as_ref()?.object();
    let before: Vec<_> = ancestors.iter().filter_map(|task| Some((dag.task(*task)?.operator, output(task)?))).collect();
    let own = output(&task);
    let written = own.map(|own| written_by(operator, own, kafka)).unwrap_or_default();
    (read_by(operator, own, &before, kafka), written)
}

/// Posts to `whom`, as people know it, of that setting; these statuses are worth another try.
async fn send(post: Post, whom: &str, setting: &str, passing: &[u16]) -> Result<(), Unsent> {
    let host = post.host()?;
    let Answer { status, retry_after } = exchange(post, LIMIT).await?;
    let words = || format!("{whom} at {host} (`{setting}`) answered with {status}");
    match status.as_u16() {
        200..300 => Ok(()),
        code if passing.contains(&code) => Err(Unsent::Again(words(), retry_after)),
        _ => Err(Unsent::Never(words())),
    }
}
