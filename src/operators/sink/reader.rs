//! One partition's range, from Kafka to finished files: runs on a thread of its own, since librdkafka blocks.
//!
//! It reads from the last recorded cut to the range's end and hands over cuts in order. What it hands over is a function
//! of the records, the marks and the configuration alone.

use std::sync::Arc;
use std::time::Duration;

use rdkafka::config::FromClientConfigAndContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError as DriverError, RDKafkaErrorCode as Code};
use rdkafka::message::BorrowedMessage;
use rdkafka::{ClientConfig, Message, Offset, TopicPartitionList};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::budget::Budget;
use super::failure::SinkError;
use super::sorter::{Decided, Item, Sorter};
use crate::clock;
use crate::connect::kafka::{Cluster, Connection, KafkaError, REQUEST_TIMEOUT, is_transient};
use crate::domain::sinking::TopicPartition;
use crate::engine::task_log::TaskLog;

/// How long a cancelled reader may go on.
const POLL: Duration = Duration::from_millis(100);
/// How long a stranger's open transaction may hold the range back: the longest that brokers allow it by default is
/// 15 minutes, but a task that waits so long should say so, and try again.
const STABLE_LIMIT: Duration = Duration::from_secs(300);
/// How long a partition that has more to give may be silent.
const STALL_LIMIT: Duration = Duration::from_secs(120);
/// What librdkafka may read ahead, a partition.
const READ_AHEAD_KILOBYTES: &str = "16384";

/// A partition to be read.
pub(super) struct Reading {
    pub(super) cluster: Cluster,
    pub(super) of: TopicPartition,
    /// The first offset that is not recorded yet.
    pub(super) next: i64,
    /// The range's end, exclusive.
    pub(super) end: i64,
    pub(super) cancel: CancellationToken,
    pub(super) budget: Budget,
    pub(super) log: TaskLog,
}

/// The consumer's configuration: it reads what it is told, commits nothing, and fails rather than jump.
pub(super) fn consumer_config(cluster: &Cluster) -> ClientConfig {
    let mut config = cluster.config();
    for (key, value) in [
        ("group.id", "pinsched-sink"),
        ("isolation.level", "read_committed"),
        ("enable.auto.commit", "false"),
        ("enable.auto.offset.store", "false"),
        ("auto.offset.reset", "error"),
        ("enable.partition.eof", "true"),
        ("check.crcs", "true"),
        ("fetch.wait.max.ms", "100"),
        ("fetch.message.max.bytes", "4194304"),
        ("queued.max.messages.kbytes", READ_AHEAD_KILOBYTES),
    ] {
        config.set(key, value);
    }
    config
}

impl Reading {
    /// Reads to the end of the range and hands over what becomes of it. Ends early when nobody takes it any more.
    pub(super) fn read(self, mut sorter: Sorter, items: &mpsc::Sender<Item>) -> Result<(), SinkError> {
        let connection = Connection::default();
        let config = consumer_config(&self.cluster);
        let consumer = BaseConsumer::from_config_and_context(&config, connection.clone())
            .map_err(|error| KafkaError::Config(error.to_string()))?;
        let consumer: Arc<BaseConsumer<Connection>> = Arc::new(consumer);
        let mut next = self.next;
        self.wait_until_stable(&consumer, &connection, next)?;
        self.assign(&consumer, &connection, next)?;
        let mut confirmed_end = false;
        let mut last_progress = clock::monotonic();
        while next < self.end {
            if self.cancel.is_cancelled() {
                return Err(SinkError::Interrupted);
            }
            match consumer.poll(POLL) {
                Some(Ok(message)) if message.offset() >= self.end => break,
                Some(Ok(message)) => {
                    next = message.offset() + 1;
                    confirmed_end = false;
                    let decided = self.sort(&mut sorter, &message)?;
                    self.hand_over(items, decided)?;
                    last_progress = clock::monotonic(); // after the wait for a slow object store, which is not Kafka's
                }
                // What is left of the range are transactions' markers and aborted records: they take offsets but are
                // never shown. After a change of leaders an end may be a passing one, so it must be met twice, the
                // second time by a fetch that began after the partition was seen to be readable to the range's end.
                Some(Err(DriverError::PartitionEOF(_))) if confirmed_end => break,
                Some(Err(DriverError::PartitionEOF(_))) => {
                    self.wait_until_stable(&consumer, &connection, next)?;
                    // Not by assigning anew: librdkafka aborts the process when it is closed in the middle of that.
                    let TopicPartition { topic, partition } = &self.of;
                    consumer
                        .seek(topic, *partition, Offset::Offset(next), REQUEST_TIMEOUT)
                        .map_err(|error| self.error(&connection, error))?;
                    confirmed_end = true;
                }
                Some(Err(error)) => self.judge(&consumer, &connection, next, error)?,
                None => {}
            }
            if last_progress.elapsed() > STALL_LIMIT {
                let TopicPartition { topic, partition } = self.of.clone();
                let waited = STALL_LIMIT.as_secs();
                return Err(SinkError::Stalled { topic, partition, next, end: self.end, waited });
            }
        }
        let rest = sorter.finish(self.end)?;
        self.hand_over(items, rest)
    }

    fn sort(&self, sorter: &mut Sorter, message: &BorrowedMessage<'_>) -> Result<Vec<Item>, SinkError> {
        let timestamp = message.timestamp().to_millis().unwrap_or(0);
        let headers = message.headers();
        sorter.sort(&Decided {
            offset: message.offset(),
            timestamp,
            key: message.key(),
            value: message.payload(),
            headers,
        })
    }

    fn hand_over(&self, items: &mpsc::Sender<Item>, decided: Vec<Item>) -> Result<(), SinkError> {
        for mut item in decided {
            if let Item::Cut(cut) = &mut item {
                let share = self.cancel.run_until_cancelled(self.budget.take(cut.weight()));
                let share = Handle::current().block_on(share).ok_or(SinkError::Interrupted)?;
                cut.memory = Some(share);
            }
            // The taker went first: it says why.
            items.blocking_send(item).map_err(|_| SinkError::Interrupted)?;
        }
        Ok(())
    }

    fn assign(&self, consumer: &BaseConsumer<Connection>, connection: &Connection, at: i64) -> Result<(), SinkError> {
        let mut assignment = TopicPartitionList::new();
        let assigned = assignment
            .add_partition_offset(&self.of.topic, self.of.partition, Offset::Offset(at))
            .and_then(|()| consumer.assign(&assignment));
        assigned.map_err(|error| self.error(connection, error))
    }

    /// Waits until all of the range can be read, and sees that none of it from `next` on has expired.
    fn wait_until_stable(
        &self,
        consumer: &BaseConsumer<Connection>,
        connection: &Connection,
        next: i64,
    ) -> Result<(), SinkError> {
        let TopicPartition { topic, partition } = &self.of;
        let began = clock::monotonic();
        let mut told = false;
        loop {
            // With read_committed the high one is the last stable offset.
            let (low, stable) = consumer
                .fetch_watermarks(topic, *partition, REQUEST_TIMEOUT)
                .map_err(|error| self.error(connection, error))?;
            if low > next {
                return Err(SinkError::Expired { topic: topic.clone(), partition: *partition, next, low });
            }
            if stable >= self.end {
                return Ok(());
            }
            if self.cancel.is_cancelled() {
                return Err(SinkError::Interrupted);
            }
            if began.elapsed() > STABLE_LIMIT {
                let (topic, partition, waited) = (topic.clone(), *partition, STABLE_LIMIT.as_secs());
                return Err(SinkError::Unstable { topic, partition, end: self.end, stable, waited });
            }
            if !told {
                told = true;
                self.log.line(format!(
                    "waiting until {topic}/{partition} can be read to offset {}: an open transaction holds it at {stable}",
                    self.end
                ));
            }
            std::thread::sleep(POLL);
        }
    }

    /// What an error while reading means; nothing when librdkafka goes on by itself.
    fn judge(
        &self,
        consumer: &BaseConsumer<Connection>,
        connection: &Connection,
        next: i64,
        error: DriverError,
    ) -> Result<(), SinkError> {
        let code = error.rdkafka_error_code();
        if matches!(code, Some(Code::AutoOffsetReset | Code::OffsetOutOfRange)) {
            let TopicPartition { topic, partition } = self.of.clone();
            let (low, _) = consumer
                .fetch_watermarks(&topic, partition, REQUEST_TIMEOUT)
                .map_err(|error| self.error(connection, error))?;
            return Err(SinkError::Expired { topic, partition, next, low });
        }
        match code {
            Some(code) if is_transient(code) && code != Code::UnknownTopicOrPartition => {
                tracing::debug!(%error, "reading goes on");
                Ok(())
            }
            _ => Err(self.error(connection, error)),
        }
    }

    fn error(&self, connection: &Connection, error: DriverError) -> SinkError {
        let action = format!("read {}/{}", self.of.topic, self.of.partition);
        self.cluster.error_on(connection, action, error).into()
    }
}
