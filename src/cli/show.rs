//! `pinsched show RUN`: one run in full.

use crate::cli::dag_file;
use crate::cli::exit::Exit;
use crate::cli::report::RunReport;
use crate::cli::session::{Session, find_run};

pub(crate) async fn show(session: &Session, run: &str) -> anyhow::Result<Exit> {
    let (_held, store) = session.connect_store().await?;
    let run = find_run(&store, run).await?;
    let source = store.run_source(run.key).await?;
    let dag = dag_file::reread(&source.file, source.source, &run.dag_id)?;
    let report = RunReport::read(&store, &run, &dag).await?;
    session.printer.answer(&report, || report.render(session.printer));
    Ok(Exit::Done)
}
