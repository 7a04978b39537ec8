//! What branches follow, where it is written without a template: it has to be right after them.

use std::collections::HashMap;

use serde_json::Value;

use crate::domain::check::tasks::{CheckedTask, CheckedTasks};
use crate::domain::diagnostic::{Code, Diagnostic, listed};
use crate::domain::operator_kind::NAMES_DOWNSTREAM;
use crate::domain::spec::Problems;
use crate::domain::template::is_template;
use crate::domain::yaml::{Node, NodeKind};

pub(super) fn check(tasks: &CheckedTasks<'_>, problems: &mut Problems<'_>) {
    let named: Vec<(usize, &Node)> =
        tasks.checked.iter().enumerate().flat_map(|(at, task)| named_by(task).map(move |node| (at, node))).collect();
    if named.is_empty() {
        return;
    }
    let mut after: HashMap<usize, Vec<usize>> = HashMap::new();
    for (position, task) in tasks.checked.iter().enumerate() {
        for (upstream, _) in &task.upstream {
            after.entry(*upstream).or_default().push(position);
        }
    }
    for (branch, node) in named {
        let Some(name) = node.as_text().map(str::trim) else { continue };
        let next = after.get(&branch).map_or(&[][..], Vec::as_slice);
        if tasks.named_in(name, next).is_empty() {
            problems.add(not_after(tasks, branch, next, node, name));
        }
    }
}

/// The texts by which a task names what it follows.
fn named_by<'t>(task: &'t CheckedTask<'_>) -> impl Iterator<Item = &'t Node> {
    let properties = task.operator.as_ref().and_then(|operator| operator.schema.get("properties"));
    let is_marked = move |key: &str| {
        properties.and_then(|properties| properties.get(key)?.get(NAMES_DOWNSTREAM)) == Some(&Value::Bool(true))
    };
    let entries = task.config.as_mapping().into_iter().flatten().filter(move |entry| is_marked(&entry.key.text));
    let nodes = entries.flat_map(|entry| match &entry.value.kind {
        NodeKind::List(items) => items.as_slice(),
        NodeKind::Null | NodeKind::Bool(_) | NodeKind::Number(_) | NodeKind::Text(_) | NodeKind::Mapping(_) => {
            std::slice::from_ref(&entry.value)
        }
    });
    nodes.filter(|node| node.as_text().is_some_and(|text| !is_template(text)))
}

fn not_after(tasks: &CheckedTasks<'_>, branch: usize, next: &[usize], node: &Node, name: &str) -> Diagnostic {
    let id = |position: usize| tasks.checked[position].spec.id.text.as_str();
    let message = format!("`{}` cannot follow `{name}`, which is not right after it", id(branch));
    let problem = Diagnostic::error(Code::NotDownstream, node.span, message);
    if tasks.position(name).is_some() {
        return problem.help(format!("add `{}` to the `dependencies` of `{name}`", id(branch)));
    }
    let names = || next.iter().map(|position| id(*position));
    problem.did_you_mean(name, names(), || {
        Some(match next {
            [] => "no task waits for it".to_owned(),
            _ => format!("right after it are {}", listed(names())),
        })
    })
}
