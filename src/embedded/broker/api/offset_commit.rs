//! OffsetCommit and TxnOffsetCommit: offsets that are durable when the answer goes out.

use kafka_protocol::ResponseError;
use kafka_protocol::messages::offset_commit_response::{OffsetCommitResponsePartition, OffsetCommitResponseTopic};
use kafka_protocol::messages::txn_offset_commit_response::{
    TxnOffsetCommitResponsePartition, TxnOffsetCommitResponseTopic,
};
use kafka_protocol::messages::{
    OffsetCommitRequest, OffsetCommitResponse, TopicName, TxnOffsetCommitRequest, TxnOffsetCommitResponse,
};

use crate::embedded::broker::groups::coordinator::CommitAs;
use crate::embedded::broker::groups::member::Claim;
use crate::embedded::broker::groups::offsets::{Batch, Committed};
use crate::embedded::broker::state::State;

/// Apache's default limit on what a client may attach to an offset.
const MAX_METADATA_BYTES: usize = 4_096;

/// Topic, partition and error code of each offset in a request.
type Results = Vec<(TopicName, i32, i16)>;

/// One partition's offset as either request has it.
struct Wanted {
    topic: TopicName,
    index: i32,
    committed: Committed,
}

impl Wanted {
    fn new(topic: &TopicName, index: i32, offset: i64, leader_epoch: i32, metadata: Option<&str>) -> Self {
        let metadata = metadata.unwrap_or_default().to_owned();
        Self { topic: topic.clone(), index, committed: Committed { offset, leader_epoch, metadata } }
    }
}

/// Checks each offset; the good ones go into one batch, and every one has its result.
fn sort(state: &State, wanted: &[Wanted]) -> (Batch, Results) {
    let mut batch = Batch::new();
    let mut results = Results::with_capacity(wanted.len());
    for Wanted { topic, index, committed } in wanted {
        let error = match state.topics.partition(topic, *index) {
            None => ResponseError::UnknownTopicOrPartition.code(),
            Some(_) if committed.metadata.len() > MAX_METADATA_BYTES => ResponseError::OffsetMetadataTooLarge.code(),
            Some(_) => {
                batch.push(((topic.to_string(), *index), committed.clone()));
                0
            }
        };
        results.push((topic.clone(), *index, error));
    }
    (batch, results)
}

/// Commits what is good of the wanted offsets, and tells the result of each.
async fn commit_good(
    state: &State,
    group: &str,
    claim: Claim<'_>,
    commit_as: CommitAs,
    wanted: Vec<Wanted>,
    admit: impl FnOnce() -> Result<(), ResponseError>,
) -> Results {
    let (_, mut results) = sort(state, &wanted);
    let offsets = || {
        admit()?;
        // Once more: a topic that was just deleted must not get an offset that its namesake would inherit.
        let (batch, sorted) = sort(state, &wanted);
        results = sorted;
        Ok(batch)
    };
    let outcome = state.groups.commit(group, claim, commit_as, offsets).await;
    settle(&mut results, outcome);
    results
}

/// Gives every partition that was good so far the error that befell all.
fn settle(results: &mut Results, outcome: Result<(), ResponseError>) {
    if let Err(error) = outcome {
        results.iter_mut().filter(|(_, _, code)| *code == 0).for_each(|(_, _, code)| *code = error.code());
    }
}

/// The results in runs of the same topic, as they came.
fn by_topic<P>(results: Results, make: impl Fn(i32, i16) -> P) -> Vec<(TopicName, Vec<P>)> {
    let mut topics: Vec<(TopicName, Vec<P>)> = Vec::new();
    for (topic, index, code) in results {
        match topics.last_mut() {
            Some((last, partitions)) if *last == topic => partitions.push(make(index, code)),
            _ => topics.push((topic, vec![make(index, code)])),
        }
    }
    topics
}

/// Commits a group's offsets.
pub(crate) async fn commit(state: &State, request: OffsetCommitRequest) -> OffsetCommitResponse {
    let mut wanted = Vec::new();
    for topic in &request.topics {
        wanted.extend(topic.partitions.iter().map(|p| {
            let metadata = p.committed_metadata.as_deref();
            Wanted::new(&topic.name, p.partition_index, p.committed_offset, p.committed_leader_epoch, metadata)
        }));
    }
    let claim = Claim {
        member_id: &request.member_id,
        instance_id: request.group_instance_id.as_deref(),
        generation: request.generation_id_or_member_epoch,
    };
    let admit = || match request.group_id.is_empty() {
        true => Err(ResponseError::InvalidGroupId),
        false => Ok(()),
    };
    let results = commit_good(state, &request.group_id, claim, CommitAs::Member, wanted, admit).await;
    let partition =
        |index, code| OffsetCommitResponsePartition::default().with_partition_index(index).with_error_code(code);
    let topic = |(name, partitions)| OffsetCommitResponseTopic::default().with_name(name).with_partitions(partitions);
    OffsetCommitResponse::default().with_topics(by_topic(results, partition).into_iter().map(topic).collect())
}

/// Commits a group's offsets if and when the producer's transaction commits.
pub(crate) async fn commit_in_transaction(state: &State, request: TxnOffsetCommitRequest) -> TxnOffsetCommitResponse {
    let mut wanted = Vec::new();
    for topic in &request.topics {
        wanted.extend(topic.partitions.iter().map(|p| {
            let metadata = p.committed_metadata.as_deref();
            Wanted::new(&topic.name, p.partition_index, p.committed_offset, p.committed_leader_epoch, metadata)
        }));
    }
    let claim = Claim {
        member_id: &request.member_id,
        instance_id: request.group_instance_id.as_deref(),
        generation: request.generation_id,
    };
    let identity = (request.producer_id.0, request.producer_epoch);
    let commit_as = CommitAs::Transaction { producer_id: identity.0 };
    let admit = || {
        let admitted = state.transactions.admit_offsets(&request.transactional_id, identity, &request.group_id);
        admitted.map_err(|error| match error {
            // This request has always told fenced producers by this name.
            ResponseError::ProducerFenced => ResponseError::InvalidProducerEpoch,
            other => other,
        })
    };
    let results = commit_good(state, &request.group_id, claim, commit_as, wanted, admit).await;
    let partition =
        |index, code| TxnOffsetCommitResponsePartition::default().with_partition_index(index).with_error_code(code);
    let topic =
        |(name, partitions)| TxnOffsetCommitResponseTopic::default().with_name(name).with_partitions(partitions);
    TxnOffsetCommitResponse::default().with_topics(by_topic(results, partition).into_iter().map(topic).collect())
}
