//! Variables that people keep in the database: sealed bytes under their names. What they mean, and the keys, are others'.

use crate::domain::Timestamp;
use crate::store::{Store, StoreError};

impl Store {
    /// A variable's sealed bytes, where the database has it.
    pub async fn variable(&self, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
        sqlx::query_scalar!("SELECT sealed FROM variable WHERE name = $1", name)
            .fetch_optional(&self.pool)
            .await
            .map_err(StoreError::query("look a variable up"))
    }

    /// All variables' names and sealed bytes, in order.
    pub async fn variables(&self) -> Result<Vec<(String, Vec<u8>)>, StoreError> {
        let rows = sqlx::query!("SELECT name, sealed FROM variable ORDER BY name")
            .fetch_all(&self.pool)
            .await
            .map_err(StoreError::query("list the variables"))?;
        Ok(rows.into_iter().map(|row| (row.name, row.sealed)).collect())
    }

    /// Keeps a variable, in the place of one of the same name. Committed when it returns.
    pub async fn put_variable(&self, name: &str, sealed: &[u8], now: Timestamp) -> Result<(), StoreError> {
        sqlx::query!(
            "INSERT INTO variable (name, sealed, updated_at)
             VALUES ($1, $2, $3)
             ON CONFLICT (name) DO UPDATE SET sealed = EXCLUDED.sealed, updated_at = EXCLUDED.updated_at",
            name,
            sealed,
            now,
        )
        .execute(&self.pool)
        .await
        .map_err(StoreError::query("keep a variable"))?;
        Ok(())
    }

    /// Seals a variable anew if its bytes are still `from`; whether they were.
    pub async fn reseal_variable_if(&self, name: &str, from: &[u8], to: &[u8]) -> Result<bool, StoreError> {
        let done = sqlx::query!("UPDATE variable SET sealed = $3 WHERE name = $1 AND sealed = $2", name, from, to)
            .execute(&self.pool)
            .await
            .map_err(StoreError::query("seal a variable anew"))?;
        Ok(done.rows_affected() > 0)
    }

    /// Removes a variable; whether there was one. Committed when it returns.
    pub async fn delete_variable(&self, name: &str) -> Result<bool, StoreError> {
        let done = sqlx::query!("DELETE FROM variable WHERE name = $1", name)
            .execute(&self.pool)
            .await
            .map_err(StoreError::query("delete a variable"))?;
        Ok(done.rows_affected() > 0)
    }
}
