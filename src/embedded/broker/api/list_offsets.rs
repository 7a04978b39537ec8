//! ListOffsets and OffsetForLeaderEpoch: where a partition begins and ends, and where a time is in it.

use std::sync::Arc;

use kafka_protocol::ResponseError;
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsRequest};
use kafka_protocol::messages::list_offsets_response::{
    ListOffsetsPartitionResponse, ListOffsetsResponse, ListOffsetsTopicResponse,
};
use kafka_protocol::messages::offset_for_leader_epoch_response::{EpochEndOffset, OffsetForLeaderTopicResult};
use kafka_protocol::messages::{OffsetForLeaderEpochRequest, OffsetForLeaderEpochResponse};

use super::answer::Caller;
use crate::embedded::broker::log::batch::LEADER_EPOCH;
use crate::embedded::broker::log::partition::Partition;
use crate::embedded::broker::state::State;

/// Timestamps that are questions.
const LATEST: i64 = -1;
const EARLIEST: i64 = -2;
const READ_COMMITTED: i8 = 1;
/// The first version that speaks of leader epochs. An answer of an older one cannot be written with an epoch in it.
const EPOCH_SINCE: i16 = 4;

/// An offset and the timestamp of its record; -1 where there is none.
type Place = (i64, i64);

/// Answers for every partition asked about.
pub(crate) async fn list_offsets(
    state: &Arc<State>,
    caller: &Caller,
    request: ListOffsetsRequest,
) -> ListOffsetsResponse {
    let shared = Arc::clone(state);
    let version = caller.version;
    let job = state.tracker.spawn_blocking(move || answer(&shared, version, request));
    job.await.unwrap_or_default()
}

fn answer(state: &State, version: i16, request: ListOffsetsRequest) -> ListOffsetsResponse {
    let mut topics = Vec::with_capacity(request.topics.len());
    for topic in request.topics {
        let one = |asked: &ListOffsetsPartition| {
            let partition = state.topics.partition(&topic.name, asked.partition_index);
            let found = partition.ok_or(ResponseError::UnknownTopicOrPartition);
            let place = found.and_then(|partition| find(&partition, asked, request.isolation_level, version));
            let response = ListOffsetsPartitionResponse::default().with_partition_index(asked.partition_index);
            match place {
                Ok((offset, timestamp)) => {
                    let epoch = if offset < 0 || version < EPOCH_SINCE { -1 } else { LEADER_EPOCH };
                    response.with_offset(offset).with_timestamp(timestamp).with_leader_epoch(epoch)
                }
                Err(error) => response.with_error_code(error.code()).with_offset(-1).with_timestamp(-1),
            }
        };
        let partitions = topic.partitions.iter().map(one).collect();
        topics.push(ListOffsetsTopicResponse::default().with_name(topic.name).with_partitions(partitions));
    }
    ListOffsetsResponse::default().with_topics(topics)
}

fn find(
    partition: &Partition,
    asked: &ListOffsetsPartition,
    isolation: i8,
    version: i16,
) -> Result<Place, ResponseError> {
    if version >= EPOCH_SINCE && asked.current_leader_epoch > LEADER_EPOCH {
        return Err(ResponseError::UnknownLeaderEpoch);
    }
    let marks = partition.watermarks();
    let limit = if isolation == READ_COMMITTED { marks.stable } else { marks.high };
    let found = match asked.timestamp {
        LATEST => return Ok((limit, -1)),
        EARLIEST => return Ok((marks.start, -1)),
        timestamp if timestamp >= 0 => partition.find_time(timestamp, limit),
        _ => return Err(ResponseError::InvalidRequest),
    };
    let found = found.map_err(|error| {
        tracing::error!(%error, timestamp = asked.timestamp, "could not look up a time");
        ResponseError::KafkaStorageError
    })?;
    Ok(found.map_or((-1, -1), |found| (found.offset, found.timestamp)))
}

/// Tells where an epoch's records end. There is one epoch, and it ends where the log does.
pub(crate) async fn offset_for_leader_epoch(
    state: &Arc<State>,
    request: OffsetForLeaderEpochRequest,
) -> OffsetForLeaderEpochResponse {
    let shared = Arc::clone(state);
    let job = state.tracker.spawn_blocking(move || epoch_ends(&shared, request));
    job.await.unwrap_or_default()
}

fn epoch_ends(state: &State, request: OffsetForLeaderEpochRequest) -> OffsetForLeaderEpochResponse {
    let mut topics = Vec::with_capacity(request.topics.len());
    for topic in request.topics {
        let mut partitions = Vec::with_capacity(topic.partitions.len());
        for asked in topic.partitions {
            let end = EpochEndOffset::default().with_partition(asked.partition);
            partitions.push(match state.topics.partition(&topic.topic, asked.partition) {
                None => end.with_error_code(ResponseError::UnknownTopicOrPartition.code()),
                Some(_) if asked.current_leader_epoch > LEADER_EPOCH => {
                    end.with_error_code(ResponseError::UnknownLeaderEpoch.code())
                }
                Some(partition) if asked.leader_epoch == LEADER_EPOCH => {
                    end.with_leader_epoch(LEADER_EPOCH).with_end_offset(partition.watermarks().high)
                }
                Some(_) => end,
            });
        }
        topics.push(OffsetForLeaderTopicResult::default().with_topic(topic.topic).with_partitions(partitions));
    }
    OffsetForLeaderEpochResponse::default().with_topics(topics)
}
