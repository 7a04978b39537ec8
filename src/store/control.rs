//! What people do to runs and tasks: one implementation, for the command line, pages and APIs alike. It is written here;
//! the engine reads it. What follows from it is decided in `domain::control`.

use std::collections::BTreeMap;

use sqlx::PgConnection;

use crate::domain::Timestamp;
use crate::domain::choice;
use crate::domain::control::{self, Action, InstanceState, Outcome, Reach, RunStates, Step};
use crate::domain::dag::Dag;
use crate::domain::ids::{RunKey, TaskIndex, TaskRunKey};
use crate::domain::mapping::TaskName;
use crate::domain::task_state::{TaskEvent, TaskState};
use crate::domain::trigger_rule::UpstreamCounts;
use crate::store::rows::{self, UpstreamColumns};
use crate::store::{Store, StoreError};

/// What is to be done to tasks of a run.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// What.
    pub action: Action,
    /// To which; to all where none is named.
    pub tasks: &'a [TaskIndex],
    /// And to which besides.
    pub reach: Reach,
    /// Who or what asks, as it stands with an attempt that is ended by it.
    pub words: &'a str,
}

/// A task whose state changes, or would.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changed {
    /// The task run.
    pub task: TaskIndex,
    /// What it is called.
    pub name: TaskName,
    /// Where it stands.
    pub from: TaskState,
    /// Where it stands after.
    pub to: TaskState,
}

/// Whether it is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Yes.
    Do,
    /// It is only told what would change.
    DryRun,
}

impl Store {
    /// Does something to tasks of a run, in one transaction; says what changed, in the DAG's order. A run that is over goes
    /// on if something of it is not over any more, whoever drove it before.
    ///
    /// Nothing changes of a run that waits for its turn: it has no tasks yet.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] when the stored tasks are not the DAG's.
    pub async fn change_tasks(
        &self,
        run: RunKey,
        dag: &Dag,
        request: Request<'_>,
        mode: Mode,
        now: Timestamp,
    ) -> Result<Vec<Changed>, StoreError> {
        let failed = StoreError::query("change a run's tasks");
        let mut transaction = self.pool.begin().await.map_err(&failed)?;
        sqlx::query!("SELECT id FROM run WHERE id = $1 FOR NO KEY UPDATE", run.0)
            .fetch_optional(&mut *transaction)
            .await
            .map_err(&failed)?;
        let (states, instances, map_indexes) = lock_states(&mut transaction, run).await?;
        if states.is_empty() {
            return Ok(Vec::new());
        }
        if states.len() != dag.tasks().len() {
            return Err(StoreError::Corrupt { what: "a number of tasks", value: states.len().to_string() });
        }
        let standing = RunStates { states: &states, instances: &instances };
        let mut selected = control::select(dag, standing, request.tasks, request.reach);
        if request.action == Action::Clear {
            selected = control::with_setups(dag, selected);
        }
        let kept_back = kept_back(&mut transaction, run, dag).await?;
        let outcome = control::apply(dag, standing, &selected, request.action, &kept_back)
            .map_err(|source| StoreError::Inconsistent { run, source: source.into() })?;
        // A mark forgets failures after it, and finds some of them again. Who clears is told of all that is cleared.
        let changes = |step: &&Step| step.from != step.to || request.action == Action::Clear;
        let changed = outcome.steps.iter().filter(changes).filter_map(|step| {
            let (index, map_index) = match instances.binary_search_by_key(&step.task, |instance| instance.task) {
                Ok(place) => (instances[place].map_of, Some(map_indexes[place])),
                Err(_) => (step.task, None),
            };
            let name = TaskName { task: dag.task(index)?.id.clone(), map_index };
            Some(Changed { task: step.task, name, from: step.from, to: step.to })
        });
        let changed: Vec<Changed> = changed.collect();
        if mode == Mode::Do && !outcome.steps.is_empty() {
            write(&mut transaction, run, &outcome, request, now).await?;
            if !outcome.removed.is_empty() {
                remove(&mut transaction, run, &outcome.removed, request.words, now).await?;
            }
            transaction.commit().await.map_err(&failed)?;
        } else {
            transaction.rollback().await.map_err(&failed)?; // at once: a claim would pass by what is locked
        }
        Ok(changed)
    }

    /// The index of an instance of a mapped task; `None` where there is none (yet).
    pub async fn instance(
        &self,
        run: RunKey,
        map_of: TaskIndex,
        map_index: u32,
    ) -> Result<Option<TaskIndex>, StoreError> {
        let index = sqlx::query_scalar!(
            "SELECT task_index FROM task_run WHERE run_key = $1 AND map_of = $2 AND map_index = $3",
            run.0,
            map_of.0.cast_signed(),
            map_index.cast_signed()
        )
        .fetch_optional(&self.pool)
        .await
        .map_err(StoreError::query("look for an instance of a mapped task"))?;
        Ok(index.map(|index| TaskIndex(index.cast_unsigned())))
    }

    /// Sets the priority of a task that has not begun; says whether it had not.
    pub async fn set_priority(&self, task: TaskRunKey, priority: i32) -> Result<bool, StoreError> {
        let done = sqlx::query!(
            "UPDATE task_run SET priority = $3
             WHERE run_key = $1 AND task_index = $2 AND state IN ('none', 'queued', 'up_for_retry')",
            task.run.0,
            task.task.0.cast_signed(),
            priority
        )
        .execute(&self.pool)
        .await
        .map_err(StoreError::query("set a task's priority"))?;
        Ok(done.rows_affected() == 1)
    }

    /// Writes what is to be known about a run; nothing for an empty text.
    pub async fn note_run(&self, run: RunKey, note: &str) -> Result<(), StoreError> {
        sqlx::query!("UPDATE run SET note = NULLIF($2, '') WHERE id = $1", run.0, rows::text(note))
            .execute(&self.pool)
            .await
            .map_err(StoreError::query("write a run's note"))?;
        Ok(())
    }
}

/// The states of a run's tasks in the DAG's order, and of the instances of mapped tasks, which nobody moves on until the
/// transaction's end.
async fn lock_states(
    connection: &mut PgConnection,
    run: RunKey,
) -> Result<(Vec<TaskState>, Vec<InstanceState>, Vec<u32>), StoreError> {
    let rows = sqlx::query!(
        r#"SELECT task_index, map_of, COALESCE(map_index, 0) AS "map_index!", state AS "state!"
           FROM task_run WHERE run_key = $1 ORDER BY task_index FOR UPDATE"#,
        run.0
    )
    .fetch_all(connection)
    .await
    .map_err(StoreError::query("read a run's tasks"))?;
    let (mut states, mut instances, mut map_indexes) = (Vec::new(), Vec::new(), Vec::new());
    for row in rows {
        let state = rows::task_state(&row.state)?;
        let index = |index: i32| TaskIndex(index.cast_unsigned());
        match row.map_of {
            None => states.push(state),
            Some(map_of) => {
                instances.push(InstanceState { task: index(row.task_index), map_of: index(map_of), state });
                map_indexes.push(row.map_index.cast_unsigned());
            }
        }
    }
    Ok((states, instances, map_indexes))
}

/// Takes away the instances of mapped tasks that are expanded anew. Their attempts, logs and history stay, under indexes
/// that are never given again.
async fn remove(
    connection: &mut PgConnection,
    run: RunKey,
    instances: &[TaskIndex],
    words: &str,
    now: Timestamp,
) -> Result<(), StoreError> {
    let indexes: Vec<i32> = instances.iter().map(|index| index.0.cast_signed()).collect();
    sqlx::query!(
        "WITH removed AS (
            DELETE FROM task_run WHERE run_key = $1 AND task_index = ANY ($2) RETURNING task_index, fence, state
         ), ended AS (
            UPDATE attempt AS a
            SET finished_at = $4, outcome = 'cancelled', error = $3
            FROM removed
            WHERE a.run_key = $1 AND a.task_index = removed.task_index AND a.finished_at IS NULL
         ), outputs AS (
            DELETE FROM task_output AS o USING removed WHERE o.run_key = $1 AND o.task_index = removed.task_index
         ), items AS (
            DELETE FROM map_item AS m USING removed WHERE m.run_key = $1 AND m.task_index = removed.task_index
         )
         INSERT INTO transition (run_key, task_index, fence, event, from_state, to_state, at)
         SELECT $1, task_index, fence, 'cleared', state, 'none', $4
         FROM removed
         ORDER BY task_index",
        run.0,
        &indexes,
        rows::text(words),
        now,
    )
    .execute(connection)
    .await
    .map_err(StoreError::query("take away the instances of a mapped task"))?;
    Ok(())
}

/// What tasks that are over decided not to let run, by the outputs that they left.
async fn kept_back(
    connection: &mut PgConnection,
    run: RunKey,
    dag: &Dag,
) -> Result<BTreeMap<TaskIndex, Vec<TaskIndex>>, StoreError> {
    let choosers: Vec<i32> = choice::choosers(dag).iter().map(|task| task.0.cast_signed()).collect();
    if choosers.is_empty() {
        return Ok(BTreeMap::new());
    }
    let rows = sqlx::query!(
        "SELECT task_index, output FROM task_output WHERE run_key = $1 AND task_index = ANY ($2) ORDER BY task_index",
        run.0,
        &choosers
    )
    .fetch_all(connection)
    .await
    .map_err(StoreError::query("read what branches decided"))?;
    let kept = rows.into_iter().filter_map(|row| {
        let (task, output) = (TaskIndex(row.task_index.cast_unsigned()), row.output);
        Some((task, choice::skipped_after(dag, task, output?.as_object()?)))
    });
    Ok(kept.collect())
}

/// A change of each task, a column each.
#[derive(Default)]
struct Columns {
    indexes: Vec<i32>,
    first: Vec<Option<String>>,
    second: Vec<Option<String>>,
    from: Vec<String>,
    to: Vec<String>,
    anew: Vec<bool>,
    upstream: UpstreamColumns,
}

async fn write(
    connection: &mut PgConnection,
    run: RunKey,
    outcome: &Outcome,
    request: Request<'_>,
    now: Timestamp,
) -> Result<(), StoreError> {
    let failed = StoreError::query("change a run's tasks");
    let mut columns = Columns::default();
    let mut steps = outcome.steps.iter().peekable();
    let none = UpstreamCounts::default();
    let last = outcome.steps.last().map_or(0, |step| step.task.as_usize());
    for position in 0..outcome.counts.len().max(last + 1) {
        let step = steps.next_if(|step| step.task.as_usize() == position);
        if step.is_none() && position >= outcome.counts.len() {
            continue; // an instance that nothing happens to
        }
        let counts = outcome.counts.get(position).unwrap_or(&none);
        let event = |place: usize| step.and_then(|step| step.events[place]);
        columns.indexes.push(i32::try_from(position).unwrap_or(i32::MAX));
        columns.first.push(event(0).map(|event| event.as_str().to_owned()));
        columns.second.push(event(1).map(|event| event.as_str().to_owned()));
        columns.from.push(step.map_or("none", |step| step.from.as_str()).to_owned());
        columns.to.push(step.map_or("none", |step| step.to.as_str()).to_owned());
        columns.anew.push(event(0) == Some(TaskEvent::Cleared));
        columns.upstream.push(counts);
    }
    sqlx::query_file!(
        "src/store/sql/control.sql",
        run.0,
        &columns.indexes,
        &columns.first as &[Option<String>],
        &columns.second as &[Option<String>],
        &columns.from,
        &columns.to,
        &columns.anew,
        &columns.upstream.unfinished,
        &columns.upstream.success,
        &columns.upstream.failed,
        &columns.upstream.upstream_failed,
        &columns.upstream.skipped,
        &columns.upstream.setups_succeeded,
        &columns.upstream.setups_skipped,
        now,
        rows::text(request.words),
    )
    .execute(&mut *connection)
    .await
    .map_err(&failed)?;
    let clears = i32::from(request.action == Action::Clear);
    sqlx::query!(
        "UPDATE run
         -- One that is to be cancelled has failed when it is over, whoever ended its last task.
         SET state               = CASE WHEN $2 = 'success' AND finished_at IS NULL AND cancel_requested_at IS NOT NULL
                                        THEN 'failed' ELSE $2::text END,
             tasks_unfinished    = $3,
             leaves_failed       = $4,
             version             = version + 1,
             clears              = clears + $5,
             -- What is said of a run that is over makes it no longer.
             finished_at         = CASE WHEN $2 IN ('success', 'failed') THEN COALESCE(finished_at, $6::timestamptz) END,
             -- One that was over has all of its time once more.
             timeout_at          = CASE WHEN finished_at IS NULL THEN timeout_at ELSE $6 + timeout_limit END,
             -- One that was over goes on in any worker's hands, and its cancellation is over.
             owner_id            = CASE WHEN finished_at IS NULL THEN owner_id END,
             cancel_requested_at = CASE WHEN finished_at IS NULL THEN cancel_requested_at END,
             cancel_reason       = CASE WHEN finished_at IS NULL THEN cancel_reason END
         WHERE id = $1",
        run.0,
        outcome.run.as_str(),
        rows::stored(outcome.tasks_unfinished),
        rows::stored(outcome.leaves_failed),
        clears,
        now,
    )
    .execute(connection)
    .await
    .map_err(&failed)?;
    Ok(())
}
