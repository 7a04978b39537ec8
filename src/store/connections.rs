//! Connections that people keep in the database: sealed bytes under their ids. What they mean, and the keys, are others'.

use crate::domain::Timestamp;
use crate::store::{Store, StoreError};

impl Store {
    /// A connection's sealed bytes, where the database has it.
    pub async fn connection(&self, id: &str) -> Result<Option<Vec<u8>>, StoreError> {
        sqlx::query_scalar!("SELECT sealed FROM connection WHERE id = $1", id)
            .fetch_optional(&self.pool)
            .await
            .map_err(StoreError::query("look a connection up"))
    }

    /// All connections' ids and sealed bytes, in order.
    pub async fn connections(&self) -> Result<Vec<(String, Vec<u8>)>, StoreError> {
        let rows = sqlx::query!("SELECT id, sealed FROM connection ORDER BY id")
            .fetch_all(&self.pool)
            .await
            .map_err(StoreError::query("list the connections"))?;
        Ok(rows.into_iter().map(|row| (row.id, row.sealed)).collect())
    }

    /// Keeps a connection, in the place of one of the same id. Committed when it returns.
    pub async fn put_connection(&self, id: &str, sealed: &[u8], now: Timestamp) -> Result<(), StoreError> {
        sqlx::query!(
            "INSERT INTO connection (id, sealed, updated_at)
             VALUES ($1, $2, $3)
             ON CONFLICT (id) DO UPDATE SET sealed = EXCLUDED.sealed, updated_at = EXCLUDED.updated_at",
            id,
            sealed,
            now,
        )
        .execute(&self.pool)
        .await
        .map_err(StoreError::query("keep a connection"))?;
        Ok(())
    }

    /// Seals a connection anew if its bytes are still `from`; whether they were.
    pub async fn reseal_connection_if(&self, id: &str, from: &[u8], to: &[u8]) -> Result<bool, StoreError> {
        let done = sqlx::query!("UPDATE connection SET sealed = $3 WHERE id = $1 AND sealed = $2", id, from, to)
            .execute(&self.pool)
            .await
            .map_err(StoreError::query("seal a connection anew"))?;
        Ok(done.rows_affected() > 0)
    }

    /// Removes a connection; whether there was one. Committed when it returns.
    pub async fn delete_connection(&self, id: &str) -> Result<bool, StoreError> {
        let done = sqlx::query!("DELETE FROM connection WHERE id = $1", id)
            .execute(&self.pool)
            .await
            .map_err(StoreError::query("delete a connection"))?;
        Ok(done.rows_affected() > 0)
    }
}
