//! `pinsched resume RUN`: goes on with a run that was killed or stopped.

use crate::cli::drive;
use crate::cli::exit::Exit;
use crate::cli::session::{Session, find_run};
use crate::engine;

pub(crate) async fn resume(session: &Session, run: &str) -> anyhow::Result<Exit> {
    session.must_have_run()?;
    let (resolved, store) = session.connect(16).await?;
    let run = find_run(&store, run).await?;
    if run.state.is_final() {
        session.printer.error(&format!(
            "run `{id}` of DAG `{}` is finished ({}): `pinsched restart {id}` runs again what did not succeed (--all: all \
             of it), `pinsched clear {id} TASK` some tasks; `pinsched run FILE --logical-date {} --rerun` makes another run",
            run.dag_id,
            run.state,
            run.logical_date.to_rfc3339(),
            id = run.run_id,
        ));
        return Ok(Exit::No);
    }
    let why = match store.live_driver(&run).await? {
        None => format!("it was left {}", run.state),
        Some(_) => "once the process that drives it is gone".to_owned(),
    };
    session.printer.say(&format!("{}  {}  resuming: {why}", run.dag_id, run.run_id));
    let sign = engine::register(&store).await?;
    drive::drive_stored(session, resolved, &store, run, sign).await
}
