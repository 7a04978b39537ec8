//! OffsetFetch: what groups have committed, for one group or, from version 8 on, for many.

use std::collections::BTreeMap;

use kafka_protocol::ResponseError;
use kafka_protocol::messages::offset_fetch_response::{
    OffsetFetchResponseGroup, OffsetFetchResponsePartition, OffsetFetchResponsePartitions, OffsetFetchResponseTopic,
    OffsetFetchResponseTopics,
};
use kafka_protocol::messages::{OffsetFetchRequest, OffsetFetchResponse, TopicName};

use super::answer::Caller;
use crate::embedded::broker::groups::coordinator::Groups;
use crate::embedded::broker::groups::offsets::{Committed, Offsets};
use crate::embedded::broker::state::{State, text};

/// The first version that asks for many groups at once.
const BATCHED_SINCE: i16 = 8;

/// Topics and partitions, as asked for; nothing means all there are.
type Asked = Option<Vec<(TopicName, Vec<i32>)>>;
/// What was committed, if anything, or why that is not told.
type Found = Result<Option<Committed>, ResponseError>;
/// A topic and what was found for its partitions.
type AnsweredTopic = (TopicName, Vec<(i32, Found)>);

/// Tells what was committed; an offset of -1 where nothing was.
pub(crate) fn answer(state: &State, caller: &Caller, request: OffsetFetchRequest) -> OffsetFetchResponse {
    let stable = request.require_stable;
    if caller.version < BATCHED_SINCE {
        let asked = request.topics.map(|topics| topics.into_iter().map(|t| (t.name, t.partition_indexes)).collect());
        let topics = look_up(state, &request.group_id, asked, stable).into_iter().map(old_topic).collect();
        return OffsetFetchResponse::default().with_topics(topics);
    }
    let mut groups = Vec::with_capacity(request.groups.len());
    for group in request.groups {
        let asked = group.topics.map(|topics| topics.into_iter().map(|t| (t.name, t.partition_indexes)).collect());
        let topics = look_up(state, &group.group_id, asked, stable).into_iter().map(new_topic).collect();
        groups.push(OffsetFetchResponseGroup::default().with_group_id(group.group_id).with_topics(topics));
    }
    OffsetFetchResponse::default().with_groups(groups)
}

fn look_up(state: &State, group: &str, asked: Asked, stable: bool) -> Vec<AnsweredTopic> {
    state.groups.look(group, |group| {
        let none = Offsets::default();
        let offsets = group.map_or(&none, |group| &group.offsets);
        let asked = asked.unwrap_or_else(|| all(offsets));
        let one = |name: &TopicName, index: i32| Groups::committed(offsets, &(name.to_string(), index), stable);
        let topic = |(name, indexes): (TopicName, Vec<i32>)| {
            let partitions = indexes.into_iter().map(|index| (index, one(&name, index))).collect();
            (name, partitions)
        };
        asked.into_iter().map(topic).collect()
    })
}

fn all(offsets: &Offsets) -> Vec<(TopicName, Vec<i32>)> {
    let mut topics: BTreeMap<&str, Vec<i32>> = BTreeMap::new();
    for (name, index) in offsets.committed.keys() {
        topics.entry(name).or_default().push(*index);
    }
    topics.into_iter().map(|(name, indexes)| (TopicName(text(name)), indexes)).collect()
}

/// Offset, leader epoch, metadata and error of one answer.
fn parts(found: Found) -> (i64, i32, String, i16) {
    match found {
        Ok(Some(committed)) => (committed.offset, committed.leader_epoch, committed.metadata, 0),
        Ok(None) => (-1, -1, String::new(), 0),
        Err(error) => (-1, -1, String::new(), error.code()),
    }
}

fn old_topic((name, partitions): AnsweredTopic) -> OffsetFetchResponseTopic {
    let one = |(index, found)| {
        let (offset, leader_epoch, metadata, error) = parts(found);
        OffsetFetchResponsePartition::default()
            .with_partition_index(index)
            .with_committed_offset(offset)
            .with_committed_leader_epoch(leader_epoch)
            .with_metadata(Some(text(&metadata)))
            .with_error_code(error)
    };
    OffsetFetchResponseTopic::default().with_name(name).with_partitions(partitions.into_iter().map(one).collect())
}

fn new_topic((name, partitions): AnsweredTopic) -> OffsetFetchResponseTopics {
    let one = |(index, found)| {
        let (offset, leader_epoch, metadata, error) = parts(found);
        OffsetFetchResponsePartitions::default()
            .with_partition_index(index)
            .with_committed_offset(offset)
            .with_committed_leader_epoch(leader_epoch)
            .with_metadata(Some(text(&metadata)))
            .with_error_code(error)
    };
    OffsetFetchResponseTopics::default().with_name(name).with_partitions(partitions.into_iter().map(one).collect())
}
