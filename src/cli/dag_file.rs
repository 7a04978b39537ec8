//! Reads a DAG file for a command that needs a DAG: from disk, or as a run kept it.

use std::path::Path;

use anyhow::Context;

use crate::cli::dag_files::{LoadedFile, load};
use crate::cli::output::Printer;
use crate::domain::check::{self, Checked};
use crate::domain::dag::Dag;
use crate::domain::ids::DagId;
use crate::domain::source::SourceFile;
use crate::operators;

/// A file that was read and checked.
pub(crate) struct DagFile {
    /// Its text.
    pub(crate) source: String,
    /// The chosen DAG.
    pub(crate) dag: Dag,
}

/// Why there is no DAG.
pub(crate) enum Refused {
    /// The file's diagnostics were said on stderr.
    Invalid,
    /// Something else.
    Error(anyhow::Error),
}

/// Reads `path` and picks the DAG `id`, or the only one. Warnings and errors of the file are said on stderr.
pub(crate) fn read(path: &Path, id: Option<&DagId>, printer: Printer) -> Result<DagFile, Refused> {
    let loaded = load(path, &operators::catalog());
    if let Some(unreadable) = loaded.unreadable() {
        return Err(Refused::Error(anyhow::anyhow!("{}", unreadable.message)));
    }
    if !loaded.checked.diagnostics.is_empty() {
        printer.say(&loaded.render(printer.talk_colours()));
    }
    if loaded.checked.has_errors() {
        return Err(Refused::Invalid);
    }
    let LoadedFile { source: file, checked, .. } = loaded;
    let name = path.to_string_lossy();
    let dag = pick(checked, id, &name).map_err(Refused::Error)?;
    Ok(DagFile { source: file.text().to_owned(), dag })
}

/// The DAG of a run, from the text that the run kept.
pub(crate) fn reread(name: &str, source: String, id: &DagId) -> anyhow::Result<Dag> {
    let checked = check::check(&SourceFile::new(name, source), &operators::catalog());
    if checked.has_errors() {
        anyhow::bail!(
            "the run's DAG file, as it was then, is not valid for this version of pinsched: {}",
            checked.diagnostics.iter().map(|diagnostic| diagnostic.message.as_str()).collect::<Vec<_>>().join("; ")
        );
    }
    pick(checked, Some(id), name)
}

fn pick(checked: Checked, id: Option<&DagId>, name: &str) -> anyhow::Result<Dag> {
    let ids: Vec<String> = checked.dags.iter().map(|dag| format!("`{}`", dag.id())).collect();
    let mut dags = checked.dags.into_iter();
    match id {
        Some(id) => dags
            .find(|dag| dag.id() == id)
            .with_context(|| format!("{name} has no DAG `{id}`; it has {}", ids.join(", "))),
        None if ids.len() == 1 => dags.next().with_context(|| format!("{name} has no DAG")),
        None => anyhow::bail!("{name} has {} DAGs ({}): say which by --dag ID", ids.len(), ids.join(", ")),
    }
}
