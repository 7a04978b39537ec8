//! `sql_sensor`: waits until a query's first value is there and true.

use async_trait::async_trait;

use super::patience::sensor_keys;
use super::watch::{Look, Seen};
use super::{Sensor, build, check, met};
use crate::connect::source::{FirstCell, Source, SourceError};
use crate::domain::operator_kind::{ConfigProblem, OperatorKind};
use crate::engine::operator::{Failure, Registration, TaskContext};

pub(in crate::operators) const REGISTRATION: Registration = Registration { kind: &KIND, build: build::<Sql> };

static KIND: OperatorKind = OperatorKind {
    name: "sql_sensor",
    class_paths: &[
        "airflow.providers.common.sql.sensors.sql.SqlSensor",
        "airflow.sensors.sql.SqlSensor",
        "airflow.sensors.sql_sensor.SqlSensor",
    ],
    about: "Waits until a query's first value is there and true",
    schema: || schemars::schema_for!(Sql),
    check: check::<Sql>,
    late_fields: &[],
    file_keys: &[],
};

sensor_keys! {
    /// The keys of a `sql_sensor` task.
    Sql {
        /// The connection of the database: `mysql://…` or `postgres://…`.
        conn_id: String,
        /// The query. The first column of its first row counts: nothing, NULL, false, 0, `0` and empty text are false.
        sql: String,
        /// Whether a query without rows fails the task for good, as with Airflow's key.
        #[serde(default)]
        fail_on_empty: bool,
    }
}

impl Sensor for Sql {
    fn problems(&self) -> Vec<ConfigProblem> {
        let is_empty = self.sql.trim().is_empty();
        is_empty.then(|| ConfigProblem::at("sql", "there is no query")).into_iter().collect()
    }
}

#[async_trait]
impl Look for Sql {
    async fn look(&self, context: &TaskContext) -> Result<Seen, Failure> {
        let url = context.lookup.connection(&self.conn_id).await?.url();
        // A connection for each look: thousands that are kept would be too many for any database.
        let mut source = Source::connect(&url).await.map_err(failure)?;
        let found = source.first_cell(&self.sql).await;
        source.close().await;
        match found.map_err(failure)? {
            None if self.fail_on_empty => Err(Failure::Fatal("the query has no rows".to_owned())),
            None => Ok(Seen::NotYet("the query has no rows".to_owned())),
            Some(FirstCell { text, is_true: true }) => Ok(Seen::Met(met(text))),
            Some(FirstCell { text: Some(_), is_true: false }) => {
                Ok(Seen::NotYet("the first value is false".to_owned()))
            }
            Some(FirstCell { text: None, is_true: false }) => Ok(Seen::NotYet("the first value is NULL".to_owned())),
        }
    }
}

fn failure(error: SourceError) -> Failure {
    if error.is_transient() { Failure::retry(&error) } else { Failure::fatal(&error) }
}
