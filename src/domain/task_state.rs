//! The state of a task run and the one table of its transitions.
//!
//! The same states stand in the SQL CHECK, in `store/rows.rs` and in ARCHITECTURE.md's diagram; a test holds them
//! together.

use std::fmt;

use serde::Serialize;

/// Where a task run stands, with Airflow's names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum TaskState {
    /// Waits for its upstreams; the completion of one of them moves it on.
    None,
    /// Its trigger rule is met; a worker's claim moves it on.
    Queued,
    /// A worker holds it under a lease; that worker's completion moves it on, or whoever takes it over when the worker died.
    Running,
    /// Waits for something outside and takes no slot; its worker watches over it without a lease of its own, and moves it
    /// on, or whoever takes it over when the worker died.
    Deferred,
    /// Expanded into instances (a mapped task); the end of the last of them moves it on.
    Mapped,
    /// Failed with tries left; a claim after its `ready_at` moves it on.
    UpForRetry,
    /// Done. Final.
    Success,
    /// Out of tries, fatally wrong, or cancelled. Final.
    Failed,
    /// Never ran: an upstream failed. Final.
    UpstreamFailed,
    /// Its rule or an upstream said not to run it, or its own attempt said that there was nothing to do. Final.
    Skipped,
}

/// What can happen to a task run; past tense, as it is written into the history.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum TaskEvent {
    /// The upstreams ended so that the trigger rule is met.
    Released,
    /// A worker took it under a new fence.
    Claimed,
    /// The operator waits for something outside: the slot is free for others.
    Deferred,
    /// A mapped task's instances are there.
    Expanded,
    /// The operator returned its output.
    Succeeded,
    /// The operator failed, and another try is due.
    FailedForNow,
    /// The operator failed, and no try is left or another would fail the same way.
    FailedForGood,
    /// The worker handed it back at a stop: the try is not counted.
    Interrupted,
    /// The worker died under it: the try is not counted, the loss is.
    Lost,
    /// Too many workers died under it.
    LostForGood,
    /// Its trigger rule, or a branch before it, said not to run it.
    Skipped,
    /// Its own attempt found nothing to do.
    SkippedItself,
    /// An upstream failed, so that its trigger rule can never be met.
    UpstreamFailed,
    /// Somebody asked for the run to be cancelled.
    Cancelled,
    /// A person wants it to run again, whatever became of it.
    Cleared,
    /// A person takes it for done.
    MarkedSuccess,
    /// A person takes it for failed.
    MarkedFailed,
    /// A person had an instance of a mapped task run again, and the task is over when that is.
    Reopened,
}

/// How an attempt ended, as its row says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum AttemptOutcome {
    /// With an output.
    Success,
    /// With an error.
    Failed,
    /// Handed back uncounted.
    Interrupted,
    /// Its worker died.
    Lost,
    /// Its run was cancelled.
    Cancelled,
    /// It found nothing to do.
    Skipped,
}

/// An event that cannot happen in that state: a broken invariant of ours or a corrupt row, never a user's mistake.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a task that is {from} cannot be {event}")]
pub struct IllegalTransition {
    /// The state it was in.
    pub from: TaskState,
    /// What was said to have happened.
    pub event: TaskEvent,
}

impl TaskState {
    /// Every state, in the order of a task's life.
    pub const ALL: [Self; 10] = [
        Self::None,
        Self::Queued,
        Self::Running,
        Self::Deferred,
        Self::Mapped,
        Self::UpForRetry,
        Self::Success,
        Self::Failed,
        Self::UpstreamFailed,
        Self::Skipped,
    ];

    /// The state after `event`.
    ///
    /// # Errors
    /// [`IllegalTransition`] when that event cannot happen in this state.
    pub fn next(self, event: TaskEvent) -> Result<Self, IllegalTransition> {
        use TaskEvent as E;
        Ok(match (self, event) {
            (Self::None, E::Released) => Self::Queued,
            (Self::None | Self::Queued, E::Skipped) => Self::Skipped,
            (Self::None, E::UpstreamFailed) => Self::UpstreamFailed,
            (Self::Queued | Self::UpForRetry, E::Claimed) => Self::Running,
            (Self::Running, E::Deferred) => Self::Deferred,
            (Self::Running, E::Expanded) => Self::Mapped,
            // A mapped task ends by the ends of its instances.
            (Self::Running | Self::Deferred | Self::Mapped, E::Succeeded) => Self::Success,
            (Self::Running | Self::Deferred | Self::Mapped, E::SkippedItself) => Self::Skipped,
            (Self::Running | Self::Deferred, E::FailedForNow) => Self::UpForRetry,
            (Self::Running | Self::Deferred | Self::Mapped, E::FailedForGood) => Self::Failed,
            (Self::Running | Self::Deferred, E::LostForGood) => Self::Failed,
            (Self::Running | Self::Deferred, E::Interrupted | E::Lost) => Self::Queued, // not the task's fault
            (
                Self::None | Self::Queued | Self::Running | Self::Deferred | Self::Mapped | Self::UpForRetry,
                E::Cancelled,
            ) => Self::Failed,
            // A person's word counts in every state; a fence that was held before is not held any more.
            (_, E::Cleared) => Self::None,
            (_, E::MarkedSuccess) => Self::Success,
            (_, E::MarkedFailed) => Self::Failed,
            (Self::Success | Self::Failed | Self::UpstreamFailed | Self::Skipped, E::Reopened) => Self::Mapped,
            (from, event) => return Err(IllegalTransition { from, event }),
        })
    }

    /// Airflow's name for it, as it stands in Postgres and JSON.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Deferred => "deferred",
            Self::Mapped => "mapped",
            Self::UpForRetry => "up_for_retry",
            Self::Success => "success",
            Self::Failed => "failed",
            Self::UpstreamFailed => "upstream_failed",
            Self::Skipped => "skipped",
        }
    }

    /// Whether nothing moves it on any more.
    #[must_use]
    pub fn is_final(self) -> bool {
        match self {
            Self::None | Self::Queued | Self::Running | Self::Deferred | Self::Mapped | Self::UpForRetry => false,
            Self::Success | Self::Failed | Self::UpstreamFailed | Self::Skipped => true,
        }
    }

    /// Whether a run with this at a leaf has failed.
    #[must_use]
    pub fn is_failure(self) -> bool {
        match self {
            Self::Failed | Self::UpstreamFailed => true,
            Self::None
            | Self::Queued
            | Self::Running
            | Self::Deferred
            | Self::Mapped
            | Self::UpForRetry
            | Self::Success
            | Self::Skipped => false,
        }
    }

    /// Whether an attempt of it goes on, in some worker's hands.
    #[must_use]
    pub fn is_held(self) -> bool {
        matches!(self, Self::Running | Self::Deferred)
    }
}

impl TaskEvent {
    /// Every event.
    pub const ALL: [Self; 18] = [
        Self::Released,
        Self::Claimed,
        Self::Deferred,
        Self::Expanded,
        Self::Succeeded,
        Self::FailedForNow,
        Self::FailedForGood,
        Self::Interrupted,
        Self::Lost,
        Self::LostForGood,
        Self::Skipped,
        Self::SkippedItself,
        Self::UpstreamFailed,
        Self::Cancelled,
        Self::Cleared,
        Self::MarkedSuccess,
        Self::MarkedFailed,
        Self::Reopened,
    ];

    /// Its name in the history.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Released => "released",
            Self::Claimed => "claimed",
            Self::Deferred => "deferred",
            Self::Expanded => "expanded",
            Self::Succeeded => "succeeded",
            Self::FailedForNow => "failed_for_now",
            Self::FailedForGood => "failed_for_good",
            Self::Interrupted => "interrupted",
            Self::Lost => "lost",
            Self::LostForGood => "lost_for_good",
            Self::Skipped => "skipped",
            Self::SkippedItself => "skipped_itself",
            Self::UpstreamFailed => "upstream_failed",
            Self::Cancelled => "cancelled",
            Self::Cleared => "cleared",
            Self::MarkedSuccess => "marked_success",
            Self::MarkedFailed => "marked_failed",
            Self::Reopened => "reopened",
        }
    }
}

impl AttemptOutcome {
    /// Every outcome.
    pub const ALL: [Self; 6] =
        [Self::Success, Self::Failed, Self::Interrupted, Self::Lost, Self::Cancelled, Self::Skipped];

    /// The outcome of the attempt whose end is `event`; `None` for what ends no attempt.
    #[must_use]
    pub fn of(event: TaskEvent) -> Option<Self> {
        match event {
            TaskEvent::Succeeded | TaskEvent::Expanded => Some(Self::Success),
            TaskEvent::FailedForNow | TaskEvent::FailedForGood => Some(Self::Failed),
            TaskEvent::Interrupted => Some(Self::Interrupted),
            TaskEvent::Lost | TaskEvent::LostForGood => Some(Self::Lost),
            TaskEvent::Cancelled | TaskEvent::Cleared | TaskEvent::MarkedSuccess | TaskEvent::MarkedFailed => {
                Some(Self::Cancelled)
            }
            TaskEvent::SkippedItself => Some(Self::Skipped),
            TaskEvent::Released
            | TaskEvent::Claimed
            | TaskEvent::Deferred
            | TaskEvent::Skipped
            | TaskEvent::Reopened
            | TaskEvent::UpstreamFailed => None,
        }
    }

    /// Its name in Postgres and in JSON.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Failed => "failed",
            Self::Interrupted => "interrupted",
            Self::Lost => "lost",
            Self::Cancelled => "cancelled",
            Self::Skipped => "skipped",
        }
    }
}

impl fmt::Display for AttemptOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl fmt::Display for TaskState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl fmt::Display for TaskEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn final_states_accept_no_event_but_a_persons_word() {
        use TaskEvent::{Cleared, MarkedFailed, MarkedSuccess, Reopened};
        for state in TaskState::ALL.into_iter().filter(|state| state.is_final()) {
            for event in TaskEvent::ALL
                .into_iter()
                .filter(|event| ![Cleared, MarkedFailed, MarkedSuccess, Reopened].contains(event))
            {
                assert!(state.next(event).is_err(), "{state} moved on by {event}");
            }
        }
    }

    #[test]
    fn every_unfinished_state_can_be_cancelled_and_every_event_happens_somewhere() {
        for state in TaskState::ALL.into_iter().filter(|state| !state.is_final()) {
            assert_eq!(state.next(TaskEvent::Cancelled), Ok(TaskState::Failed));
        }
        for event in TaskEvent::ALL {
            assert!(TaskState::ALL.into_iter().any(|state| state.next(event).is_ok()), "{event} never happens");
        }
    }
}
