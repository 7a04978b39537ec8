//! Task groups: a dependency on a group is one on the tasks that it ends with, and what a group waits for its first tasks
//! wait for.

use std::collections::HashSet;

use crate::domain::dag::TaskGroup;
use crate::domain::diagnostic::{Code, Diagnostic};
use crate::domain::source::Span;
use crate::domain::spec::{DagSpec, Problems};

/// A group before another makes an edge from each of its last tasks to each first one of the other; more edges than this
/// are a slip.
const MOST_EDGES: usize = 1_000_000;

/// What a dependency names, by its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Item {
    Task(usize),
    Group(usize),
}

/// What one item waits for, with where it says so.
pub(super) type Waits = Vec<(Item, Span)>;

/// The groups of one DAG with what is in them.
struct Nesting<'s> {
    spec: &'s DagSpec,
    /// By group: the places of its tasks, those of the groups in it included.
    members: Vec<Vec<usize>>,
    /// By task, then by group: the depth of the deepest group in which something waits for it; 0 for none.
    waited_for: (Vec<usize>, Vec<usize>),
    /// The same for what it waits for.
    waits: (Vec<usize>, Vec<usize>),
}

/// By task, the tasks that it waits for, each once, from what tasks and groups are said to wait for.
pub(super) fn expand(
    spec: &DagSpec,
    tasks: &[Waits],
    groups: &[Waits],
    problems: &mut Problems<'_>,
) -> Vec<Vec<(usize, Span)>> {
    let mut nesting = Nesting::of(spec);
    let of_tasks = tasks.iter().enumerate().map(|(at, waits)| (Item::Task(at), waits));
    let of_groups = groups.iter().enumerate().map(|(at, waits)| (Item::Group(at), waits));
    let mut edges: Vec<(Item, Item, Span)> = Vec::new();
    for (later, waits) in of_groups.chain(of_tasks) {
        for (earlier, span) in waits {
            if let Some(problem) = nesting.refuse(*earlier, later, *span) {
                problems.add(problem);
            } else {
                nesting.note(*earlier, later);
                edges.push((*earlier, later, *span));
            }
        }
    }
    let mut seen: HashSet<(usize, usize)> = HashSet::with_capacity(edges.len());
    let mut upstream = vec![Vec::new(); tasks.len()];
    for (earlier, later, span) in edges {
        let (last, first) = (nesting.ends(earlier, &nesting.waited_for), nesting.ends(later, &nesting.waits));
        if seen.len().saturating_add(last.len().saturating_mul(first.len())) > MOST_EDGES {
            let message = format!("the dependencies of task groups come to more than {MOST_EDGES} edges between tasks");
            problems.add(
                Diagnostic::error(Code::TooLarge, span, message)
                    .help("put an `empty` task between two large groups: one waits for it, it waits for the other"),
            );
            break;
        }
        for to in first {
            let new = last.iter().filter(|from| seen.insert((**from, to))).map(|from| (*from, span));
            upstream[to].extend(new);
        }
    }
    nesting.report_empty(tasks, groups, problems);
    upstream
}

/// The groups as a DAG keeps them.
pub(super) fn assembled(spec: &DagSpec) -> Vec<TaskGroup> {
    let mut groups: Vec<TaskGroup> = spec
        .groups
        .all
        .iter()
        .map(|group| TaskGroup {
            id: group.id.clone(),
            label: group.name.text.clone(),
            tooltip: group.keys.tooltip.as_ref().map(|typed| typed.value.clone()),
            parent: group.parent,
            tasks: Vec::new(),
        })
        .collect();
    for (position, task) in spec.tasks.iter().enumerate() {
        if let Some(group) = task.group {
            groups[group].tasks.push(super::tasks::index(position));
        }
    }
    groups
}

impl<'s> Nesting<'s> {
    fn of(spec: &'s DagSpec) -> Self {
        let mut members = vec![Vec::new(); spec.groups.all.len()];
        for (position, task) in spec.tasks.iter().enumerate() {
            for group in spec.groups.chain(task.group) {
                members[group].push(position);
            }
        }
        let nothing = (vec![0; spec.tasks.len()], vec![0; spec.groups.all.len()]);
        Self { spec, members, waited_for: nothing.clone(), waits: nothing }
    }

    /// The groups that an item is in, the innermost first; a group is not in itself.
    fn around(&self, item: Item) -> impl Iterator<Item = usize> {
        self.spec.groups.chain(match item {
            Item::Task(at) => self.spec.tasks[at].group,
            Item::Group(at) => self.spec.groups.all[at].parent,
        })
    }

    /// How many groups are around what is in this one.
    fn depth(&self, group: usize) -> usize {
        self.spec.groups.chain(Some(group)).count()
    }

    /// Reports an item that waits for what it is in, or for what is in it.
    fn refuse(&self, earlier: Item, later: Item, span: Span) -> Option<Diagnostic> {
        let is_in =
            |inner: Item, outer: Item| matches!(outer, Item::Group(at) if self.around(inner).any(|group| group == at));
        let name = |item: Item| match item {
            Item::Task(at) => format!("task `{}`", self.spec.tasks[at].id.text),
            Item::Group(at) => format!("task group `{}`", self.spec.groups.all[at].id),
        };
        let message = if earlier == later {
            format!("{} waits for itself", name(later))
        } else if is_in(later, earlier) {
            format!("{} waits for the {} that it is in", name(later), name(earlier))
        } else if is_in(earlier, later) {
            format!("{} waits for the {} that is in it", name(later), name(earlier))
        } else {
            return None;
        };
        Some(Diagnostic::error(Code::SelfDependency, span, message).label("itself"))
    }

    /// Notes how deep the innermost group is that an edge stays in.
    fn note(&mut self, earlier: Item, later: Item) {
        let around: Vec<usize> = self.around(later).collect();
        let Some(shared) = self.around(earlier).find(|group| around.contains(group)) else { return };
        let depth = self.depth(shared);
        let raise = |(tasks, groups): &mut (Vec<usize>, Vec<usize>), item: Item| {
            let place = match item {
                Item::Task(at) => &mut tasks[at],
                Item::Group(at) => &mut groups[at],
            };
            *place = depth.max(*place);
        };
        raise(&mut self.waited_for, earlier);
        raise(&mut self.waits, later);
    }

    /// The tasks that an item begins or ends with: those of a group that no edge within the group leads to, or from.
    fn ends(&self, item: Item, within: &(Vec<usize>, Vec<usize>)) -> Vec<usize> {
        let group = match item {
            Item::Task(at) => return vec![at],
            Item::Group(at) => at,
        };
        let depth = self.depth(group);
        let is_end = |task: &usize| {
            let mut inside = self.around(Item::Task(*task)).take_while(|around| *around != group);
            within.0[*task] < depth && inside.all(|around| within.1[around] < depth)
        };
        self.members[group].iter().copied().filter(is_end).collect()
    }

    /// Reports groups that no task is in: nothing can wait for one, and one can wait for nothing.
    fn report_empty(&self, tasks: &[Waits], groups: &[Waits], problems: &mut Problems<'_>) {
        let named: HashSet<Item> = tasks.iter().chain(groups).flatten().map(|(item, _)| *item).collect();
        for (at, group) in self.spec.groups.all.iter().enumerate() {
            if !self.members[at].is_empty() {
                continue;
            }
            let message = format!("no task is in the task group `{}`", group.name.text);
            let orders = !groups[at].is_empty() || named.contains(&Item::Group(at));
            let problem = if orders {
                Diagnostic::error(Code::EmptyGroup, group.name.span, message)
                    .help("what waits for it would wait for nothing: put an `empty` task into it")
            } else {
                Diagnostic::warning(Code::EmptyGroup, group.name.span, message)
                    .help(format!("a task is in it by `task_group_name: {}`", group.name.text))
            };
            problems.add(problem);
        }
    }
}
