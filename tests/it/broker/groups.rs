//! Groups divide partitions, notice who comes and goes, and remember their offsets.

use std::collections::BTreeSet;

use rdkafka::admin::AdminOptions;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::message::{BorrowedMessage, Message};
use rdkafka::types::RDKafkaErrorCode;
use rdkafka::{Offset, TopicPartitionList};

use super::harness::{DEADLINE, TestBroker, admin, blocking, create_topic, numbered, producer, send, send_all};

fn member(client: &ClientConfig, group: &str) -> BaseConsumer {
    let mut config = client.clone();
    config
        .set("group.id", group)
        .set("auto.offset.reset", "earliest")
        .set("enable.auto.commit", "false")
        .set("heartbeat.interval.ms", "50")
        .set("session.timeout.ms", "2000")
        .set("fetch.wait.max.ms", "20");
    config.create().unwrap()
}

/// Polls until `done`, as long as the deadline allows.
fn poll_until(consumers: &[&BaseConsumer], mut done: impl FnMut(&[&BaseConsumer]) -> bool) {
    let deadline = tokio::time::Instant::now() + DEADLINE;
    while !done(consumers) {
        assert!(tokio::time::Instant::now() < deadline, "the group did not get there");
        for consumer in consumers {
            // Messages do not matter here.
            let _ = consumer.poll(std::time::Duration::from_millis(20));
        }
    }
}

/// The next message. A poll of a group's member also ends, without one, when the group changes.
fn next(consumer: &BaseConsumer) -> BorrowedMessage<'_> {
    let deadline = tokio::time::Instant::now() + DEADLINE;
    loop {
        assert!(tokio::time::Instant::now() < deadline, "no message came");
        if let Some(message) = consumer.poll(DEADLINE) {
            return message.unwrap();
        }
    }
}

fn assigned(consumer: &BaseConsumer) -> BTreeSet<i32> {
    consumer.assignment().unwrap().elements().iter().map(|e| e.partition()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_share_the_partitions_and_take_over_from_who_leaves() {
    let broker = TestBroker::start().await;
    create_topic(&broker.client(), "t", 4).await;
    let client = broker.client();
    blocking(move || {
        let first = member(&client, "g");
        first.subscribe(&["t"]).unwrap();
        poll_until(&[&first], |c| assigned(c[0]).len() == 4);
        let second = member(&client, "g");
        second.subscribe(&["t"]).unwrap();
        poll_until(&[&first, &second], |c| assigned(c[0]).len() == 2 && assigned(c[1]).len() == 2);
        assert!(assigned(&first).is_disjoint(&assigned(&second)));
        // A polite leave.
        drop(first);
        poll_until(&[&second], |c| assigned(c[0]).len() == 4);
    })
    .await;
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cooperative_group_rebalances_too() {
    let broker = TestBroker::start().await;
    create_topic(&broker.client(), "t", 6).await;
    let mut client = broker.client();
    client.set("partition.assignment.strategy", "cooperative-sticky");
    blocking(move || {
        let members: Vec<BaseConsumer> = (0..3).map(|_| member(&client, "g")).collect();
        members.iter().for_each(|m| m.subscribe(&["t"]).unwrap());
        let all: Vec<&BaseConsumer> = members.iter().collect();
        poll_until(&all, |c| c.iter().all(|m| assigned(m).len() == 2));
    })
    .await;
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_static_member_comes_back_to_its_place() {
    let broker = TestBroker::start().await;
    create_topic(&broker.client(), "t", 2).await;
    let client = broker.client();
    blocking(move || {
        let named = |instance: &str| {
            let mut config = client.clone();
            config.set("group.instance.id", instance);
            let consumer = member(&config, "g");
            consumer.subscribe(&["t"]).unwrap();
            consumer
        };
        let (first, second) = (named("one"), named("two"));
        poll_until(&[&first, &second], |c| c.iter().all(|m| assigned(m).len() == 1));
        let place = assigned(&second);
        drop(second);
        let again = named("two");
        poll_until(&[&first, &again], |c| c.iter().all(|m| assigned(m).len() == 1));
        assert_eq!(assigned(&again), place);
    })
    .await;
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn committed_offsets_survive_a_restart_and_resume_the_group() {
    let mut broker = TestBroker::start().await;
    create_topic(&broker.client(), "t", 1).await;
    send_all(&producer(&broker.client()), "t", &numbered(0..100)).await;
    let read = |client: ClientConfig, count: usize| {
        blocking(move || {
            let consumer = member(&client, "g");
            consumer.subscribe(&["t"]).unwrap();
            let mut seen = Vec::new();
            while seen.len() < count {
                let message = next(&consumer);
                seen.push(message.offset());
                consumer.commit_message(&message, CommitMode::Sync).unwrap();
            }
            seen
        })
    };
    assert_eq!(read(broker.client(), 40).await, (0..40).collect::<Vec<i64>>());
    broker.restart_with(|_| {}).await;
    assert_eq!(read(broker.client(), 60).await, (40..100).collect::<Vec<i64>>());
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_goes_on_through_a_restart_of_the_broker() {
    let mut broker = TestBroker::start().await;
    create_topic(&broker.client(), "t", 1).await;
    let sender = producer(&broker.client());
    send(&sender, "t", 0, b"before").await;
    let client = broker.client();
    let (seen_first, ready) = tokio::sync::oneshot::channel();
    let reading = tokio::task::spawn_blocking(move || {
        let consumer = member(&client, "g");
        consumer.subscribe(&["t"]).unwrap();
        let deadline = tokio::time::Instant::now() + DEADLINE;
        let mut seen = Vec::new();
        let mut seen_first = Some(seen_first);
        while seen.len() < 2 {
            assert!(tokio::time::Instant::now() < deadline, "saw only {seen:?}");
            // Errors in between tell of the restart.
            if let Some(Ok(message)) = consumer.poll(std::time::Duration::from_millis(20)) {
                seen.push(message.payload().unwrap().to_vec());
                let _ = consumer.commit_message(&message, CommitMode::Sync);
                if let Some(first) = seen_first.take() {
                    first.send(()).unwrap();
                }
            }
        }
        seen
    });
    tokio::time::timeout(DEADLINE, ready).await.unwrap().expect("the first record was read");
    broker.restart_with(|_| {}).await;
    send(&sender, "t", 0, b"after").await;
    assert_eq!(reading.await.unwrap(), [b"before".to_vec(), b"after".to_vec()]);
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn groups_are_listed_and_deleted_only_when_empty() {
    let broker = TestBroker::start().await;
    create_topic(&broker.client(), "t", 1).await;
    let client = broker.client();
    let consumer = blocking(move || {
        let consumer = member(&client, "g");
        consumer.subscribe(&["t"]).unwrap();
        poll_until(&[&consumer], |c| assigned(c[0]).len() == 1);
        let list = consumer.fetch_group_list(None, DEADLINE).unwrap();
        let group = list.groups().iter().find(|group| group.name() == "g").unwrap();
        assert_eq!((group.state(), group.protocol_type(), group.members().len()), ("Stable", "consumer", 1));
        let mut offsets = TopicPartitionList::new();
        offsets.add_partition_offset("t", 0, Offset::Offset(0)).unwrap();
        consumer.commit(&offsets, CommitMode::Sync).unwrap();
        consumer
    })
    .await;
    let options = AdminOptions::new();
    let busy = admin(&broker.client()).delete_groups(&["g"], &options).await.unwrap();
    assert_eq!(busy, [Err(("g".to_owned(), RDKafkaErrorCode::NonEmptyGroup))]);
    blocking(move || drop(consumer)).await;
    let deleted = admin(&broker.client()).delete_groups(&["g", "never"], &options).await.unwrap();
    assert_eq!(deleted, [Ok("g".to_owned()), Err(("never".to_owned(), RDKafkaErrorCode::GroupIdNotFound))]);
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deleting_a_topic_forgets_its_offsets() {
    let broker = TestBroker::start().await;
    for _ in 0..2 {
        create_topic(&broker.client(), "t", 1).await;
        send_all(&producer(&broker.client()), "t", &numbered(0..10)).await;
        let client = broker.client();
        blocking(move || {
            let consumer = member(&client, "g");
            consumer.subscribe(&["t"]).unwrap();
            for offset in 0..10 {
                assert_eq!(next(&consumer).offset(), offset);
            }
            consumer.commit_consumer_state(CommitMode::Sync).unwrap();
        })
        .await;
        admin(&broker.client()).delete_topics(&["t"], &AdminOptions::new()).await.unwrap();
    }
    broker.stop().await;
}
