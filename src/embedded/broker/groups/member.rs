//! A group's member, and what members ask and are answered.

use std::time::{Duration, Instant};

use bytes::Bytes;
use kafka_protocol::ResponseError;
use tokio::sync::oneshot;

/// A member's request to take part in the next generation.
#[derive(Debug, Clone)]
pub(crate) struct Join {
    /// Empty for a newcomer.
    pub(crate) member_id: String,
    /// What a newcomer will be called.
    pub(crate) new_id: String,
    /// The name of a static member, which outlives its process.
    pub(crate) instance_id: Option<String>,
    pub(crate) client_id: String,
    pub(crate) client_host: String,
    pub(crate) session_timeout: Duration,
    pub(crate) rebalance_timeout: Duration,
    pub(crate) protocol_type: String,
    /// Assignment strategies in order of preference, each with the member's subscription.
    pub(crate) protocols: Vec<(String, Bytes)>,
    /// Whether a newcomer must first be told its id and come again, so that a lost answer leaves no ghost.
    pub(crate) needs_id_first: bool,
}

/// A member's place in a generation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Joined {
    pub(crate) generation: i32,
    pub(crate) protocol_type: String,
    pub(crate) protocol: String,
    pub(crate) leader: String,
    pub(crate) member_id: String,
    /// All members with their subscriptions, for the leader alone.
    pub(crate) members: Vec<(String, Option<String>, Bytes)>,
}

/// Why a member has no place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct JoinRefused {
    pub(crate) error: ResponseError,
    /// The id to come again with, if the error says so.
    pub(crate) member_id: String,
}

/// Where the answer to a join goes.
pub(crate) type JoinReply = oneshot::Sender<Result<Joined, JoinRefused>>;

/// Where the answer to a sync goes: the member's assignment.
pub(crate) type SyncReply = oneshot::Sender<Result<Synced, ResponseError>>;

/// What a member is to work on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Synced {
    pub(crate) protocol_type: String,
    pub(crate) protocol: String,
    pub(crate) assignment: Bytes,
}

/// How a member names itself in every request after its join.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Claim<'a> {
    pub(crate) member_id: &'a str,
    pub(crate) instance_id: Option<&'a str>,
    pub(crate) generation: i32,
}

/// What a member believes its group to speak, as far as it says.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Protocol<'a> {
    pub(crate) kind: Option<&'a str>,
    pub(crate) name: Option<&'a str>,
}

/// One member.
#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) instance_id: Option<String>,
    pub(crate) client_id: String,
    pub(crate) client_host: String,
    pub(crate) session_timeout: Duration,
    pub(crate) rebalance_timeout: Duration,
    pub(crate) protocols: Vec<(String, Bytes)>,
    pub(crate) assignment: Bytes,
    pub(crate) last_seen: Instant,
    /// Present while it waits for the next generation.
    pub(crate) joining: Option<JoinReply>,
    /// Present while it waits for its assignment.
    pub(crate) syncing: Option<SyncReply>,
}

impl Member {
    pub(crate) fn new(join: &Join, now: Instant) -> Self {
        Self {
            instance_id: join.instance_id.clone(),
            client_id: join.client_id.clone(),
            client_host: join.client_host.clone(),
            session_timeout: join.session_timeout,
            rebalance_timeout: join.rebalance_timeout,
            protocols: join.protocols.clone(),
            assignment: Bytes::new(),
            last_seen: now,
            joining: None,
            syncing: None,
        }
    }

    /// Takes over what a repeated join says.
    pub(crate) fn update(&mut self, join: &Join, now: Instant) {
        self.session_timeout = join.session_timeout;
        self.rebalance_timeout = join.rebalance_timeout;
        self.protocols.clone_from(&join.protocols);
        self.last_seen = now;
    }

    pub(crate) fn supports(&self, protocol: &str) -> bool {
        self.protocols.iter().any(|(name, _)| name == protocol)
    }

    /// The subscription under one strategy.
    pub(crate) fn subscription(&self, protocol: &str) -> Bytes {
        let found = self.protocols.iter().find(|(name, _)| name == protocol);
        found.map(|(_, metadata)| metadata.clone()).unwrap_or_default()
    }

    /// Whether it waits for an answer on a connection that is still there.
    pub(crate) fn is_waiting(&self) -> bool {
        let joining = self.joining.as_ref().is_some_and(|reply| !reply.is_closed());
        joining || self.syncing.as_ref().is_some_and(|reply| !reply.is_closed())
    }

    /// Whether it was silent for longer than it promised.
    pub(crate) fn is_expired(&self, now: Instant) -> bool {
        !self.is_waiting() && now.saturating_duration_since(self.last_seen) > self.session_timeout
    }
}
