//! The guard that every outside write of an attempt asks first.

use sqlx::{PgConnection, Postgres, Transaction};

use crate::domain::ids::AttemptKey;
use crate::store::{Store, StoreError};

impl Store {
    /// Fails when the attempt does not hold its task any more: call it before an outside write that fences nothing.
    ///
    /// # Errors
    /// [`StoreError::Fenced`] says how the task stands now.
    pub async fn check_fence(&self, attempt: AttemptKey) -> Result<(), StoreError> {
        let mut connection = self.pool.acquire().await.map_err(StoreError::query("check a lease"))?;
        check_fence(&mut connection, attempt).await
    }
}

impl Store {
    /// Begins a transaction for `action`, in which the attempt holds its task until the end.
    pub(in crate::store) async fn begin_fenced(
        &self,
        attempt: AttemptKey,
        action: &'static str,
    ) -> Result<Transaction<'static, Postgres>, StoreError> {
        let mut transaction = self.pool.begin().await.map_err(StoreError::query(action))?;
        check_fence(&mut transaction, attempt).await?;
        Ok(transaction)
    }
}

/// The same inside of a transaction: locks the task's row until its end, so that no claim comes in between.
pub(in crate::store) async fn check_fence(
    connection: &mut PgConnection,
    attempt: AttemptKey,
) -> Result<(), StoreError> {
    let row = sqlx::query!(
        "SELECT state, fence FROM task_run WHERE run_key = $1 AND task_index = $2 FOR SHARE",
        attempt.task_run.run.0,
        attempt.task_run.task.0.cast_signed(),
    )
    .fetch_optional(connection)
    .await
    .map_err(StoreError::query("check a lease"))?;
    match row {
        Some(row) if matches!(row.state.as_str(), "running" | "deferred") && row.fence == attempt.fence => Ok(()),
        Some(row) => {
            Err(StoreError::Fenced { attempt, found: format!("it is {} under fence {}", row.state, row.fence) })
        }
        None => Err(StoreError::Fenced { attempt, found: "it does not exist".to_owned() }),
    }
}
