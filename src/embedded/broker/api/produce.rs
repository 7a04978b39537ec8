//! Produce: append each partition's batch, and answer when all of them are durable.

use std::sync::Arc;

use bytes::Bytes;
use kafka_protocol::ResponseError;
use kafka_protocol::messages::produce_request::ProduceRequest;
use kafka_protocol::messages::produce_response::{PartitionProduceResponse, ProduceResponse, TopicProduceResponse};
use kafka_protocol::messages::{TopicName, TransactionalId};

use super::answer::{Answer, Caller};
use crate::embedded::broker::log::batch::{BatchError, BatchHeader};
use crate::embedded::broker::log::partition::{Appended, Partition};
use crate::embedded::broker::log::records::are_whole;
use crate::embedded::broker::state::State;

/// The first version whose clients know zstd, and the codec's number.
const ZSTD_SINCE: (i16, i16) = (7, 4);

/// More records than any client gathers in a compressed batch, and few enough that a batch which lies about them does not
/// use up the offsets of a segment.
const MAX_COMPRESSED: i32 = 4_000_000;

struct Slot {
    index: i32,
    result: Result<(Arc<Partition>, Appended), ResponseError>,
}

/// A produce request whose batches are appended and not yet durable.
pub(crate) struct Pending {
    topics: Vec<(TopicName, Vec<Slot>)>,
    /// Whether the client wants to hear of it at all.
    is_answered: bool,
}

/// Appends everything in the request. Batches of one connection are appended in the order of its requests.
pub(crate) async fn produce(state: &Arc<State>, request: ProduceRequest, caller: &Caller) -> Answer {
    let acks = request.acks;
    let version = caller.version;
    let shared = Arc::clone(state);
    let names: Vec<TopicName> = request.topic_data.iter().map(|topic| topic.name.clone()).collect();
    let job = state.tracker.spawn_blocking(move || append_all(&shared, request, version));
    let topics = match job.await {
        Ok(topics) => topics,
        // The job panicked: some batches may be there, so nothing is known for sure.
        Err(_) => names.into_iter().map(|name| (name, Vec::new())).collect(),
    };
    Answer::WhenDurable(Pending { topics, is_answered: acks != 0 })
}

fn append_all(state: &State, request: ProduceRequest, version: i16) -> Vec<(TopicName, Vec<Slot>)> {
    let acks_valid = (-1..=1).contains(&request.acks);
    let transactional_id = request.transactional_id;
    let mut topics = Vec::with_capacity(request.topic_data.len());
    for topic in request.topic_data {
        let mut slots = Vec::with_capacity(topic.partition_data.len());
        for data in topic.partition_data {
            let result = match acks_valid {
                true => append_one(state, &topic.name, data.index, data.records, &transactional_id, version),
                false => Err(ResponseError::InvalidRequiredAcks),
            };
            slots.push(Slot { index: data.index, result });
        }
        topics.push((topic.name, slots));
    }
    topics
}

fn append_one(
    state: &State,
    name: &TopicName,
    index: i32,
    records: Option<Bytes>,
    transactional_id: &Option<TransactionalId>,
    version: i16,
) -> Result<(Arc<Partition>, Appended), ResponseError> {
    let topic = state.topics.topic(name).ok_or(ResponseError::UnknownTopicOrPartition)?;
    let partition = topic.partition(index).ok_or(ResponseError::UnknownTopicOrPartition)?;
    let bytes = records.unwrap_or_default();
    let header = verify(&bytes, topic.max_batch_bytes, version)?;
    let identity = (header.producer_id, header.producer_epoch);
    let admit = || match (header.is_transactional(), transactional_id) {
        (false, _) => Ok(()),
        (true, None) => Err(ResponseError::InvalidTxnState),
        (true, Some(id)) => {
            state.transactions.admit_records(id, identity, name, index).map_err(|error| match error {
                // Produce has always told fenced producers by this name.
                ResponseError::ProducerFenced => ResponseError::InvalidProducerEpoch,
                other => other,
            })
        }
    };
    let appended = partition.append(&header, &bytes, admit)?;
    Ok((Arc::clone(partition), appended))
}

/// Checks that the bytes are one batch that a client may send.
fn verify(bytes: &Bytes, max_bytes: usize, version: i16) -> Result<BatchHeader, ResponseError> {
    if bytes.len() > max_bytes {
        return Err(ResponseError::MessageTooLarge);
    }
    let header = BatchHeader::verify(bytes).map_err(|error| {
        tracing::debug!(%error, "refusing a record batch");
        match error {
            BatchError::Magic(_) => ResponseError::UnsupportedForMessageFormat,
            BatchError::Checksum => ResponseError::CorruptMessage,
            BatchError::Length { .. } | BatchError::Inconsistent => ResponseError::InvalidRecord,
        }
    })?;
    let (zstd_since, zstd) = ZSTD_SINCE;
    if header.codec() == zstd && version < zstd_since {
        return Err(ResponseError::UnsupportedCompressionType);
    }
    // Compressed records stay unseen, so of them only the number can be judged.
    let sound = if header.codec() == 0 { are_whole(&header, bytes) } else { header.record_count <= MAX_COMPRESSED };
    let numbered = header.base_sequence >= 0 && header.producer_epoch >= 0;
    let nameless = header.is_transactional() && !header.is_idempotent();
    if header.is_control() || header.is_append_time() || !sound || nameless || (header.is_idempotent() && !numbered) {
        return Err(ResponseError::InvalidRecord);
    }
    Ok(header)
}

impl Pending {
    /// Waits until every batch is durable. Nothing if the client wants no answer.
    pub(crate) async fn finish(self) -> Option<ProduceResponse> {
        let mut responses = Vec::with_capacity(self.topics.len());
        for (name, slots) in self.topics {
            let mut partitions = Vec::with_capacity(slots.len());
            for slot in slots {
                partitions.push(slot.finish().await);
            }
            responses.push(TopicProduceResponse::default().with_name(name).with_partition_responses(partitions));
        }
        self.is_answered.then(|| ProduceResponse::default().with_responses(responses))
    }
}

impl Slot {
    async fn finish(self) -> PartitionProduceResponse {
        let durable = match self.result {
            Ok((partition, appended)) => partition.durable(appended.end_offset).await.map(|()| appended),
            Err(error) => Err(error),
        };
        let response = PartitionProduceResponse::default().with_index(self.index).with_log_append_time_ms(-1);
        match durable {
            Ok(appended) => {
                response.with_base_offset(appended.base_offset).with_log_start_offset(appended.start_offset)
            }
            Err(error) => response.with_error_code(error.code()).with_base_offset(-1).with_log_start_offset(-1),
        }
    }
}
