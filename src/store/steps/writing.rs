//! Plans and a claim as the statement takes them: a column each.

use std::collections::{BTreeMap, BTreeSet};

use sqlx::PgConnection;

use crate::domain::Timestamp;
use crate::domain::ids::{RunKey, TaskIndex, TaskRunKey};
use crate::domain::plan::{Ending, Move, TaskSnapshot};
use crate::domain::run_state::RunState;
use crate::domain::task_state::AttemptOutcome;
use crate::domain::trigger_rule::UpstreamCounts;
use crate::store::rows::{self, UpstreamColumns};
use crate::store::steps::known::TaskRow;
use crate::store::steps::{Claim, EndedAttempt, Planned};
use crate::store::{LEASE, StoreError};

/// What one statement is to write.
pub(super) struct Writing<'a> {
    claim: Option<&'a Claim>,
    queue: Queue,
    slots: i64,
    now: Timestamp,
    runs: Runs,
    changes: Changes,
    ends: Ends,
}

/// What becomes of the queue in the same statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Queue {
    /// The claim's free slots are for it.
    Claimed,
    /// It is left to a claim that counts limits.
    Left,
    /// Nothing is known to wait there, or nothing is wished for: it is not looked at.
    Unlooked,
}

/// What it wrote.
pub(super) struct Written {
    /// The runs that had not moved on.
    pub(super) runs: BTreeSet<RunKey>,
    /// What was claimed, from the plans and from the queue.
    pub(super) claims: Vec<TaskRow>,
    /// Whether others were claiming the same tasks: more may be left.
    pub(super) contended: bool,
    /// Whether tasks with limits of their own were in the queue.
    pub(super) limited: bool,
}

impl<'a> Writing<'a> {
    /// Of plans and a claim; what is `taken` is claimed as it is released, the claim's other slots are for the queue.
    pub(super) fn of(
        planned: &[Planned<'_>],
        taken: &BTreeSet<TaskRunKey>,
        claim: Option<&'a Claim>,
        queue: Queue,
        now: Timestamp,
    ) -> Self {
        let slots = claim.map_or(0, |claim| usize::try_from(claim.slots).unwrap_or(usize::MAX));
        let slots = match queue {
            Queue::Claimed => i64::try_from(slots.saturating_sub(taken.len())).unwrap_or(i64::MAX),
            Queue::Left | Queue::Unlooked => 0,
        };
        let (runs, changes, ends) = (Runs::default(), Changes::default(), Ends::default());
        let mut writing = Self { claim, queue, slots, now, runs, changes, ends };
        for planned in planned {
            writing.push(planned, taken);
        }
        writing
    }

    fn push(&mut self, planned: &Planned<'_>, taken: &BTreeSet<TaskRunKey>) {
        let (run, plan) = (planned.batch.run, &planned.plan);
        self.runs.push(run, planned);
        let told = planned.held.iter().filter_map(|ended| Some((ended.task, ended.error.as_deref()?)));
        let of_mapped = planned.instance_failures.iter().map(|(index, error)| (*index, error.as_str()));
        let errors: BTreeMap<TaskIndex, &str> = told.chain(of_mapped).collect();
        let moves: BTreeMap<TaskIndex, &Move> = plan.moves.iter().map(|step| (step.task, step)).collect();
        let touched: BTreeSet<TaskIndex> = moves.keys().chain(plan.counts.keys()).copied().collect();
        for index in touched {
            let before = planned.known.snapshot.tasks[&index];
            let after = Change {
                task: TaskRunKey { run, task: index },
                counts: plan.counts.get(&index).copied().unwrap_or(before.upstream),
                step: moves.get(&index).copied(),
                error: errors.get(&index).copied(),
                is_taken: taken.contains(&TaskRunKey { run, task: index }),
            };
            self.changes.push(before, &after);
        }
        for ended in planned.held.iter().filter(|ended| ended.ending != Ending::Deferred) {
            let outcome = moves.get(&ended.task).and_then(|step| AttemptOutcome::of(step.event));
            self.ends.push(run, ended, outcome.expect("the plan moves every attempt that ended, and by an end"));
        }
    }

    /// Writes it; `None` when a task was not where its plan had seen it: then nothing was written.
    pub(super) async fn write(&self, connection: &mut PgConnection) -> Result<Option<Written>, StoreError> {
        let (runs, changes, ends) = (&self.runs, &self.changes, &self.ends);
        let claimed_of = self.claim.and_then(|claim| claim.of.run()).map(|run| run.0);
        macro_rules! written_by {
            ($statement:literal $(, $of_the_queue:expr)*) => {
                sqlx::query_file_as!(
                    TaskRow,
                    $statement,
                    &runs.keys,
                    &runs.versions,
                    &runs.finished,
                    &runs.leaves_failed,
                    &runs.conclusions as &[Option<String>],
                    &changes.runs,
                    &changes.indexes,
                    &changes.events as &[Option<String>],
                    &changes.from,
                    &changes.to,
                    &changes.ready_at as &[Option<Timestamp>],
                    &changes.try_numbers,
                    &changes.lost,
                    &changes.upstream.unfinished,
                    &changes.upstream.success,
                    &changes.upstream.failed,
                    &changes.upstream.upstream_failed,
                    &changes.upstream.skipped,
                    &changes.upstream.setups_succeeded,
                    &changes.upstream.setups_skipped,
                    &changes.errors as &[Option<String>],
                    &changes.taken,
                    self.claim.map(|claim| claim.worker.0),
                    LEASE.as_secs_f64(),
                    self.now,
                    &ends.runs,
                    &ends.indexes,
                    &ends.fences,
                    &ends.outcomes,
                    &ends.errors as &[Option<String>],
                    &ends.output_runs,
                    &ends.output_indexes,
                    &ends.outputs as &[Option<serde_json::Value>],
                    &ends.spilled as &[Option<serde_json::Value>],
                    $($of_the_queue),*
                )
                .fetch_all(connection)
                .await
            };
        }
        let rows = match self.queue {
            Queue::Unlooked => written_by!("src/store/sql/step_alone.sql"),
            Queue::Claimed | Queue::Left => {
                written_by!("src/store/sql/step.sql", claimed_of, self.slots, self.claim.is_some())
            }
        };
        let rows = match rows {
            Err(error) if !runs.keys.is_empty() && is_refused(&error) => return Ok(None),
            rows => rows.map_err(StoreError::query("write a step of the engine"))?,
        };
        let (claims, others): (Vec<_>, Vec<_>) = rows.into_iter().partition(|row| row.task_index.is_some());
        let says = |word: &str| others.iter().any(|row| row.state == word);
        let (contended, limited) = (says("contended"), says("limited"));
        let runs = others.iter().filter(|row| row.state.is_empty()).map(|row| RunKey(row.run_key)).collect();
        Ok(Some(Written { runs, claims, contended, limited }))
    }
}

/// Whether `refuse_step` of the schema undid the statement.
fn is_refused(error: &sqlx::Error) -> bool {
    error.as_database_error().and_then(|error| error.code()).is_some_and(|code| code == "40001")
}

/// The runs that are moved on.
#[derive(Default)]
struct Runs {
    keys: Vec<i64>,
    versions: Vec<i64>,
    finished: Vec<i32>,
    leaves_failed: Vec<i32>,
    conclusions: Vec<Option<String>>,
}

impl Runs {
    fn push(&mut self, run: RunKey, planned: &Planned<'_>) {
        self.keys.push(run.0);
        self.versions.push(planned.known.version);
        self.finished.push(rows::stored(planned.plan.finished));
        self.leaves_failed.push(rows::stored(planned.plan.leaves_failed));
        self.conclusions.push(planned.plan.concluded.map(RunState::as_str).map(str::to_owned));
    }
}

/// What changes about a task.
struct Change<'a> {
    task: TaskRunKey,
    counts: UpstreamCounts,
    step: Option<&'a Move>,
    error: Option<&'a str>,
    is_taken: bool,
}

/// The changed task runs.
#[derive(Default)]
struct Changes {
    runs: Vec<i64>,
    indexes: Vec<i32>,
    events: Vec<Option<String>>,
    from: Vec<String>,
    to: Vec<String>,
    ready_at: Vec<Option<Timestamp>>,
    try_numbers: Vec<i32>,
    lost: Vec<i32>,
    upstream: UpstreamColumns,
    errors: Vec<Option<String>>,
    taken: Vec<bool>,
}

impl Changes {
    fn push(&mut self, before: TaskSnapshot, change: &Change<'_>) {
        let Change { task, counts, step, error, is_taken } = change;
        self.runs.push(task.run.0);
        self.indexes.push(task.task.0.cast_signed());
        self.events.push(step.map(|step| step.event.as_str().to_owned()));
        self.from.push(before.state.as_str().to_owned());
        self.to.push(step.map_or(before.state, |step| step.to).as_str().to_owned());
        self.ready_at.push(step.and_then(|step| step.ready_at));
        self.try_numbers.push(step.map_or(before.try_number, |step| step.try_number));
        self.lost.push(step.map_or(before.lost, |step| step.lost));
        self.upstream.push(counts);
        self.errors.push(error.map(rows::text));
        self.taken.push(*is_taken);
    }
}

/// The ended attempts.
#[derive(Default)]
struct Ends {
    runs: Vec<i64>,
    indexes: Vec<i32>,
    fences: Vec<i64>,
    outcomes: Vec<String>,
    errors: Vec<Option<String>>,
    output_runs: Vec<i64>,
    output_indexes: Vec<i32>,
    outputs: Vec<Option<serde_json::Value>>,
    spilled: Vec<Option<serde_json::Value>>,
}

impl Ends {
    fn push(&mut self, run: RunKey, ended: &EndedAttempt, outcome: AttemptOutcome) {
        let index = ended.task.0.cast_signed();
        self.runs.push(run.0);
        self.indexes.push(index);
        self.fences.push(ended.fence);
        self.outcomes.push(outcome.as_str().to_owned());
        self.errors.push(ended.error.as_deref().map(rows::text));
        if let Some(output) = &ended.output {
            self.output_runs.push(run.0);
            self.output_indexes.push(index);
            self.outputs.push(output.value().map(rows::json));
            self.spilled.push(rows::spilled(output));
        }
    }
}
