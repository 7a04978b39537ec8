//! One attempt's order of things: take the transactions over, ask whether we may, find out how far the run is, send.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::config::{Acks, ProduceConfig, Transactions};
use super::error::ProduceError;
use super::sender::{Done, Mode, SendError, Sender, SenderPlan};
use super::sending::Sending;
use super::unless_cancelled;
use crate::connect::kafka::{Client, Cluster, TopicFacts, blocking};
use crate::connect::s3::S3;
use crate::domain::outputs::{self, OffsetSpan, ProduceOutput, ProducedTopic};
use crate::engine::operator::{Output, TaskContext};
use crate::operators::staged::Manifest;
use crate::store::production::{Offsets, Production};

/// Where a broker does not tell its limit: librdkafka's own default, below that of every broker.
const DEFAULT_RECORD_LIMIT: u64 = 1_000_000;

/// Why one producer's work ended early.
pub(super) enum Stopped {
    /// Somebody else produces under the same id.
    Fenced(String),
    /// Anything else.
    Error(ProduceError),
}

impl<E: Into<ProduceError>> From<E> for Stopped {
    fn from(error: E) -> Self {
        Self::Error(error.into())
    }
}

/// What an attempt works with, however many producers it needs.
pub(super) struct Job<'a> {
    pub(super) config: &'a ProduceConfig,
    pub(super) context: &'a TaskContext,
    pub(super) s3: S3,
    pub(super) bucket: String,
    pub(super) manifest: Arc<Manifest>,
    pub(super) topics: Vec<String>,
    pub(super) cluster: Cluster,
    pub(super) facts: BTreeMap<String, TopicFacts>,
}

impl Job<'_> {
    /// From a new producer to the end of the rows.
    pub(super) async fn attempt(&self) -> Result<Output, Stopped> {
        let (store, attempt) = (&self.context.store, self.context.attempt);
        // Who knows already that the task is another's must not fence that one.
        store.check_fence(attempt).await?;
        let before = store.production(attempt.task_run).await?;
        let (sender, mode) = self.open(before.as_ref()).await?;
        store.check_fence(attempt).await?;

        let ends_now = self.high_watermarks().await?;
        let transactional = mode == Mode::Transactional;
        let production = store.start_production_if_first(attempt, transactional, &ends_now).await?;
        if production.transactional && !transactional {
            return Err(ProduceError::TransactionsGone.into());
        }
        let done = self.done(&sender, &production, transactional).await?;
        if done.rows > 0 {
            self.context.log.line(format!("going on after {} of {} rows", done.rows, self.manifest.rows));
        }
        self.context.progress.set(done.rows * self.topics.len() as u64);

        let mut ends = Offsets::new();
        if done.rows > 0 || production.begun {
            // The reports of what was sent before are lost; it lies below the ends as they were when nobody sent.
            ends = ends_now;
        }
        let (done, mut ends) = Sending::new(self, sender, mode, done, ends).all().await?;

        for (topic, partitions) in &production.ranges {
            for (&partition, range) in partitions {
                let end = ends.entry(topic.clone()).or_default().entry(partition).or_insert(range.start);
                *end = (*end).max(range.start);
            }
        }
        let production = store.finish_production(attempt, &ends).await?;
        Ok(self.output(&done, &production))
    }

    /// Opens a producer in the mode that the task's keys and the cluster allow.
    async fn open(&self, before: Option<&Production>) -> Result<(Arc<Client<Sender>>, Mode), Stopped> {
        let wanted = match (self.config.acks, self.config.transactions, before) {
            (_, _, Some(before)) if before.transactional => Mode::Transactional,
            (Acks::Leader, _, _) => Mode::Plain,
            (Acks::All, Transactions::Off, _) | (Acks::All, _, Some(_)) => Mode::Idempotent,
            (Acks::All, Transactions::Auto | Transactions::Required, None) => Mode::Transactional,
        };
        match self.open_as(wanted).await {
            Ok(sender) => Ok((sender, wanted)),
            Err(SendError::NoTransactions) if before.is_some() => Err(ProduceError::TransactionsGone.into()),
            Err(SendError::NoTransactions) if self.config.transactions == Transactions::Required => {
                let servers = self.context.endpoints.kafka.bootstrap_servers.clone();
                Err(ProduceError::TransactionsMissing(servers).into())
            }
            Err(SendError::NoTransactions) => {
                self.context.log.line(
                    "this cluster has no transactions: sending idempotently. A retry may send rows again; \
                     `sink` drops those by their sequence headers, other readers see them twice",
                );
                let sender = self.open_as(Mode::Idempotent).await.map_err(stopped)?;
                Ok((sender, Mode::Idempotent))
            }
            Err(error) => Err(stopped(error)),
        }
    }

    pub(super) async fn open_as(&self, mode: Mode) -> Result<Arc<Client<Sender>>, SendError> {
        let limits = || self.topics.iter().map(|topic| self.limit(topic));
        let plan = SenderPlan {
            mode,
            id: self.id(),
            run: self.context.attempt.run_uuid,
            task: self.context.task_id.to_string(),
            topics: self.topics.clone(),
            acks: self.config.acks.as_str(),
            compression: self.config.compression.as_str(),
            largest: limits().max().unwrap_or(DEFAULT_RECORD_LIMIT),
            smallest_limit: limits().min().unwrap_or(DEFAULT_RECORD_LIMIT),
            cancel: self.context.cancel.clone(),
        };
        let cluster = self.cluster.clone();
        Ok(Arc::new(Client::new(blocking(move || Sender::open(plan, cluster)).await?)))
    }

    /// The name under which a run's task produces and keeps its progress: transactional id and consumer group.
    pub(super) fn id(&self) -> String {
        format!("pinsched-{}-{}", self.context.attempt.run_uuid, self.context.task_id)
    }

    pub(super) fn limit(&self, topic: &str) -> u64 {
        self.facts.get(topic).and_then(|facts| facts.max_message_bytes).unwrap_or(DEFAULT_RECORD_LIMIT)
    }

    pub(super) fn step(&self) -> usize {
        usize::try_from(self.config.transaction_rows.0).unwrap_or(usize::MAX)
    }

    async fn high_watermarks(&self) -> Result<Offsets, Stopped> {
        let mut offsets = Offsets::new();
        for topic in &self.topics {
            let partitions = self.facts.get(topic).map_or(1, |facts| facts.partitions);
            let ends = unless_cancelled(self.context, self.cluster.high_watermarks(topic, partitions)).await??;
            offsets.insert(topic.clone(), ends);
        }
        Ok(offsets)
    }

    /// Reads how far the run is. The first time it is written to Kafka before Postgres hears that it is there, so that
    /// from then on its absence can only mean a loss.
    async fn done(
        &self,
        sender: &Arc<Client<Sender>>,
        production: &Production,
        transactional: bool,
    ) -> Result<Done, Stopped> {
        let topics = self.topics.len();
        if !transactional {
            let count = |topic: &String| production.dead_lettered.get(topic).copied().unwrap_or(0);
            let dead_lettered = self.topics.iter().map(count).collect();
            return Ok(Done { rows: production.rows_done, transactions: 0, dead_lettered });
        }
        let group = self.id();
        match unless_cancelled(self.context, self.cluster.committed(&group, &self.topics[0], 0)).await?? {
            Some((rows, metadata)) => {
                let done = Done::parse(rows, &metadata, topics).filter(|done| done.rows <= self.manifest.rows);
                let done = done.ok_or(ProduceError::ProgressForeign { group, rows, metadata })?;
                if !production.begun {
                    self.context.store.begin_production(self.context.attempt).await?;
                }
                Ok(done)
            }
            None if production.begun => Err(ProduceError::ProgressLost { group }.into()),
            None => {
                let done = Done { rows: 0, transactions: 0, dead_lettered: vec![0; topics] };
                let (sender, first) = (Arc::clone(sender), done.clone());
                blocking(move || sender.commit_progress(&first)).await.map_err(stopped)?;
                self.context.store.begin_production(self.context.attempt).await?;
                Ok(done)
            }
        }
    }

    fn output(&self, done: &Done, production: &Production) -> Output {
        let mut topics = BTreeMap::new();
        for (place, (topic, (table, staged))) in self.topics.iter().zip(&self.manifest.tables).enumerate() {
            let dead_lettered = done.dead_lettered.get(place).copied().unwrap_or(0);
            let ranges = production.ranges.get(topic).into_iter().flatten();
            let partitions = ranges.map(|(&partition, range)| {
                (partition, OffsetSpan { start: range.start, end: range.end.unwrap_or(range.start) })
            });
            let entry = ProducedTopic {
                table: table.clone(),
                columns: staged.columns.clone(),
                drawn: self.manifest.rows,
                produced: done.rows - dead_lettered,
                dead_lettered,
                partitions: partitions.collect(),
            };
            topics.insert(topic.clone(), entry);
        }
        let mut output = outputs::written(&ProduceOutput { topics });
        // For people.
        output.insert("rows".to_owned(), done.rows.into());
        output.insert("transactional".to_owned(), production.transactional.into());
        output.insert("transactions".to_owned(), done.transactions.into());
        output
    }
}

pub(super) fn stopped(error: SendError) -> Stopped {
    Stopped::Error(match error {
        SendError::Fenced(id) => return Stopped::Fenced(id),
        SendError::Cancelled => ProduceError::Cancelled,
        SendError::NoTransactions => ProduceError::TransactionsGone,
        SendError::Kafka(error) | SendError::GivenUp(error) => error.into(),
        SendError::TooLarge(_) => unreachable!("records that are too large are dead-lettered where they are sent"),
    })
}
