//! `pinsched dags`: the DAGs that services have registered.

use serde::Serialize;

use crate::cli::exit::Exit;
use crate::cli::output::Printer;
use crate::cli::session::Session;
use crate::cli::table::Field;
use crate::cli::words;
use crate::store::{DagState, ImportError};

#[derive(Debug, Serialize)]
struct DagsReport {
    /// Whether a live service runs tasks.
    is_served: bool,
    dags: Vec<DagLine>,
    import_errors: Vec<BrokenFile>,
}

#[derive(Debug, Serialize)]
struct DagLine {
    dag_id: String,
    file: Option<String>,
    is_paused: bool,
    is_retired: bool,
    next_tick: Option<String>,
}

#[derive(Debug, Serialize)]
struct BrokenFile {
    file: String,
    message: String,
    findings: serde_json::Value,
}

pub(crate) async fn dags(session: &Session) -> anyhow::Result<Exit> {
    let (_held, store) = session.connect_store().await?;
    let dags: Vec<DagLine> = store.dag_states().await?.iter().map(DagLine::new).collect();
    let import_errors = store.import_errors().await?.into_iter().map(BrokenFile::new).collect();
    let is_served = store.live_service().await?.is_some();
    let report = DagsReport { is_served, dags, import_errors };
    session.printer.answer(&report, || report.render(session.printer))?;
    Ok(if report.import_errors.is_empty() { Exit::Done } else { Exit::No })
}

impl DagLine {
    fn new(state: &DagState) -> Self {
        Self {
            dag_id: state.dag_id.to_string(),
            file: state.file.clone(),
            is_paused: state.is_paused,
            is_retired: state.retired_at.is_some(),
            next_tick: state.next_tick.filter(|_| !state.is_paused).map(|tick| tick.to_rfc3339()),
        }
    }

    fn state(&self) -> &'static str {
        match self {
            Self { file: None, .. } => "run by hand only",
            Self { is_retired: true, .. } => "retired",
            Self { is_paused: true, .. } => "paused",
            _ => "active",
        }
    }
}

impl BrokenFile {
    fn new(error: ImportError) -> Self {
        Self { file: error.file, message: error.message, findings: error.findings }
    }
}

impl DagsReport {
    fn render(&self, printer: Printer) -> String {
        if self.dags.is_empty() && self.import_errors.is_empty() {
            return "no DAGs yet; `pinsched serve` registers those of ./dags\n".to_owned();
        }
        let mut table = printer.table(&["DAG", "STATE", "NEXT TICK", "FILE"]);
        for dag in &self.dags {
            let next = dag.next_tick.as_deref().unwrap_or_default();
            table.row(vec![
                Field::text(&dag.dag_id),
                Field::text(dag.state()),
                Field::text(words::instant(next)),
                Field::text(dag.file.as_deref().unwrap_or_default()),
            ]);
        }
        let mut text = table.render();
        if !self.is_served && self.dags.iter().any(|dag| dag.file.is_some() && !dag.is_retired) {
            text.push_str(
                "\nno service is alive that runs tasks: nothing runs on schedule before `pinsched serve` does\n",
            );
        }
        for broken in &self.import_errors {
            let good = self.dags.iter().any(|dag| dag.file.as_ref() == Some(&broken.file) && !dag.is_retired);
            let goes_on = if good { "the last good version of its DAGs goes on" } else { "nothing of it runs" };
            text.push_str(&format!("\n{} is broken; {goes_on}:\n", broken.file));
            text.push_str(&format!("{}\n", broken.message));
        }
        text
    }
}
