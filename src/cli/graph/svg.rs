//! A DAG as a picture that stands alone: its own colours, for light and for dark pages.

use askama::Template;

use crate::cli::graph::subtitle;
use crate::cli::words;
use crate::domain::dag::Dag;
use crate::domain::layout::{Layout, Route};

/// Sizes in pixels. Text is not measured: a character of the chosen size is about so wide in any common font.
const ID_CHARACTER: f64 = 7.8;
const SUBTITLE_CHARACTER: f64 = 6.4;
const NODE_HEIGHT: f64 = 46.0;
const NODE_PADDING: f64 = 30.0;
const ROW: f64 = 66.0;
const GAP: f64 = 56.0;
const MARGIN: f64 = 24.0;

#[derive(Template)]
#[template(path = "dag.svg", escape = "html")]
struct Picture<'a> {
    dag: &'a Dag,
    width: f64,
    height: f64,
    nodes: Vec<Node>,
    edges: Vec<String>,
    groups: Vec<Frame>,
}

/// The frame of a task group: around all of its tasks, as they lie.
struct Frame {
    x: f64,
    y: f64,
    width: f64,
    height: f64,
    label: String,
}

struct Node {
    x: f64,
    y: f64,
    width: f64,
    height: f64,
    id: String,
    subtitle: String,
}

/// An SVG document.
pub(crate) fn svg(dag: &Dag) -> String {
    picture(dag).render().expect("writing to a string cannot fail")
}

fn picture(dag: &Dag) -> Picture<'_> {
    let layout = Layout::of(dag);
    let mut widths: Vec<f64> = vec![0.0; layout.layers.len()];
    for task in dag.tasks() {
        let width = &mut widths[layout.layer_of[task.index.as_usize()]];
        let id = length(task.id.as_str()) * ID_CHARACTER;
        let below = length(&subtitle(task)) * SUBTITLE_CHARACTER;
        *width = width.max(id.max(below) + NODE_PADDING);
    }
    let mut columns = Vec::with_capacity(widths.len());
    let mut x = MARGIN;
    for width in &widths {
        columns.push(x);
        x += width + GAP;
    }
    let middle = |row: f64| MARGIN + row * ROW + NODE_HEIGHT / 2.0;
    let nodes = dag.tasks().iter().map(|task| {
        let at = task.index.as_usize();
        let layer = layout.layer_of[at];
        Node {
            x: columns[layer],
            y: middle(layout.row_of[at]) - NODE_HEIGHT / 2.0,
            width: widths[layer],
            height: NODE_HEIGHT,
            id: task.id.to_string(),
            subtitle: subtitle(task),
        }
    });
    let nodes: Vec<Node> = nodes.collect();
    let groups = frames(dag, &nodes);
    Picture {
        dag,
        width: (x - GAP + MARGIN).max(2.0 * MARGIN),
        height: layout.last_row * ROW + NODE_HEIGHT + 2.0 * MARGIN,
        nodes,
        groups,
        edges: layout.edges.iter().map(|edge| path(edge, &layout, &columns, &widths, middle)).collect(),
    }
}

/// How far a group's frame is from what is in it, and how much further for each group inside.
const FRAME: f64 = 7.0;

fn frames(dag: &Dag, nodes: &[Node]) -> Vec<Frame> {
    let groups = dag.groups();
    let depth = |at: usize| std::iter::successors(Some(at), |at| groups[*at].parent).count();
    let deepest = (0..groups.len()).map(depth).max().unwrap_or(0);
    let frame = |at: usize| {
        let tasks = dag.tasks_of_group(at);
        let inside = || tasks.iter().map(|task| &nodes[task.as_usize()]);
        let edge = |measure: fn(&Node) -> f64, pick: fn(f64, f64) -> f64| inside().map(measure).reduce(pick);
        let (left, top) = (edge(|node| node.x, f64::min)?, edge(|node| node.y, f64::min)?);
        let right = edge(|node| node.x + node.width, f64::max)?;
        let bottom = edge(|node| node.y + node.height, f64::max)?;
        let around = FRAME + 2.0 * f64::from(u32::try_from(deepest - depth(at)).unwrap_or(0));
        Some(Frame {
            x: left - around,
            y: top - around,
            width: right - left + 2.0 * around,
            height: bottom - top + 2.0 * around,
            label: groups[at].id.clone(),
        })
    };
    (0..groups.len()).filter_map(frame).collect()
}

/// An edge as a smooth path: level where it leaves, arrives and passes a layer.
fn path(edge: &Route, layout: &Layout, columns: &[f64], widths: &[f64], middle: impl Fn(f64) -> f64) -> String {
    let (from, to) = (edge.from.as_usize(), edge.to.as_usize());
    let start = layout.layer_of[from];
    let (mut x, mut y) = (columns[start] + widths[start], middle(layout.row_of[from]));
    let mut drawn = format!("M{x:.1} {y:.1}");
    let mut curve = |to_x: f64, to_y: f64, end_x: f64| {
        let half = (to_x - x) / 2.0;
        drawn.push_str(&format!(" C{:.1} {y:.1} {:.1} {to_y:.1} {to_x:.1} {to_y:.1}", x + half, to_x - half));
        if end_x > to_x {
            drawn.push_str(&format!(" H{end_x:.1}"));
        }
        (x, y) = (end_x, to_y);
    };
    for (layer, row) in &edge.via {
        curve(columns[*layer], middle(*row), columns[*layer] + widths[*layer]);
    }
    let end = columns[layout.layer_of[to]];
    curve(end - ARROW, middle(layout.row_of[to]), end - ARROW);
    drawn
}

/// The line ends where its arrow's head begins.
const ARROW: f64 = 6.0;

#[expect(clippy::cast_precision_loss, reason = "an id has at most 250 characters")]
fn length(text: &str) -> f64 {
    words::columns(text) as f64
}
