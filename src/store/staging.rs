//! Which of the files that emulate's attempts staged are the run's.

use crate::domain::ids::{AttemptKey, TaskRunKey};
use crate::store::{Store, StoreError};

/// A manifest in object storage, and what it must hash to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Staged {
    /// The bucket of the manifest and of the files that it lists.
    pub bucket: String,
    /// The manifest's key.
    pub manifest: String,
    /// The manifest's SHA-256, in hex.
    pub sha256: String,
}

impl Store {
    /// The manifest that won, if one did.
    pub async fn staged(&self, task_run: TaskRunKey) -> Result<Option<Staged>, StoreError> {
        sqlx::query_as!(
            Staged,
            "SELECT bucket, manifest, sha256 FROM staging WHERE run_key = $1 AND task_index = $2",
            task_run.run.0,
            task_run.task.0.cast_signed(),
        )
        .fetch_optional(&self.pool)
        .await
        .map_err(StoreError::query("read which files were staged"))
    }

    /// Names the attempt's manifest as the run's unless another one was named before; returns the one that stands.
    ///
    /// Committed when it returns. Called again by whatever attempt, it returns the same.
    ///
    /// # Errors
    /// [`StoreError::Fenced`] when the attempt lost its lease, so that a zombie's files never win.
    pub async fn stage_if_first(&self, attempt: AttemptKey, staged: &Staged) -> Result<Staged, StoreError> {
        let failed = StoreError::query("name the staged files");
        let mut transaction = self.begin_fenced(attempt, "name the staged files").await?;
        let (run, task) = (attempt.task_run.run.0, attempt.task_run.task.0.cast_signed());
        sqlx::query!(
            "INSERT INTO staging (run_key, task_index, fence, bucket, manifest, sha256)
             VALUES ($1, $2, $3, $4, $5, $6)
             ON CONFLICT (run_key, task_index) DO NOTHING",
            run,
            task,
            attempt.fence,
            staged.bucket,
            staged.manifest,
            staged.sha256,
        )
        .execute(&mut *transaction)
        .await
        .map_err(&failed)?;
        let winner = sqlx::query_as!(
            Staged,
            "SELECT bucket, manifest, sha256 FROM staging WHERE run_key = $1 AND task_index = $2",
            run,
            task,
        )
        .fetch_one(&mut *transaction)
        .await
        .map_err(&failed)?;
        transaction.commit().await.map_err(&failed)?;
        Ok(winner)
    }
}
