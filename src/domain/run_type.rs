//! What made a run, with Airflow's names.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::domain::Timestamp;
use crate::domain::ids::RunId;

/// What made a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunType {
    /// Somebody asked for it.
    Manual,
    /// The schedule.
    Scheduled,
    /// A backfill.
    Backfill,
    /// A task of another DAG, by `trigger_dag_run`.
    OperatorTriggered,
}

impl RunType {
    /// Every one.
    pub const ALL: [Self; 4] = [Self::Manual, Self::Scheduled, Self::Backfill, Self::OperatorTriggered];

    /// Its name, as it stands in run ids, Postgres and JSON.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Manual => "manual",
            Self::Scheduled => "scheduled",
            Self::Backfill => "backfill",
            Self::OperatorTriggered => "operator_triggered",
        }
    }

    /// `scheduled__2026-03-01T02:00:00+00:00`, as Airflow forms the id of a run of that instant; reruns add `~1`, `~2`, ….
    #[must_use]
    pub fn run_id(self, instant: Timestamp, rerun: i32) -> RunId {
        let instant = instant.format("%Y-%m-%dT%H:%M:%S%.f+00:00");
        let text = if rerun == 0 { format!("{self}__{instant}") } else { format!("{self}__{instant}~{rerun}") };
        text.parse().expect("an instant's characters are all allowed in a run id")
    }
}

impl fmt::Display for RunType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn run_ids_are_airflows() {
        let date: Timestamp = "2026-03-01T02:00:00.123456Z".parse().unwrap();
        assert_eq!(RunType::Manual.run_id(date, 0).as_str(), "manual__2026-03-01T02:00:00.123456+00:00");
        let date: Timestamp = "2026-03-01T02:00:00Z".parse().unwrap();
        assert_eq!(RunType::Scheduled.run_id(date, 2).as_str(), "scheduled__2026-03-01T02:00:00+00:00~2");
    }
}
