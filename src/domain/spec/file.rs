//! A file's DAGs and their tasks as typed, with dag-factory's `default` block and `default_args` filled in.

use crate::domain::diagnostic::{Code, Diagnostic};
use crate::domain::source::Span;
use crate::domain::spec::Problems;
use crate::domain::spec::groups::{Groups, read_groups};
use crate::domain::spec::keys::{DagKeys, Keys, TaskKeys};
use crate::domain::spec::known::{KeySupport, airflow_dag_key};
use crate::domain::spec::value::Spanned;
use crate::domain::trigger_rule::TriggerRule;
use crate::domain::yaml::{Entry, Key, Node, NodeKind};

/// The key of dag-factory's block of defaults for every DAG of a file.
const DEFAULTS: &str = "default";

/// The key of dag-factory's mapping of what all instances of a mapped task share.
const PARTIAL: &str = "partial";

/// Whether a key of `default_args` is the DAG's: Airflow's habit for `owner` and `start_date`, dag-factory's for nearly
/// all of them.
pub(in crate::domain) fn is_dag_key_in_default_args(name: &str) -> bool {
    // Tasks have a `doc_md`, callbacks and deadlines, too; params and the like would be hard to find there.
    !matches!(
        name,
        "dag_id"
            | "doc_md"
            | "params"
            | "default_args"
            | "tasks"
            | "task_groups"
            | "deadline"
            | "on_failure"
            | "on_success"
            | "on_deadline"
    ) && (DagKeys::KEYS.contains(&name) || DagKeys::ALIASES.iter().any(|(alias, _)| *alias == name))
}

/// A DAG as typed.
#[derive(Debug)]
pub(in crate::domain) struct DagSpec {
    pub(in crate::domain) id: Key,
    pub(in crate::domain) keys: DagKeys,
    /// What `default_args` say of operators' keys: the DAG's own, then the file's.
    pub(in crate::domain) default_config: Vec<Entry>,
    pub(in crate::domain) tasks: Vec<TaskSpec>,
    pub(in crate::domain) groups: Groups,
    /// Whether reading it found an error.
    pub(in crate::domain) sound: bool,
}

/// A task as typed, `default_args` filled in.
#[derive(Debug)]
pub(in crate::domain) struct TaskSpec {
    /// Its id, with the names of its groups before it.
    pub(in crate::domain) id: Key,
    /// Its id as it was typed.
    pub(in crate::domain) label: String,
    /// The place of its group.
    pub(in crate::domain) group: Option<usize>,
    pub(in crate::domain) keys: TaskKeys,
    /// The keys that are not of every task: the operator's.
    pub(in crate::domain) config: Vec<Entry>,
    /// Where its `partial` stands, whose keys are as if they stood in the task itself.
    pub(in crate::domain) partial: Option<Span>,
    /// Whether it says its trigger rule itself.
    pub(in crate::domain) has_own_rule: bool,
    /// What its groups' `default_args` say of operators' keys.
    pub(in crate::domain) group_config: Vec<Entry>,
    /// Whether its `operator`, or the whole task, had a wrong form and was reported.
    pub(in crate::domain) operator_refused: bool,
}

/// Defaults for tasks, as `default_args` gives them.
#[derive(Debug, Default, Clone)]
pub(super) struct TaskDefaults {
    pub(super) keys: TaskKeys,
    pub(super) rest: Vec<Entry>,
    dag: DagKeys,
}

/// Reads the DAGs of a file.
pub(in crate::domain) fn read_file(root: &Node, problems: &mut Problems<'_>) -> Vec<DagSpec> {
    let Some(entries) = root.as_mapping() else {
        let message = format!("a DAG file is a mapping from DAG ids to DAGs, but this is {}", root.describe());
        problems.add(Diagnostic::error(Code::WrongType, root.span, message).help("start with the DAG's id: `my_dag:`"));
        return Vec::new();
    };
    if let Some(stray) = entries.iter().find(|entry| is_dag_key(entry)) {
        problems.add(
            Diagnostic::error(
                Code::WrongType,
                stray.key.span,
                format!("`{}` stands where a DAG's id is expected", stray.key.text),
            )
            .help("put the DAG's id above its keys, and the keys below it, indented: `my_dag:`"),
        );
        return Vec::new();
    }
    let mut file_keys = DagKeys::default();
    let mut file_defaults = TaskDefaults::default();
    if let Some(defaults) = entries.iter().find(|entry| entry.key.text == DEFAULTS) {
        (file_keys, file_defaults) = read_dag_keys(defaults, problems);
        if let Some(tasks) = &file_keys.tasks {
            let message = "the `default` block holds defaults for DAGs, and no tasks of its own";
            problems.add(Diagnostic::error(Code::UnsupportedKey, tasks.key, message));
        }
    }
    let sound = problems.errors() == 0;
    entries
        .iter()
        .filter(|entry| entry.key.text != DEFAULTS)
        .map(|entry| {
            let mut dag = read_dag(entry, &file_keys, &file_defaults, problems);
            dag.sound &= sound;
            dag
        })
        .collect()
}

/// Whether an entry at the top of a file looks like a DAG's key rather than a DAG.
fn is_dag_key(entry: &Entry) -> bool {
    let name = entry.key.text.as_str();
    let is_dag = entry.value.as_mapping().is_some_and(|entries| entries.iter().any(|inner| inner.key.text == "tasks"));
    !is_dag && (DagKeys::KEYS.contains(&name) || DagKeys::ALIASES.iter().any(|(alias, _)| *alias == name))
}

fn read_dag(entry: &Entry, file_keys: &DagKeys, file_defaults: &TaskDefaults, problems: &mut Problems<'_>) -> DagSpec {
    let errors_before = problems.errors();
    let (mut keys, mut defaults) = read_dag_keys(entry, problems);
    keys.fill_from(file_keys);
    keys.fill_from(&file_defaults.dag);
    defaults.keys.fill_from(&file_defaults.keys);
    let own = defaults.rest.len();
    for inherited in &file_defaults.rest {
        if !defaults.rest[..own].iter().any(|own| own.key.text == inherited.key.text) {
            defaults.rest.push(inherited.clone());
        }
    }
    let groups = keys.task_groups.as_ref().map(|typed| read_groups(&typed.value.0, problems)).unwrap_or_default();
    let mut tasks = match &keys.tasks {
        Some(tasks) => read_tasks(&tasks.value.0, problems),
        None => Vec::new(),
    };
    for task in &mut tasks {
        groups.take_in(task, problems);
        task.keys.fill_from(&defaults.keys);
        task.take_up_teardown();
    }
    if tasks.is_empty() && problems.errors() == errors_before {
        let span = keys.tasks.as_ref().map_or(entry.key.span, |tasks| tasks.key);
        problems.add(
            Diagnostic::error(Code::NoTasks, span, format!("the DAG `{}` has no tasks", entry.key.text))
                .help("give it `tasks`, at least one"),
        );
    }
    let sound = problems.errors() == errors_before;
    DagSpec { id: entry.key.clone(), keys, default_config: defaults.rest, tasks, groups, sound }
}

/// Reads a DAG's own keys, and what its `default_args` say.
fn read_dag_keys(dag: &Entry, problems: &mut Problems<'_>) -> (DagKeys, TaskDefaults) {
    let mut keys = DagKeys::default();
    let Some(entries) = dag.value.as_mapping() else {
        let message = format!("the DAG `{}` is a mapping, but this is {}", dag.key.text, dag.value.describe());
        let span = if dag.value.is_null() { dag.key.span } else { dag.value.span };
        problems.add(Diagnostic::error(Code::WrongType, span, message).help("its keys stand below it, indented"));
        return (keys, TaskDefaults::default());
    };
    for entry in entries {
        if !keys.take(entry, problems) {
            refuse_dag_key(entry, problems);
        }
    }
    let given = keys.default_args.as_ref().map_or(&[][..], |given| &given.value.0);
    let defaults = read_defaults(given, problems);
    keys.fill_from(&defaults.dag);
    (keys, defaults)
}

/// Reads `default_args`: keys of tasks, of the DAG, and of operators.
pub(super) fn read_defaults(given: &[Entry], problems: &mut Problems<'_>) -> TaskDefaults {
    let mut defaults = TaskDefaults::default();
    for entry in given {
        let name = entry.key.text.as_str();
        if matches!(
            name,
            "task_id"
                | "operator"
                | "dependencies"
                | "task_group_name"
                | "parent_group_name"
                | "expand"
                | "expand_kwargs"
                | "partial"
                | "map_index_template"
        ) {
            let message = format!("`default_args` cannot hold `{name}`: it differs from task to task");
            problems.add(Diagnostic::error(Code::UnsupportedKey, entry.key.span, message));
        } else if is_dag_key_in_default_args(name) {
            defaults.dag.take(entry, problems);
        } else if !defaults.keys.take(entry, problems) {
            defaults.rest.push(entry.clone());
        }
    }
    defaults
}

fn refuse_dag_key(entry: &Entry, problems: &mut Problems<'_>) {
    let name = entry.key.text.as_str();
    if let Some(support) = airflow_dag_key(name) {
        report_support(support, entry, problems);
        return;
    }
    let span = entry.key.span;
    let problem = Diagnostic::error(Code::UnknownDagKey, span, format!("a DAG has no key `{name}`"));
    let names = DagKeys::KEYS.iter().copied().filter(|name| *name != "dag_id");
    problems.add(problem.did_you_mean(name, names, || {
        TaskKeys::KEYS
            .contains(&name)
            .then(|| format!("`{name}` is a key of tasks; for all tasks of the DAG put it under `default_args`"))
    }));
}

/// Reports a key that Airflow has.
pub(in crate::domain) fn report_support(support: KeySupport, entry: &Entry, problems: &mut Problems<'_>) {
    let name = entry.key.text.as_str();
    let span = entry.key.span;
    let off = matches!(&entry.value.kind, NodeKind::Null | NodeKind::Bool(false))
        || matches!(&entry.value.kind, NodeKind::Number(number) if number.as_i64() == Some(0))
        || matches!(&entry.value.kind, NodeKind::List(items) if items.is_empty());
    problems.add(match support {
        KeySupport::IgnoredWhenOff(why) if !off => {
            Diagnostic::error(Code::UnsupportedKey, span, format!("`{name}` is known from Airflow, but not supported"))
                .help(why)
        }
        KeySupport::Ignored(why) | KeySupport::IgnoredWhenOff(why) => {
            Diagnostic::warning(Code::IgnoredKey, span, format!("`{name}` has no effect")).help(why)
        }
        KeySupport::Unsupported(instead) => {
            Diagnostic::error(Code::UnsupportedKey, span, format!("`{name}` is known from Airflow, but not supported"))
                .help(instead)
        }
        KeySupport::NotYet(instead) => {
            Diagnostic::error(Code::NotYet, span, format!("`{name}` is not supported yet")).help(instead)
        }
    });
}

impl TaskSpec {
    /// A teardown has a trigger rule of its own, whatever `default_args` say.
    fn take_up_teardown(&mut self) {
        let Some(typed) = self.keys.teardown.as_ref().filter(|typed| typed.value) else { return };
        if !self.has_own_rule {
            let (span, key) = (typed.span, typed.key);
            self.keys.trigger_rule = Some(Spanned { value: TriggerRule::AllDoneSetupSuccess, span, key });
        }
    }
}

fn read_tasks(node: &Node, problems: &mut Problems<'_>) -> Vec<TaskSpec> {
    let mut tasks = Vec::new();
    match &node.kind {
        NodeKind::Mapping(entries) => {
            for entry in entries {
                let mut task = read_task(entry.key.clone(), &entry.value, problems);
                if let Some(typed) = task.keys.task_id.take()
                    && typed.value != entry.key.text
                {
                    let message =
                        format!("`task_id` says `{}`, but the task stands under `{}`", typed.value, entry.key.text);
                    problems.add(
                        Diagnostic::error(Code::BadId, typed.span, message)
                            .related(entry.key.span, "its id by its key")
                            .help("leave `task_id` out where tasks are keyed by their id"),
                    );
                }
                tasks.push(task);
            }
        }
        NodeKind::List(items) => {
            for item in items {
                let head = Span::new(item.span.start, item.span.start + 1);
                let mut task = read_task(Key { text: String::new(), span: head }, item, problems);
                match task.keys.task_id.take() {
                    Some(typed) => {
                        task.label.clone_from(&typed.value);
                        task.id = Key { text: typed.value, span: typed.span };
                        tasks.push(task);
                    }
                    None if item.as_mapping().is_some() => problems.add(
                        Diagnostic::error(Code::MissingTaskId, item.span, "a task in a list needs its `task_id`")
                            .help("add `task_id: …`, or write `tasks` as a mapping keyed by task id"),
                    ),
                    None => {}
                }
            }
        }
        NodeKind::Null | NodeKind::Bool(_) | NodeKind::Number(_) | NodeKind::Text(_) => {}
    }
    tasks
}

fn read_task(id: Key, node: &Node, problems: &mut Problems<'_>) -> TaskSpec {
    let mut keys = TaskKeys::default();
    let (mut config, mut partial) = (Vec::new(), None);
    match node.as_mapping() {
        Some(entries) => {
            for entry in entries {
                match entry.value.as_mapping().filter(|_| entry.key.text == PARTIAL) {
                    Some(within) => {
                        partial = Some(entry.key.span);
                        within.iter().for_each(|entry| take_key(entry, &mut keys, &mut config, problems));
                    }
                    None => take_key(entry, &mut keys, &mut config, problems),
                }
            }
        }
        None => {
            let span = if node.is_null() { id.span } else { node.span };
            let name = if id.text.is_empty() { "a task".to_owned() } else { format!("the task `{}`", id.text) };
            let message = format!("{name} is a mapping, but this is {}", node.describe());
            problems.add(Diagnostic::error(Code::WrongType, span, message).help("it needs at least its `operator`"));
        }
    }
    let operator_refused = keys.operator.is_none()
        && node
            .as_mapping()
            .is_none_or(|entries| entries.iter().any(|entry| entry.key.text == "operator" && !entry.value.is_null()));
    let label = id.text.clone();
    let has_own_rule = keys.trigger_rule.is_some();
    TaskSpec { id, label, group: None, keys, config, partial, has_own_rule, group_config: Vec::new(), operator_refused }
}

/// Takes a key of a task, of its own mapping or of its `partial`.
fn take_key(entry: &Entry, keys: &mut TaskKeys, config: &mut Vec<Entry>, problems: &mut Problems<'_>) {
    if keys.take(entry, problems) {
        return;
    }
    match config.iter().find(|other| other.key.text == entry.key.text) {
        Some(first) => {
            let message = format!("`{}` stands in the task and in its `partial`", entry.key.text);
            problems.add(
                Diagnostic::error(Code::DuplicateKey, entry.key.span, message).related(first.key.span, "the other one"),
            );
        }
        None => config.push(entry.clone()),
    }
}
