//! Metadata and DescribeCluster: one broker, and the topics there are.

use std::sync::Arc;

use kafka_protocol::ResponseError;
use kafka_protocol::messages::describe_cluster_response::DescribeClusterBroker;
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::metadata_response::{
    MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic,
};
use kafka_protocol::messages::{DescribeClusterResponse, MetadataRequest, MetadataResponse, TopicName};

use super::answer::Caller;
use crate::embedded::broker::log::batch::LEADER_EPOCH;
use crate::embedded::broker::state::{NO_OPERATIONS, NODE, State, text};
use crate::embedded::broker::topics::registry::Topic;

/// Tells of the topics asked for, or of all. Creates a missing one if both the client and the settings want that.
pub(crate) async fn metadata(state: &State, caller: &Caller, request: MetadataRequest) -> MetadataResponse {
    let broker = MetadataResponseBroker::default().with_node_id(NODE).with_host(state.host()).with_port(state.port());
    // Before version 4 a client could not say whether it wants a topic made; such a client gets none.
    let may_create = caller.version >= 4 && request.allow_auto_topic_creation && state.config.auto_create_topics;
    let topics = match request.topics {
        None => state.topics.all().iter().map(known).collect(),
        // In version 0 an empty list means all.
        Some(asked) if asked.is_empty() && caller.version == 0 => state.topics.all().iter().map(known).collect(),
        Some(asked) => {
            let mut topics = Vec::with_capacity(asked.len());
            for topic in asked {
                topics.push(one(state, caller, topic, may_create).await);
            }
            topics
        }
    };
    MetadataResponse::default()
        .with_brokers(vec![broker])
        .with_cluster_id(Some(text(&state.config.cluster_id)))
        .with_controller_id(NODE)
        .with_cluster_authorized_operations(NO_OPERATIONS)
        .with_topics(topics)
}

async fn one(state: &State, caller: &Caller, asked: MetadataRequestTopic, may_create: bool) -> MetadataResponseTopic {
    let Some(name) = asked.name else {
        return match state.topics.topic_by_id(asked.topic_id) {
            Some(topic) => known(&topic),
            None => unknown(caller, None, ResponseError::UnknownTopicId).with_topic_id(asked.topic_id),
        };
    };
    if let Some(topic) = state.topics.topic(&name) {
        return known(&topic);
    }
    if !may_create {
        let error = match crate::embedded::broker::topics::settings::is_valid_name(&name) {
            true => ResponseError::UnknownTopicOrPartition,
            false => ResponseError::InvalidTopicException,
        };
        return unknown(caller, Some(name), error);
    }
    match state.topics.create(&name, state.config.default_partitions, Default::default()).await {
        Ok(topic) => known(&topic),
        // Another client was quicker.
        Err(ResponseError::TopicAlreadyExists) => match state.topics.topic(&name) {
            Some(topic) => known(&topic),
            None => unknown(caller, Some(name), ResponseError::UnknownTopicOrPartition),
        },
        Err(error) => unknown(caller, Some(name), error),
    }
}

fn unknown(caller: &Caller, name: Option<TopicName>, error: ResponseError) -> MetadataResponseTopic {
    // Only from version 12 on may the name be left out.
    let name = if caller.version >= 12 { name } else { Some(name.unwrap_or_default()) };
    MetadataResponseTopic::default()
        .with_error_code(error.code())
        .with_name(name)
        .with_topic_authorized_operations(NO_OPERATIONS)
}

fn known(topic: &Arc<Topic>) -> MetadataResponseTopic {
    let partition = |index: usize| {
        MetadataResponsePartition::default()
            .with_partition_index(i32::try_from(index).unwrap_or(i32::MAX))
            .with_leader_id(NODE)
            .with_leader_epoch(LEADER_EPOCH)
            .with_replica_nodes(vec![NODE])
            .with_isr_nodes(vec![NODE])
    };
    MetadataResponseTopic::default()
        .with_name(Some(TopicName(text(&topic.name))))
        .with_topic_id(topic.id)
        .with_topic_authorized_operations(NO_OPERATIONS)
        .with_partitions((0..topic.partitions.len()).map(partition).collect())
}

/// Tells of the one broker.
pub(crate) fn describe_cluster(state: &State) -> DescribeClusterResponse {
    let broker = DescribeClusterBroker::default().with_broker_id(NODE).with_host(state.host()).with_port(state.port());
    DescribeClusterResponse::default()
        .with_cluster_id(text(&state.config.cluster_id))
        .with_controller_id(NODE)
        .with_brokers(vec![broker])
        .with_cluster_authorized_operations(NO_OPERATIONS)
}
