//! Services as processes on one Postgres, killed, paused and started again at random, and Postgres with them: at the end
//! every task has succeeded once, no fence was used twice, and outside witnesses saw no more than the attempts that there
//! were.

mod mixture;

use std::collections::BTreeSet;
use std::time::Duration;

use pinsched::domain::run_state::RunState;
use pinsched::domain::task_state::{AttemptOutcome, TaskState};
use pinsched::store::StoreError;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use rustix::process::Signal;
use secrecy::ExposeSecret;
use tokio::task::JoinSet;

use super::Served;
use crate::dags::{self, House};
use crate::postgres::{Server, Stop};
use crate::processes::Process;
use crate::services;
use mixture::{Kind, Mixture, Witness};

/// How often something goes wrong.
const BLOW: Duration = Duration::from_millis(400);

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// A process is killed, and another started.
    Kill,
    /// A process hangs for a moment.
    Pause,
    /// A process hangs until its leases have ended.
    LongPause,
    /// A process is told to stop, and another started.
    Drain,
    /// Postgres is stopped in good order, and started.
    Restart,
    /// Postgres is stopped at once, and recovers.
    Crash,
}

impl Fault {
    /// Each of them comes before any comes again.
    const ALL: [Self; 6] = [Self::Kill, Self::Pause, Self::Drain, Self::Restart, Self::Crash, Self::LongPause];

    /// How often each may come, so that a run ends, and so that no task loses five workers.
    fn most(self, is_large: bool) -> usize {
        match self {
            Self::Kill if is_large => 14,
            Self::Kill => 6,
            Self::Pause => 8,
            Self::LongPause => 1,
            Self::Drain if is_large => 8,
            Self::Drain => 3,
            Self::Restart | Self::Crash if is_large => 2,
            Self::Restart | Self::Crash => 1,
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_killed_every_task_succeeds_once() {
    for seed in services::seeds(700..703) {
        killed(seed, 120).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes: `./scripts/test --long` runs it"]
async fn whatever_is_killed_in_many_ways_every_task_succeeds_once() {
    for seed in services::seeds(703..728) {
        killed(seed, 1_000).await;
    }
}

/// Asks the store until it answers: its Postgres comes and goes.
async fn patiently<T>(ask: impl AsyncFn() -> Result<T, StoreError>) -> T {
    let asking = async {
        let mut again = tokio::time::interval(Duration::from_millis(50));
        loop {
            again.tick().await;
            match ask().await {
                Ok(answer) => return answer,
                Err(error) => assert!(error.is_transient(), "{error:?}"),
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(60), asking).await.expect("Postgres answers within 60 s")
}

async fn killed(seed: u64, tasks: usize) {
    let began = pinsched::clock::monotonic();
    let mut random = StdRng::seed_from_u64(seed);
    let mut postgres = Server::start().await;
    let served = Served::in_house(House::on(postgres.url()).await);
    let store = &served.house.store;
    let mut servers = JoinSet::new();
    let witness = Witness::start(&mut servers, served.folder.path()).await;
    let mixture = Mixture::draw(&mut random, tasks, &witness);
    served.write("orders.yaml", &mixture.text);
    store.set_pool("narrow", 3, None).await.unwrap();
    let (database, home) = (served.house.url.expose_secret().to_owned(), served.path("home"));
    std::fs::create_dir(&home).unwrap();
    let start = || Process::serve(&database, served.folder.path(), &home, 6);
    let mut processes: Vec<Process> = (0..3).map(|_| start()).collect();
    served.dag("orders", |state| state.version.is_some()).await;
    let path = served.path("orders.yaml").canonicalize().unwrap();
    let file = path.to_str().unwrap();
    let new = pinsched::store::NewRun { file, ..dags::new_run(&mixture.dag, &mixture.text) };
    let run = store.create_run(&new, pinsched::clock::now()).await.unwrap();
    store.tell(pinsched::store::Word::Work).await.unwrap();

    let is_large = tasks > 500;
    let mut blow = tokio::time::interval(BLOW);
    blow.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut faults: Vec<Fault> = Vec::new();
    let ended = loop {
        blow.tick().await;
        let now = patiently(async || store.run(run.key).await).await.unwrap();
        if now.state.is_final() {
            break now;
        }
        let most = if is_large { 600 } else { 180 };
        if began.elapsed() > Duration::from_secs(most) {
            panic!("seed {seed}: the run hangs after {faults:?}:\n{}", dags::picture(store, run.key).await);
        }
        let open: Vec<Fault> = Fault::ALL
            .into_iter()
            .filter(|fault| faults.iter().filter(|other| *other == fault).count() < fault.most(is_large))
            .collect();
        let fault = match Fault::ALL.into_iter().find(|fault| !faults.contains(fault)) {
            Some(new) => new,
            None if open.is_empty() || random.random_range(0..3) == 0 => continue,
            None => open[random.random_range(0..open.len())],
        };
        faults.push(fault);
        let victim = random.random_range(0..processes.len());
        match fault {
            Fault::Kill => processes[victim] = start(), // what was there is killed by being dropped
            Fault::Pause | Fault::LongPause => {
                processes[victim].signal(Signal::STOP);
                let blows = if fault == Fault::LongPause { 42 } else { 1 };
                for _ in 0..blows {
                    blow.tick().await;
                }
                processes[victim].signal(Signal::CONT);
            }
            Fault::Drain => {
                tokio::task::block_in_place(|| processes[victim].drain());
                processes[victim] = start();
            }
            Fault::Restart => postgres.restart(Stop::Fast).await,
            Fault::Crash => postgres.restart(Stop::Immediate).await,
        }
        if faults.len() == 4 {
            witness.let_sensors_go();
        }
    };
    let kinds: BTreeSet<String> = faults.iter().map(|fault| format!("{fault:?}")).collect();
    let attempts = judge(&served, run.key, &mixture, &witness, seed).await;
    assert_eq!(ended.state, RunState::Success, "seed {seed}: {faults:?}");
    assert_eq!(kinds.len(), Fault::ALL.len(), "seed {seed}: it was over before everything was tried: {faults:?}");
    said(&format!(
        "seed {seed}: {} tasks, {attempts} attempts, {} faults, {:?}",
        mixture.kinds.len(),
        faults.len(),
        began.elapsed()
    ));
}

/// Looks at every task and at what the witnesses saw; says how many attempts there were.
async fn judge(
    served: &Served,
    run: pinsched::domain::ids::RunKey,
    mixture: &Mixture,
    witness: &Witness,
    seed: u64,
) -> usize {
    let store = &served.house.store;
    let stored = patiently(async || store.task_runs(run).await).await;
    assert_eq!(stored.len(), mixture.kinds.len());
    let mut all = 0;
    for (task, kind) in stored.iter().zip(&mixture.kinds) {
        let attempts = patiently(async || store.attempts(run, task.task).await).await;
        all += attempts.len();
        let saw = witness.saw(task.task_id.as_str());
        if *kind == Kind::LeftOut {
            assert_eq!((task.state, attempts.len(), saw), (TaskState::Skipped, 0, 0), "seed {seed}: {}", task.task_id);
            continue;
        }
        assert_eq!(task.state, TaskState::Success, "seed {seed}: {}: {:?}", task.task_id, task.error);
        let successes = attempts.iter().filter(|attempt| attempt.outcome == Some(AttemptOutcome::Success)).count();
        let fences: BTreeSet<i64> = attempts.iter().map(|attempt| attempt.fence).collect();
        assert_eq!((successes, fences.len()), (1, attempts.len()), "seed {seed}: {}", task.task_id);
        let least = usize::from(kind.is_witnessed());
        let most = if kind.is_witnessed() { attempts.len() } else { 0 };
        assert!(
            (least..=most).contains(&saw),
            "seed {seed}: {}: {saw} were seen of {} attempts",
            task.task_id,
            attempts.len()
        );
    }
    all
}

#[expect(clippy::print_stderr, reason = "how much was tried is for who runs the test")]
fn said(words: &str) {
    eprintln!("{words}");
}
