//! A DAG's task groups as typed, and what follows for its tasks: their full ids, and the defaults that a group gives.

use std::collections::HashMap;

use crate::domain::diagnostic::{Code, Diagnostic};
use crate::domain::ids::{LONGEST_ID, TaskId};
use crate::domain::source::Span;
use crate::domain::spec::file::{TaskDefaults, TaskSpec, read_defaults};
use crate::domain::spec::keys::{GroupKeys, Keys};
use crate::domain::spec::known::airflow_group_key;
use crate::domain::spec::{Problems, report_support};
use crate::domain::yaml::{Key, Node, NodeKind};

/// Groups in groups deeper than this are a slip.
const DEEPEST: usize = 32;

/// A group as typed.
#[derive(Debug)]
pub(in crate::domain) struct GroupSpec {
    /// Its name as typed: its label.
    pub(in crate::domain) name: Key,
    /// Its id: its parents' names before its own, as Airflow forms it.
    pub(in crate::domain) id: String,
    pub(in crate::domain) keys: GroupKeys,
    /// The place of the group that it is in.
    pub(in crate::domain) parent: Option<usize>,
    defaults: TaskDefaults,
}

/// The groups of a DAG.
#[derive(Debug, Default)]
pub(in crate::domain) struct Groups {
    /// In the file's order.
    pub(in crate::domain) all: Vec<GroupSpec>,
    by_name: HashMap<String, usize>,
}

impl Groups {
    /// The group of that name, or of that id.
    pub(in crate::domain) fn position(&self, name: &str) -> Option<usize> {
        self.by_name.get(name).copied()
    }

    /// The groups that hold the one at `position`, itself first.
    pub(in crate::domain) fn chain(&self, position: Option<usize>) -> impl Iterator<Item = usize> {
        std::iter::successors(position, |at| self.all[*at].parent)
    }

    /// The id of what is called `label` in a group.
    fn child_id(&self, group: Option<usize>, label: &str) -> String {
        match group.map(|at| &self.all[at]) {
            Some(group)
                if group.id.len() <= LONGEST_ID
                    && group.keys.prefix_group_id.as_ref().is_none_or(|typed| typed.value) =>
            {
                format!("{}.{label}", group.id)
            }
            _ => label.to_owned(),
        }
    }
}

/// Reads the groups, in either form.
pub(super) fn read_groups(node: &Node, problems: &mut Problems<'_>) -> Groups {
    let mut groups = Groups::default();
    match &node.kind {
        NodeKind::Mapping(entries) => {
            for entry in entries {
                let (keys, defaults) = read_group(&entry.value, &entry.key, problems);
                groups.add(entry.key.clone(), keys, defaults, problems);
            }
        }
        NodeKind::List(items) => {
            for item in items {
                let head = Key { text: String::new(), span: Span::new(item.span.start, item.span.start + 1) };
                let (mut keys, defaults) = read_group(item, &head, problems);
                match keys.group_name.take() {
                    Some(typed) => {
                        groups.add(Key { text: typed.value, span: typed.span }, keys, defaults, problems);
                    }
                    None if item.as_mapping().is_some() => problems.add(
                        Diagnostic::error(
                            Code::MissingTaskId,
                            item.span,
                            "a task group in a list needs its `group_name`",
                        )
                        .help("add `group_name: …`, or write `task_groups` as a mapping keyed by name"),
                    ),
                    None => {}
                }
            }
        }
        NodeKind::Null | NodeKind::Bool(_) | NodeKind::Number(_) | NodeKind::Text(_) => {}
    }
    groups.find_parents(problems);
    groups
}

fn read_group(node: &Node, name: &Key, problems: &mut Problems<'_>) -> (GroupKeys, TaskDefaults) {
    let mut keys = GroupKeys::default();
    let entries = node.as_mapping();
    if entries.is_none() && !node.is_null() {
        let message = format!("a task group is a mapping, but this is {}", node.describe());
        problems.add(Diagnostic::error(Code::WrongType, node.span, message));
    }
    for entry in entries.into_iter().flatten() {
        let typed = entry.key.text.as_str();
        if keys.take(entry, problems) {
            continue;
        }
        match airflow_group_key(typed) {
            Some(support) => report_support(support, entry, problems),
            None => problems.add(
                Diagnostic::error(Code::UnknownTaskKey, entry.key.span, format!("a task group has no key `{typed}`"))
                    .did_you_mean(typed, GroupKeys::KEYS.iter().copied(), || None),
            ),
        }
    }
    if let Some(typed) = &keys.group_name
        && !name.text.is_empty()
        && typed.value != name.text
    {
        let message = format!("`group_name` says `{}`, but the group stands under `{}`", typed.value, name.text);
        problems.add(Diagnostic::error(Code::BadId, typed.span, message).related(name.span, "its name by its key"));
    }
    let given = keys.default_args.as_ref().map_or(&[][..], |given| &given.value.0);
    let defaults = read_defaults(given, problems);
    (keys, defaults)
}

impl Groups {
    fn add(&mut self, name: Key, keys: GroupKeys, defaults: TaskDefaults, problems: &mut Problems<'_>) {
        if name.text.parse::<TaskId>().is_err() || name.text.contains('.') {
            let message = format!("`{}` is no name for a task group", name.text);
            let help = "letters, digits, `_` and `-` are allowed, at most 250";
            problems.add(Diagnostic::error(Code::BadId, name.span, message).help(help));
        }
        let position = self.all.len();
        match self.by_name.get(&name.text) {
            Some(first) => problems.add(
                Diagnostic::error(
                    Code::DuplicateTask,
                    name.span,
                    format!("two task groups are called `{}`", name.text),
                )
                .related(self.all[*first].name.span, "the first one"),
            ),
            None => {
                self.by_name.insert(name.text.clone(), position);
            }
        }
        self.all.push(GroupSpec { id: name.text.clone(), name, keys, parent: None, defaults });
    }

    /// Finds each group's parent; a circle of parents is reported, and broken.
    fn find_parents(&mut self, problems: &mut Problems<'_>) {
        for position in 0..self.all.len() {
            let Some(typed) = self.all[position].keys.parent_group_name.clone() else { continue };
            let parent = self.position(&typed.value);
            if parent.is_none() {
                problems.add(self.unknown(&typed.value, typed.span));
            }
            // A longer circle is found to be too deep.
            if self.chain(parent).take(DEEPEST).any(|at| at == position) {
                let message = format!("the task group `{}` is in itself, by its parents", self.all[position].name.text);
                problems.add(Diagnostic::error(Code::Cycle, typed.span, message).help("one of them stands at the top"));
                continue;
            }
            self.all[position].parent = parent;
        }
        for position in 0..self.all.len() {
            if self.chain(Some(position)).take(DEEPEST + 1).count() > DEEPEST {
                let span = self.all[position].name.span;
                let message =
                    format!("the task group `{}` is in more than {DEEPEST} others", self.all[position].name.text);
                problems.add(Diagnostic::error(Code::TooDeep, span, message));
                self.all[position].parent = None;
            }
        }
        for position in 0..self.all.len() {
            let chain: Vec<usize> = self.chain(Some(position)).collect();
            for at in chain.into_iter().rev() {
                self.all[at].id = self.child_id(self.all[at].parent, &self.all[at].name.text);
            }
        }
        for (position, group) in self.all.iter().enumerate() {
            self.by_name.entry(group.id.clone()).or_insert(position);
        }
    }

    fn unknown(&self, name: &str, span: Span) -> Diagnostic {
        Diagnostic::error(Code::UnknownGroup, span, format!("there is no task group `{name}`")).did_you_mean(
            name,
            self.all.iter().map(|group| group.name.text.as_str()),
            || Some(format!("declare it under the DAG's `task_groups`: {name}: {{}}")),
        )
    }

    /// Puts a task into its group: gives it its full id and the group's defaults, nearer groups first.
    pub(super) fn take_in(&self, task: &mut TaskSpec, problems: &mut Problems<'_>) {
        let Some(typed) = task.keys.task_group_name.clone() else { return };
        task.group = self.position(&typed.value);
        if task.group.is_none() {
            problems.add(self.unknown(&typed.value, typed.span));
        }
        task.id.text = self.child_id(task.group, &task.label);
        for at in self.chain(task.group) {
            let defaults = &self.all[at].defaults;
            task.keys.fill_from(&defaults.keys);
            for entry in &defaults.rest {
                if !task.group_config.iter().any(|own| own.key.text == entry.key.text) {
                    task.group_config.push(entry.clone());
                }
            }
        }
    }

    /// The keys of operators that groups' `default_args` hold.
    pub(in crate::domain) fn default_configs(&self) -> impl Iterator<Item = &crate::domain::yaml::Entry> {
        self.all.iter().flat_map(|group| &group.defaults.rest)
    }
}
