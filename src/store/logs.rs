//! The logs of attempts: chunks of many lines, appended while the attempt runs.

use crate::domain::ids::{AttemptKey, RunKey, TaskIndex};
use crate::store::{Store, StoreError, rows};

impl Store {
    /// Appends a chunk to an attempt's log. `seq` numbers the chunks from 0; a chunk that is written again stands as it
    /// came last.
    pub async fn append_log(&self, attempt: AttemptKey, seq: i32, body: &str) -> Result<(), StoreError> {
        sqlx::query!(
            "INSERT INTO attempt_log (run_key, task_index, fence, seq, body)
             VALUES ($1, $2, $3, $4, $5)
             ON CONFLICT (run_key, task_index, fence, seq) DO UPDATE SET body = EXCLUDED.body",
            attempt.task_run.run.0,
            attempt.task_run.task.0.cast_signed(),
            attempt.fence,
            seq,
            rows::text(body),
        )
        .execute(&self.pool)
        .await
        .map_err(StoreError::query("write a task's log"))?;
        Ok(())
    }

    /// The chunks of an attempt's log from number `from` on, in order, at most 100: the same for live and for finished
    /// attempts.
    pub async fn read_log(
        &self,
        run: RunKey,
        task: TaskIndex,
        fence: i64,
        from: i32,
    ) -> Result<Vec<(i32, String)>, StoreError> {
        let rows = sqlx::query!(
            "SELECT seq, body
             FROM attempt_log
             WHERE run_key = $1 AND task_index = $2 AND fence = $3 AND seq >= $4
             ORDER BY seq
             LIMIT 100",
            run.0,
            task.0.cast_signed(),
            fence,
            from
        )
        .fetch_all(&self.pool)
        .await
        .map_err(StoreError::query("read a task's log"))?;
        Ok(rows.into_iter().map(|row| (row.seq, row.body)).collect())
    }
}
