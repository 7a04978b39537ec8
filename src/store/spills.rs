//! Where outputs were put that were too large for a row, by run: so that they go when their run does.

use crate::domain::ids::RunKey;
use crate::store::{Store, StoreError};

impl Store {
    /// Notes a place in object storage before something of the run is put there; again is fine.
    pub async fn note_spill(&self, run: RunKey, place: &str) -> Result<(), StoreError> {
        sqlx::query!(
            "INSERT INTO spill_place (place, run_key) VALUES ($1, $2) ON CONFLICT (place) DO NOTHING",
            place,
            run.0
        )
        .execute(&self.pool)
        .await
        .map_err(StoreError::query("note where an output goes"))?;
        Ok(())
    }

    /// Places of runs that are gone, by name and behind `after`, at most so many.
    pub async fn spills_to_delete(&self, after: &str, at_most: i64) -> Result<Vec<String>, StoreError> {
        sqlx::query_scalar!(
            "SELECT place FROM spill_place WHERE run_key IS NULL AND place > $1 ORDER BY place LIMIT $2",
            after,
            at_most
        )
        .fetch_all(&self.pool)
        .await
        .map_err(StoreError::query("look for outputs of runs that are gone"))
    }

    /// Forgets a place: nothing is there any more.
    pub async fn forget_spill(&self, place: &str) -> Result<(), StoreError> {
        sqlx::query!("DELETE FROM spill_place WHERE place = $1 AND run_key IS NULL", place)
            .execute(&self.pool)
            .await
            .map_err(StoreError::query("forget where outputs were"))?;
        Ok(())
    }
}
