//! What is produced is what is fetched: bytes, offsets, timestamps, headers, from any offset, in any compression.

use rdkafka::Offset;
use rdkafka::message::{Header, Headers, Message, OwnedHeaders};
use rdkafka::producer::FutureRecord;

use super::harness::{
    DEADLINE, TestBroker, create_topic, numbered, offsets_for, producer, read_all, send, send_all, values, watermarks,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_comes_back_as_it_was_sent() {
    let broker = TestBroker::start().await;
    create_topic(&broker.client(), "t", 1).await;
    let headers = OwnedHeaders::new()
        .insert(Header { key: "a", value: Some("1") })
        .insert(Header { key: "a", value: Some("2") })
        .insert(Header::<&str> { key: "none", value: None });
    let record = FutureRecord::to("t").key("k").payload("v").timestamp(1_234_567_890_123).headers(headers);
    let delivery = producer(&broker.client()).send(record, DEADLINE).await.unwrap();
    assert_eq!((delivery.partition, delivery.offset), (0, 0));
    let messages = read_all(&broker.client(), "t", true, 0).await;
    let message = &messages[0];
    assert_eq!((messages.len(), message.offset()), (1, 0));
    assert_eq!((message.key(), message.payload()), (Some(&b"k"[..]), Some(&b"v"[..])));
    assert_eq!(message.timestamp(), rdkafka::Timestamp::CreateTime(1_234_567_890_123));
    let headers = message.headers().unwrap();
    let listed: Vec<_> = headers.iter().map(|h| (h.key.to_owned(), h.value.map(<[u8]>::to_vec))).collect();
    let expected = [("a", Some(&b"1"[..])), ("a", Some(b"2")), ("none", None)];
    assert_eq!(listed, expected.map(|(k, v)| (k.to_owned(), v.map(<[u8]>::to_vec))));
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_null_key_and_a_null_value_stay_null() {
    let broker = TestBroker::start().await;
    let producer = producer(&broker.client());
    producer.send(FutureRecord::<[u8], [u8]>::to("t").key(b"k"), DEADLINE).await.unwrap();
    producer.send(FutureRecord::<[u8], [u8]>::to("t").payload(b""), DEADLINE).await.unwrap();
    let messages = read_all(&broker.client(), "t", true, 0).await;
    assert_eq!((messages[0].key(), messages[0].payload()), (Some(&b"k"[..]), None));
    assert_eq!((messages[1].key(), messages[1].payload()), (None, Some(&b""[..])));
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watermarks_are_the_first_offset_and_the_one_after_the_last() {
    let broker = TestBroker::start().await;
    create_topic(&broker.client(), "t", 1).await;
    assert_eq!(watermarks(&broker.client(), "t", true).await, (0, 0));
    let mut config = broker.client();
    // All in one batch, so that counting batches instead of records would show.
    config.set("linger.ms", "200").set("batch.num.messages", "1000");
    let offsets = send_all(&producer(&config), "t", &numbered(0..1000)).await;
    assert_eq!(offsets, (0..1000).collect::<Vec<i64>>());
    assert_eq!(watermarks(&broker.client(), "t", true).await, (0, 1000));
    assert_eq!(watermarks(&broker.client(), "t", false).await, (0, 1000));
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fetch_that_starts_inside_a_batch_loses_nothing() {
    let broker = TestBroker::start_with(|config| config.index_interval_bytes = 512).await;
    create_topic(&broker.client(), "t", 1).await;
    let mut config = broker.client();
    config.set("linger.ms", "200").set("batch.num.messages", "100");
    let sent = numbered(0..1000);
    send_all(&producer(&config), "t", &sent).await;
    for start in [0, 1, 50, 99, 100, 101, 555, 998, 999, 1000] {
        let messages = read_all(&broker.client(), "t", true, start as i64).await;
        assert_eq!(values(&messages), sent[start..], "from {start}");
        assert_eq!(messages.first().map(|m| m.offset()), sent.get(start).map(|_| start as i64));
    }
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_compression_is_passed_through() {
    let broker = TestBroker::start().await;
    let mut stored_before = 0;
    for codec in ["none", "gzip", "snappy", "lz4", "zstd"] {
        let topic = format!("t-{codec}");
        create_topic(&broker.client(), &topic, 1).await;
        let mut config = broker.client();
        config.set("compression.codec", codec).set("linger.ms", "100");
        let sent = numbered(0..2000);
        send_all(&producer(&config), &topic, &sent).await;
        assert_eq!(values(&read_all(&broker.client(), &topic, true, 0).await), sent, "{codec}");
        assert_eq!(values(&read_all(&broker.client(), &topic, true, 777).await), sent[777..], "{codec}");
        let stored_now = super::recovery::log_bytes(broker.dir.path());
        let stored = stored_now - std::mem::replace(&mut stored_before, stored_now);
        let plain: usize = sent.iter().map(String::len).sum();
        // What the client compressed lies on the disk compressed.
        assert_eq!(stored < plain, codec != "none", "{codec}: {stored} of {plain} bytes");
    }
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_of_a_megabyte_pass_and_larger_ones_are_refused() {
    let broker = TestBroker::start().await;
    create_topic(&broker.client(), "t", 1).await;
    let mut config = broker.client();
    config.set("message.max.bytes", "4000000");
    let producer = producer(&config);
    let large: Vec<u8> = (0..1_000_000u32).map(|n| (n * 7 % 251) as u8).collect();
    for n in 0..5 {
        assert_eq!(send(&producer, "t", 0, &large).await, (0, n));
    }
    let refused = producer.send(FutureRecord::<[u8], _>::to("t").payload(&vec![1u8; 1_200_000]), DEADLINE).await;
    let (error, _) = refused.unwrap_err();
    assert_eq!(error.rdkafka_error_code(), Some(rdkafka::types::RDKafkaErrorCode::MessageSizeTooLarge));
    let messages = read_all(&broker.client(), "t", true, 0).await;
    assert_eq!(messages.len(), 5);
    assert!(messages.iter().all(|m| m.payload() == Some(&large)));
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_larger_than_the_fetch_is_still_given() {
    let broker = TestBroker::start().await;
    create_topic(&broker.client(), "t", 1).await;
    let mut config = broker.client();
    config.set("linger.ms", "200");
    let sent = numbered(0..5000);
    send_all(&producer(&config), "t", &sent).await;
    let mut small = broker.client();
    small.set("fetch.message.max.bytes", "1000").set("fetch.max.bytes", "1000").set("message.max.bytes", "1000");
    assert_eq!(values(&read_all(&small, "t", true, 0).await), sent);
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_time_finds_the_first_record_at_or_after_it() {
    let broker = TestBroker::start_with(|config| config.segment_bytes = 4_096).await;
    create_topic(&broker.client(), "t", 1).await;
    let mut config = broker.client();
    config.set("linger.ms", "100").set("batch.num.messages", "10");
    let producer = producer(&config);
    let mut deliveries = Vec::new();
    for n in 0..500i64 {
        let payload = format!("{n:0100}");
        let record = FutureRecord::<[u8], str>::to("t").partition(0).payload(&payload).timestamp(1_000 + n * 10);
        deliveries.push(producer.send_result(record).map_err(|(error, _)| error).unwrap());
    }
    for delivery in deliveries {
        delivery.await.unwrap().unwrap();
    }
    let found = offsets_for(&broker.client(), "t", &[0, 1_000, 1_001, 3_333, 5_990, 5_991]).await;
    assert_eq!(found[&0], Offset::Offset(0));
    assert_eq!(found[&1_000], Offset::Offset(0));
    assert_eq!(found[&1_001], Offset::Offset(1));
    assert_eq!(found[&3_333], Offset::Offset(234));
    assert_eq!(found[&5_990], Offset::Offset(499));
    assert_eq!(found[&5_991], Offset::End);
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fetch_beyond_the_end_is_out_of_range() {
    let broker = TestBroker::start().await;
    create_topic(&broker.client(), "t", 1).await;
    send(&producer(&broker.client()), "t", 0, b"only").await;
    let client = broker.client();
    let error = super::harness::blocking(move || {
        let consumer = super::harness::consumer(&client, true);
        let mut assignment = rdkafka::TopicPartitionList::new();
        assignment.add_partition_offset("t", 0, Offset::Offset(7)).unwrap();
        rdkafka::consumer::Consumer::assign(&consumer, &assignment).unwrap();
        consumer.poll(DEADLINE).unwrap().map(|m| m.offset()).unwrap_err()
    })
    .await;
    // auto.offset.reset=error makes the client report it instead of jumping.
    assert_eq!(error.rdkafka_error_code(), Some(rdkafka::types::RDKafkaErrorCode::AutoOffsetReset), "{error}");
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_waiting_fetch_is_woken_by_a_new_record() {
    let broker = TestBroker::start().await;
    create_topic(&broker.client(), "t", 1).await;
    let mut config = broker.client();
    // Longer than the deadline of the poll: only a wake-up can answer in time.
    config.set("fetch.wait.max.ms", "290000").set("socket.timeout.ms", "300000").set("group.id", "g");
    let (seen, mut was_seen) = tokio::sync::mpsc::unbounded_channel();
    let reading = tokio::task::spawn_blocking(move || {
        let consumer: rdkafka::consumer::BaseConsumer = config.create().unwrap();
        let mut assignment = rdkafka::TopicPartitionList::new();
        assignment.add_partition_offset("t", 0, Offset::Offset(0)).unwrap();
        rdkafka::consumer::Consumer::assign(&consumer, &assignment).unwrap();
        for _ in 0..20 {
            let message = consumer.poll(DEADLINE).expect("the fetch that waits is woken").unwrap();
            seen.send(message.payload().unwrap().to_vec()).unwrap();
        }
    });
    let sender = producer(&broker.client());
    for round in numbered(0..20) {
        // The client sends its next fetch before it hands on what the last one brought, so from the second round on one
        // is waiting when the record is sent.
        send(&sender, "t", 0, round.as_bytes()).await;
        assert_eq!(was_seen.recv().await.unwrap(), round.as_bytes());
    }
    reading.await.unwrap();
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unacknowledged_producing_works_too() {
    let broker = TestBroker::start().await;
    create_topic(&broker.client(), "t", 1).await;
    let mut config = broker.client();
    config.set("acks", "0");
    let fast = producer(&config);
    for n in 0..10 {
        let payload = format!("{n}");
        fast.send(FutureRecord::<[u8], str>::to("t").payload(&payload), DEADLINE).await.unwrap();
    }
    // Another connection's record is only appended behind those that arrived, so read until all are there.
    let deadline = tokio::time::Instant::now() + DEADLINE;
    while watermarks(&broker.client(), "t", true).await.1 < 10 {
        assert!(tokio::time::Instant::now() < deadline, "records sent without acknowledgement did not arrive");
    }
    assert_eq!(
        values(&read_all(&broker.client(), "t", true, 0).await),
        (0..10).map(|n| n.to_string()).collect::<Vec<_>>()
    );
    broker.stop().await;
}
