//! The step of the engine, in one transaction: completions are written, successors released, runs concluded, and ready
//! tasks claimed. What the plan says is decided in `domain::plan`; here it is applied.
//!
//! Locks are taken in this order by everybody: runs by id, then task runs by index, then claims, which wait for
//! nothing. Killed at any point the whole step is undone.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use sqlx::PgConnection;

use crate::domain::Timestamp;
use crate::domain::dag::Dag;
use crate::domain::ids::{RunKey, TaskIndex, TaskRunKey};
use crate::domain::plan::{self, Ending, Move, Plan, PlanError, Snapshot, TaskSnapshot};
use crate::domain::run_state::RunState;
use crate::domain::task_state::{AttemptOutcome, TaskState};
use crate::domain::trigger_rule::UpstreamCounts;
use crate::store::{LEASE, Store, StoreError, WorkerId, rows};

/// How far beyond the tasks that a plan asks for is looked at once; twice as far with each further question, so that a
/// skip that runs through the whole DAG asks some ten times.
const LOOK_AHEAD: usize = 16;

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
    pub output: Option<serde_json::Value>,
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
    /// Of these runs only; `None` for any.
    pub runs: Option<Vec<RunKey>>,
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

impl Store {
    /// Does a whole step in one transaction: after it all is durable, or nothing happened.
    ///
    /// An end whose fence is not the task's any more is left out and reported as stale.
    ///
    /// # Errors
    /// [`StoreError::Inconsistent`] or [`StoreError::Moved`] when the database contradicts the plan; nothing is written
    /// then.
    pub async fn step(&self, step: &Step<'_>, now: Timestamp) -> Result<Stepped, StoreError> {
        let failed = StoreError::query("write a step of the engine");
        let mut stepped = Stepped::default();
        if step.batches.is_empty() {
            if let Some(claim) = &step.claim {
                let mut connection = self.pool.acquire().await.map_err(&failed)?;
                stepped.claimed = claim_ready(&mut connection, claim, now).await?;
            }
            return Ok(stepped);
        }
        let mut transaction = self.pool.begin().await.map_err(&failed)?;
        let runs = lock_runs(&mut transaction, &step.batches).await?;
        for batch in &step.batches {
            let Some(run) = runs.get(&batch.run) else {
                continue; // the run was deleted under us: nothing is left to write
            };
            write_batch(&mut transaction, batch, *run, now, &mut stepped).await?;
        }
        if let Some(claim) = &step.claim {
            stepped.claimed = claim_ready(&mut transaction, claim, now).await?;
        }
        transaction.commit().await.map_err(&failed)?;
        Ok(stepped)
    }
}

#[derive(Clone, Copy)]
struct LockedRun {
    cancel_requested: bool,
    tasks_unfinished: u32,
    leaves_failed: u32,
}

async fn lock_runs(
    connection: &mut PgConnection,
    batches: &[RunBatch<'_>],
) -> Result<BTreeMap<RunKey, LockedRun>, StoreError> {
    let keys: Vec<i64> = batches.iter().map(|batch| batch.run.0).collect();
    let rows = sqlx::query!(
        r#"SELECT id, cancel_requested_at IS NOT NULL AS "cancel_requested!", tasks_unfinished, leaves_failed
           FROM run
           WHERE id = ANY ($1)
           ORDER BY id
           FOR NO KEY UPDATE -- rows that refer to the run may be inserted meanwhile: claims wait for nothing"#,
        &keys
    )
    .fetch_all(connection)
    .await
    .map_err(StoreError::query("lock runs"))?;
    rows.into_iter()
        .map(|row| {
            let run = LockedRun {
                cancel_requested: row.cancel_requested,
                tasks_unfinished: rows::count(row.tasks_unfinished)?,
                leaves_failed: rows::count(row.leaves_failed)?,
            };
            Ok((RunKey(row.id), run))
        })
        .collect()
}

struct Neighbourhood {
    tasks: BTreeMap<TaskIndex, TaskSnapshot>,
    fences: BTreeMap<TaskIndex, i64>,
}

impl Neighbourhood {
    async fn load(
        &mut self,
        connection: &mut PgConnection,
        batch: &RunBatch<'_>,
        wanted: &BTreeSet<TaskIndex>,
        all_unfinished: bool,
    ) -> Result<(), StoreError> {
        let wanted: Vec<i32> = wanted.iter().map(|index| index.0.cast_signed()).collect();
        let rows = sqlx::query!(
            "SELECT task_index, state, fence, try_number, lost, upstream_unfinished, upstream_success, upstream_failed,
                    upstream_upstream_failed, upstream_skipped, upstream_setups_succeeded,
                    upstream_setups_skipped
             FROM task_run
             WHERE run_key = $1
               AND (task_index = ANY ($2)
                    OR ($3 AND state IN ('none', 'queued', 'running', 'up_for_retry')))
             ORDER BY task_index
             FOR UPDATE",
            batch.run.0,
            &wanted,
            all_unfinished,
        )
        .fetch_all(connection)
        .await
        .map_err(StoreError::query("read a run's tasks"))?;
        for row in rows {
            let index = TaskIndex(row.task_index.cast_unsigned());
            let upstream = UpstreamCounts {
                unfinished: rows::count(row.upstream_unfinished)?,
                success: rows::count(row.upstream_success)?,
                failed: rows::count(row.upstream_failed)?,
                upstream_failed: rows::count(row.upstream_upstream_failed)?,
                skipped: rows::count(row.upstream_skipped)?,
                setups: batch.dag.setups_upstream(index),
                setups_succeeded: rows::count(row.upstream_setups_succeeded)?,
                setups_skipped: rows::count(row.upstream_setups_skipped)?,
            };
            let state = rows::task_state(&row.state)?;
            self.fences.insert(index, row.fence);
            self.tasks.insert(index, TaskSnapshot { state, upstream, try_number: row.try_number, lost: row.lost });
        }
        Ok(())
    }

    /// What is `wanted`, and up to `reach` of the tasks after it that were not looked up yet.
    fn ahead(&self, dag: &Dag, wanted: &BTreeSet<TaskIndex>, reach: usize) -> BTreeSet<TaskIndex> {
        let mut found = wanted.clone();
        let mut next: VecDeque<TaskIndex> = wanted.iter().copied().collect();
        while let Some(index) = next.pop_front().filter(|_| found.len() < wanted.len() + reach) {
            let unseen = |index: &TaskIndex| !self.tasks.contains_key(index) && found.insert(*index);
            next.extend(dag.downstream(index).into_iter().filter(unseen));
        }
        found
    }

    fn holds(&self, ended: &EndedAttempt) -> bool {
        self.fences.get(&ended.task) == Some(&ended.fence)
            && self.tasks.get(&ended.task).is_some_and(|task| task.state == TaskState::Running)
    }
}

async fn write_batch(
    connection: &mut PgConnection,
    batch: &RunBatch<'_>,
    run: LockedRun,
    now: Timestamp,
    stepped: &mut Stepped,
) -> Result<(), StoreError> {
    let mut wanted: BTreeSet<TaskIndex> = BTreeSet::new();
    for ended in &batch.ended {
        wanted.insert(ended.task);
        wanted.extend(batch.dag.downstream(ended.task));
    }
    let mut neighbourhood = Neighbourhood { tasks: BTreeMap::new(), fences: BTreeMap::new() };
    neighbourhood.load(connection, batch, &wanted, run.cancel_requested).await?;
    let (held, stale): (Vec<_>, Vec<_>) = batch.ended.iter().partition(|ended| neighbourhood.holds(ended));
    for ended in stale {
        let key = TaskRunKey { run: batch.run, task: ended.task };
        if neighbourhood.fences.get(&ended.task) == Some(&ended.fence) {
            stepped.ended_before.push(key);
        } else {
            stepped.stale.push((key, ended.fence));
        }
    }
    let mut reach = LOOK_AHEAD;
    let endings: Vec<(TaskIndex, Ending)> = held.iter().map(|ended| (ended.task, ended.ending)).collect();
    let plan = loop {
        let snapshot = Snapshot {
            cancel_requested: run.cancel_requested,
            tasks_unfinished: run.tasks_unfinished,
            leaves_failed: run.leaves_failed,
            tasks: neighbourhood.tasks.clone(),
        };
        match plan::plan(batch.dag, &snapshot, &endings, now) {
            Ok(plan) => break plan,
            Err(PlanError::Needs(more)) if more.iter().any(|index| !neighbourhood.tasks.contains_key(index)) => {
                let before = neighbourhood.tasks.len();
                neighbourhood.load(connection, batch, &neighbourhood.ahead(batch.dag, &more, reach), false).await?;
                reach *= 2;
                if neighbourhood.tasks.len() == before {
                    return Err(StoreError::Inconsistent { run: batch.run, source: PlanError::Needs(more) });
                }
            }
            Err(source) => return Err(StoreError::Inconsistent { run: batch.run, source }),
        }
    };
    if plan.moves.is_empty() {
        return Ok(());
    }
    apply(connection, batch.run, &plan, &neighbourhood, &held, now).await?;
    stepped.moves.extend(plan.moves.iter().map(|step| (batch.run, *step)));
    stepped.concluded.extend(plan.concluded.map(|state| (batch.run, state)));
    Ok(())
}

async fn apply(
    connection: &mut PgConnection,
    run: RunKey,
    plan: &Plan,
    neighbourhood: &Neighbourhood,
    held: &[&EndedAttempt],
    now: Timestamp,
) -> Result<(), StoreError> {
    let errors: BTreeMap<TaskIndex, &str> =
        held.iter().filter_map(|ended| Some((ended.task, ended.error.as_deref()?))).collect();
    let moves: BTreeMap<TaskIndex, &Move> = plan.moves.iter().map(|step| (step.task, step)).collect();
    let mut changes = Changes::default();
    let touched: BTreeSet<TaskIndex> = moves.keys().chain(plan.counts.keys()).copied().collect();
    for index in touched {
        let before = neighbourhood.tasks[&index];
        let counts = plan.counts.get(&index).copied().unwrap_or(before.upstream);
        changes.push(index, before, counts, moves.get(&index).copied(), errors.get(&index).copied());
    }
    let ended = Ends::of(held, &moves);
    let expected = changes.indexes.len();
    let changed = sqlx::query_file_scalar!(
        "src/store/sql/apply_plan.sql",
        now,
        &changes.indexes,
        &changes.moved,
        &changes.events,
        &changes.from,
        &changes.to,
        &changes.ready_at as &[Option<Timestamp>],
        &changes.try_numbers,
        &changes.lost,
        &changes.unfinished,
        &changes.success,
        &changes.failed,
        &changes.upstream_failed,
        &changes.skipped,
        &changes.setups_succeeded,
        &changes.setups_skipped,
        &changes.errors as &[Option<String>],
        run.0,
        &ended.indexes,
        &ended.fences,
        &ended.outcomes,
        &ended.errors as &[Option<String>],
        &ended.output_indexes,
        &ended.outputs,
        rows::stored(plan.finished),
        rows::stored(plan.leaves_failed),
        plan.concluded.map(RunState::as_str),
    )
    .fetch_one(connection)
    .await
    .map_err(StoreError::query("write what follows from ended attempts"))?;
    if usize::try_from(changed).ok() == Some(expected) {
        Ok(())
    } else {
        Err(StoreError::Moved { run, expected, changed })
    }
}

/// The changed task runs, a column each, as the statement takes them.
#[derive(Default)]
struct Changes {
    indexes: Vec<i32>,
    moved: Vec<bool>,
    events: Vec<String>,
    from: Vec<String>,
    to: Vec<String>,
    ready_at: Vec<Option<Timestamp>>,
    try_numbers: Vec<i32>,
    lost: Vec<i32>,
    unfinished: Vec<i32>,
    success: Vec<i32>,
    failed: Vec<i32>,
    upstream_failed: Vec<i32>,
    skipped: Vec<i32>,
    setups_succeeded: Vec<i32>,
    setups_skipped: Vec<i32>,
    errors: Vec<Option<String>>,
}

impl Changes {
    fn push(
        &mut self,
        index: TaskIndex,
        before: TaskSnapshot,
        counts: UpstreamCounts,
        step: Option<&Move>,
        error: Option<&str>,
    ) {
        self.indexes.push(index.0.cast_signed());
        self.moved.push(step.is_some());
        self.events.push(step.map(|step| step.event.as_str()).unwrap_or_default().to_owned());
        self.from.push(before.state.as_str().to_owned());
        self.to.push(step.map_or(before.state, |step| step.to).as_str().to_owned());
        self.ready_at.push(step.and_then(|step| step.ready_at));
        self.try_numbers.push(step.map_or(before.try_number, |step| step.try_number));
        self.lost.push(step.map_or(before.lost, |step| step.lost));
        self.unfinished.push(rows::stored(counts.unfinished));
        self.success.push(rows::stored(counts.success));
        self.failed.push(rows::stored(counts.failed));
        self.upstream_failed.push(rows::stored(counts.upstream_failed));
        self.skipped.push(rows::stored(counts.skipped));
        self.setups_succeeded.push(rows::stored(counts.setups_succeeded));
        self.setups_skipped.push(rows::stored(counts.setups_skipped));
        self.errors.push(error.map(rows::text));
    }
}

/// The ended attempts, a column each.
#[derive(Default)]
struct Ends {
    indexes: Vec<i32>,
    fences: Vec<i64>,
    outcomes: Vec<String>,
    errors: Vec<Option<String>>,
    output_indexes: Vec<i32>,
    outputs: Vec<serde_json::Value>,
}

impl Ends {
    fn of(held: &[&EndedAttempt], moves: &BTreeMap<TaskIndex, &Move>) -> Self {
        let mut ends = Self::default();
        for ended in held {
            let index = ended.task.0.cast_signed();
            let outcome = moves.get(&ended.task).and_then(|step| AttemptOutcome::of(step.event));
            let outcome = outcome.expect("the plan moves every attempt that ended, and by an end");
            ends.indexes.push(index);
            ends.fences.push(ended.fence);
            ends.outcomes.push(outcome.as_str().to_owned());
            ends.errors.push(ended.error.as_deref().map(rows::text));
            if let Some(output) = &ended.output {
                ends.output_indexes.push(index);
                ends.outputs.push(rows::json(output));
            }
        }
        ends
    }
}

async fn claim_ready(connection: &mut PgConnection, claim: &Claim, now: Timestamp) -> Result<Vec<Claimed>, StoreError> {
    let runs: Option<Vec<i64>> = claim.runs.as_ref().map(|runs| runs.iter().map(|run| run.0).collect());
    let rows = sqlx::query_file!(
        "src/store/sql/claim.sql",
        claim.worker.0,
        i64::from(claim.slots),
        now,
        runs.as_deref() as Option<&[i64]>,
        LEASE.as_secs_f64(),
    )
    .fetch_all(connection)
    .await
    .map_err(StoreError::query("claim tasks"))?;
    Ok(rows
        .into_iter()
        .map(|row| {
            let task = TaskIndex(row.task_index.cast_unsigned());
            Claimed {
                task_run: TaskRunKey { run: RunKey(row.run_key), task },
                fence: row.fence,
                try_number: row.try_number,
            }
        })
        .collect())
}
