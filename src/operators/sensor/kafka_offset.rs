//! `kafka_offset_sensor`: waits until a topic has grown so far.

use async_trait::async_trait;

use super::patience::sensor_keys;
use super::shared::Shared;
use super::watch::{Look, Seen};
use super::{Sensor, build, check, met};
use crate::connect::kafka::{Cluster, KafkaError};
use crate::domain::operator_kind::{ConfigProblem, OperatorKind};
use crate::engine::operator::{Failure, Registration, TaskContext};
use crate::operators::config::Count;

pub(in crate::operators) const REGISTRATION: Registration = Registration { kind: &KIND, build: build::<KafkaOffset> };

static KIND: OperatorKind = OperatorKind {
    name: "kafka_offset_sensor",
    class_paths: &[],
    about: "Waits until a topic has grown so far",
    schema: || schemars::schema_for!(KafkaOffset),
    check: check::<KafkaOffset>,
    late_fields: &[],
    file_keys: &[],
};

static CLUSTERS: Shared<Cluster> = Shared::new();

sensor_keys! {
    /// The keys of a `kafka_offset_sensor` task.
    KafkaOffset {
        /// The topic. One that is not there has not grown yet.
        topic: String,
        /// The offset that the end of every partition has to reach.
        #[serde(default)]
        offset: Option<Count>,
        /// How many offsets all partitions together have to grow by after the run has begun, by the records' timestamps.
        #[serde(default)]
        records: Option<Count>,
    }
}

impl Sensor for KafkaOffset {
    fn problems(&self) -> Vec<ConfigProblem> {
        match (self.offset, self.records) {
            (None, None) => vec![ConfigProblem::at("offset", "either `offset` or `records` is needed")],
            (Some(_), Some(_)) => vec![ConfigProblem::at("records", "give `offset` or `records`, not both")],
            (Some(_), None) | (None, Some(_)) => Vec::new(),
        }
    }
}

#[async_trait]
impl Look for KafkaOffset {
    async fn look(&self, context: &TaskContext) -> Result<Seen, Failure> {
        let cluster = CLUSTERS.of(&context.endpoints, async { Cluster::new(&context.endpoints.kafka) }).await;
        let cluster = cluster.map_err(failure)?;
        let topic = &self.topic;
        let Some(partitions) = cluster.partitions(topic).await.map_err(failure)? else {
            return Ok(Seen::NotYet(format!("topic `{topic}` is not there")));
        };
        let ends = cluster.high_watermarks(topic, partitions).await.map_err(failure)?;
        if let Some(Count(wanted)) = self.offset {
            let lowest = ends.values().copied().min().unwrap_or(0);
            return Ok(if u64::try_from(lowest).is_ok_and(|lowest| lowest >= wanted) {
                Seen::Met(met(lowest))
            } else {
                Seen::NotYet(format!("a partition of `{topic}` ends before {wanted}"))
            });
        }
        let run = context.store.run(context.attempt.task_run.run).await;
        let run = run.map_err(|error| Failure::retry(&error))?;
        let run = run.ok_or_else(|| Failure::Fatal("the run was deleted".to_owned()))?;
        let since = run.started_at.unwrap_or(run.queued_at).timestamp_millis();
        let begins = cluster.offsets_at(topic, partitions, since).await.map_err(failure)?;
        let grown: i64 = ends.iter().map(|(partition, end)| end - begins.get(partition).unwrap_or(end)).sum();
        let wanted = self.records.map_or(0, |Count(wanted)| wanted);
        Ok(if u64::try_from(grown).is_ok_and(|grown| grown >= wanted) {
            Seen::Met(met(grown))
        } else {
            Seen::NotYet(format!("`{topic}` has grown by less than {wanted} since the run began"))
        })
    }
}

fn failure(error: KafkaError) -> Failure {
    if error.is_transient() { Failure::retry(&error) } else { Failure::fatal(&error) }
}
