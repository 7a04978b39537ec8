//! The producer: sends a batch of rows to all topics, in one transaction with how far the run then is.
//!
//! Everything here blocks and is called on blocking threads. Delivery reports come through one context for all
//! messages rather than through a future for each.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::client::ClientContext;
use rdkafka::config::{FromClientConfigAndContext, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerGroupMetadata};
use rdkafka::error::{KafkaError as DriverError, RDKafkaErrorCode as Code};
use rdkafka::message::{DeliveryResult, Header, Message, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer, ProducerContext};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::rows::Row;
use crate::clock;
use crate::connect::kafka::{Cluster, Connection, KafkaError};
use crate::domain::record_headers;

/// The broker aborts a transaction that stands open longer; a batch takes a fraction of a second.
const TRANSACTION_TIMEOUT: Duration = Duration::from_secs(60);

/// How long one call of librdkafka may block before we look whether to go on.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);

/// How long acknowledgements are waited for between two looks at the clock.
const POLL: Duration = Duration::from_millis(2);

/// What librdkafka's own framing may add to a record: batch header, varints, header names.
pub(super) const RECORD_OVERHEAD: u64 = 256;

/// How sure it is that each row is there once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    /// Records and progress move together.
    Transactional,
    /// In order and without gaps within one producer; a retry may send again.
    Idempotent,
    /// `acks` other than `all`.
    Plain,
}

/// How far a run is, as the group's offset and its metadata hold it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Done {
    /// Rows sent or dead-lettered.
    pub(super) rows: u64,
    /// Transactions that carried rows.
    pub(super) transactions: u64,
    /// Dead letters of each topic.
    pub(super) dead_lettered: Vec<u64>,
}

impl Done {
    fn metadata(&self) -> String {
        let counts: Vec<String> = self.dead_lettered.iter().map(u64::to_string).collect();
        format!("transactions={} dead_lettered={}", self.transactions, counts.join(","))
    }

    /// Reads what [`Done::metadata`] wrote; `None` when it did not write that.
    pub(super) fn parse(rows: i64, metadata: &str, topics: usize) -> Option<Self> {
        let (transactions, counts) = metadata.strip_prefix("transactions=")?.split_once(" dead_lettered=")?;
        let dead_lettered: Vec<u64> = counts.split(',').map(str::parse).collect::<Result<_, _>>().ok()?;
        (dead_lettered.len() == topics).then_some(Self {
            rows: u64::try_from(rows).ok()?,
            transactions: transactions.parse().ok()?,
            dead_lettered,
        })
    }
}

/// One past the highest offset acknowledged, by topic (as its place) and partition.
pub(super) type Ends = BTreeMap<(usize, i32), i64>;

/// Why a batch was not sent. Nothing of it counts, unless the mode is not transactional.
#[derive(Debug, thiserror::Error)]
pub(super) enum SendError {
    #[error("the broker refused records for their size")]
    TooLarge(Vec<Skipped>),
    /// librdkafka gave the batch up without one of its records being at fault: the broker missed sequence numbers, as it
    /// does after a transaction that was aborted for a record's size.
    #[error("the batch was given up")]
    GivenUp(#[source] KafkaError),
    #[error("another producer took over `{0}`")]
    Fenced(String),
    #[error("told to stop")]
    Cancelled,
    #[error("this cluster has no transactions")]
    NoTransactions,
    #[error(transparent)]
    Kafka(#[from] KafkaError),
}

/// A record that is not sent: a row's sequence and the topic's place.
pub(super) type Skipped = (u64, usize);

/// What a sender is made from.
pub(super) struct SenderPlan {
    pub(super) mode: Mode,
    /// The transactional id, and the consumer group of the progress.
    pub(super) id: String,
    pub(super) run: Uuid,
    pub(super) task: String,
    pub(super) topics: Vec<String>,
    pub(super) acks: &'static str,
    pub(super) compression: &'static str,
    /// The largest record of any topic, and the largest that all topics take.
    pub(super) largest: u64,
    pub(super) smallest_limit: u64,
    pub(super) cancel: CancellationToken,
}

impl SenderPlan {
    fn config(&self, base: ClientConfig) -> ClientConfig {
        let mut config = base;
        // As Java's clients place records, so that theirs and ours of one key meet in one partition.
        config.set("partitioner", "murmur2_random");
        config.set("compression.type", self.compression);
        config.set("acks", self.acks);
        config.set("linger.ms", "5");
        config.set("batch.num.messages", "10000");
        config.set("batch.size", self.smallest_limit.clamp(1, 1_000_000).to_string());
        config.set("message.max.bytes", (self.largest + RECORD_OVERHEAD).clamp(1_000_000, 1_000_000_000).to_string());
        match self.mode {
            Mode::Transactional => {
                config.set("transactional.id", &self.id);
                config.set("transaction.timeout.ms", TRANSACTION_TIMEOUT.as_millis().to_string());
            }
            Mode::Idempotent => {
                config.set("enable.idempotence", "true");
                // A gap would let a later row's mark hide an earlier row from the sink.
                config.set("enable.gapless.guarantee", "true");
            }
            Mode::Plain => {
                config.set("max.in.flight.requests.per.connection", "1");
            }
        }
        config
    }
}

/// A producer with what it needs to commit its progress.
pub(super) struct Sender {
    plan: SenderPlan,
    cluster: Cluster,
    producer: BaseProducer<Deliveries>,
    deliveries: Deliveries,
    progress: Option<ConsumerGroupMetadata>,
}

impl Sender {
    /// Connects; with transactions this fences whoever produced under the same id, and ends what they left open.
    pub(super) fn open(plan: SenderPlan, cluster: Cluster) -> Result<Self, SendError> {
        let config_error = |error: DriverError| KafkaError::Config(error.to_string());
        let deliveries = Deliveries::new(plan.topics.len());
        let producer = BaseProducer::from_config_and_context(&plan.config(cluster.config()), deliveries.clone())
            .map_err(config_error)?;
        let mut sender = Self { plan, cluster, producer, deliveries, progress: None };
        if sender.plan.mode == Mode::Transactional {
            let action = format!("begin transactions as `{}`", sender.plan.id);
            sender.until_done(&action, |sender| sender.producer.init_transactions(CALL_TIMEOUT))?;
            let mut config = sender.cluster.config();
            config.set("group.id", &sender.plan.id);
            let consumer: BaseConsumer<Connection> =
                BaseConsumer::from_config_and_context(&config, Connection::default()).map_err(config_error)?;
            sender.progress = consumer.group_metadata();
        }
        Ok(sender)
    }

    /// Commits `done` without sending anything.
    pub(super) fn commit_progress(&self, done: &Done) -> Result<(), SendError> {
        self.send(&[], &HashSet::new(), done).map(|_| ())
    }

    /// Sends each of `rows` to each topic, except `skipped`, and commits `done` with them.
    ///
    /// After an error with transactions nothing of it is to be seen. Without them any part of it may be.
    pub(super) fn send(&self, rows: &[Row], skipped: &HashSet<Skipped>, done: &Done) -> Result<Ends, SendError> {
        drop(self.deliveries.take());
        let transactional = self.plan.mode == Mode::Transactional;
        if transactional {
            let action = || format!("begin a transaction of `{}`", self.plan.id);
            self.producer.begin_transaction().map_err(|error| self.error(action(), error))?;
        }
        let sent = self.enqueue(rows, skipped).and_then(|()| self.wait_for_acknowledgements());
        let report = self.deliveries.take();
        let outcome = match sent {
            Ok(()) if report.failures.is_empty() => Ok(()),
            Ok(()) => Err(self.failure(rows, &report.failures)),
            Err(error) => Err(error),
        };
        if !transactional {
            return outcome.map(|()| report.ends);
        }
        match outcome.and_then(|()| self.commit(done)) {
            Ok(()) => Ok(report.ends),
            Err(error) => {
                self.abort();
                Err(error)
            }
        }
    }

    fn enqueue(&self, rows: &[Row], skipped: &HashSet<Skipped>) -> Result<(), SendError> {
        let run = self.plan.run.to_string();
        let topics = self.plan.topics.len();
        for (place, row) in rows.iter().enumerate() {
            let sequence = row.sequence.to_string();
            for (topic, name) in self.plan.topics.iter().enumerate() {
                if skipped.contains(&(row.sequence, topic)) {
                    continue;
                }
                let headers = OwnedHeaders::new_with_capacity(3)
                    .insert(Header { key: record_headers::RUN, value: Some(&run) })
                    .insert(Header { key: record_headers::TASK, value: Some(&self.plan.task) })
                    .insert(Header { key: record_headers::SEQUENCE, value: Some(&sequence) });
                let record = BaseRecord::with_opaque_to(name.as_str(), place * topics + topic)
                    .key(row.key.as_bytes())
                    .payload(row.value(topic))
                    .headers(headers);
                self.enqueue_one(record)?;
            }
            self.producer.poll(Duration::ZERO);
        }
        Ok(())
    }

    fn enqueue_one(&self, mut record: BaseRecord<'_, [u8], [u8], usize>) -> Result<(), SendError> {
        loop {
            self.check_cancelled()?;
            match self.producer.send(record) {
                Ok(()) => return Ok(()),
                Err((DriverError::MessageProduction(Code::QueueFull), returned)) => {
                    record = returned;
                    self.producer.poll(POLL);
                }
                Err((DriverError::MessageProduction(Code::MessageSizeTooLarge), returned)) => {
                    let place = returned.delivery_opaque;
                    self.deliveries.failed(place, Code::MessageSizeTooLarge);
                    return Ok(());
                }
                Err((error, returned)) => {
                    return Err(self.error(format!("send to topic `{}`", returned.topic), error));
                }
            }
        }
    }

    /// Not `flush`, which looks only every 100 ms.
    fn wait_for_acknowledgements(&self) -> Result<(), SendError> {
        while self.producer.in_flight_count() > 0 {
            self.check_cancelled()?;
            self.producer.poll(POLL);
        }
        Ok(())
    }

    fn commit(&self, done: &Done) -> Result<(), SendError> {
        let group = self.progress.as_ref().ok_or(SendError::NoTransactions)?;
        let commit = format!("commit a transaction of `{}`", self.plan.id);
        let store = format!("store the progress of group `{}` in a transaction", self.plan.id);
        let mut offsets = TopicPartitionList::new();
        let mut element = offsets.add_partition(&self.plan.topics[0], 0);
        element.set_metadata(done.metadata());
        element.set_offset(Offset::Offset(done.rows.cast_signed())).map_err(|error| self.error(&commit, error))?;
        self.until_done(&store, |sender| sender.producer.send_offsets_to_transaction(&offsets, group, CALL_TIMEOUT))?;
        self.until_done(&commit, |sender| sender.producer.commit_transaction(CALL_TIMEOUT))
    }

    /// Best effort: what stays open is ended by the next attempt's beginning, or by the broker's timeout.
    fn abort(&self) {
        self.producer.purge(rdkafka::producer::PurgeConfig::default().queue().inflight());
        let deadline = clock::monotonic() + CALL_TIMEOUT;
        while self.producer.in_flight_count() > 0 && clock::monotonic() < deadline {
            self.producer.poll(POLL);
        }
        if let Err(error) = self.producer.abort_transaction(CALL_TIMEOUT) {
            tracing::debug!("a transaction could not be aborted: {error}");
        }
        drop(self.deliveries.take());
    }

    /// Repeats a call of the transaction API while it asks for that.
    fn until_done(&self, action: &str, call: impl Fn(&Self) -> Result<(), DriverError>) -> Result<(), SendError> {
        let deadline: Instant = clock::monotonic() + TRANSACTION_TIMEOUT;
        loop {
            self.check_cancelled()?;
            match call(self) {
                Ok(()) => return Ok(()),
                Err(DriverError::Transaction(error)) if error.is_retriable() && clock::monotonic() < deadline => {
                    self.producer.poll(POLL);
                }
                Err(error) => return Err(self.error(action, error)),
            }
        }
    }

    fn check_cancelled(&self) -> Result<(), SendError> {
        if self.plan.cancel.is_cancelled() { Err(SendError::Cancelled) } else { Ok(()) }
    }

    /// Fencing first, then size, which only one record needs to be guilty of, then whatever else.
    fn failure(&self, rows: &[Row], failures: &[(usize, Code)]) -> SendError {
        let topics = self.plan.topics.len();
        let too_large: Vec<Skipped> = failures
            .iter()
            .filter(|(_, code)| *code == Code::MessageSizeTooLarge)
            .map(|&(place, _)| (rows[place / topics].sequence, place % topics))
            .collect();
        let at = |&(place, code): &(usize, Code)| {
            let action = format!("send to topic `{}`", self.plan.topics[place % topics]);
            self.error(action, DriverError::MessageProduction(code))
        };
        // What a refused batch stood before goes down with it.
        let bystander = |code: Code| matches!(code, Code::PurgeQueue | Code::PurgeInflight | Code::GaplessGuarantee);
        match failures.iter().find(|&&(_, code)| !bystander(code) && code != Code::MessageSizeTooLarge) {
            Some(failure) => at(failure),
            None if !too_large.is_empty() => SendError::TooLarge(too_large),
            None => match failures.first().map(at) {
                Some(SendError::Kafka(error)) => SendError::GivenUp(error),
                Some(error) => error,
                None => SendError::Cancelled,
            },
        }
    }

    fn error(&self, action: impl Into<String>, error: DriverError) -> SendError {
        let fatal = self.producer.client().fatal_error().map(|(code, _)| code);
        let code = match &error {
            DriverError::Transaction(error) => Some(error.code()),
            error => error.rdkafka_error_code(),
        };
        for code in [code, fatal].into_iter().flatten() {
            match code {
                Code::ProducerFenced | Code::Fenced | Code::InvalidProducerEpoch => {
                    return SendError::Fenced(self.plan.id.clone());
                }
                Code::UnsupportedFeature | Code::UnsupportedVersion if self.plan.mode == Mode::Transactional => {
                    return SendError::NoTransactions;
                }
                _ => {}
            }
        }
        SendError::Kafka(match (error, code) {
            // The transaction API wraps its code in an error of its own.
            (DriverError::Transaction(_), Some(code)) => {
                self.cluster.error_on(&self.deliveries.connection, action, DriverError::Global(code))
            }
            (error, _) => self.cluster.error_on(&self.deliveries.connection, action, error),
        })
    }
}

/// Collects what became of each message; a message is known by its row's place times the topics plus its topic's place.
#[derive(Debug, Clone)]
struct Deliveries {
    topics: usize,
    report: Arc<Mutex<Report>>,
    connection: Connection,
}

#[derive(Debug, Default)]
struct Report {
    ends: Ends,
    failures: Vec<(usize, Code)>,
}

impl Deliveries {
    fn new(topics: usize) -> Self {
        Self { topics, report: Arc::default(), connection: Connection::default() }
    }

    fn take(&self) -> Report {
        std::mem::take(&mut *self.report.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn failed(&self, place: usize, code: Code) {
        self.report.lock().unwrap_or_else(PoisonError::into_inner).failures.push((place, code));
    }
}

impl ClientContext for Deliveries {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.connection.log(level, facility, message);
    }

    fn error(&self, error: DriverError, reason: &str) {
        self.connection.error(error, reason);
    }
}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, place: usize) {
        match result {
            Ok(message) => {
                let mut report = self.report.lock().unwrap_or_else(PoisonError::into_inner);
                let end = report.ends.entry((place % self.topics, message.partition())).or_insert(0);
                *end = (*end).max(message.offset() + 1);
            }
            Err((error, _)) => self.failed(place, error.rdkafka_error_code().unwrap_or(Code::Unknown)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_survives_its_metadata() {
        let done = Done { rows: 500, transactions: 3, dead_lettered: vec![0, 2, 0] };
        assert_eq!(Done::parse(500, &done.metadata(), 3), Some(done.clone()));
        assert_eq!(Done::parse(500, &done.metadata(), 2), None);
        assert_eq!(Done::parse(500, "", 3), None);
    }
}
