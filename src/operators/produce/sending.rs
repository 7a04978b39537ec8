//! Sends batch after batch, and puts aside what no topic takes.

use std::collections::HashSet;
use std::sync::Arc;

use serde_json::value::RawValue;

use super::error::ProduceError;
use super::job::{Job, Stopped, stopped};
use super::rows::{Row, Rows};
use super::sender::{Done, Mode, RECORD_OVERHEAD, SendError, Sender, Skipped};
use super::unless_cancelled;
use crate::connect::kafka::{Client, blocking};
use crate::connect::s3::PutOptions;
use crate::store::production::Offsets;

/// How often in a row a batch is sent again that was given up.
const GIVEN_UP_LIMIT: u32 = 3;

/// The sending itself: batches until there are no more rows.
pub(super) struct Sending<'a> {
    job: &'a Job<'a>,
    sender: Arc<Client<Sender>>,
    mode: Mode,
    done: Done,
    ends: Offsets,
    /// How many rows go into the next transaction: fewer while the one record is sought that the broker finds too large.
    step: usize,
    /// Records that are not sent since they are dead letters.
    skipped: HashSet<Skipped>,
}

impl<'a> Sending<'a> {
    /// Goes on behind `done`; `ends` are known to be reached already.
    pub(super) fn new(job: &'a Job<'a>, sender: Arc<Client<Sender>>, mode: Mode, done: Done, ends: Offsets) -> Self {
        Self { job, sender, mode, done, ends, step: job.step(), skipped: HashSet::new() }
    }

    /// Sends all rows; tells how far the run is then, and where its records end.
    pub(super) async fn all(mut self) -> Result<(Done, Offsets), Stopped> {
        let job = self.job;
        let mut rows = Rows::new(job.s3.clone(), job.bucket.clone(), Arc::clone(&job.manifest), self.done.rows);
        let largest = job.step();
        let mut batch = Arc::new(unless_cancelled(job.context, rows.next(largest)).await??);
        while !batch.is_empty() {
            let sending = Arc::clone(&batch);
            // The next batch is read while this one is sent.
            let (sent, next) = tokio::join!(self.batch(sending), unless_cancelled(job.context, rows.next(largest)));
            sent?;
            batch = Arc::new(next??);
        }
        Ok((self.done, self.ends))
    }

    async fn batch(&mut self, rows: Arc<Vec<Row>>) -> Result<(), Stopped> {
        self.skip_oversized(&rows).await?;
        let (mut from, mut given_up) = (0, 0);
        while from < rows.len() {
            if self.job.context.cancel.is_cancelled() {
                return Err(ProduceError::Cancelled.into());
            }
            let to = rows.len().min(from + self.step);
            match self.send(&rows, from, to).await {
                Ok(()) => {
                    self.record().await?;
                    given_up = 0;
                    from = to;
                    self.step = self.job.step().min(self.step.saturating_mul(2));
                }
                Err(SendError::TooLarge(records)) => {
                    if to - from == 1 {
                        for &(sequence, topic) in &records {
                            let reason = "the broker refused it for its size";
                            self.dead_letter(&rows[from], topic, sequence, reason).await?;
                        }
                    }
                    self.step = ((to - from) / 2).max(1);
                    self.renew().await?;
                }
                Err(SendError::GivenUp(_)) if given_up < GIVEN_UP_LIMIT => {
                    given_up += 1;
                    self.renew().await?;
                }
                Err(error) => return Err(stopped(error)),
            }
        }
        // Sequences only rise: what was skipped is behind us.
        self.skipped.clear();
        Ok(())
    }

    /// Keeps in Postgres how far the run is, where no transaction of Kafka's does.
    async fn record(&self) -> Result<(), Stopped> {
        if self.mode == Mode::Transactional {
            return Ok(());
        }
        let context = self.job.context;
        let dead_lettered = std::iter::zip(self.job.topics.iter().cloned(), self.done.dead_lettered.iter().copied());
        context.store.advance_production(context.attempt, self.done.rows, &dead_lettered.collect()).await?;
        Ok(())
    }

    /// After a gap an idempotent producer sends no more; one with transactions begins the next one.
    async fn renew(&mut self) -> Result<(), Stopped> {
        if self.mode != Mode::Transactional {
            self.sender = self.job.open_as(self.mode).await.map_err(stopped)?;
        }
        Ok(())
    }

    async fn send(&mut self, rows: &Arc<Vec<Row>>, from: usize, to: usize) -> Result<(), SendError> {
        let mut done = self.done.clone();
        done.rows = rows[from].sequence + (to - from) as u64;
        done.transactions += u64::from(self.mode == Mode::Transactional);
        for row in &rows[from..to] {
            for (topic, count) in done.dead_lettered.iter_mut().enumerate() {
                *count += u64::from(self.skipped.contains(&(row.sequence, topic)));
            }
        }
        let (sender, batch, after) = (Arc::clone(&self.sender), Arc::clone(rows), done.clone());
        let skipped = std::mem::take(&mut self.skipped);
        let (skipped, sent) = blocking(move || {
            let sent = sender.send(&batch[from..to], &skipped, &after);
            (skipped, sent)
        })
        .await;
        self.skipped = skipped;
        for ((topic, partition), end) in sent? {
            let topic = self.job.topics[topic].clone();
            let known = self.ends.entry(topic).or_default().entry(partition).or_insert(end);
            *known = (*known).max(end);
        }
        self.done = done;
        let records = (to - from) * self.job.topics.len();
        self.job.context.progress.add(records as u64);
        Ok(())
    }

    /// Takes out what no broker would take, before a broker refuses a whole batch for it.
    async fn skip_oversized(&mut self, rows: &[Row]) -> Result<(), Stopped> {
        for row in rows {
            for (topic, name) in self.job.topics.iter().enumerate() {
                let limit = self.job.limit(name);
                let size = (row.value(topic).len() + row.key.len()) as u64 + RECORD_OVERHEAD;
                if size > limit {
                    let reason = format!("it takes {size} bytes with its headers, and the topic takes {limit}");
                    self.dead_letter(row, topic, row.sequence, &reason).await?;
                }
            }
        }
        Ok(())
    }

    /// Keeps a record aside with the reason. Written again by a retry it is the same object.
    async fn dead_letter(&mut self, row: &Row, topic: usize, sequence: u64, reason: &str) -> Result<(), Stopped> {
        let job = self.job;
        let name = &job.topics[topic];
        let run = job.context.attempt.run_uuid;
        let key = format!("dead-letter/{name}/run={run}/produce-{sequence}.json");
        let value: Option<&RawValue> = serde_json::from_slice(row.value(topic)).ok();
        let letter = DeadLetter { topic: name, row: sequence, key: &row.key, reason, value };
        let body = serde_json::to_vec(&letter).expect("a dead letter is text and JSON that was read as such");
        let options = PutOptions { content_type: "application/json", ..PutOptions::default() };
        let put = job.s3.put(&job.bucket, &key, body.into(), options);
        unless_cancelled(job.context, put).await?.map_err(ProduceError::DeadLetter)?;
        job.context.log.line(format!("row {sequence} does not fit topic `{name}`: {reason}; kept as {key}"));
        self.skipped.insert((sequence, topic));
        Ok(())
    }
}

/// What a dead-letter object holds.
#[derive(serde::Serialize)]
struct DeadLetter<'a> {
    topic: &'a str,
    row: u64,
    key: &'a str,
    reason: &'a str,
    value: Option<&'a RawValue>,
}
