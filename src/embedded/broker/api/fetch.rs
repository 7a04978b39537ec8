//! Fetch: whole batches from the one that holds the offset asked for, as soon as there is enough or time is up. No fetch
//! sessions: every request says everything.

use std::sync::Arc;
use std::time::Duration;

use kafka_protocol::ResponseError;
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchRequest};
use kafka_protocol::messages::fetch_response::{
    AbortedTransaction, FetchResponse, FetchableTopicResponse, PartitionData,
};
use kafka_protocol::messages::{BrokerId, ProducerId};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use super::answer::{Answer, Caller};
use crate::embedded::broker::log::batch::LEADER_EPOCH;
use crate::embedded::broker::log::cursor::Want;
use crate::embedded::broker::log::partition::Partition;
use crate::embedded::broker::state::State;
use crate::embedded::broker::topics::registry::Topic;
use crate::embedded::broker::wire::frame::BUDGET_UNIT_BYTES;

/// The first version that names topics by id alone.
const IDS_SINCE: i16 = 13;
const READ_COMMITTED: i8 = 1;

/// Answers with what there is, waiting for it as long as the client allows.
pub(crate) async fn fetch(state: &Arc<State>, caller: &Caller, request: FetchRequest) -> Answer {
    if request.session_id != 0 {
        return FetchResponse::default().with_error_code(ResponseError::FetchSessionIdNotFound.code()).into();
    }
    let deadline = Instant::now() + Duration::from_millis(u64::try_from(request.max_wait_ms).unwrap_or(0));
    let request = Arc::new(request);
    let waiter = Arc::new(Notify::new());
    loop {
        let last_try = Instant::now() >= deadline || caller.gone.is_cancelled();
        let (shared, asked, version) = (Arc::clone(state), Arc::clone(&request), caller.version);
        let to_wake = Arc::clone(&waiter);
        // Even looking takes a partition's lock, under which others write to the disk.
        let job = state.tracker.spawn_blocking(move || {
            // Asked to be woken before looking, so that nothing slips in between.
            let is_ready = watch(&shared, version, &asked, &to_wake);
            (is_ready || last_try).then(|| read_all(&shared, version, &asked))
        });
        match job.await {
            Ok(Some((response, share))) => return Answer::Records(Box::new(response), share),
            Ok(None) => {}
            Err(_) => {
                return FetchResponse::default().with_error_code(ResponseError::UnknownServerError.code()).into();
            }
        }
        tokio::select! {
            () = waiter.notified() => {}
            () = tokio::time::sleep_until(deadline) => {}
            () = caller.gone.cancelled() => {}
        }
    }
}

fn topic_of(state: &State, version: i16, name: &str, id: uuid::Uuid) -> Result<Arc<Topic>, ResponseError> {
    match version >= IDS_SINCE {
        true => state.topics.topic_by_id(id).ok_or(ResponseError::UnknownTopicId),
        false => state.topics.topic(name).ok_or(ResponseError::UnknownTopicOrPartition),
    }
}

/// Asks every partition to wake us, and tells whether the answer need not wait: there is enough, or an error to tell.
fn watch(state: &State, version: i16, request: &FetchRequest, waiter: &Arc<Notify>) -> bool {
    let enough = u64::try_from(request.min_bytes).unwrap_or(0);
    let mut available = 0;
    let mut is_ready = enough == 0 || request.topics.iter().all(|topic| topic.partitions.is_empty());
    for asked in &request.topics {
        let Ok(topic) = topic_of(state, version, &asked.topic, asked.topic_id) else { return true };
        for wanted in &asked.partitions {
            let Some(partition) = topic.partition(wanted.partition) else { return true };
            partition.wake_on_change(waiter);
            let Ok(limit) = check(partition, wanted, request.isolation_level) else { return true };
            if wanted.fetch_offset < limit {
                available += partition.bytes_from(wanted.fetch_offset).min(wanted.partition_max_bytes.max(1) as u64);
            }
        }
    }
    is_ready |= available >= enough;
    is_ready
}

/// Whether the offset can be read, and up to which offset this reader may.
fn check(partition: &Partition, wanted: &FetchPartition, isolation: i8) -> Result<i64, ResponseError> {
    match wanted.current_leader_epoch {
        epoch if epoch > LEADER_EPOCH => return Err(ResponseError::UnknownLeaderEpoch),
        epoch if (0..LEADER_EPOCH).contains(&epoch) => return Err(ResponseError::FencedLeaderEpoch),
        _ => {}
    }
    let marks = partition.watermarks();
    // Between the watermark and the end nothing is shown yet, but the offset is no mistake.
    if wanted.fetch_offset < marks.start || wanted.fetch_offset > partition.end_offset() {
        return Err(ResponseError::OffsetOutOfRange);
    }
    Ok(if isolation == READ_COMMITTED { marks.stable } else { marks.high })
}

/// The most bytes of records that may be read now, up to those asked for, and the share of memory for them. It never
/// waits: clients that do not read what they fetched must not keep others from fetching. Where nothing is left an answer
/// still has its first batch, which is more than no progress and no more than one batch for each connection.
fn take_share(budget: &Arc<Semaphore>, asked: usize) -> (usize, OwnedSemaphorePermit) {
    let mut units = u32::try_from(asked.div_ceil(BUDGET_UNIT_BYTES)).unwrap_or(u32::MAX);
    loop {
        match Arc::clone(budget).try_acquire_many_owned(units) {
            Ok(share) => return (asked.min(units as usize * BUDGET_UNIT_BYTES), share),
            Err(_) => units /= 2,
        }
    }
}

fn read_all(state: &State, version: i16, request: &FetchRequest) -> (FetchResponse, OwnedSemaphorePermit) {
    let asked = usize::try_from(request.max_bytes).unwrap_or(0).min(state.config.max_fetch_bytes);
    let (limit, mut share) = take_share(&state.fetch_budget, asked);
    let mut budget = limit;
    let mut is_empty = true;
    let mut responses = Vec::with_capacity(request.topics.len());
    for asked in &request.topics {
        let topic = topic_of(state, version, &asked.topic, asked.topic_id);
        let mut partitions = Vec::with_capacity(asked.partitions.len());
        for wanted in &asked.partitions {
            let partition = topic
                .as_ref()
                .map_err(|error| *error)
                .and_then(|topic| topic.partition(wanted.partition).ok_or(ResponseError::UnknownTopicOrPartition));
            let data = partition.and_then(|p| read_one(p, wanted, request.isolation_level, budget, is_empty));
            let data = data.unwrap_or_else(|error| refused(partition.ok(), wanted, error));
            let bytes = data.records.as_ref().map_or(0, bytes::Bytes::len);
            budget = budget.saturating_sub(bytes);
            is_empty &= bytes == 0;
            partitions.push(data);
        }
        let response = FetchableTopicResponse::default().with_topic_id(asked.topic_id).with_partitions(partitions);
        responses.push(response.with_topic(asked.topic.clone()));
    }
    // What was not read is given back at once.
    let unread = share.num_permits().saturating_sub((limit - budget).div_ceil(BUDGET_UNIT_BYTES));
    drop(share.split(unread));
    (FetchResponse::default().with_responses(responses), share)
}

fn read_one(
    partition: &Arc<Partition>,
    wanted: &FetchPartition,
    isolation: i8,
    budget: usize,
    at_least_one: bool,
) -> Result<PartitionData, ResponseError> {
    let limit = check(partition, wanted, isolation)?;
    let max_bytes = usize::try_from(wanted.partition_max_bytes).unwrap_or(0).min(budget);
    let want = Want { from: wanted.fetch_offset, until: limit, max_bytes, at_least_one };
    let marks = partition.watermarks();
    let run = partition.read(want).map_err(|error| {
        tracing::error!(%error, offset = wanted.fetch_offset, "could not read a partition");
        ResponseError::KafkaStorageError
    })?;
    let aborted = (isolation == READ_COMMITTED).then(|| {
        let found = match run.bytes.is_empty() {
            true => Vec::new(),
            false => partition.aborted_between(wanted.fetch_offset, run.next_offset),
        };
        let listed = |a: crate::embedded::broker::log::producers::Aborted| {
            let producer = ProducerId(a.producer_id);
            AbortedTransaction::default().with_producer_id(producer).with_first_offset(a.first_offset)
        };
        found.into_iter().map(listed).collect()
    });
    Ok(data(wanted.partition)
        .with_high_watermark(marks.high)
        .with_last_stable_offset(marks.stable)
        .with_log_start_offset(marks.start)
        .with_aborted_transactions(aborted)
        .with_records(Some(run.bytes)))
}

fn refused(partition: Option<&Arc<Partition>>, wanted: &FetchPartition, error: ResponseError) -> PartitionData {
    let marks = partition.map(|p| p.watermarks());
    data(wanted.partition)
        .with_error_code(error.code())
        .with_high_watermark(marks.map_or(-1, |m| m.high))
        .with_last_stable_offset(marks.map_or(-1, |m| m.stable))
        .with_log_start_offset(marks.map_or(-1, |m| m.start))
        .with_records(Some(bytes::Bytes::new()))
}

fn data(index: i32) -> PartitionData {
    PartitionData::default().with_partition_index(index).with_preferred_read_replica(BrokerId(-1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fetch_takes_what_memory_there_is_and_never_waits() {
        let budget = Arc::new(Semaphore::new(10));
        let (bytes, first) = take_share(&budget, 3_000);
        assert_eq!((bytes, first.num_permits()), (3_000, 3));
        let (bytes, second) = take_share(&budget, 1 << 20);
        assert_eq!((bytes, second.num_permits()), (4 << 10, 4));
        let (_, _third) = take_share(&budget, 3_000);
        let (bytes, none) = take_share(&budget, 3_000);
        assert_eq!((bytes, none.num_permits()), (0, 0));
    }
}
