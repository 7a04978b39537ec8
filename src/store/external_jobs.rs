//! What tasks asked of other systems: kept before they ask, so that a later attempt of the same try goes on with it.

use serde_json::Value;

use crate::domain::Timestamp;
use crate::domain::ids::AttemptKey;
use crate::store::{Store, StoreError, rows};

/// A job of another system, as a task's try knows it.
#[derive(Debug, Clone, PartialEq)]
pub struct ExternalJob {
    /// What the other system is to know the request again by.
    pub token: String,
    /// What it answered; nothing where no attempt has seen an answer.
    pub handle: Option<Value>,
    /// When the first attempt was about to ask.
    pub begun_at: Timestamp,
    /// Whether an earlier attempt was about to ask.
    pub was_begun: bool,
}

impl Store {
    /// Keeps that the attempt is about to ask another system for something, unless an earlier attempt of its try was:
    /// then what that one kept stands.
    ///
    /// Committed when it returns.
    ///
    /// # Errors
    /// [`StoreError::Fenced`] when the attempt lost its lease, so that it must not ask.
    pub async fn begin_external_job(
        &self,
        attempt: AttemptKey,
        token: &str,
        now: Timestamp,
    ) -> Result<ExternalJob, StoreError> {
        let failed = StoreError::query("keep that a job begins");
        let mut transaction = self.begin_fenced(attempt, "keep that a job begins").await?;
        let row = sqlx::query!(
            r#"INSERT INTO external_job AS j (run_key, task_index, try_number, token, begun_at, fence)
               VALUES ($1, $2, $3, $4, $5, $6)
               ON CONFLICT (run_key, task_index, try_number) DO UPDATE SET fence = EXCLUDED.fence
               RETURNING token, handle, begun_at, (xmax <> 0) AS "was_begun!""#,
            attempt.task_run.run.0,
            attempt.task_run.task.0.cast_signed(),
            attempt.try_number,
            rows::text(token),
            now,
            attempt.fence,
        )
        .fetch_one(&mut *transaction)
        .await
        .map_err(&failed)?;
        transaction.commit().await.map_err(&failed)?;
        Ok(ExternalJob { token: row.token, handle: row.handle, begun_at: row.begun_at, was_begun: row.was_begun })
    }

    /// Keeps what the other system answered.
    ///
    /// # Errors
    /// [`StoreError::Fenced`] when the attempt lost its lease: the one that holds the task asks with the same token.
    pub async fn keep_external_handle(&self, attempt: AttemptKey, handle: &Value) -> Result<(), StoreError> {
        let failed = StoreError::query("keep what a job is known by");
        let mut transaction = self.begin_fenced(attempt, "keep what a job is known by").await?;
        sqlx::query!(
            "UPDATE external_job SET handle = $4, fence = $5
             WHERE run_key = $1 AND task_index = $2 AND try_number = $3",
            attempt.task_run.run.0,
            attempt.task_run.task.0.cast_signed(),
            attempt.try_number,
            rows::json(handle),
            attempt.fence,
        )
        .execute(&mut *transaction)
        .await
        .map_err(&failed)?;
        transaction.commit().await.map_err(&failed)?;
        Ok(())
    }
}
