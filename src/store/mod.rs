//! pinsched's own state in Postgres: the only room with its SQL. One file per noun, one function per query.
//!
//! What a function writes is one transaction: when the process dies in the middle of it, nothing of it happened. (A
//! [`Stepper`]'s step may take several, each of them whole.) None is open while an operator runs.

mod address;
mod backfills;
mod connections;
mod control;
mod creation;
mod dags;
mod error;
mod exports;
mod external_jobs;
mod fence;
mod history;
mod listening;
mod load;
mod logs;
mod notices;
mod pools;
pub mod production;
pub mod retention;
mod rows;
mod runs;
mod schema;
mod sealing;
mod sinking;
mod spills;
pub mod staging;
mod steps;
mod tasks;
mod variables;
mod why;
mod workers;

use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use sqlx::postgres::{PgPool, PgPoolOptions};
use sqlx::{Connection, PgConnection};

pub use backfills::{Backfill, BackfillChange, BackfillEnd, BackfillId, BackfillPause, NewBackfill};
pub use control::{Changed, Mode, Request};
pub use creation::{Begin, DagVersionId, NewRun};
pub use dags::{DagKey, DagRegistration, DagState, Fired, ImportError, Pause, Tick};
pub use error::StoreError;
pub use exports::{DueExport, ExportKind, ExportedAttempt, Exports, RunEnd, TaskAttempt};
pub use external_jobs::ExternalJob;
pub use history::Transition;
pub use listening::{Listener, Word};
pub use load::Load;
pub use logs::LogChunk;
pub use notices::{Due, Notification};
pub use pools::Pool;
pub use runs::{Run, RunSource, RunsHeld, SHORTEST_OF_UUID};
pub use schema::{Facts, Schema};
pub use sealing::{Kind, SealError, SecretKeys};
pub use sinking::SinkClaimError;
pub use steps::{Claim, ClaimOf, Claimed, EndedAttempt, RunBatch, Step, Stepped, Stepper};
pub use tasks::{AttemptRecord, InstancePlace, TaskPlace, TaskRun};
pub use why::{Deferral, Limit, TaskBeforeClaim};
pub use workers::{LEASE, Orphan, SignOfLife, WorkerId};

/// A handle on the database; clones share one pool.
#[derive(Debug, Clone)]
pub struct Store {
    pool: PgPool,
}

/// How long a caller waits for a connection before it is told that the database does not answer.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

impl Store {
    /// Connects with at most `connections` connections; does not migrate.
    ///
    /// # Errors
    /// [`StoreError::Unreachable`] names host and database, never the password; [`StoreError::Parameter`] nothing of the URL.
    pub async fn connect(url: &SecretString, connections: u32) -> Result<Self, StoreError> {
        Self::connect_telling(url, connections, Exports::default()).await
    }

    /// The same; what this process changes of runs is told to who gathers that.
    ///
    /// # Errors
    /// As [`Self::connect`].
    pub async fn connect_telling(url: &SecretString, connections: u32, exports: Exports) -> Result<Self, StoreError> {
        address::check(url)?;
        // A pool tries again and again until its patience ends, and then has forgotten why: one plain try tells.
        let unreachable = |source| StoreError::unreachable(url, source);
        match tokio::time::timeout(CONNECT_TIMEOUT, PgConnection::connect(url.expose_secret())).await {
            Ok(connection) => connection.map_err(unreachable)?.close().await.map_err(unreachable)?,
            Err(_) => return Err(unreachable(sqlx::Error::PoolTimedOut)),
        }
        let pool = PgPoolOptions::new()
            .max_connections(connections)
            .acquire_timeout(CONNECT_TIMEOUT)
            .after_connect(move |connection, _| {
                Box::pin(async move {
                    settle(connection).await?;
                    tell(connection, exports).await
                })
            })
            .connect(url.expose_secret())
            .await
            .map_err(unreachable)?;
        Ok(Self { pool })
    }

    /// A connection of its own, outside of the pool.
    async fn connect_alone(&self) -> Result<PgConnection, sqlx::Error> {
        let mut connection = PgConnection::connect_with(&self.pool.connect_options()).await?;
        settle(&mut connection).await?;
        Ok(connection)
    }

    /// Whether the database has pinsched's tables, of whichever version.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn has_tables(&self) -> Result<bool, StoreError> {
        sqlx::query_scalar!(r#"SELECT to_regclass('task_run') IS NOT NULL AS "there!""#)
            .fetch_one(&self.pool)
            .await
            .map_err(StoreError::query("look for pinsched's tables"))
    }

    /// Brings the schema up to this binary's version. Safe to call from several processes at once.
    ///
    /// # Errors
    /// [`StoreError::Migrate`] when a migration fails or the database is newer than this binary.
    pub async fn migrate(&self) -> Result<(), StoreError> {
        // On a plain connection: whoever comes second waits for the first for as long as its migrations take.
        let failed = StoreError::query("connect for the migrations");
        let mut connection = PgConnection::connect_with(&self.pool.connect_options()).await.map_err(&failed)?;
        sqlx::migrate!().run(&mut connection).await.map_err(StoreError::migrate)?;
        connection.close().await.map_err(failed)
    }
}

/// Lets what a session changes of runs be told: the tables' triggers look at this.
async fn tell(connection: &mut PgConnection, exports: Exports) -> Result<(), sqlx::Error> {
    let kinds = exports.kinds().join(",");
    if !kinds.is_empty() {
        let set = sqlx::AssertSqlSafe(format!("SET pinsched.exports = '{kinds}'")); // of words of our own
        sqlx::raw_sql(set).execute(connection).await?;
    }
    Ok(())
}

/// Sets what a session of pinsched's needs. A process that hangs in the middle of a transaction must not hold its locks
/// beyond its leases, whoever waits for a lock learns so, and a step that reads what others wrote meanwhile counts on
/// the usual isolation, whatever the server's default is.
///
/// The statements are few and always the same: they are planned once a session, and by index where there is one, even
/// while a table is too young for statistics to say that it will not stay small.
async fn settle(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    // As plain text: a prepared statement may stand already behind a pooler, which is to be told as what it is later on.
    sqlx::raw_sql(
        "SET idle_in_transaction_session_timeout = '10s';
         SET lock_timeout = '4s';
         SET tcp_user_timeout = '10s';
         SET default_transaction_isolation = 'read committed';
         SET plan_cache_mode = 'force_generic_plan';
         SET enable_seqscan = off;
         SET jit = off",
    )
    .execute(connection)
    .await?;
    Ok(())
}
