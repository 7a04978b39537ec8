//! Setups and teardowns: a teardown waits for its setups, and its trigger rule is its own.

use std::collections::BTreeSet;

use crate::domain::check::groups::{Item, Waits};
use crate::domain::check::tasks::CheckedTasks;
use crate::domain::diagnostic::{Code, Diagnostic};
use crate::domain::spec::{Problems, TaskSpec};
use crate::domain::trigger_rule::TriggerRule;

/// The tasks that are setups: those that say so, and those that a teardown names.
pub(super) fn setups(tasks: &[TaskSpec], named: &[Waits]) -> BTreeSet<usize> {
    let said = tasks.iter().enumerate().filter(|(_, task)| task.keys.setup.as_ref().is_some_and(|typed| typed.value));
    let named = named.iter().flatten().filter_map(|(item, _)| match item {
        Item::Task(at) => Some(*at),
        Item::Group(_) => None,
    });
    said.map(|(at, _)| at).chain(named).collect()
}

/// Whether the task is a teardown.
pub(super) fn is_teardown(task: &TaskSpec) -> bool {
    task.keys.teardown.as_ref().is_some_and(|typed| typed.value)
}

/// Reports what does not go together.
pub(super) fn check(tasks: &CheckedTasks<'_>, problems: &mut Problems<'_>) {
    for (position, task) in tasks.checked.iter().enumerate() {
        let (spec, keys) = (task.spec, &task.spec.keys);
        let name = &spec.id.text;
        if !is_teardown(spec) {
            let of_teardowns = [
                ("setups", keys.setups.as_ref().map(|typed| typed.key)),
                ("on_failure_fail_dagrun", keys.on_failure_fail_dagrun.as_ref().filter(|on| on.value).map(|on| on.key)),
            ];
            for (key, span) in of_teardowns {
                let Some(span) = span else { continue };
                let message = format!("`{key}` is a key of teardowns, and `{name}` is none");
                problems.add(Diagnostic::error(Code::BadRole, span, message).help("add `teardown: true`"));
            }
        } else if tasks.setups.contains(&position) {
            let span = keys.teardown.as_ref().map_or(spec.id.span, |typed| typed.key);
            let message = format!("`{name}` is a setup and a teardown");
            problems.add(Diagnostic::error(Code::BadRole, span, message).help("make two tasks of it"));
        }
        if let Some(rule) = keys.trigger_rule.as_ref().filter(|rule| rule.value != TriggerRule::AllDoneSetupSuccess)
            && is_teardown(spec)
        {
            let message = format!("the teardown `{name}` cannot have the trigger rule `{}`", rule.value.as_str());
            problems.add(
                Diagnostic::error(Code::BadRole, rule.span, message)
                    .help("teardowns run when all before them have ended and a setup of theirs has succeeded"),
            );
        }
        let setup = task.upstream.iter().find(|(upstream, _)| tasks.setups.contains(upstream));
        if let (Some((setup, _)), Some(rule)) = (setup, &keys.trigger_rule)
            && !is_teardown(spec)
            && rule.value != TriggerRule::AllSuccess
        {
            let setup = &tasks.checked[*setup].spec.id.text;
            let message = format!(
                "`{name}` uses what `{setup}` sets up, and cannot have the trigger rule `{}`",
                rule.value.as_str()
            );
            problems.add(
                Diagnostic::error(Code::BadRole, rule.span, message)
                    .help("as in Airflow, what waits for a setup has the rule `all_success`, or is a teardown"),
            );
        }
    }
}
