//! FindCoordinator: it is always this broker.

use kafka_protocol::ResponseError;
use kafka_protocol::messages::find_coordinator_response::Coordinator;
use kafka_protocol::messages::{BrokerId, FindCoordinatorRequest, FindCoordinatorResponse};

use super::answer::Caller;
use crate::embedded::broker::state::{NODE, State, text};

const GROUP: i8 = 0;
const TRANSACTION: i8 = 1;
/// The first version that asks for many at once.
const BATCHED_SINCE: i16 = 4;

/// Answers for groups and transactional ids.
pub(crate) fn answer(state: &State, caller: &Caller, request: FindCoordinatorRequest) -> FindCoordinatorResponse {
    let check = |key: &str| match request.key_type {
        GROUP if key.is_empty() => Err(ResponseError::InvalidGroupId),
        GROUP | TRANSACTION => Ok(()),
        _ => Err(ResponseError::InvalidRequest),
    };
    if caller.version < BATCHED_SINCE {
        return match check(&request.key) {
            Ok(()) => {
                FindCoordinatorResponse::default().with_node_id(NODE).with_host(state.host()).with_port(state.port())
            }
            Err(error) => FindCoordinatorResponse::default()
                .with_error_code(error.code())
                .with_error_message(Some(text(&error.to_string())))
                .with_node_id(BrokerId(-1))
                .with_port(-1),
        };
    }
    let one = |key: &kafka_protocol::protocol::StrBytes| {
        let coordinator = Coordinator::default().with_key(key.clone());
        match check(key) {
            Ok(()) => coordinator.with_node_id(NODE).with_host(state.host()).with_port(state.port()),
            Err(error) => coordinator
                .with_error_code(error.code())
                .with_error_message(Some(text(&error.to_string())))
                .with_node_id(BrokerId(-1))
                .with_port(-1),
        }
    };
    FindCoordinatorResponse::default().with_coordinators(request.coordinator_keys.iter().map(one).collect())
}
