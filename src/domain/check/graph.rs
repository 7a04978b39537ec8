//! Who waits for whom. Cycles: each is named whole, from the task that stands first in the file and back to it.

use petgraph::algo::kosaraju_scc;
use petgraph::graph::{DiGraph, NodeIndex};

use crate::domain::check::tasks::CheckedTasks;
use crate::domain::diagnostic::{Code, Diagnostic};
use crate::domain::spec::Problems;

/// A cycle through more tasks than this is named in a note of its own, and not each of its places is marked.
const LONGEST_NAMED: usize = 12;

/// Where a note's line is broken.
const NOTE_WIDTH: usize = 100;

/// The tasks in groups, upstream first; tasks that wait for each other in a circle are one group.
pub(super) struct Order {
    groups: Vec<Vec<usize>>,
}

/// Orders the tasks, and reports their cycles.
pub(super) fn order(tasks: &CheckedTasks<'_>, problems: &mut Problems<'_>) -> Order {
    // Edges lead from a task to those that it waits for: a cycle reads "a waits for b waits for a".
    let mut graph: DiGraph<(), ()> = DiGraph::with_capacity(tasks.checked.len(), tasks.checked.len());
    tasks.checked.iter().for_each(|_| {
        graph.add_node(());
    });
    for (position, task) in tasks.checked.iter().enumerate() {
        for (upstream, _) in &task.upstream {
            graph.add_edge(NodeIndex::new(position), NodeIndex::new(*upstream), ());
        }
    }
    // Kosaraju's keeps its own stack: Tarjan's recurses, and a long chain of tasks overflows ours.
    let groups = kosaraju_scc(&graph);
    for group in groups.iter().filter(|group| group.len() > 1) {
        report_cycle(&shortest_cycle(&graph, group), tasks, problems);
    }
    let positions = |group: Vec<NodeIndex>| group.into_iter().map(NodeIndex::index).collect();
    Order { groups: groups.into_iter().map(positions).collect() }
}

impl Order {
    /// The tasks, each after those that it waits for; in a circle anyhow.
    pub(super) fn upstream_first(&self) -> Vec<usize> {
        self.groups.iter().flatten().copied().collect()
    }

    /// For each pair of a task and another: whether the task waits for the other, however indirectly.
    ///
    /// All of the graph is gone through once for every 64 others that are asked for: looking each pair up by itself
    /// would be quadratic in a long chain whose tasks all use the first one's output.
    pub(super) fn waits(&self, tasks: &CheckedTasks<'_>, asked: &[(usize, usize)]) -> Vec<bool> {
        let mut others: Vec<usize> = asked.iter().map(|(_, other)| *other).collect();
        others.sort_unstable();
        others.dedup();
        let mut answers = vec![false; asked.len()];
        let mut by_other: Vec<usize> = (0..asked.len()).collect();
        by_other.sort_by_key(|place| asked[*place].1);
        let mut by_other = by_other.into_iter().peekable();
        for others in others.chunks(u64::BITS as usize) {
            // Bit n of a task: it is, or waits for, the nth of these others.
            let mut reached = vec![0_u64; tasks.checked.len()];
            for (bit, other) in others.iter().enumerate() {
                reached[*other] |= 1 << bit;
            }
            for group in &self.groups {
                let upstream = group.iter().flat_map(|member| &tasks.checked[*member].upstream);
                let all = upstream.map(|(upstream, _)| reached[*upstream]).fold(0, |all, one| all | one);
                for member in group {
                    reached[*member] |= all;
                }
            }
            let last = others.last().copied().unwrap_or_default();
            while let Some(place) = by_other.next_if(|place| asked[*place].1 <= last) {
                let (task, other) = asked[place];
                let bit = others.binary_search(&other).expect("the others were made from what is asked");
                // In a circle a task waits for itself; its output still is not there.
                answers[place] = task != other && reached[task] & (1 << bit) != 0;
            }
        }
        answers
    }
}

fn report_cycle(cycle: &[usize], tasks: &CheckedTasks<'_>, problems: &mut Problems<'_>) {
    let name = |position: &usize| format!("`{}`", tasks.checked[*position].spec.id.text);
    let mut names: Vec<String> = cycle.iter().map(name).collect();
    names.push(names[0].clone());
    let wait = |from: usize, to: usize| {
        let edges = &tasks.checked[from].upstream;
        edges.iter().find(|(upstream, _)| *upstream == to).map(|(_, span)| *span)
    };
    let waits = (0..cycle.len()).map(|at| wait(cycle[at], cycle[(at + 1) % cycle.len()]));
    let mut spans = waits.map(|span| span.expect("the cycle was made from these edges"));
    let first = spans.next().expect("a cycle has a first edge");
    let advice = "one of them has to go first: take one of these dependencies away";
    let (message, help) = if cycle.len() <= LONGEST_NAMED {
        let message = format!("tasks wait for each other in a circle: {}", names.join(" waits for "));
        (message, advice.to_owned())
    } else {
        let message = format!("{} tasks wait for each other in a circle, from {} back to it", cycle.len(), names[0]);
        (message, format!("{advice}:\n{}", chain(&names)))
    };
    let mut problem = Diagnostic::error(Code::Cycle, first, message).label("the circle starts here");
    for span in spans.take(LONGEST_NAMED) {
        problem = problem.related(span, "and goes on");
    }
    problems.add(problem.help(help));
}

/// Names that wait for each other, over several lines.
fn chain(names: &[String]) -> String {
    let mut text = String::new();
    let mut width = 0;
    for (at, name) in names.iter().enumerate() {
        if at > 0 {
            let starts_line = width + name.chars().count() > NOTE_WIDTH;
            text.push_str(if starts_line { " waits for\n" } else { " waits for " });
            width = if starts_line { 0 } else { width + " waits for ".len() };
        }
        text.push_str(name);
        width += name.chars().count();
    }
    text
}

/// A shortest cycle through the first task, in the file's order, of a strongly connected group.
fn shortest_cycle(graph: &DiGraph<(), ()>, group: &[NodeIndex]) -> Vec<usize> {
    let start = *group.iter().min().expect("a group has members");
    let mut came_from: std::collections::HashMap<NodeIndex, NodeIndex> = std::collections::HashMap::new();
    let mut queue = std::collections::VecDeque::from([start]);
    while let Some(at) = queue.pop_front() {
        for next in graph.neighbors(at) {
            if next == start {
                let mut path = vec![at];
                while let Some(previous) = came_from.get(path.last().expect("it starts with one")) {
                    path.push(*previous);
                }
                return path.into_iter().rev().map(NodeIndex::index).collect();
            }
            if let std::collections::hash_map::Entry::Vacant(vacant) = came_from.entry(next) {
                vacant.insert(at);
                queue.push_back(next);
            }
        }
    }
    unreachable!("within a strongly connected group every task leads back to every other")
}
