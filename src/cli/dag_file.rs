//! Reads a DAG file for a command that needs a DAG: from disk, or as a run kept it.

use std::path::Path;

use anyhow::Context;

use crate::cli::output::Printer;
use crate::domain::dag::Dag;
use crate::domain::ids::DagId;
use crate::engine::versions;
use crate::operators;
use crate::service::dag_files::load;
use crate::store::{Run, RunSource, Store};

/// A file that was read and checked, and has no errors.
pub(crate) struct DagFile {
    /// Its name as it was given.
    name: String,
    /// Its text.
    pub(crate) source: String,
    /// Its DAGs.
    pub(crate) dags: Vec<Dag>,
}

/// Reads `path`. Its warnings and errors are said on stderr; `None` when there are errors.
pub(crate) fn read(path: &Path, printer: Printer) -> anyhow::Result<Option<DagFile>> {
    anyhow::ensure!(!path.is_dir(), "`{}` is a folder: name one DAG file of it", path.display());
    let loaded = load(path, &operators::catalog());
    if let Some(unreadable) = loaded.unreadable() {
        anyhow::bail!("{}", unreadable.message);
    }
    if !loaded.checked.diagnostics.is_empty() {
        printer.say(&loaded.render(printer.talk_colours()));
    }
    if loaded.checked.has_errors() {
        return Ok(None);
    }
    let name = path.display().to_string();
    Ok(Some(DagFile { name, source: loaded.source.text().to_owned(), dags: loaded.checked.dags }))
}

impl DagFile {
    /// The DAG `id`, or the only one when none is named.
    pub(crate) fn into_dag(self, id: Option<&DagId>) -> anyhow::Result<Dag> {
        let Self { name, dags, .. } = self;
        let ids: Vec<String> = dags.iter().map(|dag| format!("`{}`", dag.id())).collect();
        let mut dags = dags.into_iter();
        match id {
            Some(id) => dags
                .find(|dag| dag.id() == id)
                .with_context(|| format!("`{name}` has no DAG `{id}`; it has {}", ids.join(", "))),
            None if ids.len() == 1 => dags.next().with_context(|| format!("`{name}` has no DAG")),
            None => anyhow::bail!("`{name}` has {} DAGs ({}): say which one by --dag ID", ids.len(), ids.join(", ")),
        }
    }
}

/// The DAG of a run, from the text that the run kept.
pub(crate) fn reread(name: &str, source: String, id: &DagId) -> anyhow::Result<Dag> {
    let source = RunSource { file: name.to_owned(), source };
    Ok(versions::reread(source, id, &operators::catalog())?)
}

/// The DAG of a run, as it was when the run began.
pub(crate) async fn of_run(store: &Store, run: &Run) -> anyhow::Result<Dag> {
    let source = store.run_source(run.key).await?;
    reread(&source.file, source.source, &run.dag_id)
}
