//! Sensors: tasks that wait for something outside, and take no slot while they do.
//!
//! Each is a look, in a file of its own; `watch` looks again and again. Airflow's keys of all sensors are those of
//! `patience`. A sensor writes nothing: an attempt that is interrupted or lost is followed by one that looks again.

mod external_task;
mod file;
mod http;
mod kafka_offset;
pub(super) mod patience;
mod s3_key;
mod shared;
mod sql;
mod time;
mod time_delta;
pub(super) mod watch;

use async_trait::async_trait;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::domain::Timestamp;
use crate::domain::operator_kind::ConfigProblem;
use crate::domain::schedule::Moment;
use crate::engine::operator::{Failure, Operator, Output, TaskContext};
use crate::operators::config;
use patience::Patient;
use watch::Look;

pub(super) use external_task::REGISTRATION as EXTERNAL_TASK;
pub(super) use file::REGISTRATION as FILE;
pub(super) use http::REGISTRATION as HTTP;
pub(super) use kafka_offset::REGISTRATION as KAFKA_OFFSET;
pub(super) use s3_key::REGISTRATION as S3_KEY;
pub(super) use sql::REGISTRATION as SQL;
pub(super) use time::REGISTRATION as TIME;
pub(super) use time_delta::REGISTRATION as TIME_DELTA;

/// A sensor's configuration, which is all that a sensor is.
trait Sensor: Patient + Look + DeserializeOwned + 'static {
    /// What is wrong with it beyond its shape and what all sensors have.
    fn problems(&self) -> Vec<ConfigProblem> {
        Vec::new()
    }
}

/// A sensor that a task is.
struct Sensing<S>(S);

fn build<S: Sensor>(config: Value) -> Result<Box<dyn Operator>, serde_json::Error> {
    Ok(Box::new(Sensing(serde_json::from_value::<S>(config)?)))
}

fn check<S: Sensor>(config: &Value) -> Vec<ConfigProblem> {
    config::check::<S>(config, |sensor| {
        let mut problems = sensor.patience().err().unwrap_or_default();
        problems.extend(sensor.problems());
        problems
    })
}

#[async_trait]
impl<S: Sensor> Operator for Sensing<S> {
    async fn run(&self, context: &TaskContext) -> Result<Output, Failure> {
        let patience = self.0.patience().map_err(|problems| {
            let words: Vec<String> =
                problems.iter().map(|problem| format!("`{}`: {}", problem.path.join("."), problem.message)).collect();
            Failure::Fatal(words.join("; "))
        })?;
        watch::wait(context, &patience, &self.0).await
    }
}

/// What a sensor says that has met what it waited for.
fn met(value: impl Into<Value>) -> Output {
    let mut output = Output::new();
    output.insert("return_value".to_owned(), value.into());
    output
}

/// The end of the run's data interval.
fn data_interval_end(context: &TaskContext) -> Result<Timestamp, Failure> {
    let text = context.templates.scope().render("{{ data_interval_end }}", &[])?;
    match text.parse() {
        Ok(Moment::Fixed(at)) => Ok(at),
        Ok(Moment::Local(_)) | Err(_) => Err(Failure::Fatal(format!("the run's data interval ends at `{text}`"))),
    }
}
