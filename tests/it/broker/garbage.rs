//! Nonsense on the port ends its own connection and nothing else.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::harness::{DEADLINE, TestBroker, create_topic, producer, read_all, send, values, watermarks};

/// What a client does when it has sent everything.
#[derive(Clone, Copy, PartialEq)]
enum Then {
    /// Says that nothing follows, so that the broker answers what there is and closes.
    CloseItsSide,
    /// Waits, so that the broker closes only for what it was sent.
    Wait,
}

/// Sends bytes and reads until the broker closes the connection.
async fn exchange(address: SocketAddr, bytes: &[u8], then: Then) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).await.unwrap();
    // The broker may close before it has read everything; then writing fails, which is as good.
    let _ = stream.write_all(bytes).await;
    if then == Then::CloseItsSide {
        let _ = stream.shutdown().await;
    }
    let mut answer = Vec::new();
    let read = tokio::time::timeout(DEADLINE, stream.read_to_end(&mut answer)).await;
    let _ = read.unwrap_or_else(|_| panic!("the connection was not closed after {bytes:?}"));
    answer
}

fn frame(body: &[u8]) -> Vec<u8> {
    [&i32::try_from(body.len()).unwrap().to_be_bytes()[..], body].concat()
}

/// A request with this key and version, no client id, and a body.
fn request(key: i16, version: i16, body: &[u8]) -> Vec<u8> {
    let header =
        [&key.to_be_bytes()[..], &version.to_be_bytes(), &77i32.to_be_bytes(), &(-1i16).to_be_bytes()].concat();
    frame(&[&header[..], body].concat())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nonsense_closes_the_connection_and_the_broker_goes_on() {
    let broker = TestBroker::start().await;
    create_topic(&broker.client(), "t", 1).await;
    let cases: Vec<Vec<u8>> = vec![
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec(),
        vec![0x16, 0x03, 0x01, 0x02, 0x00, 0x01, 0x00, 0x01, 0xfc, 0x03, 0x03],
        vec![0xff; 64],
        vec![0x00; 64],
        (-5i32).to_be_bytes().to_vec(),
        i32::MAX.to_be_bytes().to_vec(),
        frame(&[]),
        frame(&[0]),
        request(999, 0, &[]),
        request(0, 2, &[0; 30]),
        request(3, 99, &[]),
        // Metadata that announces two thousand million topics.
        request(3, 1, &i32::MAX.to_be_bytes()),
        // Fetch with a huge list, DescribeGroups with a huge list, JoinGroup with a huge text.
        request(1, 4, &[&[0u8; 17][..], &i32::MAX.to_be_bytes()].concat()),
        request(15, 0, &0x7fff_fff0i32.to_be_bytes()),
        request(11, 0, &[0x7f, 0xff, 1, 2, 3]),
    ];
    for case in &cases {
        assert_eq!(exchange(broker.address, case, Then::Wait).await, [0u8; 0], "{case:?}");
    }
    // And a number of bytes that nobody thought about, the same in every run.
    let mut seed = 0x9e37_79b9_7f4a_7c15u64;
    for key in 0..70i16 {
        let mut body = Vec::new();
        for _ in 0..key * 3 {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            body.push(seed as u8);
        }
        for version in 0..4 {
            exchange(broker.address, &request(key, version * 3, &body), Then::CloseItsSide).await;
        }
    }
    send(&producer(&broker.client()), "t", 0, b"still here").await;
    assert_eq!(values(&read_all(&broker.client(), "t", true, 0).await), ["still here"]);
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unknown_version_of_api_versions_is_told_what_is_spoken() {
    let broker = TestBroker::start().await;
    // The header of such a version ends with its number of tagged fields.
    let answer = exchange(broker.address, &request(18, 42, &[0]), Then::CloseItsSide).await;
    // Length, correlation id, then in the layout of version 0: error 35 and a list that is not empty.
    assert_eq!(answer[4..8], 77i32.to_be_bytes());
    assert_eq!(answer[8..10], 35i16.to_be_bytes());
    assert!(i32::from_be_bytes(answer[10..14].try_into().unwrap()) > 20);
    broker.stop().await;
}

/// Metadata version 1 of all topics, told apart by the correlation id.
fn metadata(correlation: i32) -> Vec<u8> {
    let body = (-1i32).to_be_bytes();
    let header =
        [&3i16.to_be_bytes()[..], &1i16.to_be_bytes(), &correlation.to_be_bytes(), &(-1i16).to_be_bytes()].concat();
    frame(&[&header[..], &body].concat())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_sent_at_once_are_answered_in_order() {
    let broker = TestBroker::start().await;
    let all: Vec<u8> = (0..50).flat_map(metadata).collect();
    let answers = exchange(broker.address, &all, Then::CloseItsSide).await;
    let mut rest = &answers[..];
    for correlation in 0..50i32 {
        let (length, after) = rest.split_at(4);
        let length = i32::from_be_bytes(length.try_into().unwrap()) as usize;
        assert_eq!(after[..4], correlation.to_be_bytes());
        rest = &after[length..];
    }
    assert!(rest.is_empty());
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_that_come_byte_by_byte_are_understood() {
    let broker = TestBroker::start().await;
    let mut stream = TcpStream::connect(broker.address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    for byte in metadata(5) {
        stream.write_all(&[byte]).await.unwrap();
        tokio::task::yield_now().await;
    }
    let mut head = [0; 8];
    tokio::time::timeout(DEADLINE, stream.read_exact(&mut head)).await.unwrap().unwrap();
    assert_eq!(head[4..], 5i32.to_be_bytes());
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_corrupt_batch_is_refused_and_not_stored() {
    let broker = TestBroker::start().await;
    create_topic(&broker.client(), "t", 1).await;
    // Rubbish for a batch.
    let rubbish: Vec<u8> = (0..100u8).map(|n| if n == 16 { 2 } else { n }).collect();
    let error = produce(broker.address, &rubbish).await;
    assert!(error == 2 || error == 87, "error {error}");
    assert_eq!(watermarks(&broker.client(), "t", true).await, (0, 0));
    broker.stop().await;
}

/// Produces a batch to partition 0 of topic `t` and gives the error code.
async fn produce(address: SocketAddr, batch: &[u8]) -> i16 {
    // Version 3: no transactional id, acks 1, timeout, one topic, one partition.
    let mut body =
        [&(-1i16).to_be_bytes()[..], &1i16.to_be_bytes(), &1_000i32.to_be_bytes(), &1i32.to_be_bytes()].concat();
    body.extend_from_slice(&[0, 1, b't']);
    body.extend_from_slice(&1i32.to_be_bytes());
    body.extend_from_slice(&0i32.to_be_bytes());
    body.extend_from_slice(&i32::try_from(batch.len()).unwrap().to_be_bytes());
    body.extend_from_slice(batch);
    let answer = exchange(address, &request(0, 3, &body), Then::CloseItsSide).await;
    // Length, correlation, one topic, its name, one partition, its number: then the error.
    i16::from_be_bytes(answer[4 + 4 + 4 + 3 + 4 + 4..][..2].try_into().unwrap())
}

/// A batch with a right checksum over whatever it holds.
fn batch(attributes: i16, record_count: i32, records: &[u8]) -> Vec<u8> {
    let mut checked = attributes.to_be_bytes().to_vec();
    checked.extend_from_slice(&(record_count - 1).to_be_bytes());
    checked.extend_from_slice(&[0; 16]); // timestamps
    checked.extend_from_slice(&[0xff; 14]); // no producer
    checked.extend_from_slice(&record_count.to_be_bytes());
    checked.extend_from_slice(records);
    let length = i32::try_from(checked.len() + 9).unwrap();
    let head = [&[0; 8][..], &length.to_be_bytes(), &[0; 4], &[2], &crc32c::crc32c(&checked).to_be_bytes()].concat();
    [head, checked].concat()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nonsense_with_a_right_checksum_is_refused_and_does_not_block_the_partition() {
    const INVALID_RECORD: i16 = 87;
    let broker = TestBroker::start().await;
    create_topic(&broker.client(), "t", 1).await;
    // Length 7, attributes, time, offset, no key, value of one byte, no headers.
    let record = [14, 0, 0, 0, 1, 2, b'x', 0];
    assert_eq!(produce(broker.address, &batch(0, 1, &record)).await, 0);
    assert_eq!(produce(broker.address, &batch(0, 1, &[0xff; 50])).await, INVALID_RECORD);
    assert_eq!(produce(broker.address, &batch(0, 2, &[record, record].concat())).await, INVALID_RECORD);
    assert_eq!(produce(broker.address, &batch(0, 1, &[record, record].concat())).await, INVALID_RECORD);
    // Compressed, and so many that one batch would use up a segment's offsets.
    assert_eq!(produce(broker.address, &batch(1, i32::MAX, &[0; 20])).await, INVALID_RECORD);
    assert_eq!(values(&read_all(&broker.client(), "t", true, 0).await), ["x"]);
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_merely_announced_holds_up_nobody() {
    // Beyond the deadline, so that it is not their end which lets others go on.
    let broker = TestBroker::start_with(|config| config.request_timeout = 10 * DEADLINE).await;
    create_topic(&broker.client(), "t", 1).await;
    let mut silent = Vec::new();
    for _ in 0..4 {
        let mut stream = TcpStream::connect(broker.address).await.unwrap();
        stream.write_all(&(100i32 << 20).to_be_bytes()).await.unwrap();
        silent.push(stream);
    }
    // Behind them in any queue.
    send(&producer(&broker.client()), "t", 0, b"not held up").await;
    drop(silent);
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_does_not_go_on_closes_its_connection() {
    let broker = TestBroker::start_with(|config| config.request_timeout = Duration::from_millis(50)).await;
    let half = [&100i32.to_be_bytes()[..], &[0; 50]].concat();
    assert_eq!(exchange(broker.address, &half, Then::Wait).await, [0u8; 0]);
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_would_fill_the_memory_is_refused() {
    const INVALID_REQUEST: i16 = 42;
    let broker = TestBroker::start().await;
    // JoinGroup version 0: group, session timeout, a newcomer, and one strategy with two megabytes of subscription.
    let mut body = [&[0, 1, b'g'][..], &6_000i32.to_be_bytes(), &[0, 0, 0, 1, b'c'], &1i32.to_be_bytes()].concat();
    body.extend_from_slice(&[0, 1, b'r']);
    body.extend_from_slice(&(2i32 << 20).to_be_bytes());
    body.resize(body.len() + (2 << 20), 0);
    let answer = exchange(broker.address, &request(11, 0, &body), Then::CloseItsSide).await;
    assert_eq!(answer[8..10], INVALID_REQUEST.to_be_bytes());
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_does_not_read_does_not_keep_the_broker_from_stopping() {
    let broker = TestBroker::start().await;
    create_topic(&broker.client(), "t", 1).await;
    let sender = producer(&broker.client());
    let large = vec![7; 900_000];
    for _ in 0..16 {
        send(&sender, "t", 0, &large).await;
    }
    // Fetch version 4 of all of it: more than the sockets between the two take.
    let mut body =
        [(-1i32).to_be_bytes(), 0i32.to_be_bytes(), 1i32.to_be_bytes(), (32i32 << 20).to_be_bytes()].concat();
    body.push(0);
    body.extend_from_slice(&1i32.to_be_bytes());
    body.extend_from_slice(&[0, 1, b't']);
    body.extend_from_slice(&[1i32.to_be_bytes(), 0i32.to_be_bytes()].concat());
    body.extend_from_slice(&0i64.to_be_bytes());
    body.extend_from_slice(&(32i32 << 20).to_be_bytes());
    let mut stream = TcpStream::connect(broker.address).await.unwrap();
    stream.write_all(&request(1, 4, &body)).await.unwrap();
    // The answer has begun.
    tokio::time::timeout(DEADLINE, stream.readable()).await.unwrap().unwrap();
    tokio::time::timeout(DEADLINE, broker.stop()).await.expect("the broker stops");
}
