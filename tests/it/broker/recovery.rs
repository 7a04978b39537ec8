//! What was acknowledged is there after `kill -9`, torn tails are cut, and one directory has one broker.

use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use pinsched::embedded::broker::{Broker, BrokerError};
use rdkafka::message::Message;
use rdkafka::producer::{BaseRecord, FutureRecord, Producer};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::harness::{
    DEADLINE, LOOPBACK, TestBroker, blocking, client, config, consumer, create_topic, numbered, producer, read_all,
    read_from, send_all, values, watermarks,
};
use super::transactions::{put, transactional};

const DIR: &str = "PINSCHED_TEST_BROKER_DIR";
const LISTEN: &str = "PINSCHED_TEST_BROKER_LISTEN";
const READY: &str = "broker listens on ";

/// Not a test of its own: the process that the tests below kill.
#[test]
#[ignore = "run by the kill tests, in a process of its own"]
#[expect(clippy::disallowed_methods, reason = "the test that starts it tells it so")]
fn serve_until_killed() {
    let (Some(dir), Some(listen)) = (std::env::var_os(DIR), std::env::var_os(LISTEN)) else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let mut config = config(Path::new(&dir));
        config.listen = listen.to_str().unwrap().parse().unwrap();
        // Small, so that kills also hit the change of segments.
        config.segment_bytes = 128 << 10;
        let broker = Broker::start(config, CancellationToken::new()).await.unwrap();
        writeln!(std::io::stdout(), "\n{READY}{}", broker.address()).unwrap();
        std::future::pending::<()>().await;
    });
}

/// A broker in a process of its own.
struct Victim {
    process: Child,
    address: SocketAddr,
}

impl Victim {
    fn start(dir: &Path, listen: &str) -> Self {
        let mut process = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "broker::recovery::serve_until_killed", "--ignored", "--nocapture"])
            .env(DIR, dir)
            .env(LISTEN, listen)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let address = loop {
            let line = lines.next().expect("the broker's process ended before it listened").unwrap();
            if let Some(address) = line.strip_prefix(READY) {
                break address.parse().unwrap();
            }
        };
        Self { process, address }
    }

    /// SIGKILL, so that nothing is tidied up.
    fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Waits until so many deliveries have been reported.
async fn reached(progress: &mut watch::Receiver<usize>, count: usize) {
    let waited = tokio::time::timeout(DEADLINE, progress.wait_for(|done| *done >= count)).await;
    waited.expect("deliveries go on").unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_is_there_after_kill_9() {
    let dir = tempfile::tempdir().unwrap();
    let mut victim = Victim::start(dir.path(), LOOPBACK);
    create_topic(&client(victim.address), "t", 1).await;
    let mut acknowledged: Vec<(i64, String)> = Vec::new();
    for round in 0..4 {
        let mut config = client(victim.address);
        config.set("linger.ms", "1").set("batch.num.messages", "10").set("message.timeout.ms", "60000");
        let producer = producer(&config);
        let (done, mut progress) = watch::channel(0);
        let tasks = TaskTracker::new();
        let mut deliveries = Vec::new();
        for value in numbered(round * 3000..round * 3000 + 3000) {
            let record = FutureRecord::<[u8], str>::to("t").partition(0).payload(&value);
            let delivery = producer.send_result(record).map_err(|(error, _)| error).unwrap();
            let done = done.clone();
            deliveries.push(tasks.spawn(async move {
                let delivered = delivery.await.unwrap().ok().map(|delivery| (delivery.offset, value));
                done.send_modify(|count| *count += 1);
                delivered
            }));
        }
        // In the middle of the work.
        reached(&mut progress, 500).await;
        victim.kill();
        producer.purge(rdkafka::producer::PurgeConfig::default().queue().inflight());
        for delivery in deliveries {
            acknowledged.extend(delivery.await.unwrap());
        }
        victim = Victim::start(dir.path(), LOOPBACK);
    }
    assert!(acknowledged.len() >= 2_000);
    let messages = read_all(&client(victim.address), "t", true, 0).await;
    for (offset, value) in &acknowledged {
        let found = &messages[usize::try_from(*offset).unwrap()];
        assert_eq!((found.offset(), found.payload()), (*offset, Some(value.as_bytes())));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idempotent_producer_goes_on_through_kill_9_without_gap_or_double() {
    let dir = tempfile::tempdir().unwrap();
    let mut victim = Victim::start(dir.path(), LOOPBACK);
    let address = victim.address;
    create_topic(&client(address), "t", 1).await;
    let mut config = client(address);
    config.set("enable.idempotence", "true").set("linger.ms", "1").set("batch.num.messages", "10");
    let producer = producer(&config);
    let sent = numbered(0..6000);
    let (done, mut progress) = watch::channel(0);
    let tasks = TaskTracker::new();
    let mut deliveries = Vec::new();
    for value in &sent {
        let record = FutureRecord::<[u8], str>::to("t").partition(0).payload(value);
        let delivery = producer.send_result(record).map_err(|(error, _)| error).unwrap();
        let done = done.clone();
        deliveries.push(tasks.spawn(async move {
            let delivered = delivery.await.unwrap().map_err(|(error, _)| error);
            done.send_modify(|count| *count += 1);
            delivered
        }));
    }
    for kill_after in [200, 1500, 3000] {
        reached(&mut progress, kill_after).await;
        victim.kill();
        victim = Victim::start(dir.path(), &address.to_string());
    }
    for delivery in deliveries {
        tokio::time::timeout(DEADLINE, delivery).await.unwrap().unwrap().unwrap();
    }
    assert_eq!(values(&read_all(&client(address), "t", true, 0).await), sent);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_is_whole_or_absent_after_kill_9() {
    let dir = tempfile::tempdir().unwrap();
    let mut victim = Victim::start(dir.path(), LOOPBACK);
    create_topic(&client(victim.address), "t", 1).await;
    let mut certain = Vec::new();
    for round in 0..4 {
        let address = victim.address;
        let working = tokio::task::spawn_blocking(move || {
            let mut config = client(address);
            config
                .set("socket.timeout.ms", "1000")
                .set("transaction.timeout.ms", "3000")
                .set("message.timeout.ms", "2900");
            let producer = transactional(&config, "tx");
            for n in 0..3 {
                producer.begin_transaction().unwrap();
                put(&producer, "t", &(0..30).map(|k| format!("{round} {n} {k}")).collect::<Vec<_>>());
                producer.commit_transaction(DEADLINE).unwrap();
            }
            // One more that the kill interrupts.
            producer.begin_transaction().unwrap();
            put(&producer, "t", &(0..30).map(|k| format!("{round} 3 {k}")).collect::<Vec<_>>());
            producer
        });
        let open = working.await.unwrap();
        certain.extend((0..3).map(|n| format!("{round} {n}")));
        victim.kill();
        blocking(move || drop(open)).await;
        victim = Victim::start(dir.path(), LOOPBACK);
        let address = victim.address;
        // The successor ends what the killed one left open.
        blocking(move || drop(transactional(&client(address), "tx"))).await;
    }
    let read = values(&read_all(&client(victim.address), "t", true, 0).await);
    let expected: Vec<String> = certain.iter().flat_map(|t| (0..30).map(move |k| format!("{t} {k}"))).collect();
    assert_eq!(read, expected);
}

/// Where in a commit the broker is killed.
#[derive(Debug, Clone, Copy)]
enum KilledWhen {
    /// The client asks for it.
    Asked,
    /// The decision has been written to the transactions' journal.
    Decided,
    /// The first partition has its marker.
    HalfTold,
}

/// Waits until the size of all these files together has changed. A blocking look without a pause, because the instant
/// that it waits for is short.
fn wait_for_growth(files: &[PathBuf], before: u64) {
    let deadline = tokio::time::Instant::now() + DEADLINE;
    while bytes_of(files) == before {
        assert!(tokio::time::Instant::now() < deadline, "{files:?} did not grow");
    }
}

fn bytes_of(files: &[PathBuf]) -> u64 {
    files.iter().map(|file| std::fs::metadata(file).unwrap().len()).sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_over_several_partitions_that_kill_9_interrupts_is_whole() {
    const PARTITIONS: i32 = 6;
    let dir = tempfile::tempdir().unwrap();
    let mut victim = Victim::start(dir.path(), LOOPBACK);
    let address = victim.address;
    create_topic(&client(address), "t", PARTITIONS).await;
    let whens = [KilledWhen::Asked, KilledWhen::Decided, KilledWhen::HalfTold];
    for (round, when) in whens.into_iter().cycle().take(9).enumerate() {
        let producer = blocking(move || {
            let producer = transactional(&client(address), "tx");
            producer.begin_transaction().unwrap();
            for partition in 0..PARTITIONS {
                let payload = round.to_string();
                let record = BaseRecord::<[u8], str>::to("t").partition(partition).payload(&payload);
                producer.send(record).map_err(|(error, _)| error).unwrap();
            }
            producer.flush(DEADLINE).unwrap();
            producer
        })
        .await;
        let files = match when {
            KilledWhen::Asked => Vec::new(),
            KilledWhen::Decided => vec![dir.path().join("transactions.journal")],
            KilledWhen::HalfTold => log_files(dir.path()),
        };
        let before = bytes_of(&files);
        let (asking, asked) = std::sync::mpsc::channel();
        let committing = tokio::task::spawn_blocking(move || {
            asking.send(()).unwrap();
            // Asks the next broker again when this one is gone.
            producer.commit_transaction(DEADLINE).unwrap();
        });
        blocking(move || {
            asked.recv().unwrap();
            if !files.is_empty() {
                wait_for_growth(&files, before);
            }
            victim.kill();
        })
        .await;
        victim = Victim::start(dir.path(), &address.to_string());
        committing.await.unwrap_or_else(|error| panic!("{when:?}: {error}"));
    }
    blocking(move || {
        let consumer = consumer(&client(address), true);
        for partition in 0..PARTITIONS {
            let read = values(&read_from(&consumer, "t", partition, 0));
            assert_eq!(read, (0..9).map(|round| round.to_string()).collect::<Vec<_>>(), "partition {partition}");
        }
    })
    .await;
}

/// The log files of all topics.
fn log_files(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut left = vec![dir.join("topics")];
    while let Some(path) = left.pop() {
        match path.is_dir() {
            true => left.extend(std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path())),
            false if path.extension().is_some_and(|e| e == "log") => files.push(path),
            false => {}
        }
    }
    files.sort();
    files
}

pub(super) fn log_bytes(dir: &Path) -> usize {
    bytes_of(&log_files(dir)) as usize
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_torn_tail_is_cut_at_the_last_whole_batch() {
    let mut broker = TestBroker::start().await;
    create_topic(&broker.client(), "t", 1).await;
    let mut batched = broker.client();
    batched.set("linger.ms", "100").set("batch.num.messages", "10");
    send_all(&producer(&batched), "t", &numbered(0..100)).await;
    broker.halt().await;
    let dir = &broker.dir;
    let log = log_files(dir.path()).pop().unwrap();
    let whole = std::fs::read(&log).unwrap();
    // Cut at every kind of place, or with rubbish behind the end.
    let mut variants: Vec<(Vec<u8>, i64)> = Vec::new();
    let (last, length) = last_batch(&whole);
    for cut in [1, 5, 30, 61, 100].into_iter().filter(|cut| *cut < length) {
        variants.push((whole[..whole.len() - cut].to_vec(), last));
    }
    variants.push(([&whole[..], &[0u8; 500]].concat(), 100));
    variants.push(([&whole[..], &whole[..50]].concat(), 100));
    variants.push(([&whole[..], &whole[..]].concat(), 100));
    for (bytes, expected) in variants {
        std::fs::write(&log, &bytes).unwrap();
        let broker = Broker::start(config(dir.path()), CancellationToken::new()).await.unwrap();
        let client = client(broker.address());
        assert_eq!(watermarks(&client, "t", true).await, (0, expected), "{} bytes", bytes.len());
        assert_eq!(values(&read_all(&client, "t", true, 0).await), numbered(0..expected as usize));
        // And it goes on from there.
        let offsets = send_all(&producer(&client), "t", &numbered(0..1)).await;
        assert_eq!(offsets, [expected]);
        broker.stop().await;
    }
}

/// The first offset of a log's last batch, and the batch's length in bytes: how many records a client puts into one is
/// its own affair.
fn last_batch(log: &[u8]) -> (i64, usize) {
    let mut rest = log;
    loop {
        let first = i64::from_be_bytes(rest[..8].try_into().unwrap());
        let length = 12 + i32::from_be_bytes(rest[8..12].try_into().unwrap()).cast_unsigned() as usize;
        if length == rest.len() {
            return (first, length);
        }
        rest = &rest[length..];
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lost_indexes_and_snapshots_are_rebuilt() {
    let small = |config: &mut pinsched::embedded::broker::BrokerConfig| config.segment_bytes = 2_000;
    let mut broker = TestBroker::start_with(small).await;
    create_topic(&broker.client(), "t", 1).await;
    let client = broker.client();
    blocking(move || {
        let producer = transactional(&client, "tx");
        for round in 0..10 {
            producer.begin_transaction().unwrap();
            put(&producer, "t", &numbered(round * 20..round * 20 + 20));
            match round % 2 {
                0 => producer.commit_transaction(DEADLINE).unwrap(),
                _ => producer.abort_transaction(DEADLINE).unwrap(),
            }
        }
    })
    .await;
    let committed: Vec<String> = (0..10).step_by(2).flat_map(|r| numbered(r * 20..r * 20 + 20)).collect();
    for extension in ["index", "producers"] {
        broker.halt().await;
        for log in log_files(broker.dir.path()) {
            let _ = std::fs::remove_file(log.with_extension(extension));
        }
        broker.resume_with(small).await;
        assert_eq!(values(&read_all(&broker.client(), "t", true, 0).await), committed, "without {extension} files");
    }
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damage_in_an_old_segment_is_refused_and_not_cut_away() {
    let small = |config: &mut pinsched::embedded::broker::BrokerConfig| config.segment_bytes = 2_000;
    let mut broker = TestBroker::start_with(small).await;
    create_topic(&broker.client(), "t", 1).await;
    let mut config = broker.client();
    config.set("batch.num.messages", "10");
    send_all(&producer(&config), "t", &numbered(0..500)).await;
    broker.halt().await;
    let first = log_files(broker.dir.path()).remove(0);
    let mut bytes = std::fs::read(&first).unwrap();
    bytes[300] ^= 1;
    std::fs::write(&first, &bytes).unwrap();
    std::fs::remove_file(first.with_extension("index")).unwrap();
    let mut config = super::harness::config(broker.dir.path());
    small(&mut config);
    let error = Broker::start(config, CancellationToken::new()).await.unwrap_err();
    assert!(matches!(error, BrokerError::Corrupt { .. }), "{error}");
    assert_eq!(std::fs::read(&first).unwrap(), bytes);
}

/// Starts a broker that must refuse to, and gives what it says is damaged.
async fn damaged(dir: &Path) -> PathBuf {
    match Broker::start(config(dir), CancellationToken::new()).await.unwrap_err() {
        BrokerError::Corrupt { path, .. } => path,
        error => panic!("{error}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damage_before_the_end_of_the_last_segment_is_refused_and_not_cut_away() {
    let mut broker = TestBroker::start().await;
    create_topic(&broker.client(), "t", 1).await;
    let mut batched = broker.client();
    batched.set("batch.num.messages", "10");
    send_all(&producer(&batched), "t", &numbered(0..100)).await;
    broker.halt().await;
    let log = log_files(broker.dir.path()).remove(0);
    let whole = std::fs::read(&log).unwrap();
    // A record, a length that then runs past the end, and an offset.
    for (at, bit) in [(100, 1), (8, 0x40), (7, 1)] {
        let mut bytes = whole.clone();
        bytes[at] ^= bit;
        std::fs::write(&log, &bytes).unwrap();
        // As after a kill, when no index vouches for the log.
        let _ = std::fs::remove_file(log.with_extension("index"));
        assert_eq!(damaged(broker.dir.path()).await, log, "byte {at}");
        assert_eq!(std::fs::read(&log).unwrap(), bytes, "byte {at}");
    }
    std::fs::write(&log, &whole).unwrap();
    broker.resume_with(|_| {}).await;
    assert_eq!(values(&read_all(&broker.client(), "t", true, 0).await), numbered(0..100));
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_segment_that_was_begun_and_not_used_is_no_damage() {
    let mut broker = TestBroker::start().await;
    create_topic(&broker.client(), "t", 1).await;
    for value in numbered(0..5) {
        send_all(&producer(&broker.client()), "t", &[value]).await;
    }
    broker.halt().await;
    let log = log_files(broker.dir.path()).remove(0);
    std::fs::write(log.with_file_name(format!("{:020}.log", 3)), []).unwrap();
    broker.resume_with(|_| {}).await;
    assert_eq!(values(&read_all(&broker.client(), "t", true, 0).await), numbered(0..5));
    assert_eq!(log_files(broker.dir.path()), [log]);
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_or_damaged_journal_costs_no_records() {
    let mut broker = TestBroker::start().await;
    create_topic(&broker.client(), "t", 1).await;
    create_topic(&broker.client(), "u", 1).await;
    send_all(&producer(&broker.client()), "t", &numbered(0..10)).await;
    broker.halt().await;
    let dir = broker.dir.path().to_owned();
    let journals = ["topics.journal", "groups.journal", "transactions.journal"];
    for journal in journals {
        let (path, aside) = (dir.join(journal), dir.join("aside"));
        std::fs::rename(&path, &aside).unwrap();
        assert_eq!(damaged(&dir).await, path);
        std::fs::rename(&aside, &path).unwrap();
    }
    let path = dir.join("topics.journal");
    let whole = std::fs::read(&path).unwrap();
    let mut bytes = whole.clone();
    bytes[20] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    assert_eq!(damaged(&dir).await, path);
    std::fs::write(&path, &whole).unwrap();
    broker.resume_with(|_| {}).await;
    assert_eq!(values(&read_all(&broker.client(), "t", true, 0).await), numbered(0..10));
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_that_belong_to_no_topic_are_put_aside() {
    let mut broker = TestBroker::start().await;
    create_topic(&broker.client(), "t", 1).await;
    send_all(&producer(&broker.client()), "t", &numbered(0..10)).await;
    broker.halt().await;
    let dir = broker.dir.path().to_owned();
    // Begun anew by a start that finds no topics, as a restored backup might have it.
    let log = log_files(&dir).remove(0);
    let topic = log.parent().unwrap().parent().unwrap().to_owned();
    std::fs::write(dir.join("topics.journal"), []).unwrap();
    std::fs::create_dir_all(dir.join("topics/never-written-to/0")).unwrap();
    let records = std::fs::read(&log).unwrap();
    broker.resume_with(|_| {}).await;
    assert_eq!(std::fs::read_dir(dir.join("topics")).unwrap().count(), 0);
    let aside = dir.join("orphans").join(topic.file_name().unwrap()).join("0").join(log.file_name().unwrap());
    assert_eq!(std::fs::read(aside).unwrap(), records);
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_is_dropped_keeps_its_directory_until_it_has_ended() {
    let dir = tempfile::tempdir().unwrap();
    let token = CancellationToken::new();
    let broker = Broker::start(config(dir.path()), token.clone()).await.unwrap();
    let address = broker.address();
    drop(broker);
    let second = Broker::start(config(dir.path()), CancellationToken::new()).await;
    assert!(matches!(second.unwrap_err(), BrokerError::Locked { .. }), "the first one still writes");
    create_topic(&client(address), "t", 1).await;
    token.cancel();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_broker_on_the_same_directory_is_refused() {
    let broker = TestBroker::start().await;
    let second = Broker::start(config(broker.dir.path()), CancellationToken::new()).await;
    assert!(matches!(second.unwrap_err(), BrokerError::Locked { .. }));
    let mut broker = broker;
    broker.restart_with(|_| {}).await;
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_that_others_can_reach_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = config(dir.path());
    config.listen = "0.0.0.0:0".parse().unwrap();
    let refused = Broker::start(config, CancellationToken::new()).await;
    assert!(matches!(refused.unwrap_err(), BrokerError::NotLoopback { .. }));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cancelling_the_callers_token_stops_it_too() {
    let dir = tempfile::tempdir().unwrap();
    let token = CancellationToken::new();
    let broker = Broker::start(config(dir.path()), token.clone()).await.unwrap();
    create_topic(&client(broker.address()), "t", 1).await;
    token.cancel();
    tokio::time::timeout(DEADLINE, broker.stop()).await.unwrap();
}
