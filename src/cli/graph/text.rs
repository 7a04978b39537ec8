//! A DAG for the terminal: its tasks by levels, each with what it waits for.

use std::fmt::Write as _;

use crate::cli::graph::marks;
use crate::domain::dag::{Dag, Schedule};
use crate::domain::duration::format_duration;
use crate::domain::layout::Layout;

/// A table of the tasks: those of a level wait only for levels above it.
pub(crate) fn text(dag: &Dag) -> String {
    let layout = Layout::of(dag);
    let settings = &dag.settings;
    let mut drawn = format!("{}  {}\n", dag.id(), schedule(&settings.schedule, settings.timezone.name()));
    if let Some(description) = &settings.description {
        let _ = writeln!(drawn, "{description}");
    }
    drawn.push('\n');
    let width = |measure: fn(&crate::domain::dag::Task) -> usize| dag.tasks().iter().map(measure).max().unwrap_or(0);
    let id_width = width(|task| task.id.as_str().chars().count());
    let operator_width = width(|task| task.operator.chars().count());
    let level_width = layout.layers.len().to_string().len();
    for (level, tasks) in layout.layers.iter().enumerate() {
        for (position, index) in tasks.iter().enumerate() {
            let Some(task) = dag.task(*index) else { continue };
            let (number, mark) = match (position, tasks.len()) {
                (0, 1) => ((level + 1).to_string(), "─"),
                (0, _) => ((level + 1).to_string(), "┬"),
                (last, count) if last + 1 == count => (String::new(), "└"),
                _ => (String::new(), "├"),
            };
            let upstream: Vec<&str> =
                dag.upstream(*index).iter().filter_map(|up| dag.task(*up)).map(|up| up.id.as_str()).collect();
            let mut line = format!(
                "{number:>level_width$} {mark} {:id_width$}  {:operator_width$}",
                task.id.as_str(),
                task.operator
            );
            if !upstream.is_empty() {
                let _ = write!(line, "  ← {}", upstream.join(", "));
            }
            let marks: Vec<&str> = marks(task).collect();
            if !marks.is_empty() {
                let _ = write!(line, "  ({})", marks.join(", "));
            }
            drawn.push_str(line.trim_end());
            drawn.push('\n');
        }
    }
    if !dag.groups().is_empty() {
        drawn.push_str("\ntask groups\n");
        groups(dag, None, 1, &mut drawn);
    }
    drawn
}

/// The task groups with what is in them, each level further in.
fn groups(dag: &Dag, parent: Option<usize>, depth: usize, drawn: &mut String) {
    for (position, group) in dag.groups().iter().enumerate().filter(|(_, group)| group.parent == parent) {
        let indent = "  ".repeat(depth);
        let tooltip = group.tooltip.as_ref().map(|tooltip| format!("  {tooltip}")).unwrap_or_default();
        let _ = writeln!(drawn, "{indent}{}{tooltip}", group.label);
        for task in group.tasks.iter().filter_map(|index| dag.task(*index)) {
            let _ = writeln!(drawn, "{indent}  {}", task.id);
        }
        groups(dag, Some(position), depth + 1, drawn);
    }
}

fn schedule(schedule: &Schedule, zone: &str) -> String {
    match schedule {
        Schedule::None => "when triggered".to_owned(),
        Schedule::Once => "once".to_owned(),
        Schedule::Continuous => "continuously".to_owned(),
        Schedule::Times(times) => {
            let times: Vec<String> = times.iter().map(ToString::to_string).collect();
            format!("{} ({zone})", times.join(" | "))
        }
        Schedule::Every(every) => format!("every {}", format_duration(*every)),
    }
}
