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
    let report = DagsReport { dags, import_errors };
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
        for broken in &self.import_errors {
            text.push_str(&format!("\n{} is broken; the last good version of its DAGs goes on:\n", broken.file));
            text.push_str(&format!("{}\n", broken.message));
        }
        text
    }
}
