//! Pools: so many slots, which tasks take while they run.

use crate::store::{Store, StoreError};

/// A pool, and how it is used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pool {
    /// Its name.
    pub name: String,
    /// How many slots it has.
    pub slots: i32,
    /// How many of them running tasks take.
    pub used: i64,
    /// How many slots ready tasks wait for.
    pub waiting: i64,
    /// What it is for.
    pub description: Option<String>,
}

impl Store {
    /// Makes a pool, or changes it; a smaller one stops nothing that runs.
    pub async fn set_pool(&self, name: &str, slots: u32, description: Option<&str>) -> Result<(), StoreError> {
        sqlx::query!(
            "INSERT INTO pool (name, slots, description) VALUES ($1, $2, $3)
             ON CONFLICT (name) DO UPDATE
                SET slots = EXCLUDED.slots, description = COALESCE(EXCLUDED.description, pool.description)",
            name,
            i32::try_from(slots).unwrap_or(i32::MAX),
            description
        )
        .execute(&self.pool)
        .await
        .map_err(StoreError::query("set a pool"))?;
        Ok(())
    }

    /// Deletes a pool; says whether there was one. Tasks that name it make it anew, at the default's size, by their next run.
    pub async fn delete_pool(&self, name: &str) -> Result<bool, StoreError> {
        let done = sqlx::query!("DELETE FROM pool WHERE name = $1", name)
            .execute(&self.pool)
            .await
            .map_err(StoreError::query("delete a pool"))?;
        Ok(done.rows_affected() == 1)
    }

    /// The pools by name, at most 1,000.
    pub async fn pools(&self) -> Result<Vec<Pool>, StoreError> {
        sqlx::query_as!(
            Pool,
            r#"SELECT p.name, p.slots, p.slots - f.free AS "used!", p.description,
                      (SELECT COALESCE(sum(t.pool_slots), 0)
                       FROM task_run AS t
                       WHERE t.pool = p.name AND t.is_limited AND t.state IN ('queued', 'up_for_retry')) AS "waiting!"
               FROM pool AS p
               JOIN pool_free AS f ON f.name = p.name
               ORDER BY p.name
               LIMIT 1000"#
        )
        .fetch_all(&self.pool)
        .await
        .map_err(StoreError::query("list the pools"))
    }
}
