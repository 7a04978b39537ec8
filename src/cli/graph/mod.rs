//! `pinsched graph FILE`: a DAG as text, Mermaid, Graphviz or SVG; for programs as JSON.

mod json;
mod svg;
mod text;

use std::collections::BTreeSet;
use std::fmt::Write as _;

use crate::cli::arguments::{GraphArguments, GraphFormat};
use crate::cli::dag_file;
use crate::cli::exit::Exit;
use crate::cli::output::Printer;
use crate::domain::dag::{Dag, Task};
use crate::domain::ids::TaskIndex;
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

/// What stands under a task's id: its operator, and what else is to be known.
fn subtitle(task: &Task) -> String {
    std::iter::once(task.operator).chain(marks(task)).collect::<Vec<_>>().join(" · ")
}

/// What is to be known of a task beside its operator: that it is mapped, and its trigger rule when it is not the usual one.
fn marks(task: &Task) -> impl Iterator<Item = &'static str> {
    task.mapping.as_ref().map(|_| "mapped").into_iter().chain(rule(task))
}

/// A trigger rule that is not the usual one, by its name in a DAG file.
fn rule(task: &Task) -> Option<&'static str> {
    (task.trigger_rule != TriggerRule::AllSuccess).then(|| task.trigger_rule.as_str())
}

/// A Mermaid flowchart.
pub(crate) fn mermaid(dag: &Dag) -> String {
    let mut drawn = format!("---\ntitle: {}\n---\nflowchart LR\n", dag.id());
    // Ids may have characters and words that Mermaid does not take: tasks are numbered, and their ids are labels.
    let node = |task: &Task| format!("t{}[\"{}<br/><small>{}</small>\"]\n", task.index.0, task.id, subtitle(task));
    nested(dag, &mut drawn, &node, &|at, label| format!("subgraph g{at}[\"{label}\"]\n"), "end\n");
    for (from, to) in dag.edges() {
        let _ = writeln!(drawn, "    t{} --> t{}", from.0, to.0);
    }
    drawn
}

/// Writes the tasks that are in no group, then each group with what is in it.
fn nested(
    dag: &Dag,
    drawn: &mut String,
    node: &dyn Fn(&Task) -> String,
    open: &dyn Fn(usize, &str) -> String,
    close: &str,
) {
    let grouped: BTreeSet<TaskIndex> = dag.groups().iter().flat_map(|group| group.tasks.iter().copied()).collect();
    for task in dag.tasks().iter().filter(|task| !grouped.contains(&task.index)) {
        let _ = write!(drawn, "    {}", node(task));
    }
    // Opened and not closed yet; groups are few and their depth is bounded.
    let mut ahead: Vec<(usize, bool)> = children(dag, None).map(|group| (group, false)).collect();
    while let Some((group, is_open)) = ahead.pop() {
        let depth = std::iter::successors(Some(group), |at| dag.groups()[*at].parent).count();
        let indent = "    ".repeat(depth);
        if is_open {
            let _ = write!(drawn, "{indent}{close}");
            continue;
        }
        let _ = write!(drawn, "{indent}{}", open(group, &dag.groups()[group].label));
        for task in dag.groups()[group].tasks.iter().filter_map(|index| dag.task(*index)) {
            let _ = write!(drawn, "{indent}    {}", node(task));
        }
        ahead.push((group, true));
        ahead.extend(children(dag, Some(group)).map(|group| (group, false)));
    }
}

/// The groups that stand right in another, or at the top, the last one first.
fn children(dag: &Dag, parent: Option<usize>) -> impl Iterator<Item = usize> {
    dag.groups().iter().enumerate().rev().filter(move |(_, group)| group.parent == parent).map(|(at, _)| at)
}

/// A digraph in Graphviz' language.
pub(crate) fn dot(dag: &Dag) -> String {
    let mut drawn = format!("digraph \"{}\" {{\n    rankdir=LR;\n    node [shape=box, style=rounded];\n", dag.id());
    let node = |task: &Task| format!("\"{0}\" [label=\"{0}\\n{1}\"];\n", task.id, subtitle(task));
    let open = |at: usize, label: &str| format!("subgraph cluster_{at} {{ label=\"{label}\"; style=dashed;\n");
    nested(dag, &mut drawn, &node, &open, "}\n");
    let name = |index| dag.task(index).map_or("", |task| task.id.as_str());
    for (from, to) in dag.edges() {
        let _ = writeln!(drawn, "    \"{}\" -> \"{}\";", name(from), name(to));
    }
    drawn.push_str("}\n");
    drawn
}
