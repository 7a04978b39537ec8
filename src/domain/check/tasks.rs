//! A DAG's tasks: ids, operators and their keys, dependencies.

use std::collections::{HashMap, HashSet};
use std::rc::Rc;

use serde_json::Value;

use crate::domain::check::catalog::{Catalog, Described};
use crate::domain::check::config::mismatches;
use crate::domain::check::settings::{not_zero, value};
use crate::domain::dag::Task;
use crate::domain::diagnostic::{Code, Diagnostic};
use crate::domain::ids::{TaskId, TaskIndex};
use crate::domain::retry::RetryPolicy;
use crate::domain::source::Span;
use crate::domain::spec::{DagSpec, Problems, TaskKeys, TaskSpec, airflow_task_key, report_standing};
use crate::domain::template::is_template;
use crate::domain::yaml::{Entry, Node, NodeKind, entries_to_json};

/// The tasks of one DAG after their own checks.
pub(super) struct CheckedTasks<'s> {
    pub(super) checked: Vec<CheckedTask<'s>>,
    by_id: HashMap<&'s str, usize>,
}

/// A task as far as it could be understood.
pub(super) struct CheckedTask<'s> {
    pub(super) spec: &'s TaskSpec,
    pub(super) operator: Option<Rc<Described>>,
    /// The operator's keys, those of `default_args` included.
    pub(super) config: Node,
    /// Whether the configuration fits the operator's schema.
    pub(super) fits: bool,
    /// Places of the tasks that it waits for, each once, with where it says so.
    pub(super) upstream: Vec<(usize, Span)>,
    /// The task, when all of it was understood.
    pub(super) task: Option<Task>,
}

impl CheckedTasks<'_> {
    /// The place of the task of that id.
    pub(super) fn position(&self, id: &str) -> Option<usize> {
        self.by_id.get(id).copied()
    }

    /// Which of `among` a name means: the task of that id.
    pub(super) fn named_in(&self, name: &str, among: &[usize]) -> Vec<usize> {
        among.iter().copied().filter(|position| self.checked[*position].spec.id.text == name).collect()
    }

    /// The ids, for "did you mean".
    pub(super) fn ids(&self) -> impl Iterator<Item = &str> {
        self.checked.iter().map(|task| task.spec.id.text.as_str())
    }

    /// The files that the tasks name without a template, with where they do.
    pub(super) fn files(&self) -> impl Iterator<Item = (&CheckedTask<'_>, &str, Span)> {
        let entries = self.checked.iter().flat_map(|task| {
            let keys = task.operator.as_ref().map_or(&[][..], |operator| operator.kind.file_keys);
            let entries = task.config.as_mapping().into_iter().flatten();
            entries.filter(|entry| keys.contains(&entry.key.text.as_str())).map(move |entry| (task, entry))
        });
        let texts = entries.flat_map(|(task, entry)| {
            let nodes = match &entry.value.kind {
                NodeKind::List(items) => items.as_slice(),
                NodeKind::Null | NodeKind::Bool(_) | NodeKind::Number(_) | NodeKind::Text(_) | NodeKind::Mapping(_) => {
                    std::slice::from_ref(&entry.value)
                }
            };
            nodes.iter().filter_map(move |node| Some((task, node.as_text()?, node.span)))
        });
        texts.filter(|(_, text, _)| !is_template(text))
    }

    /// The edges, upstream first.
    pub(super) fn edges(&self) -> Vec<(TaskIndex, TaskIndex)> {
        let edge = |to: usize, task: &CheckedTask<'_>| -> Vec<_> {
            task.upstream.iter().map(|(from, _)| (index(*from), index(to))).collect()
        };
        self.checked.iter().enumerate().flat_map(|(to, task)| edge(to, task)).collect()
    }
}

fn index(position: usize) -> TaskIndex {
    TaskIndex(u32::try_from(position).expect("a file of 10 MB has fewer than 2^32 tasks"))
}

pub(super) fn check<'s>(spec: &'s DagSpec, catalog: &mut Catalog, problems: &mut Problems<'_>) -> CheckedTasks<'s> {
    let mut by_id: HashMap<&str, usize> = HashMap::with_capacity(spec.tasks.len());
    for (position, task) in spec.tasks.iter().enumerate() {
        if let Some(first) = by_id.get(task.id.text.as_str()) {
            let message = format!("two tasks are called `{}`", task.id.text);
            problems.add(
                Diagnostic::error(Code::DuplicateTask, task.id.span, message)
                    .related(spec.tasks[*first].id.span, "the first one"),
            );
        } else {
            by_id.insert(&task.id.text, position);
        }
    }
    refuse_unknown_defaults(spec, catalog, problems);
    let checked = spec
        .tasks
        .iter()
        .enumerate()
        .map(|(position, task)| {
            let upstream = dependencies(task, position, &by_id, &spec.tasks, problems);
            check_task(task, index(position), &spec.default_config, upstream, catalog, problems)
        })
        .collect();
    CheckedTasks { checked, by_id }
}

/// Reports keys of `default_args` that no operator has. A key that some operator has is for those tasks alone.
fn refuse_unknown_defaults(spec: &DagSpec, catalog: &mut Catalog, problems: &mut Problems<'_>) {
    if spec.default_config.is_empty() {
        return;
    }
    let known = catalog.all_keys();
    for entry in &spec.default_config {
        let name = entry.key.text.as_str();
        if known.contains(name) {
            continue;
        }
        match airflow_task_key(name) {
            Some(standing) => report_standing(standing, entry, problems),
            None => problems.add(
                Diagnostic::error(Code::UnknownTaskKey, entry.key.span, format!("no task has a key `{name}`"))
                    .did_you_mean(name, TaskKeys::KEYS.iter().copied().chain(known.iter().map(String::as_str)), || {
                        None
                    }),
            ),
        }
    }
}

fn dependencies(
    task: &TaskSpec,
    position: usize,
    by_id: &HashMap<&str, usize>,
    tasks: &[TaskSpec],
    problems: &mut Problems<'_>,
) -> Vec<(usize, Span)> {
    let Some(named) = &task.keys.dependencies else { return Vec::new() };
    let mut seen: HashSet<&str> = HashSet::new();
    let mut upstream = Vec::with_capacity(named.value.0.len());
    for (name, span) in &named.value.0 {
        if !seen.insert(name) {
            let message = format!("`{}` names `{name}` twice", task.id.text);
            problems.add(Diagnostic::warning(Code::RepeatedDependency, *span, message).help("once is enough"));
            continue;
        }
        match by_id.get(name.as_str()) {
            Some(other) if *other == position => {
                let message = format!("task `{name}` waits for itself");
                problems.add(Diagnostic::error(Code::SelfDependency, *span, message).label("itself"));
            }
            Some(other) => upstream.push((*other, *span)),
            None => {
                let message = format!("task `{}` waits for `{name}`, which does not exist", task.id.text);
                let compared = problems.comparable(tasks.len());
                let names = tasks.iter().take(compared).map(|other| other.id.text.as_str());
                let names = names.filter(|other| *other != task.id.text);
                problems.add(
                    Diagnostic::error(Code::DanglingDependency, *span, message).label("no such task").did_you_mean(
                        name,
                        names,
                        || None,
                    ),
                );
            }
        }
    }
    upstream
}

fn check_task<'s>(
    spec: &'s TaskSpec,
    index: TaskIndex,
    defaults: &[Entry],
    upstream: Vec<(usize, Span)>,
    catalog: &mut Catalog,
    problems: &mut Problems<'_>,
) -> CheckedTask<'s> {
    let id = spec.id.text.parse::<TaskId>();
    if let Err(error) = &id {
        problems.add(Diagnostic::error(Code::BadId, spec.id.span, error.to_string()));
    }
    let operator = find_operator(spec, catalog, problems);
    let errors_before = problems.errors();
    let config = configuration(spec, operator.as_deref(), defaults, problems);
    if let Some(operator) = &operator {
        let found = mismatches(&operator.schema, &config, operator.kind.name, spec.id.span);
        found.into_iter().for_each(|problem| problems.add(problem));
    }
    let fits = problems.errors() == errors_before;
    not_zero(
        "execution_timeout",
        spec.keys.execution_timeout.as_ref().map(|limit| (limit.value.0, limit.span)),
        problems,
    );
    let task = match (&operator, id) {
        (Some(operator), Ok(id)) if fits => Some(assemble(spec, index, id, operator, &config)),
        _ => None,
    };
    CheckedTask { spec, operator, config, fits, upstream, task }
}

fn find_operator(spec: &TaskSpec, catalog: &mut Catalog, problems: &mut Problems<'_>) -> Option<Rc<Described>> {
    let Some(typed) = &spec.keys.operator else {
        if !spec.operator_refused {
            problems.add(
                Diagnostic::error(
                    Code::MissingOperator,
                    spec.id.span,
                    format!("task `{}` has no operator", spec.id.text),
                )
                .help("say what it does: `operator: bash`"),
            );
        }
        return None;
    };
    let found = catalog.find(&typed.value);
    if found.is_none() {
        problems.add(catalog.unknown(&typed.value, typed.span));
    }
    found
}

/// The operator's keys of a task: its own, then those of `default_args` that the operator has.
fn configuration(
    spec: &TaskSpec,
    operator: Option<&Described>,
    defaults: &[Entry],
    problems: &mut Problems<'_>,
) -> Node {
    let mut entries = Vec::with_capacity(spec.config.len());
    for entry in &spec.config {
        let name = entry.key.text.as_str();
        match operator {
            Some(operator) if operator.has_key(name) => entries.push(entry.clone()),
            _ if let Some(standing) = airflow_task_key(name) => report_standing(standing, entry, problems),
            Some(operator) => {
                let names = || operator.keys.iter().map(String::as_str).chain(TaskKeys::KEYS.iter().copied());
                let message = format!("the operator `{}` has no key `{name}`", operator.kind.name);
                problems.add(Diagnostic::error(Code::UnknownTaskKey, entry.key.span, message).did_you_mean(
                    name,
                    names(),
                    || Some(own_keys(operator)),
                ));
            }
            // Whether an unknown operator has it, nobody knows.
            None => entries.push(entry.clone()),
        }
    }
    if let Some(operator) = operator {
        for entry in defaults {
            let is_set = entries.iter().any(|own| own.key.text == entry.key.text);
            if !is_set && operator.has_key(&entry.key.text) {
                entries.push(entry.clone());
            }
        }
    }
    Node { span: spec.id.span, kind: NodeKind::Mapping(entries) }
}

fn own_keys(operator: &Described) -> String {
    let keys = crate::domain::diagnostic::listed(operator.keys.iter().map(String::as_str));
    if operator.keys.is_empty() { "it has no keys of its own".to_owned() } else { format!("its own keys are {keys}") }
}

fn assemble(spec: &TaskSpec, index: TaskIndex, id: TaskId, operator: &Described, config: &Node) -> Task {
    let keys = &spec.keys;
    let retry = RetryPolicy::default();
    let retry = RetryPolicy {
        retries: value(&keys.retries).map_or(retry.retries, |retries| retries.0),
        delay: value(&keys.retry_delay).map_or(retry.delay, |delay| delay.0),
        exponential: value(&keys.retry_exponential_backoff).copied().unwrap_or(retry.exponential),
        max_delay: value(&keys.max_retry_delay).map_or(retry.max_delay, |delay| delay.0),
    };
    let wait_for_downstream = value(&keys.wait_for_downstream).copied().unwrap_or(false);
    Task {
        index,
        id,
        operator: operator.kind.name,
        config: Value::Object(config.as_mapping().map(entries_to_json).unwrap_or_default()),
        retry,
        execution_timeout: value(&keys.execution_timeout).map(|limit| limit.0),
        trigger_rule: value(&keys.trigger_rule).copied().unwrap_or_default(),
        is_setup: value(&keys.setup).copied().unwrap_or(false),
        is_teardown: false,
        on_failure_fail_dagrun: false,
        pool: value(&keys.pool).cloned(),
        pool_slots: value(&keys.pool_slots).map_or(1, |slots| slots.0),
        priority_weight: value(&keys.priority_weight).copied().unwrap_or(1),
        // As in Airflow: who waits for the last run's successors waits for himself in the last run too.
        depends_on_past: wait_for_downstream || value(&keys.depends_on_past).copied().unwrap_or(false),
        wait_for_downstream,
        max_active_tis_per_dag: value(&keys.max_active_tis_per_dag).map(|most| most.0),
        doc_md: value(&keys.doc_md).cloned(),
    }
}
