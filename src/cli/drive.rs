//! Drives one run to its end in this process, with progress and Ctrl-C; what `run`, `resume` and `cancel` share.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, interval, sleep_until};

use crate::cli::dag_file;
use crate::cli::exit::Exit;
use crate::cli::progress::ProgressDisplay;
use crate::cli::report;
use crate::cli::session::{Session, keep};
use crate::clock;
use crate::domain::dag::Dag;
use crate::domain::ids::RunKey;
use crate::domain::run_state::RunState;
use crate::embedded::Resolved;
use crate::engine::Driven;
use crate::engine::notices::Notifier;
use crate::engine::running::RunningRun;
use crate::engine::shutdown::{Shutdown, ShutdownStep};
use crate::engine::versions::Versions;
use crate::service::notifier::{self, Outbox};
use crate::store::{Run, SignOfLife, Store};

/// How long what runs may go on after SIGTERM: supervisors send SIGKILL ten seconds later or more.
const TERMINATION_GRACE: Duration = Duration::from_secs(5);

/// How long callbacks of a run that has ended may take, with another try or two, before the process ends.
const LAST_WORDS: Duration = Duration::from_secs(15);

/// The same where a person stopped it.
const HURRIED_WORDS: Duration = Duration::from_secs(2);

/// Ten times a second: what an eye takes for motion.
const REFRESH: Duration = Duration::from_millis(100);

/// Drives `run` until it ends or the person stops it, then answers with its report.
pub(crate) async fn drive(
    session: &Session,
    mut resolved: Resolved,
    store: &Store,
    run: Run,
    dag: Dag,
    sign: SignOfLife,
) -> anyhow::Result<Exit> {
    let running = RunningRun::new(&run, dag);
    let display = Arc::new(ProgressDisplay::new(session.printer, Arc::clone(&running.dag)));
    let engine = session.engine(store, &resolved, Arc::clone(&display) as _)?;
    let dag = Arc::clone(&running.dag);
    let versions = Arc::new(Versions::new(engine.registrations));
    versions.keep(run.version, Arc::clone(&dag));
    let exporter = engine.exporter(&versions);
    let exporter = (!exporter.is_idle()).then_some(exporter);
    let notifier = dag.has_callbacks().then(|| Notifier::new(store.clone(), versions, engine.lookup.clone()));
    let shutdown = Shutdown::default();
    let (over, last) = tokio::sync::watch::channel(None);
    let telling = async {
        tokio::join!(tell(notifier.as_ref(), run.key, last.clone()), tell(exporter.as_ref(), run.key, last.clone()))
    };
    tokio::pin!(telling);
    let driving = async {
        let work = watch(engine.drive_as(sign, running, &shutdown), &display, &shutdown);
        tokio::pin!(work);
        tokio::select! {
            driven = &mut work => (driven, None),
            gone = keep(resolved.stack.as_mut(), |news| display.say(news)) => {
                display.end(); // what follows from it is not told besides
                shutdown.stop();
                (work.await, Some(gone))
            }
        }
    };
    let (driven, gone) = tokio::select! {
        ended = driving => ended,
        _ = &mut telling => unreachable!("it goes on until the run is over"),
    };
    let is_stopped = !matches!(driven, Ok(Driven::Concluded(_))); // somebody wants it to end
    if gone.is_none() {
        let limit = if is_stopped { HURRIED_WORDS } else { LAST_WORDS };
        over.send_replace(Some(limit));
        let (callbacks, exports) = telling.await;
        for unsent in [callbacks, exports].into_iter().flatten() {
            display.say(&format!("not all {unsent} could be sent; `pinsched serve` goes on with them for a day"));
        }
    }
    display.end();
    if let (Some(gone), Ok(Driven::Stopped) | Err(_)) = (gone, &driven) {
        return Err(anyhow::Error::new(gone).context(cut_short(&run, &session.settings.home)));
    }
    let driven = driven?;
    let run = store.run(run.key).await?.context("the run was deleted while it ran")?;
    report::answer(session, store, &run, Some(&dag)).await?;
    Ok(match driven {
        Driven::Concluded(RunState::Success) => Exit::Done,
        Driven::Concluded(_) => Exit::No,
        Driven::Stopped => {
            session.printer.say(&format!(
                "stopped before its end; nothing is lost: `pinsched resume {}` goes on from here",
                run.run_id
            ));
            Exit::No
        }
    })
}

/// The same for a run whose DAG is read from the store.
pub(crate) async fn drive_stored(
    session: &Session,
    resolved: Resolved,
    store: &Store,
    run: Run,
    sign: SignOfLife,
) -> anyhow::Result<Exit> {
    let dag = dag_file::of_run(store, &run)
        .await
        .with_context(|| format!("run `{}` cannot go on; `pinsched run FILE --new` starts another", run.run_id))?;
    if run.state == RunState::Queued && !store.begin_run_if_its_turn(&run, &dag, clock::now()).await? {
        anyhow::bail!(
            "run `{}` waits for its turn: its DAG is paused, or as many of its runs as may go on already",
            run.run_id
        );
    }
    drive(session, resolved, store, run, dag, sign).await
}

/// Sends what happens in the run, until it is over and some time more; what of it could not be sent.
async fn tell<O: Outbox>(
    outbox: Option<&O>,
    run: RunKey,
    mut last: tokio::sync::watch::Receiver<Option<Duration>>,
) -> Option<&'static str> {
    match outbox {
        Some(outbox) => (!notifier::tell(outbox, run, last).await).then_some(O::WHAT),
        None => {
            let _ = last.wait_for(Option::is_some).await; // there is nobody to tell
            None
        }
    }
}

/// What became of a run whose stack is gone for good.
fn cut_short(run: &Run, home: &Path) -> String {
    let id = &run.run_id;
    match home.is_dir() {
        true => format!("run `{id}` was stopped before its end; `pinsched resume {id}` goes on from there"),
        false => format!("run `{id}` was stopped before its end, and what {} held is gone with it", home.display()),
    }
}

async fn watch<E>(
    work: impl Future<Output = Result<Driven, E>>,
    display: &ProgressDisplay,
    shutdown: &Shutdown,
) -> anyhow::Result<Driven>
where
    anyhow::Error: From<E>,
{
    let mut interrupts = signal(SignalKind::interrupt()).context("could not listen for Ctrl-C")?;
    let mut terminations = signal(SignalKind::terminate()).context("could not listen for SIGTERM")?;
    let mut refresh = interval(REFRESH);
    tokio::pin!(work);
    let mut asked = 0_u32;
    let mut grace: Option<Instant> = None;
    loop {
        let graced = grace.unwrap_or_else(Instant::now);
        tokio::select! {
            driven = &mut work => return driven.map_err(anyhow::Error::from),
            _ = interrupts.recv() => {
                asked += 1;
                grace = None; // who is at the keyboard says when
            }
            _ = terminations.recv() => {
                asked += 1;
                grace = (asked == 1).then(|| Instant::now() + TERMINATION_GRACE);
            }
            () = sleep_until(graced), if grace.is_some() => {
                asked += 1;
                grace = None;
            }
            _ = refresh.tick() => {
                display.refresh();
                continue;
            }
        }
        if asked > 2 {
            display.say("killed; what ran is taken over when the run is resumed");
            return Ok(Driven::Stopped);
        }
        match shutdown.next() {
            ShutdownStep::Drain => display.say(
                "draining: nothing new starts, what runs may end; Ctrl-C again stops it (uncounted), a third time kills",
            ),
            ShutdownStep::Stop => display.say("stopping: what runs is handed back uncounted"),
        }
    }
}
