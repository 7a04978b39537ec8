//! `pinsched serve`: the service, until it is told to stop.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use chrono::TimeDelta;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, sleep_until};

use crate::cli::exit::Exit;
use crate::cli::output::Printer;
use crate::cli::service_arguments::ServeArguments;
use crate::cli::session::{Session, keep};
use crate::config::{self, RetentionSettings};
use crate::domain::ids::{RunKey, TaskIndex};
use crate::domain::plan::Move;
use crate::domain::run_state::RunState;
use crate::engine;
use crate::engine::observer::Observer;
use crate::engine::operator::Progress;
use crate::engine::shutdown::{Shutdown, ShutdownStep};
use crate::service::{Door, Metrics, Retention, Service, ServiceError};

/// Connections beside those of the operators: the worker's steps, its sign of life, the scheduler, the listener.
const CONNECTIONS: u32 = 20;

/// How long what runs may go on after SIGTERM: supervisors send SIGKILL ten seconds later or more.
const TERMINATION_GRACE: Duration = Duration::from_secs(5);

pub(crate) async fn serve(session: &Session, arguments: &ServeArguments) -> anyhow::Result<Exit> {
    let dags = arguments.dags.clone().unwrap_or_else(|| session.settings.dags.clone());
    let dags = std::path::absolute(&dags).with_context(|| format!("could not find {}", dags.display()))?;
    anyhow::ensure!(
        dags.exists(),
        "there is no folder {} of DAG files (--dags or PINSCHED_DAGS names it)",
        dags.display()
    );
    let listen = arguments.listen.as_deref().map(config::listen).transpose();
    let listen =
        listen.map_err(|expected| anyhow::anyhow!("--listen takes {expected}"))?.unwrap_or(session.settings.listen);
    let door = match listen {
        Some(address) => Some(Door::open(address).await?), // before anything is started
        None => None,
    };
    let (mut resolved, store) = session.connect(CONNECTIONS).await?;
    let metrics = Arc::new(Metrics::new());
    let engine = session.engine(&store, &resolved, Arc::new(Watching(Arc::clone(&metrics))))?;
    let sign = engine::register(&store).await?;
    let misfire_grace = TimeDelta::from_std(session.settings.misfire_grace).unwrap_or(TimeDelta::MAX);
    let roles = arguments.roles.iter().copied().collect();
    session.printer.say(&format!("serving the DAGs of {}; Ctrl-C drains", dags.display()));
    if let Some(door) = &door {
        session.printer.say(&format!("health and metrics: http://{}/health/ready and /metrics", door.address()));
    }
    let RetentionSettings { days, runs_per_dag } = session.settings.retention;
    let retention = Retention { days, runs_per_dag };
    let service = Service { engine, dags, roles, misfire_grace, sign, retention, metrics, door };
    let shutdown = Shutdown::default();
    let served = stop_when_told(service.run(&shutdown), &shutdown, session.printer);
    tokio::pin!(served);
    let gone = tokio::select! {
        served = &mut served => return served,
        gone = keep(resolved.stack.as_mut(), |news| session.printer.say(news)) => gone,
    };
    shutdown.stop();
    served.await?;
    Err(anyhow::Error::new(gone).context("the service ended with its embedded stack"))
}

async fn stop_when_told(
    service: impl Future<Output = Result<(), ServiceError>>,
    shutdown: &Shutdown,
    printer: Printer,
) -> anyhow::Result<Exit> {
    let mut interrupts = signal(SignalKind::interrupt()).context("could not listen for Ctrl-C")?;
    let mut terminations = signal(SignalKind::terminate()).context("could not listen for SIGTERM")?;
    tokio::pin!(service);
    let mut asked = 0_u32;
    let mut grace: Option<Instant> = None;
    loop {
        let graced = grace.unwrap_or_else(Instant::now);
        tokio::select! {
            served = &mut service => return served.map(|()| Exit::Done).map_err(anyhow::Error::from),
            _ = interrupts.recv() => grace = None, // who is at the keyboard says when
            _ = terminations.recv() => grace = (asked == 0).then(|| Instant::now() + TERMINATION_GRACE),
            () = sleep_until(graced), if grace.is_some() => grace = None,
        }
        asked += 1;
        if asked > 2 {
            printer.say("killed; what ran is taken over by the other services, or by the next one");
            return Ok(Exit::Done);
        }
        match shutdown.next() {
            ShutdownStep::Drain => printer.say("draining: nothing new begins, what runs may end"),
            ShutdownStep::Stop => printer.say("stopping: what runs is handed back uncounted"),
        }
    }
}

/// Counts what happens, and tells by the logs what the engine does not log itself.
struct Watching(Arc<Metrics>);

impl Observer for Watching {
    fn attempt_started(&self, run: RunKey, task: TaskIndex, try_number: i32, progress: &Arc<Progress>) {
        self.0.attempt_started(run, task, try_number, progress);
    }

    fn stepped(&self, took: Duration) {
        self.0.stepped(took);
    }

    fn looked_around(&self) {
        self.0.looked_around();
    }

    fn task_moved(&self, run: RunKey, step: &Move, error: Option<&str>) {
        self.0.task_moved(run, step, error);
    }

    fn run_concluded(&self, run: RunKey, state: RunState) {
        self.0.run_concluded(run, state);
    }

    fn database_lost(&self, error: &str) {
        self.0.database_lost(error);
        tracing::warn!(error, "the database is away; attempts were stopped, and go on once it is back");
    }
}
