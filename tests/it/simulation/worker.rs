//! A process that works on all runs, as `engine/worker` does: it has attempts in flight, writes what ended, renews its
//! leases, and looks for what others left.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use chrono::TimeDelta;
use pinsched::domain::Timestamp;
use pinsched::domain::ids::{RunKey, TaskRunKey};
use pinsched::domain::plan::Ending;
use pinsched::store::{EndedAttempt, Stepped, WorkerId};

use super::database::{Database, Flaw, delta};
use super::stepper::{Batch, Stepper, Stepping};

/// As in `engine/worker`, `engine/holding` and `engine/orphans`; the lease protocol itself is explored beside the engine.
const RENEWAL: Duration = Duration::from_secs(3);
const LOOK: Duration = Duration::from_secs(1);
const TRUST: Duration = Duration::from_secs(10);
const GRACE: Duration = Duration::from_secs(1);

/// How many attempts a process runs at once.
const SLOTS: usize = 3;

/// An attempt in flight.
#[derive(Debug, Clone)]
pub struct Live {
    pub fence: i64,
    pub defers_at: Option<Timestamp>,
    pub ends_at: Timestamp,
    pub ending: Ending,
    pub is_deferred: bool,
}

/// Whom an orphan belonged to, as a process remembers having seen it.
type Orphan = (TaskRunKey, i64, WorkerId, bool);

/// A process.
pub struct Process {
    pub id: WorkerId,
    /// Who it was before it lost the database.
    pub former: Vec<WorkerId>,
    /// How far its wall clock is from Postgres's.
    pub clock_offset: TimeDelta,
    pub is_alive: bool,
    pub hangs_until: Option<Timestamp>,
    pub is_draining: bool,
    pub stepper: Stepper,
    pub stepping: Option<Stepping>,
    pub live: BTreeMap<TaskRunKey, Live>,
    pub ended: BTreeMap<RunKey, Vec<EndedAttempt>>,
    pub sweep: BTreeSet<RunKey>,
    pub renewed_at: Timestamp,
    pub looked_at: Timestamp,
    wants_work: bool,
    wants_look: bool,
    orphans: BTreeMap<Orphan, Timestamp>,
}

impl Process {
    pub fn new(id: WorkerId, former: Vec<WorkerId>, now: Timestamp) -> Self {
        Self {
            id,
            former,
            clock_offset: TimeDelta::zero(),
            is_alive: true,
            hangs_until: None,
            is_draining: false,
            stepper: Stepper::default(),
            stepping: None,
            live: BTreeMap::new(),
            ended: BTreeMap::new(),
            sweep: BTreeSet::new(),
            renewed_at: now,
            looked_at: now,
            wants_work: true,
            wants_look: true,
            orphans: BTreeMap::new(),
        }
    }

    /// What its wall clock says.
    pub fn wall_clock(&self, db: &Database) -> Timestamp {
        db.clock + self.clock_offset
    }

    pub fn is_renewal_due(&self, now: Timestamp) -> bool {
        now - self.renewed_at >= delta(RENEWAL)
    }

    pub fn is_look_due(&self, now: Timestamp) -> bool {
        now - self.looked_at >= delta(LOOK)
    }

    /// Whether its attempts may not trust their leases any more.
    pub fn trusts_nothing(&self, now: Timestamp) -> bool {
        now - self.renewed_at >= delta(TRUST)
    }

    fn free(&self) -> usize {
        SLOTS.saturating_sub(self.live.values().filter(|live| !live.is_deferred).count())
    }

    /// Whether a step would do anything.
    pub fn has_something_to_do(&self) -> bool {
        !self.ended.is_empty() || !self.sweep.is_empty() || (self.wants_work && !self.is_draining && self.free() > 0)
    }

    /// Whether it is idle, and was told to end.
    pub fn is_drained(&self) -> bool {
        self.is_draining && self.live.is_empty() && self.ended.is_empty() && self.stepping.is_none()
    }

    pub fn begin_step(&mut self, db: &Database) {
        let runs: BTreeSet<RunKey> = self.ended.keys().chain(&self.sweep).copied().collect();
        let batch = |run: RunKey| Batch { run, ended: self.ended.get(&run).cloned().unwrap_or_default() };
        let batches = runs.into_iter().map(batch).collect();
        let slots = if self.wants_work && !self.is_draining { self.free() } else { 0 };
        self.stepping = Some(Stepping::new(batches, self.id, slots, self.wants_look, self.wall_clock(db)));
    }

    /// A step was answered. Gives the attempts that are to start.
    pub fn finish_step(&mut self, stepping: &Stepping, stepped: &Stepped) {
        for batch in &stepping.batches {
            if let Some(ended) = self.ended.get_mut(&batch.run) {
                ended.drain(..batch.ended.len().min(ended.len()));
                if ended.is_empty() {
                    self.ended.remove(&batch.run);
                }
            }
            if batch.ended.is_empty() {
                self.sweep.remove(&batch.run);
            }
        }
        let mut freed = false;
        for (run, ended) in stepping.batches.iter().flat_map(|batch| batch.ended.iter().map(|ended| (batch.run, ended)))
        {
            let live = self.live.get_mut(&TaskRunKey { run, task: ended.task });
            if let Some(live) = live.filter(|live| ended.ending == Ending::Deferred && live.fence == ended.fence) {
                live.is_deferred = true;
                freed = true;
            }
        }
        self.wants_work = freed || !stepped.claimed.is_empty();
        self.wants_look &= !stepping.claims_any();
    }

    /// A step failed, and nobody knows what of it was written: it is done again.
    pub fn lose_step(&mut self) {
        self.stepper = Stepper::default();
        self.stepping = None;
        (self.wants_work, self.wants_look) = (true, true);
    }

    /// Notes an attempt's end, or that it waits.
    pub fn end(&mut self, key: TaskRunKey, fence: i64, ending: Ending) {
        let waiting = self.ended.entry(key.run).or_default();
        waiting.retain(|earlier| (earlier.task, earlier.fence) != (key.task, fence));
        waiting.push(EndedAttempt { task: key.task, fence, ending, output: None, error: None });
        self.wants_work = true;
    }

    fn hand_back(&mut self, key: TaskRunKey, fence: i64, ending: Ending) {
        let mut waiting = self.ended.get(&key.run).into_iter().flatten();
        if !waiting.any(|ended| ended.task == key.task && ended.fence == fence) {
            self.end(key, fence, ending);
        }
    }

    pub fn renew(&mut self, db: &mut Database) {
        let held = db.renew(self.id);
        self.renewed_at = db.clock;
        self.live.retain(|key, live| held.contains(&(*key, live.fence)));
        for (key, fence) in held {
            let is_known = self.live.get(&key).is_some_and(|live| live.fence == fence);
            if !is_known && db.flaw != Some(Flaw::AnswersLostForGood) {
                self.hand_back(key, fence, Ending::Interrupted);
            }
        }
    }

    pub fn look_around(&mut self, db: &Database) {
        self.looked_at = db.clock;
        self.wants_work = true;
        self.wants_look |= db.flaw != Some(Flaw::QueueForgotten);
        let to_cancel = db.runs.iter().filter(|(_, run)| run.cancel_requested && !run.state.is_final());
        for run in to_cancel.map(|(run, _)| *run).collect::<Vec<_>>() {
            let stopped: Vec<(TaskRunKey, i64)> =
                self.live.iter().filter(|(key, _)| key.run == run).map(|(key, live)| (*key, live.fence)).collect();
            for (key, fence) in stopped {
                self.live.remove(&key);
                self.end(key, fence, Ending::Cancelled);
            }
            self.sweep.insert(run);
        }
        if db.flaw == Some(Flaw::OrphansLeft) {
            return;
        }
        let mut seen = db.orphans(&self.former);
        seen.retain(|(_, _, worker, _)| *worker != self.id);
        for (key, fence, ..) in &seen {
            if self.live.get(key).is_some_and(|live| live.fence != *fence) {
                self.live.remove(key);
            }
        }
        let (own, others): (Vec<Orphan>, Vec<Orphan>) =
            seen.into_iter().partition(|(_, _, worker, _)| self.former.contains(worker));
        for (key, fence, ..) in own {
            self.hand_back(key, fence, Ending::Interrupted);
        }
        self.orphans.retain(|orphan, _| others.contains(orphan));
        for orphan in others {
            let since = *self.orphans.entry(orphan).or_insert(db.clock);
            let (key, fence, _, expired) = orphan;
            if expired || db.clock - since >= delta(GRACE) {
                self.hand_back(key, fence, Ending::Lost);
            }
        }
    }

    /// Stops what it has in flight without a word, and keeps what had ended; a failure may be the database's.
    pub fn abandon(&mut self) -> BTreeMap<RunKey, Vec<EndedAttempt>> {
        self.live.clear();
        for ended in self.ended.values_mut().flatten() {
            if matches!(ended.ending, Ending::Failed { retryable: true, .. }) {
                ended.ending = Ending::Lost;
            }
        }
        std::mem::take(&mut self.ended)
    }
}
