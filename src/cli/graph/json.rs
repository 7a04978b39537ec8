//! DAGs for programs: nodes, and edges between them by id.

use serde::Serialize;

use crate::domain::dag::{Dag, Task};

/// The DAGs of a file, as they leave the process.
#[derive(Debug, Serialize)]
pub(crate) struct Graphs<'a> {
    dags: Vec<Graph<'a>>,
}

#[derive(Debug, Serialize)]
struct Graph<'a> {
    dag_id: &'a str,
    description: Option<&'a str>,
    nodes: Vec<Node<'a>>,
    edges: Vec<Edge<'a>>,
    groups: Vec<Group<'a>>,
}

/// A task group, with the tasks right in it.
#[derive(Debug, Serialize)]
struct Group<'a> {
    group_id: &'a str,
    label: &'a str,
    tooltip: Option<&'a str>,
    parent: Option<&'a str>,
    tasks: Vec<&'a str>,
}

#[derive(Debug, Serialize)]
struct Node<'a> {
    task_id: &'a str,
    operator: &'static str,
    trigger_rule: &'static str,
    /// Whether it is expanded into instances when it runs.
    mapped: bool,
}

/// From a task to one that waits for it.
#[derive(Debug, Serialize)]
struct Edge<'a> {
    from: &'a str,
    to: &'a str,
}

impl<'a> Graphs<'a> {
    pub(crate) fn of(dags: &'a [Dag]) -> Self {
        Self { dags: dags.iter().map(Graph::of).collect() }
    }
}

impl<'a> Graph<'a> {
    fn of(dag: &'a Dag) -> Self {
        let node = |task: &'a Task| Node {
            task_id: task.id.as_str(),
            operator: task.operator,
            trigger_rule: task.trigger_rule.as_str(),
            mapped: task.mapping.is_some(),
        };
        let id = |index| dag.task(index).map(|task| task.id.as_str());
        let edges = dag.edges().into_iter().filter_map(|(from, to)| Some(Edge { from: id(from)?, to: id(to)? }));
        let groups = dag.groups().iter().map(|group| Group {
            group_id: &group.id,
            label: &group.label,
            tooltip: group.tooltip.as_deref(),
            parent: group.parent.and_then(|parent| dag.groups().get(parent)).map(|parent| parent.id.as_str()),
            tasks: group.tasks.iter().filter_map(|index| id(*index)).collect(),
        });
        Self {
            dag_id: dag.id().as_str(),
            description: dag.settings.description.as_deref(),
            nodes: dag.tasks().iter().map(node).collect(),
            edges: edges.collect(),
            groups: groups.collect(),
        }
    }
}
