//! Callbacks and deadlines: that their templates can be rendered, and that they go together.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::domain::callbacks::{Callback, Callbacks};
use crate::domain::check::settings::value;
use crate::domain::check::templates::{FUNCTIONS, NAMES, not_written_out, references, unknown_name};
use crate::domain::diagnostic::{Code, Diagnostic};
use crate::domain::source::Span;
use crate::domain::spec::{CallbackList, DagKeys, DagSpec, Problems, Spanned, TaskKeys};
use crate::domain::template::is_template;
use crate::domain::template::names::Reference;
use crate::domain::yaml::{Node, NodeKind};

/// What templates of callbacks see besides.
const OWN_NAMES: [&str; 4] = ["event", "state", "error", "try_number"];

/// What callbacks of tasks do not see, and what those of DAGs do not see either.
const WITHOUT: [&str; 1] = ["outputs"];
const WITHOUT_TASK: [&str; 5] = ["outputs", "task", "ti", "task_instance", "try_number"];

type Typed = Option<Spanned<CallbackList>>;

fn list(typed: &Typed) -> Vec<Callback> {
    value(typed).map(CallbackList::assembled).unwrap_or_default()
}

/// Those of a DAG's runs.
pub(super) fn of_dag(keys: &DagKeys) -> Callbacks {
    Callbacks {
        on_failure: list(&keys.on_failure),
        on_success: list(&keys.on_success),
        on_retry: Vec::new(),
        on_deadline: list(&keys.on_deadline),
    }
}

/// Those of a task.
pub(super) fn of_task(keys: &TaskKeys) -> Callbacks {
    Callbacks {
        on_failure: list(&keys.on_failure),
        on_success: list(&keys.on_success),
        on_retry: list(&keys.on_retry),
        on_deadline: list(&keys.on_deadline),
    }
}

/// Checks all callbacks of a DAG. What `default_args` give to many tasks is wrong once: equal reports are one.
pub(super) fn check(spec: &DagSpec, problems: &mut Problems<'_>) {
    let keys = &spec.keys;
    for typed in [&keys.on_failure, &keys.on_success, &keys.on_deadline].into_iter().flatten() {
        check_templates(spec, typed, &WITHOUT_TASK, problems);
    }
    let key = |told: &Typed| told.as_ref().map(|typed| typed.key);
    go_together(&[(keys.deadline.as_ref().map(|typed| typed.key), key(&keys.on_deadline))], problems);
    for task in &spec.tasks {
        let keys = &task.keys;
        for typed in [&keys.on_failure, &keys.on_success, &keys.on_retry, &keys.on_deadline].into_iter().flatten() {
            check_templates(spec, typed, &WITHOUT, problems);
        }
    }
    let of_tasks = spec.tasks.iter().map(|task| &task.keys);
    let of_tasks = of_tasks.map(|keys| (keys.deadline.as_ref().map(|typed| typed.key), key(&keys.on_deadline)));
    go_together(&of_tasks.collect::<Vec<_>>(), problems);
}

/// Warns of deadlines that nobody is told of, and of callbacks for which there is none. What `default_args` say is for
/// those tasks that have the other.
fn go_together(pairs: &[(Option<Span>, Option<Span>)], problems: &mut Problems<'_>) {
    let deadlines: BTreeSet<Span> = pairs.iter().filter_map(|(deadline, _)| *deadline).collect();
    let callbacks: BTreeSet<Span> = pairs.iter().filter_map(|(_, told)| *told).collect();
    for span in deadlines.iter().filter(|span| !pairs.iter().any(|pair| pair.0 == Some(**span) && pair.1.is_some())) {
        problems.add(
            Diagnostic::warning(Code::IgnoredKey, *span, "nobody is told when this deadline is missed")
                .help("say whom to tell by `on_deadline`"),
        );
    }
    for span in callbacks.iter().filter(|span| !pairs.iter().any(|pair| pair.1 == Some(**span) && pair.0.is_some())) {
        problems.add(
            Diagnostic::warning(Code::IgnoredKey, *span, "without a `deadline` none is ever missed")
                .help("say by when it is to end: `deadline: 30m`"),
        );
    }
}

/// Reports a deadline of no time at all.
pub(super) fn not_at_once(deadline: Option<(Duration, Span)>, problems: &mut Problems<'_>) {
    if let Some((Duration::ZERO, span)) = deadline {
        let message = "`deadline` is no time at all: it would be missed at once";
        problems.add(Diagnostic::error(Code::OutOfRange, span, message).help("leave it out for none"));
    }
}

fn check_templates(spec: &DagSpec, typed: &Spanned<CallbackList>, without: &[&str], problems: &mut Problems<'_>) {
    for callback in &typed.value.0 {
        check_node(spec, &callback.config, without, problems);
    }
}

fn check_node(spec: &DagSpec, node: &Node, without: &[&str], problems: &mut Problems<'_>) {
    match &node.kind {
        NodeKind::Text(text) if is_template(text) => check_text(spec, node, text, without, problems),
        NodeKind::List(items) => items.iter().for_each(|item| check_node(spec, item, without, problems)),
        NodeKind::Mapping(entries) => {
            entries.iter().for_each(|entry| check_node(spec, &entry.value, without, problems));
        }
        NodeKind::Null | NodeKind::Bool(_) | NodeKind::Number(_) | NodeKind::Text(_) => {}
    }
}

fn check_text(spec: &DagSpec, node: &Node, text: &str, without: &[&str], problems: &mut Problems<'_>) {
    let Some(references) = references(node, text, problems) else { return };
    for reference in references {
        let span = problems.span_within(node, reference.range.clone());
        if let Some(problem) = check_name(spec, &reference, span, without) {
            problems.add(problem);
        }
    }
}

fn check_name(spec: &DagSpec, reference: &Reference, span: Span, without: &[&str]) -> Option<Diagnostic> {
    let path: Vec<&str> = reference.path.iter().map(String::as_str).collect();
    let params = spec.keys.params.as_ref().map(|typed| &typed.value.defaults);
    match path.as_slice() {
        [name, ..] if without.contains(name) => {
            let message = format!("this callback has no `{name}`");
            Some(Diagnostic::error(Code::UnknownTemplateName, span, message).help(match *name {
                "outputs" => "what tasks left is not there for callbacks",
                _ => "it is told of a run as a whole; `on_…` of a task, or of `default_args`, is told of tasks",
            }))
        }
        [name, ..] if OWN_NAMES.contains(name) || FUNCTIONS.contains(name) => None,
        ["params", name, ..] if !reference.is_guarded && !reference.is_called => {
            let names = || params.into_iter().flat_map(|params| params.keys()).map(String::as_str);
            let is_there = names().any(|known| known == *name);
            (!is_there).then(|| {
                let message = format!("the DAG has no param `{name}`");
                Diagnostic::error(Code::UnknownParam, span, message).did_you_mean(name, names(), || None)
            })
        }
        ["var"] | ["var", "value" | "json"] => Some(not_written_out("variable", span)),
        ["conn"] => Some(not_written_out("connection", span)),
        [name, rest @ ..] => match NAMES.iter().find(|(known, _)| known == name && *known != "map_item") {
            None if reference.is_guarded => None,
            None => Some(unknown_name(name, span, &OWN_NAMES)),
            Some((_, Some(attributes))) => {
                let first = rest.first().filter(|first| !attributes.contains(first) && !reference.is_guarded)?;
                let message = format!("`{name}` has no `{first}`");
                Some(Diagnostic::error(Code::UnknownTemplateName, span, message).did_you_mean(
                    first,
                    attributes.iter().copied(),
                    || None,
                ))
            }
            Some((_, None)) => None,
        },
        [] => None,
    }
}
