//! Nonsense on the port ends its own connection and nothing else.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::harness::{DEADLINE, TestBroker, create_topic, producer, read_all, send, values};

/// Sends bytes and reads until the broker closes the connection.
async fn exchange(address: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).await.unwrap();
    // The broker may close before it has read everything; then writing fails, which is as good.
    let _ = stream.write_all(bytes).await;
    let _ = stream.shutdown().await;
    let mut answer = Vec::new();
    let _ =
        tokio::time::timeout(DEADLINE, stream.read_to_end(&mut answer)).await.expect("the connection was not closed");
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
    let mut cases: Vec<Vec<u8>> = vec![
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
            cases.push(request(key, version * 3, &body));
        }
    }
    for case in &cases {
        exchange(broker.address, case).await;
    }
    send(&producer(&broker.client()), "t", 0, b"still here").await;
    assert_eq!(values(&read_all(&broker.client(), "t", true, 0).await), ["still here"]);
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unknown_version_of_api_versions_is_told_what_is_spoken() {
    let broker = TestBroker::start().await;
    // The header of such a version ends with its number of tagged fields.
    let answer = exchange(broker.address, &request(18, 42, &[0])).await;
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
    let answers = exchange(broker.address, &all).await;
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
    // Produce version 3: no transactional id, acks 1, timeout, one topic, one partition, and rubbish for a batch.
    let rubbish: Vec<u8> = (0..100u8).map(|n| if n == 16 { 2 } else { n }).collect();
    let mut body =
        [&(-1i16).to_be_bytes()[..], &1i16.to_be_bytes(), &1_000i32.to_be_bytes(), &1i32.to_be_bytes()].concat();
    body.extend_from_slice(&[0, 1, b't']);
    body.extend_from_slice(&1i32.to_be_bytes());
    body.extend_from_slice(&0i32.to_be_bytes());
    body.extend_from_slice(&i32::try_from(rubbish.len()).unwrap().to_be_bytes());
    body.extend_from_slice(&rubbish);
    let answer = exchange(broker.address, &request(0, 3, &body)).await;
    // Length, correlation, one topic, its name, one partition, its number: then the error.
    let error = i16::from_be_bytes(answer[4 + 4 + 4 + 3 + 4 + 4..][..2].try_into().unwrap());
    assert!(error == 2 || error == 87, "error {error}");
    assert_eq!(super::harness::watermarks(&broker.client(), "t", true).await, (0, 0));
    broker.stop().await;
}
