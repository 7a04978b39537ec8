//! A DAG's tasks: ids, operators and their keys, dependencies.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::rc::Rc;
use std::sync::Arc;

use serde_json::Value;

use crate::domain::check::callbacks;
use crate::domain::check::catalog::{Catalog, Described};
use crate::domain::check::groups::{self, Item, Waits};
use crate::domain::check::mapping;
use crate::domain::check::settings::{not_zero, value};
use crate::domain::check::teardowns;
use crate::domain::check::weights::Weighed;
use crate::domain::dag::Task;
use crate::domain::diagnostic::{Code, Diagnostic, closest, listed};
use crate::domain::ids::{TaskId, TaskIndex};
use crate::domain::retry::RetryPolicy;
use crate::domain::source::Span;
use crate::domain::spec::{
    DagSpec, Dependencies, Groups, Problems, Spanned, TaskKeys, TaskSpec, airflow_task_key, report_support,
};
use crate::domain::template::is_template;
use crate::domain::yaml::{Entry, Node, NodeKind, entries_to_json};

/// The tasks of one DAG after their own checks.
pub(super) struct CheckedTasks<'s> {
    pub(super) checked: Vec<CheckedTask<'s>>,
    names: Names<'s>,
    /// The places of the tasks that are setups.
    pub(super) setups: BTreeSet<usize>,
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
        self.names.by_id.get(id).copied()
    }

    /// Which of `among` a name means: the task of that name, or the tasks of the group of that name.
    pub(super) fn named_in(&self, name: &str, among: &[usize]) -> Vec<usize> {
        let groups = self.names.groups;
        let is_meant = |position: &usize| match self.names.find(name) {
            Some(Item::Task(task)) => task == *position,
            Some(Item::Group(group)) => groups.chain(self.checked[*position].spec.group).any(|at| at == group),
            None => false,
        };
        among.iter().copied().filter(is_meant).collect()
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

    /// The weights that the tasks' priorities are made of.
    pub(super) fn weighed(&self) -> Vec<Weighed> {
        let weighed = |task: &CheckedTask<'_>| Weighed {
            own: value(&task.spec.keys.priority_weight).copied().unwrap_or(1),
            rule: value(&task.spec.keys.weight_rule).copied().unwrap_or_default(),
        };
        self.checked.iter().map(weighed).collect()
    }

    /// The edges by place, upstream first.
    pub(super) fn places(&self) -> Vec<(usize, usize)> {
        let edges = self.checked.iter().enumerate();
        edges.flat_map(|(to, task)| task.upstream.iter().map(move |(from, _)| (*from, to))).collect()
    }

    /// The edges, upstream first.
    pub(super) fn edges(&self) -> Vec<(TaskIndex, TaskIndex)> {
        let edge = |to: usize, task: &CheckedTask<'_>| -> Vec<_> {
            task.upstream.iter().map(|(from, _)| (index(*from), index(to))).collect()
        };
        self.checked.iter().enumerate().flat_map(|(to, task)| edge(to, task)).collect()
    }
}

pub(super) fn index(position: usize) -> TaskIndex {
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
    let names = Names::of(spec, by_id, problems);
    refuse_unknown_defaults(spec, catalog, problems);
    let task_name = |task: &TaskSpec| format!("task `{}`", task.id.text);
    let mut of_tasks: Vec<Waits> = spec
        .tasks
        .iter()
        .map(|task| waits(&task_name(task), task.keys.dependencies.as_ref(), &names, &spec.tasks, problems))
        .collect();
    let named: Vec<Waits> = spec
        .tasks
        .iter()
        .map(|task| waits(&task_name(task), task.keys.setups.as_ref(), &names, &spec.tasks, problems))
        .collect();
    for (_, span) in named.iter().flatten().filter(|(item, _)| matches!(item, Item::Group(_))) {
        let problem = Diagnostic::error(Code::BadRole, *span, "a task group is no setup");
        problems.add(problem.help("name the tasks that set up"));
    }
    let setups = teardowns::setups(&spec.tasks, &named);
    for (waits, setups) in of_tasks.iter_mut().zip(named) {
        let more = setups.into_iter().filter(|(item, _)| !waits.iter().any(|(known, _)| known == item));
        waits.extend(more.collect::<Vec<_>>());
    }
    let groups = spec.groups.all.iter();
    let of_groups: Vec<Waits> = groups
        .map(|group| {
            let name = format!("task group `{}`", group.name.text);
            waits(&name, group.keys.dependencies.as_ref(), &names, &spec.tasks, problems)
        })
        .collect();
    let upstream = groups::expand(spec, &of_tasks, &of_groups, problems);
    let checked = spec.tasks.iter().zip(upstream).enumerate().map(|(position, (task, upstream))| {
        check_task(task, index(position), &spec.default_config, upstream, catalog, problems)
    });
    let checked = checked.collect::<Vec<_>>();
    let mut tasks = CheckedTasks { checked, names, setups };
    for setup in &tasks.setups {
        if let Some(task) = &mut tasks.checked[*setup].task {
            task.is_setup = true;
        }
    }
    tasks
}

/// What tasks and groups are called in dependencies.
pub(super) struct Names<'s> {
    by_id: HashMap<&'s str, usize>,
    /// Tasks in groups by their ids as typed, where only one has it.
    by_label: HashMap<&'s str, Option<usize>>,
    groups: &'s Groups,
}

impl<'s> Names<'s> {
    fn of(spec: &'s DagSpec, by_id: HashMap<&'s str, usize>, problems: &mut Problems<'_>) -> Self {
        let mut by_label: HashMap<&str, Option<usize>> = HashMap::new();
        for (position, task) in spec.tasks.iter().enumerate().filter(|(_, task)| task.group.is_some()) {
            by_label.entry(&task.label).and_modify(|only| *only = None).or_insert(Some(position));
        }
        for group in &spec.groups.all {
            if let Some(task) = by_id.get(group.id.as_str()) {
                let message = format!("a task and a task group are called `{}`", group.id);
                problems.add(
                    Diagnostic::error(Code::DuplicateTask, group.name.span, message)
                        .related(spec.tasks[*task].id.span, "the task"),
                );
            }
        }
        Self { by_id, by_label, groups: &spec.groups }
    }

    /// What a name means: a task or a group by its id, or by its name as typed.
    fn find(&self, name: &str) -> Option<Item> {
        let by_label = || self.by_label.get(name).copied().flatten();
        let task = self.by_id.get(name).copied();
        task.or_else(|| if self.groups.position(name).is_some() { None } else { by_label() })
            .map(Item::Task)
            .or_else(|| self.groups.position(name).map(Item::Group))
    }
}

/// Reports keys of `default_args` that no operator has. A key that some operator has is for those tasks alone.
fn refuse_unknown_defaults(spec: &DagSpec, catalog: &mut Catalog, problems: &mut Problems<'_>) {
    if spec.default_config.is_empty() && spec.groups.default_configs().next().is_none() {
        return;
    }
    let known = catalog.all_keys();
    for entry in spec.default_config.iter().chain(spec.groups.default_configs()) {
        let name = entry.key.text.as_str();
        if known.contains(name) {
            continue;
        }
        match airflow_task_key(name) {
            Some(support) => report_support(support, entry, problems),
            None => problems.add(
                Diagnostic::error(Code::UnknownTaskKey, entry.key.span, format!("no task has a key `{name}`"))
                    .did_you_mean(name, TaskKeys::KEYS.iter().copied().chain(known.iter().map(String::as_str)), || {
                        None
                    }),
            ),
        }
    }
}

/// What a task or group is said to wait for.
fn waits(
    who: &str,
    named: Option<&Spanned<Dependencies>>,
    names: &Names<'_>,
    tasks: &[TaskSpec],
    problems: &mut Problems<'_>,
) -> Waits {
    let Some(named) = named else { return Vec::new() };
    let mut seen: HashSet<Item> = HashSet::new();
    let mut waits = Vec::with_capacity(named.value.0.len());
    for (name, span) in &named.value.0 {
        match names.find(name) {
            Some(item) if seen.insert(item) => waits.push((item, *span)),
            Some(_) => {
                let message = format!("{who} names `{name}` twice");
                problems.add(Diagnostic::warning(Code::RepeatedDependency, *span, message).help("once is enough"));
            }
            None => {
                let problem = dangling(who, name, *span, names, tasks, problems);
                problems.add(problem);
            }
        }
    }
    waits
}

fn dangling(
    who: &str,
    name: &str,
    span: Span,
    names: &Names<'_>,
    tasks: &[TaskSpec],
    problems: &mut Problems<'_>,
) -> Diagnostic {
    if names.by_label.contains_key(name) {
        let message = format!("{who} waits for `{name}`, which tasks of several groups are called");
        let ids = tasks.iter().filter(|task| task.label == name).map(|task| task.id.text.as_str());
        return Diagnostic::error(Code::DanglingDependency, span, message)
            .help(format!("write one of {}", listed(ids)));
    }
    let message = format!("{who} waits for `{name}`, which does not exist");
    let compared = problems.comparable(tasks.len());
    let others = tasks.iter().take(compared).map(|other| other.id.text.as_str());
    let others = others.filter(|other| !who.ends_with(&format!("`{other}`")));
    let groups = names.groups.all.iter().map(|group| group.name.text.as_str());
    Diagnostic::error(Code::DanglingDependency, span, message).label("no such task").did_you_mean(
        name,
        others.chain(groups),
        || None,
    )
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
        let found = mapping::mismatches_of_rest(spec, operator, &config, operator.kind.name, spec.id.span);
        found.into_iter().for_each(|problem| problems.add(problem));
    }
    let mapping = operator.as_deref().and_then(|operator| mapping::check(spec, operator, problems)).map(Arc::new);
    let fits = problems.errors() == errors_before;
    not_zero(
        "execution_timeout",
        spec.keys.execution_timeout.as_ref().map(|limit| (limit.value.0, limit.span)),
        problems,
    );
    callbacks::not_at_once(spec.keys.deadline.as_ref().map(|limit| (limit.value.0, limit.span)), problems);
    let task = match (&operator, id) {
        (Some(operator), Ok(id)) if fits => Some(Task { mapping, ..assemble(spec, index, id, operator, &config) }),
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

/// The operator's keys of a task: its own, then those of its groups' and the DAG's `default_args` that the operator has.
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
            _ if let Some(support) = airflow_task_key(name) => report_support(support, entry, problems),
            Some(operator) => {
                let names = || operator.keys.iter().map(String::as_str).chain(TaskKeys::KEYS.iter().copied());
                let message = format!("the operator `{}` has no key `{name}`", operator.kind.name);
                problems.add(Diagnostic::error(Code::UnknownTaskKey, entry.key.span, message).did_you_mean(
                    name,
                    names(),
                    || Some(longer_key(name).unwrap_or_else(|| own_keys(operator))),
                ));
            }
            // Whether an unknown operator has it, nobody knows, unless it is nearly a key that every task has.
            None => {
                if let Some(near) = closest(name, TaskKeys::KEYS.iter().copied()) {
                    let message = format!("tasks have no key `{name}`");
                    let problem = Diagnostic::error(Code::UnknownTaskKey, entry.key.span, message);
                    problems.add(problem.help(format!("did you mean `{near}`?")));
                }
                entries.push(entry.clone());
            }
        }
    }
    if let Some(operator) = operator {
        for entry in spec.group_config.iter().chain(defaults) {
            let is_set =
                entries.iter().any(|own| own.key.text == entry.key.text) || mapping::expands(spec, &entry.key.text);
            if !is_set && operator.has_key(&entry.key.text) {
                entries.push(entry.clone());
            }
        }
    }
    Node { span: spec.id.span, kind: NodeKind::Mapping(entries) }
}

/// A key that every task has, of which `name` is the beginning.
fn longer_key(name: &str) -> Option<String> {
    let longer = TaskKeys::KEYS.iter().find(|key| key.strip_prefix(name).is_some_and(|rest| rest.starts_with('_')))?;
    Some(format!("did you mean `{longer}`?"))
}

fn own_keys(operator: &Described) -> String {
    let keys = listed(operator.keys.iter().map(String::as_str));
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
        deadline: value(&keys.deadline).map(|limit| limit.0),
        callbacks: callbacks::of_task(keys),
        trigger_rule: value(&keys.trigger_rule).copied().unwrap_or_default(),
        is_setup: value(&keys.setup).copied().unwrap_or(false),
        is_teardown: teardowns::is_teardown(spec),
        on_failure_fail_dagrun: value(&keys.on_failure_fail_dagrun).copied().unwrap_or(false),
        pool: value(&keys.pool).cloned(),
        pool_slots: value(&keys.pool_slots).map_or(1, |slots| slots.0),
        priority_weight: 1, // it is made of all tasks' weights, once they are known
        // As in Airflow: who waits for the last run's successors waits for himself in the last run too.
        depends_on_past: wait_for_downstream || value(&keys.depends_on_past).copied().unwrap_or(false),
        wait_for_downstream,
        max_active_tis_per_dag: value(&keys.max_active_tis_per_dag).map(|most| most.0),
        max_active_tis_per_dagrun: value(&keys.max_active_tis_per_dagrun).map(|most| most.0),
        mapping: None,
        doc_md: value(&keys.doc_md).cloned(),
    }
}
