//! One stack a home, shared by all who need it, and gone after the last.

use std::fs::{self, File};
use std::path::PathBuf;
use std::time::Duration;

use pinsched::config::{Environment, Flags, Settings, key};
use pinsched::embedded::{Component, Progress, attach, running, stop};

use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};

use super::scratch::{
    Scratch, connect, first_record, gone, kafka, lease, major_version, pid, publish, stack_file, try_lease,
};

#[tokio::test]
async fn two_that_start_at_once_share_one_stack_which_goes_after_the_last() {
    let scratch = Scratch::new();
    let request = scratch.request("home");
    let (first, second) = tokio::join!(lease(&request), lease(&request));
    assert_eq!(first.urls(), second.urls());
    let rows = "SELECT count(*) FROM pg_stat_activity";
    drop(first);
    sqlx::query(rows).execute(&mut connect(&second).await).await.unwrap();
    assert!(running(&request.home).await.unwrap().is_some(), "the second still holds it");
    drop(second);
    gone(&request.home).await;
    assert!(running(&request.home).await.unwrap().is_none());
    assert!(!request.home.join("stack.json").exists(), "it ended cleanly");
    assert!(!request.home.join("postgres/postmaster.pid").exists(), "so did its Postgres");
}

#[tokio::test]
async fn two_homes_run_side_by_side() {
    let scratch = Scratch::new();
    let (one, other) = (scratch.request("one"), scratch.request("other"));
    let (first, second) = tokio::join!(lease(&one), lease(&other));
    assert_ne!(first.urls(), second.urls());
    assert_ne!(pid(&one.home), pid(&other.home));
    assert_eq!(major_version(&first).await, major_version(&second).await);
}

#[tokio::test]
async fn a_part_is_started_when_somebody_needs_it() {
    let scratch = Scratch::new();
    let mut request = scratch.request("home");
    request.components = vec![Component::S3];
    let store = lease(&request).await;
    assert!(store.urls().s3.is_some() && store.urls().database_url.is_none());
    assert!(!request.home.join("postgres").exists());
    request.components = vec![Component::Source];
    let source = lease(&request).await;
    let mut url: url::Url = source.urls().source_url.clone().unwrap().parse().unwrap();
    assert_eq!(url.path(), "/pinterest_data");
    url.set_path("/pinsched");
    assert_eq!(source.urls().database_url.as_deref(), Some(url.as_str()), "the source needs Postgres");
}

#[tokio::test]
async fn stop_ends_it_whoever_holds_a_lease() {
    let scratch = Scratch::new();
    let request = scratch.request("home");
    let mut held = lease(&request).await;
    assert!(stop(&request.home).await.unwrap());
    held.ended().await;
    assert!(!stop(&request.home).await.unwrap(), "there is none any more");
    assert!(!stop(&scratch.path().join("never")).await.unwrap());
    assert!(!scratch.path().join("never").exists(), "looking makes no home");
    lease(&request).await;
}

#[tokio::test]
async fn its_urls_and_passwords_are_for_its_owner_alone() {
    use std::os::unix::fs::PermissionsExt;
    let scratch = Scratch::new();
    let request = scratch.request("home");
    let held = lease(&request).await;
    for name in ["stack.json", "credentials.json", "stack.log", "postgres.log", "s3"] {
        let mode = std::fs::metadata(request.home.join(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "{name} is {mode:o}");
    }
    let control = stack_file(&request.home)["control"].as_str().unwrap().to_owned();
    assert!(control.starts_with("http://127.0.0.1:"));
    for path in ["health", "lease/s3"] {
        let answer = reqwest::Client::new().get(format!("{control}/{path}")).bearer_auth("guess").send().await;
        assert_eq!(answer.unwrap().status(), 401);
    }
    let urls = held.urls();
    let password = urls.database_url.as_ref().unwrap().split(['@', ':']).nth(2).unwrap();
    for secret in [password, &urls.kafka_properties["sasl.password"], &urls.s3.as_ref().unwrap().secret_access_key] {
        for log in ["stack.log", "postgres.log"] {
            assert!(!std::fs::read_to_string(request.home.join(log)).unwrap().contains(secret), "{log}");
        }
    }
}

#[tokio::test]
async fn the_broker_serves_who_shows_its_password_alone() {
    let scratch = Scratch::new();
    let held = lease(&scratch.request("home")).await;
    publish(&held, "mine", "42").await;
    assert_eq!(first_record(&held, "mine").await, "42");
    let right = kafka(&held);
    let strangers = [("security.protocol", "PLAINTEXT"), ("sasl.password", "guess"), ("sasl.username", "somebody")];
    tokio::task::spawn_blocking(move || {
        let metadata = |config: &ClientConfig| {
            let client: BaseConsumer = config.create().unwrap();
            client.fetch_metadata(Some("mine"), Duration::from_secs(2)).map(|metadata| metadata.topics().len())
        };
        assert_eq!(metadata(&right).unwrap(), 1);
        for (name, value) in strangers {
            assert!(metadata(right.clone().set(name, value)).is_err(), "{name}={value}");
        }
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn what_is_configured_is_not_started() {
    let scratch = Scratch::new();
    let environment = Environment::from([
        ("DATABASE_URL", "postgres://db.example/pinsched"),
        ("PINSCHED_KAFKA_BOOTSTRAP_SERVERS", "kafka.example:9092"),
        ("PINSCHED_S3_REGION", "eu-west-1"),
        ("PINSCHED_SOURCE_URL", "mysql://db.example/source"),
    ]);
    let home = scratch.path().join("home");
    let flags = Flags::default().with(&key::HOME, home.to_str());
    let settings = Settings::load(&flags, &environment, scratch.path()).unwrap();
    let resolved = pinsched::embedded::resolve(&settings, &mut |_| {}).await.unwrap();
    assert!(resolved.stack.is_none() && !home.exists());
    assert!(!resolved.endpoints.s3.create_buckets && resolved.endpoints.s3.endpoint_url.is_none());
    assert_eq!(resolved.endpoints.kafka.bootstrap_servers, "kafka.example:9092");
}

#[tokio::test]
async fn a_start_while_the_old_stack_goes_is_announced_once_and_waits() {
    let scratch = Scratch::new();
    let request = scratch.request("home");
    drop(lease(&request).await);
    gone(&request.home).await;
    let going = File::options().write(true).open(request.home.join("stack.lock")).unwrap();
    going.lock().unwrap();
    let mut launched = 0;
    {
        let mut tell = |step| launched += usize::from(step == Progress::Launching);
        let mut attaching = std::pin::pin!(attach(&request, &mut tell));
        let early = tokio::time::timeout(Duration::from_millis(200), &mut attaching).await;
        early.expect_err("the old stack has the home");
        drop(going);
        attaching.await.unwrap();
    }
    assert_eq!(launched, 1);
}

#[tokio::test]
async fn a_stack_that_does_not_answer_is_named_and_not_called_stopped() {
    let scratch = Scratch::new();
    let request = scratch.request("home");
    let _held = lease(&request).await;
    let pid = pid(&request.home);
    let process = rustix::process::Pid::from_raw(pid).unwrap();
    rustix::process::kill_process(process, rustix::process::Signal::STOP).unwrap();
    // One of its threads takes the signal, and the others may go on until then.
    let is_stopped = || fs::read_to_string(format!("/proc/{pid}/status")).unwrap().contains("T (stopped)");
    while !is_stopped() {
        tokio::task::yield_now().await;
    }
    let stopped = stop(&request.home).await;
    rustix::process::kill_process(process, rustix::process::Signal::CONT).unwrap();
    let error = stopped.unwrap_err().to_string();
    assert!(error.contains(&format!("is served by process {pid} on ")), "{error}");
    // What was asked of it is heard once it goes on.
    gone(&request.home).await;
}

#[tokio::test]
async fn a_refusal_is_an_error_and_no_reason_to_ask_on() {
    let scratch = Scratch::new();
    let mut request = scratch.request("home");
    let _held = lease(&request).await;
    request.components = Vec::new(); // for which the endpoint has no path
    let error = try_lease(&request).await.unwrap_err().to_string();
    assert!(error.contains("refused: 404 Not Found"), "{error}");
}

#[tokio::test]
async fn a_program_that_is_no_stack_is_told() {
    let scratch = Scratch::new();
    let mut request = scratch.request("home");
    request.program = PathBuf::from("/bin/false");
    let error = try_lease(&request).await.unwrap_err().to_string();
    assert!(error.contains("could not start the stack of") && error.contains("stack.log"), "{error}");
}
