//! A stack that is lost under those who go on using it is started again where it was; one whose home is gone stops.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::time::Duration;

use pinsched::embedded::{End, StackLease, StackNews, running, stop};
use rustix::process::{Pid, Signal, kill_process};
use sqlx::{Connection, PgConnection, Row};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::scratch::{Scratch, connect, first_record, gone, kill, lease, pid, postmaster, publish, s3, try_lease};

/// Longer than a start takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

const KILLED: &str = "the embedded stack was killed: starting it again";
const BACK: &str = "the embedded stack is back";

/// What was told of a stack, in order.
struct Told(UnboundedReceiver<String>);

impl Told {
    async fn next(&mut self) -> String {
        tokio::time::timeout(PATIENCE, self.0.recv()).await.expect("something is told").unwrap()
    }
}

/// Keeps the stack while something is done.
async fn kept<T, D: Future<Output = T>>(lease: &mut StackLease, meanwhile: impl FnOnce(Told) -> D) -> T {
    let (sender, receiver) = unbounded_channel();
    let mut tell = move |news: StackNews| sender.send(news.to_string()).unwrap_or_default();
    tokio::select! {
        error = lease.keep(&mut tell) => panic!("{error}"),
        done = meanwhile(Told(receiver)) => done,
    }
}

/// Returns when the condition holds.
async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let look = async {
        while !holds() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, look).await.unwrap_or_else(|_| panic!("{what}"));
}

/// A process that has ended has no command line, even before somebody took note of its end.
fn is_gone(pid: i32) -> bool {
    fs::read(format!("/proc/{pid}/cmdline")).map_or(true, |line| line.is_empty())
}

#[tokio::test]
async fn a_stack_that_is_killed_is_started_again_where_it_was() {
    let scratch = Scratch::new();
    let request = scratch.request("home");
    let mut held = lease(&request).await;
    sqlx::raw_sql("CREATE TABLE kept (n int); INSERT INTO kept VALUES (42)")
        .execute(&mut connect(&held).await)
        .await
        .unwrap();
    publish(&held, "kept", "42").await;
    let urls = held.urls().clone();
    for takes_postgres_along in [false, true] {
        let (stack, server) = (pid(&request.home), postmaster(&request.home));
        kept(&mut held, async |mut told| {
            if takes_postgres_along {
                // Stopped, it cannot end in good order before it is killed as well.
                kill_process(Pid::from_raw(server).unwrap(), Signal::STOP).unwrap();
                kill(stack);
                kill(server);
            } else {
                kill(stack);
            }
            assert_eq!(told.next().await, KILLED);
            assert_eq!(told.next().await, BACK);
        })
        .await;
        assert!(held.urls() == &urls && pid(&request.home) != stack && postmaster(&request.home) != server);
        let row = sqlx::query("SELECT n FROM kept").fetch_one(&mut connect(&held).await).await.unwrap();
        assert_eq!(row.get::<i32, _>(0), 42);
        assert_eq!(first_record(&held, "kept").await, "42");
        s3(&held).await.ensure_bucket("again").await.unwrap();
    }
}

#[tokio::test]
async fn two_who_keep_a_stack_share_the_one_that_is_started_again() {
    let scratch = Scratch::new();
    let request = scratch.request("home");
    let (mut one, mut other) = tokio::join!(lease(&request), lease(&request));
    let stack = pid(&request.home);
    kept(&mut one, async |mut to_one| {
        kept(&mut other, async |mut to_other| {
            kill(stack);
            for told in [&mut to_one, &mut to_other] {
                assert_eq!((told.next().await.as_str(), told.next().await.as_str()), (KILLED, BACK));
            }
        })
        .await;
    })
    .await;
    assert_ne!(pid(&request.home), stack);
    drop(one);
    connect(&other).await;
    assert!(running(&request.home).await.unwrap().is_some());
    drop(other);
    gone(&request.home).await;
}

#[tokio::test]
async fn a_stack_that_was_stopped_is_not_started_again() {
    let scratch = Scratch::new();
    let request = scratch.request("home");
    let mut held = lease(&request).await;
    let mut tell = |news| panic!("{news}");
    let (error, stopped) = tokio::join!(held.keep(&mut tell), stop(&request.home));
    let home = request.home.display();
    assert_eq!(error.to_string(), format!("the stack of {home} was stopped: by `pinsched down`"));
    assert!(stopped.unwrap() && running(&request.home).await.unwrap().is_none());
}

#[tokio::test]
async fn a_stack_that_is_stopped_while_it_comes_back_is_not_started_again() {
    let scratch = Scratch::new();
    let request = scratch.request("home");
    let mut held = lease(&request).await;
    let (stack, server) = (pid(&request.home), postmaster(&request.home));
    // The next stack waits for it to end before it starts its own.
    kill_process(Pid::from_raw(server).unwrap(), Signal::STOP).unwrap();
    kill(stack);
    let is_waiting = || {
        let log = fs::read_to_string(request.home.join("stack.log")).unwrap_or_default();
        log.contains("a PostgreSQL server was left behind")
    };
    let stopped = async {
        until("it comes back", is_waiting).await;
        stop(&request.home).await.unwrap()
    };
    let mut tell = |news: StackNews| assert_eq!(news.to_string(), KILLED);
    let both = async { tokio::join!(held.keep(&mut tell), stopped) };
    let (error, was_there) = tokio::time::timeout(PATIENCE, both).await.expect("it is kept no longer");
    kill(server);
    assert!(error.to_string().ends_with("was stopped: by `pinsched down`"), "{error}");
    assert!(was_there && running(&request.home).await.unwrap().is_none());
}

/// Kills the stack, and takes its broker's port as a stranger might.
async fn port_of_a_killed_broker(home: &Path, held: &mut StackLease) -> (TcpListener, SocketAddr) {
    let address: SocketAddr = held.urls().kafka_bootstrap_servers.as_ref().unwrap().parse().unwrap();
    kill(pid(home));
    assert_eq!(held.ended().await, None, "a kill leaves no word");
    (TcpListener::bind(address).unwrap(), address)
}

#[tokio::test]
async fn a_port_that_a_stranger_took_meanwhile_is_told_and_waited_for() {
    let scratch = Scratch::new();
    let request = scratch.request("home");
    let mut held = lease(&request).await;
    let (stranger, address) = port_of_a_killed_broker(&request.home, &mut held).await;
    kept(&mut held, async |mut told| {
        assert_eq!(told.next().await, KILLED);
        let failing = told.next().await;
        let taken = format!(
            "port {}, where the embedded kafka was reached so far, is taken by another program",
            address.port()
        );
        assert!(failing.starts_with("the embedded stack is tried again for 5 minutes: "), "{failing}");
        assert!(failing.contains(&taken), "{failing}");
        drop(stranger);
        assert_eq!(told.next().await, BACK);
    })
    .await;
    publish(&held, "kept", "42").await;
}

#[tokio::test]
async fn one_who_knows_its_ports_is_told_when_a_stack_is_elsewhere() {
    let scratch = Scratch::new();
    let request = scratch.request("home");
    let mut held = lease(&request).await;
    let _stranger = port_of_a_killed_broker(&request.home, &mut held).await;
    let _other = lease(&request).await;
    let error = held.keep(&mut |_| {}).await.to_string();
    assert!(error.ends_with("is back on other ports than this process knows"), "{error}");
}

#[tokio::test]
async fn a_postgres_that_is_killed_is_started_again_by_its_stack() {
    let scratch = Scratch::new();
    let request = scratch.request("home");
    let held = lease(&request).await;
    let (stack, server) = (pid(&request.home), postmaster(&request.home));
    sqlx::raw_sql("CREATE TABLE kept (n int)").execute(&mut connect(&held).await).await.unwrap();
    kill(server);
    let url = held.urls().database_url.clone().unwrap();
    let come_back = async {
        loop {
            match PgConnection::connect(&url).await {
                Ok(connection) => return connection,
                Err(_) => tokio::task::yield_now().await,
            }
        }
    };
    let mut connection = tokio::time::timeout(PATIENCE, come_back).await.expect("it answers where it did");
    sqlx::query("SELECT n FROM kept").fetch_optional(&mut connection).await.unwrap();
    assert_ne!(postmaster(&request.home), server);
    assert_eq!(pid(&request.home), stack, "the broker and the S3 server went on");
    connect(&lease(&request).await).await;
}

#[tokio::test]
async fn a_postgres_that_cannot_be_started_again_ends_its_stack_which_says_why() {
    let scratch = Scratch::new();
    let request = scratch.request("home");
    let mut held = lease(&request).await;
    let settings = request.home.join("postgres/postgresql.conf");
    let right = fs::read(&settings).unwrap();
    fs::write(&settings, "no_such_setting = on\n").unwrap();
    kill(postmaster(&request.home));
    let Some(End::Broken(reason)) = held.ended().await else { panic!("it says why") };
    assert!(reason.starts_with("the embedded postgres failed 5 restarts in a row: "), "{reason}");
    assert!(reason.contains("configuration file") && reason.contains("postgres.log"), "{reason}");
    assert!(reason.ends_with("stack.log)"), "{reason}");
    gone(&request.home).await;
    let error = try_lease(&request).await.unwrap_err().to_string();
    assert!(error.contains("configuration file"), "{error}");
    gone(&request.home).await;

    fs::write(&settings, right).unwrap();
    kept(&mut held, async |mut told| {
        assert_eq!((told.next().await.as_str(), told.next().await.as_str()), (KILLED, BACK));
    })
    .await;
    connect(&held).await;
}

#[tokio::test]
async fn a_stack_whose_home_was_removed_stops() {
    let scratch = Scratch::new();
    let request = scratch.request("home");
    let mut held = lease(&request).await;
    let (stack, server) = (pid(&request.home), postmaster(&request.home));
    // Postgres may add a file to a folder that is being emptied.
    until("it can be removed", || fs::remove_dir_all(&request.home).is_ok()).await;
    let error = held.keep(&mut |news| panic!("{news}")).await.to_string();
    assert!(error.ends_with("was stopped: its home is not there any more"), "{error}");
    until("all of it ends", || is_gone(stack) && is_gone(server)).await;
    assert!(!request.home.exists(), "it leaves nothing behind");
}

#[tokio::test]
async fn a_home_that_was_made_anew_gets_the_one_stack_it_has() {
    let scratch = Scratch::new();
    let request = scratch.request("home");
    let mut held = lease(&request).await;
    let (stack, server) = (pid(&request.home), postmaster(&request.home));
    sqlx::raw_sql("CREATE TABLE kept (n int)").execute(&mut connect(&held).await).await.unwrap();
    let moved = scratch.request("moved");
    fs::rename(&request.home, &moved.home).unwrap();
    let mut anew = lease(&request).await;
    let error = held.keep(&mut |news| panic!("{news}")).await.to_string();
    assert!(error.ends_with("was stopped: its home is not there any more"), "{error}");
    until("all of the old one ends", || is_gone(stack) && is_gone(server)).await;
    assert_ne!(pid(&request.home), stack);
    // Nothing of the old one went into the new one's data, which a start from its control file shows; and its own is whole.
    kill(postmaster(&request.home));
    kill(pid(&request.home));
    anew.ended().await;
    for (home, tables) in [(&request, 0_i64), (&moved, 1)] {
        let count = "SELECT count(*) FROM pg_tables WHERE tablename = 'kept'";
        let count = sqlx::query_scalar::<_, i64>(count).fetch_one(&mut connect(&lease(home).await).await).await;
        assert_eq!(count.unwrap(), tables);
    }
}
