//! Where a DAG's tasks stand in a drawing: layers by longest path, few crossings, edges that pass between tasks.

use crate::domain::dag::Dag;
use crate::domain::ids::TaskIndex;

/// An edge over many layers takes a place in each of them. More such places than this, and long edges go straight.
const MOST_PASSES: usize = 20_000;

/// Rounds of ordering and straightening; more make no visible difference.
const ROUNDS: usize = 8;

/// A DAG laid out: layers go from upstream to downstream, rows across. Units are the caller's.
#[derive(Debug, Clone, PartialEq)]
pub struct Layout {
    /// The tasks of each layer, in order of row.
    pub layers: Vec<Vec<TaskIndex>>,
    /// Each task's layer, by its index.
    pub layer_of: Vec<usize>,
    /// Each task's row, by its index; tasks of a layer are at least 1 apart, the first row of all is 0.
    pub row_of: Vec<f64>,
    /// The edges.
    pub edges: Vec<Route>,
    /// The last row.
    pub last_row: f64,
}

/// An edge with the places where it passes the layers between its ends.
#[derive(Debug, Clone, PartialEq)]
pub struct Route {
    /// The task upstream.
    pub from: TaskIndex,
    /// The task downstream.
    pub to: TaskIndex,
    /// Layer and row of each pass.
    pub via: Vec<(usize, f64)>,
}

/// A place in a layer: a task's, or one that a long edge passes.
#[derive(Debug, Clone, Default)]
struct Place {
    layer: usize,
    row: f64,
    task: Option<TaskIndex>,
    before: Vec<usize>,
    after: Vec<usize>,
}

impl Layout {
    /// Lays out a DAG.
    #[must_use]
    pub fn of(dag: &Dag) -> Self {
        let layer_of = longest_paths(dag);
        let mut places: Vec<Place> = dag
            .tasks()
            .iter()
            .map(|task| Place { layer: layer_of[task.index.as_usize()], task: Some(task.index), ..Place::default() })
            .collect();
        let edges = dag.edges();
        let layers_between =
            |(from, to): &(TaskIndex, TaskIndex)| layer_of[to.as_usize()] - layer_of[from.as_usize()] - 1;
        let straight = edges.iter().map(layers_between).sum::<usize>() > MOST_PASSES;
        let mut passes: Vec<Vec<usize>> = Vec::with_capacity(edges.len());
        for edge in &edges {
            let first = layer_of[edge.0.as_usize()] + 1;
            let between = if straight { 0 } else { layers_between(edge) };
            let mut previous = edge.0.as_usize();
            let mut via = Vec::with_capacity(between);
            for layer in first..first + between {
                places.push(Place { layer, ..Place::default() });
                let place = places.len() - 1;
                connect(&mut places, previous, place);
                via.push(place);
                previous = place;
            }
            connect(&mut places, previous, edge.1.as_usize());
            passes.push(via);
        }
        let mut layers: Vec<Vec<usize>> = vec![Vec::new(); layer_of.iter().max().map_or(0, |last| last + 1)];
        for (position, place) in places.iter().enumerate() {
            layers[place.layer].push(position);
        }
        order(&mut places, &mut layers);
        straighten(&mut places, &layers);
        let first_row = places.iter().map(|place| place.row).fold(f64::INFINITY, f64::min);
        places.iter_mut().for_each(|place| place.row -= first_row);
        let routes = edges.iter().zip(passes).map(|((from, to), via)| Route {
            from: *from,
            to: *to,
            via: via.into_iter().map(|place| (places[place].layer, places[place].row)).collect(),
        });
        Self {
            edges: routes.collect(),
            layers: layers.iter().map(|layer| layer.iter().filter_map(|place| places[*place].task).collect()).collect(),
            row_of: places[..layer_of.len()].iter().map(|place| place.row).collect(),
            last_row: places.iter().map(|place| place.row).fold(0.0, f64::max),
            layer_of,
        }
    }
}

fn longest_paths(dag: &Dag) -> Vec<usize> {
    let mut layer_of = vec![0; dag.tasks().len()];
    for index in dag.topological() {
        let upstream = dag.upstream(index);
        layer_of[index.as_usize()] = upstream.iter().map(|up| layer_of[up.as_usize()] + 1).max().unwrap_or(0);
    }
    layer_of
}

fn connect(places: &mut [Place], from: usize, to: usize) {
    places[from].after.push(to);
    places[to].before.push(from);
}

/// The mean row of a place's neighbours on one side; its own row when it has none there.
fn barycentre(places: &[Place], place: usize, forward: bool) -> f64 {
    let neighbours = if forward { &places[place].before } else { &places[place].after };
    if neighbours.is_empty() {
        return places[place].row;
    }
    #[expect(clippy::cast_precision_loss, reason = "a task has fewer neighbours than a float has digits")]
    let count = neighbours.len() as f64;
    neighbours.iter().map(|neighbour| places[*neighbour].row).sum::<f64>() / count
}

/// Orders each layer by where its neighbours stand, forwards and backwards in turn.
fn order(places: &mut [Place], layers: &mut [Vec<usize>]) {
    number_rows(places, layers);
    for round in 0..ROUNDS {
        let forward = round % 2 == 0;
        let numbers: Vec<usize> = if forward { (0..layers.len()).collect() } else { (0..layers.len()).rev().collect() };
        for number in numbers {
            let layer = &mut layers[number];
            let mut keyed: Vec<(f64, usize)> =
                layer.iter().map(|place| (barycentre(places, *place, forward), *place)).collect();
            keyed.sort_by(|one, other| one.0.total_cmp(&other.0)); // stable: equal ones keep their order
            *layer = keyed.into_iter().map(|(_, place)| place).collect();
            number_rows(places, std::slice::from_ref(layer));
        }
    }
}

fn number_rows(places: &mut [Place], layers: &[Vec<usize>]) {
    for layer in layers {
        let mut row = 0.0;
        for place in layer {
            places[*place].row = row;
            row += 1.0;
        }
    }
}

/// Moves places towards their neighbours, in order and apart, so that chains run straight and layers are centred.
fn straighten(places: &mut [Place], layers: &[Vec<usize>]) {
    for round in 0..ROUNDS {
        let forward = round % 2 == 0;
        let numbers: Vec<usize> = if forward { (0..layers.len()).collect() } else { (0..layers.len()).rev().collect() };
        for number in numbers {
            let layer = &layers[number];
            let wanted: Vec<f64> = layer.iter().map(|place| barycentre(places, *place, forward)).collect();
            let mut rows: Vec<f64> = Vec::with_capacity(layer.len());
            for (position, row) in wanted.iter().enumerate() {
                let least = match position {
                    0 => f64::NEG_INFINITY,
                    _ => rows[position - 1] + apart(&places[layer[position - 1]], &places[layer[position]]),
                };
                rows.push(row.max(least));
            }
            #[expect(clippy::cast_precision_loss, reason = "a layer has fewer places than a float has digits")]
            let count = layer.len().max(1) as f64;
            let shift = (wanted.iter().sum::<f64>() - rows.iter().sum::<f64>()) / count;
            for (place, row) in layer.iter().zip(rows) {
                places[*place].row = row + shift;
            }
        }
    }
}

/// Passing edges may be nearer to each other than tasks.
fn apart(one: &Place, other: &Place) -> f64 {
    match (one.task, other.task) {
        (Some(_), Some(_)) => 1.0,
        (None, None) => 0.4,
        _ => 0.7,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::domain::check::check;
    use crate::domain::operator_kind::OperatorKind;
    use crate::domain::source::SourceFile;

    static NOTHING: OperatorKind = OperatorKind {
        name: "nothing",
        class_paths: &[],
        about: "",
        schema: || schemars::json_schema!({ "type": "object" }),
        check: |_| Vec::new(),
        late_fields: &[],
        file_keys: &[],
    };

    /// A DAG of tasks `t0`, `t1`…, each after those that are named.
    fn dag(upstream: &[Vec<usize>]) -> Dag {
        let mut text = String::from("d:\n  tasks:\n");
        for (task, upstream) in upstream.iter().enumerate() {
            let names: Vec<String> = upstream.iter().map(|up| format!("t{up}")).collect();
            text.push_str(&format!("    t{task}: {{operator: nothing, dependencies: [{}]}}\n", names.join(", ")));
        }
        check(&SourceFile::new("d.yaml", text), &[&NOTHING]).dags.remove(0)
    }

    #[test]
    fn a_chain_runs_straight_and_a_long_edge_passes_beside_it() {
        let layout = Layout::of(&dag(&[vec![], vec![0], vec![1], vec![0, 2]]));
        assert_eq!(layout.layer_of, [0, 1, 2, 3]);
        assert_eq!(layout.row_of[1], layout.row_of[2]);
        let long = layout.edges.iter().find(|edge| edge.via.len() == 2).unwrap();
        assert!(long.via.iter().all(|(layer, row)| (row - layout.row_of[*layer]).abs() >= 0.6));
    }

    #[test]
    fn two_pairs_do_not_cross() {
        let layout = Layout::of(&dag(&[vec![], vec![], vec![1], vec![0]]));
        let above = |one: usize, other: usize| layout.row_of[one] < layout.row_of[other];
        assert_eq!(above(0, 1), above(3, 2));
    }

    proptest! {
        #[test]
        fn edges_lead_on_and_nothing_overlaps(
            upstream in proptest::collection::vec(proptest::collection::vec(any::<prop::sample::Index>(), 0..4), 1..40)
        ) {
            let upstream: Vec<Vec<usize>> = upstream
                .iter()
                .enumerate()
                .map(|(task, picks)| if task == 0 { vec![] } else { picks.iter().map(|pick| pick.index(task)).collect() })
                .collect();
            let layout = Layout::of(&dag(&upstream));
            for edge in &layout.edges {
                prop_assert!(layout.layer_of[edge.from.as_usize()] < layout.layer_of[edge.to.as_usize()]);
            }
            for layer in &layout.layers {
                for pair in layer.windows(2) {
                    let rows = (layout.row_of[pair[0].as_usize()], layout.row_of[pair[1].as_usize()]);
                    prop_assert!(rows.1 - rows.0 > 0.999, "{rows:?}");
                }
            }
            prop_assert!(layout.row_of.iter().all(|row| (-0.001..=layout.last_row + 0.001).contains(row)));
        }
    }
}
