//! `pinsched cancel RUN`: writes the intent; the process that drives the run acts on it. Where none does any more, this
//! one drives it to its end.

use std::time::Duration;

use crate::cli::drive;
use crate::cli::exit::Exit;
use crate::cli::report::{self, Detail};
use crate::cli::session::{Session, find_run};
use crate::clock;
use crate::engine;
use crate::store::{Run, Store};

/// How often the run is looked at while its end is waited for.
const LOOK: Duration = Duration::from_millis(200);

pub(crate) async fn cancel(session: &Session, run: &str) -> anyhow::Result<Exit> {
    let (_held, store) = session.connect_store().await?;
    let run = find_run(&store, run).await?;
    if store.request_cancel(run.key, clock::now()).await?.is_none() {
        session.printer.error(&format!("run `{}` of DAG `{}` is finished ({})", run.run_id, run.dag_id, run.state));
        return Ok(Exit::No);
    }
    session.printer.say(&format!("{}  {}  cancel requested", run.dag_id, run.run_id));
    match end_by_its_driver(&store, &run).await? {
        Some(ended) => report::answer_stored(session, &store, &ended, Detail::Brief).await?,
        None => {
            // Only who drives a run needs more than the database.
            let (resolved, store) = session.connect(4).await?;
            let sign = engine::register(&store).await?;
            drive::drive_stored(session, resolved, &store, run, sign).await?; // its report says how it ended
        }
    }
    Ok(Exit::Done)
}

/// Waits while some live process drives the run; `None` when none does.
async fn end_by_its_driver(store: &Store, run: &Run) -> anyhow::Result<Option<Run>> {
    loop {
        let Some(now) = store.run(run.key).await? else { return Ok(None) };
        if now.state.is_final() {
            return Ok(Some(now));
        }
        if store.live_driver(&now).await?.is_none() {
            return Ok(None);
        }
        tokio::time::sleep(LOOK).await;
    }
}
