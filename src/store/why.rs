//! Why a task does not run: what a claim asks, for one task, by the same views and functions of the schema.

use crate::domain::Timestamp;
use crate::domain::ids::TaskRunKey;
use crate::domain::run_state::RunState;
use crate::domain::task_state::TaskState;
use crate::store::{Store, StoreError, WorkerId, rows};

/// A limit and what is free of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limit {
    /// What it is called: a pool, the DAG, the task.
    pub name: String,
    /// How much there may be.
    pub most: i64,
    /// How much is free of it.
    pub free: i64,
    /// How much the task takes.
    pub takes: i64,
}

impl Limit {
    /// Whether it keeps the task back.
    #[must_use]
    pub fn keeps_back(&self) -> bool {
        self.free < self.takes
    }
}

/// How a task stands before the claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskBeforeClaim {
    /// Its state.
    pub state: TaskState,
    /// Its run's state.
    pub run: RunState,
    /// Whether somebody asked for the run's cancellation.
    pub cancel_requested: bool,
    /// Who drives the run as its own.
    pub owner: Option<WorkerId>,
    /// Whether its DAG is paused.
    pub is_paused: bool,
    /// Not to be claimed before this instant.
    pub ready_at: Option<Timestamp>,
    /// Who holds it.
    pub worker: Option<WorkerId>,
    /// How many of its upstreams are not over.
    pub upstream_unfinished: i32,
    /// The limits that it has, of pool, DAG and task.
    pub limits: Vec<Limit>,
    /// Whether the run before lets it begin.
    pub past_allows: bool,
    /// The tasks of the run before that it waits for.
    pub waits_for_past: Vec<String>,
    /// Ready tasks of all DAGs that go before it, by priority and age.
    pub ahead: i64,
    /// Its try.
    pub try_number: i32,
    /// Why its last attempt failed.
    pub error: Option<String>,
    /// How many workers live that take any run's tasks.
    pub live_workers: i64,
}

/// What a task waits for outside, without a slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deferral {
    /// Since when.
    pub since: Option<Timestamp>,
    /// The last line of its attempt's log, which says for what.
    pub said: Option<String>,
}

impl Store {
    /// Since when a deferred task waits, and what it said of it last.
    pub async fn deferral(&self, task: TaskRunKey) -> Result<Deferral, StoreError> {
        let row = sqlx::query!(
            r#"SELECT (SELECT max(h.at) FROM transition AS h
                       WHERE h.run_key = t.run_key AND h.task_index = t.task_index AND h.fence = t.fence
                         AND h.event = 'deferred') AS since,
                      (SELECT l.body FROM attempt_log AS l
                       WHERE l.run_key = t.run_key AND l.task_index = t.task_index AND l.fence = t.fence
                       ORDER BY l.seq DESC
                       LIMIT 1) AS said
               FROM task_run AS t
               WHERE t.run_key = $1 AND t.task_index = $2"#,
            task.run.0,
            task.task.0.cast_signed()
        )
        .fetch_optional(&self.pool)
        .await
        .map_err(StoreError::query("look what a task waits for"))?;
        let (since, said) = row.map(|row| (row.since, row.said)).unwrap_or_default();
        let last = said.and_then(|said| said.lines().last().map(str::to_owned));
        Ok(Deferral { since, said: last })
    }

    /// How a task stands before the claim; nothing where there is no such task.
    pub async fn standing(&self, task: TaskRunKey) -> Result<Option<TaskBeforeClaim>, StoreError> {
        let row = sqlx::query!(
            r#"SELECT t.state AS "state!", r.state AS "run!", r.cancel_requested_at IS NOT NULL AS "cancel_requested!",
                      r.owner_id, d.is_paused, t.ready_at, t.worker_id, t.upstream_unfinished, t.pool, t.pool_slots,
                      t.max_active_tis, t.max_active_tis_of_run, t.waits_for_past, t.try_number, t.error, d.dag_id, t.task_id,
                      p.slots AS "slots?", p.free AS "pool_free?", f.max_active_tasks AS "max_active_tasks?",
                      f.free AS "dag_free?",
                      (SELECT count(*) FROM task_run AS b
                       WHERE b.dag_key = t.dag_key AND b.task_id = t.task_id AND b.is_limited AND b.state = 'running')
                        AS "running!",
                      (SELECT count(*) FROM task_run AS b
                       WHERE b.dag_key = t.dag_key AND b.run_key = t.run_key AND b.task_id = t.task_id AND b.is_limited
                         AND b.state = 'running') AS "running_of_run!",
                      (t.waits_for_past IS NULL OR past_allows(t.run_key, t.waits_for_past)) AS "past_allows!",
                      (SELECT count(*) FROM task_run AS o
                       WHERE o.state IN ('queued', 'up_for_retry') AND o.ready_at <= clock_timestamp()
                         AND (o.priority, t.ready_at) > (t.priority, o.ready_at)) AS "ahead!",
                      (SELECT count(*) FROM worker AS w
                       WHERE w.ended_at IS NULL AND w.takes_any
                         AND w.seen_at > clock_timestamp() - interval '15 seconds') AS "live_workers!"
               FROM task_run AS t
               JOIN run AS r ON r.id = t.run_key
               JOIN dag AS d ON d.id = t.dag_key
               LEFT JOIN pool_free AS p ON p.name = t.pool
               LEFT JOIN dag_free AS f ON f.dag_key = t.dag_key
               WHERE t.run_key = $1 AND t.task_index = $2"#,
            task.run.0,
            task.task.0.cast_signed()
        )
        .fetch_optional(&self.pool)
        .await
        .map_err(StoreError::query("look why a task does not run"))?;
        let Some(row) = row else { return Ok(None) };
        let mut limits = Vec::new();
        if let Some(pool) = row.pool {
            let (most, free) = (i64::from(row.slots.unwrap_or(0)), row.pool_free.unwrap_or(0));
            limits.push(Limit { name: format!("the pool `{pool}`"), most, free, takes: i64::from(row.pool_slots) });
        }
        if let (Some(most), Some(free)) = (row.max_active_tasks, row.dag_free) {
            let name = format!("max_active_tasks of `{}`", row.dag_id);
            limits.push(Limit { name, most: i64::from(most), free, takes: 1 });
        }
        if let Some(most) = row.max_active_tis.map(i64::from) {
            let name = format!("max_active_tis_per_dag of `{}`", row.task_id);
            limits.push(Limit { name, most, free: most - row.running, takes: 1 });
        }
        if let Some(most) = row.max_active_tis_of_run.map(i64::from) {
            let name = format!("max_active_tis_per_dagrun of `{}`", row.task_id);
            limits.push(Limit { name, most, free: most - row.running_of_run, takes: 1 });
        }
        Ok(Some(TaskBeforeClaim {
            state: rows::task_state(&row.state)?,
            run: rows::run_state(&row.run)?,
            cancel_requested: row.cancel_requested,
            owner: row.owner_id.map(WorkerId),
            is_paused: row.is_paused,
            ready_at: row.ready_at,
            worker: row.worker_id.map(WorkerId),
            upstream_unfinished: row.upstream_unfinished,
            limits,
            past_allows: row.past_allows,
            waits_for_past: row.waits_for_past.unwrap_or_default(),
            ahead: row.ahead,
            try_number: row.try_number,
            error: row.error,
            live_workers: row.live_workers,
        }))
    }
}
