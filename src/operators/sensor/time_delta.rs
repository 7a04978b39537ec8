//! `time_delta_sensor`: waits until some time after the end of the run's data interval.

use async_trait::async_trait;
use chrono::TimeDelta;

use super::patience::sensor_keys;
use super::watch::{Look, Seen};
use super::{Sensor, build, check, data_interval_end, met};
use crate::clock;
use crate::domain::duration::parse_duration;
use crate::domain::operator_kind::{ConfigProblem, OperatorKind};
use crate::engine::operator::{Failure, Registration, TaskContext};
use crate::operators::config::Scalar;

pub(in crate::operators) const REGISTRATION: Registration = Registration { kind: &KIND, build: build::<Delta> };

static KIND: OperatorKind = OperatorKind {
    name: "time_delta_sensor",
    class_paths: &[
        "airflow.providers.standard.sensors.time_delta.TimeDeltaSensor",
        "airflow.providers.standard.sensors.time_delta.TimeDeltaSensorAsync",
        "airflow.sensors.time_delta.TimeDeltaSensor",
        "airflow.sensors.time_delta_sensor.TimeDeltaSensor",
    ],
    about: "Waits until some time after the end of the run's data interval",
    schema: || schemars::schema_for!(Delta),
    check: check::<Delta>,
    late_fields: &[],
    file_keys: &[],
};

sensor_keys! {
    /// The keys of a `time_delta_sensor` task.
    Delta {
        /// How long after the end of the run's data interval, as `30m`.
        delta: Scalar,
    }
}

impl Delta {
    fn delta(&self) -> Result<TimeDelta, String> {
        let delta = parse_duration(&self.delta.clone().into_text()).map_err(|error| error.to_string())?;
        TimeDelta::from_std(delta).map_err(|error| error.to_string())
    }
}

impl Sensor for Delta {
    fn problems(&self) -> Vec<ConfigProblem> {
        let problem = |message| ConfigProblem::at("delta", message).help("write it as `30m` or `2h`");
        self.delta().err().map(problem).into_iter().collect()
    }
}

#[async_trait]
impl Look for Delta {
    async fn look(&self, context: &TaskContext) -> Result<Seen, Failure> {
        let at = data_interval_end(context)? + self.delta().map_err(Failure::Fatal)?;
        Ok(if at <= clock::now() { Seen::Met(met(at.to_rfc3339())) } else { Seen::NotBefore(at) })
    }
}
