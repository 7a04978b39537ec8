//! A broker in a directory of its own, and clients for it.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use pinsched::embedded::broker::{Broker, BrokerConfig};
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::{Message, OwnedMessage};
use rdkafka::producer::{FutureProducer, FutureRecord};
use rdkafka::types::RDKafkaErrorCode;
use rdkafka::{Offset, TopicPartitionList};
use tokio_util::sync::CancellationToken;

/// Far beyond what anything here takes; reaching it is a failure.
pub(super) const DEADLINE: Duration = Duration::from_secs(60);

pub(super) const LOOPBACK: &str = "127.0.0.1:0";

/// A broker and the directory it keeps.
pub(super) struct TestBroker {
    broker: Option<Broker>,
    pub(super) address: SocketAddr,
    pub(super) dir: tempfile::TempDir,
}

pub(super) fn config(dir: &Path) -> BrokerConfig {
    BrokerConfig::new(dir.to_owned(), LOOPBACK.parse().unwrap())
}

impl TestBroker {
    pub(super) async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    pub(super) async fn start_with(change: impl FnOnce(&mut BrokerConfig)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut config = config(dir.path());
        change(&mut config);
        let broker = Broker::start(config, CancellationToken::new()).await.unwrap();
        Self { address: broker.address(), broker: Some(broker), dir }
    }

    /// Stops it and starts it again on the same port.
    pub(super) async fn restart_with(&mut self, change: impl FnOnce(&mut BrokerConfig)) {
        self.halt().await;
        self.resume_with(change).await;
    }

    /// Stops it; its directory stays.
    pub(super) async fn halt(&mut self) {
        self.broker.take().unwrap().stop().await;
    }

    /// Starts it again on the same port.
    pub(super) async fn resume_with(&mut self, change: impl FnOnce(&mut BrokerConfig)) {
        let mut config = config(self.dir.path());
        config.listen = self.address;
        change(&mut config);
        self.broker = Some(Broker::start(config, CancellationToken::new()).await.unwrap());
    }

    pub(super) async fn stop(mut self) {
        self.broker.take().unwrap().stop().await;
    }

    pub(super) fn client(&self) -> ClientConfig {
        client(self.address)
    }
}

pub(super) fn client(address: SocketAddr) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", address.to_string());
    // So that a client which lost its broker is back soon.
    config.set("reconnect.backoff.ms", "10").set("reconnect.backoff.max.ms", "200");
    config
}

pub(super) fn producer(client: &ClientConfig) -> FutureProducer {
    client.create().unwrap()
}

/// A consumer of partitions assigned by hand.
pub(super) fn consumer(client: &ClientConfig, committed: bool) -> BaseConsumer {
    let mut config = client.clone();
    config
        .set("group.id", "assigned")
        .set("enable.auto.commit", "false")
        .set("enable.partition.eof", "true")
        .set("check.crcs", "true")
        .set("fetch.wait.max.ms", "20")
        .set("auto.offset.reset", "error")
        .set("isolation.level", if committed { "read_committed" } else { "read_uncommitted" });
    config.create().unwrap()
}

pub(super) fn admin(client: &ClientConfig) -> AdminClient<DefaultClientContext> {
    client.create().unwrap()
}

pub(super) async fn create_topic(client: &ClientConfig, name: &str, partitions: i32) {
    let topic = NewTopic::new(name, partitions, TopicReplication::Fixed(1));
    let results = admin(client).create_topics([&topic], &AdminOptions::new()).await.unwrap();
    assert_eq!(results, [Ok(name.to_owned())]);
}

/// Sends one record and waits for its acknowledgement: partition and offset.
pub(super) async fn send(producer: &FutureProducer, topic: &str, partition: i32, value: &[u8]) -> (i32, i64) {
    let record = FutureRecord::<[u8], [u8]>::to(topic).partition(partition).payload(value);
    let delivery = producer.send(record, DEADLINE).await.map_err(|(error, _)| error).unwrap();
    (delivery.partition, delivery.offset)
}

/// Sends many records at once and waits for all acknowledgements; tells their offsets in order.
pub(super) async fn send_all(producer: &FutureProducer, topic: &str, values: &[String]) -> Vec<i64> {
    let mut deliveries = Vec::new();
    for value in values {
        let record = FutureRecord::<[u8], str>::to(topic).partition(0).payload(value);
        deliveries.push(producer.send_result(record).map_err(|(error, _)| error).unwrap());
    }
    let mut offsets = Vec::new();
    for delivery in deliveries {
        offsets.push(delivery.await.unwrap().map_err(|(error, _)| error).unwrap().offset);
    }
    offsets
}

/// Reads a partition from an offset to its end.
pub(super) fn read_from(consumer: &BaseConsumer, topic: &str, partition: i32, offset: i64) -> Vec<OwnedMessage> {
    let mut assignment = TopicPartitionList::new();
    assignment.add_partition_offset(topic, partition, Offset::Offset(offset)).unwrap();
    consumer.assign(&assignment).unwrap();
    let mut messages = Vec::new();
    loop {
        match consumer.poll(DEADLINE).expect("a message or the end before the deadline") {
            Ok(message) => messages.push(message.detach()),
            Err(KafkaError::PartitionEOF(_)) => return messages,
            // librdkafka's word for a broker that is restarting; it goes on by itself.
            Err(KafkaError::MessageConsumption(
                RDKafkaErrorCode::BrokerTransportFailure | RDKafkaErrorCode::AllBrokersDown,
            )) => {}
            Err(error) => panic!("{error}"),
        }
    }
}

/// Reads a partition from an offset to its end, off the async threads.
pub(super) async fn read_all(client: &ClientConfig, topic: &str, committed: bool, offset: i64) -> Vec<OwnedMessage> {
    let (client, topic) = (client.clone(), topic.to_owned());
    blocking(move || read_from(&consumer(&client, committed), &topic, 0, offset)).await
}

pub(super) async fn watermarks(client: &ClientConfig, topic: &str, committed: bool) -> (i64, i64) {
    let (client, topic) = (client.clone(), topic.to_owned());
    blocking(move || consumer(&client, committed).fetch_watermarks(&topic, 0, DEADLINE).unwrap()).await
}

/// The offsets of times in partition 0.
pub(super) async fn offsets_for(client: &ClientConfig, topic: &str, times: &[i64]) -> HashMap<i64, Offset> {
    let (client, topic, times) = (client.clone(), topic.to_owned(), times.to_vec());
    blocking(move || {
        let consumer = consumer(&client, false);
        let mut found = HashMap::new();
        for time in times {
            let mut asked = TopicPartitionList::new();
            asked.add_partition_offset(&topic, 0, Offset::Offset(time)).unwrap();
            let answered = consumer.offsets_for_times(asked, DEADLINE).unwrap();
            found.insert(time, answered.elements()[0].offset());
        }
        found
    })
    .await
}

/// librdkafka's consumer and transactions block; a runtime's threads must not.
pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.unwrap()
}

pub(super) fn values(messages: &[OwnedMessage]) -> Vec<String> {
    messages.iter().map(|m| String::from_utf8(m.payload().unwrap().to_vec()).unwrap()).collect()
}

pub(super) fn numbered(range: std::ops::Range<usize>) -> Vec<String> {
    range.map(|n| format!("value-{n:06}")).collect()
}
