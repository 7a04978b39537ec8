//! CreateTopics, DeleteTopics and CreatePartitions.

use std::collections::{BTreeMap, HashMap};

use kafka_protocol::ResponseError;
use kafka_protocol::messages::create_partitions_request::CreatePartitionsTopic;
use kafka_protocol::messages::create_partitions_response::CreatePartitionsTopicResult;
use kafka_protocol::messages::create_topics_request::CreatableTopic;
use kafka_protocol::messages::create_topics_response::{CreatableTopicConfigs, CreatableTopicResult};
use kafka_protocol::messages::delete_topics_response::DeletableTopicResult;
use kafka_protocol::messages::{
    BrokerId, CreatePartitionsRequest, CreatePartitionsResponse, CreateTopicsRequest, CreateTopicsResponse,
    DeleteTopicsRequest, DeleteTopicsResponse, TopicName,
};

use super::answer::Caller;
use super::configs::{DEFAULT_SOURCE, TOPIC_SOURCE};
use crate::embedded::broker::state::{NODE, State, text};
use crate::embedded::broker::topics::settings;

/// An error for the program and its explanation for the person.
type Refusal = (ResponseError, String);

fn plain(error: ResponseError) -> Refusal {
    (error, error.to_string())
}

/// Creates topics, or only says whether it could. Each is durable when the answer goes out.
pub(crate) async fn create(state: &State, caller: &Caller, request: CreateTopicsRequest) -> CreateTopicsResponse {
    let mut times_named: HashMap<TopicName, usize> = HashMap::new();
    for topic in &request.topics {
        *times_named.entry(topic.name.clone()).or_default() += 1;
    }
    let mut results = Vec::with_capacity(request.topics.len());
    for topic in request.topics {
        let name = topic.name.clone();
        let created = match times_named.get(&name) {
            Some(2..) => Err((ResponseError::InvalidRequest, "the request names this topic twice".to_owned())),
            _ => create_one(state, caller, topic, request.validate_only).await,
        };
        let result = CreatableTopicResult::default().with_name(name);
        results.push(match created {
            Ok(created) => result
                .with_topic_id(created.id)
                .with_num_partitions(created.partitions)
                .with_replication_factor(1)
                .with_configs(Some(configs_of(state, &created.settings))),
            Err((error, why)) => result
                .with_error_code(error.code())
                .with_error_message(Some(text(&why)))
                .with_num_partitions(-1)
                .with_replication_factor(-1),
        });
    }
    CreateTopicsResponse::default().with_topics(results)
}

struct Created {
    id: uuid::Uuid,
    partitions: i32,
    settings: BTreeMap<String, String>,
}

async fn create_one(state: &State, caller: &Caller, topic: CreatableTopic, dry: bool) -> Result<Created, Refusal> {
    let partitions = partition_count(state, caller, &topic)?;
    state.topics.check_new(&topic.name, partitions).map_err(plain)?;
    let mut settings = BTreeMap::new();
    for config in topic.configs {
        settings::check(&config.name, config.value.as_deref()).map_err(|why| (ResponseError::InvalidConfig, why))?;
        settings.insert(config.name.to_string(), config.value.unwrap_or_default().to_string());
    }
    if dry {
        return Ok(Created { id: uuid::Uuid::nil(), partitions, settings });
    }
    let created = state.topics.create(&topic.name, partitions, settings.clone()).await.map_err(plain)?;
    Ok(Created { id: created.id, partitions, settings })
}

fn partition_count(state: &State, caller: &Caller, topic: &CreatableTopic) -> Result<i32, Refusal> {
    let counted = topic.num_partitions != -1 || topic.replication_factor != -1;
    if !topic.assignments.is_empty() {
        let on_us = |brokers: &[BrokerId]| brokers == [NODE];
        let mut indexes: Vec<i32> = topic.assignments.iter().map(|a| a.partition_index).collect();
        indexes.sort_unstable();
        let complete = indexes.iter().zip(0..).all(|(index, n)| *index == n);
        return match (counted, complete && topic.assignments.iter().all(|a| on_us(&a.broker_ids))) {
            (true, _) => Err((ResponseError::InvalidRequest, "counts and assignments exclude each other".to_owned())),
            (false, true) => Ok(i32::try_from(indexes.len()).unwrap_or(i32::MAX)),
            (false, false) => Err((ResponseError::InvalidReplicaAssignment, "the only broker is number 1".to_owned())),
        };
    }
    if !matches!(topic.replication_factor, 1 | -1) {
        return Err((ResponseError::InvalidReplicationFactor, "there is one broker, so one replica".to_owned()));
    }
    // "As the broker likes" can be said from version 4 on.
    match topic.num_partitions {
        -1 if caller.version >= 4 => Ok(state.config.default_partitions),
        count => Ok(count),
    }
}

fn configs_of(state: &State, changed: &BTreeMap<String, String>) -> Vec<CreatableTopicConfigs> {
    let one = |applied: settings::Applied| {
        CreatableTopicConfigs::default()
            .with_name(text(applied.name))
            .with_value(Some(text(&applied.value)))
            .with_config_source(if applied.is_default { DEFAULT_SOURCE } else { TOPIC_SOURCE })
    };
    settings::applied(changed, state.config.max_batch_bytes).into_iter().map(one).collect()
}

/// Deletes topics, by name or by id, with the offsets committed for them.
pub(crate) async fn delete(state: &State, caller: &Caller, request: DeleteTopicsRequest) -> DeleteTopicsResponse {
    let mut results = Vec::new();
    let named = request.topic_names.into_iter().map(|name| (Some(name), uuid::Uuid::nil()));
    let either = request.topics.into_iter().map(|topic| (topic.name, topic.topic_id));
    for (name, id) in named.chain(either) {
        let deleted = match &name {
            Some(name) => delete_one(state, name).await,
            None => match state.topics.topic_by_id(id) {
                Some(topic) => delete_one(state, &topic.name).await,
                None => Err(ResponseError::UnknownTopicId),
            },
        };
        let (id, error) = match deleted {
            Ok(id) => (id, None),
            Err(error) => (id, Some(error)),
        };
        // Only from version 6 on may the name be left out.
        let name = if caller.version >= 6 { name } else { Some(name.unwrap_or_default()) };
        let result = DeletableTopicResult::default().with_name(name).with_topic_id(id);
        results.push(result.with_error_code(error.map_or(0, |error| error.code())));
    }
    DeleteTopicsResponse::default().with_responses(results)
}

async fn delete_one(state: &State, name: &str) -> Result<uuid::Uuid, ResponseError> {
    let topic = state.topics.delete(name, state.groups.forget_topic(name)).await?;
    Ok(topic.id)
}

/// Gives topics more partitions, or only says whether it could.
pub(crate) async fn create_partitions(state: &State, request: CreatePartitionsRequest) -> CreatePartitionsResponse {
    let mut results = Vec::with_capacity(request.topics.len());
    for topic in request.topics {
        let grown = match request.validate_only {
            true => state.topics.check_grow(&topic.name, topic.count).map(drop),
            false => state.topics.grow(&topic.name, topic.count).await,
        };
        results.push(grown_result(topic, grown));
    }
    CreatePartitionsResponse::default().with_results(results)
}

fn grown_result(topic: CreatePartitionsTopic, grown: Result<(), ResponseError>) -> CreatePartitionsTopicResult {
    let message = grown.as_ref().err().map(|error| text(&error.to_string()));
    CreatePartitionsTopicResult::default()
        .with_name(topic.name)
        .with_error_code(crate::embedded::broker::state::code(&grown))
        .with_error_message(message)
}
