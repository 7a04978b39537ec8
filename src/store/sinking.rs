//! The ranges that sinks took on, and their cuts.

use std::collections::{BTreeMap, HashSet};

use chrono::TimeDelta;
use sqlx::PgConnection;

use crate::domain::Timestamp;
use crate::domain::ids::{AttemptKey, DagId, RunKey, TaskId, TaskRunKey};
use crate::domain::sinking::{SinkCounts, SinkCut, SinkProgress, SinkRange, TopicPartition};
use crate::store::fence::check_fence;
use crate::store::{Store, StoreError};

/// How long a position keeps the mark of a producer that is heard no more. Produce itself refuses to send again once its
/// progress has expired, which brokers let happen after 7 days.
const MARKS_KEPT: TimeDelta = TimeDelta::days(30);

/// Why a sink may not go on where its DAG's last run ended.
#[derive(Debug, thiserror::Error)]
pub enum SinkClaimError {
    /// A run before is not done with what it took on. Later it is, or its task is over and leaves the rest to others.
    #[error(
        "offsets {next}..{end} of {}/{} are run `{run_id}`'s to sink, whose task is not over: let it end, or see to it by \
         `pinsched resume {run_id}` or `pinsched cancel {run_id}`",
        .of.topic, .of.partition
    )]
    Held {
        /// The partition.
        of: TopicPartition,
        /// The first offset that is not sunk.
        next: i64,
        /// The end of what the run took on.
        end: i64,
        /// The run's id.
        run_id: String,
    },
    /// The partition ends before what was taken on of it already.
    #[error(
        "{}/{} ends at offset {end}, and this sink took it on up to {taken} already: was the topic deleted and made anew? \
         Its objects would have the names of the old one's; set another `topics_dir` and give the task a new id, under \
         which it starts at the first record",
        .of.topic, .of.partition
    )]
    Receded {
        /// The partition.
        of: TopicPartition,
        /// Where it ends.
        end: i64,
        /// Up to where runs took it on.
        taken: i64,
    },
    /// The store's own.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Store {
    /// What the task run took on and how far it is, in order of topic and partition; empty before it settled.
    ///
    /// # Errors
    /// The database's.
    pub async fn sink_progress(&self, task_run: TaskRunKey) -> Result<Vec<SinkProgress>, StoreError> {
        let (run, task) = (task_run.run.0, task_run.task.0.cast_signed());
        let failed = StoreError::query("read how far a sink is");
        let rows = sqlx::query_file!("src/store/sql/sink_progress.sql", run, task)
            .fetch_all(&self.pool)
            .await
            .map_err(&failed)?;
        let marks = sqlx::query_file!("src/store/sql/sink_marks.sql", run, task)
            .fetch_all(&self.pool)
            .await
            .map_err(&failed)?;
        let mut by_partition: BTreeMap<TopicPartition, BTreeMap<String, i64>> = BTreeMap::new();
        for row in marks {
            let of = TopicPartition { topic: row.topic, partition: row.partition };
            by_partition.entry(of).or_default().insert(row.producer, row.sequence);
        }
        let progress = rows.into_iter().map(|row| {
            let of = TopicPartition { topic: row.topic, partition: row.partition };
            SinkProgress {
                marks: by_partition.remove(&of).unwrap_or_default(),
                ends: row.ends.into_iter().filter(|end| *end > row.next_offset && *end < row.end_offset).collect(),
                range: SinkRange { of, start: row.start_offset, end: row.end_offset },
                next: row.next_offset,
                counts: SinkCounts {
                    records: row.records,
                    dead_lettered: row.dead_lettered,
                    duplicates: row.duplicates,
                    foreign: row.foreign_records,
                    tombstones: row.tombstones,
                    objects: row.objects,
                    bytes: row.bytes,
                },
            }
        });
        Ok(progress.collect())
    }

    /// Settles what the task run sinks, once and for all of its attempts: all ranges or, when the process dies, none.
    ///
    /// # Errors
    /// [`StoreError::Fenced`] when the attempt lost its lease, [`StoreError::Stale`] when one before it had settled already.
    pub async fn settle_sink_ranges_if_fenced(
        &self,
        attempt: AttemptKey,
        ranges: &[SinkRange],
    ) -> Result<(), StoreError> {
        let failed = StoreError::query("settle a sink's ranges");
        let mut transaction = self.pool.begin().await.map_err(&failed)?;
        check_fence(&mut transaction, attempt).await?;
        insert_ranges(&mut transaction, attempt, ranges).await?;
        transaction.commit().await.map_err(&failed)
    }

    /// Settles what the task run sinks of topics whose records are all to be taken: from where this DAG's sink stands
    /// (else the partition's `start` as given) up to `end`.
    ///
    /// One run at a time holds a partition. What a run took on and failed to sink is taken over from its last cut on, and
    /// its end stays an end of objects, so that whoever writes them gives them the same names and bytes. All or nothing
    /// when the process dies.
    ///
    /// # Errors
    /// [`SinkClaimError::Held`] while a run before is not done, [`SinkClaimError::Receded`] where there is less than was
    /// taken on already; [`StoreError::Fenced`] when the attempt lost its lease, [`StoreError::Stale`] when one before it
    /// had settled already.
    pub async fn claim_sink_ranges_if_fenced(
        &self,
        attempt: AttemptKey,
        (dag, task): (&DagId, &TaskId),
        heads: &[SinkRange],
        now: Timestamp,
    ) -> Result<(), SinkClaimError> {
        let failed = StoreError::query("claim a sink's ranges");
        let mut transaction = self.pool.begin().await.map_err(&failed)?;
        check_fence(&mut transaction, attempt).await?;
        // Two runs of one DAG claim one after the other, also where no position exists yet that could be locked.
        sqlx::query!(
            "SELECT pg_advisory_xact_lock(hashtextextended('sink/' || $1 || '/' || $2, 0))",
            dag.as_str(),
            task.as_str()
        )
        .fetch_one(&mut *transaction)
        .await
        .map_err(&failed)?;
        sqlx::query!(
            "DELETE FROM sink_position_mark WHERE dag_id = $1 AND task_id = $2 AND moved_at < $3",
            dag.as_str(),
            task.as_str(),
            now - MARKS_KEPT,
        )
        .execute(&mut *transaction)
        .await
        .map_err(&failed)?;
        let mut ranges = Vec::with_capacity(heads.len());
        for head in heads {
            let position = position(&mut transaction, (dag, task), &head.of).await?;
            let start = position.as_ref().map_or(head.start, |position| position.next);
            let mut ends = position.map_or_else(Vec::new, |position| position.ends);
            let taken = ends.last().copied().unwrap_or(start);
            // More may come of it yet: a new leader does not know at once how far it is.
            if head.end < taken {
                return Err(SinkClaimError::Receded { of: head.of.clone(), end: head.end, taken });
            }
            if head.end > taken {
                ends.push(head.end);
            }
            sqlx::query!(
                "INSERT INTO sink_position (dag_id, task_id, topic, partition, next_offset, ends, run_key, task_index)
                 VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
                 ON CONFLICT (dag_id, task_id, topic, partition)
                 DO UPDATE SET ends = EXCLUDED.ends, run_key = EXCLUDED.run_key, task_index = EXCLUDED.task_index",
                dag.as_str(),
                task.as_str(),
                head.of.topic,
                head.of.partition,
                start,
                &ends,
                attempt.task_run.run.0,
                attempt.task_run.task.0.cast_signed(),
            )
            .execute(&mut *transaction)
            .await
            .map_err(&failed)?;
            ranges.push(SinkRange { of: head.of.clone(), start, end: head.end });
        }
        insert_ranges(&mut transaction, attempt, &ranges).await?;
        Ok(transaction.commit().await.map_err(&failed)?)
    }

    /// Records consecutive cuts of one partition whose objects are durable, and moves the partition on: all of them or,
    /// when the process dies, none; the next attempt then writes the same objects again.
    ///
    /// # Errors
    /// [`StoreError::Fenced`] when the attempt lost its lease, [`StoreError::Stale`] when the partition does not stand where
    /// the first cut begins.
    pub async fn record_sink_cuts_if_fenced(
        &self,
        attempt: AttemptKey,
        of: &TopicPartition,
        cuts: &[SinkCut],
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let (Some(first), Some(last)) = (cuts.first(), cuts.last()) else { return Ok(()) };
        let failed = StoreError::query("record a sink's cuts");
        let mut transaction = self.pool.begin().await.map_err(&failed)?;
        check_fence(&mut transaction, attempt).await?;
        move_on_from(&mut transaction, attempt, of, first.start, last.end).await?;
        insert_cuts(&mut transaction, attempt, of, cuts).await.map_err(&failed)?;
        insert_objects(&mut transaction, attempt, of, cuts).await.map_err(&failed)?;
        let marks: BTreeMap<String, i64> = cuts.iter().flat_map(|cut| cut.marks.clone()).collect();
        let (producers, sequences): (Vec<String>, Vec<i64>) = marks.into_iter().unzip();
        sqlx::query_file!(
            "src/store/sql/move_sink_on.sql",
            attempt.task_run.run.0,
            attempt.task_run.task.0.cast_signed(),
            of.topic,
            of.partition,
            last.end,
            &producers,
            &sequences,
            now,
        )
        .execute(&mut *transaction)
        .await
        .map_err(&failed)?;
        transaction.commit().await.map_err(&failed)
    }

    /// The keys of the objects that a run's sink wrote of a topic, as far as its cuts are recorded; in no order.
    ///
    /// # Errors
    /// The database's.
    pub async fn sunk_objects(&self, run: RunKey, task: &TaskId, topic: &str) -> Result<HashSet<String>, StoreError> {
        let keys = sqlx::query_scalar!(
            "SELECT object.key
             FROM sink_object AS object
             JOIN task_run AS task USING (run_key, task_index)
             WHERE run_key = $1 AND task.task_id = $2 AND object.topic = $3",
            run.0,
            task.as_str(),
            topic,
        )
        .fetch_all(&self.pool)
        .await
        .map_err(StoreError::query("read which objects a sink wrote"))?;
        Ok(keys.into_iter().collect())
    }
}

async fn insert_ranges(
    connection: &mut PgConnection,
    attempt: AttemptKey,
    ranges: &[SinkRange],
) -> Result<(), StoreError> {
    let topics: Vec<String> = ranges.iter().map(|range| range.of.topic.clone()).collect();
    let partitions: Vec<i32> = ranges.iter().map(|range| range.of.partition).collect();
    let starts: Vec<i64> = ranges.iter().map(|range| range.start).collect();
    let ends: Vec<i64> = ranges.iter().map(|range| range.end).collect();
    let done = sqlx::query!(
        "INSERT INTO sink_range (run_key, task_index, topic, partition, start_offset, end_offset, next_offset, fence)
         SELECT $1, $2, range.topic, range.partition, range.start_offset, range.end_offset, range.start_offset, $3
         FROM UNNEST($4::text[], $5::integer[], $6::bigint[], $7::bigint[])
             AS range (topic, partition, start_offset, end_offset)
         WHERE NOT EXISTS (SELECT FROM sink_range WHERE run_key = $1 AND task_index = $2)",
        attempt.task_run.run.0,
        attempt.task_run.task.0.cast_signed(),
        attempt.fence,
        &topics,
        &partitions,
        &starts,
        &ends,
    )
    .execute(connection)
    .await
    .map_err(StoreError::query("settle a sink's ranges"))?;
    if done.rows_affected() == 0 && !ranges.is_empty() {
        let what = format!("what task {} is to sink", attempt.task_run.task.0);
        return Err(StoreError::Stale { what, found: "it is settled already".to_owned() });
    }
    Ok(())
}

/// How far a DAG's sink is in a partition.
struct Position {
    next: i64,
    /// Above `next`, in order: where ranges that are not sunk to their ends ended.
    ends: Vec<i64>,
}

/// Where the DAG's sink goes on in a partition, locked; takes the rest of the last range away from a run that failed.
async fn position(
    connection: &mut PgConnection,
    (dag, task): (&DagId, &TaskId),
    of: &TopicPartition,
) -> Result<Option<Position>, SinkClaimError> {
    let failed = StoreError::query("find where a sink last ended");
    // Locked before its owner is looked at: a cut that is being recorded is waited for, and counts.
    let row = sqlx::query!(
        "SELECT next_offset, ends, run_key, task_index FROM sink_position
         WHERE dag_id = $1 AND task_id = $2 AND topic = $3 AND partition = $4
         FOR UPDATE",
        dag.as_str(),
        task.as_str(),
        of.topic,
        of.partition,
    )
    .fetch_optional(&mut *connection)
    .await
    .map_err(&failed)?;
    let Some(row) = row else { return Ok(None) };
    let next = row.next_offset;
    let ends: Vec<i64> = row.ends.into_iter().filter(|end| *end > next).collect();
    let Some(&end) = ends.last() else { return Ok(Some(Position { next, ends })) };
    let holder = sqlx::query_scalar!(
        "SELECT run.run_id
         FROM task_run AS task
         JOIN run ON run.id = task.run_key
         WHERE task.run_key = $1 AND task.task_index = $2 AND task.finished_at IS NULL",
        row.run_key,
        row.task_index,
    )
    .fetch_optional(&mut *connection)
    .await
    .map_err(&failed)?;
    if let Some(run_id) = holder {
        return Err(SinkClaimError::Held { of: of.clone(), next, end, run_id });
    }
    sqlx::query!(
        "UPDATE sink_range SET end_offset = next_offset
         WHERE run_key = $1 AND task_index = $2 AND topic = $3 AND partition = $4",
        row.run_key,
        row.task_index,
        of.topic,
        of.partition,
    )
    .execute(connection)
    .await
    .map_err(&failed)?;
    Ok(Some(Position { next, ends }))
}

async fn move_on_from(
    connection: &mut PgConnection,
    attempt: AttemptKey,
    of: &TopicPartition,
    from: i64,
    to: i64,
) -> Result<(), StoreError> {
    let moved = sqlx::query!(
        "UPDATE sink_range SET next_offset = $6
         WHERE run_key = $1 AND task_index = $2 AND topic = $3 AND partition = $4 AND next_offset = $5",
        attempt.task_run.run.0,
        attempt.task_run.task.0.cast_signed(),
        of.topic,
        of.partition,
        from,
        to,
    )
    .execute(connection)
    .await
    .map_err(StoreError::query("move a sink on"))?;
    if moved.rows_affected() == 1 {
        return Ok(());
    }
    let what = format!("how far task {} is in {}/{}", attempt.task_run.task.0, of.topic, of.partition);
    Err(StoreError::Stale { what, found: format!("it does not stand at offset {from}") })
}

async fn insert_cuts(
    connection: &mut PgConnection,
    attempt: AttemptKey,
    of: &TopicPartition,
    cuts: &[SinkCut],
) -> Result<(), sqlx::Error> {
    let column = |of: fn(&SinkCut) -> i64| cuts.iter().map(of).collect::<Vec<i64>>();
    sqlx::query_file!(
        "src/store/sql/insert_sink_cuts.sql",
        attempt.task_run.run.0,
        attempt.task_run.task.0.cast_signed(),
        of.topic,
        of.partition,
        attempt.fence,
        &column(|cut| cut.start),
        &column(|cut| cut.end),
        &column(|cut| cut.counts.records),
        &column(|cut| cut.counts.dead_lettered),
        &column(|cut| cut.counts.duplicates),
        &column(|cut| cut.counts.foreign),
        &column(|cut| cut.counts.tombstones),
    )
    .execute(connection)
    .await
    .map(|_| ())
}

async fn insert_objects(
    connection: &mut PgConnection,
    attempt: AttemptKey,
    of: &TopicPartition,
    cuts: &[SinkCut],
) -> Result<(), sqlx::Error> {
    let objects: Vec<_> =
        cuts.iter().flat_map(|cut| cut.objects.iter().map(move |object| (cut.start, object))).collect();
    let cut_offsets: Vec<i64> = objects.iter().map(|(cut, _)| *cut).collect();
    let keys: Vec<String> = objects.iter().map(|(_, object)| object.key.clone()).collect();
    let starts: Vec<i64> = objects.iter().map(|(_, object)| object.start).collect();
    let lasts: Vec<i64> = objects.iter().map(|(_, object)| object.last).collect();
    let records: Vec<i64> = objects.iter().map(|(_, object)| object.records).collect();
    let bytes: Vec<i64> = objects.iter().map(|(_, object)| object.bytes).collect();
    let digests: Vec<Vec<u8>> = objects.iter().map(|(_, object)| object.sha256.to_vec()).collect();
    sqlx::query_file!(
        "src/store/sql/insert_sink_objects.sql",
        attempt.task_run.run.0,
        attempt.task_run.task.0.cast_signed(),
        of.topic,
        of.partition,
        &cut_offsets,
        &keys,
        &starts,
        &lasts,
        &records,
        &bytes,
        &digests,
    )
    .execute(connection)
    .await
    .map(|_| ())
}
