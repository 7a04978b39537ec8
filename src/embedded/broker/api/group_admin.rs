//! DescribeGroups, ListGroups and DeleteGroups.

use kafka_protocol::ResponseError;
use kafka_protocol::messages::delete_groups_response::DeletableGroupResult;
use kafka_protocol::messages::describe_groups_response::{DescribedGroup, DescribedGroupMember};
use kafka_protocol::messages::list_groups_response::ListedGroup;
use kafka_protocol::messages::{
    DeleteGroupsRequest, DeleteGroupsResponse, DescribeGroupsRequest, DescribeGroupsResponse, GroupId,
    ListGroupsRequest, ListGroupsResponse,
};

use super::answer::Caller;
use crate::embedded::broker::groups::group::Group;
use crate::embedded::broker::groups::member::Member;
use crate::embedded::broker::state::{NO_OPERATIONS, State, code, text};

/// The only kind of group there is here.
const CLASSIC: &str = "classic";
/// The first version that tells a missing group by an error and not by a state.
const MISSING_IS_ERROR_SINCE: i16 = 6;

/// Tells of groups and their members.
pub(crate) fn describe(state: &State, caller: &Caller, request: DescribeGroupsRequest) -> DescribeGroupsResponse {
    let one = |id: &GroupId| {
        let described = DescribedGroup::default().with_group_id(id.clone()).with_authorized_operations(NO_OPERATIONS);
        state.groups.look(id, |group| match group {
            Some(group) => filled(described, group),
            None => {
                let missing = caller.version >= MISSING_IS_ERROR_SINCE;
                let error = if missing { ResponseError::GroupIdNotFound.code() } else { 0 };
                described.with_group_state(text("Dead")).with_error_code(error)
            }
        })
    };
    DescribeGroupsResponse::default().with_groups(request.groups.iter().map(one).collect())
}

fn filled(described: DescribedGroup, group: &Group) -> DescribedGroup {
    let member = |(id, member): (&String, &Member)| {
        DescribedGroupMember::default()
            .with_member_id(text(id))
            .with_group_instance_id(member.instance_id.as_deref().map(text))
            .with_client_id(text(&member.client_id))
            .with_client_host(text(&member.client_host))
            .with_member_metadata(member.subscription(&group.protocol))
            .with_member_assignment(member.assignment.clone())
    };
    described
        .with_group_state(text(group.phase.name()))
        .with_protocol_type(text(&group.protocol_type))
        .with_protocol_data(text(&group.protocol))
        .with_members(group.members.iter().map(member).collect())
}

/// Tells which groups there are.
pub(crate) fn list(state: &State, request: &ListGroupsRequest) -> ListGroupsResponse {
    let states: Vec<String> = request.states_filter.iter().map(|name| name.to_ascii_lowercase()).collect();
    let kinds = &request.types_filter;
    if !kinds.is_empty() && !kinds.iter().any(|kind| kind.eq_ignore_ascii_case(CLASSIC)) {
        return ListGroupsResponse::default();
    }
    let listed = state.groups.list(|name, group| {
        let phase = group.phase.name();
        (states.is_empty() || states.contains(&phase.to_ascii_lowercase())).then(|| {
            ListedGroup::default()
                .with_group_id(GroupId(text(name)))
                .with_protocol_type(text(&group.protocol_type))
                .with_group_state(text(phase))
                .with_group_type(text(CLASSIC))
        })
    });
    ListGroupsResponse::default().with_groups(listed.into_iter().flatten().collect())
}

/// Deletes groups that have no members, with their offsets.
pub(crate) async fn delete(state: &State, request: DeleteGroupsRequest) -> DeleteGroupsResponse {
    let mut results = Vec::with_capacity(request.groups_names.len());
    for group in request.groups_names {
        let deleted = state.groups.delete(&group).await;
        results.push(DeletableGroupResult::default().with_group_id(group).with_error_code(code(&deleted)));
    }
    DeleteGroupsResponse::default().with_results(results)
}
