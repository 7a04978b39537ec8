//! `produce`: sends staged rows to Kafka, one topic a table, each row once.
//!
//! With transactions, records and progress (a consumer group's offset) are committed together, so that a retry goes on
//! exactly behind the last commit. Its order: begin transactions, which fences whoever still sends; ask Postgres
//! whether this attempt holds the task; read the progress; send. Where the brokers have no transactions, or they are
//! off, progress is kept in Postgres after each acknowledged batch, and a retry may repeat the records of one batch; their
//! sequence headers let `sink` drop those.

mod config;
mod error;
mod job;
mod rows;
mod sender;
mod sending;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde_json::Value;

use crate::connect::kafka::{Cluster, TopicPlan};
use crate::connect::s3::S3;
use crate::domain::operator_kind::{LateField, OperatorKind};
use crate::domain::outputs::{self, EmulateOutput, StagedRows};
use crate::engine::operator::{Failure, Operator, Output, Registration, TaskContext};
use crate::operators::config as shape;
use crate::operators::staged::Manifest;
use crate::store::staging::Staged;

use config::ProduceConfig;
use error::ProduceError;
use job::{Job, Stopped};

pub(crate) const REGISTRATION: Registration = Registration { kind: &KIND, build };

static KIND: OperatorKind = OperatorKind {
    name: "produce",
    class_paths: &[],
    about: "Sends staged rows to Kafka topics, exactly once",
    schema: || schemars::schema_for!(ProduceConfig),
    check: |value| shape::check(value, config::problems),
    late_fields: &[LateField { key: "topics", variables: &["table"] }],
    file_keys: &[],
};

/// How often an attempt that holds its task takes its transactions back from a zombie that fenced it.
const TAKE_BACK_LIMIT: u32 = 5;

/// The first pause before they are taken back; the next ones are twice as long each. A zombie that is just beginning
/// fences whoever has a transaction open, again and again until for once nobody has.
const TAKE_BACK_PAUSE: Duration = Duration::from_millis(250);

fn build(config: Value) -> Result<Box<dyn Operator>, serde_json::Error> {
    Ok(Box::new(serde_json::from_value::<ProduceConfig>(config)?))
}

#[async_trait]
impl Operator for ProduceConfig {
    async fn run(&self, context: &TaskContext) -> Result<Output, Failure> {
        Ok(self.produce(context).await?)
    }
}

impl ProduceConfig {
    async fn produce(&self, context: &TaskContext) -> Result<Output, ProduceError> {
        let staged = self.staged(context)?;
        let s3 = S3::connect(&context.endpoints.s3).await;
        let manifest = Arc::new(unless_cancelled(context, Manifest::read(&s3, &staged)).await??);
        let topics = self.topics(&manifest, context)?;
        let cluster = Cluster::new(&context.endpoints.kafka)?;
        let facts = unless_cancelled(context, cluster.ensure_topics(&self.plans(&topics))).await??;
        for (topic, facts) in &facts {
            let made = if facts.created { "made" } else { "found" };
            context.log.line(format!("{made} topic `{topic}` with {} partitions", facts.partitions));
        }
        let records = manifest.rows * topics.len() as u64;
        context.progress.set_total(records);
        let job = Job { config: self, context, s3, bucket: staged.bucket, manifest, topics, cluster, facts };
        for round in 0..TAKE_BACK_LIMIT {
            match job.attempt().await {
                // Whoever took over did so before we held the task, or still believes to hold it.
                Err(Stopped::Fenced(id)) => {
                    context.store.check_fence(context.attempt).await?;
                    context.log.line(format!("another producer took over `{id}`; this attempt holds the task: again"));
                    unless_cancelled(context, tokio::time::sleep(TAKE_BACK_PAUSE * 2_u32.pow(round))).await?;
                }
                Err(Stopped::Error(error)) => return Err(error),
                Ok(output) => return Ok(output),
            }
        }
        Err(ProduceError::Contended(job.id()))
    }

    /// Finds the upstream whose rows are sent.
    fn staged(&self, context: &TaskContext) -> Result<Staged, ProduceError> {
        let mut found: Vec<(&str, Staged)> = Vec::new();
        for (task, upstream) in context.upstream.iter().filter(|(_, upstream)| upstream.operator == "emulate") {
            if self.from.as_deref().is_none_or(|from| from == task.as_str()) {
                let output: EmulateOutput = outputs::read(&upstream.output)
                    .map_err(|error| ProduceError::Upstream { task: task.to_string(), reason: error.to_string() })?;
                let StagedRows { bucket, manifest, sha256, .. } = output.staged;
                found.push((task.as_str(), Staged { bucket, manifest, sha256 }));
            }
        }
        match (found.len(), &self.from) {
            (1, _) => Ok(found.remove(0).1),
            (0, Some(from)) => Err(ProduceError::NotStaged(from.clone())),
            (0, None) => Err(ProduceError::NothingStaged),
            _ => {
                let names: Vec<String> = found.iter().map(|(task, _)| format!("`{task}`")).collect();
                Err(ProduceError::SeveralStaged(names.join(", ")))
            }
        }
    }

    /// Each table's topic, in the manifest's order.
    fn topics(&self, manifest: &Manifest, context: &TaskContext) -> Result<Vec<String>, ProduceError> {
        let mut topics: Vec<String> = Vec::new();
        let templates = context.templates.scope();
        for table in manifest.tables.keys() {
            let variables = [("table", Value::String(table.clone()))];
            let topic = templates
                .render(&self.topics, &variables)
                .map_err(|error| ProduceError::Template { table: table.clone(), problem: error.to_string() })?;
            if !config::is_topic_name(&topic) {
                return Err(ProduceError::TopicName { table: table.clone(), topic });
            }
            if let Some(place) = topics.iter().position(|other| *other == topic) {
                let (first, _) = manifest.tables.get_index(place).expect("each topic so far has its table");
                return Err(ProduceError::SameTopic { first: first.clone(), second: table.clone(), topic });
            }
            topics.push(topic);
        }
        Ok(topics)
    }

    fn plans(&self, topics: &[String]) -> Vec<TopicPlan> {
        let size = |count: u64| u32::try_from(count).unwrap_or(u32::MAX);
        let replication = self.replication.map(|replication| size(replication.0));
        topics
            .iter()
            .map(|name| TopicPlan { name: name.clone(), partitions: size(self.partitions.0), replication })
            .collect()
    }
}

async fn unless_cancelled<T>(context: &TaskContext, call: impl Future<Output = T>) -> Result<T, ProduceError> {
    context.cancel.run_until_cancelled(call).await.ok_or(ProduceError::Cancelled)
}
