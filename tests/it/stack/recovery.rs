//! What a kill, a stranger or an old file leaves behind is recovered from.

use std::fs;
use std::net::TcpListener;
use std::time::Duration;

use bytes::Bytes;
use sqlx::Row;

use super::scratch::{Scratch, connect, first_record, gone, kill, lease, pid, postmaster, publish, s3, stack_file};

#[tokio::test]
async fn what_was_written_outlives_a_kill() {
    let scratch = Scratch::new();
    let request = scratch.request("home");
    let mut held = lease(&request).await;
    let mut connection = connect(&held).await;
    sqlx::raw_sql("CREATE TABLE kept (n int); INSERT INTO kept VALUES (42)").execute(&mut connection).await.unwrap();
    let store = s3(&held).await;
    store.ensure_bucket("kept").await.unwrap();
    store.put("kept", "a/b", Bytes::from_static(b"42"), Default::default()).await.unwrap();

    publish(&held, "kept", "42").await;

    kill(pid(&request.home));
    held.ended().await;
    assert!(request.home.join("stack.json").exists(), "a kill leaves its files");

    let again = lease(&request).await;
    assert_eq!(again.urls(), held.urls(), "ports and passwords are kept");
    let kept = sqlx::query("SELECT n FROM kept").fetch_one(&mut connect(&again).await).await.unwrap();
    assert_eq!(kept.get::<i32, _>(0), 42);
    assert_eq!(s3(&again).await.get("kept", "a/b").await.unwrap(), "42");
    assert_eq!(first_record(&again, "kept").await, "42");
}

#[tokio::test]
async fn postgres_goes_with_a_killed_stack() {
    let scratch = Scratch::new();
    let request = scratch.request("home");
    let held = lease(&request).await;
    let mut connection = connect(&held).await;
    let busy = sqlx::query("SELECT pg_sleep(600)").execute(&mut connection);
    let (cut_off, ()) = tokio::join!(tokio::time::timeout(Duration::from_secs(30), busy), async {
        kill(pid(&request.home));
    });
    cut_off.expect("the server ends without anybody's help").unwrap_err();
}

#[tokio::test]
async fn a_postgres_that_outlived_its_stack_is_ended() {
    let scratch = Scratch::new();
    let request = scratch.request("home");
    let mut held = lease(&request).await;
    let server_pid = postmaster(&request.home);
    // Stopped, the server cannot heed the signal that it gets at the kill.
    let server = rustix::process::Pid::from_raw(server_pid).unwrap();
    rustix::process::kill_process(server, rustix::process::Signal::STOP).unwrap();
    kill(pid(&request.home));
    held.ended().await;
    assert!(fs::exists(format!("/proc/{server_pid}")).unwrap(), "it is still there");
    // A stopped process that is told to end does so when it goes on; the first thing that the new stack tells it.
    rustix::process::kill_process(server, rustix::process::Signal::CONT).unwrap();
    let again = lease(&request).await;
    assert_ne!(postmaster(&request.home), server_pid);
    connect(&again).await;
}

#[tokio::test]
async fn files_of_the_dead_mean_nothing() {
    let scratch = Scratch::new();
    let request = scratch.request("home");
    drop(lease(&request).await);
    gone(&request.home).await;

    // As after a kill and a restart of the machine: the numbers belong to strangers who live.
    let stranger = TcpListener::bind("127.0.0.1:0").unwrap();
    let file = serde_json::json!({
        "pid": std::process::id(), "version": "0", "token": "old", "urls": {},
        "control": format!("http://{}", stranger.local_addr().unwrap()),
    });
    fs::write(request.home.join("stack.json"), file.to_string()).unwrap();
    let data = request.home.join("postgres");
    let pid_file = format!("{}\n{}\n1600000000\n5432\n\n127.0.0.1\n", std::process::id(), data.display());
    fs::write(data.join("postmaster.pid"), pid_file).unwrap();
    fs::create_dir(request.home.join("postgres.new")).unwrap();

    let again = lease(&request).await;
    assert_ne!(pid(&request.home), i32::try_from(std::process::id()).unwrap());
    connect(&again).await;
}

#[tokio::test]
async fn a_kill_while_the_data_was_made_is_made_good() {
    let scratch = Scratch::new();
    let request = scratch.request("home");
    fs::create_dir_all(request.home.join("postgres.new/base")).unwrap();
    fs::write(request.home.join("postgres.new/PG_VERSION"), "15\n").unwrap();
    connect(&lease(&request).await).await;
    assert!(!request.home.join("postgres.new").exists());
}

#[tokio::test]
async fn a_port_that_a_stranger_took_is_replaced() {
    let scratch = Scratch::new();
    let request = scratch.request("home");
    let first = lease(&request).await.urls().clone();
    gone(&request.home).await;
    let credentials: serde_json::Value =
        serde_json::from_slice(&fs::read(request.home.join("credentials.json")).unwrap()).unwrap();
    let bind = |part: &str| {
        let port = credentials[part]["port"].as_u64().unwrap();
        TcpListener::bind(("127.0.0.1", u16::try_from(port).unwrap())).unwrap()
    };
    let _strangers = [bind("postgres"), bind("s3"), bind("kafka")];
    let second = lease(&request).await;
    connect(&second).await;
    assert_ne!(second.urls().database_url, first.database_url);
    assert_ne!(second.urls().s3, first.s3);
    assert_eq!(stack_file(&request.home)["urls"]["database_url"].as_str(), second.urls().database_url.as_deref());
    let urls = second.urls().clone();
    drop(second);
    gone(&request.home).await;
    assert_eq!(*lease(&request).await.urls(), urls, "the new ports are kept");
}
