//! What stands in the database as a whole: the schema's version, how much there is, and whether it is anybody's.

use crate::store::{Store, StoreError};

/// The version of the schema, in the database and in this binary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Schema {
    /// The last migration that was applied; none in a database without pinsched's tables.
    pub applied: Option<i64>,
    /// The last migration that this binary knows.
    pub known: i64,
}

impl Schema {
    /// Whether the database is what this binary works with.
    #[must_use]
    pub fn is_current(self) -> bool {
        self.applied == Some(self.known)
    }
}

/// What a look at the database tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// The server's version, as it says it.
    pub server: String,
    /// The database's size on disk.
    pub bytes: i64,
    /// DAGs that are known.
    pub dags: i64,
    /// Runs, finished ones included.
    pub runs: i64,
    /// Of them, those that are not over.
    pub unfinished: i64,
    /// Processes that show their sign of life.
    pub alive: i64,
    /// Indexes that a build left invalid.
    pub invalid_indexes: Vec<String>,
}

impl Store {
    /// The schema's version, here and there.
    pub async fn schema(&self) -> Result<Schema, StoreError> {
        let failed = StoreError::query("read the schema's version");
        // Not checked when it is compiled: the table is sqlx's own, and may not be there.
        let is_there: bool = sqlx::query_scalar("SELECT to_regclass('_sqlx_migrations') IS NOT NULL")
            .fetch_one(&self.pool)
            .await
            .map_err(&failed)?;
        let applied = match is_there {
            true => sqlx::query_scalar("SELECT max(version) FROM _sqlx_migrations WHERE success")
                .fetch_one(&self.pool)
                .await
                .map_err(&failed)?,
            false => None,
        };
        let known = sqlx::migrate!().iter().map(|migration| migration.version).max().unwrap_or_default();
        Ok(Schema { applied, known })
    }

    /// Counts what there is. The schema must be current.
    pub async fn facts(&self) -> Result<Facts, StoreError> {
        let failed = StoreError::query("look at the database");
        let row = sqlx::query!(
            r#"SELECT current_setting('server_version') AS "server!",
                      pg_database_size(current_database()) AS "bytes!",
                      (SELECT count(*) FROM dag) AS "dags!",
                      (SELECT count(*) FROM run) AS "runs!",
                      (SELECT count(*) FROM run WHERE state IN ('queued', 'running')) AS "unfinished!",
                      COALESCE((SELECT array_agg(c.relname::text ORDER BY c.relname)
                                FROM pg_index AS i
                                JOIN pg_class AS c ON c.oid = i.indexrelid
                                WHERE NOT i.indisvalid), '{}') AS "invalid_indexes!""#
        )
        .fetch_one(&self.pool)
        .await
        .map_err(failed)?;
        Ok(Facts {
            server: row.server,
            bytes: row.bytes,
            dags: row.dags,
            runs: row.runs,
            unfinished: row.unfinished,
            alive: self.workers_alive().await?,
            invalid_indexes: row.invalid_indexes,
        })
    }

    /// How many processes show their sign of life on this database.
    pub async fn workers_alive(&self) -> Result<i64, StoreError> {
        sqlx::query_scalar!(
            r#"SELECT count(*) AS "count!"
               FROM pg_locks AS l
               WHERE l.locktype = 'advisory'
                 AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
                 AND l.classid = $1::int::oid
                 AND l.objsubid = 2
                 AND l.granted"#,
            super::workers::LOCK_CLASS
        )
        .fetch_one(&self.pool)
        .await
        .map_err(StoreError::query("count the processes that work on the database"))
    }

    /// Whether the database has no table, view or sequence of anybody's.
    pub async fn is_empty(&self) -> Result<bool, StoreError> {
        sqlx::query_scalar!(
            r#"SELECT NOT EXISTS (
                SELECT
                FROM pg_class AS c
                JOIN pg_namespace AS n ON n.oid = c.relnamespace
                WHERE n.nspname <> 'information_schema' AND n.nspname NOT LIKE 'pg\_%'
                  AND c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S')) AS "empty!""#
        )
        .fetch_one(&self.pool)
        .await
        .map_err(StoreError::query("look whether the database is empty"))
    }
}
