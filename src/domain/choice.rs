//! What a branch may follow: the tasks right after it, by their ids or by the id of a task group that they belong to; and
//! what one that is over still keeps from running.

use serde_json::{Map, Value};

use crate::domain::dag::Dag;
use crate::domain::diagnostic::{closest, listed};
use crate::domain::ids::TaskIndex;
use crate::domain::plan::{Skips, skipped_by};

/// A choice of something that is not right after the branch.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("it cannot follow `{name}`, which is not right after it: {}", choices(.name, .known))]
pub struct NoSuchChoice {
    /// What was chosen.
    pub name: String,
    /// What could be.
    pub known: Vec<String>,
}

fn choices(name: &str, known: &[String]) -> String {
    let names = || known.iter().map(String::as_str);
    match closest(name, names()) {
        _ if known.is_empty() => "nothing is".to_owned(),
        Some(close) => format!("did you mean `{close}`? (there are {})", listed(names())),
        None => format!("there are {}", listed(names())),
    }
}

/// The tasks that are chosen by `names`: each names a task right after `me`, or a group that has such tasks.
///
/// # Errors
/// [`NoSuchChoice`] for the first name that is neither.
pub fn chosen(dag: &Dag, me: TaskIndex, names: &[String]) -> Result<Vec<TaskIndex>, NoSuchChoice> {
    let next = dag.downstream(me);
    let mut chosen = Vec::new();
    for name in names {
        let is_named = |index: &TaskIndex| dag.task(*index).is_some_and(|task| task.id.as_str() == name);
        let mut named: Vec<TaskIndex> = next.iter().copied().filter(is_named).collect();
        if named.is_empty() {
            let mut members = members(dag, name);
            members.retain(|index| next.contains(index));
            named = members;
        }
        if named.is_empty() {
            return Err(NoSuchChoice { name: name.clone(), known: known(dag, &next) });
        }
        chosen.extend(named);
    }
    Ok(chosen)
}

/// The tasks that decide what runs after them.
#[must_use]
pub fn choosers(dag: &Dag) -> Vec<TaskIndex> {
    dag.tasks().iter().filter(|task| chooses(task.operator)).map(|task| task.index).collect()
}

/// Whether tasks of that operator decide what runs after them.
#[must_use]
pub fn chooses(operator: &str) -> bool {
    matches!(operator, "branch" | "branch_python" | "short_circuit" | "short_circuit_python")
}

/// The tasks right after one that decided, by its output, that they do not run. As in Airflow those only: what comes later
/// goes by its trigger rules.
#[must_use]
pub fn skipped_after(dag: &Dag, chooser: TaskIndex, output: &Map<String, Value>) -> Vec<TaskIndex> {
    let decided = output.get("return_value").unwrap_or(&Value::Null);
    let skips = match dag.task(chooser).map(|task| task.operator) {
        Some("branch" | "branch_python") => {
            let names: Vec<String> = match decided {
                Value::Array(names) => names.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
                Value::String(name) => vec![name.clone()],
                Value::Null => Vec::new(),
                _ => return Vec::new(),
            };
            match chosen(dag, chooser, &names) {
                Ok(chosen) => Skips::AllBut(chosen),
                Err(_) => return Vec::new(),
            }
        }
        Some("short_circuit" | "short_circuit_python") if !is_true(decided) => Skips::Next,
        _ => return Vec::new(),
    };
    skipped_by(dag, chooser, &skips)
}

/// Python's own truth, which is Airflow's of what a task returned.
#[must_use]
pub fn is_true(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(value) => *value,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(fields) => !fields.is_empty(),
    }
}

/// The tasks of the group of that id or name; or the task in a group that is called so there.
fn members(dag: &Dag, name: &str) -> Vec<TaskIndex> {
    let groups = dag.groups();
    let group = groups
        .iter()
        .position(|group| group.id == name)
        .or_else(|| groups.iter().position(|group| group.label == name));
    if let Some(group) = group {
        return dag.tasks_of_group(group);
    }
    let in_groups = groups.iter().flat_map(|group| &group.tasks);
    let is_called = |index: &&TaskIndex| {
        dag.task(**index).is_some_and(|task| task.id.as_str().rsplit_once('.').is_some_and(|(_, label)| label == name))
    };
    let called: Vec<TaskIndex> = in_groups.filter(is_called).copied().collect();
    if called.len() == 1 { called } else { Vec::new() }
}

/// The names that a branch before `next` may follow.
fn known(dag: &Dag, next: &[TaskIndex]) -> Vec<String> {
    next.iter().filter_map(|index| dag.task(*index)).map(|task| task.id.to_string()).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn truth_is_pythons() {
        assert!(is_true(&json!("False")) && is_true(&json!([0])) && is_true(&json!(-1)));
        assert!(!is_true(&json!("")) && !is_true(&json!({})) && !is_true(&json!(0.0)) && !is_true(&Value::Null));
    }
}
