//! What dag-factory writes in its own way, put as it stands here otherwise: Airflow's and Python's types by `__type__`, and
//! files from `$CONFIG_ROOT_DIR` on, which is the folder of the DAG files there and that of the DAG file here.

use serde_json::Number;

use crate::domain::yaml::{Entry, Node, NodeKind};

/// How dag-factory names a class whose fields stand beside it.
const TYPE: &str = "__type__";

/// A stretch of time in Python.
const TIME_DELTA: &str = "datetime.timedelta";

/// The arguments of Python's `timedelta`, in seconds.
const UNITS: [(&str, f64); 7] = [
    ("weeks", 604_800.0),
    ("days", 86_400.0),
    ("hours", 3_600.0),
    ("minutes", 60.0),
    ("seconds", 1.0),
    ("milliseconds", 1e-3),
    ("microseconds", 1e-6),
];

/// The folder of dag-factory's files, at the beginning of a path.
const FOLDERS: [&str; 2] = ["$CONFIG_ROOT_DIR/", "${CONFIG_ROOT_DIR}/"];

/// The same file in this dialect. What is neither stays as it is, and is complained of where it is read.
pub(in crate::domain) fn translated(node: &Node) -> Node {
    let kind = match &node.kind {
        NodeKind::Text(text) => match FOLDERS.iter().find_map(|folder| text.strip_prefix(folder)) {
            Some(path) => NodeKind::Text(format!("./{path}")),
            None => node.kind.clone(),
        },
        NodeKind::List(items) => NodeKind::List(items.iter().map(translated).collect()),
        NodeKind::Mapping(entries) => match seconds(entries) {
            Some(seconds) => NodeKind::Number(seconds),
            None => {
                let entry = |entry: &Entry| Entry { key: entry.key.clone(), value: translated(&entry.value) };
                NodeKind::Mapping(entries.iter().map(entry).collect())
            }
        },
        NodeKind::Null | NodeKind::Bool(_) | NodeKind::Number(_) => node.kind.clone(),
    };
    Node { span: node.span, kind }
}

/// The seconds of a stretch of time; `None` where it is none, or has a field that such have not.
fn seconds(entries: &[Entry]) -> Option<Number> {
    let is_time = |entry: &Entry| entry.key.text == TYPE && entry.value.as_text() == Some(TIME_DELTA);
    if !entries.iter().any(is_time) {
        return None;
    }
    let mut seconds = 0.0;
    for entry in entries.iter().filter(|entry| !is_time(entry)) {
        let (_, unit) = UNITS.iter().find(|(name, _)| *name == entry.key.text)?;
        let NodeKind::Number(amount) = &entry.value.kind else { return None };
        seconds += amount.as_f64()? * unit;
    }
    #[expect(clippy::cast_possible_truncation, reason = "it is whole, and far below")]
    match seconds.fract() == 0.0 && seconds.abs() < 1e15 {
        true => Some(Number::from(seconds as i64)),
        false => Number::from_f64(seconds),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::domain::source::Span;

    fn translate(value: Value) -> Value {
        translated(&Node::from_json(&value, Span::default())).to_json()
    }

    #[test]
    fn a_stretch_of_time_is_its_seconds_wherever_it_stands() {
        let written = json!({"a": [{"__type__": "datetime.timedelta", "minutes": 1, "seconds": 30}],
            "b": {"__type__": "datetime.timedelta", "milliseconds": 500}});
        assert_eq!(translate(written), json!({"a": [90], "b": 0.5}));
        for other in [
            json!({"__type__": "datetime.timedelta", "moons": 1}),
            json!({"__type__": "datetime.timedelta", "days": "one"}),
            json!({"__type__": "airflow.timetables.trigger.CronTriggerTimetable", "cron": "0 1 * * *"}),
            json!({"minutes": 1}),
        ] {
            assert_eq!(translate(other.clone()), other);
        }
    }

    #[test]
    fn a_path_from_the_folder_of_files_on_starts_at_the_files_own() {
        let written = json!({"file": "$CONFIG_ROOT_DIR/a.py", "other": "${CONFIG_ROOT_DIR}/b/c.sql", "text": "in $CONFIG_ROOT_DIR/"});
        assert_eq!(translate(written), json!({"file": "./a.py", "other": "./b/c.sql", "text": "in $CONFIG_ROOT_DIR/"}));
    }
}
