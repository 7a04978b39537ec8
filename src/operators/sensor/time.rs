//! `time_sensor`: waits for a time of day, or for an instant.

use async_trait::async_trait;
use chrono::NaiveTime;

use super::patience::sensor_keys;
use super::watch::{Look, Seen};
use super::{Sensor, build, check, data_interval_end, met};
use crate::clock;
use crate::domain::Timestamp;
use crate::domain::operator_kind::{ConfigProblem, OperatorKind};
use crate::domain::schedule::Moment;
use crate::engine::operator::{Failure, Registration, TaskContext};

pub(in crate::operators) const REGISTRATION: Registration = Registration { kind: &KIND, build: build::<Time> };

static KIND: OperatorKind = OperatorKind {
    name: "time_sensor",
    class_paths: &[
        "airflow.providers.standard.sensors.time.TimeSensor",
        "airflow.providers.standard.sensors.date_time.DateTimeSensor",
        "airflow.providers.standard.sensors.date_time.DateTimeSensorAsync",
        "airflow.sensors.time_sensor.TimeSensor",
        "airflow.sensors.date_time.DateTimeSensor",
    ],
    about: "Waits for a time of day, or for an instant",
    schema: || schemars::schema_for!(Time),
    check: check::<Time>,
    late_fields: &[],
    file_keys: &[],
};

sensor_keys! {
    /// The keys of a `time_sensor` task.
    Time {
        /// A time of day, as `06:30`: in the DAG's zone, on the day on which the run's data interval ends. Or an instant,
        /// as `2026-03-01T06:30`: in the DAG's zone unless it has an offset.
        target_time: String,
    }
}

/// A target as it was typed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Target {
    TimeOfDay(NaiveTime),
    Moment(Moment),
}

impl Time {
    fn target(&self) -> Option<Target> {
        let text = self.target_time.trim();
        let time = ["%H:%M", "%H:%M:%S%.f"].iter().find_map(|format| NaiveTime::parse_from_str(text, format).ok());
        time.map(Target::TimeOfDay).or_else(|| text.parse().ok().map(Target::Moment))
    }

    /// The instant that is meant in the run.
    fn instant(&self, context: &TaskContext) -> Result<Timestamp, Failure> {
        let settings = &context.dag.settings;
        let moment = match self.target() {
            Some(Target::Moment(moment)) => Some(moment),
            Some(Target::TimeOfDay(time)) => {
                let day = data_interval_end(context)?.with_timezone(&settings.timezone).date_naive();
                Some(Moment::Local(day.and_time(time)))
            }
            None => None,
        };
        moment
            .and_then(|moment| moment.first_instant(settings.timezone, settings.dst))
            .ok_or_else(|| Failure::Fatal(format!("`{}` is no time in {}", self.target_time, settings.timezone)))
    }
}

impl Sensor for Time {
    fn problems(&self) -> Vec<ConfigProblem> {
        let is_wrong = self.target().is_none();
        let problem = || {
            ConfigProblem::at("target_time", format!("`{}` is neither a time of day nor an instant", self.target_time))
                .help("write it as `06:30`, `2026-03-01T06:30` or `{{ data_interval_end.add(hours=2) }}`")
        };
        is_wrong.then(problem).into_iter().collect()
    }
}

#[async_trait]
impl Look for Time {
    async fn look(&self, context: &TaskContext) -> Result<Seen, Failure> {
        let at = self.instant(context)?;
        Ok(if at <= clock::now() { Seen::Met(met(at.to_rfc3339())) } else { Seen::NotBefore(at) })
    }
}
