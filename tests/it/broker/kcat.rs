//! kcat, an older librdkafka from the distribution, as a second opinion. `./scripts/test` installs it.

use std::process::Stdio;

use pinsched::embedded::broker::BrokerCredentials;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use super::harness::{DEADLINE, TestBroker, create_topic};

/// Runs kcat with some input and gives its output.
async fn kcat(arguments: &[&str], input: &str) -> String {
    let mut command = Command::new("kcat");
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut process = command.spawn().expect("kcat is installed, as `./scripts/test` does");
    process.stdin.take().unwrap().write_all(input.as_bytes()).await.unwrap();
    let ended = tokio::time::timeout(DEADLINE, process.wait_with_output()).await;
    let output = ended.unwrap_or_else(|_| panic!("kcat {arguments:?} did not end")).unwrap();
    assert!(output.status.success(), "kcat {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kcat_produces_consumes_and_lists() {
    let broker = TestBroker::start().await;
    let address = broker.address.to_string();
    for codec in ["none", "gzip", "snappy", "lz4", "zstd"] {
        let topic = format!("t-{codec}");
        create_topic(&broker.client(), &topic, 1).await;
        let lines: String = (0..1000).map(|n| format!("key-{n}:line {n}\n")).collect();
        kcat(&["-P", "-b", &address, "-t", &topic, "-K:", "-z", codec, "-H", "h=1"], &lines).await;
        let all = kcat(&["-C", "-b", &address, "-t", &topic, "-o", "beginning", "-e", "-q", "-K:"], "").await;
        assert_eq!(all, lines, "{codec}");
        let some = kcat(&["-C", "-b", &address, "-t", &topic, "-o", "-3", "-e", "-q"], "").await;
        assert_eq!(some, "line 997\nline 998\nline 999\n", "{codec}");
        let offset = kcat(&["-Q", "-b", &address, "-t", &format!("{topic}:0:-1")], "").await;
        assert_eq!(offset.trim(), format!("{topic} [0] offset 1000"));
    }
    let listing = kcat(&["-L", "-b", &address], "").await;
    assert!(listing.contains("topic \"t-zstd\" with 1 partitions"), "{listing}");
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kcat_consumes_in_a_group() {
    let broker = TestBroker::start().await;
    let address = broker.address.to_string();
    create_topic(&broker.client(), "t", 3).await;
    let lines: String = (0..300).map(|n| format!("{n}\n")).collect();
    kcat(&["-P", "-b", &address, "-t", "t"], &lines).await;
    let group = ["-b", &address, "-G", "g", "-X", "auto.offset.reset=earliest", "-q", "-c", "300", "t"];
    let read = kcat(&group, "").await;
    let mut numbers: Vec<u32> = read.lines().map(|line| line.parse().unwrap()).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, (0..300).collect::<Vec<u32>>());
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kcat_shows_a_password() {
    let credentials = BrokerCredentials { username: "me".to_owned(), password: "hush".into() };
    let broker = TestBroker::start_with(|config| config.credentials = Some(credentials)).await;
    let address = broker.address.to_string();
    let properties =
        ["security.protocol=SASL_PLAINTEXT", "sasl.mechanism=PLAIN", "sasl.username=me", "sasl.password=hush"];
    let mut shown = vec!["-b", &address, "-t", "t"];
    shown.extend(properties.iter().flat_map(|property| ["-X", *property]));
    kcat(&[&["-P"], &shown[..]].concat(), "42\n").await;
    assert_eq!(kcat(&[&["-C", "-e", "-q", "-o", "beginning"], &shown[..]].concat(), "").await, "42\n");
    broker.stop().await;
}
