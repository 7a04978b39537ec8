//! `pinsched resume RUN`: goes on with a run that was killed or stopped.

use crate::cli::drive;
use crate::cli::exit::Exit;
use crate::cli::session::{Session, find_run};
use crate::cli::words;
use crate::engine;

pub(crate) async fn resume(session: &Session, run: &str) -> anyhow::Result<Exit> {
    let (_held, store) = session.connect_store().await?;
    let run = find_run(&store, run).await?;
    if run.state.is_final() {
        session.printer.error(&format!(
            "run `{}` of DAG `{}` is finished ({}): `pinsched restart {uuid}` runs again what did not succeed, `pinsched clear \
             {uuid} TASK` some of it; `pinsched run FILE --logical-date {} --rerun` makes another run",
            run.run_id,
            run.dag_id,
            run.state,
            run.logical_date.to_rfc3339(),
            uuid = words::short_uuid(&run.uuid.to_string()),
        ));
        return Ok(Exit::No);
    }
    let why = match store.live_driver(&run).await? {
        None => format!("it was left {}", run.state),
        Some(_) => "once the process that drives it is gone".to_owned(),
    };
    session.printer.say(&format!("{}  {}  resuming: {why}", run.dag_id, run.run_id));
    let (resolved, store) = session.connect(16).await?; // what is over needs no more than the database
    let sign = engine::register(&store).await?;
    drive::drive_stored(session, resolved, &store, run, sign).await
}
