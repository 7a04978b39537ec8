//! What is deleted when it is old: finished runs, the versions that no run is of any more, workers that are gone.
//!
//! A transaction deletes a batch. It holds one advisory lock of the database's while it does: of several processes that
//! delete one does so at a time, and the others learn that.

use sqlx::{Postgres, Transaction};
use uuid::Uuid;

use crate::domain::Timestamp;
use crate::store::{DagKey, Store, StoreError};

/// The first key of the lock: `pinu` in ASCII; a worker's is another.
const LOCK_CLASS: i32 = 0x7069_6e75;

/// A batch ends after so many tasks: their attempts, outputs and history go with them.
const BATCH_TASKS: i64 = 2_000;

/// Which finished runs go. Neither bound set, none do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Beyond {
    /// Those that ended before.
    pub ended_before: Option<Timestamp>,
    /// Those that are not among so many newest of their DAG.
    pub newest: Option<u32>,
}

/// What a batch did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deleted {
    /// So many are gone; with fewer than were asked for, more may be left.
    Rows(u64),
    /// Another process deletes now.
    Elsewhere,
}

impl Store {
    /// How many finished runs of that DAG are past keeping.
    pub async fn count_runs_past_keeping(&self, dag: DagKey, beyond: Beyond) -> Result<u64, StoreError> {
        let count = sqlx::query_scalar!(
            r#"SELECT count(*) AS "count!" FROM runs_past_keeping($1, $2, $3, NULL)"#,
            dag.0,
            beyond.ended_before,
            beyond.newest.map(i64::from)
        )
        .fetch_one(&self.pool)
        .await
        .map_err(StoreError::query("count old runs"))?;
        Ok(count.unsigned_abs())
    }

    /// Deletes the oldest of a DAG's finished runs that are past keeping, with all that belongs to them: at most `at_most`
    /// runs, fewer where they have many tasks, and at least one where there is one. A run that somebody holds is left for
    /// the next time.
    pub async fn delete_runs_past_keeping(
        &self,
        dag: DagKey,
        beyond: Beyond,
        at_most: u32,
    ) -> Result<Deleted, StoreError> {
        let failed = StoreError::query("delete old runs");
        let Some(mut transaction) = self.begin_deleting().await? else { return Ok(Deleted::Elsewhere) };
        let done = sqlx::query!(
            "WITH old AS (
                SELECT r.id
                FROM run AS r
                WHERE r.id IN (SELECT runs_past_keeping($1, $2, $3, $4)) AND r.finished_at IS NOT NULL
                ORDER BY r.id
                FOR UPDATE SKIP LOCKED
             ), sized AS (
                SELECT old.id, (sum(own.tasks) OVER (ORDER BY old.id) - own.tasks)::bigint AS tasks_before
                FROM old
                CROSS JOIN LATERAL (SELECT count(*) AS tasks FROM task_run AS t WHERE t.run_key = old.id) AS own
             )
             DELETE FROM run WHERE id IN (SELECT id FROM sized WHERE tasks_before < $5)",
            dag.0,
            beyond.ended_before,
            beyond.newest.map(i64::from),
            i64::from(at_most),
            BATCH_TASKS
        )
        .execute(&mut *transaction)
        .await
        .map_err(&failed)?;
        transaction.commit().await.map_err(failed)?;
        Ok(Deleted::Rows(done.rows_affected()))
    }

    /// Deletes versions of DAG files that no run is of and no DAG is at, made before that instant.
    pub async fn delete_versions(&self, made_before: Timestamp, at_most: u32) -> Result<Deleted, StoreError> {
        let failed = StoreError::query("delete old versions of DAG files");
        let Some(mut transaction) = self.begin_deleting().await? else { return Ok(Deleted::Elsewhere) };
        let done = sqlx::query!(
            "DELETE FROM dag_version
             WHERE id IN (
                SELECT v.id
                FROM dag_version AS v
                WHERE v.created_at < $1
                  AND NOT EXISTS (SELECT FROM run AS r WHERE r.dag_version_id = v.id)
                  AND NOT EXISTS (SELECT FROM dag AS d WHERE d.dag_version_id = v.id)
                ORDER BY v.id
                LIMIT $2
                FOR UPDATE SKIP LOCKED)",
            made_before,
            i64::from(at_most)
        )
        .execute(&mut *transaction)
        .await
        .map_err(&failed)?;
        transaction.commit().await.map_err(failed)?;
        Ok(Deleted::Rows(done.rows_affected()))
    }

    /// Deletes workers that ended, or were last seen, before that instant and show no sign of life, and to whom no run and
    /// no task refers.
    pub async fn delete_workers(&self, seen_before: Timestamp, at_most: u32) -> Result<Deleted, StoreError> {
        let failed = StoreError::query("delete workers that are gone");
        let Some(mut transaction) = self.begin_deleting().await? else { return Ok(Deleted::Elsewhere) };
        let done = sqlx::query!(
            "DELETE FROM worker
             WHERE id IN (
                SELECT w.id
                FROM worker AS w
                WHERE COALESCE(w.ended_at, w.seen_at) < $1
                  AND NOT EXISTS (SELECT FROM run AS r WHERE r.owner_id = w.id)
                  AND NOT EXISTS (
                    SELECT FROM task_run AS t WHERE t.worker_id = w.id AND t.state IN ('running', 'deferred'))
                  AND NOT EXISTS (
                    SELECT FROM pg_locks AS l
                    WHERE l.locktype = 'advisory'
                      AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
                      AND l.classid = $3::int::oid
                      AND l.objid = (w.id % 2147483648)::int::oid
                      AND l.objsubid = 2
                      AND l.granted)
                ORDER BY w.id
                LIMIT $2
                FOR UPDATE SKIP LOCKED)",
            seen_before,
            i64::from(at_most),
            super::workers::LOCK_CLASS
        )
        .execute(&mut *transaction)
        .await
        .map_err(&failed)?;
        transaction.commit().await.map_err(failed)?;
        Ok(Deleted::Rows(done.rows_affected()))
    }

    /// Which of these are runs.
    pub async fn runs_among(&self, uuids: &[Uuid]) -> Result<Vec<Uuid>, StoreError> {
        sqlx::query_scalar!("SELECT uuid FROM run WHERE uuid = ANY ($1)", uuids)
            .fetch_all(&self.pool)
            .await
            .map_err(StoreError::query("look for runs"))
    }

    /// A transaction that alone deletes; none when another one does.
    async fn begin_deleting(&self) -> Result<Option<Transaction<'static, Postgres>>, StoreError> {
        let failed = StoreError::query("begin to delete what is old");
        let mut transaction = self.pool.begin().await.map_err(&failed)?;
        let is_alone = sqlx::query_scalar!(r#"SELECT pg_try_advisory_xact_lock($1, 0) AS "alone!""#, LOCK_CLASS)
            .fetch_one(&mut *transaction)
            .await
            .map_err(&failed)?;
        Ok(is_alone.then_some(transaction))
    }
}
