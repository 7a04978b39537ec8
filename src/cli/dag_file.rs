//! Reads a DAG file for a command that needs a DAG: from disk, or as a run kept it.

use std::path::Path;

use anyhow::Context;

use crate::cli::output::Printer;
use crate::domain::dag::Dag;
use crate::domain::diagnostic::closest;
use crate::domain::ids::{DagId, TaskId, TaskIndex};
use crate::domain::mapping::TaskName;
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

/// The task run of that name, of a task or of an instance of a mapped one; an error that says what there is.
pub(crate) async fn find_named(store: &Store, run: &Run, dag: &Dag, name: &TaskName) -> anyhow::Result<TaskIndex> {
    let task = find_task(dag, &name.task)?;
    let Some(map_index) = name.map_index else { return Ok(task) };
    anyhow::ensure!(
        dag.task(task).is_some_and(|task| task.mapping.is_some()),
        "task `{}` is not mapped: it has no instances",
        name.task
    );
    let found = store.instance(run.key, task, map_index).await?;
    found.with_context(|| {
        format!(
            "task `{}` of run `{}` has no instance [{map_index}] (yet): `pinsched show {} --task {}` lists them",
            name.task, run.run_id, run.run_id, name.task
        )
    })
}

/// The task of that id; an error that says which one may have been meant.
pub(crate) fn find_task(dag: &Dag, task: &TaskId) -> anyhow::Result<TaskIndex> {
    if let Some(found) = dag.task_named(task) {
        return Ok(found.index);
    }
    let names = dag.tasks().iter().map(|task| task.id.as_str());
    let near = closest(task.as_str(), names).map(|near| format!("; did you mean `{near}`?")).unwrap_or_default();
    anyhow::bail!("DAG `{}` has no task `{task}`{near}", dag.id())
}
