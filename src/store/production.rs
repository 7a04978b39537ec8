//! Where a run's records begin and end in its topics, and how far a produce without transactions is.

use std::collections::BTreeMap;

use sqlx::PgConnection;

use crate::domain::ids::{AttemptKey, TaskRunKey};
use crate::store::{Store, StoreError};

/// What is known of one task's records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Production {
    /// Whether Kafka's transactions carry the progress.
    pub transactional: bool,
    /// Whether the progress must be found in Kafka by now.
    pub begun: bool,
    /// How many rows are acknowledged; without transactions only.
    pub rows_done: u64,
    /// How many records of each topic were dead-lettered by then; without transactions only.
    pub dead_lettered: BTreeMap<String, u64>,
    /// Each topic's partitions.
    pub ranges: BTreeMap<String, BTreeMap<i32, OffsetRange>>,
}

/// Where records stand in one partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OffsetRange {
    /// The first record's offset, or a lower one.
    pub start: i64,
    /// One past the last record's offset, once that is known.
    pub end: Option<i64>,
}

/// An offset of each topic's partitions.
pub type Offsets = BTreeMap<String, BTreeMap<i32, i64>>;

/// The same as three columns, as `unnest` takes them.
fn columns(offsets: &Offsets) -> (Vec<String>, Vec<i32>, Vec<i64>) {
    let (mut topics, mut partitions, mut values) = (Vec::new(), Vec::new(), Vec::new());
    for (topic, of_topic) in offsets {
        for (&partition, &offset) in of_topic {
            topics.push(topic.clone());
            partitions.push(partition);
            values.push(offset);
        }
    }
    (topics, partitions, values)
}

impl Store {
    /// What is known of the task's records; `None` before its first attempt came to produce.
    pub async fn production(&self, task_run: TaskRunKey) -> Result<Option<Production>, StoreError> {
        let failed = StoreError::query("read how far produce is");
        let mut connection = self.pool.acquire().await.map_err(failed)?;
        read(&mut connection, task_run).await
    }

    /// Stores the offsets at which the task's records begin, unless an earlier attempt did; returns what stands.
    ///
    /// Committed when it returns. A partition that an earlier attempt did not see is added from its first offset on: it
    /// may hold records that were sent since.
    ///
    /// # Errors
    /// [`StoreError::Fenced`] when the attempt lost its lease.
    pub async fn start_production_if_first(
        &self,
        attempt: AttemptKey,
        transactional: bool,
        starts: &Offsets,
    ) -> Result<Production, StoreError> {
        let failed = StoreError::query("store where produce begins");
        let mut transaction = self.begin_fenced(attempt, "store where produce begins").await?;
        let (run, task) = (attempt.task_run.run.0, attempt.task_run.task.0.cast_signed());
        let begun = sqlx::query!(
            "INSERT INTO production (run_key, task_index, transactional) VALUES ($1, $2, $3)
             ON CONFLICT (run_key, task_index) DO NOTHING",
            run,
            task,
            transactional,
        )
        .execute(&mut *transaction)
        .await
        .map_err(&failed)?;
        let is_first = begun.rows_affected() == 1;
        let (topics, partitions, offsets) = columns(starts);
        sqlx::query!(
            "INSERT INTO production_range (run_key, task_index, topic, partition, start_offset)
             SELECT $1, $2, s.topic, s.partition, CASE WHEN $6 THEN s.start_offset ELSE 0 END
             FROM unnest($3::text[], $4::integer[], $5::bigint[]) AS s (topic, partition, start_offset)
             ON CONFLICT (run_key, task_index, topic, partition) DO NOTHING",
            run,
            task,
            &topics,
            &partitions,
            &offsets,
            is_first,
        )
        .execute(&mut *transaction)
        .await
        .map_err(&failed)?;
        let stands = read(&mut transaction, attempt.task_run).await?;
        transaction.commit().await.map_err(&failed)?;
        stands.ok_or(StoreError::Corrupt { what: "a production", value: "none after its insert".to_owned() })
    }

    /// Notes that the progress stands in Kafka: from now on its absence there means that it was lost.
    ///
    /// # Errors
    /// [`StoreError::Fenced`] when the attempt lost its lease; [`StoreError::Corrupt`] when produce was not started.
    pub async fn begin_production(&self, attempt: AttemptKey) -> Result<(), StoreError> {
        let failed = StoreError::query("store that produce began");
        let mut transaction = self.begin_fenced(attempt, "store that produce began").await?;
        let updated = sqlx::query!(
            "UPDATE production SET begun = true WHERE run_key = $1 AND task_index = $2",
            attempt.task_run.run.0,
            attempt.task_run.task.0.cast_signed(),
        )
        .execute(&mut *transaction)
        .await
        .map_err(&failed)?;
        if updated.rows_affected() == 0 {
            return Err(nothing_to_update(&mut transaction, attempt.task_run).await?);
        }
        transaction.commit().await.map_err(&failed)
    }

    /// Notes how many rows Kafka has acknowledged, where no transaction does. Committed when it returns.
    ///
    /// # Errors
    /// [`StoreError::Fenced`] when the attempt lost its lease; [`StoreError::Corrupt`] when produce was not started, or
    /// with transactions, which know the progress alone.
    pub async fn advance_production(
        &self,
        attempt: AttemptKey,
        rows_done: u64,
        dead_lettered: &BTreeMap<String, u64>,
    ) -> Result<(), StoreError> {
        let failed = StoreError::query("store how far produce is");
        let mut transaction = self.begin_fenced(attempt, "store how far produce is").await?;
        let (run, task) = (attempt.task_run.run.0, attempt.task_run.task.0.cast_signed());
        let updated = sqlx::query!(
            "UPDATE production SET rows_done = $3 WHERE run_key = $1 AND task_index = $2 AND NOT transactional",
            run,
            task,
            rows_done.cast_signed(),
        )
        .execute(&mut *transaction)
        .await
        .map_err(&failed)?;
        if updated.rows_affected() == 0 {
            return Err(nothing_to_update(&mut transaction, attempt.task_run).await?);
        }
        let topics: Vec<String> = dead_lettered.keys().cloned().collect();
        let counts: Vec<i64> = dead_lettered.values().map(|count| count.cast_signed()).collect();
        sqlx::query!(
            "INSERT INTO production_topic (run_key, task_index, topic, dead_lettered)
             SELECT $1, $2, c.topic, c.dead_lettered FROM unnest($3::text[], $4::bigint[]) AS c (topic, dead_lettered)
             ON CONFLICT (run_key, task_index, topic) DO UPDATE SET dead_lettered = EXCLUDED.dead_lettered",
            run,
            task,
            &topics,
            &counts,
        )
        .execute(&mut *transaction)
        .await
        .map_err(&failed)?;
        transaction.commit().await.map_err(&failed)
    }

    /// Stores the offsets before which all the task's records stand, unless an earlier attempt did; returns what stands.
    ///
    /// # Errors
    /// [`StoreError::Fenced`] when the attempt lost its lease.
    pub async fn finish_production(&self, attempt: AttemptKey, ends: &Offsets) -> Result<Production, StoreError> {
        let failed = StoreError::query("store where produce ends");
        let mut transaction = self.begin_fenced(attempt, "store where produce ends").await?;
        let (topics, partitions, offsets) = columns(ends);
        // A partition that came to be while we produced is new here: it begins at 0.
        sqlx::query!(
            "INSERT INTO production_range (run_key, task_index, topic, partition, start_offset, end_offset)
             SELECT $1, $2, e.topic, e.partition, 0, e.end_offset
             FROM unnest($3::text[], $4::integer[], $5::bigint[]) AS e (topic, partition, end_offset)
             ON CONFLICT (run_key, task_index, topic, partition)
             DO UPDATE SET end_offset = COALESCE(production_range.end_offset, EXCLUDED.end_offset)",
            attempt.task_run.run.0,
            attempt.task_run.task.0.cast_signed(),
            &topics,
            &partitions,
            &offsets,
        )
        .execute(&mut *transaction)
        .await
        .map_err(&failed)?;
        let stands = read(&mut transaction, attempt.task_run).await?;
        transaction.commit().await.map_err(&failed)?;
        stands.ok_or(StoreError::Corrupt { what: "a production", value: "none at its end".to_owned() })
    }
}

/// Why an update of the task's production touched nothing: what was found in its place.
async fn nothing_to_update(connection: &mut PgConnection, task_run: TaskRunKey) -> Result<StoreError, StoreError> {
    let value = match read(connection, task_run).await? {
        None => "none: it was not started".to_owned(),
        Some(production) => format!("transactional: {}, rows done: {}", production.transactional, production.rows_done),
    };
    Ok(StoreError::Corrupt { what: "a production to move on", value })
}

async fn read(connection: &mut PgConnection, task_run: TaskRunKey) -> Result<Option<Production>, StoreError> {
    let failed = StoreError::query("read how far produce is");
    let (run, task) = (task_run.run.0, task_run.task.0.cast_signed());
    let Some(production) = sqlx::query!(
        "SELECT transactional, begun, rows_done FROM production WHERE run_key = $1 AND task_index = $2",
        run,
        task,
    )
    .fetch_optional(&mut *connection)
    .await
    .map_err(&failed)?
    else {
        return Ok(None);
    };
    let topics = sqlx::query!(
        "SELECT topic, dead_lettered FROM production_topic WHERE run_key = $1 AND task_index = $2",
        run,
        task,
    )
    .fetch_all(&mut *connection)
    .await
    .map_err(&failed)?;
    let rows = sqlx::query!(
        "SELECT topic, partition, start_offset, end_offset FROM production_range
         WHERE run_key = $1 AND task_index = $2",
        run,
        task,
    )
    .fetch_all(&mut *connection)
    .await
    .map_err(&failed)?;
    let mut ranges: BTreeMap<String, BTreeMap<i32, OffsetRange>> = BTreeMap::new();
    for row in rows {
        let range = OffsetRange { start: row.start_offset, end: row.end_offset };
        ranges.entry(row.topic).or_default().insert(row.partition, range);
    }
    Ok(Some(Production {
        transactional: production.transactional,
        begun: production.begun,
        rows_done: production.rows_done.cast_unsigned(),
        dead_lettered: topics.into_iter().map(|row| (row.topic, row.dead_lettered.cast_unsigned())).collect(),
        ranges,
    }))
}
