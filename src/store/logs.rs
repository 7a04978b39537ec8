//! The logs of attempts: chunks of many lines, appended while the attempt runs.

use std::borrow::Borrow;

use crate::domain::ids::{AttemptKey, RunKey, TaskIndex};
use crate::store::{Store, StoreError, rows};

/// A part of an attempt's log.
#[derive(Debug, Clone)]
pub struct LogChunk {
    /// Whose.
    pub attempt: AttemptKey,
    /// Its number, from 0.
    pub seq: i32,
    /// Its lines.
    pub body: String,
}

impl Store {
    /// Appends chunks to the logs of attempts, each another one, in one commit. Of a chunk that is written again the longer
    /// one stands: it grows from one try to the next, and a statement that nobody waits for any more may come late.
    ///
    /// # Errors
    /// None of them is written.
    pub async fn append_logs(&self, chunks: &[impl Borrow<LogChunk>]) -> Result<(), StoreError> {
        let chunks = || chunks.iter().map(Borrow::<LogChunk>::borrow);
        let runs: Vec<i64> = chunks().map(|chunk| chunk.attempt.task_run.run.0).collect();
        let tasks: Vec<i32> = chunks().map(|chunk| chunk.attempt.task_run.task.0.cast_signed()).collect();
        let fences: Vec<i64> = chunks().map(|chunk| chunk.attempt.fence).collect();
        let places: Vec<i32> = chunks().map(|chunk| chunk.seq).collect();
        let bodies: Vec<String> = chunks().map(|chunk| rows::text(&chunk.body)).collect();
        sqlx::query!(
            "INSERT INTO attempt_log (run_key, task_index, fence, seq, body)
             SELECT * FROM unnest($1::bigint[], $2::int[], $3::bigint[], $4::int[], $5::text[])
             ON CONFLICT (run_key, task_index, fence, seq) DO UPDATE SET body = EXCLUDED.body
             WHERE length(EXCLUDED.body) > length(attempt_log.body)",
            &runs,
            &tasks,
            &fences,
            &places,
            &bodies,
        )
        .execute(&self.pool)
        .await
        .map_err(StoreError::query("write the logs of tasks"))?;
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
