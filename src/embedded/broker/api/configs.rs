//! DescribeConfigs: the settings that apply, and no others.

use kafka_protocol::ResponseError;
use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kafka_protocol::messages::describe_configs_response::{DescribeConfigsResourceResult, DescribeConfigsResult};
use kafka_protocol::messages::{DescribeConfigsRequest, DescribeConfigsResponse};
use kafka_protocol::protocol::StrBytes;

use crate::embedded::broker::state::{NODE, State, text};
use crate::embedded::broker::topics::settings;

/// Where a value comes from, as the protocol numbers it.
pub(crate) const TOPIC_SOURCE: i8 = 1;
const BROKER_SOURCE: i8 = 4;
pub(crate) const DEFAULT_SOURCE: i8 = 5;

const TOPIC: i8 = 2;
const BROKER: i8 = 4;
/// The protocol's number for text.
const STRING_KIND: i8 = 2;

/// Answers for every topic and broker asked about.
pub(crate) fn describe(state: &State, request: DescribeConfigsRequest) -> DescribeConfigsResponse {
    let results = request.resources.into_iter().map(|resource| describe_one(state, resource)).collect();
    DescribeConfigsResponse::default().with_results(results)
}

fn describe_one(state: &State, resource: DescribeConfigsResource) -> DescribeConfigsResult {
    let found = match resource.resource_type {
        TOPIC => topic(state, &resource.resource_name),
        BROKER => broker(state, &resource.resource_name),
        _ => Err(ResponseError::InvalidRequest),
    };
    let result = DescribeConfigsResult::default()
        .with_resource_type(resource.resource_type)
        .with_resource_name(resource.resource_name);
    let keys = resource.configuration_keys;
    let wanted = |name: &StrBytes| keys.as_ref().is_none_or(|keys| keys.contains(name));
    match found {
        Ok(configs) => result.with_configs(configs.into_iter().filter(|config| wanted(&config.name)).collect()),
        Err(error) => result.with_error_code(error.code()).with_error_message(Some(text(&error.to_string()))),
    }
}

fn topic(state: &State, name: &str) -> Result<Vec<DescribeConfigsResourceResult>, ResponseError> {
    let topic = state.topics.topic(name).ok_or(ResponseError::UnknownTopicOrPartition)?;
    let one = |applied: settings::Applied| {
        let source = if applied.is_default { DEFAULT_SOURCE } else { TOPIC_SOURCE };
        config(applied.name, &applied.value, source).with_config_type(applied.kind).with_read_only(false)
    };
    Ok(settings::applied(&topic.settings, state.config.max_batch_bytes).into_iter().map(one).collect())
}

fn broker(state: &State, name: &str) -> Result<Vec<DescribeConfigsResourceResult>, ResponseError> {
    if name != NODE.0.to_string() {
        return Err(ResponseError::InvalidRequest);
    }
    let config_of = &state.config;
    let settings = [
        ("auto.create.topics.enable", config_of.auto_create_topics.to_string()),
        ("default.replication.factor", 1.to_string()),
        ("log.dirs", config_of.data_dir.display().to_string()),
        ("log.segment.bytes", config_of.segment_bytes.to_string()),
        ("message.max.bytes", config_of.max_batch_bytes.to_string()),
        ("num.partitions", config_of.default_partitions.to_string()),
        ("socket.request.max.bytes", config_of.max_request_bytes.to_string()),
        ("transaction.max.timeout.ms", config_of.max_transaction_timeout.as_millis().to_string()),
    ];
    let one = |(name, value): &(&str, String)| config(name, value, BROKER_SOURCE).with_config_type(STRING_KIND);
    Ok(settings.iter().map(one).collect())
}

fn config(name: &str, value: &str, source: i8) -> DescribeConfigsResourceResult {
    DescribeConfigsResourceResult::default()
        .with_name(text(name))
        .with_value(Some(text(value)))
        .with_config_source(source)
        .with_read_only(true)
}
