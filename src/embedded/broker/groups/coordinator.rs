//! All groups behind one lock, their journal, and the clock that moves them. Requests that must wait get a receiver and
//! wait outside the lock.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use kafka_protocol::ResponseError;
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::group::{Group, Phase};
use super::member::{Claim, Join, JoinRefused, Joined, Synced};
use super::offsets::{Batch, Committed, Offsets, Place};
use crate::clock;
use crate::embedded::broker::error::BrokerError;
use crate::embedded::broker::journal::{self, Journal, JournalFailed, Ticket};
use crate::embedded::broker::log::batch::Outcome;

/// Fine enough for session timeouts, which are rarely below a second.
const TICK: Duration = Duration::from_millis(50);

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
enum Entry {
    Committed { group: String, offsets: Batch },
    Held { group: String, producer_id: i64, offsets: Batch },
    Ended { producer_id: i64, outcome: Outcome },
    TopicDeleted { topic: String },
    GroupDeleted { group: String },
}

/// Limits on groups.
#[derive(Debug, Clone, Copy)]
pub(crate) struct GroupLimits {
    pub(crate) initial_delay: Duration,
    pub(crate) max_members: usize,
}

/// All groups of the broker.
pub(crate) struct Groups {
    groups: Mutex<BTreeMap<String, Group>>,
    journal: Arc<Journal>,
    limits: GroupLimits,
}

/// Whose offsets a commit is: the member's alone, or a transaction's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CommitAs {
    /// They count at once.
    Member,
    /// They count when this producer's transaction commits.
    Transaction { producer_id: i64 },
}

impl Groups {
    /// Restores what was committed. Blocking.
    pub(crate) fn open(path: PathBuf, limits: GroupLimits, tracker: TaskTracker) -> Result<Self, BrokerError> {
        let mut groups = BTreeMap::new();
        for entry in journal::read(&path)? {
            apply(&mut groups, entry);
        }
        groups.retain(|_, group| !group.is_forgettable());
        let journal = Arc::new(Journal::start(path, &entries(&groups), tracker)?);
        Ok(Self { groups: Mutex::new(groups), journal, limits })
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Group>> {
        // A panic elsewhere leaves no half-made change: every change is one call on one group.
        self.groups.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets time pass for all groups until the shutdown.
    pub(crate) async fn run(self: Arc<Self>, shutdown: CancellationToken) {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return,
                _ = ticks.tick() => {
                    let now = clock::monotonic();
                    self.lock().retain(|_, group| {
                        group.tick(now);
                        !group.is_forgettable()
                    });
                }
            }
        }
    }

    /// Joins a group; the receiver gets the answer when the generation is complete.
    pub(crate) fn join(&self, group: &str, join: &Join) -> oneshot::Receiver<Result<Joined, JoinRefused>> {
        let (reply, answer) = oneshot::channel();
        let mut groups = self.lock();
        let group = groups.entry(group.to_owned()).or_default();
        group.join(join, reply, clock::monotonic(), self.limits.initial_delay, self.limits.max_members);
        answer
    }

    /// Syncs with a group; the receiver gets the answer when the leader has divided the work.
    pub(crate) fn sync(
        &self,
        group: &str,
        claim: Claim<'_>,
        protocol: (Option<&str>, Option<&str>),
        work: Vec<(String, Bytes)>,
    ) -> oneshot::Receiver<Result<Synced, ResponseError>> {
        let (reply, answer) = oneshot::channel();
        let mut groups = self.lock();
        match groups.get_mut(group) {
            None => drop(reply.send(Err(ResponseError::UnknownMemberId))),
            Some(group) => {
                let (kind, name) = protocol;
                let differs = kind.is_some_and(|kind| kind != group.protocol_type)
                    || (name.is_some_and(|name| name != group.protocol) && group.phase != Phase::Joining);
                if differs {
                    drop(reply.send(Err(ResponseError::InconsistentGroupProtocol)));
                } else {
                    group.sync(claim, work, reply, clock::monotonic());
                }
            }
        }
        answer
    }

    pub(crate) fn heartbeat(&self, group: &str, claim: Claim<'_>) -> Result<(), ResponseError> {
        let mut groups = self.lock();
        groups.get_mut(group).ok_or(ResponseError::UnknownMemberId)?.heartbeat(claim, clock::monotonic())
    }

    pub(crate) fn leave(&self, group: &str, member: &str, instance: Option<&str>) -> Result<(), ResponseError> {
        let mut groups = self.lock();
        groups.get_mut(group).ok_or(ResponseError::UnknownMemberId)?.leave(member, instance, clock::monotonic())
    }

    /// Commits offsets; they are durable when this returns. `admit` is asked under the lock, so that a transaction
    /// cannot end in between.
    pub(crate) async fn commit(
        &self,
        group: &str,
        claim: Claim<'_>,
        commit_as: CommitAs,
        offsets: Batch,
        admit: impl FnOnce() -> Result<(), ResponseError>,
    ) -> Result<(), ResponseError> {
        let ticket = {
            let mut groups = self.lock();
            admit()?;
            let is_outsider = claim.generation < 0 && claim.member_id.is_empty();
            match groups.get_mut(group) {
                // A transaction may come without a member, whatever members there are: its producer id fences it.
                _ if is_outsider && commit_as != CommitAs::Member => {}
                Some(known) => known.check_commit(claim, clock::monotonic())?,
                None if claim.generation < 0 => {}
                None => return Err(ResponseError::IllegalGeneration),
            }
            let entry = match commit_as {
                CommitAs::Member => Entry::Committed { group: group.to_owned(), offsets },
                CommitAs::Transaction { producer_id } => Entry::Held { group: group.to_owned(), producer_id, offsets },
            };
            self.record(&mut groups, entry)?
        };
        Ok(self.journal.durable(ticket).await?)
    }

    /// Applies or drops what a transaction held, in every group; durable when this returns. May be repeated.
    pub(crate) async fn end_transaction(&self, producer_id: i64, outcome: Outcome) -> Result<(), ResponseError> {
        let ticket = {
            let mut groups = self.lock();
            if !groups.values().any(|group| group.offsets.pending.contains_key(&producer_id)) {
                return Ok(());
            }
            self.record(&mut groups, Entry::Ended { producer_id, outcome })?
        };
        Ok(self.journal.durable(ticket).await?)
    }

    /// Forgets a deleted topic's offsets, so that a new topic of that name is read from its start.
    pub(crate) async fn forget_topic(&self, topic: &str) -> Result<(), ResponseError> {
        let ticket = {
            let mut groups = self.lock();
            let has = |group: &Group| group.offsets.clone().forget_topic(topic);
            if !groups.values().any(has) {
                return Ok(());
            }
            self.record(&mut groups, Entry::TopicDeleted { topic: topic.to_owned() })?
        };
        Ok(self.journal.durable(ticket).await?)
    }

    /// Deletes a group that has no members; durable when this returns.
    pub(crate) async fn delete(&self, group: &str) -> Result<(), ResponseError> {
        let ticket = {
            let mut groups = self.lock();
            let known = groups.get(group).ok_or(ResponseError::GroupIdNotFound)?;
            if known.phase != Phase::Empty {
                return Err(ResponseError::NonEmptyGroup);
            }
            self.record(&mut groups, Entry::GroupDeleted { group: group.to_owned() })?
        };
        Ok(self.journal.durable(ticket).await?)
    }

    fn record(&self, groups: &mut BTreeMap<String, Group>, entry: Entry) -> Result<Ticket, JournalFailed> {
        let ticket = self.journal.append(&entry)?;
        apply(groups, entry);
        if self.journal.wants_compaction() {
            self.journal.compact(&entries(groups))?;
        }
        Ok(ticket)
    }

    /// Looks at one group, if it is known.
    pub(crate) fn look<T>(&self, group: &str, look: impl FnOnce(Option<&Group>) -> T) -> T {
        look(self.lock().get(group))
    }

    /// Looks at all groups, by name.
    pub(crate) fn list<T>(&self, look: impl Fn(&str, &Group) -> T) -> Vec<T> {
        self.lock().iter().map(|(name, group)| look(name, group)).collect()
    }

    /// What a group has committed for one place, or that it must not be told yet.
    pub(crate) fn committed(
        offsets: &Offsets,
        place: &Place,
        require_stable: bool,
    ) -> Result<Option<Committed>, ResponseError> {
        if require_stable && offsets.is_unstable(place) {
            return Err(ResponseError::UnstableOffsetCommit);
        }
        Ok(offsets.committed.get(place).cloned())
    }
}

fn apply(groups: &mut BTreeMap<String, Group>, entry: Entry) {
    match entry {
        Entry::Committed { group, offsets } => groups.entry(group).or_default().offsets.commit(offsets),
        Entry::Held { group, producer_id, offsets } => {
            groups.entry(group).or_default().offsets.hold(producer_id, offsets);
        }
        Entry::Ended { producer_id, outcome } => {
            groups.values_mut().for_each(|group| group.offsets.end(producer_id, outcome));
        }
        Entry::TopicDeleted { topic } => {
            for group in groups.values_mut() {
                group.offsets.forget_topic(&topic);
            }
        }
        Entry::GroupDeleted { group } => drop(groups.remove(&group)),
    }
}

/// The shortest journal that says what the groups hold.
fn entries(groups: &BTreeMap<String, Group>) -> Vec<Entry> {
    let mut entries = Vec::new();
    let listed = |offsets: &BTreeMap<Place, Committed>| offsets.clone().into_iter().collect::<Batch>();
    for (group, known) in groups {
        if !known.offsets.committed.is_empty() {
            entries.push(Entry::Committed { group: group.clone(), offsets: listed(&known.offsets.committed) });
        }
        for (producer_id, held) in &known.offsets.pending {
            entries.push(Entry::Held { group: group.clone(), producer_id: *producer_id, offsets: listed(held) });
        }
    }
    entries
}
