//! kcat, an older librdkafka from the distribution, as a second opinion. Skipped where it is not installed.

use std::io::Write;
use std::process::{Command, Stdio};

use super::harness::{TestBroker, blocking, create_topic};

/// Runs kcat with some input and gives its output; nothing if there is no kcat.
fn kcat(arguments: &[&str], input: &str) -> Option<String> {
    let spawned = Command::new("kcat")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut process = match spawned {
        Ok(process) => process,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return None,
        Err(error) => panic!("{error}"),
    };
    process.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = process.wait_with_output().unwrap();
    assert!(output.status.success(), "kcat {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    Some(String::from_utf8(output.stdout).unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kcat_produces_consumes_and_lists() {
    let broker = TestBroker::start().await;
    let address = broker.address.to_string();
    for codec in ["none", "gzip", "snappy", "lz4", "zstd"] {
        let topic = format!("t-{codec}");
        create_topic(&broker.client(), &topic, 1).await;
        let address = address.clone();
        blocking(move || {
            let lines: String = (0..1000).map(|n| format!("key-{n}:line {n}\n")).collect();
            let produce = ["-P", "-b", &address, "-t", &topic, "-K:", "-z", codec, "-H", "h=1"];
            if kcat(&produce, &lines).is_none() {
                return;
            }
            let all = kcat(&["-C", "-b", &address, "-t", &topic, "-o", "beginning", "-e", "-q", "-K:"], "").unwrap();
            assert_eq!(all, lines, "{codec}");
            let some = kcat(&["-C", "-b", &address, "-t", &topic, "-o", "-3", "-e", "-q"], "").unwrap();
            assert_eq!(some, "line 997\nline 998\nline 999\n", "{codec}");
            let offset = kcat(&["-Q", "-b", &address, "-t", &format!("{topic}:0:-1")], "").unwrap();
            assert_eq!(offset.trim(), format!("{topic} [0] offset 1000"));
        })
        .await;
    }
    blocking(move || {
        if let Some(listing) = kcat(&["-L", "-b", &address], "") {
            assert!(listing.contains("topic \"t-zstd\" with 1 partitions"), "{listing}");
        }
    })
    .await;
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kcat_consumes_in_a_group() {
    let broker = TestBroker::start().await;
    let address = broker.address.to_string();
    create_topic(&broker.client(), "t", 3).await;
    blocking(move || {
        let lines: String = (0..300).map(|n| format!("{n}\n")).collect();
        if kcat(&["-P", "-b", &address, "-t", "t"], &lines).is_none() {
            return;
        }
        let group = ["-b", &address, "-G", "g", "-X", "auto.offset.reset=earliest", "-q", "-c", "300", "t"];
        let read = kcat(&group, "").unwrap();
        let mut numbers: Vec<u32> = read.lines().map(|line| line.parse().unwrap()).collect();
        numbers.sort_unstable();
        assert_eq!(numbers, (0..300).collect::<Vec<u32>>());
    })
    .await;
    broker.stop().await;
}
