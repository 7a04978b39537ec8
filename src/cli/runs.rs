//! `pinsched runs`: what ran, newest first.

use serde::Serialize;

use crate::cli::colour::Colour;
use crate::cli::exit::Exit;
use crate::cli::output::Printer;
use crate::cli::session::Session;
use crate::cli::table::Field;
use crate::cli::words;
use crate::domain::diagnostic::{closest, listed};
use crate::domain::ids::DagId;
use crate::domain::run_state::RunState;
use crate::store::{Run, Store};

/// Lines of fewer characters have no room for uuids beside what is looked for first.
const WIDE: usize = 100;

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
    /// Whether a live process drives it.
    driven: bool,
    queued_at: String,
    duration_ms: Option<i64>,
    /// Why it was cancelled, where it was not a person who asked.
    cancel_reason: Option<String>,
}

pub(crate) async fn runs(session: &Session, dag: Option<&DagId>, limit: u32) -> anyhow::Result<Exit> {
    let (_held, store) = session.connect_store().await?;
    let mut runs = Vec::new();
    for run in store.list_runs(dag, limit).await? {
        let driven = store.live_driver(&run).await?.is_some();
        runs.push(RunLine::new(&run, driven));
    }
    let report = RunsReport { runs };
    let nothing = if report.runs.is_empty() { no_runs(&store, dag).await? } else { String::new() };
    session
        .printer
        .answer(&report, || if report.runs.is_empty() { nothing } else { report.render(session.printer) })?;
    Ok(Exit::Done)
}

/// Why the list is empty, and what to look for instead.
async fn no_runs(store: &Store, dag: Option<&DagId>) -> anyhow::Result<String> {
    let others = store.dags_with_runs().await?;
    let names = || others.iter().map(DagId::as_str);
    Ok(match dag {
        Some(dag) if !others.is_empty() => {
            let near = closest(dag.as_str(), names()).map(|near| format!("; did you mean `{near}`?"));
            let near = near.unwrap_or_default();
            format!("there is no run of `{dag}`{near}\nthere are runs of {}\n", listed(names()))
        }
        _ => "no runs yet; start one by `pinsched run FILE`\n".to_owned(),
    })
}

impl RunLine {
    fn new(run: &Run, driven: bool) -> Self {
        Self {
            dag_id: run.dag_id.to_string(),
            run_id: run.run_id.to_string(),
            run_uuid: run.uuid.to_string(),
            logical_date: run.logical_date.to_rfc3339(),
            state: run.state,
            driven,
            queued_at: run.queued_at.to_rfc3339(),
            duration_ms: run.started_at.zip(run.finished_at).map(|(from, to)| (to - from).num_milliseconds()),
            cancel_reason: run.cancel_reason.clone(),
        }
    }

    /// What is to be known of it beside its state.
    fn remark(&self) -> &str {
        if self.is_left() { "nobody drives it" } else { self.cancel_reason.as_deref().unwrap_or_default() }
    }

    /// Whether it stopped half-way: its process is gone.
    fn is_left(&self) -> bool {
        !self.state.is_final() && !self.driven
    }
}

impl RunsReport {
    fn render(&self, printer: Printer) -> String {
        let left = self.runs.iter().any(RunLine::is_left);
        let remarks = left || self.runs.iter().any(|run| run.cancel_reason.is_some());
        let remark: &[&str] = if remarks { &[""] } else { &[] };
        let with_uuids = printer.answer_width().is_none_or(|width| width >= WIDE);
        let uuid: &[&str] = if with_uuids { &["UUID"] } else { &[] };
        let headings = [&["DAG", "RUN"], uuid, &["STATE", "QUEUED AT", "DURATION"], remark].concat();
        let mut table = printer.table(&headings).named_by(2);
        for run in &self.runs {
            let mut row = vec![Field::text(&run.dag_id), Field::text(&run.run_id)];
            row.extend(with_uuids.then(|| Field::text(words::short_uuid(&run.run_uuid))));
            row.extend([
                Field::coloured(run.state, Colour::of_run(run.state)),
                Field::text(words::instant(&run.queued_at)),
                Field::number(run.duration_ms.map(words::milliseconds).unwrap_or_default()),
            ]);
            row.extend(remarks.then(|| Field::text(run.remark())));
            table.row(row);
        }
        let mut text = table.render();
        if left {
            text.push_str("\n`pinsched resume RUN` goes on with a run that nobody drives\n");
        }
        text
    }
}
