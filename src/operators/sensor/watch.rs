//! Looks again and again, without a slot, until what is waited for has come.

use std::time::Duration;

use async_trait::async_trait;

use crate::clock;
use crate::domain::Timestamp;
use crate::engine::operator::{Failure, Output, TaskContext};
use crate::operators::sensor::patience::Patience;

/// The longest sleep towards an instant: a machine that was asleep meanwhile is late by no more.
const LONGEST_SLEEP: Duration = Duration::from_secs(60);

/// What a look found.
pub(in crate::operators) enum Seen {
    /// It has come.
    Met(Output),
    /// It has not, and these words say how it stands.
    NotYet(String),
    /// It will not before then.
    NotBefore(Timestamp),
    /// It never will in this attempt; another may begin it anew.
    Failed(String),
}

/// One look at what is waited for. It is light: ten thousand may wait at once.
#[async_trait]
pub(in crate::operators) trait Look: Send + Sync {
    /// Looks.
    ///
    /// # Errors
    /// After a [`Failure::Retry`] it is looked again; every other failure ends the attempt.
    async fn look(&self, context: &TaskContext) -> Result<Seen, Failure>;
}

/// Looks once; if it has not come yet, gives the slot away and looks again until it has, or patience ends.
///
/// The time is counted from the first attempt of the task on, whatever became of it: what an attempt that was interrupted,
/// lost or failed had waited counts.
///
/// # Errors
/// A timeout is fatal, as in Airflow: another attempt would have no time left. The attempt ends as soon as it is told to.
pub(in crate::operators) async fn wait(
    context: &TaskContext,
    patience: &Patience,
    looking: &dyn Look,
) -> Result<Output, Failure> {
    tokio::select! {
        biased;
        () = context.cancel.cancelled() => Err(Failure::Interrupted),
        ended = watch(context, patience, looking) => ended,
    }
}

async fn watch(context: &TaskContext, patience: &Patience, looking: &dyn Look) -> Result<Output, Failure> {
    let (mut deadline, mut said) = (None, String::new());
    for looks in 0_u32.. {
        let pause = patience.pause(looks, rand::random());
        let (pause, words) = match looking.look(context).await {
            Ok(Seen::Met(output)) => return Ok(output),
            Ok(Seen::NotYet(words)) => (pause, words),
            Ok(Seen::Failed(words)) => return Err(Failure::Retry(words)),
            Ok(Seen::NotBefore(at)) => {
                let left = (at - clock::now()).to_std().unwrap_or_default();
                (left.min(LONGEST_SLEEP), format!("waits until {}", at.format("%Y-%m-%dT%H:%M:%SZ")))
            }
            Err(Failure::Retry(words)) => (pause, format!("could not look: {words}")),
            Err(failure) => return Err(failure),
        };
        if looks == 0 {
            context.deferring.defer();
        }
        if words != said {
            // A line for each look would be ten thousand in a week.
            context.log.line(words.clone());
            said = words;
        }
        if deadline.is_none() {
            deadline = Box::pin(self::deadline(context, patience)).await;
        }
        let left = deadline.map(|deadline| (deadline - clock::now()).to_std().unwrap_or_default());
        match (left, patience.timeout) {
            (Some(Duration::ZERO), Some(timeout)) => return Err(too_late(patience, timeout, &said)),
            (left, _) => tokio::time::sleep(left.map_or(pause, |left| pause.min(left))).await,
        }
    }
    Err(Failure::Retry("it was looked four billion times".to_owned()))
}

/// When patience ends; nothing where it does not, or where the store did not say when the task began.
async fn deadline(context: &TaskContext, patience: &Patience) -> Option<Timestamp> {
    let timeout = chrono::TimeDelta::from_std(patience.timeout?).ok()?;
    match context.store.first_attempt_at(context.attempt.task_run).await {
        Ok(began) => Some(began.unwrap_or_else(clock::now) + timeout),
        Err(error) => {
            tracing::debug!("could not ask when a task began to wait: {error}");
            None
        }
    }
}

fn too_late(patience: &Patience, timeout: Duration, said: &str) -> Failure {
    let words = format!("it was waited for {timeout:?} in vain: {said}");
    if patience.is_soft { Failure::Skip(words) } else { Failure::Fatal(words) }
}
