//! Services as processes on one Postgres, killed, paused and started again at random: at the end every task has succeeded
//! once, no fence was used twice, and an outside witness saw no more than the attempts that there were.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use pinsched::domain::run_state::RunState;
use pinsched::domain::task_state::{AttemptOutcome, TaskState};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use rustix::process::{Pid, Signal, kill_process};
use secrecy::ExposeSecret;

use super::Served;
use crate::services;

/// A service in a process of its own.
struct Process(Child);

impl Process {
    fn start(database: &str, dags: &Path, home: &Path) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pinsched"));
        command.args(["serve", "--listen", "off", "--dags"]).arg(dags).arg("--home").arg(home);
        // Nothing is reached but the database.
        command.env("DATABASE_URL", database).env("PINSCHED_PARALLELISM", "6");
        command
            .env("PINSCHED_KAFKA_BOOTSTRAP_SERVERS", "127.0.0.1:1")
            .env("PINSCHED_SOURCE_URL", "mysql://a@127.0.0.1:1/a");
        command.env("PINSCHED_S3_ENDPOINT_URL", "http://127.0.0.1:1");
        command.env("PINSCHED_S3_ACCESS_KEY_ID", "a").env("PINSCHED_S3_SECRET_ACCESS_KEY", "a");
        Self(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.0), signal).unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A DAG of layers of tasks, each of which leaves a line with the witness.
fn dag(witness: &Path, random: &mut StdRng) -> (String, usize) {
    let mut text =
        String::from("orders:\n  max_active_tasks: 8\n  default_args: {retries: 3, retry_delay: 0.1s}\n  tasks:\n");
    let (layers, width) = (12, 10);
    for layer in 0..layers {
        for place in 0..width {
            let upstream: Vec<String> = match layer {
                0 => Vec::new(),
                _ => (0..2).map(|_| format!("t{}_{}", layer - 1, random.random_range(0..width))).collect(),
            };
            let upstream: BTreeSet<String> = upstream.into_iter().collect();
            let pool = if place % 3 == 0 { ", pool: narrow" } else { "" };
            let nap = random.random_range(0..50);
            let say = format!("echo t{layer}_{place} >> {}; sleep 0.{nap:02}", witness.display());
            writeln!(
                text,
                "    t{layer}_{place}: {{operator: bash, dependencies: [{}], bash_command: '{say}'{pool}}}",
                upstream.into_iter().collect::<Vec<_>>().join(", ")
            )
            .unwrap();
        }
    }
    (text, layers * width)
}

#[tokio::test]
async fn whatever_is_killed_every_task_succeeds_once() {
    for seed in services::seeds(700..703) {
        killed(seed).await;
    }
}

#[tokio::test]
#[ignore = "takes minutes: `./scripts/test --long` runs it"]
async fn whatever_is_killed_in_many_ways_every_task_succeeds_once() {
    for seed in services::seeds(703..728) {
        killed(seed).await;
    }
}

async fn killed(seed: u64) {
    let mut random = StdRng::seed_from_u64(seed);
    let served = Served::nothing().await;
    let witness = served.path("witness.txt");
    let (text, tasks) = dag(&witness, &mut random);
    served.write("orders.yaml", &text);
    served.house.store.set_pool("narrow", 3, None).await.unwrap();
    let database = served.house.url.expose_secret().to_owned();
    let home = served.path("home");
    std::fs::create_dir(&home).unwrap();
    let start = || Process::start(&database, served.folder.path(), &home);
    let mut processes: Vec<Process> = (0..3).map(|_| start()).collect();
    served.dag("orders", |state| state.version.is_some()).await;
    let operators = pinsched::operators::catalog();
    let file = pinsched::domain::source::SourceFile::new("orders.yaml", &text);
    let checked = pinsched::domain::check::check(&file, &operators).dags.pop().expect("the DAG is valid");
    let path = served.path("orders.yaml").canonicalize().unwrap();
    let new = pinsched::store::NewRun { file: path.to_str().unwrap(), ..crate::dags::new_run(&checked, &text) };
    let run = served.house.store.create_run(&new, pinsched::clock::now()).await.unwrap();
    served.house.store.tell(pinsched::store::Word::Work).await.unwrap();

    let mut blow = tokio::time::interval(Duration::from_millis(400));
    let mut kills = 0;
    let ended = loop {
        blow.tick().await;
        let now = served.house.store.run(run.key).await.unwrap().unwrap();
        if now.state.is_final() {
            break now;
        }
        assert!(
            kills < 200,
            "seed {seed}: the run hangs:\n{}",
            crate::dags::picture(&served.house.store, run.key).await
        );
        kills += 1;
        let victim = random.random_range(0..processes.len());
        match random.random_range(0..4) {
            0 | 1 if kills <= 12 => processes[victim] = start(), // what was there is killed by being dropped
            2 if kills <= 12 => {
                processes[victim].signal(Signal::STOP);
                blow.tick().await;
                processes[victim].signal(Signal::CONT);
            }
            _ => {}
        }
    };
    assert_eq!(ended.state, RunState::Success, "seed {seed}");
    assert!(kills > 2, "seed {seed}: it was over before anything was tried");
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    for line in std::fs::read_to_string(&witness).unwrap().lines() {
        *seen.entry(line.to_owned()).or_default() += 1;
    }
    let stored = served.house.store.task_runs(run.key).await.unwrap();
    assert_eq!(stored.len(), tasks);
    for task in stored {
        assert_eq!(task.state, TaskState::Success, "seed {seed}: {}", task.task_id);
        let attempts = served.house.store.attempts(run.key, task.task).await.unwrap();
        let successes = attempts.iter().filter(|attempt| attempt.outcome == Some(AttemptOutcome::Success)).count();
        let fences: BTreeSet<i64> = attempts.iter().map(|attempt| attempt.fence).collect();
        assert_eq!((successes, fences.len()), (1, attempts.len()), "seed {seed}: {}", task.task_id);
        let saw = seen.get(task.task_id.as_str()).copied().unwrap_or(0);
        assert!(
            (1..=attempts.len()).contains(&saw),
            "seed {seed}: {}: {saw} lines of {} attempts",
            task.task_id,
            attempts.len()
        );
    }
}
