//! From a decoded request to the file that answers it.

use std::sync::Arc;

use kafka_protocol::messages::RequestKind as R;

use super::answer::{Answer, Caller};
use super::{
    api_versions, configs, fetch, find_coordinator, group_admin, groups, list_offsets, metadata, offset_commit,
    offset_fetch, produce, sasl, topics, transactions,
};
use crate::embedded::broker::state::State;

/// Answers a request. Nothing for a request that is not spoken here, which the table of versions has already kept out.
pub(crate) async fn dispatch(state: Arc<State>, caller: Caller, request: R) -> Option<Answer> {
    let state = &state;
    Some(match request {
        R::ApiVersions(request) => api_versions::answer(&request, &caller).into(),
        R::SaslHandshake(request) => sasl::handshake(&caller, &request).into(),
        R::SaslAuthenticate(request) => sasl::authenticate(state, &caller, &request).into(),
        R::Metadata(request) => metadata::metadata(state, &caller, request).await.into(),
        R::DescribeCluster(_) => metadata::describe_cluster(state).into(),
        R::Produce(request) => produce::produce(state, request, &caller).await,
        R::Fetch(request) => fetch::fetch(state, &caller, request).await,
        R::ListOffsets(request) => list_offsets::list_offsets(state, &caller, request).await.into(),
        R::OffsetForLeaderEpoch(request) => list_offsets::offset_for_leader_epoch(state, request).await.into(),
        R::CreateTopics(request) => topics::create(state, &caller, request).await.into(),
        R::DeleteTopics(request) => topics::delete(state, &caller, request).await.into(),
        R::CreatePartitions(request) => topics::create_partitions(state, request).await.into(),
        R::DescribeConfigs(request) => configs::describe(state, request).into(),
        R::FindCoordinator(request) => find_coordinator::answer(state, &caller, request).into(),
        R::JoinGroup(request) => groups::join(state, &caller, request).await.into(),
        R::SyncGroup(request) => groups::sync(state, &caller, request).await.into(),
        R::Heartbeat(request) => groups::heartbeat(state, &request).into(),
        R::LeaveGroup(request) => groups::leave(state, &caller, request).into(),
        R::DescribeGroups(request) => group_admin::describe(state, &caller, request).into(),
        R::ListGroups(request) => group_admin::list(state, &request).into(),
        R::DeleteGroups(request) => group_admin::delete(state, request).await.into(),
        R::OffsetCommit(request) => offset_commit::commit(state, request).await.into(),
        R::TxnOffsetCommit(request) => offset_commit::commit_in_transaction(state, request).await.into(),
        R::OffsetFetch(request) => offset_fetch::answer(state, &caller, request).into(),
        R::InitProducerId(request) => transactions::init_producer_id(state, &caller, request).await.into(),
        R::AddPartitionsToTxn(request) => transactions::add_partitions(state, &caller, request).await.into(),
        R::AddOffsetsToTxn(request) => transactions::add_offsets(state, &caller, request).await.into(),
        R::EndTxn(request) => transactions::end(state, &caller, request).await.into(),
        _ => return None,
    })
}
