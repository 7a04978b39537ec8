//! Cycles: each is named whole, from the task that stands first in the file and back to it.

use petgraph::algo::kosaraju_scc;
use petgraph::graph::{DiGraph, NodeIndex};

use crate::domain::check::tasks::CheckedTasks;
use crate::domain::diagnostic::{Code, Diagnostic};
use crate::domain::spec::Problems;

/// A cycle through more tasks than this is shortened in the message.
const LONGEST_NAMED: usize = 12;

pub(super) fn report_cycles(tasks: &CheckedTasks<'_>, problems: &mut Problems<'_>) {
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
    for group in kosaraju_scc(&graph).into_iter().filter(|group| group.len() > 1) {
        let cycle = shortest_cycle(&graph, &group);
        let name = |position: &usize| format!("`{}`", tasks.checked[*position].spec.id.text);
        let mut names: Vec<String> = cycle.iter().map(name).collect();
        names.push(names[0].clone());
        if names.len() > LONGEST_NAMED {
            let left_out = names.len() - LONGEST_NAMED;
            names.splice(LONGEST_NAMED - 2..names.len() - 2, [format!("({left_out} more)")]);
        }
        let wait = |from: usize, to: usize| {
            let edges = &tasks.checked[from].upstream;
            edges.iter().find(|(upstream, _)| *upstream == to).map(|(_, span)| *span)
        };
        let waits = (0..cycle.len()).map(|at| wait(cycle[at], cycle[(at + 1) % cycle.len()]));
        let mut spans = waits.map(|span| span.expect("the cycle was made from these edges"));
        let first = spans.next().expect("a cycle has a first edge");
        let message = format!("tasks wait for each other in a circle: {}", names.join(" waits for "));
        let mut problem = Diagnostic::error(Code::Cycle, first, message).label("the circle starts here");
        for span in spans.take(LONGEST_NAMED) {
            problem = problem.related(span, "and goes on");
        }
        problems.add(problem.help("one of them has to go first: take one of these dependencies away"));
    }
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
