//! `pinsched runs`: what ran, newest first.

use comfy_table::{Cell, CellAlignment};
use serde::Serialize;

use crate::cli::exit::Exit;
use crate::cli::output::{Printer, lines, run_state_cell};
use crate::cli::session::Session;
use crate::cli::words;
use crate::domain::ids::DagId;
use crate::domain::run_state::RunState;
use crate::store::Run;

#[derive(Debug, Serialize)]
struct RunsReport {
    runs: Vec<RunLine>,
}

#[derive(Debug, Serialize)]
struct RunLine {
    dag_id: String,
    run_id: String,
    run_uuid: String,
    logical_date: String,
    state: RunState,
    queued_at: String,
    duration_ms: Option<i64>,
}

pub(crate) async fn runs(session: &Session, dag: Option<&DagId>, limit: u32) -> anyhow::Result<Exit> {
    let (_held, store) = session.connect_store().await?;
    let runs = store.list_runs(dag, limit).await?;
    let report = RunsReport { runs: runs.iter().map(RunLine::from).collect() };
    session.printer.answer(&report, || report.render(session.printer))?;
    Ok(Exit::Done)
}

impl From<&Run> for RunLine {
    fn from(run: &Run) -> Self {
        Self {
            dag_id: run.dag_id.to_string(),
            run_id: run.run_id.to_string(),
            run_uuid: run.uuid.to_string(),
            logical_date: run.logical_date.to_rfc3339(),
            state: run.state,
            queued_at: run.queued_at.to_rfc3339(),
            duration_ms: run.started_at.zip(run.finished_at).map(|(from, to)| (to - from).num_milliseconds()),
        }
    }
}

impl RunsReport {
    fn render(&self, printer: Printer) -> String {
        if self.runs.is_empty() {
            return "no runs yet; start one by `pinsched run FILE`\n".to_owned();
        }
        let mut table = printer.table(&["DAG", "RUN", "STATE", "QUEUED AT", "DURATION"]);
        for run in &self.runs {
            table.add_row(vec![
                Cell::new(&run.dag_id),
                Cell::new(&run.run_id),
                run_state_cell(run.state),
                Cell::new(run.queued_at.get(..19).unwrap_or(&run.queued_at).replace('T', " ")),
                Cell::new(run.duration_ms.map(words::milliseconds).unwrap_or_default())
                    .set_alignment(CellAlignment::Right),
            ]);
        }
        lines(&table)
    }
}
