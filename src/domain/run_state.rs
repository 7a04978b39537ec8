//! The state of a run, with Airflow's names.

use std::fmt;

use serde::Serialize;

/// Where a run stands. A cancelled run is `failed` with its cancel request recorded beside it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RunState {
    /// It waits for its turn and has no tasks yet; that its DAG has room for one more run moves it on.
    Queued,
    /// It has begun: its tasks are there. The last task's completion moves it on.
    Running,
    /// Every leaf ended well (success or skipped). Final.
    Success,
    /// A leaf failed, or the run was cancelled. Final.
    Failed,
}

impl RunState {
    /// Every state, in the order of a run's life.
    pub const ALL: [Self; 4] = [Self::Queued, Self::Running, Self::Success, Self::Failed];

    /// Airflow's name for it, as it stands in Postgres and JSON.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Success => "success",
            Self::Failed => "failed",
        }
    }

    /// Whether nothing moves it on any more.
    #[must_use]
    pub fn is_final(self) -> bool {
        match self {
            Self::Queued | Self::Running => false,
            Self::Success | Self::Failed => true,
        }
    }
}

impl fmt::Display for RunState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}
