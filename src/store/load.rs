//! How much there is to do: what waits and what runs, over all processes, for whoever watches.

use crate::store::{Store, StoreError};

/// What waits and what runs.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Load {
    /// Tasks that are queued.
    pub queued: i64,
    /// Tasks that wait for another try.
    pub up_for_retry: i64,
    /// Tasks that run.
    pub running: i64,
    /// Tasks that wait for something outside.
    pub deferred: i64,
    /// For how long the task is ready that waits longest; 0 when none is.
    pub oldest_seconds: f64,
    /// Runs that wait for their turn.
    pub runs_queued: i64,
    /// Runs that have begun.
    pub runs_running: i64,
    /// DAG files that are broken.
    pub broken_files: i64,
}

impl Store {
    /// Counts what is not over: by partial indexes, so that it costs what is there to do, however long the history is.
    pub async fn load(&self) -> Result<Load, StoreError> {
        sqlx::query_as!(
            Load,
            r#"SELECT waiting.queued AS "queued!", waiting.up_for_retry AS "up_for_retry!", waiting.oldest AS "oldest_seconds!",
                      busy.running AS "running!", busy.deferred AS "deferred!",
                      runs.queued AS "runs_queued!", runs.running AS "runs_running!",
                      (SELECT count(*) FROM import_error) AS "broken_files!"
               FROM (SELECT count(*) FILTER (WHERE state = 'queued') AS queued,
                            count(*) FILTER (WHERE state = 'up_for_retry') AS up_for_retry,
                            GREATEST(COALESCE(extract(epoch FROM clock_timestamp() - min(ready_at))::float8, 0), 0) AS oldest
                     FROM task_run
                     WHERE state IN ('queued', 'up_for_retry')) AS waiting,
                    (SELECT count(*) FILTER (WHERE state = 'running') AS running,
                            count(*) FILTER (WHERE state = 'deferred') AS deferred
                     FROM task_run
                     WHERE state IN ('running', 'deferred')) AS busy,
                    (SELECT count(*) FILTER (WHERE state = 'queued') AS queued,
                            count(*) FILTER (WHERE state = 'running') AS running
                     FROM run
                     WHERE state IN ('queued', 'running')) AS runs"#
        )
        .fetch_one(&self.pool)
        .await
        .map_err(StoreError::query("count what there is to do"))
    }
}
