//! JoinGroup, SyncGroup, Heartbeat and LeaveGroup.

use std::time::Duration;

use bytes::Bytes;
use kafka_protocol::ResponseError;
use kafka_protocol::messages::join_group_response::JoinGroupResponseMember;
use kafka_protocol::messages::leave_group_response::MemberResponse;
use kafka_protocol::messages::{
    HeartbeatRequest, HeartbeatResponse, JoinGroupRequest, JoinGroupResponse, LeaveGroupRequest, LeaveGroupResponse,
    SyncGroupRequest, SyncGroupResponse,
};
use kafka_protocol::protocol::StrBytes;

use super::answer::Caller;
use crate::embedded::broker::groups::member::{Claim, Join, JoinRefused, Joined, Protocol};
use crate::embedded::broker::state::{State, code, text};

/// The first version whose clients know that they must come again with the id they are told.
const ID_FIRST_SINCE: i16 = 4;
/// The first version that names the protocol type, and may leave the protocol's name out.
const PROTOCOL_TYPE_SINCE: i16 = 7;

/// What one member may keep in memory here: its subscriptions, and as much again for its assignment.
const MAX_MEMBER_BYTES: usize = 1 << 20;

/// A copy of its own, which does not keep the whole request in memory.
fn own(part: &Bytes) -> Bytes {
    Bytes::copy_from_slice(part)
}

fn milliseconds(value: i32) -> Duration {
    Duration::from_millis(u64::try_from(value).unwrap_or(0))
}

/// Takes part in a group's next generation; answers when it is complete.
pub(crate) async fn join(state: &State, caller: &Caller, request: JoinGroupRequest) -> JoinGroupResponse {
    let member_id = request.member_id.to_string();
    let session_timeout = milliseconds(request.session_timeout_ms);
    let session_range = state.config.min_session_timeout..=state.config.max_session_timeout;
    if request.group_id.is_empty() {
        return refused(caller, &JoinRefused { error: ResponseError::InvalidGroupId, member_id });
    }
    if !session_range.contains(&session_timeout) {
        return refused(caller, &JoinRefused { error: ResponseError::InvalidSessionTimeout, member_id });
    }
    let size: usize = request.protocols.iter().map(|p| p.name.len() + p.metadata.len()).sum();
    if size > MAX_MEMBER_BYTES {
        return refused(caller, &JoinRefused { error: ResponseError::InvalidRequest, member_id });
    }
    // Version 0 has one timeout for both.
    let rebalance_timeout =
        if caller.version == 0 { session_timeout } else { milliseconds(request.rebalance_timeout_ms) };
    let prefix = request.group_instance_id.as_deref().unwrap_or(&caller.client_id);
    let join = Join {
        member_id: member_id.clone(),
        new_id: format!("{prefix}-{}", uuid::Uuid::new_v4()),
        instance_id: request.group_instance_id.as_ref().map(|id| id.to_string()),
        client_id: caller.client_id.clone(),
        client_host: format!("/{}", caller.host),
        session_timeout,
        rebalance_timeout,
        protocol_type: request.protocol_type.to_string(),
        protocols: request.protocols.into_iter().map(|p| (p.name.to_string(), own(&p.metadata))).collect(),
        needs_id_first: caller.version >= ID_FIRST_SINCE,
    };
    let answer = state.groups.join(&request.group_id, &join);
    let joined = tokio::select! {
        joined = answer => joined,
        () = caller.gone.cancelled() => {
            return refused(caller, &JoinRefused { error: ResponseError::CoordinatorNotAvailable, member_id });
        }
    };
    match joined {
        Ok(Ok(joined)) => accepted(joined),
        Ok(Err(error)) => refused(caller, &error),
        Err(_) => refused(caller, &JoinRefused { error: ResponseError::UnknownMemberId, member_id }),
    }
}

fn accepted(joined: Joined) -> JoinGroupResponse {
    let member = |(id, instance, metadata): (String, Option<String>, bytes::Bytes)| {
        JoinGroupResponseMember::default()
            .with_member_id(text(&id))
            .with_group_instance_id(instance.map(StrBytes::from_string))
            .with_metadata(metadata)
    };
    JoinGroupResponse::default()
        .with_generation_id(joined.generation)
        .with_protocol_type(Some(text(&joined.protocol_type)))
        .with_protocol_name(Some(text(&joined.protocol)))
        .with_leader(text(&joined.leader))
        .with_member_id(text(&joined.member_id))
        .with_members(joined.members.into_iter().map(member).collect())
}

fn refused(caller: &Caller, refused: &JoinRefused) -> JoinGroupResponse {
    let no_protocol = (caller.version < PROTOCOL_TYPE_SINCE).then(StrBytes::new);
    JoinGroupResponse::default()
        .with_error_code(refused.error.code())
        .with_generation_id(-1)
        .with_protocol_name(no_protocol)
        .with_member_id(text(&refused.member_id))
}

/// Brings or fetches the division of work; answers when the leader has brought it.
pub(crate) async fn sync(state: &State, caller: &Caller, request: SyncGroupRequest) -> SyncGroupResponse {
    let claim = Claim {
        member_id: &request.member_id,
        instance_id: request.group_instance_id.as_deref(),
        generation: request.generation_id,
    };
    if request.assignments.iter().any(|a| a.assignment.len() > MAX_MEMBER_BYTES) {
        return SyncGroupResponse::default().with_error_code(ResponseError::InvalidRequest.code());
    }
    let work = request.assignments.iter().map(|a| (a.member_id.to_string(), own(&a.assignment))).collect();
    let protocol = Protocol { kind: request.protocol_type.as_deref(), name: request.protocol_name.as_deref() };
    let answer = state.groups.sync(&request.group_id, claim, protocol, work);
    let synced = tokio::select! {
        synced = answer => synced.unwrap_or(Err(ResponseError::UnknownMemberId)),
        () = caller.gone.cancelled() => Err(ResponseError::CoordinatorNotAvailable),
    };
    match synced {
        Ok(synced) => SyncGroupResponse::default()
            .with_protocol_type(Some(text(&synced.protocol_type)))
            .with_protocol_name(Some(text(&synced.protocol)))
            .with_assignment(synced.assignment),
        Err(error) => SyncGroupResponse::default().with_error_code(error.code()),
    }
}

/// Takes a sign of life.
pub(crate) fn heartbeat(state: &State, request: &HeartbeatRequest) -> HeartbeatResponse {
    let claim = Claim {
        member_id: &request.member_id,
        instance_id: request.group_instance_id.as_deref(),
        generation: request.generation_id,
    };
    let alive = state.groups.heartbeat(&request.group_id, claim);
    HeartbeatResponse::default().with_error_code(code(&alive))
}

/// Lets members go.
pub(crate) fn leave(state: &State, caller: &Caller, request: LeaveGroupRequest) -> LeaveGroupResponse {
    if caller.version < 3 {
        let left = state.groups.leave(&request.group_id, &request.member_id, None);
        return LeaveGroupResponse::default().with_error_code(code(&left));
    }
    let one = |member: &kafka_protocol::messages::leave_group_request::MemberIdentity| {
        let instance = member.group_instance_id.as_deref();
        let left = state.groups.leave(&request.group_id, &member.member_id, instance);
        MemberResponse::default()
            .with_member_id(member.member_id.clone())
            .with_group_instance_id(member.group_instance_id.clone())
            .with_error_code(code(&left))
    };
    LeaveGroupResponse::default().with_members(request.members.iter().map(one).collect())
}
