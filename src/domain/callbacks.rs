//! Callbacks and deadlines: who is told, of what, and by when something is to have ended.

use std::fmt;
use std::time::Duration;

use serde_json::Value;

/// What somebody is told of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Event {
    /// A run or a task failed for good.
    Failure,
    /// A run or a task succeeded.
    Success,
    /// A try of a task failed, and another one follows.
    Retry,
    /// A run or a task has not ended by its deadline.
    Deadline,
}

impl Event {
    /// Every event, in the order in which the database counts their callbacks.
    pub const ALL: [Self; 4] = [Self::Failure, Self::Success, Self::Retry, Self::Deadline];

    /// As it is stored, and as receivers get it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Failure => "failure",
            Self::Success => "success",
            Self::Retry => "retry",
            Self::Deadline => "deadline",
        }
    }

    /// The state of what it is about, as templates see it.
    #[must_use]
    pub fn state(self) -> &'static str {
        match self {
            Self::Failure => "failed",
            Self::Success => "success",
            Self::Retry => "up_for_retry",
            Self::Deadline => "running",
        }
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How somebody is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Channel {
    /// A POST of JSON.
    Webhook,
    /// A message to Slack, or to what takes the same.
    Slack,
    /// A mail.
    Email,
}

impl Channel {
    /// Every channel.
    pub const ALL: [Self; 3] = [Self::Webhook, Self::Slack, Self::Email];

    /// Its key in a DAG file.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Webhook => "webhook",
            Self::Slack => "slack",
            Self::Email => "email",
        }
    }

    /// The keys that it has.
    #[must_use]
    pub fn keys(self) -> &'static [&'static str] {
        match self {
            Self::Webhook => &["url", "headers", "secret"],
            Self::Slack => &["webhook_url", "conn_id", "text", "channel"],
            Self::Email => &["to", "subject", "body", "conn_id"],
        }
    }
}

/// One callback.
#[derive(Debug, Clone, PartialEq)]
pub struct Callback {
    /// How.
    pub channel: Channel,
    /// The channel's keys as typed, templates not rendered yet; an object.
    pub config: Value,
}

/// The callbacks of a DAG or of a task.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Callbacks {
    /// When it has failed for good.
    pub on_failure: Vec<Callback>,
    /// When it has succeeded.
    pub on_success: Vec<Callback>,
    /// When a try of it failed and another one follows: of tasks only.
    pub on_retry: Vec<Callback>,
    /// When it has not ended by its deadline.
    pub on_deadline: Vec<Callback>,
}

impl Callbacks {
    /// Those of an event.
    #[must_use]
    pub fn of(&self, event: Event) -> &[Callback] {
        match event {
            Event::Failure => &self.on_failure,
            Event::Success => &self.on_success,
            Event::Retry => &self.on_retry,
            Event::Deadline => &self.on_deadline,
        }
    }

    /// Whether nobody is told of anything.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        Event::ALL.into_iter().all(|event| self.of(event).is_empty())
    }
}

/// By when a run is to have ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deadline {
    /// From when the time counts.
    pub after: DeadlineStart,
    /// How long.
    pub within: Duration,
}

/// From when a run's deadline counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DeadlineStart {
    /// When it begins.
    #[default]
    RunStart,
    /// Its logical date.
    LogicalDate,
    /// When it is created, and waits for its turn.
    Queued,
}
