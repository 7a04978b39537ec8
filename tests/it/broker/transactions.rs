//! Transactions commit, abort and fence; nothing of an aborted or open one reaches a reader of committed records.

use std::time::Duration;

use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::{Offset, TopicPartitionList};

use super::harness::{
    DEADLINE, TestBroker, blocking, create_topic, numbered, producer, read_all, send_all, values, watermarks,
};

/// A producer under a transactional id, ready for its first transaction.
pub(super) fn transactional(client: &ClientConfig, id: &str) -> BaseProducer {
    let mut config = client.clone();
    config.set("transactional.id", id).set("linger.ms", "1").set("batch.num.messages", "10");
    let producer: BaseProducer = config.create().unwrap();
    producer.init_transactions(DEADLINE).unwrap();
    producer
}

pub(super) fn put(producer: &BaseProducer, topic: &str, values: &[String]) {
    for value in values {
        producer.send(BaseRecord::<[u8], str>::to(topic).partition(0).payload(value)).map_err(|(e, _)| e).unwrap();
    }
    producer.flush(DEADLINE).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_committed_transaction_is_seen_and_an_aborted_one_never() {
    let broker = TestBroker::start().await;
    create_topic(&broker.client(), "t", 1).await;
    let client = broker.client();
    blocking(move || {
        let producer = transactional(&client, "tx");
        for round in 0..6 {
            producer.begin_transaction().unwrap();
            put(&producer, "t", &numbered(round * 50..round * 50 + 50));
            match round % 2 {
                0 => producer.commit_transaction(DEADLINE).unwrap(),
                _ => producer.abort_transaction(DEADLINE).unwrap(),
            }
        }
    })
    .await;
    let committed: Vec<String> = [0, 2, 4].into_iter().flat_map(|r| numbered(r * 50..r * 50 + 50)).collect();
    assert_eq!(values(&read_all(&broker.client(), "t", true, 0).await), committed);
    assert_eq!(values(&read_all(&broker.client(), "t", false, 0).await), numbered(0..300));
    // From inside the aborted second transaction.
    assert_eq!(values(&read_all(&broker.client(), "t", true, 75).await), committed[50..]);
    // 300 records and six markers.
    assert_eq!(watermarks(&broker.client(), "t", true).await, (0, 306));
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_open_transaction_hides_what_follows_until_it_ends() {
    let mut broker = TestBroker::start().await;
    create_topic(&broker.client(), "t", 1).await;
    let plain = producer(&broker.client());
    send_all(&plain, "t", &numbered(0..10)).await;
    let client = broker.client();
    let open = blocking(move || {
        let producer = transactional(&client, "tx");
        producer.begin_transaction().unwrap();
        put(&producer, "t", &numbered(10..20));
        producer
    })
    .await;
    send_all(&plain, "t", &numbered(20..30)).await;
    assert_eq!(values(&read_all(&broker.client(), "t", true, 0).await), numbered(0..10));
    assert_eq!(watermarks(&broker.client(), "t", true).await, (0, 10));
    assert_eq!(watermarks(&broker.client(), "t", false).await, (0, 30));
    // A restart changes nothing of that.
    broker.restart_with(|_| {}).await;
    assert_eq!(values(&read_all(&broker.client(), "t", true, 0).await), numbered(0..10));
    blocking(move || open.commit_transaction(DEADLINE).unwrap()).await;
    assert_eq!(values(&read_all(&broker.client(), "t", true, 0).await), numbered(0..30));
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_successor_fences_and_aborts() {
    let broker = TestBroker::start().await;
    create_topic(&broker.client(), "t", 1).await;
    let client = broker.client();
    blocking(move || {
        let zombie = transactional(&client, "tx");
        zombie.begin_transaction().unwrap();
        put(&zombie, "t", &numbered(0..10));
        let successor = transactional(&client, "tx");
        let error = zombie.commit_transaction(DEADLINE).unwrap_err();
        let KafkaError::Transaction(error) = error else { panic!("{error}") };
        assert!(error.is_fatal(), "{error}");
        successor.begin_transaction().unwrap();
        put(&successor, "t", &numbered(10..20));
        successor.commit_transaction(DEADLINE).unwrap();
    })
    .await;
    assert_eq!(values(&read_all(&broker.client(), "t", true, 0).await), numbered(10..20));
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_zombie_cannot_add_to_its_successors_transaction() {
    let broker = TestBroker::start().await;
    create_topic(&broker.client(), "t", 1).await;
    let client = broker.client();
    blocking(move || {
        let zombie = transactional(&client, "tx");
        zombie.begin_transaction().unwrap();
        put(&zombie, "t", &numbered(0..5));
        let successor = transactional(&client, "tx");
        successor.begin_transaction().unwrap();
        put(&successor, "t", &numbered(10..15));
        let late = BaseRecord::<[u8], str>::to("t").partition(0).payload("late");
        if zombie.send(late).is_ok() {
            // Whether delivery or the flush reports it, the transaction cannot commit.
            let _ = zombie.flush(DEADLINE);
        }
        zombie.commit_transaction(DEADLINE).unwrap_err();
        successor.commit_transaction(DEADLINE).unwrap();
    })
    .await;
    assert_eq!(values(&read_all(&broker.client(), "t", true, 0).await), numbered(10..15));
    assert!(!values(&read_all(&broker.client(), "t", false, 0).await).contains(&"late".to_owned()));
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_that_outlives_its_timeout_is_aborted() {
    let broker = TestBroker::start_with(|config| config.transaction_sweep = Duration::from_millis(20)).await;
    create_topic(&broker.client(), "t", 1).await;
    let client = broker.client();
    let forgotten = blocking(move || {
        let mut client = client;
        client.set("transaction.timeout.ms", "1000").set("socket.timeout.ms", "500").set("message.timeout.ms", "900");
        let producer = transactional(&client, "tx");
        producer.begin_transaction().unwrap();
        put(&producer, "t", &numbered(0..10));
        producer
    })
    .await;
    let deadline = tokio::time::Instant::now() + DEADLINE;
    // Ten records and the marker that the broker writes by itself.
    while watermarks(&broker.client(), "t", true).await.1 != 11 {
        assert!(tokio::time::Instant::now() < deadline, "the transaction was not aborted");
    }
    assert_eq!(values(&read_all(&broker.client(), "t", true, 0).await), Vec::<String>::new());
    blocking(move || forgotten.commit_transaction(DEADLINE).unwrap_err()).await;
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn transactions_span_partitions_and_topics() {
    let broker = TestBroker::start().await;
    create_topic(&broker.client(), "a", 3).await;
    create_topic(&broker.client(), "b", 1).await;
    let client = broker.client();
    blocking(move || {
        let producer = transactional(&client, "tx");
        for outcome in ["kept", "dropped", "kept"] {
            producer.begin_transaction().unwrap();
            for (topic, partition) in [("a", 0), ("a", 1), ("a", 2), ("b", 0)] {
                let record = BaseRecord::<[u8], str>::to(topic).partition(partition).payload(outcome);
                producer.send(record).map_err(|(e, _)| e).unwrap();
            }
            producer.flush(DEADLINE).unwrap();
            match outcome {
                "kept" => producer.commit_transaction(DEADLINE).unwrap(),
                _ => producer.abort_transaction(DEADLINE).unwrap(),
            }
        }
        let consumer = super::harness::consumer(&client, true);
        for (topic, partition) in [("a", 0), ("a", 1), ("a", 2), ("b", 0)] {
            let read = super::harness::read_from(&consumer, topic, partition, 0);
            assert_eq!(values(&read), ["kept", "kept"], "{topic} {partition}");
        }
    })
    .await;
    broker.stop().await;
}

fn committed_offset(client: &ClientConfig, group: &str) -> Offset {
    let mut config = client.clone();
    let consumer: BaseConsumer = config.set("group.id", group).create().unwrap();
    let mut asked = TopicPartitionList::new();
    asked.add_partition("in", 0);
    consumer.committed_offsets(asked, DEADLINE).unwrap().elements()[0].offset()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn offsets_in_a_transaction_count_when_it_commits() {
    let mut broker = TestBroker::start().await;
    create_topic(&broker.client(), "in", 1).await;
    create_topic(&broker.client(), "t", 1).await;
    let client = broker.client();
    blocking(move || {
        let mut config = client.clone();
        let consumer: BaseConsumer = config.set("group.id", "g").create().unwrap();
        let metadata = consumer.group_metadata().unwrap();
        let producer = transactional(&client, "tx");
        for (offset, commits) in [(5, true), (9, false)] {
            producer.begin_transaction().unwrap();
            put(&producer, "t", &numbered(0..1));
            let mut offsets = TopicPartitionList::new();
            offsets.add_partition_offset("in", 0, Offset::Offset(offset)).unwrap();
            producer.send_offsets_to_transaction(&offsets, &metadata, DEADLINE).unwrap();
            match commits {
                true => producer.commit_transaction(DEADLINE).unwrap(),
                false => producer.abort_transaction(DEADLINE).unwrap(),
            }
            assert_eq!(committed_offset(&client, "g"), Offset::Offset(5));
        }
    })
    .await;
    broker.restart_with(|_| {}).await;
    let client = broker.client();
    assert_eq!(blocking(move || committed_offset(&client, "g")).await, Offset::Offset(5));
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_aborted_transactions_over_many_segments_stay_hidden_after_restarts() {
    let small = |config: &mut pinsched::embedded::broker::BrokerConfig| {
        config.segment_bytes = 2_000;
        config.index_interval_bytes = 300;
    };
    let mut broker = TestBroker::start_with(small).await;
    create_topic(&broker.client(), "t", 1).await;
    for session in 0..3 {
        let client = broker.client();
        blocking(move || {
            let producer = transactional(&client, "tx");
            for round in 0..20 {
                producer.begin_transaction().unwrap();
                let word = if round % 3 == 0 { "kept" } else { "dropped" };
                put(&producer, "t", &(0..5).map(|n| format!("{word} {session} {round} {n}")).collect::<Vec<_>>());
                match word {
                    "kept" => producer.commit_transaction(DEADLINE).unwrap(),
                    _ => producer.abort_transaction(DEADLINE).unwrap(),
                }
            }
        })
        .await;
        broker.restart_with(small).await;
    }
    let kept = values(&read_all(&broker.client(), "t", true, 0).await);
    assert_eq!(kept.len(), 3 * 7 * 5);
    assert!(kept.iter().all(|value| value.starts_with("kept")));
    for start in (0..360).step_by(17) {
        let read = values(&read_all(&broker.client(), "t", true, start).await);
        assert!(kept.ends_with(&read), "from {start}");
    }
    broker.stop().await;
}
