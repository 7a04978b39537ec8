//! Not a test but a measurement: `cargo test --release -- --ignored --nocapture broker::throughput`.

use std::io::Write;

use rdkafka::config::ClientConfig;
use rdkafka::error::KafkaError;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::types::RDKafkaErrorCode;

use super::harness::{DEADLINE, TestBroker, blocking, create_topic, watermarks};

const RECORDS: usize = 1_000_000;
const RECORD_BYTES: usize = 700;

fn produce(client: &ClientConfig, records: usize) {
    let mut config = client.clone();
    config
        .set("enable.idempotence", "true")
        .set("linger.ms", "20")
        .set("batch.num.messages", "100000")
        .set("queue.buffering.max.messages", "200000");
    let producer: BaseProducer = config.create().unwrap();
    let payload: Vec<u8> = (0..RECORD_BYTES).map(|n| (n * 31 % 251) as u8).collect();
    for n in 0..records {
        let mut record = BaseRecord::<[u8], [u8]>::to("t").partition((n % 6) as i32).payload(&payload);
        while let Err((error, back)) = producer.send(record) {
            assert!(matches!(error, KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull)), "{error}");
            producer.poll(std::time::Duration::from_millis(10));
            record = back;
        }
    }
    producer.flush(DEADLINE).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn acknowledged_records_per_second() {
    let broker = TestBroker::start().await;
    create_topic(&broker.client(), "t", 6).await;
    let client = broker.client();
    let started = tokio::time::Instant::now();
    blocking(move || produce(&client, RECORDS)).await;
    let seconds = started.elapsed().as_secs_f64();
    let (rate, megabytes) = (RECORDS as f64 / seconds, (RECORDS * RECORD_BYTES) as f64 / seconds / 1e6);
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let memory = status.lines().find(|line| line.starts_with("VmHWM")).unwrap_or_default();
    writeln!(
        std::io::stdout(),
        "{RECORDS} records of {RECORD_BYTES} bytes, acknowledged after fsync: {rate:.0} records/s, {megabytes:.1} MB/s; {memory} with the client"
    )
    .unwrap();
    assert_eq!(watermarks(&broker.client(), "t", true).await.1 as usize, RECORDS.div_ceil(6));
    broker.stop().await;
}
