//! Old segments are deleted on demand, and what stays is a whole log.

use std::time::{Duration, SystemTime};

use pinsched::embedded::broker::Broker;
use pinsched::embedded::{Expired, Expiry, StackError, expire_records};
use rdkafka::message::Message;
use tokio_util::sync::CancellationToken;

use super::harness::{client, config, create_topic, numbered, producer, read_all, send_all, values, watermarks};

#[tokio::test]
async fn old_segments_go_from_the_beginning_and_the_rest_is_a_log_as_before() {
    let home = tempfile::tempdir().unwrap();
    let start = async || {
        let mut config = config(&home.path().join("kafka"));
        config.segment_bytes = 16 << 10;
        Broker::start(config, CancellationToken::new()).await.unwrap()
    };
    let broker = start().await;
    let clients = client(broker.address());
    create_topic(&clients, "old", 1).await;
    create_topic(&clients, "small", 1).await;
    let (all, sender) = (numbered(0..3_000), producer(&clients));
    for some in all.chunks(100) {
        send_all(&sender, "old", some).await;
    }
    send_all(&sender, "small", &numbered(0..3)).await;
    drop(sender);
    broker.stop().await;

    let (past, future) = (SystemTime::UNIX_EPOCH, SystemTime::UNIX_EPOCH + Duration::from_secs(1 << 33));
    let expire = |before, what| expire_records(home.path(), before, what).unwrap();
    assert_eq!(expire(past, Expiry::Delete), Expired::default());
    let found = expire(future, Expiry::Tell);
    assert!(found.segments > 2 && found.partitions == 1 && found.bytes > 32 << 10, "{found:?}");
    assert_eq!(expire(future, Expiry::Delete), found);
    assert_eq!(expire(future, Expiry::Delete), Expired::default(), "the last segment stays");

    // As it was closed, and as a kill would leave it: without what makes a start quick.
    for is_killed in [false, true] {
        if is_killed {
            for entry in walk(home.path()) {
                if entry.extension().is_some_and(|extension| extension == "index" || extension == "producers") {
                    std::fs::remove_file(entry).unwrap();
                }
            }
        }
        let broker = start().await;
        let clients = client(broker.address());
        let (low, high) = watermarks(&clients, "old", true).await;
        assert!(low > 0 && low < high, "{low} to {high}");
        let left = read_all(&clients, "old", true, low).await;
        assert_eq!(left[0].offset(), low);
        let kept = values(&left);
        assert_eq!(kept[..3_000 - usize::try_from(low).unwrap()], all[usize::try_from(low).unwrap()..]);
        let sent = send_all(&producer(&clients), "old", &numbered(7..8)).await;
        assert_eq!(sent, [high]);
        assert_eq!(values(&read_all(&clients, "small", true, 0).await), numbered(0..3));
        broker.stop().await;
    }
}

#[tokio::test]
async fn a_home_whose_stack_runs_is_left_alone() {
    let home = tempfile::tempdir().unwrap();
    let lock = std::fs::File::create(home.path().join("stack.lock")).unwrap();
    lock.lock().unwrap();
    let refused = expire_records(home.path(), SystemTime::UNIX_EPOCH, Expiry::Tell).unwrap_err();
    assert!(matches!(refused, StackError::InUse { .. }), "{refused}");
}

fn walk(folder: &std::path::Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { walk(&path) } else { vec![path] }).collect()
}
