//! Workers: a process's registration, its sign of life, its leases, and who is dead.
//!
//! The sign of life is a session-level advisory lock: Postgres frees it the moment the process's connection is gone,
//! also after `kill -9`. A host that hangs with its connection open is caught by the lease's end instead.

use std::time::Duration;

use sqlx::{Connection, PgConnection};

use crate::domain::Timestamp;
use crate::domain::ids::{RunKey, TaskIndex, TaskRunKey};
use crate::store::{ClaimOf, Store, StoreError};

/// The first key of every worker's advisory lock: `pins` in ASCII, so that others' locks are not taken for ours.
pub(super) const LOCK_CLASS: i32 = 0x7069_6e73;

/// How long an attempt is its worker's without a renewal.
pub const LEASE: Duration = Duration::from_secs(15);

/// How long the sign of life may go unanswered before the worker must think itself dead: well before the lease ends.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(4);

/// A worker's registration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WorkerId(pub i64);

/// The connection that holds a worker's advisory lock.
#[derive(Debug)]
pub struct SignOfLife {
    /// Whose it is.
    pub worker: WorkerId,
    /// The server process that holds the lock.
    backend: i32,
    connection: PgConnection,
}

impl SignOfLife {
    /// Asks whether the lock is still held. When this fails, others may take the worker's tasks over within a second:
    /// it must stop them.
    ///
    /// # Errors
    /// When the connection is gone or does not answer for 4 s; [`StoreError::Pooler`] when it is another one by now.
    pub async fn confirm(&mut self) -> Result<(), StoreError> {
        let failed = StoreError::query("confirm the worker's sign of life");
        match tokio::time::timeout(ANSWER_TIMEOUT, backend_of(&mut self.connection)).await {
            Ok(Ok(backend)) if backend == self.backend => Ok(()),
            Ok(Ok(_)) => Err(StoreError::Pooler),
            Ok(Err(error)) => Err(failed(error)),
            Err(_) => Err(failed(sqlx::Error::PoolTimedOut)),
        }
    }

    /// Gives the lock back in good order.
    pub async fn end(mut self, now: Timestamp) -> Result<(), StoreError> {
        let failed = StoreError::query("end a worker");
        sqlx::query!("UPDATE worker SET ended_at = $2 WHERE id = $1", self.worker.0, now)
            .execute(&mut self.connection)
            .await
            .map_err(&failed)?;
        self.connection.close().await.map_err(&failed)
    }
}

impl Store {
    /// Registers a worker and takes its advisory lock on a connection of its own.
    ///
    /// # Errors
    /// [`StoreError::Pooler`] when a transaction pooler stands between: session locks do not hold there.
    pub async fn register_worker(&self, hostname: &str, pid: u32, now: Timestamp) -> Result<SignOfLife, StoreError> {
        let failed = StoreError::query("register a worker");
        let mut connection = self.connect_alone().await.map_err(&failed)?;
        let id = sqlx::query_scalar!(
            "INSERT INTO worker (hostname, pid, started_at) VALUES ($1, $2, $3) RETURNING id",
            hostname,
            pid.cast_signed(),
            now
        )
        .fetch_one(&mut connection)
        .await
        .map_err(&failed)?;
        let backend = lock(&mut connection, id).await.map_err(&failed)?;
        // A transaction pooler gives each transaction any server that is free. While another of ours takes one, a second
        // question of this connection's may find itself elsewhere, where its lock is not.
        for _ in 0..3 {
            let mut other = self.pool.begin().await.map_err(&failed)?;
            sqlx::query_scalar!("SELECT pg_backend_pid()").fetch_one(&mut *other).await.map_err(&failed)?;
            let now_on = backend_of(&mut connection).await.map_err(&failed)?;
            other.rollback().await.map_err(&failed)?;
            if now_on != backend {
                return Err(StoreError::Pooler);
            }
        }
        Ok(SignOfLife { worker: WorkerId(id), backend, connection })
    }

    /// Says that a worker takes the tasks of every run that no process drives as its own.
    pub async fn takes_any(&self, worker: WorkerId) -> Result<(), StoreError> {
        sqlx::query!("UPDATE worker SET takes_any = true WHERE id = $1", worker.0)
            .execute(&self.pool)
            .await
            .map_err(StoreError::query("register a worker"))?;
        Ok(())
    }

    /// Renews the leases of those of the worker's attempts that it still holds. What is not among them any more was
    /// taken from it: it must stop those attempts.
    pub async fn renew_leases(&self, worker: WorkerId) -> Result<Vec<(TaskRunKey, i64)>, StoreError> {
        let rows = sqlx::query!(
            r#"WITH seen AS (UPDATE worker SET seen_at = clock_timestamp() WHERE id = $1), renewed AS (
                UPDATE task_run SET lease_until = clock_timestamp() + make_interval(secs => $2)
                WHERE worker_id = $1 AND state = 'running'
                RETURNING run_key, task_index, fence)
               SELECT run_key AS "run_key!", task_index AS "task_index!", fence AS "fence!" FROM renewed
               UNION ALL
               SELECT run_key, task_index, fence FROM task_run WHERE worker_id = $1 AND state = 'deferred'"#,
            worker.0,
            LEASE.as_secs_f64(),
        )
        .fetch_all(&self.pool)
        .await
        .map_err(StoreError::query("renew leases"))?;
        Ok(rows
            .into_iter()
            .map(|row| {
                let task = TaskIndex(row.task_index.cast_unsigned());
                (TaskRunKey { run: RunKey(row.run_key), task }, row.fence)
            })
            .collect())
    }

    /// The running attempts of a run, or of all that no process drives as its own, whose worker is one of `former`, shows
    /// no sign of life, or whose lease has ended; by run and in the DAG's order, at most 1,000.
    pub async fn orphans(&self, of: ClaimOf, former: &[WorkerId]) -> Result<Vec<Orphan>, StoreError> {
        let former: Vec<i64> = former.iter().map(|worker| worker.0).collect();
        let rows = sqlx::query!(
            r#"SELECT t.run_key, t.task_index, t.fence, t.worker_id AS "worker_id!", COALESCE(t.lease_until < clock_timestamp(), w.seen_at < clock_timestamp() - make_interval(secs => $4)) AS "expired!"
               FROM task_run AS t
               JOIN run AS r ON r.id = t.run_key
               LEFT JOIN worker AS w ON w.id = t.worker_id
               WHERE CASE WHEN $2::bigint IS NULL THEN r.owner_id IS NULL ELSE r.id = $2 END
                 AND t.state IN ('running', 'deferred')
                 AND (t.worker_id = ANY ($3) OR t.lease_until < clock_timestamp()
                      -- One that is deferred has no lease of its own: its worker's sign of life stands for it.
                      OR t.state = 'deferred' AND w.seen_at < clock_timestamp() - make_interval(secs => $4)
                      OR NOT EXISTS (
                    SELECT 1
                    FROM pg_locks AS l
                    WHERE l.locktype = 'advisory'
                      AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
                      AND l.classid = $1::int::oid
                      AND l.objid = (t.worker_id % 2147483648)::int::oid
                      AND l.objsubid = 2 -- the form with two keys
                      AND l.granted))
               ORDER BY t.run_key, t.task_index
               LIMIT 1000"#,
            LOCK_CLASS,
            of.run().map(|run| run.0),
            &former,
            LEASE.as_secs_f64()
        )
        .fetch_all(&self.pool)
        .await
        .map_err(StoreError::query("look for orphaned attempts"))?;
        Ok(rows
            .into_iter()
            .map(|row| Orphan {
                task_run: TaskRunKey { run: RunKey(row.run_key), task: TaskIndex(row.task_index.cast_unsigned()) },
                fence: row.fence,
                worker: WorkerId(row.worker_id),
                lease_expired: row.expired,
            })
            .collect())
    }

    /// Whether that worker shows its sign of life now, and has renewed its leases within one's length: one that hangs
    /// with its connection open is as good as dead.
    pub async fn is_alive(&self, worker: WorkerId) -> Result<bool, StoreError> {
        sqlx::query_scalar!(
            r#"SELECT EXISTS (
                SELECT 1
                FROM pg_locks AS l
                WHERE l.locktype = 'advisory'
                  AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
                  AND l.classid = $1::int::oid
                  AND l.objid = ($2::bigint % 2147483648)::int::oid
                  AND l.objsubid = 2
                  AND l.granted)
               AND EXISTS (
                SELECT 1
                FROM worker
                WHERE id = $2 AND seen_at > clock_timestamp() - make_interval(secs => $3)) AS "alive!""#,
            LOCK_CLASS,
            worker.0,
            LEASE.as_secs_f64()
        )
        .fetch_one(&self.pool)
        .await
        .map_err(StoreError::query("look for a worker's sign of life"))
    }

    /// Takes unfinished runs from processes that drove them and are gone, so that any worker may go on with them; says
    /// which. A process that was killed shows its sign of life until Postgres notices; a second without one tells.
    pub async fn adopt_runs(&self) -> Result<Vec<RunKey>, StoreError> {
        let rows = sqlx::query_scalar!(
            r#"UPDATE run AS r
               SET owner_id = NULL, version = r.version + 1
               FROM worker AS w
               WHERE w.id = r.owner_id
                 AND r.state IN ('queued', 'running')
                 AND (w.ended_at IS NOT NULL OR w.seen_at < clock_timestamp() - make_interval(secs => $2))
                 AND NOT EXISTS (
                    SELECT 1
                    FROM pg_locks AS l
                    WHERE l.locktype = 'advisory'
                      AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
                      AND l.classid = $1::int::oid
                      AND l.objid = (r.owner_id % 2147483648)::int::oid
                      AND l.objsubid = 2
                      AND l.granted)
               RETURNING r.id"#,
            LOCK_CLASS,
            LEASE.as_secs_f64()
        )
        .fetch_all(&self.pool)
        .await
        .map_err(StoreError::query("take runs over"))?;
        Ok(rows.into_iter().map(RunKey).collect())
    }

    /// Where that worker runs: host and process id.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] when there is no such worker: rows that name one refer to it.
    pub async fn worker_place(&self, worker: WorkerId) -> Result<(String, u32), StoreError> {
        let row = sqlx::query!("SELECT hostname, pid FROM worker WHERE id = $1", worker.0)
            .fetch_optional(&self.pool)
            .await
            .map_err(StoreError::query("look up a worker"))?;
        row.map(|row| (row.hostname, row.pid.cast_unsigned()))
            .ok_or_else(|| StoreError::Corrupt { what: "a worker", value: worker.0.to_string() })
    }
}

/// A running attempt that nobody seems to be running.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Orphan {
    /// The task run.
    pub task_run: TaskRunKey,
    /// The attempt's fence.
    pub fence: i64,
    /// Whose it was.
    pub worker: WorkerId,
    /// Whether its lease has ended, whatever the worker's sign of life says.
    pub lease_expired: bool,
}

/// The server process that answers on this connection now.
async fn backend_of(connection: &mut PgConnection) -> Result<i32, sqlx::Error> {
    sqlx::query_scalar!(r#"SELECT pg_backend_pid() AS "backend!""#).fetch_one(connection).await
}

async fn lock(connection: &mut PgConnection, id: i64) -> Result<i32, sqlx::Error> {
    let row = sqlx::query!(
        r#"SELECT pg_advisory_lock($1, ($2::bigint % 2147483648)::int) AS "locked", pg_backend_pid() AS "backend!""#,
        LOCK_CLASS,
        id
    )
    .fetch_one(connection)
    .await?;
    Ok(row.backend)
}
