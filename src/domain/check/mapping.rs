//! Mapped tasks: which keys can be expanded, and over what.

use std::borrow::Cow;

use serde_json::{Value, json};

use crate::domain::check::catalog::Described;
use crate::domain::check::config::{mismatches, mismatches_of_key};
use crate::domain::check::rendered::problems_by_key;
use crate::domain::diagnostic::{Code, Diagnostic, listed};
use crate::domain::mapping::{Mapping, Over};
use crate::domain::operator_kind::NOT_MAPPED;
use crate::domain::source::Span;
use crate::domain::spec::{Problems, TaskKeys, TaskSpec, output_of};
use crate::domain::template::is_template;
use crate::domain::yaml::{Entry, Key, Node, NodeKind};

/// So many written values of a task the operator looks at: more take their time, and are looked at when they run.
const TRIED: usize = 1_000;

/// What stands for an expanded key while the rest is checked.
const PLACEHOLDER: &str = "{{ map_item }}";

/// Whether a task is mapped.
pub(super) fn is_mapped(spec: &TaskSpec) -> bool {
    spec.keys.expand.is_some() || spec.keys.expand_kwargs.is_some()
}

/// The keys that the instances of a task have for themselves: what `expand` names, and what written items of
/// `expand_kwargs` do.
pub(super) fn expanded_keys(spec: &TaskSpec) -> Vec<&str> {
    let expand = spec.keys.expand.iter().flat_map(|typed| &typed.value.0);
    let items = spec.keys.expand_kwargs.iter().flat_map(|typed| written_items(&typed.value.0));
    let of_items = items.flat_map(|item| item.as_mapping().unwrap_or_default());
    let mut keys: Vec<&str> = expand.chain(of_items).map(|entry| entry.key.text.as_str()).collect();
    keys.sort_unstable();
    keys.dedup();
    keys
}

/// Whether all instances have that key for themselves, so that no default of it is of use.
pub(super) fn expands(spec: &TaskSpec, key: &str) -> bool {
    spec.keys.expand.iter().flat_map(|typed| &typed.value.0).any(|entry| entry.key.text == key)
}

/// Whether the keys of the instances are known before the run.
pub(super) fn keys_are_known(spec: &TaskSpec) -> bool {
    spec.keys.expand_kwargs.as_ref().is_none_or(|typed| typed.value.0.as_text().is_none())
}

fn written_items(node: &Node) -> &[Node] {
    match &node.kind {
        NodeKind::List(items) => items,
        NodeKind::Null | NodeKind::Bool(_) | NodeKind::Number(_) | NodeKind::Text(_) | NodeKind::Mapping(_) => &[],
    }
}

/// What does not fit the operator's schema of a task whose expanded keys are left open.
pub(super) fn mismatches_of_rest(
    spec: &TaskSpec,
    operator: &Described,
    config: &Node,
    name: &str,
    head: Span,
) -> Vec<Diagnostic> {
    let mut found = mismatches(&operator.schema, &with_placeholders(spec, operator, config), name, head);
    if !keys_are_known(spec) {
        found.retain(|problem| problem.code != Code::MissingConfigKey);
    }
    found
}

fn with_placeholders(spec: &TaskSpec, operator: &Described, config: &Node) -> Node {
    let mut entries = config.as_mapping().unwrap_or_default().to_vec();
    for key in expanded_keys(spec).into_iter().filter(|key| operator.has_key(key)) {
        if !entries.iter().any(|entry| entry.key.text == key) {
            let value = Node { span: config.span, kind: NodeKind::Text(PLACEHOLDER.to_owned()) };
            entries.push(Entry { key: Key { text: key.to_owned(), span: config.span }, value });
        }
    }
    Node { span: config.span, kind: NodeKind::Mapping(entries) }
}

/// Checks what a task is expanded over; what it comes to, where the task is mapped.
pub(super) fn check(spec: &TaskSpec, operator: &Described, problems: &mut Problems<'_>) -> Option<Mapping> {
    let keys = &spec.keys;
    let label = keys.map_index_template.as_ref();
    let (span, is_partial) = match (&keys.expand, &keys.expand_kwargs) {
        (Some(expand), Some(kwargs)) => {
            problems.add(
                bad(kwargs.key, "a task has either `expand` or `expand_kwargs`")
                    .related(expand.key, "it is expanded here already")
                    .help("`expand` takes every combination of its lists; `expand_kwargs` takes a list of mappings as they are"),
            );
            return None;
        }
        (Some(expand), None) => (expand.key, None),
        (None, Some(kwargs)) => (kwargs.key, None),
        (None, None) => (label.map_or(Span::default(), |label| label.key), spec.partial),
    };
    if !is_mapped(spec) {
        let words = "it is for mapped tasks: there is no `expand` or `expand_kwargs` beside it";
        let stray = label.map(|label| ("map_index_template", label.key)).or(is_partial.map(|at| ("partial", at)));
        if let Some((name, at)) = stray {
            problems.add(bad(at, format!("`{name}` has no effect: {words}")).help("add `expand`, or leave it out"));
        }
        return None;
    }
    if let Some(why) = operator.schema.get(NOT_MAPPED).and_then(Value::as_str) {
        let message = format!("a task of the operator `{}` cannot be mapped: {why}", operator.kind.name);
        problems.add(bad(span, message).help("write one task for each"));
        return None;
    }
    let over = match (&keys.expand, &keys.expand_kwargs) {
        (Some(typed), _) => {
            if typed.value.0.is_empty() {
                problems
                    .add(bad(typed.key, "`expand` names no key").help("as `expand: {bash_command: [echo a, echo b]}`"));
            }
            for entry in &typed.value.0 {
                check_key(spec, operator, &entry.key, problems);
                check_values(entry, problems);
                for item in values_of(&entry.value).iter() {
                    let found = mismatches_of_key(&operator.schema, &entry.key.text, item);
                    found.into_iter().for_each(|problem| problems.add(problem));
                }
            }
            Over::Product(typed.value.0.iter().map(|entry| (entry.key.text.clone(), values(&entry.value))).collect())
        }
        (None, Some(typed)) => {
            check_items(spec, operator, &typed.value.0, problems);
            Over::Kwargs(values(&typed.value.0))
        }
        (None, None) => return None,
    };
    Some(Mapping::new(over, label.map(|label| label.value.clone())))
}

/// A value with dag-factory's `task_id.output` as the template that it stands for.
fn values(node: &Node) -> Value {
    match node.as_text().and_then(output_of) {
        Some(task) => Value::String(format!("{{{{ ti.xcom_pull('{task}') }}}}")),
        None => node.to_json(),
    }
}

fn bad(span: Span, message: impl Into<String>) -> Diagnostic {
    Diagnostic::error(Code::BadMapping, span, message)
}

/// Whether the instances can have a key for themselves.
fn check_key(spec: &TaskSpec, operator: &Described, key: &Key, problems: &mut Problems<'_>) {
    let name = key.text.as_str();
    let is_of_tasks = TaskKeys::KEYS.contains(&name) || TaskKeys::ALIASES.iter().any(|(alias, _)| *alias == name);
    if !operator.has_key(name) {
        problems.add(if is_of_tasks {
            bad(key.span, format!("`{name}` cannot be expanded: it is the same for all instances"))
                .help(format!("put `{name}` beside `expand`; {}", mappable(operator)))
        } else {
            let message = format!("the operator `{}` has no key `{name}`", operator.kind.name);
            Diagnostic::error(Code::UnknownTaskKey, key.span, message).did_you_mean(
                name,
                operator.keys.iter().map(String::as_str),
                || Some(mappable(operator)),
            )
        });
        return;
    }
    if operator.kind.late_fields.iter().any(|field| field.key == name) {
        let message = format!("`{name}` cannot be expanded: the operator renders its template itself");
        problems.add(bad(key.span, message).help("expand another key, and name it in this one by `map_item`"));
    }
    if let Some(beside) = spec.config.iter().find(|entry| entry.key.text == name) {
        problems.add(
            bad(key.span, format!("`{name}` is expanded, and set for all instances as well"))
                .related(beside.key.span, "set here")
                .help("leave out one of the two"),
        );
    }
}

fn mappable(operator: &Described) -> String {
    let keys = operator.keys.iter().map(String::as_str);
    if operator.keys.is_empty() {
        "the operator has no keys of its own".to_owned()
    } else {
        format!("what can be expanded are the operator's own keys: {}", listed(keys))
    }
}

/// The values that a key is written to be expanded over: a list's items, or a mapping's entries as an instance gets them.
fn values_of(node: &Node) -> Cow<'_, [Node]> {
    match &node.kind {
        NodeKind::List(items) => Cow::Borrowed(items),
        NodeKind::Mapping(entries) => {
            let value = |entry: &Entry| {
                let value = json!({"key": entry.key.text, "value": entry.value.to_json()});
                Node::from_json(&value, entry.key.span)
            };
            Cow::Owned(entries.iter().map(value).collect())
        }
        NodeKind::Null | NodeKind::Bool(_) | NodeKind::Number(_) | NodeKind::Text(_) => Cow::Borrowed(&[]),
    }
}

/// Lets the operator look at the values that are written out, each beside what all instances share (`rest`, rendered with
/// the DAG's defaults) and the first value of every other expanded key. Where one of those comes in the run, what the operator
/// says of two keys together is not known before.
pub(super) fn try_values(spec: &TaskSpec, operator: &Described, rest: &Value, problems: &mut Problems<'_>) {
    let expand = spec.keys.expand.iter().flat_map(|typed| &typed.value.0);
    let expand: Vec<(&Key, Cow<'_, [Node]>)> = expand.map(|entry| (&entry.key, values_of(&entry.value))).collect();
    let of_key = |key: &Key, value: &Node| Entry { key: key.clone(), value: value.clone() };
    let first = |(key, values): &(&Key, Cow<'_, [Node]>)| Some(of_key(key, values.iter().find(|one| is_written(one))?));
    let firsts: Vec<Entry> = expand.iter().map_while(first).collect();
    let product = expand.iter().enumerate().filter(|_| firsts.len() == expand.len());
    let of_expand = product.flat_map(|(place, (key, values))| {
        let firsts = &firsts;
        values.iter().map(move |value| {
            let mut own = firsts.clone();
            own[place] = of_key(key, value);
            (own, Some(key.text.as_str()))
        })
    });
    let items = spec.keys.expand_kwargs.iter().flat_map(|typed| written_items(&typed.value.0));
    let of_items = items.filter_map(|item| Some((item.as_mapping()?.to_vec(), None)));
    for (own, tried) in of_expand.chain(of_items).take(TRIED) {
        let own = Node { span: Span::default(), kind: NodeKind::Mapping(own) };
        let (Value::Object(mut config), Value::Object(fields)) = (rest.clone(), own.to_json()) else { continue };
        if !is_written(&own) {
            continue; // what it comes to is known in the run
        }
        config.extend(fields.clone());
        let is_of_own = |key: &String| tried.map_or_else(|| fields.contains_key(key), |tried| tried == key);
        for problem in problems_by_key(operator.kind, &Value::Object(config)) {
            if problem.path.first().is_some_and(is_of_own) {
                let mut diagnostic = Diagnostic::error(Code::BadConfig, own.span_at(&problem.path), problem.message);
                diagnostic.help = problem.help;
                problems.add(diagnostic);
            }
        }
    }
}

/// Whether a value stands in the file as the instances get it.
fn is_written(value: &Node) -> bool {
    !is_template(&value.to_json().to_string())
}

/// A list, a mapping, or what comes to one.
fn check_values(entry: &Entry, problems: &mut Problems<'_>) {
    let (key, node) = (entry.key.text.as_str(), &entry.value);
    match &node.kind {
        NodeKind::Text(text) if is_template(text) || output_of(text).is_some() => {}
        NodeKind::List(items) if items.is_empty() => {
            problems.add(
                bad(node.span, format!("`{key}` is expanded over an empty list: the task would always be skipped"))
                    .help("a list that may be empty comes from a template"),
            );
        }
        NodeKind::List(_) => {}
        NodeKind::Mapping(entries) if entries.is_empty() => {
            problems.add(bad(node.span, format!("`{key}` is expanded over nothing: the task would always be skipped")));
        }
        NodeKind::Mapping(_) => {}
        NodeKind::Null | NodeKind::Bool(_) | NodeKind::Number(_) | NodeKind::Text(_) => {
            let message = format!("`{key}` is expanded over {}; it has to be a list", node.describe());
            problems.add(bad(node.span, message).label("expected a list").help(
                "a list of values, a mapping whose entries are taken as {key, value}, or a template that comes to \
                 one, as \"{{ outputs.list.files }}\"",
            ));
        }
    }
}

fn check_items(spec: &TaskSpec, operator: &Described, node: &Node, problems: &mut Problems<'_>) {
    let NodeKind::List(items) = &node.kind else { return };
    if items.is_empty() {
        problems.add(
            bad(node.span, "`expand_kwargs` is an empty list: the task would always be skipped")
                .help("a list that may be empty comes from a template"),
        );
    }
    for item in items {
        let Some(entries) = item.as_mapping() else {
            let message = format!("each item of `expand_kwargs` is a mapping, but this is {}", item.describe());
            problems.add(bad(item.span, message).help("as `- {bash_command: echo a}`"));
            continue;
        };
        for entry in entries {
            check_key(spec, operator, &entry.key, problems);
            let found = mismatches_of_key(&operator.schema, &entry.key.text, &entry.value);
            found.into_iter().for_each(|problem| problems.add(problem));
        }
    }
}

/// The values and templates of a mapping, for those who check templates.
pub(super) fn nodes(spec: &TaskSpec) -> Vec<&Node> {
    let expand = spec.keys.expand.iter().flat_map(|typed| &typed.value.0).map(|entry| &entry.value);
    expand.chain(spec.keys.expand_kwargs.iter().map(|typed| &typed.value.0)).collect()
}
