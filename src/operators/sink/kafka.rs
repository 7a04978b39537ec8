//! The sink's questions to Kafka apart from the records themselves.

use std::collections::BTreeMap;

use rdkafka::config::FromClientConfigAndContext;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::{Offset, TopicPartitionList};
use tokio_util::sync::CancellationToken;

use super::failure::SinkError;
use super::reader::consumer_config;
use super::topics::{TopicPattern, select};
use crate::connect::kafka::{Cluster, Connection, KafkaError, REQUEST_TIMEOUT, blocking};
use crate::domain::sinking::{SinkProgress, SinkRange, TopicPartition};

/// All that can be read now of the topics that the patterns match: from each partition's first offset to its last stable
/// one.
pub(super) async fn heads(
    cluster: &Cluster,
    patterns: Vec<TopicPattern>,
    cancel: &CancellationToken,
) -> Result<Vec<SinkRange>, SinkError> {
    let (cluster, cancel) = (cluster.clone(), cancel.clone());
    blocking(move || {
        let (consumer, connection) = consumer(&cluster, "pinsched-sink")?;
        let failed = |action: String, error| SinkError::from(cluster.error_on(&connection, action, error));
        let metadata =
            consumer.fetch_metadata(None, REQUEST_TIMEOUT).map_err(|error| failed("list topics".to_owned(), error))?;
        let partitions: BTreeMap<&str, Vec<i32>> = metadata
            .topics()
            .iter()
            .filter(|topic| topic.error().is_none() && !topic.name().starts_with("__"))
            .map(|topic| (topic.name(), topic.partitions().iter().map(|partition| partition.id()).collect()))
            .collect();
        let names: Vec<&str> = partitions.keys().copied().collect();
        let mut heads = Vec::new();
        for topic in select(&patterns, &names)? {
            for &partition in &partitions[topic.as_str()] {
                if cancel.is_cancelled() {
                    return Err(SinkError::Interrupted);
                }
                let (start, end) = consumer
                    .fetch_watermarks(&topic, partition, REQUEST_TIMEOUT)
                    .map_err(|error| failed(format!("ask for the offsets of {topic}/{partition}"), error))?;
                heads.push(SinkRange { of: TopicPartition { topic: topic.clone(), partition }, start, end });
            }
        }
        heads.sort_by(|a, b| a.of.cmp(&b.of));
        Ok(heads)
    })
    .await
}

/// Commits where the partitions stand in the name of a group that nobody joins.
pub(super) async fn publish_offsets(cluster: &Cluster, group: &str, done: &[SinkProgress]) -> Result<(), KafkaError> {
    let mut offsets = TopicPartitionList::new();
    for progress in done {
        let TopicPartition { topic, partition } = &progress.range.of;
        let added = offsets.add_partition_offset(topic, *partition, Offset::Offset(progress.next));
        added.map_err(|error| KafkaError::Config(error.to_string()))?;
    }
    if done.is_empty() {
        return Ok(());
    }
    let action = format!("publish the offsets of group `{group}`");
    let (cluster, group, name) = (cluster.clone(), group.to_owned(), action.clone());
    let committed = blocking(move || {
        let (consumer, connection) = consumer(&cluster, &group)?;
        consumer.commit(&offsets, CommitMode::Sync).map_err(|error| cluster.error_on(&connection, name, error))
    });
    tokio::time::timeout(REQUEST_TIMEOUT, committed)
        .await
        .unwrap_or(Err(KafkaError::Refused { action, code: rdkafka::error::RDKafkaErrorCode::OperationTimedOut }))
}

fn consumer(cluster: &Cluster, group: &str) -> Result<(BaseConsumer<Connection>, Connection), KafkaError> {
    let connection = Connection::default();
    let mut config = consumer_config(cluster);
    config.set("group.id", group);
    let consumer = BaseConsumer::from_config_and_context(&config, connection.clone())
        .map_err(|error| KafkaError::Config(error.to_string()))?;
    Ok((consumer, connection))
}
