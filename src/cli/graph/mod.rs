//! `pinsched graph FILE`: a DAG as text, Mermaid, Graphviz or SVG.

mod svg;
mod text;

use std::fmt::Write as _;

use crate::cli::arguments::{GraphArguments, GraphFormat};
use crate::cli::dag_files::load;
use crate::cli::exit::Exit;
use crate::domain::dag::{Dag, Task};
use crate::domain::ids::DagId;
use crate::domain::operator_kind::OperatorKind;
use crate::domain::trigger_rule::TriggerRule;

use svg::svg;
use text::text;

/// Why there is no drawing.
#[derive(Debug, thiserror::Error)]
pub(crate) enum GraphError {
    /// The file has errors; the text is its diagnostics.
    #[error("{0}")]
    Invalid(String),
    /// The file could not be read.
    #[error("{0}")]
    Unreadable(String),
    /// The file has several DAGs, and the format takes one.
    #[error("`{file}` has {count} DAGs ({ids}): say which one with `--dag`")]
    Several {
        /// The file.
        file: String,
        /// How many DAGs it has.
        count: usize,
        /// Their ids.
        ids: String,
    },
    /// No such DAG in the file.
    #[error("`{file}` has no DAG `{dag}`; it has {ids}")]
    NoSuchDag {
        /// The file.
        file: String,
        /// What was asked for.
        dag: DagId,
        /// Those that it has.
        ids: String,
    },
}

impl GraphError {
    /// A DAG that is not there or not valid is a no; anything else could not be tried.
    pub(crate) fn exit(&self) -> Exit {
        match self {
            Self::Invalid(_) | Self::NoSuchDag { .. } => Exit::No,
            Self::Unreadable(_) | Self::Several { .. } => Exit::NotTried,
        }
    }
}

/// Draws the DAG of a file; as text all of its DAGs, unless one is named.
/// `coloured` is for a wrong file's diagnostics.
pub(crate) fn graph(
    arguments: &GraphArguments,
    catalog: &[&'static OperatorKind],
    coloured: bool,
) -> Result<String, GraphError> {
    let (wanted, format) = (arguments.dag.as_ref(), arguments.format);
    let file = arguments.file.display().to_string();
    let loaded = load(&arguments.file, catalog);
    if let Some(unreadable) = loaded.unreadable() {
        return Err(GraphError::Unreadable(unreadable.message.clone()));
    }
    if loaded.checked.has_errors() {
        return Err(GraphError::Invalid(loaded.render(coloured)));
    }
    let mut dags = loaded.checked.dags;
    let ids = || dags.iter().map(|dag| format!("`{}`", dag.id())).collect::<Vec<_>>().join(", ");
    if let Some(wanted) = wanted {
        let ids = ids();
        dags.retain(|dag| dag.id() == wanted);
        if dags.is_empty() {
            return Err(GraphError::NoSuchDag { file, dag: wanted.clone(), ids });
        }
    } else if format != GraphFormat::Text && dags.len() > 1 {
        return Err(GraphError::Several { file, count: dags.len(), ids: ids() });
    }
    let drawn: Vec<String> = dags
        .iter()
        .map(|dag| match format {
            GraphFormat::Text => text(dag),
            GraphFormat::Mermaid => mermaid(dag),
            GraphFormat::Dot => dot(dag),
            GraphFormat::Svg => svg(dag),
        })
        .collect();
    Ok(drawn.join("\n"))
}

/// What stands under a task's id: its operator, and its trigger rule when it is not the usual one.
fn subtitle(task: &Task) -> String {
    match rule(task) {
        Some(rule) => format!("{} · {rule}", task.operator),
        None => task.operator.to_owned(),
    }
}

/// A trigger rule that is not the usual one, by its name in a DAG file.
fn rule(task: &Task) -> Option<String> {
    let name = serde_json::to_value(task.trigger_rule).ok()?.as_str()?.to_owned();
    (task.trigger_rule != TriggerRule::AllSuccess).then_some(name)
}

/// A Mermaid flowchart.
pub(crate) fn mermaid(dag: &Dag) -> String {
    let mut drawn = format!("---\ntitle: {}\n---\nflowchart LR\n", dag.id());
    // Ids may have characters and words that Mermaid does not take: tasks are numbered, and their ids are labels.
    for task in dag.tasks() {
        let _ = writeln!(drawn, "    t{}[\"{}<br/><small>{}</small>\"]", task.index.0, task.id, subtitle(task));
    }
    for (from, to) in dag.edges() {
        let _ = writeln!(drawn, "    t{} --> t{}", from.0, to.0);
    }
    drawn
}

/// A digraph in Graphviz' language.
pub(crate) fn dot(dag: &Dag) -> String {
    let mut drawn = format!("digraph \"{}\" {{\n    rankdir=LR;\n    node [shape=box, style=rounded];\n", dag.id());
    for task in dag.tasks() {
        let _ = writeln!(drawn, "    \"{0}\" [label=\"{0}\\n{1}\"];", task.id, subtitle(task));
    }
    let name = |index| dag.task(index).map_or("", |task| task.id.as_str());
    for (from, to) in dag.edges() {
        let _ = writeln!(drawn, "    \"{}\" -> \"{}\";", name(from), name(to));
    }
    drawn.push_str("}\n");
    drawn
}
