//! InitProducerId, AddPartitionsToTxn, AddOffsetsToTxn and EndTxn.

use kafka_protocol::ResponseError;
use kafka_protocol::messages::add_partitions_to_txn_response::{
    AddPartitionsToTxnPartitionResult, AddPartitionsToTxnTopicResult,
};
use kafka_protocol::messages::{
    AddOffsetsToTxnRequest, AddOffsetsToTxnResponse, AddPartitionsToTxnRequest, AddPartitionsToTxnResponse,
    EndTxnRequest, EndTxnResponse, InitProducerIdRequest, InitProducerIdResponse, ProducerId,
};

use super::answer::Caller;
use crate::embedded::broker::groups::offsets::Place;
use crate::embedded::broker::log::batch::Outcome;
use crate::embedded::broker::state::{State, code};

/// The first versions of each request whose clients know the error for a fenced producer; older ones know its epoch as
/// invalid.
const INIT_FENCED_SINCE: i16 = 4;
const OTHERS_FENCED_SINCE: i16 = 2;

fn by_version(error: ResponseError, caller: &Caller, fenced_since: i16) -> ResponseError {
    match error {
        ResponseError::ProducerFenced if caller.version < fenced_since => ResponseError::InvalidProducerEpoch,
        other => other,
    }
}

/// Gives out a producer id, or the next epoch of a transactional one.
pub(crate) async fn init_producer_id(
    state: &State,
    caller: &Caller,
    request: InitProducerIdRequest,
) -> InitProducerIdResponse {
    let expected = (request.producer_id.0 >= 0).then_some((request.producer_id.0, request.producer_epoch));
    let identity = match &request.transactional_id {
        Some(id) => state.transactions.initialise(id, i64::from(request.transaction_timeout_ms), expected).await,
        None => state.transactions.new_producer_id().await.map(|id| (id, 0)),
    };
    match identity {
        Ok((id, epoch)) => {
            InitProducerIdResponse::default().with_producer_id(ProducerId(id)).with_producer_epoch(epoch)
        }
        Err(error) => InitProducerIdResponse::default()
            .with_error_code(by_version(error, caller, INIT_FENCED_SINCE).code())
            .with_producer_id(ProducerId(-1))
            .with_producer_epoch(-1),
    }
}

/// Lets partitions take part in a transaction: all of them or, if one does not exist, none.
pub(crate) async fn add_partitions(
    state: &State,
    caller: &Caller,
    request: AddPartitionsToTxnRequest,
) -> AddPartitionsToTxnResponse {
    let identity = (request.v3_and_below_producer_id.0, request.v3_and_below_producer_epoch);
    let topics = request.v3_and_below_topics;
    let exists = |place: &Place| state.topics.partition(&place.0, place.1).is_some();
    let places: Vec<Place> =
        topics.iter().flat_map(|t| t.partitions.iter().map(|index| (t.name.to_string(), *index))).collect();
    let added = match places.iter().all(exists) {
        true => {
            let added = state.transactions.add_partitions(&request.v3_and_below_transactional_id, identity, &places);
            added.await.map_err(|error| by_version(error, caller, OTHERS_FENCED_SINCE))
        }
        false => Err(ResponseError::OperationNotAttempted),
    };
    let one = |name: &str, index: i32| {
        let error = match (&added, exists(&(name.to_owned(), index))) {
            (Err(ResponseError::OperationNotAttempted), false) => ResponseError::UnknownTopicOrPartition.code(),
            (added, _) => code(added),
        };
        AddPartitionsToTxnPartitionResult::default().with_partition_index(index).with_partition_error_code(error)
    };
    let results = topics.iter().map(|topic| {
        let partitions = topic.partitions.iter().map(|index| one(&topic.name, *index)).collect();
        AddPartitionsToTxnTopicResult::default().with_name(topic.name.clone()).with_results_by_partition(partitions)
    });
    AddPartitionsToTxnResponse::default().with_results_by_topic_v3_and_below(results.collect())
}

/// Lets a group's offsets take part in a transaction.
pub(crate) async fn add_offsets(
    state: &State,
    caller: &Caller,
    request: AddOffsetsToTxnRequest,
) -> AddOffsetsToTxnResponse {
    let identity = (request.producer_id.0, request.producer_epoch);
    let added = match request.group_id.is_empty() {
        true => Err(ResponseError::InvalidGroupId),
        false => state.transactions.add_group(&request.transactional_id, identity, &request.group_id).await,
    };
    let added = added.map_err(|error| by_version(error, caller, OTHERS_FENCED_SINCE));
    AddOffsetsToTxnResponse::default().with_error_code(code(&added))
}

/// Commits or aborts a transaction; everyone has the outcome when the answer goes out.
pub(crate) async fn end(state: &State, caller: &Caller, request: EndTxnRequest) -> EndTxnResponse {
    let identity = (request.producer_id.0, request.producer_epoch);
    let outcome = if request.committed { Outcome::Commit } else { Outcome::Abort };
    let ended = state.transactions.end(&request.transactional_id, identity, outcome).await;
    let ended = ended.map_err(|error| by_version(error, caller, OTHERS_FENCED_SINCE));
    EndTxnResponse::default().with_error_code(code(&ended))
}
