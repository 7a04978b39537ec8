//! Backfills: runs over a stretch of the past, made at once, each in its turn under the backfill's own limit.

use std::collections::BTreeMap;

use sqlx::PgConnection;

use crate::domain::Timestamp;
use crate::domain::ids::DagId;
use crate::domain::run_state::RunState;
use crate::store::creation::{Turn, insert_run, keep_version};
use crate::store::runs::cancel_runs;
use crate::store::{DagKey, NewRun, Store, StoreError, rows};

/// The key of a backfill, as people name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(transparent)]
pub struct BackfillId(pub i64);

/// A backfill, as stored, with how its runs stand.
#[derive(Debug, Clone)]
pub struct Backfill {
    /// Its key.
    pub id: BackfillId,
    /// The DAG.
    pub dag_id: DagId,
    /// From this instant on.
    pub from: Timestamp,
    /// Up to this one, not included.
    pub to: Timestamp,
    /// Runs at once.
    pub max_active_runs: i32,
    /// Whether its waiting runs do not begin.
    pub is_paused: bool,
    /// When it was made.
    pub created_at: Timestamp,
    /// When somebody cancelled it.
    pub cancelled_at: Option<Timestamp>,
    /// How many of its runs stand where.
    pub runs: BTreeMap<&'static str, i64>,
}

/// A backfill to be made.
pub struct NewBackfill<'a> {
    /// The DAG.
    pub dag: DagKey,
    /// From this instant on.
    pub from: Timestamp,
    /// Up to this one, not included.
    pub to: Timestamp,
    /// Runs at once.
    pub max_active_runs: u32,
    /// Its runs, in the order in which they begin. All are of one version of one DAG.
    pub runs: Vec<NewRun<'a>>,
}

/// What became of a wish about a backfill.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BackfillChange {
    /// It is done.
    Done,
    /// The backfill is over: nothing changed.
    Over(BackfillEnd),
    /// There is no such backfill.
    Unknown,
}

/// How a backfill came to be over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BackfillEnd {
    /// Somebody cancelled it.
    Cancelled,
    /// All of its runs are over.
    Done,
}

impl BackfillEnd {
    /// In a word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Cancelled => "cancelled",
            Self::Done => "done",
        }
    }
}

/// Whether a backfill's waiting runs may begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BackfillPause {
    /// They stay where they are.
    Paused,
    /// They begin, each in its turn.
    Resumed,
}

impl Store {
    /// Makes a backfill with all of its runs, in one transaction.
    ///
    /// # Errors
    /// [`StoreError::RunExists`] when somebody made a run of one of its dates meanwhile: nothing was made.
    pub async fn create_backfill(&self, new: &NewBackfill<'_>, now: Timestamp) -> Result<BackfillId, StoreError> {
        let failed = StoreError::query("make a backfill");
        let mut transaction = self.pool.begin().await.map_err(&failed)?;
        let id = sqlx::query_scalar!(
            "INSERT INTO backfill (dag_key, from_date, to_date, max_active_runs, created_at)
             VALUES ($1, $2, $3, $4, $5)
             RETURNING id",
            new.dag.0,
            new.from,
            new.to,
            rows::stored(new.max_active_runs),
            now
        )
        .fetch_one(&mut *transaction)
        .await
        .map_err(&failed)?;
        let mut version = None;
        for (place, run) in new.runs.iter().enumerate() {
            let version = match version {
                Some(version) => version,
                None => {
                    let kept = keep_version(&mut transaction, run.dag.id(), run.file, run.source, now).await?;
                    *version.insert(kept)
                }
            };
            let run = insert_run(&mut transaction, run, new.dag.0, version, Turn::Later, now).await?;
            sqlx::query!(
                "UPDATE run SET backfill_id = $2, backfill_place = $3 WHERE id = $1",
                run.key.0,
                id,
                i32::try_from(place).unwrap_or(i32::MAX)
            )
            .execute(&mut *transaction)
            .await
            .map_err(&failed)?;
        }
        transaction.commit().await.map_err(&failed)?;
        Ok(BackfillId(id))
    }

    /// The latest run of each of these logical dates of a DAG that has one: where it stands, and which it is of its date.
    pub async fn latest_runs(
        &self,
        dag: &DagId,
        dates: &[Timestamp],
    ) -> Result<BTreeMap<Timestamp, (RunState, i32)>, StoreError> {
        let rows = sqlx::query!(
            r#"SELECT DISTINCT ON (logical_date) logical_date, state AS "state!", rerun
               FROM run
               WHERE dag_id = $1 AND logical_date = ANY ($2)
               ORDER BY logical_date, rerun DESC"#,
            dag.as_str(),
            dates
        )
        .fetch_all(&self.pool)
        .await
        .map_err(StoreError::query("look for a DAG's runs"))?;
        rows.into_iter().map(|row| Ok((row.logical_date, (rows::run_state(&row.state)?, row.rerun)))).collect()
    }

    /// Backfills, newest first, at most 100.
    pub async fn backfills(&self) -> Result<Vec<Backfill>, StoreError> {
        let rows = sqlx::query!(
            r#"SELECT b.id, d.dag_id, b.from_date, b.to_date, b.max_active_runs, b.is_paused, b.created_at, b.cancelled_at,
                      count(r.id) FILTER (WHERE r.state = 'queued') AS "queued!",
                      count(r.id) FILTER (WHERE r.state = 'running') AS "running!",
                      count(r.id) FILTER (WHERE r.state = 'success') AS "success!",
                      count(r.id) FILTER (WHERE r.state = 'failed') AS "failed!"
               FROM (SELECT * FROM backfill ORDER BY id DESC LIMIT 100) AS b
               JOIN dag AS d ON d.id = b.dag_key
               LEFT JOIN run AS r ON r.backfill_id = b.id
               GROUP BY b.id, d.dag_id, b.from_date, b.to_date, b.max_active_runs, b.is_paused, b.created_at, b.cancelled_at
               ORDER BY b.id DESC"#
        )
        .fetch_all(&self.pool)
        .await
        .map_err(StoreError::query("list backfills"))?;
        rows.into_iter()
            .map(|row| {
                let runs = [
                    (RunState::Queued, row.queued),
                    (RunState::Running, row.running),
                    (RunState::Success, row.success),
                    (RunState::Failed, row.failed),
                ];
                Ok(Backfill {
                    id: BackfillId(row.id),
                    dag_id: rows::id("a DAG id", &row.dag_id)?,
                    from: row.from_date,
                    to: row.to_date,
                    max_active_runs: row.max_active_runs,
                    is_paused: row.is_paused,
                    created_at: row.created_at,
                    cancelled_at: row.cancelled_at,
                    runs: runs.into_iter().map(|(state, count)| (state.as_str(), count)).collect(),
                })
            })
            .collect()
    }

    /// Lets no more of a backfill's runs begin, or lets them begin again. One that is over stays as it is.
    pub async fn pause_backfill(&self, id: BackfillId, pause: BackfillPause) -> Result<BackfillChange, StoreError> {
        let failed = StoreError::query("pause a backfill");
        let mut transaction = self.pool.begin().await.map_err(&failed)?;
        let standing = lock_backfill(&mut transaction, id).await?;
        if standing == BackfillChange::Done {
            let is_paused = pause == BackfillPause::Paused;
            sqlx::query!("UPDATE backfill SET is_paused = $2 WHERE id = $1", id.0, is_paused)
                .execute(&mut *transaction)
                .await
                .map_err(&failed)?;
            transaction.commit().await.map_err(&failed)?;
        }
        Ok(standing)
    }

    /// Cancels a backfill: its waiting runs never begin, and those that go on are cancelled. One that is over stays as it is.
    pub async fn cancel_backfill(&self, id: BackfillId, now: Timestamp) -> Result<BackfillChange, StoreError> {
        let failed = StoreError::query("cancel a backfill");
        let mut transaction = self.pool.begin().await.map_err(&failed)?;
        let standing = lock_backfill(&mut transaction, id).await?;
        if standing != BackfillChange::Done {
            return Ok(standing);
        }
        sqlx::query!("UPDATE backfill SET cancelled_at = $2 WHERE id = $1", id.0, now)
            .execute(&mut *transaction)
            .await
            .map_err(&failed)?;
        let runs = sqlx::query_scalar!(
            "SELECT id FROM run WHERE backfill_id = $1 AND state IN ('queued', 'running') ORDER BY id",
            id.0
        )
        .fetch_all(&mut *transaction)
        .await
        .map_err(&failed)?;
        cancel_runs(&mut transaction, &runs, Some("its backfill was cancelled"), now).await?;
        transaction.commit().await.map_err(&failed)?;
        Ok(standing)
    }
}

/// Whether something can be done to a backfill; its row is locked until the transaction's end.
async fn lock_backfill(connection: &mut PgConnection, id: BackfillId) -> Result<BackfillChange, StoreError> {
    let row = sqlx::query!(
        r#"SELECT cancelled_at IS NOT NULL AS "is_cancelled!",
                  EXISTS (SELECT 1 FROM run AS r WHERE r.backfill_id = b.id AND r.state IN ('queued', 'running')) AS "goes_on!"
           FROM backfill AS b
           WHERE id = $1
           FOR UPDATE"#,
        id.0
    )
    .fetch_optional(connection)
    .await
    .map_err(StoreError::query("look at a backfill"))?;
    Ok(match row {
        None => BackfillChange::Unknown,
        Some(row) if row.is_cancelled => BackfillChange::Over(BackfillEnd::Cancelled),
        Some(row) if !row.goes_on => BackfillChange::Over(BackfillEnd::Done),
        Some(_) => BackfillChange::Done,
    })
}
