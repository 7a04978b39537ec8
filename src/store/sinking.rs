//! The ranges that sinks took on, and their cuts.

use std::collections::BTreeMap;

use sqlx::PgConnection;

use crate::domain::ids::{AttemptKey, DagId, TaskId, TaskRunKey};
use crate::domain::sinking::{SinkCounts, SinkCut, SinkProgress, SinkRange, TopicPartition};
use crate::store::fence::check_fence;
use crate::store::{Store, StoreError};

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
        let marks = sqlx::query!(
            "SELECT topic, partition, producer, sequence FROM sink_mark WHERE run_key = $1 AND task_index = $2",
            run,
            task
        )
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
    /// [`StoreError::Fenced`] when the attempt lost its lease, or when an attempt before it had settled already.
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

    /// Settles what the task run sinks of topics that no produce of its run filled: from where this DAG's sink last
    /// ended (else the partition's `start` as given) up to `end`.
    ///
    /// Offsets that the run before took on and failed to sink are taken over, from its last cut on; that run's own range
    /// then ends there, so that no offset is ever two runs' to write. All or nothing when the process dies.
    ///
    /// # Errors
    /// [`StoreError::Fenced`] when the attempt lost its lease, or when an attempt before it had settled already.
    pub async fn claim_sink_ranges_if_fenced(
        &self,
        attempt: AttemptKey,
        dag: &DagId,
        task: &TaskId,
        heads: &[SinkRange],
    ) -> Result<(), StoreError> {
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
        let mut ranges = Vec::with_capacity(heads.len());
        for head in heads {
            let start = take_over(&mut transaction, dag, task, &head.of).await?.unwrap_or(head.start);
            // A topic that was made anew starts again below where the old one ended.
            let range = SinkRange { of: head.of.clone(), start: start.min(head.end), end: head.end };
            sqlx::query!(
                "INSERT INTO sink_position (dag_id, task_id, topic, partition, next_offset, run_key)
                 VALUES ($1, $2, $3, $4, $5, $6)
                 ON CONFLICT (dag_id, task_id, topic, partition)
                 DO UPDATE SET next_offset = EXCLUDED.next_offset, run_key = EXCLUDED.run_key",
                dag.as_str(),
                task.as_str(),
                range.of.topic,
                range.of.partition,
                range.end,
                attempt.task_run.run.0,
            )
            .execute(&mut *transaction)
            .await
            .map_err(&failed)?;
            ranges.push(range);
        }
        insert_ranges(&mut transaction, attempt, &ranges).await?;
        transaction.commit().await.map_err(&failed)
    }

    /// Records consecutive cuts of one partition whose objects are durable, and moves the partition on: all of them or,
    /// when the process dies, none; the next attempt then writes the same objects again.
    ///
    /// # Errors
    /// [`StoreError::Fenced`] when the attempt lost its lease or the partition does not stand where the first cut begins.
    pub async fn record_sink_cuts_if_fenced(
        &self,
        attempt: AttemptKey,
        of: &TopicPartition,
        cuts: &[SinkCut],
    ) -> Result<(), StoreError> {
        let (Some(first), Some(last)) = (cuts.first(), cuts.last()) else { return Ok(()) };
        let failed = StoreError::query("record a sink's cuts");
        let mut transaction = self.pool.begin().await.map_err(&failed)?;
        check_fence(&mut transaction, attempt).await?;
        move_on_from(&mut transaction, attempt, of, first.start, last.end).await?;
        insert_cuts(&mut transaction, attempt, of, cuts).await.map_err(&failed)?;
        insert_objects(&mut transaction, attempt, of, cuts).await.map_err(&failed)?;
        let (producers, sequences): (Vec<String>, Vec<i64>) = last.marks.clone().into_iter().unzip();
        sqlx::query!(
            "INSERT INTO sink_mark (run_key, task_index, topic, partition, producer, sequence)
             SELECT $1, $2, $3, $4, mark.producer, mark.sequence
             FROM UNNEST($5::text[], $6::bigint[]) AS mark (producer, sequence)
             ON CONFLICT (run_key, task_index, topic, partition, producer) DO UPDATE SET sequence = EXCLUDED.sequence",
            attempt.task_run.run.0,
            attempt.task_run.task.0.cast_signed(),
            of.topic,
            of.partition,
            &producers,
            &sequences,
        )
        .execute(&mut *transaction)
        .await
        .map_err(&failed)?;
        transaction.commit().await.map_err(&failed)
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
        return Err(StoreError::Fenced { attempt, found: "its ranges are settled already".to_owned() });
    }
    Ok(())
}

/// Where the DAG's sink goes on in a partition; takes the rest of the last range away from its run if that one failed.
async fn take_over(
    connection: &mut PgConnection,
    dag: &DagId,
    task: &TaskId,
    of: &TopicPartition,
) -> Result<Option<i64>, StoreError> {
    let failed = StoreError::query("find where a sink last ended");
    let position = sqlx::query!(
        "SELECT next_offset, run_key FROM sink_position
         WHERE dag_id = $1 AND task_id = $2 AND topic = $3 AND partition = $4",
        dag.as_str(),
        task.as_str(),
        of.topic,
        of.partition,
    )
    .fetch_optional(&mut *connection)
    .await
    .map_err(&failed)?;
    let Some(position) = position else { return Ok(None) };
    let taken = sqlx::query_file!(
        "src/store/sql/take_over_sink_range.sql",
        position.run_key,
        task.as_str(),
        of.topic,
        of.partition,
        position.next_offset,
    )
    .fetch_optional(&mut *connection)
    .await
    .map_err(&failed)?;
    Ok(Some(taken.map_or(position.next_offset, |row| row.next_offset)))
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
    let found = format!("its sink does not stand at offset {from} of {}/{}", of.topic, of.partition);
    Err(StoreError::Fenced { attempt, found })
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
