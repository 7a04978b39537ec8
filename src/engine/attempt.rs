//! One attempt, from its claim to its end: context, log, timeout, panics, and what the end means.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures::FutureExt;
use serde_json::Value;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use crate::connect::Endpoints;
use crate::domain::choice;
use crate::domain::dag::SharedTask;
use crate::domain::ids::{AttemptKey, TaskId};
use crate::domain::mapping::{Expansion, Instance, MapLimits, Mapping, TaskName};
use crate::domain::operator_kind::ConfigProblem;
use crate::domain::plan::Ending;
use crate::domain::task_output::TaskOutput;
use crate::domain::template::{Named, Outputs, ReadOutputs, TemplateScope, Wanted};
use crate::engine::attempt_log::{self, LogBook};
use crate::engine::expansion;
use crate::engine::holding::{HoldingWatch, LOST_STOP_LIMIT};
use crate::engine::lookup::Lookup;
use crate::engine::operator::{
    Choice, Deferring, Failure, Operator, Output, Processes, Progress, Registration, TaskContext, Templates,
    UpstreamOutput,
};
use crate::engine::outputs::OutputStore;
use crate::engine::rendered;
use crate::engine::running::RunningRun;
use crate::engine::task_log::TaskLog;
use crate::store::{EndedAttempt, Store};

/// How long an operator may take to stop after it was told: then its future is dropped. After a lost lease it is less.
const STOP_LIMIT: Duration = Duration::from_secs(10);

/// How long an output may take to be put into object storage, with its client's own tries: 64 MiB at 1 MB/s.
const KEEP_LIMIT: Duration = Duration::from_secs(120);

/// How long an error may be, in bytes: it is in the log, in the database twice, in messages and in every list of tasks.
const LONGEST_ERROR: usize = 16 * 1024;

/// Why an attempt was told to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stop {
    /// The run was cancelled.
    Cancelled,
    /// The process stops.
    Shutdown,
    /// Somebody else may hold the task: what the attempt does by now may be done twice.
    LeaseLost,
}

/// The handle by which a worker stops an attempt: the first reason counts.
#[derive(Debug, Clone, Default)]
pub(crate) struct StopHandle {
    token: CancellationToken,
    lease_lost: CancellationToken,
    reason: Arc<std::sync::OnceLock<Stop>>,
}

impl StopHandle {
    pub(crate) fn stop(&self, reason: Stop) {
        let _ = self.reason.set(reason); // of several reasons the first says how it ended
        if reason == Stop::LeaseLost {
            self.lease_lost.cancel();
        }
        self.token.cancel();
    }

    fn reason(&self) -> Option<Stop> {
        self.reason.get().copied()
    }
}

/// All that an attempt needs.
pub(crate) struct Attempt {
    pub(crate) key: AttemptKey,
    pub(crate) task: SharedTask,
    /// Which instance it is, of a mapped task that was expanded.
    pub(crate) instance: Option<Instance>,
    pub(crate) run: RunningRun,
    /// What the tasks before it left, with their operators.
    pub(crate) outputs: BTreeMap<TaskId, (&'static str, TaskOutput)>,
    pub(crate) registration: Registration,
    pub(crate) store: Store,
    pub(crate) logs: LogBook,
    pub(crate) endpoints: Arc<Endpoints>,
    pub(crate) memory_limit: u64,
    pub(crate) processes: Processes,
    pub(crate) max_map_length: u32,
    pub(crate) output_store: Arc<OutputStore>,
    pub(crate) lookup: Lookup,
    pub(crate) progress: Arc<Progress>,
    pub(crate) holding: HoldingWatch,
    pub(crate) stop: StopHandle,
    pub(crate) jitter: f64,
    pub(crate) deferring: Deferring,
    pub(crate) choice: Arc<Choice>,
    /// What the attempt came to, where it is a mapped task's expansion.
    pub(crate) expansion: OnceLock<Arc<Expansion>>,
}

impl Attempt {
    /// Runs it to its end, and its log to the database before that; `None` when it has nothing to say any more.
    pub(crate) async fn execute(self: Box<Self>) -> Option<EndedAttempt> {
        let (log, lines) = TaskLog::new();
        let log_ended = CancellationToken::new();
        let masked = self.lookup.masks().stream();
        // The parts are boxed, since a future that is moved before it is awaited takes its place twice, and thousands may wait.
        let writer = Box::pin(attempt_log::write(self.logs.clone(), self.key, lines, masked, log_ended.clone()));
        let span = tracing::info_span!(
            "task",
            dag.id = %self.run.facts.dag_id,
            run.id = %self.run.facts.run_id,
            task.id = %self.task.id,
            task.map_index = self.instance.as_ref().map(|instance| instance.map_index),
            attempt = self.key.try_number
        );
        let work = Box::pin(async {
            let result = match self.supervised(log.clone()).await {
                Ok(output) => Box::pin(self.kept(output)).await,
                Err(failure) => Err(failure),
            };
            let result = result.map_err(|failure| self.told(failure));
            match &result {
                Err(Failure::Retry(text) | Failure::Fatal(text)) => log.line(text),
                Err(skip @ Failure::Skip(_)) => log.line(skip.to_string()),
                Ok(_) | Err(Failure::Interrupted) => {}
            }
            drop(log);
            log_ended.cancel();
            result
        });
        let (result, ()) = futures::future::join(work, writer).instrument(span).await;
        self.ended(result)
    }

    /// A failure as it is told: its words are masked, and those of a whole answer or output are cut.
    fn told(&self, failure: Failure) -> Failure {
        let words = |text: String| cut(self.lookup.masks().mask(&text));
        match failure {
            Failure::Retry(text) => Failure::Retry(words(text)),
            Failure::Fatal(text) => Failure::Fatal(words(text)),
            Failure::Skip(text) => Failure::Skip(words(text)),
            Failure::Interrupted => Failure::Interrupted,
        }
    }

    /// The operator with its timeout, its stop, its lease and its panics.
    async fn supervised(&self, log: TaskLog) -> Result<Output, Failure> {
        let limit = self.task.execution_timeout.unwrap_or(Duration::MAX);
        let cancel = self.stop.token.child_token();
        let timed_out = CancellationToken::new();
        let mut work = Box::pin(AssertUnwindSafe(self.operate(log, cancel.clone(), timed_out.clone())).catch_unwind());
        let flatten = |caught: Result<Result<Output, Failure>, Box<dyn std::any::Any + Send>>| match caught {
            Ok(result) => result,
            Err(panic) => Err(Failure::Retry(format!("the operator panicked: {}", panic_text(panic.as_ref())))),
        };
        let is_too_long = tokio::select! {
            result = &mut work => return flatten(result),
            () = tokio::time::sleep(limit) => true,
            () = self.stop.token.cancelled() => false,
            () = self.holding.ended() => {
                self.stop.stop(Stop::LeaseLost);
                false
            }
        };
        if is_too_long {
            timed_out.cancel();
        }
        cancel.cancel();
        let stopped = tokio::select! {
            result = &mut work => Some(flatten(result)),
            () = tokio::time::sleep(STOP_LIMIT) => None,
            () = self.lease_lost_for(LOST_STOP_LIMIT) => None,
        };
        let too_long = || format!("it ran longer than its execution_timeout of {}", words(limit));
        match stopped {
            Some(Ok(output)) => Ok(output), // it was done just then
            Some(Err(Failure::Retry(last) | Failure::Fatal(last))) if is_too_long => {
                Err(Failure::Retry(format!("{}: {last}", too_long())))
            }
            Some(Err(Failure::Interrupted)) | None if is_too_long => Err(Failure::Retry(too_long())),
            Some(failure) => failure,
            None => Err(Failure::Interrupted),
        }
    }

    /// Puts an output where it stays, before the step that records it. A run that is cancelled does not need it.
    async fn kept(&self, output: Output) -> Result<TaskOutput, Failure> {
        if choice::chooses(self.task.operator) {
            return self.output_store.keep_in_row(output);
        }
        let stopped = async {
            self.stop.token.cancelled().await;
            if self.stop.reason() != Some(Stop::Cancelled) {
                tokio::time::sleep(STOP_LIMIT).await;
            }
        };
        tokio::select! {
            biased;
            kept = self.output_store.keep(&self.store, self.key, output) => kept.map_err(Failure::from),
            () = stopped => Err(Failure::Interrupted),
            () = self.lease_lost_for(LOST_STOP_LIMIT) => {
                self.stop.stop(Stop::LeaseLost);
                Err(Failure::Interrupted)
            }
            () = tokio::time::sleep(KEEP_LIMIT) => {
                let seconds = KEEP_LIMIT.as_secs();
                Err(Failure::Retry(format!("the output could not be put into object storage within {seconds} s")))
            }
        }
    }

    /// Waits until the lease has been lost for so long.
    async fn lease_lost_for(&self, time: Duration) {
        tokio::select! {
            () = self.stop.lease_lost.cancelled() => {}
            () = self.holding.ended() => {}
        }
        tokio::time::sleep(time).await;
    }

    async fn operate(
        &self,
        log: TaskLog,
        cancel: CancellationToken,
        timed_out: CancellationToken,
    ) -> Result<Output, Failure> {
        if let Some(mapping) = self.task.mapping.as_ref().filter(|_| self.instance.is_none()) {
            return Box::pin(self.expand(mapping, &log)).await;
        }
        let (operator, context) = Box::pin(self.prepared(log, cancel, timed_out)).await?;
        operator.run(&context).await
    }

    /// The operator, made of what the templates gave, and what it may know.
    async fn prepared(
        &self,
        log: TaskLog,
        cancel: CancellationToken,
        timed_out: CancellationToken,
    ) -> Result<(Box<dyn Operator>, Box<TaskContext>), Failure> {
        let task = &self.task;
        let outputs = Arc::new(self.upstream_outputs(&task.config).await?);
        // What an instance has of its own may hold a secret that the expansion looked up, maybe in another process: it is
        // looked up again, so that it is masked here, too.
        let mut wanted = Wanted::in_config(&task.config);
        if let Some(mapping) = &task.mapping {
            wanted.extend(&mapping.wanted);
        }
        let named = self.lookup.named(&wanted).await?;
        let templates = self.templates(&outputs, named);
        let upstream = self.outputs.iter().filter_map(|(id, (operator, _))| {
            let output = outputs.get(id)?.to_object()?;
            Some((id.clone(), UpstreamOutput { operator: (*operator).to_owned(), output }))
        });
        let operator = self.built(&templates.scope())?;
        let context = Box::new(TaskContext {
            attempt: self.key,
            dag_id: self.run.facts.dag_id.clone(),
            run_id: self.run.facts.run_id.clone(),
            task_id: task.id.clone(),
            logical_date: self.run.facts.logical_date,
            dag: Arc::clone(&self.run.dag),
            choice: Arc::clone(&self.choice),
            dag_folder: self.run.folder.clone(),
            store: self.store.clone(),
            endpoints: Arc::clone(&self.endpoints),
            memory_limit: self.memory_limit,
            processes: self.processes,
            upstream: upstream.collect(),
            outputs,
            map_index: self.instance.as_ref().map(|instance| instance.map_index),
            output_limit: self.output_store.most(),
            templates,
            lookup: self.lookup.clone(),
            cancel,
            timed_out,
            lost: self.stop.lease_lost.clone(),
            log,
            progress: Arc::clone(&self.progress),
            deferring: self.deferring.clone(),
        });
        Ok((operator, context))
    }

    /// What the attempt's templates see.
    fn templates(&self, outputs: &Arc<Outputs>, named: Named) -> Templates {
        let (facts, task, try_number) = (Arc::clone(&self.run.facts), self.task.clone(), self.key.try_number);
        let (instance, outputs) = (self.instance.clone(), Arc::clone(outputs));
        Templates::new(move || {
            let outputs = Outputs::clone(&outputs);
            let scope = match &instance {
                Some(instance) => TemplateScope::for_instance(&facts, &task, try_number, outputs, instance),
                None => TemplateScope::for_task(&facts, &task, try_number, outputs),
            };
            scope.with_named(named.clone())
        })
    }

    /// The task's configuration, rendered.
    fn config(&self, templates: &TemplateScope) -> Result<Value, Failure> {
        let mut config = templates.render_config(&self.task.config, self.registration.kind.late_fields)?;
        if let (Some(instance), Some(config)) = (&self.instance, config.as_object_mut()) {
            // What it has for itself was rendered when its task was expanded.
            config.extend(instance.item.iter().map(|(key, value)| (key.clone(), value.clone())));
        }
        Ok(config)
    }

    /// The operator of that configuration; what is wrong with it is told by its keys. What an instance has for itself its
    /// operator sees here for the first time.
    fn built(&self, templates: &TemplateScope) -> Result<Box<dyn Operator>, Failure> {
        let (kind, masks) = (self.registration.kind, self.lookup.masks());
        let map_index = self.instance.as_ref().map(|instance| instance.map_index);
        let name = TaskName { task: self.task.id.clone(), map_index };
        let config = self.config(templates)?;
        if let Some(instance) = self.instance.as_ref().filter(|_| !(kind.check)(&config).is_empty()) {
            let is_own =
                |problem: &ConfigProblem| problem.path.first().is_none_or(|key| instance.item.contains_key(key));
            if let Some(refusal) = rendered::refusal(&name, kind, &config, masks, is_own) {
                return Err(Failure::Fatal(refusal));
            }
        }
        (self.registration.build)(config).or_else(|error| {
            // It is rendered anew, since it may be large, and few do not fit.
            let config = self.config(templates)?;
            let refusal = rendered::refusal(&name, kind, &config, masks, |_| true);
            Err(refusal.map_or_else(|| Failure::fatal(&error), Failure::Fatal))
        })
    }

    /// What the tasks before it left. What instances left, or is in object storage, is read where `templates` name it, or the
    /// operator may look for it itself.
    async fn upstream_outputs(&self, templates: &Value) -> Result<Outputs, Failure> {
        if self.outputs.values().all(|(_, output)| output.value().is_some()) {
            return Ok(self.outputs.iter().map(|(id, (_, output))| (id.clone(), output.clone())).collect());
        }
        let read = ReadOutputs::in_config(templates);
        let mut outputs = Outputs::new();
        for (id, (_, output)) in &self.outputs {
            let is_operators = self.instance.is_some() || self.task.mapping.is_none();
            let is_needed =
                output.value().is_none() && (read.has(id) || is_operators && self.registration.kind.reads_outputs());
            let output = match output {
                _ if !is_needed => output.clone(),
                TaskOutput::Listed(listed) => {
                    let list = self.output_store.list(&self.store, self.run.key, listed).await?;
                    self.output_store.fetch(&list).await?
                }
                output => self.output_store.fetch(output).await?,
            };
            outputs.insert(id.clone(), output);
        }
        Ok(outputs)
    }

    /// The attempt of a mapped task: it makes the instances, and does nothing else.
    async fn expand(&self, mapping: &Mapping, log: &TaskLog) -> Result<Output, Failure> {
        let (facts, task) = (&self.run.facts, &self.task);
        let outputs = self.upstream_outputs(&mapping.templates()).await?;
        let named = self.lookup.named(&mapping.wanted).await?;
        let scope = TemplateScope::for_task(facts, task, self.key.try_number, outputs.clone()).with_named(named);
        let label = |map_index, item: &Output| {
            expansion::label(facts, task, &outputs, Instance { map_index, item: item.clone() })
        };
        let limits = MapLimits { count: self.max_map_length, bytes: self.output_store.most() };
        let expanded = expansion::expand(&scope, mapping, limits, label)?;
        log.line(format!("expanded into {} instances", expanded.count()));
        let _ = self.expansion.set(Arc::new(expanded)); // an attempt expands once
        Ok(Output::new())
    }

    fn ended(&self, result: Result<TaskOutput, Failure>) -> Option<EndedAttempt> {
        let stop = self.stop.reason();
        let (ending, output, error) = match (result, stop) {
            // Whatever was said meanwhile: the end is written only under the attempt's fence.
            (Ok(output), _) => {
                let ending = self.choice.made().map_or(Ending::Succeeded, |skips| Ending::Chose(skips.clone()));
                match self.expansion.get() {
                    Some(expansion) => (Ending::Expanded(Arc::clone(expansion)), None, None),
                    None => (ending, Some(output), None),
                }
            }
            (Err(Failure::Skip(reason)), _) => (Ending::Skipped, None, Some(reason)),
            (Err(_), Some(Stop::LeaseLost)) => return None,
            (Err(_), Some(Stop::Cancelled)) => (Ending::Cancelled, None, Some("the run was cancelled".to_owned())),
            (Err(_), Some(Stop::Shutdown)) => (Ending::Interrupted, None, None),
            (Err(Failure::Interrupted), None) => return None, // its operator found the lease lost
            (Err(Failure::Retry(text)), None) => {
                (Ending::Failed { retryable: true, jitter: self.jitter }, None, Some(text))
            }
            (Err(Failure::Fatal(text)), None) => {
                (Ending::Failed { retryable: false, jitter: self.jitter }, None, Some(text))
            }
        };
        Some(EndedAttempt { task: self.key.task_run.task, fence: self.key.fence, ending, output, error })
    }
}

pub(super) fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no words were left")
}

/// The beginning of words that are longer than an error may be, with how many are left out.
fn cut(words: Cow<'_, str>) -> String {
    if words.len() <= LONGEST_ERROR {
        return words.into_owned();
    }
    let (shown, rest) = words.split_at(words.floor_char_boundary(LONGEST_ERROR));
    format!("{shown} … and {} bytes more", rest.len())
}

/// A duration as people say it: `1.5 s`, `30 m`.
fn words(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0..60 => format!("{} s", duration.as_secs_f64()),
        60..3600 if seconds.is_multiple_of(60) => format!("{} m", seconds / 60),
        60..3600 => format!("{} s", seconds),
        _ => format!("{} h {} m", seconds / 3600, seconds % 3600 / 60),
    }
}
