//! Numbered producing: nothing twice, nothing missing, in order, also when the broker goes away in between.

use rdkafka::message::Message;
use rdkafka::producer::FutureRecord;

use super::harness::{DEADLINE, TestBroker, create_topic, numbered, producer, read_all, send_all, values};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_record_is_there_once_and_in_order() {
    let broker = TestBroker::start().await;
    create_topic(&broker.client(), "t", 1).await;
    let mut config = broker.client();
    config.set("enable.idempotence", "true").set("batch.num.messages", "50");
    let sent = numbered(0..5000);
    let offsets = send_all(&producer(&config), "t", &sent).await;
    assert_eq!(offsets, (0..5000).collect::<Vec<i64>>());
    assert_eq!(values(&read_all(&broker.client(), "t", true, 0).await), sent);
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn restarts_under_load_neither_lose_nor_repeat() {
    let mut broker = TestBroker::start_with(|config| config.segment_bytes = 64 << 10).await;
    create_topic(&broker.client(), "t", 1).await;
    let mut config = broker.client();
    config.set("enable.idempotence", "true").set("batch.num.messages", "20").set("linger.ms", "1");
    let producer = producer(&config);
    let sent = numbered(0..6000);
    let mut deliveries = Vec::new();
    for (n, value) in sent.iter().enumerate() {
        if n % 2000 == 1000 {
            // With thousands of records under way.
            broker.restart_with(|config| config.segment_bytes = 64 << 10).await;
        }
        let record = FutureRecord::<[u8], str>::to("t").partition(0).payload(value);
        deliveries.push(producer.send_result(record).map_err(|(error, _)| error).unwrap());
    }
    for delivery in deliveries {
        tokio::time::timeout(DEADLINE, delivery).await.unwrap().unwrap().map_err(|(error, _)| error).unwrap();
    }
    let messages = read_all(&broker.client(), "t", true, 0).await;
    assert_eq!(values(&messages), sent);
    assert_eq!(messages.last().unwrap().offset(), 5999);
    broker.stop().await;
}
