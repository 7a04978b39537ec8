//! The stack killed with SIGKILL at random instants under a `pinsched run` that goes on: the run starts it again and
//! succeeds, and every drawn row is in S3 exactly once.
//!
//! Each seed decides what is killed, how often and when; a failing one is named, and `PINSCHED_TEST_SEED` replays it.

use std::fs;
use std::path::Path;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::time::{interval, timeout};

use crate::services;
use crate::whole::account::{TABLES, consumed, drawn, sunk};
use crate::whole::interrupted::{lines, waiting};
use crate::whole::product::{PATIENCE, Product, dag_file};

/// Enough that every phase takes a while, few enough that a seed takes seconds.
const ROWS: &str = "3000";

/// As long as an undisturbed run takes: some kills come too late, most do not.
const LATEST_KILL: Duration = Duration::from_millis(1_500);

/// How often it is looked whether a victim is there: much sooner than it has come back.
const LOOK: Duration = Duration::from_millis(2);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Victim {
    Stack,
    Postgres,
    Both,
}

#[tokio::test]
async fn a_run_goes_on_when_its_stack_is_killed_and_every_row_is_there_exactly_once() {
    let mut kills = 0;
    for seed in services::seeds(200..208) {
        let mut product = Product::embedded().await;
        kills += killed_under(&mut product, seed).await;
    }
    assert!(kills > 0, "no kill came before its run's end: nothing was tried");
}

#[tokio::test]
async fn a_run_whose_stack_was_stopped_ends_and_can_be_resumed() {
    let product = Product::embedded().await;
    let flag = product.folder().join("flag");
    let file = product.write("waiting.yaml", &waiting(&flag));
    let run = product.start(&["run", &file]);
    lines(&flag.with_extension("log"), 1).await;
    assert!(product.answer(&["down"]).await.status.success());
    let ended = timeout(PATIENCE, run.wait_with_output()).await.expect("it has nothing to wait for").unwrap();
    let said = String::from_utf8(ended.stderr).unwrap();
    assert_eq!(ended.status.code(), Some(2), "its end cannot be read: {said}");
    assert!(said.contains("was stopped: by `pinsched down`") && said.contains("`pinsched resume manual__"), "{said}");
    assert!(!said.contains("trying to reach it again"), "{said}");
    fs::write(&flag, "").unwrap();
    assert_eq!(product.json(&["run", &file]).await["state"], "success");
}

#[tokio::test]
async fn a_run_whose_home_was_removed_ends_and_promises_nothing() {
    let product = Product::embedded().await;
    let flag = product.folder().join("flag");
    let file = product.write("waiting.yaml", &waiting(&flag));
    let run = product.start(&["run", &file]);
    lines(&flag.with_extension("log"), 1).await;
    fs::remove_dir_all(product.home()).unwrap();
    let ended = timeout(PATIENCE, run.wait_with_output()).await.expect("it has nothing to wait for").unwrap();
    let said = String::from_utf8(ended.stderr).unwrap();
    assert_eq!(ended.status.code(), Some(2), "{said}");
    assert!(said.contains("its home is not there any more") && said.contains("is gone with it"), "{said}");
    assert!(!said.contains("pinsched resume") && !said.contains("nothing is lost"), "{said}");
}

/// Returns how many kills came before the run's end.
async fn killed_under(product: &mut Product, seed: u64) -> usize {
    let mut random = StdRng::seed_from_u64(seed);
    let (file, rows) = (dag_file("daily.yaml"), format!("rows={ROWS}"));
    let mut run = product.start(&["run", &file, "--param", &rows, "--param", "user_id=user", "--output", "json"]);
    let mut stderr = BufReader::new(run.stderr.take().unwrap()).lines();
    let mut said = timeout(PATIENCE, stderr.next_line()).await.expect("the run begins").unwrap().unwrap();
    let (mut victims, mut killed) = (Vec::new(), Killed::default());
    for _ in 0..random.random_range(1..=2) {
        let victim = [Victim::Stack, Victim::Postgres, Victim::Both][random.random_range(0..3)];
        let instant = random.random_range(Duration::ZERO..LATEST_KILL);
        if timeout(instant, run.wait()).await.is_ok() {
            break;
        }
        let home = product.home();
        let end = async {
            tokio::select! {
                biased;
                _ = run.wait() => None,
                () = killed.kill(&home, victim) => Some(victim),
            }
        };
        let end = timeout(PATIENCE, end).await;
        match end.unwrap_or_else(|_| panic!("seed {seed}: {victims:?} killed, and no {victim:?} comes back")) {
            Some(victim) => victims.push(victim),
            None => break,
        }
    }
    let rest = async {
        while let Some(line) = stderr.next_line().await.unwrap() {
            said.push('\n');
            said.push_str(&line);
        }
    };
    let (output, ()) = timeout(PATIENCE, async { tokio::join!(run.wait_with_output(), rest) })
        .await
        .unwrap_or_else(|_| panic!("seed {seed}: {victims:?} killed, and the run does not end"));
    let output = output.unwrap();
    assert!(output.status.success(), "seed {seed}: {victims:?} killed\n{said}");
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();

    product.hold_again().await;
    let drawn = drawn(product, &report).await;
    for table in TABLES {
        assert_eq!(drawn[table].len(), 3000, "seed {seed}: {table} rows drawn");
        assert!(drawn[table].values().all(|&count| count == 1), "seed {seed}: a row was drawn twice");
    }
    assert!(sunk(product, "user").await == drawn, "seed {seed}: S3 holds other rows than were drawn\n{said}");
    assert!(consumed(product, "user").await == drawn, "seed {seed}: Kafka holds other rows than were drawn\n{said}");
    victims.len()
}

/// What was killed last. The files that name it stay until the next one writes its own.
#[derive(Default)]
struct Killed {
    stack: Option<Pid>,
    postgres: Option<Pid>,
}

impl Killed {
    /// Kills what is there, or will be in a moment: it may be on its way back from the last kill.
    async fn kill(&mut self, home: &Path, victim: Victim) {
        if victim != Victim::Postgres {
            kill_another(&mut self.stack, || {
                let file: serde_json::Value = serde_json::from_slice(&fs::read(home.join("stack.json")).ok()?).ok()?;
                file["pid"].as_i64()?.try_into().ok()
            })
            .await;
        }
        if victim != Victim::Stack {
            kill_another(&mut self.postgres, || {
                let file = fs::read_to_string(home.join("postgres/postmaster.pid")).ok()?;
                file.lines().next()?.parse().ok()
            })
            .await;
        }
    }
}

async fn kill_another(killed: &mut Option<Pid>, pid: impl Fn() -> Option<i32>) {
    let mut look = interval(LOOK);
    loop {
        look.tick().await;
        if let Some(pid) = pid().and_then(Pid::from_raw).filter(|pid| *killed != Some(*pid))
            // It may have ended by itself by now.
            && kill_process(pid, Signal::KILL).is_ok()
        {
            *killed = Some(pid);
            return;
        }
    }
}
