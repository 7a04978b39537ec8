//! `pinsched graph FILE`: a DAG as text, Mermaid, Graphviz or SVG; for programs as JSON.

mod json;
mod svg;
mod text;

use std::fmt::Write as _;

use crate::cli::arguments::{GraphArguments, GraphFormat};
use crate::cli::dag_file;
use crate::cli::exit::Exit;
use crate::cli::output::Printer;
use crate::domain::dag::{Dag, Task};
use crate::domain::trigger_rule::TriggerRule;

use json::Graphs;
use svg::svg;
use text::text;

/// Draws the DAG of a file; as text and as JSON all of its DAGs, unless one is named.
pub(crate) fn graph(arguments: &GraphArguments, printer: Printer) -> anyhow::Result<Exit> {
    let format = match arguments.format {
        Some(_) if printer.is_json() => {
            anyhow::bail!("--format is how a drawing looks, and `--output json` asks for none: give one of them")
        }
        format => format.unwrap_or(GraphFormat::Text),
    };
    let Some(file) = dag_file::read(&arguments.file, printer)? else { return Ok(Exit::No) };
    let dags = match (format, &arguments.dag) {
        (GraphFormat::Text, None) => file.dags,
        (_, id) => vec![file.into_dag(id.as_ref())?],
    };
    let draw = |dag: &Dag| match format {
        GraphFormat::Text => text(dag),
        GraphFormat::Mermaid => mermaid(dag),
        GraphFormat::Dot => dot(dag),
        GraphFormat::Svg => svg(dag),
    };
    printer.answer(&Graphs::of(&dags), || dags.iter().map(draw).collect::<Vec<_>>().join("\n"))?;
    Ok(Exit::Done)
}

/// What stands under a task's id: its operator, and its trigger rule when it is not the usual one.
fn subtitle(task: &Task) -> String {
    match rule(task) {
        Some(rule) => format!("{} · {rule}", task.operator),
        None => task.operator.to_owned(),
    }
}

/// A trigger rule that is not the usual one, by its name in a DAG file.
fn rule(task: &Task) -> Option<&'static str> {
    (task.trigger_rule != TriggerRule::AllSuccess).then(|| task.trigger_rule.as_str())
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
