//! `http_job`: hands a job to another service, waits for its end without a slot, and cancels it where the task is.
//!
//! That a try is about to submit is kept before it does, and the answer right after. An attempt that finds the answer
//! goes on with that job. One that finds only the intention, since the one before died in between, submits again with the
//! same idempotency key: a service that knows it makes one job of both; for any other the job is there twice.

mod config;

use std::time::Duration;

use async_trait::async_trait;
use serde_json::Value;
use tokio::sync::Semaphore;

use crate::clock;
use crate::domain::operator_kind::{LateField, OperatorKind};
use crate::domain::task_state::AttemptOutcome;
use crate::engine::operator::{Failure, Operator, Output, Registration, TaskContext};
use crate::operators::config as keys;
use crate::operators::http::Http;
use crate::operators::sensor::watch::{self, Look, Seen};
use crate::store::StoreError;

use config::HttpJob;

pub(crate) const REGISTRATION: Registration = Registration { kind: &KIND, build };

static KIND: OperatorKind = OperatorKind {
    name: "http_job",
    class_paths: &[],
    about: "Hands a job to another service and waits for its end",
    schema: || schemars::schema_for!(HttpJob),
    check: |value| keys::check(value, config::problems),
    late_fields: &[
        LateField { key: "status_url", variables: &["response"] },
        LateField { key: "cancel_url", variables: &["response"] },
    ],
    file_keys: &[],
};

/// How long a request for cancellation may take: a worker drops an attempt that was told to end ten seconds ago.
const CANCEL_LIMIT: Duration = Duration::from_secs(8);

fn build(config: Value) -> Result<Box<dyn Operator>, serde_json::Error> {
    Ok(Box::new(serde_json::from_value::<HttpJob>(config)?))
}

/// A job that was submitted.
struct Submitted<'a> {
    keys: &'a HttpJob,
    /// The answer to the submission: what the addresses of its status and its cancellation are made from.
    response: Value,
    status: Http,
}

#[async_trait]
impl Operator for HttpJob {
    async fn run(&self, context: &TaskContext) -> Result<Output, Failure> {
        // Only here nothing is cancelled half way: what was submitted has to be known.
        // What takes a moment is boxed: ten thousand may wait for days, and hold no more than what waiting needs.
        let job = Box::pin(self.submitted(context)).await?;
        let patience = self.patience()?;
        match watch::wait(context, &patience, &job).await {
            Err(Failure::Interrupted) => {
                if Box::pin(is_unwanted(context)).await {
                    Box::pin(job.cancel(context)).await;
                }
                Err(Failure::Interrupted)
            }
            // Patience ended, which is this task's own: no later attempt takes the job up.
            Err(failure @ (Failure::Fatal(_) | Failure::Skip(_))) => {
                Box::pin(job.cancel(context)).await;
                Err(failure)
            }
            ended => ended,
        }
    }
}

/// Whether the attempt was told to end for good: the run was cancelled, somebody marked or cleared the task, or it took too
/// long. Where its process stops, or another may hold the task, a later attempt of the try goes on with the job.
async fn is_unwanted(context: &TaskContext) -> bool {
    /// All that a worker waits for ends at once where it stops: so many ask at a time.
    static ASKING: Semaphore = Semaphore::const_new(4);

    if context.timed_out.is_cancelled() {
        return true;
    }
    let task_run = context.attempt.task_run;
    let asking = async {
        let run = context.store.run(task_run.run).await?;
        let attempts = context.store.attempts(task_run.run, task_run.task).await?;
        let mine = attempts.iter().find(|attempt| attempt.fence == context.attempt.fence);
        let is_taken_away = mine.is_some_and(|attempt| attempt.outcome == Some(AttemptOutcome::Cancelled));
        Ok::<_, StoreError>(is_taken_away || run.is_some_and(|run| run.cancel_requested_at.is_some()))
    };
    let in_turn = async {
        let _turn = ASKING.acquire().await.ok()?;
        Box::pin(asking).await.ok()
    };
    matches!(tokio::time::timeout(CANCEL_LIMIT / 4, in_turn).await, Ok(Some(true)))
}

impl HttpJob {
    /// The job that an earlier attempt of this try submitted, or a new one.
    async fn submitted(&self, context: &TaskContext) -> Result<Submitted<'_>, Failure> {
        let attempt = context.attempt;
        let token = format!("{}-{}-{}", attempt.run_uuid, attempt.task_run.task.0, attempt.try_number);
        let job = context.store.begin_external_job(attempt, &token, clock::now()).await.map_err(stored)?;
        let response = if let Some(response) = job.handle {
            context.log.line("goes on with the job that an earlier attempt submitted");
            response
        } else {
            if job.was_begun {
                context.log.line("an earlier attempt may have submitted the job: submits it with the same key");
            }
            let response = Value::Object(self.submission(&job.token).exchange(context).await?);
            context.store.keep_external_handle(attempt, &response).await.map_err(stored)?;
            response
        };
        let address = self.address(&self.status_url, &response, context).await?;
        let status = self.request(address, "GET");
        Ok(Submitted { keys: self, response, status })
    }

    async fn address(&self, template: &str, response: &Value, context: &TaskContext) -> Result<String, Failure> {
        let scope = context.templates_for(template).await?;
        Ok(scope.render(template, &[("response", response.clone())])?)
    }
}

/// An attempt that lost its lease ends, and says nothing.
fn stored(error: StoreError) -> Failure {
    if matches!(error, StoreError::Fenced { .. }) { Failure::Interrupted } else { Failure::retry(&error) }
}

impl Submitted<'_> {
    /// Asks the service to end the job. Nobody is left to try again: what fails is told to the log.
    async fn cancel(&self, context: &TaskContext) {
        let Some(template) = &self.keys.cancel_url else {
            context.log.line("there is no `cancel_url`: the job goes on by itself");
            return;
        };
        let asking = async {
            let address = self.keys.address(template, &self.response, context).await?;
            self.keys.cancellation(address).exchange(context).await.map_err(Failure::from)
        };
        match tokio::time::timeout(CANCEL_LIMIT, asking).await {
            Ok(Ok(_)) => context.log.line("asked the service to cancel the job"),
            Ok(Err(failure)) => context.log.line(format!("could not cancel the job: {failure}")),
            Err(_) => context.log.line("could not cancel the job: no answer in time"),
        }
    }
}

#[async_trait]
impl Look for Submitted<'_> {
    async fn look(&self, context: &TaskContext) -> Result<Seen, Failure> {
        let answer = self.status.exchange(context).await?;
        let body = answer.get("body").cloned().unwrap_or_default();
        let pointer = &self.keys.state_pointer;
        let state = match body.pointer(pointer) {
            Some(Value::String(state)) => state.clone(),
            Some(Value::Null) | None => return Ok(Seen::NotYet(format!("the answer has no state at `{pointer}`"))),
            Some(other) => other.to_string(),
        };
        if self.keys.success_states.contains(&state) {
            let mut output = Output::new();
            output.insert("state".to_owned(), Value::from(state));
            output.insert("submitted".to_owned(), self.response.clone());
            output.insert("return_value".to_owned(), body);
            return Ok(Seen::Met(output));
        }
        if self.keys.failure_states.contains(&state) {
            return Ok(Seen::Failed(format!("the job ended as `{state}`")));
        }
        Ok(Seen::NotYet(format!("the job is `{state}`")))
    }
}
