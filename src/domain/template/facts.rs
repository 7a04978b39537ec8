//! What templates may know of a run.

use chrono::{DateTime, TimeDelta};
use serde_json::{Map, Value};
use uuid::Uuid;

use crate::domain::Timestamp;
use crate::domain::ids::{DagId, RunId};

/// One run, as its tasks' templates see it.
#[derive(Debug, Clone, PartialEq)]
pub struct RunFacts {
    /// The DAG.
    pub dag_id: DagId,
    /// The run.
    pub run_id: RunId,
    /// The run's identity towards the outside.
    pub run_uuid: Uuid,
    /// The run's logical date.
    pub logical_date: Timestamp,
    /// The start of the time that the run is about.
    pub data_interval_start: Timestamp,
    /// The end of the time that the run is about.
    pub data_interval_end: Timestamp,
    /// The DAG's params with what the run overrides.
    pub params: Map<String, Value>,
    /// What the run was triggered with.
    pub conf: Map<String, Value>,
}

impl RunFacts {
    /// A run that stands for any: what `validate` renders templates with.
    #[must_use]
    pub fn sample(dag_id: DagId) -> Self {
        let logical_date = DateTime::UNIX_EPOCH + TimeDelta::days(20_454); // 2026-01-01
        Self {
            dag_id,
            run_id: "scheduled__2026-01-01T00:00:00+00:00".parse().expect("a run id as Airflow writes it"),
            run_uuid: Uuid::nil(),
            logical_date,
            data_interval_start: logical_date,
            data_interval_end: logical_date + TimeDelta::days(1),
            params: Map::new(),
            conf: Map::new(),
        }
    }
}
