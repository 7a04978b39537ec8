//! What an operator is: a checked configuration, and one attempt of work.
//!
//! An operator may be run twice with the same [`AttemptKey`], or again with a higher try or fence after a crash at any
//! instant, and the outside world must end up the same. It keeps what it must not lose through [`TaskContext::store`],
//! under its fence.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use async_trait::async_trait;
use serde_json::Value;
use tokio::sync::mpsc::UnboundedSender;
use tokio_util::sync::CancellationToken;

use crate::connect::Endpoints;
use crate::domain::Timestamp;
use crate::domain::dag::Dag;
use crate::domain::ids::{AttemptKey, DagId, RunId, TaskId, TaskRunKey};
use crate::domain::operator_kind::OperatorKind;
use crate::domain::plan::Skips;
use crate::domain::task_output::OutputObject;
use crate::domain::template::{Outputs, TemplateError, TemplateScope, Wanted};
use crate::engine::lookup::{Lookup, LookupError};
use crate::engine::task_log::TaskLog;
use crate::store::Store;

/// What a task leaves behind for its successors and for people (Airflow's XCom): a JSON object.
pub type Output = serde_json::Map<String, Value>;

/// Why an attempt did not succeed, and whether another may.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// Worth another attempt: timeouts, throttling, a broker election.
    #[error("{0}")]
    Retry(String),
    /// Another attempt would fail the same way: bad config, 4xx, a missing bucket.
    #[error("{0}")]
    Fatal(String),
    /// There is nothing to do: the task counts as skipped (Airflow's `AirflowSkipException`). With the reason.
    #[error("skipped: {0}")]
    Skip(String),
    /// The attempt was told to stop (by [`TaskContext::cancel`]) and did; nobody's fault.
    #[error("interrupted")]
    Interrupted,
}

impl Failure {
    /// Another attempt may succeed. The text is the error with all of its sources, each once.
    pub fn retry(error: &(dyn std::error::Error + 'static)) -> Self {
        Self::Retry(chain(error))
    }

    /// Another attempt would fail the same way.
    pub fn fatal(error: &(dyn std::error::Error + 'static)) -> Self {
        Self::Fatal(chain(error))
    }
}

impl From<TemplateError> for Failure {
    fn from(error: TemplateError) -> Self {
        if error.may_pass { Self::retry(&error) } else { Self::fatal(&error) }
    }
}

/// An error's text followed by those of its sources that it does not already repeat.
#[must_use]
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let words = cause.to_string();
        if !text.contains(&words) {
            text.push_str(": ");
            text.push_str(&words);
        }
        source = cause.source();
    }
    text
}

/// One attempt of one task.
#[async_trait]
pub trait Operator: Send + Sync {
    /// Does the work of one attempt.
    ///
    /// It stops soon after `context.cancel` is cancelled (an `execution_timeout`, a cancelled run, a lost lease) and
    /// leaves nothing behind that a later attempt would trip over.
    ///
    /// # Errors
    /// A [`Failure`] says whether another attempt may help.
    async fn run(&self, context: &TaskContext) -> Result<Output, Failure>;
}

/// An operator as the registry knows it: its pure description and how to build one attempt's worth.
#[derive(Clone, Copy)]
pub struct Registration {
    /// Names, keys and the pure check.
    pub kind: &'static OperatorKind,
    /// Builds it from its rendered configuration; the text of an error names the key.
    pub build: fn(Value) -> Result<Box<dyn Operator>, serde_json::Error>,
}

/// All that an attempt may know and touch.
pub struct TaskContext {
    /// Who this is; every outside write shows it.
    pub attempt: AttemptKey,
    /// The DAG.
    pub dag_id: DagId,
    /// The run.
    pub run_id: RunId,
    /// The task.
    pub task_id: TaskId,
    /// The run's logical date.
    pub logical_date: Timestamp,
    /// The DAG as it was when the run began.
    pub dag: Arc<Dag>,
    /// What after this task is not to run, once it has succeeded.
    pub choice: Arc<Choice>,
    /// The folder of the DAG file: relative paths in a task's configuration start here.
    pub dag_folder: PathBuf,
    /// pinsched's own state, for what must survive a crash.
    pub store: Store,
    /// Where Kafka, S3 and the source database are.
    pub endpoints: Arc<Endpoints>,
    /// How many bytes a task may hold that can spill to disk instead (`engine.memory_limit`), where it says nothing else.
    pub memory_limit: u64,
    /// How the programs that it starts are kept.
    pub processes: Processes,
    /// The outputs of the task's direct and indirect upstreams that have one and are not mapped, with their operator's
    /// short name.
    pub upstream: BTreeMap<TaskId, UpstreamOutput>,
    /// The outputs of all upstreams; of a mapped one the list of its instances' outputs.
    pub outputs: Arc<Outputs>,
    /// Which instance of a mapped task it is.
    pub map_index: Option<u32>,
    /// The largest output that there may be, in bytes of JSON (`outputs.limit`).
    pub output_limit: u64,
    /// Renders the fields that the operator's kind names as late ones.
    pub templates: Templates,
    /// Finds connections and variables by name.
    pub lookup: Lookup,
    /// Cancelled when the attempt should stop.
    pub cancel: CancellationToken,
    /// Cancelled before that, where it stops since it took longer than its `execution_timeout`.
    pub timed_out: CancellationToken,
    /// Cancelled with `cancel`, or after it, where another may hold the task by now: there is no time to clean up.
    pub lost: CancellationToken,
    /// The attempt's log.
    pub log: TaskLog,
    /// How far it is, for who watches.
    pub progress: Arc<Progress>,
    /// How it says that it waits for something outside.
    pub deferring: Deferring,
}

/// How the programs that tasks start are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Processes {
    /// How many processes and threads a task may have at once (`engine.max_processes_per_task`); none: any number.
    pub limit: Option<NonZeroU32>,
    /// Whether they are told by `TRACEPARENT` which span they are part of.
    pub are_traced: bool,
}

/// How an attempt says that it waits for something outside: its task is `deferred` then and takes no slot, of a worker or
/// of a pool, while the attempt goes on. Ten thousand may wait so in one process.
#[derive(Debug, Clone)]
pub struct Deferring {
    sender: Option<UnboundedSender<(TaskRunKey, i64)>>,
    task_run: TaskRunKey,
    fence: i64,
}

impl Deferring {
    pub(super) fn new(sender: UnboundedSender<(TaskRunKey, i64)>, task_run: TaskRunKey, fence: i64) -> Self {
        Self { sender: Some(sender), task_run, fence }
    }

    /// Of an attempt that no worker counts: to try an operator by itself.
    #[must_use]
    pub fn of_nobody(attempt: AttemptKey) -> Self {
        Self { sender: None, task_run: attempt.task_run, fence: attempt.fence }
    }

    /// From now on the attempt waits: what it does from here on must be light, since no slot bounds it.
    pub fn defer(&self) {
        if let Some(sender) = &self.sender {
            let _ = sender.send((self.task_run, self.fence)); // the worker is gone only when the attempt is told to stop
        }
    }
}

/// Makes what an attempt's late templates see, when they are rendered: it is larger than all else that an attempt which
/// waits has to hold.
#[derive(Clone)]
pub struct Templates(Arc<dyn Fn() -> TemplateScope + Send + Sync>);

impl Templates {
    /// As `scope` makes it.
    #[must_use]
    pub fn new(scope: impl Fn() -> TemplateScope + Send + Sync + 'static) -> Self {
        Self(Arc::new(scope))
    }

    /// What the templates see.
    #[must_use]
    pub fn scope(&self) -> TemplateScope {
        (self.0)()
    }
}

impl TaskContext {
    /// The templates for a text that came from elsewhere than the task's configuration, with the variables and connections
    /// that it names.
    ///
    /// # Errors
    /// Where one of these could not be looked for.
    pub async fn templates_for(&self, text: &str) -> Result<TemplateScope, LookupError> {
        let wanted = Wanted::in_text(text);
        if wanted.is_empty() {
            return Ok(self.templates.scope());
        }
        Ok(self.templates.scope().with_named(self.lookup.named(&wanted).await?))
    }
}

/// What an upstream task left.
#[derive(Debug, Clone)]
pub struct UpstreamOutput {
    /// The upstream's operator, by short name.
    pub operator: String,
    /// Its output.
    pub output: OutputObject,
}

/// What an attempt decides about the tasks after its own: nothing, unless it says so.
#[derive(Debug, Default)]
pub struct Choice(OnceLock<Skips>);

impl Choice {
    /// Keeps tasks from running once this one has succeeded; the first word counts.
    pub fn skip(&self, skips: Skips) {
        let _ = self.0.set(skips); // an attempt decides once
    }

    /// What was decided.
    #[must_use]
    pub fn made(&self) -> Option<&Skips> {
        self.0.get()
    }
}

/// How far an attempt is. Rows are the operator's own unit: rows drawn, records sent, records sunk.
#[derive(Debug, Default)]
pub struct Progress {
    rows: AtomicU64,
    total: AtomicU64,
}

impl Progress {
    /// Says how many rows there will be; 0 means nobody knows.
    pub fn set_total(&self, total: u64) {
        self.total.store(total, Ordering::Relaxed);
    }

    /// Counts `rows` more as done.
    pub fn add(&self, rows: u64) {
        self.rows.fetch_add(rows, Ordering::Relaxed);
    }

    /// Sets how many are done, as after a resume.
    pub fn set(&self, rows: u64) {
        self.rows.store(rows, Ordering::Relaxed);
    }

    /// Rows done, and the total where it is known.
    #[must_use]
    pub fn read(&self) -> (u64, Option<u64>) {
        let total = self.total.load(Ordering::Relaxed);
        (self.rows.load(Ordering::Relaxed), (total > 0).then_some(total))
    }
}
