//! All groups behind one lock, their journal, and the clock that moves them. Requests that must wait get a receiver and
//! wait outside the lock.

use std::collections::{BTreeMap, BTreeSet};
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
use super::member::{Claim, Join, JoinRefused, Joined, Protocol, Synced};
use super::offsets::{Batch, Committed, Offsets, Place};
use crate::clock;
use crate::embedded::broker::error::BrokerError;
use crate::embedded::broker::group_commit::Disk;
use crate::embedded::broker::journal::{self, Journal, JournalError, Ticket};
use crate::embedded::broker::log::batch::Outcome;

/// Fine enough for session timeouts, which are rarely below a second.
const TICK: Duration = Duration::from_millis(50);

/// How often groups that nobody uses any more are looked for.
const EXPIRY_SWEEP: Duration = Duration::from_secs(600);
/// A group without members whose offsets did not change for a week is forgotten, as by Apache's broker.
const FORGET_AFTER_MS: i64 = 7 * 24 * 3_600 * 1_000;
/// A group with members is noted as used this often, in case a crash ends both.
const NOTE_AFTER_MS: i64 = 24 * 3_600 * 1_000;
/// Offsets in one entry of a compact journal: far below its largest entry even if each has the longest metadata.
const OFFSETS_PER_ENTRY: usize = 1_000;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
enum Entry {
    Committed { group: String, offsets: Batch, at_ms: i64 },
    Held { group: String, producer_id: i64, offsets: Batch, at_ms: i64 },
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

#[derive(Default)]
struct Known {
    groups: BTreeMap<String, Group>,
    /// Those that have or may get members, which alone the passing of time concerns.
    active: BTreeSet<String>,
}

/// All groups of the broker.
pub(crate) struct Groups {
    known: Mutex<Known>,
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
    /// Restores what was committed for topics that exist: a crash may have come between the end of a topic and that of
    /// its offsets. Blocking.
    pub(crate) fn open(
        path: PathBuf,
        limits: GroupLimits,
        topic_exists: impl Fn(&str) -> bool,
        disk: Arc<dyn Disk>,
        tracker: TaskTracker,
    ) -> Result<Self, BrokerError> {
        let mut known = Known::default();
        for entry in journal::read(&path)? {
            known.apply(entry);
        }
        for group in known.groups.values_mut() {
            group.offsets.keep_topics(&topic_exists);
        }
        known.groups.retain(|_, group| !group.is_forgettable());
        let journal = Arc::new(Journal::start(path, &known.entries(), disk, tracker)?);
        Ok(Self { known: Mutex::new(known), journal, limits })
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        // A panic elsewhere leaves no half-made change: every change is one call on one group.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets time pass for all groups until the shutdown.
    pub(crate) async fn run(self: Arc<Self>, shutdown: CancellationToken) {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut sweeps = tokio::time::interval(EXPIRY_SWEEP);
        loop {
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return,
                _ = ticks.tick() => self.tick(),
                _ = sweeps.tick() => self.expire(clock::unix_ms()),
            }
        }
    }

    fn tick(&self) {
        let now = clock::monotonic();
        let mut known = self.lock();
        let Known { groups, active } = &mut *known;
        active.retain(|name| {
            let Some(group) = groups.get_mut(name) else { return false };
            group.tick(now);
            if group.is_forgettable() {
                groups.remove(name);
                return false;
            }
            !group.is_idle()
        });
    }

    /// Forgets the groups that nobody has used for long, and notes once a day which have members and so are used. A
    /// failure leaves the rest to the next time.
    fn expire(&self, now_ms: i64) {
        let mut known = self.lock();
        let mut due = Vec::new();
        for (name, group) in &known.groups {
            let unchanged_ms = now_ms - group.updated_ms;
            if !group.is_idle() && unchanged_ms > NOTE_AFTER_MS {
                due.push(Entry::Committed { group: name.clone(), offsets: Batch::new(), at_ms: now_ms });
            }
            if group.is_idle() && group.offsets.pending.is_empty() && unchanged_ms > FORGET_AFTER_MS {
                due.push(Entry::GroupDeleted { group: name.clone() });
            }
        }
        for entry in due {
            if let Err(error) = self.record(&mut known, entry) {
                tracing::warn!(%error, "could not forget groups that are not used; it is tried again");
                return;
            }
        }
    }

    /// Joins a group; the receiver gets the answer when the generation is complete.
    pub(crate) fn join(&self, group: &str, join: &Join) -> oneshot::Receiver<Result<Joined, JoinRefused>> {
        let (reply, answer) = oneshot::channel();
        let mut known = self.lock();
        known.active.insert(group.to_owned());
        let group = known.groups.entry(group.to_owned()).or_default();
        group.join(join, reply, clock::monotonic(), self.limits.initial_delay, self.limits.max_members);
        answer
    }

    /// Syncs with a group; the receiver gets the answer when the leader has divided the work.
    pub(crate) fn sync(
        &self,
        group: &str,
        claim: Claim<'_>,
        protocol: Protocol<'_>,
        work: Vec<(String, Bytes)>,
    ) -> oneshot::Receiver<Result<Synced, ResponseError>> {
        let (reply, answer) = oneshot::channel();
        match self.lock().groups.get_mut(group) {
            None => drop(reply.send(Err(ResponseError::UnknownMemberId))),
            Some(group) => group.sync(claim, protocol, work, reply, clock::monotonic()),
        }
        answer
    }

    pub(crate) fn heartbeat(&self, group: &str, claim: Claim<'_>) -> Result<(), ResponseError> {
        let mut known = self.lock();
        known.groups.get_mut(group).ok_or(ResponseError::UnknownMemberId)?.heartbeat(claim, clock::monotonic())
    }

    pub(crate) fn leave(&self, group: &str, member: &str, instance: Option<&str>) -> Result<(), ResponseError> {
        let mut known = self.lock();
        known.groups.get_mut(group).ok_or(ResponseError::UnknownMemberId)?.leave(member, instance, clock::monotonic())
    }

    /// Commits offsets; they are durable when this returns. `offsets` gives those that may be committed and is asked under
    /// the lock, so that neither a topic nor a transaction can end in between.
    pub(crate) async fn commit(
        &self,
        group: &str,
        claim: Claim<'_>,
        commit_as: CommitAs,
        offsets: impl FnOnce() -> Result<Batch, ResponseError>,
    ) -> Result<(), ResponseError> {
        let ticket = {
            let mut known = self.lock();
            let offsets = offsets()?;
            let is_outsider = claim.generation < 0 && claim.member_id.is_empty();
            match (known.groups.get_mut(group), commit_as) {
                // A transaction may come without a member, whatever members there are: its producer id fences it.
                (_, CommitAs::Transaction { .. }) if is_outsider => {}
                (Some(known), CommitAs::Member) => known.check_commit(claim, clock::monotonic())?,
                // Its client cannot be told to wait for a rebalance, and need not: the generation is right.
                (Some(known), CommitAs::Transaction { .. }) => known.check_claim(claim, clock::monotonic())?,
                (None, _) if claim.generation < 0 => {}
                (None, _) => return Err(ResponseError::IllegalGeneration),
            }
            if offsets.is_empty() {
                return Ok(());
            }
            let (group, at_ms) = (group.to_owned(), clock::unix_ms());
            let entry = match commit_as {
                CommitAs::Member => Entry::Committed { group, offsets, at_ms },
                CommitAs::Transaction { producer_id } => Entry::Held { group, producer_id, offsets, at_ms },
            };
            self.record(&mut known, entry)?
        };
        Ok(self.journal.durable(ticket).await?)
    }

    /// Applies or drops what a transaction held, in every group; durable when this returns. May be repeated.
    pub(crate) async fn end_transaction(&self, producer_id: i64, outcome: Outcome) -> Result<(), ResponseError> {
        let ticket = {
            let mut known = self.lock();
            if !known.groups.values().any(|group| group.offsets.pending.contains_key(&producer_id)) {
                return Ok(());
            }
            self.record(&mut known, Entry::Ended { producer_id, outcome })?
        };
        Ok(self.journal.durable(ticket).await?)
    }

    /// Forgets a deleted topic's offsets, so that a new topic of that name is read from its start.
    pub(crate) async fn forget_topic(&self, topic: &str) -> Result<(), ResponseError> {
        let ticket = {
            let mut known = self.lock();
            if !known.groups.values().any(|group| group.offsets.has_topic(topic)) {
                return Ok(());
            }
            self.record(&mut known, Entry::TopicDeleted { topic: topic.to_owned() })?
        };
        Ok(self.journal.durable(ticket).await?)
    }

    /// Deletes a group that has no members; durable when this returns.
    pub(crate) async fn delete(&self, group: &str) -> Result<(), ResponseError> {
        let ticket = {
            let mut known = self.lock();
            let found = known.groups.get(group).ok_or(ResponseError::GroupIdNotFound)?;
            if found.phase != Phase::Empty {
                return Err(ResponseError::NonEmptyGroup);
            }
            self.record(&mut known, Entry::GroupDeleted { group: group.to_owned() })?
        };
        Ok(self.journal.durable(ticket).await?)
    }

    fn record(&self, known: &mut Known, entry: Entry) -> Result<Ticket, JournalError> {
        let ticket = self.journal.append(&entry)?;
        known.apply(entry);
        if self.journal.wants_compaction() {
            self.journal.compact(&known.entries());
        }
        Ok(ticket)
    }

    /// Looks at one group, if it is known.
    pub(crate) fn look<T>(&self, group: &str, look: impl FnOnce(Option<&Group>) -> T) -> T {
        look(self.lock().groups.get(group))
    }

    /// Looks at all groups, by name.
    pub(crate) fn list<T>(&self, look: impl Fn(&str, &Group) -> T) -> Vec<T> {
        self.lock().groups.iter().map(|(name, group)| look(name, group)).collect()
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

impl Known {
    fn apply(&mut self, entry: Entry) {
        match entry {
            Entry::Committed { group, offsets, at_ms } => {
                let group = self.groups.entry(group).or_default();
                group.offsets.commit(offsets);
                group.updated_ms = at_ms;
            }
            Entry::Held { group, producer_id, offsets, at_ms } => {
                let group = self.groups.entry(group).or_default();
                group.offsets.hold(producer_id, offsets);
                group.updated_ms = at_ms;
            }
            Entry::Ended { producer_id, outcome } => {
                self.groups.values_mut().for_each(|group| group.offsets.end(producer_id, outcome));
            }
            Entry::TopicDeleted { topic } => {
                self.groups.values_mut().for_each(|group| group.offsets.keep_topics(|name| name != topic));
                self.groups.retain(|_, group| !group.is_forgettable());
            }
            Entry::GroupDeleted { group } => drop(self.groups.remove(&group)),
        }
    }

    /// The shortest journal that says what the groups hold.
    fn entries(&self) -> Vec<Entry> {
        let mut entries = Vec::new();
        for (name, known) in &self.groups {
            let at_ms = known.updated_ms;
            for offsets in in_parts(&known.offsets.committed) {
                entries.push(Entry::Committed { group: name.clone(), offsets, at_ms });
            }
            for (producer_id, held) in &known.offsets.pending {
                for offsets in in_parts(held) {
                    entries.push(Entry::Held { group: name.clone(), producer_id: *producer_id, offsets, at_ms });
                }
            }
        }
        entries
    }
}

fn in_parts(offsets: &BTreeMap<Place, Committed>) -> Vec<Batch> {
    let all: Batch = offsets.clone().into_iter().collect();
    all.chunks(OFFSETS_PER_ENTRY).map(<[_]>::to_vec).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::embedded::broker::group_commit::RealDisk;

    const OUTSIDER: Claim<'_> = Claim { member_id: "", instance_id: None, generation: -1 };

    fn open(path: &std::path::Path) -> Groups {
        let limits = GroupLimits { initial_delay: Duration::ZERO, max_members: 10 };
        let exists = |topic: &str| topic != "deleted";
        Groups::open(path.to_owned(), limits, exists, Arc::new(RealDisk), TaskTracker::new()).unwrap()
    }

    fn offset(topic: &str, index: i32, metadata: &str) -> (Place, Committed) {
        ((topic.to_owned(), index), Committed { offset: 7, leader_epoch: -1, metadata: metadata.to_owned() })
    }

    async fn commit(groups: &Groups, group: &str, offsets: Batch) -> Result<(), ResponseError> {
        groups.commit(group, OUTSIDER, CommitAs::Member, || Ok(offsets)).await
    }

    fn names(groups: &Groups) -> Vec<String> {
        groups.list(|name, _| name.to_owned())
    }

    #[tokio::test]
    async fn more_offsets_than_one_entry_takes_survive_a_restart_and_what_follows_them_too() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("groups");
        let groups = open(&path);
        // Six bytes each as JSON: three thousand at once are more than an entry may have, and are refused.
        let metadata = "\u{1}".repeat(4_096);
        let many: Batch = (0..3_000).map(|index| offset("t", index, &metadata)).collect();
        assert_eq!(commit(&groups, "a", many.clone()).await, Err(ResponseError::InvalidCommitOffsetSize));
        for part in many.chunks(500) {
            commit(&groups, "a", part.to_vec()).await.unwrap();
        }
        commit(&groups, "b", vec![offset("t", 0, "")]).await.unwrap();
        let committed = |groups: &Groups| groups.list(|_, group| group.offsets.committed.len());
        for _ in 0..2 {
            assert_eq!(committed(&open(&path)), [3_000, 1]);
        }
    }

    #[tokio::test]
    async fn offsets_of_topics_that_are_gone_are_forgotten_at_the_start() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("groups");
        let groups = open(&path);
        commit(&groups, "both", vec![offset("deleted", 0, ""), offset("t", 0, "")]).await.unwrap();
        commit(&groups, "one", vec![offset("deleted", 0, "")]).await.unwrap();
        let again = open(&path);
        assert_eq!(names(&again), ["both"]);
        again.look("both", |group| assert_eq!(group.unwrap().offsets.committed.len(), 1));
    }

    #[tokio::test]
    async fn a_group_that_nobody_used_for_a_week_is_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("groups");
        let groups = open(&path);
        commit(&groups, "g", vec![offset("t", 0, "")]).await.unwrap();
        let now_ms = clock::unix_ms();
        groups.expire(now_ms + FORGET_AFTER_MS - 60_000);
        assert_eq!(names(&groups), ["g"]);
        groups.expire(now_ms + FORGET_AFTER_MS + 60_000);
        assert_eq!(names(&groups), Vec::<String>::new());
        // A second group, to wait until the journal has the first one's end.
        commit(&groups, "other", vec![offset("t", 0, "")]).await.unwrap();
        assert_eq!(names(&open(&path)), ["other"]);
    }
    /// A member that was told its generation and has not brought its work: the group is between the two.
    fn syncing_member(groups: &Groups) -> Joined {
        let join = Join {
            member_id: String::new(),
            new_id: "m".to_owned(),
            instance_id: None,
            client_id: "c".to_owned(),
            client_host: "/h".to_owned(),
            session_timeout: Duration::from_secs(60),
            rebalance_timeout: Duration::from_secs(60),
            protocol_type: "consumer".to_owned(),
            protocols: vec![("range".to_owned(), Bytes::new())],
            needs_id_first: false,
        };
        groups.join("g", &join).try_recv().unwrap().unwrap()
    }

    #[tokio::test]
    async fn who_is_no_member_is_told_so_before_its_protocol_is_compared() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("groups");
        commit(&open(&path), "g", vec![offset("t", 0, "")]).await.unwrap();
        // After a restart the group has its offsets and nothing else.
        let groups = open(&path);
        let claim = Claim { member_id: "m", instance_id: None, generation: 1 };
        let sync = || {
            let protocol = Protocol { kind: Some("consumer"), name: Some("range") };
            groups.sync("g", claim, protocol, Vec::new()).try_recv().unwrap()
        };
        assert_eq!(sync(), Err(ResponseError::UnknownMemberId));
        syncing_member(&groups);
        let protocol = Protocol { kind: Some("connect"), name: None };
        let synced = groups.sync("g", claim, protocol, Vec::new()).try_recv().unwrap();
        assert_eq!(synced, Err(ResponseError::InconsistentGroupProtocol));
    }

    #[tokio::test]
    async fn a_transactions_offsets_do_not_wait_for_a_rebalance() {
        let dir = tempfile::tempdir().unwrap();
        let groups = open(&dir.path().join("groups"));
        let joined = syncing_member(&groups);
        let claim = Claim { member_id: "m", instance_id: None, generation: joined.generation };
        let commit = |claim, commit_as| groups.commit("g", claim, commit_as, || Ok(vec![offset("t", 0, "")]));
        assert_eq!(commit(claim, CommitAs::Member).await, Err(ResponseError::RebalanceInProgress));
        let transaction = CommitAs::Transaction { producer_id: 1 };
        assert_eq!(commit(claim, transaction).await, Ok(()));
        let old = Claim { generation: joined.generation - 1, ..claim };
        assert_eq!(commit(old, transaction).await, Err(ResponseError::IllegalGeneration));
    }
}
