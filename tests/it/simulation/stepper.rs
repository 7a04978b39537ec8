//! A worker's steps, as `store::Stepper` takes them, but one look at the database at a time: so that others come between
//! any two of them, and the worker may die there.

use std::collections::{BTreeMap, BTreeSet};

use pinsched::domain::Timestamp;
use pinsched::domain::ids::{RunKey, TaskIndex, TaskRunKey};
use pinsched::domain::plan::{self, Ending, Plan, PlanError, Snapshot, TaskSnapshot};
use pinsched::domain::task_state::TaskState;
use pinsched::domain::trigger_rule::UpstreamCounts;
use pinsched::store::{Claimed, EndedAttempt, Stepped, WorkerId};

use super::database::{ClaimedRow, Database, Flaw, PlannedRun, Queue, Wish, Written};

/// How often a plan may not fit, as in the store.
const REFUSALS: usize = 3;

/// A run at a version, as a worker knows it.
#[derive(Debug, Clone)]
struct Known {
    version: i64,
    snapshot: Snapshot,
    fences: BTreeMap<TaskIndex, i64>,
}

/// What happened in one run.
#[derive(Debug, Clone)]
pub struct Batch {
    pub run: RunKey,
    pub ended: Vec<EndedAttempt>,
}

/// What a worker knows from step to step.
pub struct Stepper {
    known: BTreeMap<RunKey, Known>,
    queue_waits: bool,
    limited_wait: bool,
}

impl Default for Stepper {
    fn default() -> Self {
        Self { known: BTreeMap::new(), queue_waits: true, limited_wait: false }
    }
}

/// A batch's plan, and what it was made of.
struct Planned {
    at: usize,
    known: Known,
    plan: Plan,
    held: Vec<EndedAttempt>,
    not_held: NotHeld,
}

#[derive(Default)]
struct NotHeld {
    stale: Vec<(TaskRunKey, i64)>,
    ended_before: Vec<TaskRunKey>,
}

enum Phase {
    /// A batch's run is to be read.
    Read { next: usize },
    /// Its tasks are to be read, and it is to be planned.
    LookUp { next: usize, known: Known, wanted: BTreeSet<TaskIndex>, is_old: bool },
    /// All are planned and are to be written.
    Write,
    /// They were written, and the answer is on its way.
    Answer { planned: Vec<Planned>, taken: BTreeSet<TaskRunKey>, written: Option<Written> },
    /// What has limits is to be claimed.
    Limited,
    /// It was, and the answer is on its way.
    LimitedAnswer { claims: Vec<ClaimedRow>, is_done: bool },
}

/// A step that is under way.
pub struct Stepping {
    pub batches: Vec<Batch>,
    worker: WorkerId,
    slots: usize,
    looks: bool,
    claims: bool,
    /// The places of the batches that are not written yet.
    left: Vec<usize>,
    planned: Vec<Planned>,
    refusals: usize,
    phase: Phase,
    stepped: Stepped,
    pub now: Timestamp,
}

/// How far a step is.
pub enum Progress {
    More,
    Done(Stepped),
    /// It gave up: others came between again and again.
    Refused,
}

impl Stepping {
    pub fn new(batches: Vec<Batch>, worker: WorkerId, slots: usize, looks: bool, now: Timestamp) -> Self {
        let left: Vec<usize> = (0..batches.len()).collect();
        let phase = if left.is_empty() { Phase::Write } else { Phase::Read { next: 0 } };
        let (planned, stepped) = (Vec::new(), Stepped::default());
        Self { batches, worker, slots, looks, claims: slots > 0, left, planned, refusals: 0, phase, stepped, now }
    }

    /// Whether its next look at the database writes.
    pub fn is_about_to_write(&self) -> bool {
        matches!(self.phase, Phase::Write | Phase::Limited)
    }

    /// Whether it has written and does not know it.
    pub fn awaits_answer(&self) -> bool {
        matches!(self.phase, Phase::Answer { .. } | Phase::LimitedAnswer { .. })
    }

    /// Whether it began as a wish for work.
    pub fn claims_any(&self) -> bool {
        self.slots > 0
    }

    fn slots_left(&self) -> usize {
        self.slots.saturating_sub(self.stepped.claimed.len())
    }

    /// Takes one look at the database, or at its answer.
    pub fn advance(&mut self, stepper: &mut Stepper, db: &mut Database) -> Progress {
        match std::mem::replace(&mut self.phase, Phase::Write) {
            Phase::Read { next } => self.read(stepper, db, next),
            Phase::LookUp { next, known, wanted, is_old } => {
                return self.look_up(stepper, db, next, known, (wanted, is_old));
            }
            Phase::Write => return self.write(stepper, db),
            Phase::Answer { planned, taken, written } => return self.answered(stepper, db, planned, &taken, written),
            Phase::Limited => {
                let (claims, is_done) = db.claim_limited(self.worker, self.slots_left(), self.now);
                self.phase = Phase::LimitedAnswer { claims, is_done };
            }
            Phase::LimitedAnswer { claims, is_done } => {
                stepper.queue_waits = !is_done;
                self.note_claims(stepper, &claims);
                return Progress::Done(self.finished());
            }
        }
        Progress::More
    }

    fn finished(&mut self) -> Stepped {
        let mut stepped = std::mem::take(&mut self.stepped);
        stepped.claimed.sort_by_key(|claimed| claimed.task_run);
        stepped
    }

    fn plan_anew(&mut self) {
        self.planned.clear();
        self.phase = if self.left.is_empty() { Phase::Write } else { Phase::Read { next: 0 } };
    }

    fn read(&mut self, stepper: &mut Stepper, db: &Database, next: usize) {
        let batch = &self.batches[self.left[next]];
        let row = &db.runs[&batch.run];
        let mut wanted: BTreeSet<TaskIndex> = batch.ended.iter().map(|ended| ended.task).collect();
        wanted.extend(batch.ended.iter().flat_map(|ended| row.dag.downstream(ended.task)));
        let known = stepper.known.remove(&batch.run);
        if let Some(known) = known.filter(|known| !known.snapshot.cancel_requested && !batch.ended.is_empty()) {
            wanted.retain(|index| !known.snapshot.tasks.contains_key(index));
            self.phase = Phase::LookUp { next, known, wanted, is_old: true };
            return;
        }
        if row.cancel_requested {
            wanted.extend(row.tasks.iter().filter(|(_, task)| !task.state.is_final()).map(|(index, _)| *index));
        }
        let snapshot = Snapshot {
            cancel_requested: row.cancel_requested,
            tasks_unfinished: row.tasks_unfinished,
            leaves_failed: row.leaves_failed,
            tasks: BTreeMap::new(),
        };
        let known = Known { version: row.version, snapshot, fences: BTreeMap::new() };
        self.phase = Phase::LookUp { next, known, wanted, is_old: false };
    }

    fn look_up(
        &mut self,
        stepper: &mut Stepper,
        db: &Database,
        next: usize,
        mut known: Known,
        (wanted, is_old): (BTreeSet<TaskIndex>, bool),
    ) -> Progress {
        let batch = &self.batches[self.left[next]];
        let run = &db.runs[&batch.run];
        for index in wanted {
            let Some(task) = run.tasks.get(&index) else { continue }; // it was cleared away
            known.snapshot.tasks.insert(index, task.snapshot());
            known.fences.insert(index, task.fence);
        }
        if is_old && !batch.ended.iter().all(|ended| known.holds(ended, db)) {
            self.phase = Phase::Read { next }; // it is not known any more: all of it is read
            return Progress::More;
        }
        let (held, others): (Vec<_>, Vec<_>) = batch.ended.iter().cloned().partition(|ended| known.holds(ended, db));
        let endings: Vec<(TaskIndex, Ending)> = held.iter().map(|ended| (ended.task, ended.ending.clone())).collect();
        match plan::plan(&run.dag, &known.snapshot, &endings, self.now) {
            Ok(plan) => {
                let mut not_held = NotHeld::default();
                for ended in others {
                    let key = TaskRunKey { run: batch.run, task: ended.task };
                    if known.fences.get(&ended.task) == Some(&ended.fence) {
                        not_held.ended_before.push(key);
                    } else {
                        not_held.stale.push((key, ended.fence));
                    }
                }
                if plan.moves.is_empty() {
                    note(&mut self.stepped, not_held);
                    stepper.known.insert(batch.run, known);
                } else {
                    self.planned.push(Planned { at: self.left[next], known, plan, held, not_held });
                }
                if next + 1 < self.left.len() {
                    self.phase = Phase::Read { next: next + 1 };
                } else {
                    self.left = self.planned.iter().map(|planned| planned.at).collect();
                    self.phase = Phase::Write;
                    if self.left.is_empty() && !self.claims {
                        return Progress::Done(self.finished());
                    }
                }
            }
            // As far as the store looks ahead: all that comes after.
            Err(PlanError::Needs(more)) => {
                let all: Vec<TaskIndex> = more.iter().copied().collect();
                let after = run.dag.descendants(&all);
                let unseen = after.into_iter().filter(|index| !known.snapshot.tasks.contains_key(index));
                let wanted = unseen.chain(more).collect();
                self.phase = Phase::LookUp { next, known, wanted, is_old: false };
            }
            // It was read at two versions.
            Err(PlanError::Illegal(_) | PlanError::UnknownTask(_)) => {
                self.refusals += 1;
                if self.refusals > REFUSALS {
                    return Progress::Refused;
                }
                self.plan_anew();
            }
        }
        Progress::More
    }

    fn write(&mut self, stepper: &mut Stepper, db: &mut Database) -> Progress {
        let planned = std::mem::take(&mut self.planned);
        if planned.is_empty() && !self.claims {
            return self.limited_or_done(stepper);
        }
        let (worker, slots) = (self.worker, self.slots_left());
        let queue = match stepper.limited_wait {
            true => Queue::Left,
            false if self.looks || stepper.queue_waits => Queue::Claimed,
            false => Queue::Unlooked,
        };
        let wish = self.claims.then_some(Wish { worker, slots, queue });
        let taken = if wish.is_some() { self.take(stepper, db, &planned, slots) } else { BTreeSet::new() };
        let runs: Vec<PlannedRun<'_>> = planned
            .iter()
            .map(|planned| PlannedRun {
                run: self.batches[planned.at].run,
                version: planned.known.version,
                plan: &planned.plan,
                held: &planned.held,
            })
            .collect();
        let written = db.write(&runs, &taken, wish, self.now);
        self.phase = Phase::Answer { planned, taken, written };
        Progress::More
    }

    /// What the plans release that is claimed in the same statement.
    fn take(&self, stepper: &Stepper, db: &Database, planned: &[Planned], slots: usize) -> BTreeSet<TaskRunKey> {
        if stepper.queue_waits {
            return BTreeSet::new();
        }
        let released = planned.iter().flat_map(|planned| self.ready(planned));
        let mut ready: Vec<(i32, TaskRunKey)> =
            released.filter(|key| !db.is_limited(*key)).map(|key| (-db.described(key).priority_weight, key)).collect();
        ready.sort_unstable();
        ready.into_iter().take(slots).map(|(_, key)| key).collect()
    }

    fn ready<'a>(&'a self, planned: &'a Planned) -> impl Iterator<Item = TaskRunKey> + 'a {
        let run = self.batches[planned.at].run;
        let ready = planned.plan.moves.iter().filter(|step| step.ready_at.is_some_and(|at| at <= self.now));
        ready.map(move |step| TaskRunKey { run, task: step.task })
    }

    fn answered(
        &mut self,
        stepper: &mut Stepper,
        db: &Database,
        planned: Vec<Planned>,
        taken: &BTreeSet<TaskRunKey>,
        written: Option<Written>,
    ) -> Progress {
        let Some(written) = written else {
            self.refusals += 1;
            if self.refusals > REFUSALS {
                return Progress::Refused;
            }
            self.plan_anew();
            return Progress::More;
        };
        let is_done = |planned: &Planned| written.runs.contains(&self.batches[planned.at].run);
        let (done, moved_on): (Vec<_>, Vec<_>) = planned.into_iter().partition(is_done);
        self.left = moved_on.iter().map(|planned| planned.at).collect();
        let queues = done.iter().any(|planned| self.leaves_some_queued(planned, taken));
        let expanded = |planned: &Planned| {
            let run = self.batches[planned.at].run;
            planned.plan.expansions.iter().map(move |(task, _)| TaskRunKey { run, task: *task }).collect::<Vec<_>>()
        };
        let limited = done.iter().flat_map(|planned| self.ready(planned)).any(|key| db.is_limited(key))
            || done.iter().flat_map(expanded).any(|key| db.is_limited(key));
        for planned in done {
            let run = self.batches[planned.at].run;
            note(&mut self.stepped, planned.not_held);
            self.stepped.moves.extend(planned.plan.moves.iter().map(|step| (run, *step)));
            match planned.plan.concluded {
                Some(state) => self.stepped.concluded.push((run, state)),
                None => {
                    let mut known = planned.known;
                    known.follow(&planned.plan);
                    for (map_of, expansion) in &planned.plan.expansions {
                        let first = written.instances[&(run, *map_of)];
                        known.learn_instances(*map_of, first, expansion.count());
                    }
                    stepper.known.insert(run, known);
                }
            }
        }
        if self.claims {
            let is_full = written.claims.len() >= self.slots_left();
            self.note_claims(stepper, &written.claims);
            stepper.queue_waits = is_full || queues || written.contended;
            let was_left = std::mem::replace(&mut stepper.limited_wait, limited || written.limited);
            let may_find = !stepper.limited_wait && (was_left || queues || written.contended);
            self.claims = !is_full && (may_find || !self.left.is_empty());
        } else {
            stepper.queue_waits |= queues;
            stepper.limited_wait |= limited;
        }
        if !self.claims && self.left.is_empty() {
            return self.limited_or_done(stepper);
        }
        self.plan_anew();
        Progress::More
    }

    fn limited_or_done(&mut self, stepper: &mut Stepper) -> Progress {
        if self.slots == 0 || !stepper.limited_wait {
            return Progress::Done(self.finished());
        }
        self.phase = Phase::Limited;
        Progress::More
    }

    fn leaves_some_queued(&self, planned: &Planned, taken: &BTreeSet<TaskRunKey>) -> bool {
        let is_queued = |state| matches!(state, TaskState::Queued | TaskState::UpForRetry);
        let mut counted = planned.plan.counts.keys().filter_map(|index| planned.known.snapshot.tasks.get(index));
        let expands = !planned.plan.expansions.is_empty();
        expands || counted.any(|task| is_queued(task.state)) || self.ready(planned).any(|key| !taken.contains(&key))
    }

    fn note_claims(&mut self, stepper: &mut Stepper, claims: &[ClaimedRow]) {
        for row in claims {
            let TaskRunKey { run, task } = row.task_run;
            if let Some(known) = stepper.known.get_mut(&run)
                && (self.batches.iter().any(|batch| batch.run == run) || known.snapshot.tasks.contains_key(&task))
            {
                known.fences.insert(task, row.fence);
                known.snapshot.tasks.insert(task, row.task);
            }
            let try_number = row.task.try_number;
            let claimed = Claimed { task_run: row.task_run, fence: row.fence, try_number, clears: row.clears };
            self.stepped.claimed.push(claimed);
        }
    }
}

fn note(stepped: &mut Stepped, not_held: NotHeld) {
    stepped.stale.extend(not_held.stale);
    stepped.ended_before.extend(not_held.ended_before);
}

impl Known {
    fn holds(&self, ended: &EndedAttempt, db: &Database) -> bool {
        let is_own = self.fences.get(&ended.task) == Some(&ended.fence) || db.flaw == Some(Flaw::FenceNotChecked);
        is_own && self.snapshot.tasks.get(&ended.task).is_some_and(|task| task.state.is_held())
    }

    fn learn_instances(&mut self, map_of: TaskIndex, first: TaskIndex, count: u32) {
        let (state, upstream, map_of) = (TaskState::Queued, UpstreamCounts::default(), Some(map_of));
        let task = TaskSnapshot { state, upstream, try_number: 1, first_try: 1, lost: 0, map_of };
        for index in (first.0..first.0 + count).map(TaskIndex) {
            self.snapshot.tasks.insert(index, task);
            self.fences.insert(index, 0);
        }
    }

    fn follow(&mut self, plan: &Plan) {
        self.version += 1;
        let unfinished = self.snapshot.tasks_unfinished + plan.added();
        self.snapshot.tasks_unfinished = unfinished.saturating_sub(plan.finished);
        self.snapshot.leaves_failed += plan.leaves_failed;
        for (index, counts) in &plan.counts {
            if let Some(task) = self.snapshot.tasks.get_mut(index) {
                task.upstream = *counts;
            }
        }
        for step in &plan.moves {
            if let Some(task) = self.snapshot.tasks.get_mut(&step.task) {
                (task.state, task.try_number, task.lost) = (step.to, step.try_number, step.lost);
            }
        }
    }
}

/// Steps without anybody between: for comparison with the store's.
pub fn step_alone(stepper: &mut Stepper, db: &mut Database, mut stepping: Stepping) -> Stepped {
    loop {
        match stepping.advance(stepper, db) {
            Progress::More => {}
            Progress::Done(stepped) => return stepped,
            Progress::Refused => panic!("nobody came between, and the step was refused"),
        }
    }
}
