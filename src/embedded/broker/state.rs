//! Everything the broker knows, in one value that all connections share, and the few words all answers need.

use std::fs::File;
use std::net::SocketAddr;
use std::sync::Arc;

use kafka_protocol::messages::BrokerId;
use kafka_protocol::protocol::StrBytes;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::config::BrokerConfig;
use super::groups::coordinator::Groups;
use super::topics::registry::Registry;
use super::transactions::coordinator::Transactions;

/// The only node there is.
pub(crate) const NODE: BrokerId = BrokerId(1);

/// "Not asked for": the value of a set of permitted operations that was not computed.
pub(crate) const NO_OPERATIONS: i32 = i32::MIN;

/// The broker's shared state.
pub(crate) struct State {
    pub(crate) config: BrokerConfig,
    /// Where it really listens.
    pub(crate) address: SocketAddr,
    pub(crate) topics: Arc<Registry>,
    pub(crate) groups: Arc<Groups>,
    pub(crate) transactions: Arc<Transactions>,
    /// What the records of all fetch answers may take together, in units of the requests' budget.
    pub(crate) fetch_budget: Arc<Semaphore>,
    /// Every wait that a client can cause ends when this does.
    pub(crate) shutdown: CancellationToken,
    /// Every task and blocking job is one of its.
    pub(crate) tracker: TaskTracker,
    /// The lock on the data directory, for as long as anything here can write to it.
    pub(crate) lock: File,
}

impl State {
    /// The host clients are told to connect to.
    pub(crate) fn host(&self) -> StrBytes {
        text(&self.address.ip().to_string())
    }

    /// The port clients are told to connect to.
    pub(crate) fn port(&self) -> i32 {
        i32::from(self.address.port())
    }
}

/// Text for an answer.
pub(crate) fn text(value: &str) -> StrBytes {
    StrBytes::from_string(value.to_owned())
}

/// The number of an outcome: 0 for success.
pub(crate) fn code<T>(result: &Result<T, kafka_protocol::ResponseError>) -> i16 {
    result.as_ref().err().map_or(0, kafka_protocol::ResponseError::code)
}
