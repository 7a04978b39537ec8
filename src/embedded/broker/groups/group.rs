//! One group's members and generations: who may join when, when a rebalance is complete, who leads. Time is an argument,
//! and nothing here waits: answers go out through the senders that came with the requests.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use bytes::Bytes;
use kafka_protocol::ResponseError as E;

use super::member::{Claim, Join, JoinRefused, JoinReply, Joined, Member, Protocol, SyncReply, Synced};
use super::offsets::Offsets;

/// Where a group is between two generations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// No members; moved on by the first join.
    Empty,
    /// Members are joining; moved on when all have, or at the deadline.
    Joining,
    /// The generation is complete and its leader is dividing the work; moved on by the leader's sync.
    Syncing,
    /// Everyone has work; moved on by a member that comes, goes or changes its mind.
    Stable,
}

impl Phase {
    /// The name clients know.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Empty => "Empty",
            Self::Joining => "PreparingRebalance",
            Self::Syncing => "CompletingRebalance",
            Self::Stable => "Stable",
        }
    }
}

/// One group.
#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) phase: Phase,
    pub(crate) generation: i32,
    pub(crate) protocol_type: String,
    pub(crate) protocol: String,
    pub(crate) leader: String,
    pub(crate) members: BTreeMap<String, Member>,
    /// Ids given out to newcomers that have not come again yet, until when they may.
    promised: HashMap<String, Instant>,
    /// When the current joining ends even without everyone.
    deadline: Option<Instant>,
    /// Before this the first generation is not complete, to let more members come.
    not_before: Option<Instant>,
    pub(crate) offsets: Offsets,
    /// When it was last used: offsets were committed, or there were members.
    pub(crate) updated_ms: i64,
}

impl Default for Group {
    fn default() -> Self {
        Self {
            phase: Phase::Empty,
            generation: 0,
            protocol_type: String::new(),
            protocol: String::new(),
            leader: String::new(),
            members: BTreeMap::new(),
            promised: HashMap::new(),
            deadline: None,
            not_before: None,
            offsets: Offsets::default(),
            updated_ms: 0,
        }
    }
}

impl Group {
    /// Takes a join; answers at once or when the generation is complete.
    pub(crate) fn join(&mut self, join: &Join, reply: JoinReply, now: Instant, initial_delay: Duration, max: usize) {
        match self.admit(join, now, max) {
            Ok(id) => self.take_part(&id, join, reply, now, initial_delay),
            // A receiver that is gone needs no answer, here and below.
            Err(refused) => drop(reply.send(Err(refused))),
        }
    }

    /// Decides under which id a join takes part.
    fn admit(&mut self, join: &Join, now: Instant, max: usize) -> Result<String, JoinRefused> {
        let refuse = |error| JoinRefused { error, member_id: join.member_id.clone() };
        if !self.is_compatible(join) {
            return Err(refuse(E::InconsistentGroupProtocol));
        }
        let holder = join.instance_id.as_deref().and_then(|instance| self.holder_of(instance));
        if !join.member_id.is_empty() {
            return match holder {
                Some(holder) if holder != join.member_id => Err(refuse(E::FencedInstanceId)),
                _ if self.members.contains_key(&join.member_id) => Ok(join.member_id.clone()),
                _ if self.promised.remove(&join.member_id).is_some() => Ok(join.member_id.clone()),
                _ => Err(refuse(E::UnknownMemberId)),
            };
        }
        if let Some(old) = holder {
            self.replace(&old, &join.new_id);
            return Ok(join.new_id.clone());
        }
        if self.members.len() + self.promised.len() >= max {
            return Err(refuse(E::GroupMaxSizeReached));
        }
        if join.needs_id_first && join.instance_id.is_none() {
            self.promised.insert(join.new_id.clone(), now + join.session_timeout);
            return Err(JoinRefused { error: E::MemberIdRequired, member_id: join.new_id.clone() });
        }
        Ok(join.new_id.clone())
    }

    fn is_compatible(&self, join: &Join) -> bool {
        if join.protocol_type.is_empty() || join.protocols.is_empty() {
            return false;
        }
        let others = || self.members.iter().filter(|(id, _)| **id != join.member_id);
        let shared = |name: &str| others().all(|(_, member)| member.supports(name));
        let same_type = others().next().is_none() || self.protocol_type == join.protocol_type;
        same_type && join.protocols.iter().any(|(name, _)| shared(name))
    }

    fn holder_of(&self, instance: &str) -> Option<String> {
        let holds = |member: &Member| member.instance_id.as_deref() == Some(instance);
        self.members.iter().find(|(_, member)| holds(member)).map(|(id, _)| id.clone())
    }

    /// A static member's new process takes the place of its old one, which is fenced.
    fn replace(&mut self, old: &str, new: &str) {
        let Some(mut member) = self.members.remove(old) else { return };
        if let Some(reply) = member.joining.take() {
            drop(reply.send(Err(JoinRefused { error: E::FencedInstanceId, member_id: old.to_owned() })));
        }
        if let Some(reply) = member.syncing.take() {
            drop(reply.send(Err(E::FencedInstanceId)));
        }
        if self.leader == old {
            new.clone_into(&mut self.leader);
        }
        self.members.insert(new.to_owned(), member);
    }

    fn take_part(&mut self, id: &str, join: &Join, reply: JoinReply, now: Instant, initial_delay: Duration) {
        let is_new = !self.members.contains_key(id);
        let member = self.members.entry(id.to_owned()).or_insert_with(|| Member::new(join, now));
        let changed = is_new || member.protocols != join.protocols;
        member.update(join, now);
        let has_place = match self.phase {
            Phase::Stable => !changed && self.leader != id,
            Phase::Syncing => !changed,
            Phase::Empty | Phase::Joining => false,
        };
        if has_place {
            drop(reply.send(Ok(self.joined(id))));
            return;
        }
        if let Some(old) = member.joining.replace(reply) {
            // The same member asked twice: only its latest question matters.
            drop(old.send(Err(JoinRefused { error: E::RebalanceInProgress, member_id: id.to_owned() })));
        }
        join.protocol_type.clone_into(&mut self.protocol_type);
        match self.phase {
            Phase::Empty => {
                self.not_before = Some(now + initial_delay);
                self.rebalance(now);
            }
            Phase::Stable | Phase::Syncing => self.rebalance(now),
            Phase::Joining => self.complete_if_all_joined(now),
        }
    }

    /// Begins the next generation: everyone must join again.
    fn rebalance(&mut self, now: Instant) {
        for member in self.members.values_mut() {
            if let Some(reply) = member.syncing.take() {
                drop(reply.send(Err(E::RebalanceInProgress)));
            }
        }
        let longest = self.members.values().map(|m| m.rebalance_timeout).max().unwrap_or_default();
        self.deadline = Some(now + longest);
        self.phase = Phase::Joining;
        self.complete_if_all_joined(now);
    }

    fn complete_if_all_joined(&mut self, now: Instant) {
        let all_in = self.promised.is_empty() && self.members.values().all(|m| m.joining.is_some());
        if self.phase == Phase::Joining && all_in && self.not_before.is_none_or(|at| now >= at) {
            self.complete(now);
        }
    }

    /// Ends the joining with those who came. Static members keep their place until their session ends.
    fn complete(&mut self, now: Instant) {
        self.members.retain(|_, member| member.joining.is_some() || member.instance_id.is_some());
        self.deadline = None;
        self.not_before = None;
        self.generation += 1;
        if self.members.is_empty() {
            self.phase = Phase::Empty;
            self.protocol.clear();
            self.leader.clear();
            return;
        }
        self.phase = Phase::Syncing;
        self.protocol = self.vote();
        let leads = self.members.get(&self.leader).is_some_and(|leader| leader.joining.is_some());
        if !leads {
            let first = self.members.iter().find(|(_, m)| m.joining.is_some()).or(self.members.iter().next());
            self.leader = first.map(|(id, _)| id.clone()).unwrap_or_default();
        }
        let ids: Vec<String> = self.members.keys().cloned().collect();
        for id in ids {
            let joined = self.joined(&id);
            if let Some(member) = self.members.get_mut(&id) {
                member.assignment = Bytes::new();
                if let Some(reply) = member.joining.take() {
                    member.last_seen = now;
                    drop(reply.send(Ok(joined)));
                }
            }
        }
    }

    /// The strategy that all support and most prefer.
    fn vote(&self) -> String {
        let shared = |name: &&String| self.members.values().all(|m| m.supports(name));
        let mut votes: BTreeMap<&String, usize> = BTreeMap::new();
        for member in self.members.values() {
            if let Some(favourite) = member.protocols.iter().map(|(name, _)| name).find(shared) {
                *votes.entry(favourite).or_default() += 1;
            }
        }
        votes.into_iter().max_by_key(|(_, count)| *count).map(|(name, _)| name.clone()).unwrap_or_default()
    }

    fn joined(&self, id: &str) -> Joined {
        let listed = |(id, m): (&String, &Member)| (id.clone(), m.instance_id.clone(), m.subscription(&self.protocol));
        let members = if id == self.leader { self.members.iter().map(listed).collect() } else { Vec::new() };
        Joined {
            generation: self.generation,
            protocol_type: self.protocol_type.clone(),
            protocol: self.protocol.clone(),
            leader: self.leader.clone(),
            member_id: id.to_owned(),
            members,
        }
    }

    /// Takes a sync; answers at once or when the leader has divided the work. Who is no member is told so before
    /// anything else: after a restart the group knows no protocol, and a wrong one would be the client's fault.
    pub(crate) fn sync(
        &mut self,
        claim: Claim<'_>,
        protocol: Protocol<'_>,
        work: Vec<(String, Bytes)>,
        reply: SyncReply,
        now: Instant,
    ) {
        if let Err(error) = self.check(claim, now).and_then(|()| self.check_protocol(protocol)) {
            drop(reply.send(Err(error)));
            return;
        }
        match self.phase {
            Phase::Empty => drop(reply.send(Err(E::UnknownMemberId))),
            Phase::Joining => drop(reply.send(Err(E::RebalanceInProgress))),
            Phase::Stable => drop(reply.send(Ok(self.synced(claim.member_id)))),
            Phase::Syncing => {
                if let Some(member) = self.members.get_mut(claim.member_id) {
                    member.syncing = Some(reply);
                }
                if self.leader == claim.member_id {
                    self.assign(work, now);
                }
            }
        }
    }

    fn check_protocol(&self, protocol: Protocol<'_>) -> Result<(), E> {
        let differs = protocol.kind.is_some_and(|kind| kind != self.protocol_type)
            || (protocol.name.is_some_and(|name| name != self.protocol) && self.phase != Phase::Joining);
        if differs { Err(E::InconsistentGroupProtocol) } else { Ok(()) }
    }

    fn assign(&mut self, work: Vec<(String, Bytes)>, now: Instant) {
        self.phase = Phase::Stable;
        for (id, assignment) in work {
            if let Some(member) = self.members.get_mut(&id) {
                member.assignment = assignment;
            }
        }
        let ids: Vec<String> = self.members.keys().cloned().collect();
        for id in ids {
            let synced = self.synced(&id);
            if let Some(member) = self.members.get_mut(&id)
                && let Some(reply) = member.syncing.take()
            {
                member.last_seen = now;
                drop(reply.send(Ok(synced)));
            }
        }
    }

    fn synced(&self, id: &str) -> Synced {
        let assignment = self.members.get(id).map(|m| m.assignment.clone()).unwrap_or_default();
        Synced { protocol_type: self.protocol_type.clone(), protocol: self.protocol.clone(), assignment }
    }

    /// Whether the claim is a member's of the current generation; if so it was seen alive.
    pub(crate) fn check(&mut self, claim: Claim<'_>, now: Instant) -> Result<(), E> {
        if let Some(holder) = claim.instance_id.and_then(|instance| self.holder_of(instance))
            && holder != claim.member_id
        {
            return Err(E::FencedInstanceId);
        }
        let generation = self.generation;
        let member = self.members.get_mut(claim.member_id).ok_or(E::UnknownMemberId)?;
        if claim.generation != generation {
            return Err(E::IllegalGeneration);
        }
        member.last_seen = now;
        Ok(())
    }

    /// A sign of life; the error tells the member to join again.
    pub(crate) fn heartbeat(&mut self, claim: Claim<'_>, now: Instant) -> Result<(), E> {
        self.check(claim, now)?;
        match self.phase {
            Phase::Joining => Err(E::RebalanceInProgress),
            Phase::Empty | Phase::Syncing | Phase::Stable => Ok(()),
        }
    }

    /// Whether offsets may be committed under this claim. Outsiders may while there are no members.
    pub(crate) fn check_claim(&mut self, claim: Claim<'_>, now: Instant) -> Result<(), E> {
        if claim.generation < 0 && self.phase == Phase::Empty {
            return Ok(());
        }
        self.check(claim, now)
    }

    /// As [`Self::check_claim`], for a member that can be told that the group is about to divide its work anew.
    pub(crate) fn check_commit(&mut self, claim: Claim<'_>, now: Instant) -> Result<(), E> {
        self.check_claim(claim, now)?;
        if self.phase == Phase::Syncing { Err(E::RebalanceInProgress) } else { Ok(()) }
    }

    /// Lets a member go, by its id or, for static members, by its instance alone.
    pub(crate) fn leave(&mut self, member_id: &str, instance_id: Option<&str>, now: Instant) -> Result<(), E> {
        let id = match instance_id {
            None if self.promised.remove(member_id).is_some() => {
                self.complete_if_all_joined(now);
                return Ok(());
            }
            None => member_id.to_owned(),
            Some(instance) => match self.holder_of(instance) {
                Some(holder) if member_id.is_empty() || holder == member_id => holder,
                Some(_) => return Err(E::FencedInstanceId),
                None => return Err(E::UnknownMemberId),
            },
        };
        if !self.members.contains_key(&id) {
            return Err(E::UnknownMemberId);
        }
        self.remove(&id, now);
        Ok(())
    }

    fn remove(&mut self, id: &str, now: Instant) {
        let Some(member) = self.members.remove(id) else { return };
        if let Some(reply) = member.joining {
            drop(reply.send(Err(JoinRefused { error: E::UnknownMemberId, member_id: id.to_owned() })));
        }
        if let Some(reply) = member.syncing {
            drop(reply.send(Err(E::UnknownMemberId)));
        }
        match self.phase {
            Phase::Stable | Phase::Syncing => self.rebalance(now),
            Phase::Joining => self.complete_if_all_joined(now),
            Phase::Empty => {}
        }
    }

    /// Lets time pass: silent members go, and a joining that took too long ends.
    pub(crate) fn tick(&mut self, now: Instant) {
        self.promised.retain(|_, until| now <= *until);
        let silent: Vec<String> =
            self.members.iter().filter(|(_, m)| m.is_expired(now)).map(|(id, _)| id.clone()).collect();
        for id in silent {
            tracing::debug!(member = id, "a group member was silent for too long");
            self.remove(&id, now);
        }
        self.complete_if_all_joined(now);
        if self.phase == Phase::Joining && self.deadline.is_some_and(|at| now >= at) {
            self.complete(now);
        }
    }

    /// Whether it has no members, nor any that may still come.
    pub(crate) fn is_idle(&self) -> bool {
        self.phase == Phase::Empty && self.promised.is_empty()
    }

    /// Whether nothing would be lost if it were forgotten.
    pub(crate) fn is_forgettable(&self) -> bool {
        self.is_idle() && self.offsets.is_empty()
    }
}
