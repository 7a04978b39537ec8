//! What is told of runs to who gathers traces and lineage: an outbox. Triggers write it, in the transaction of the change
//! that it tells of, where the session says that somebody is to be told; what was sent is deleted after it was.

use crate::domain::Timestamp;
use crate::domain::ids::{RunKey, TaskId, TaskIndex};
use crate::domain::mapping::TaskName;
use crate::store::tasks::AttemptRow;
use crate::store::{AttemptRecord, Store, StoreError, rows};

/// How long a row is its sender's: longer than the exchanges of a large run's trace.
const SENDING: f64 = 300.0;

/// What is told of runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Exports {
    /// A trace of each run that ended.
    pub traces: bool,
    /// The start and the end of each run and each attempt.
    pub lineage: bool,
}

impl Exports {
    /// As a session is told, and rows have it.
    pub(in crate::store) fn kinds(self) -> Vec<&'static str> {
        let kinds = [(self.traces, ExportKind::Trace), (self.lineage, ExportKind::Lineage)];
        kinds.into_iter().filter(|(is_wanted, _)| *is_wanted).map(|(_, kind)| kind.as_str()).collect()
    }
}

/// What a row is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExportKind {
    /// A run's trace.
    Trace,
    /// An event of lineage.
    Lineage,
}

impl ExportKind {
    fn as_str(self) -> &'static str {
        match self {
            Self::Trace => "trace",
            Self::Lineage => "lineage",
        }
    }
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunEnd {
    /// Well.
    Success,
    /// With a failure.
    Failed,
    /// By a cancellation.
    Cancelled,
}

impl RunEnd {
    fn as_str(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }
}

/// The attempt that something is told of. An instance may have been cleared away since.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExportedAttempt {
    /// Its task run.
    pub task: TaskIndex,
    /// The task of the DAG: of an instance the mapped task.
    pub of_task: TaskIndex,
    /// Its fence.
    pub fence: i64,
}

/// Something to tell, claimed by this process for a while.
#[derive(Debug, Clone, Copy)]
pub struct DueExport {
    /// Its key.
    pub id: i64,
    /// The run.
    pub run: RunKey,
    /// What it is for.
    pub kind: ExportKind,
    /// The attempt; none where it is about the run as a whole.
    pub attempt: Option<ExportedAttempt>,
    /// Whether it is about the end, and not about the start.
    pub is_end: bool,
    /// Of a run's end: which that was. It may have been cleared since.
    pub run_end: Option<RunEnd>,
    /// When that was.
    pub happened_at: Timestamp,
    /// How often it was tried to tell, this time included.
    pub attempts: i32,
}

/// An attempt, with whose it is.
#[derive(Debug, Clone)]
pub struct TaskAttempt {
    /// The task run.
    pub task: TaskIndex,
    /// The task's id.
    pub task_id: TaskId,
    /// Of an instance: the mapped task, and which of its instances it is.
    pub instance_of: Option<(TaskIndex, u32)>,
    /// What became of it.
    pub record: AttemptRecord,
}

impl TaskAttempt {
    /// The task of the DAG that it is an attempt of.
    #[must_use]
    pub fn of_task(&self) -> TaskIndex {
        self.instance_of.map_or(self.task, |(task, _)| task)
    }
}

/// Selects attempts of tasks that are there; `$rest` is what follows the tables.
macro_rules! select_attempts {
    ($rest:literal $(, $argument:expr)* $(,)?) => {
        sqlx::query_as!(
            TaskAttemptRow,
            "SELECT t.task_index, t.task_id, t.map_of, t.map_index, a.fence, a.try_number, a.started_at, a.finished_at,
                    a.outcome, a.error
             FROM task_run AS t
             JOIN attempt AS a ON a.run_key = t.run_key AND a.task_index = t.task_index " + $rest,
            $($argument),*
        )
    };
}

impl Store {
    /// Claims what is due of these kinds, of one run or of all, at most `most`, for five minutes: whoever dies with it
    /// leaves it to others.
    pub async fn claim_exports(
        &self,
        wanted: Exports,
        of: Option<RunKey>,
        most: i64,
        now: Timestamp,
    ) -> Result<Vec<DueExport>, StoreError> {
        let kinds: Vec<String> = wanted.kinds().into_iter().map(str::to_owned).collect();
        let claimed = sqlx::query!(
            r#"UPDATE export AS e
               SET attempts = e.attempts + 1, due_at = $3::timestamptz + make_interval(secs => $5)
               FROM (SELECT id
                     FROM export
                     WHERE kind = ANY ($1) AND due_at <= $3 AND ($2::bigint IS NULL OR run_key = $2)
                     ORDER BY due_at, id
                     LIMIT $4
                     FOR UPDATE SKIP LOCKED) AS due
               WHERE e.id = due.id
               RETURNING e.id, e.run_key, e.kind AS "kind!", e.task_index, e.fence, e.map_of, e.is_end, e.run_end,
                         e.happened_at, e.attempts"#,
            &kinds,
            of.map(|run| run.0),
            now,
            most,
            SENDING,
        )
        .fetch_all(&self.pool)
        .await
        .map_err(StoreError::query("look for what is to be told of runs"))?;
        let due = claimed.into_iter().map(|row| {
            let kind = [ExportKind::Trace, ExportKind::Lineage].into_iter().find(|kind| kind.as_str() == row.kind);
            Ok(DueExport {
                id: row.id,
                run: RunKey(row.run_key),
                kind: kind.ok_or(StoreError::Corrupt { what: "what is told of a run", value: row.kind })?,
                attempt: row.task_index.zip(row.fence).map(|(task, fence)| {
                    let index = |index: i32| TaskIndex(index.cast_unsigned());
                    ExportedAttempt { task: index(task), of_task: index(row.map_of.unwrap_or(task)), fence }
                }),
                is_end: row.is_end,
                run_end: row.run_end.map(run_end).transpose()?,
                happened_at: row.happened_at,
                attempts: row.attempts,
            })
        });
        due.collect()
    }

    /// Forgets what was sent, or was given up.
    pub async fn forget_export(&self, id: i64) -> Result<(), StoreError> {
        sqlx::query!("DELETE FROM export WHERE id = $1", id)
            .execute(&self.pool)
            .await
            .map_err(StoreError::query("note what was told of a run"))?;
        Ok(())
    }

    /// Puts off until `again` what could not be sent.
    pub async fn put_off_export(&self, id: i64, again: Timestamp) -> Result<(), StoreError> {
        sqlx::query!("UPDATE export SET due_at = $2 WHERE id = $1", id, again)
            .execute(&self.pool)
            .await
            .map_err(StoreError::query("note what could not be told of a run"))?;
        Ok(())
    }

    /// How much of a run is still to be told.
    pub async fn unsent_exports(&self, wanted: Exports, run: RunKey) -> Result<i64, StoreError> {
        let kinds: Vec<String> = wanted.kinds().into_iter().map(str::to_owned).collect();
        sqlx::query_scalar!(
            r#"SELECT count(*) AS "count!" FROM export WHERE run_key = $1 AND kind = ANY ($2)"#,
            run.0,
            &kinds
        )
        .fetch_one(&self.pool)
        .await
        .map_err(StoreError::query("count what is to be told of a run"))
    }

    /// Which task of a run failed first, and why, if it said so.
    pub async fn first_failure(&self, run: RunKey) -> Result<Option<(TaskName, Option<String>)>, StoreError> {
        let row = sqlx::query!(
            "SELECT task_id, map_index, error
             FROM task_run
             WHERE run_key = $1 AND state = 'failed'
             ORDER BY finished_at, task_index
             LIMIT 1",
            run.0
        )
        .fetch_optional(&self.pool)
        .await
        .map_err(StoreError::query("look for what failed first"))?;
        row.map(|row| {
            let (task, map_index) = (rows::id("a task id", &row.task_id)?, row.map_index.map(i32::cast_unsigned));
            Ok((TaskName { task, map_index }, row.error))
        })
        .transpose()
    }

    /// All attempts of a run, by task and in the order of their fences; at most 100,000.
    pub async fn attempts_of_run(&self, run: RunKey) -> Result<Vec<TaskAttempt>, StoreError> {
        select_attempts!(
            "WHERE t.run_key = $1
             ORDER BY t.task_index, a.fence
             LIMIT 100000",
            run.0
        )
        .fetch_all(&self.pool)
        .await
        .map_err(StoreError::query("read a run's attempts"))?
        .into_iter()
        .map(TaskAttempt::try_from)
        .collect()
    }

    /// One attempt, whether or not its task run is still there.
    pub async fn attempt_of_run(
        &self,
        run: RunKey,
        task: TaskIndex,
        fence: i64,
    ) -> Result<Option<AttemptRecord>, StoreError> {
        sqlx::query_as!(
            AttemptRow,
            "SELECT fence, try_number, started_at, finished_at, outcome, error
             FROM attempt
             WHERE run_key = $1 AND task_index = $2 AND fence = $3",
            run.0,
            task.0.cast_signed(),
            fence
        )
        .fetch_optional(&self.pool)
        .await
        .map_err(StoreError::query("read an attempt"))?
        .map(AttemptRecord::try_from)
        .transpose()
    }
}

fn run_end(stored: String) -> Result<RunEnd, StoreError> {
    let known = [RunEnd::Success, RunEnd::Failed, RunEnd::Cancelled].into_iter().find(|end| end.as_str() == stored);
    known.ok_or(StoreError::Corrupt { what: "the end of a run that is told", value: stored })
}

struct TaskAttemptRow {
    task_index: i32,
    task_id: String,
    map_of: Option<i32>,
    map_index: Option<i32>,
    fence: i64,
    try_number: i32,
    started_at: Timestamp,
    finished_at: Option<Timestamp>,
    outcome: Option<String>,
    error: Option<String>,
}

impl TryFrom<TaskAttemptRow> for TaskAttempt {
    type Error = StoreError;

    fn try_from(row: TaskAttemptRow) -> Result<Self, StoreError> {
        let index = |index: i32| TaskIndex(index.cast_unsigned());
        let TaskAttemptRow { fence, try_number, started_at, finished_at, outcome, error, .. } = row;
        Ok(Self {
            task: index(row.task_index),
            task_id: rows::id("a task id", &row.task_id)?,
            instance_of: row.map_of.map(index).zip(row.map_index.map(i32::cast_unsigned)),
            record: AttemptRow { fence, try_number, started_at, finished_at, outcome, error }.try_into()?,
        })
    }
}
