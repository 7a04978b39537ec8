//! The step of the engine: completions are written, successors released, runs concluded, and ready tasks claimed, in one
//! statement as a rule. What the plan says is decided in `domain::plan`; here it is applied.
//!
//! A plan is made of what the stepper knows, without a lock, and holds for one version of its run: where somebody else
//! moved the run on meanwhile nothing is written of it, and it is planned anew. So a step of a run that is known costs one
//! round trip and one commit.
//!
//! Locks are taken in this order by everybody: runs by id, then their tasks, then claims, which wait for nothing. Killed
//! at any point a run's batch is written whole or not at all.

mod expanding;
mod known;
mod writing;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use sqlx::pool::PoolConnection;
use sqlx::{Connection, PgConnection, Postgres};

use crate::domain::Timestamp;
use crate::domain::dag::Dag;
use crate::domain::ids::{RunKey, TaskIndex, TaskRunKey};
use crate::domain::plan::{self, Ending, Move, Plan, PlanError};
use crate::domain::run_state::RunState;
use crate::domain::task_output::TaskOutput;
use crate::domain::task_state::TaskState;
use crate::store::steps::known::{KnownRun, TaskRow};
use crate::store::steps::writing::{Queue, Writing};
use crate::store::{LEASE, Store, StoreError, WorkerId};

/// How far beyond the tasks that are asked for is looked at once, for the steps to come; twice as far with each further
/// question of a plan, so that a skip that runs through the whole DAG asks some eight times.
const LOOK_AHEAD: usize = 64;

/// How often a plan may not fit what it was just made of: a claim may come between, and not much more.
const REFUSALS: usize = 3;

/// The first key of the advisory lock of claims with limits: `pinl` in ASCII.
const LIMITS_LOCK_CLASS: i32 = 0x7069_6e6c;

/// An attempt that ended.
#[derive(Debug, Clone)]
pub struct EndedAttempt {
    /// The task.
    pub task: TaskIndex,
    /// The attempt's fence: without it the end is not written.
    pub fence: i64,
    /// How it ended.
    pub ending: Ending,
    /// What it leaves, on success.
    pub output: Option<TaskOutput>,
    /// Why it failed.
    pub error: Option<String>,
}

/// What happened in one run. With no ended attempt it still sweeps a run whose cancellation was asked for.
pub struct RunBatch<'a> {
    /// The run.
    pub run: RunKey,
    /// Its DAG.
    pub dag: &'a Dag,
    /// The attempts that ended.
    pub ended: Vec<EndedAttempt>,
}

/// A wish for work.
pub struct Claim {
    /// Who claims.
    pub worker: WorkerId,
    /// At most so many.
    pub slots: u32,
    /// Of which runs.
    pub of: ClaimOf,
    /// Whether tasks may have come to the queue that no step of this stepper's told of. Without it the queue is looked at
    /// only where tasks were left in it.
    pub looks: bool,
}

/// Whose tasks are claimed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClaimOf {
    /// Those of the one run that this process drives.
    Run(RunKey),
    /// Those of all runs that no process drives as its own, of DAGs that are not paused.
    AnyUnowned,
}

/// A step: what happened, and what is wished for.
#[derive(Default)]
pub struct Step<'a> {
    /// What happened, by run, a run at most once.
    pub batches: Vec<RunBatch<'a>>,
    /// What is wished for.
    pub claim: Option<Claim>,
}

/// A task that the worker now holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claimed {
    /// The task run.
    pub task_run: TaskRunKey,
    /// The new fence.
    pub fence: i64,
    /// The try.
    pub try_number: i32,
    /// How often tasks of its run were cleared, where the claim saw the run: what was left before that may be void.
    pub clears: Option<i32>,
}

/// What a step did.
#[derive(Debug, Default)]
pub struct Stepped {
    /// Attempts to start.
    pub claimed: Vec<Claimed>,
    /// Every step of a task, claims aside.
    pub moves: Vec<(RunKey, Move)>,
    /// Runs that ended.
    pub concluded: Vec<(RunKey, RunState)>,
    /// Ends that were not written, because the attempt had lost its task before.
    pub stale: Vec<(TaskRunKey, i64)>,
    /// Ends of attempts that had ended before: by an earlier step whose answer was lost, or by who took them for dead.
    pub ended_before: Vec<TaskRunKey>,
}

/// Takes steps for one worker: on a connection of its own, whose statements stay prepared, with what it knows of its runs.
#[derive(Debug)]
pub struct Stepper {
    store: Store,
    connection: Option<PoolConnection<Postgres>>,
    known: BTreeMap<RunKey, KnownRun>,
    /// Whether ready tasks may wait in the queue: then what a step releases queues behind them.
    queue_waits: bool,
    /// Whether tasks with limits of their own are among them: then all are claimed by one statement that counts.
    limited_wait: bool,
}

/// A batch's plan, and what it was made of.
struct Planned<'a> {
    batch: &'a RunBatch<'a>,
    known: KnownRun,
    plan: Plan,
    held: Vec<&'a EndedAttempt>,
    not_held: NotHeld,
    /// Why mapped tasks end by this plan that fail by their instances.
    instance_failures: BTreeMap<TaskIndex, String>,
    /// The first indexes of the instances that mapped tasks have by it, once it is written.
    instances: Vec<(TaskIndex, TaskIndex)>,
}

/// Ends that are not to be written, as in [`Stepped`].
#[derive(Default)]
struct NotHeld {
    stale: Vec<(TaskRunKey, i64)>,
    ended_before: Vec<TaskRunKey>,
}

/// The tasks that a batch is about, and those that its ends may release.
fn wanted(batch: &RunBatch<'_>) -> BTreeSet<TaskIndex> {
    let after = batch.ended.iter().flat_map(|ended| batch.dag.downstream(ended.task));
    batch.ended.iter().map(|ended| ended.task).chain(after).collect()
}

impl Store {
    /// A stepper that knows nothing yet. From its first step on it holds a connection of the pool.
    #[must_use]
    pub fn stepper(&self) -> Stepper {
        Stepper {
            store: self.clone(),
            connection: None,
            known: BTreeMap::new(),
            queue_waits: true,
            limited_wait: false,
        }
    }
}

impl Stepper {
    /// Forgets a run: nothing of it is in this worker's hands any more.
    pub fn forget(&mut self, run: RunKey) {
        self.known.remove(&run);
    }

    /// Does a step: when it returns what is reported is durable. A run's batch is written whole or not at all; what the
    /// step releases it also claims, while slots are left.
    ///
    /// An end whose fence is not the task's any more is left out and reported as stale.
    ///
    /// # Errors
    /// [`StoreError::Inconsistent`] or [`StoreError::Moved`] when the database contradicts the plan. Of what is not
    /// reported all, some or nothing may be written: a step that is done again finds out.
    pub async fn step(&mut self, step: &Step<'_>, now: Timestamp) -> Result<Stepped, StoreError> {
        // A step that fails, or is dropped on the way, takes connection and knowledge along: the next one looks anew.
        let store = self.store.clone();
        let mut stepper = std::mem::replace(self, store.stepper());
        let mut connection = match stepper.connection.take() {
            Some(connection) => connection,
            None => store.pool.acquire().await.map_err(StoreError::query("write a step of the engine"))?,
        };
        let stepped = stepper.step_on(&mut connection, step, now).await?;
        *self = Self { connection: Some(connection), ..stepper };
        Ok(stepped)
    }

    async fn step_on(
        &mut self,
        connection: &mut PgConnection,
        step: &Step<'_>,
        now: Timestamp,
    ) -> Result<Stepped, StoreError> {
        let mut stepped = Stepped::default();
        let mut batches: Vec<&RunBatch<'_>> = step.batches.iter().collect();
        let mut claims = step.claim.is_some();
        let mut refusals = 0;
        while claims || !batches.is_empty() {
            let mut planned = match self.plan_all(connection, &mut batches, now, &mut stepped).await {
                Err(StoreError::Inconsistent { .. }) if refusals < REFUSALS => {
                    refusals += 1; // it may have been planned of two versions
                    continue;
                }
                planned => planned?,
            };
            if planned.is_empty() && !claims {
                break;
            }
            let claim = step.claim.as_ref().filter(|_| claims).map(|claim| claim.but(stepped.claimed.len()));
            let taken = claim.as_ref().map(|claim| self.take(claim, &planned, now)).unwrap_or_default();
            let queue = match &claim {
                Some(_) if self.limited_wait => Queue::Left,
                Some(claim) if claim.looks || self.queue_waits => Queue::Claimed,
                Some(_) | None => Queue::Unlooked,
            };
            let writing = Writing::of(&planned, &taken, claim.as_ref(), queue, now);
            let written = match expanding::write(connection, &writing, &mut planned, now).await {
                Ok(Some(written)) => written,
                Ok(None) => {
                    refusals += 1; // a claim came between
                    match planned.first() {
                        Some(planned) if refusals > REFUSALS => {
                            return Err(StoreError::Moved { run: planned.batch.run });
                        }
                        _ => continue,
                    }
                }
                // What was written before is to be reported; the next step finds the same error.
                Err(_) if batches.is_empty() && !stepped.moves.is_empty() => break,
                Err(error) => return Err(error),
            };
            let (done, moved_on): (Vec<_>, Vec<_>) =
                planned.into_iter().partition(|planned| written.runs.contains(&planned.batch.run));
            batches = moved_on.into_iter().map(|planned| planned.batch).collect();
            let queues = done.iter().any(|planned| planned.leaves_some_queued(&taken, now));
            let limited = done.iter().any(|planned| planned.releases_limited(now));
            for planned in done {
                self.follow(planned, &mut stepped);
            }
            claims = match claim {
                Some(claim) => {
                    let is_full = usize::try_from(claim.slots).is_ok_and(|slots| written.claims.len() >= slots);
                    self.note_claims(&written.claims, step, &mut stepped)?;
                    self.queue_waits = is_full || queues || written.contended;
                    let was_left = self.limited_wait;
                    self.limited_wait = limited || written.limited;
                    let may_find = !self.limited_wait && (was_left || queues || written.contended);
                    !is_full && (may_find || !batches.is_empty())
                }
                None => {
                    self.queue_waits |= queues;
                    self.limited_wait |= limited;
                    false
                }
            };
        }
        if let Some(claim) = step.claim.as_ref().filter(|_| self.limited_wait) {
            self.claim_limited(connection, &claim.but(stepped.claimed.len()), step, now, &mut stepped).await?;
        }
        stepped.claimed.sort_by_key(|claimed| claimed.task_run);
        Ok(stepped)
    }

    /// Claims from the queue under the limits of pools, DAGs and tasks, until slots or tasks run out.
    async fn claim_limited(
        &mut self,
        connection: &mut PgConnection,
        claim: &Claim,
        step: &Step<'_>,
        now: Timestamp,
        stepped: &mut Stepped,
    ) -> Result<(), StoreError> {
        if claim.slots == 0 {
            return Ok(()); // what waits goes on waiting: nothing is known of it that was not before
        }
        let mut claims: Vec<TaskRow> = Vec::new();
        let mut slots = i64::from(claim.slots);
        let mut is_done = false;
        let failed = StoreError::query("claim tasks with limits");
        let mut transaction = connection.begin().await.map_err(&failed)?;
        // One such claim at a time: what a second one counts as free, the first would be about to take.
        sqlx::query!("SELECT pg_advisory_xact_lock($1, 0)", LIMITS_LOCK_CLASS)
            .execute(&mut *transaction)
            .await
            .map_err(&failed)?;
        while slots > 0 && !is_done {
            let rows = sqlx::query_file_as!(
                TaskRow,
                "src/store/sql/claim_limited.sql",
                claim.worker.0,
                LEASE.as_secs_f64(),
                claim.of.run().map(|run| run.0),
                now,
                slots
            )
            .fetch_all(&mut *transaction)
            .await
            .map_err(&failed)?;
            slots -= i64::try_from(rows.len()).unwrap_or(slots);
            is_done = rows.is_empty();
            claims.extend(rows);
        }
        transaction.commit().await.map_err(&failed)?;
        self.queue_waits = !is_done; // what is left is kept back by limits, or was being claimed by others
        self.note_claims(&claims, step, stepped)
    }

    /// Plans what is to be written; what is not is noted at once, and its batch taken away.
    async fn plan_all<'a>(
        &mut self,
        connection: &mut PgConnection,
        batches: &mut Vec<&'a RunBatch<'a>>,
        now: Timestamp,
        stepped: &mut Stepped,
    ) -> Result<Vec<Planned<'a>>, StoreError> {
        self.get_to_know(connection, batches).await?;
        let mut all = Vec::new();
        for batch in batches.iter() {
            let Some(planned) = self.plan(connection, batch, now).await? else {
                continue; // the run was deleted under us: nothing is left to write
            };
            if planned.plan.moves.is_empty() {
                stepped.note(planned.not_held);
                self.known.insert(batch.run, planned.known);
            } else {
                all.push(planned);
            }
        }
        *batches = all.iter().map(|planned| planned.batch).collect();
        Ok(all)
    }

    async fn plan<'a>(
        &mut self,
        connection: &mut PgConnection,
        batch: &'a RunBatch<'a>,
        now: Timestamp,
    ) -> Result<Option<Planned<'a>>, StoreError> {
        let Some(mut known) = self.know(connection, batch).await? else { return Ok(None) };
        let (held, others): (Vec<_>, Vec<_>) = batch.ended.iter().partition(|ended| known.holds(ended));
        let mut not_held = NotHeld::default();
        for ended in others {
            let key = TaskRunKey { run: batch.run, task: ended.task };
            if known.fences.get(&ended.task) == Some(&ended.fence) {
                not_held.ended_before.push(key);
            } else {
                not_held.stale.push((key, ended.fence));
            }
        }
        let endings: Vec<(TaskIndex, Ending)> = held.iter().map(|ended| (ended.task, ended.ending.clone())).collect();
        let mut reach = LOOK_AHEAD;
        let plan = loop {
            match plan::plan(batch.dag, &known.snapshot, &endings, now) {
                Ok(plan) => break plan,
                Err(PlanError::Needs(more)) if !more.iter().all(|&index| known.knows(index)) => {
                    let before = known.snapshot.tasks.len();
                    let ahead = known.ahead(batch.dag, &more, reach);
                    known.look_up(connection, batch.run, batch.dag, &ahead).await?;
                    reach *= 2;
                    if known.snapshot.tasks.len() == before {
                        return Err(StoreError::Inconsistent { run: batch.run, source: PlanError::Needs(more) });
                    }
                }
                Err(source) => return Err(StoreError::Inconsistent { run: batch.run, source }),
            }
        };
        let instance_failures = expanding::failures(connection, batch.run, &known, &plan).await?;
        Ok(Some(Planned { batch, known, plan, held, not_held, instance_failures, instances: Vec::new() }))
    }

    /// What is known of a batch's run, if it has all that the batch is about; else what is read of it now.
    async fn know(
        &mut self,
        connection: &mut PgConnection,
        batch: &RunBatch<'_>,
    ) -> Result<Option<KnownRun>, StoreError> {
        let wanted = wanted(batch);
        // A batch without an end is there to find a cancel request, which is not known yet. After one all is swept.
        let known = self.known.remove(&batch.run);
        if let Some(mut known) = known.filter(|known| !known.snapshot.cancel_requested && !batch.ended.is_empty()) {
            let missing: BTreeSet<TaskIndex> = wanted.iter().copied().filter(|&index| !known.knows(index)).collect();
            if !missing.is_empty() {
                let ahead = known.ahead(batch.dag, &missing, LOOK_AHEAD);
                known.look_up(connection, batch.run, batch.dag, &ahead).await?;
            }
            if batch.ended.iter().all(|ended| known.holds(ended)) {
                return Ok(Some(known));
            }
        }
        let mut read = KnownRun::read(connection, &[(batch.run, batch.dag, wanted)], LOOK_AHEAD).await?;
        Ok(read.remove(&batch.run))
    }

    /// Gets to know the runs that were not come across, all at once.
    async fn get_to_know(
        &mut self,
        connection: &mut PgConnection,
        batches: &[&RunBatch<'_>],
    ) -> Result<(), StoreError> {
        let unknown = |batch: &&&RunBatch<'_>| !batch.ended.is_empty() && !self.known.contains_key(&batch.run);
        let new: Vec<_> = batches.iter().filter(unknown).map(|batch| (batch.run, batch.dag, wanted(batch))).collect();
        if new.len() > 1 {
            self.known.extend(KnownRun::read(connection, &new, LOOK_AHEAD).await?);
        }
        Ok(())
    }

    /// What the plans release that is claimed in the same statement, past the queue: nothing while others wait there.
    fn take(&self, claim: &Claim, planned: &[Planned<'_>], now: Timestamp) -> BTreeSet<TaskRunKey> {
        if self.queue_waits {
            return BTreeSet::new();
        }
        let mut ready: Vec<(Reverse<i32>, TaskRunKey)> = Vec::new();
        for planned in planned.iter().filter(|planned| planned.known.takes && claim.of.may_be(planned.batch.run)) {
            let dag = planned.batch.dag;
            let described = |index| planned.known.described(dag, index);
            let is_limited = |index| described(index).is_some_and(|task| dag.is_limited(task.index));
            let unlimited = planned.ready(now).filter(|task_run| !is_limited(task_run.task));
            let priority = |index| described(index).map_or(0, |task| task.priority_weight);
            ready.extend(unlimited.map(|task_run| (Reverse(priority(task_run.task)), task_run)));
        }
        ready.sort_unstable();
        let slots = usize::try_from(claim.slots).unwrap_or(usize::MAX);
        ready.into_iter().take(slots).map(|(_, task_run)| task_run).collect()
    }

    /// Follows a plan that was written.
    fn follow(&mut self, planned: Planned<'_>, stepped: &mut Stepped) {
        let Planned { batch, mut known, plan, not_held, instances, .. } = planned;
        stepped.note(not_held);
        stepped.moves.extend(plan.moves.iter().map(|step| (batch.run, *step)));
        if let Some(state) = plan.concluded {
            stepped.concluded.push((batch.run, state));
            return;
        }
        known.follow(&plan);
        for ((map_of, expansion), (_, first)) in plan.expansions.iter().zip(&instances) {
            known.learn_instances(*map_of, *first, expansion.count());
        }
        self.known.insert(batch.run, known);
    }

    fn note_claims(&mut self, claims: &[TaskRow], step: &Step<'_>, stepped: &mut Stepped) -> Result<(), StoreError> {
        for row in claims {
            let (run, Some(task)) = (RunKey(row.run_key), row.index()) else { continue };
            if let Some(known) = self.known.get_mut(&run) {
                let batch = step.batches.iter().find(|batch| batch.run == run);
                known.learn_claim(row, batch.map(|batch| batch.dag))?;
            }
            let task_run = TaskRunKey { run, task };
            let clears = Some(row.clears).filter(|clears| *clears >= 0);
            stepped.claimed.push(Claimed { task_run, fence: row.fence, try_number: row.try_number, clears });
        }
        Ok(())
    }
}

impl Planned<'_> {
    /// The tasks that may be claimed at once by this plan.
    fn ready(&self, now: Timestamp) -> impl Iterator<Item = TaskRunKey> {
        let ready = self.plan.moves.iter().filter(move |step| step.ready_at.is_some_and(|at| at <= now));
        ready.map(|step| TaskRunKey { run: self.batch.run, task: step.task })
    }

    /// Whether it lets tasks into the queue that only a claim with limits takes.
    fn releases_limited(&self, now: Timestamp) -> bool {
        let dag = self.batch.dag;
        let is_limited = |index| self.known.described(dag, index).is_some_and(|task| dag.is_limited(task.index));
        let expands_limited = self.plan.expansions.iter().any(|(index, _)| dag.is_limited(*index));
        expands_limited || self.ready(now).any(|task_run| is_limited(task_run.task))
    }

    /// Whether ready tasks are in the queue that the same statement's claim cannot see: what is released by it and not
    /// taken, and what is queued already and has its counts changed by it.
    fn leaves_some_queued(&self, taken: &BTreeSet<TaskRunKey>, now: Timestamp) -> bool {
        let is_queued = |task| matches!(task, TaskState::Queued | TaskState::UpForRetry);
        let mut counted = self.plan.counts.keys().filter_map(|index| self.known.snapshot.tasks.get(index));
        let expands = !self.plan.expansions.is_empty();
        expands
            || counted.any(|task| is_queued(task.state))
            || self.ready(now).any(|task_run| !taken.contains(&task_run))
    }
}

impl Claim {
    /// The same with so many slots less.
    fn but(&self, claimed: usize) -> Self {
        let claimed = u32::try_from(claimed).unwrap_or(u32::MAX);
        Self { worker: self.worker, slots: self.slots.saturating_sub(claimed), ..*self }
    }
}

impl ClaimOf {
    /// The one run, where it is one.
    pub(in crate::store) fn run(self) -> Option<RunKey> {
        match self {
            Self::Run(run) => Some(run),
            Self::AnyUnowned => None,
        }
    }

    /// Whether that run's tasks may be among them; of a run that this process works on.
    fn may_be(self, run: RunKey) -> bool {
        self.run().is_none_or(|only| only == run)
    }
}

impl Stepped {
    fn note(&mut self, not_held: NotHeld) {
        self.stale.extend(not_held.stale);
        self.ended_before.extend(not_held.ended_before);
    }
}
