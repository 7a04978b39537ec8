//! A run in full, as `run`, `resume` and `show` answer with: tasks, reconciliation, results, and where the objects are.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use comfy_table::{Cell, CellAlignment};
use serde::Serialize;
use serde_json::{Map, Value};

use crate::cli::dag_file;
use crate::cli::output::{Printer, lines, run_state_cell, task_state_cell};
use crate::cli::session::Session;
use crate::cli::words;
use crate::clock;
use crate::domain::Timestamp;
use crate::domain::dag::Dag;
use crate::domain::ids::TaskIndex;
use crate::domain::reconcile::{self, AccountTask, TopicBalance};
use crate::domain::run_state::RunState;
use crate::domain::task_state::TaskState;
use crate::store::{Run, Store, StoreError, TaskRun};

/// How many rows of a result people are shown; the objects have all.
const PREVIEW_ROWS: usize = 5;

/// The longest cell of a preview, in characters.
const PREVIEW_CELL: usize = 48;

/// A run, as it leaves the process. Every key is there, `null` or empty where there is nothing to say.
#[derive(Debug, Serialize)]
pub(crate) struct RunReport {
    run_id: String,
    dag_id: String,
    run_uuid: String,
    logical_date: String,
    state: RunState,
    cancel_requested_at: Option<String>,
    duration_ms: Option<i64>,
    params: Map<String, Value>,
    tasks: Vec<TaskReport>,
    reconciliation: Vec<TopicBalance>,
}

/// A task of a run, as it leaves the process.
#[derive(Debug, Serialize)]
struct TaskReport {
    task_id: String,
    /// Unknown when the run's DAG cannot be read any more.
    operator: Option<String>,
    state: TaskState,
    attempts: i64,
    lost: i32,
    duration_ms: Option<i64>,
    error: Option<String>,
    output: Option<Map<String, Value>>,
}

/// Answers with a run.
pub(crate) async fn answer(session: &Session, store: &Store, run: &Run, dag: Option<&Dag>) -> anyhow::Result<()> {
    let report = RunReport::read(store, run, dag).await?;
    session.printer.answer(&report, || report.render(session.printer))
}

/// The same for a run whose DAG is read from the store. What cannot be read any more hides the operators' names, not the
/// run.
pub(crate) async fn answer_stored(session: &Session, store: &Store, run: &Run) -> anyhow::Result<()> {
    let source = store.run_source(run.key).await?;
    let dag = dag_file::reread(&source.file, source.source, &run.dag_id);
    if let Err(error) = &dag {
        session.printer.say(&format!("warning: {error}; its operators are not shown"));
    }
    answer(session, store, run, dag.as_ref().ok()).await
}

impl RunReport {
    /// Reads all of it from the store.
    async fn read(store: &Store, run: &Run, dag: Option<&Dag>) -> Result<Self, StoreError> {
        let mut tasks = Vec::new();
        let mut indices = Vec::new();
        for task in store.task_runs(run.key).await? {
            let operator = dag.and_then(|dag| dag.task(task.task)).map(|task| task.operator.to_owned());
            indices.push(task.task);
            tasks.push(TaskReport {
                task_id: task.task_id.to_string(),
                operator,
                state: task.state,
                attempts: task.fence, // each claim raises it by one, and is an attempt
                lost: task.lost,
                duration_ms: duration_ms(task.started_at, task.finished_at.or_else(|| still_running(&task))),
                error: task.error,
                output: task.output,
            });
        }
        let accounted: Vec<AccountTask<'_>> = std::iter::zip(&tasks, indices)
            .map(|(task, index)| AccountTask {
                id: &task.task_id,
                operator: task.operator.as_deref().unwrap_or_default(),
                output: task.output.as_ref(),
                upstream: dag.map(|dag| ids_upstream(dag, index)).unwrap_or_default(),
            })
            .collect();
        let reconciliation = reconcile::of_run(&accounted);
        Ok(Self {
            run_id: run.run_id.to_string(),
            dag_id: run.dag_id.to_string(),
            run_uuid: run.uuid.to_string(),
            logical_date: run.logical_date.to_rfc3339(),
            state: run.state,
            cancel_requested_at: run.cancel_requested_at.map(|at| at.to_rfc3339()),
            duration_ms: duration_ms(run.started_at, run.finished_at),
            params: run.params.clone(),
            tasks,
            reconciliation,
        })
    }

    /// For people.
    fn render(&self, printer: Printer) -> String {
        let mut text = String::new();
        self.write_heading(printer, &mut text);
        self.write_tasks(printer, &mut text);
        self.write_reconciliation(printer, &mut text);
        for task in &self.tasks {
            if let Some(results) = task.output.as_ref().and_then(|output| output.get("results")?.as_object()) {
                write_results(printer, results, &mut text);
            }
        }
        self.write_places(&mut text);
        text
    }

    fn write_heading(&self, printer: Printer, text: &mut String) {
        let took = self.duration_ms.map(|ms| format!(" in {}", words::milliseconds(ms))).unwrap_or_default();
        let cancelled = if self.cancel_requested_at.is_some() { " (cancelled)" } else { "" };
        let mut state = printer.table(&[]);
        state.add_row(vec![run_state_cell(self.state)]);
        let state = lines(&state);
        let _ = writeln!(text, "{}  {}  {}{cancelled}{took}\n", self.dag_id, self.run_id, state.trim());
    }

    fn write_tasks(&self, printer: Printer, text: &mut String) {
        let mut table = printer.table(&["TASK", "OPERATOR", "STATE", "ATTEMPTS", "DURATION", ""]);
        for task in &self.tasks {
            table.add_row(vec![
                Cell::new(&task.task_id),
                Cell::new(task.operator.as_deref().unwrap_or("?")),
                task_state_cell(task.state),
                Cell::new(task.attempts).set_alignment(CellAlignment::Right),
                Cell::new(task.duration_ms.map(words::milliseconds).unwrap_or_default())
                    .set_alignment(CellAlignment::Right),
                Cell::new(task.remark()),
            ]);
        }
        text.push_str(&lines(&table));
    }

    fn write_reconciliation(&self, printer: Printer, text: &mut String) {
        if self.reconciliation.is_empty() {
            return;
        }
        text.push('\n');
        // Which sink it was is of interest only where there are several.
        let with_sinks = self.reconciliation.iter().any(|topic| topic.sink.is_some());
        let sink: &[&str] = if with_sinks { &["SINK"] } else { &[] };
        let counts = ["DRAWN", "PRODUCED", "SUNK", "DEAD-LETTERED", "REPLAYS DROPPED", ""];
        let mut table = printer.table(&[&["TOPIC"], sink, &counts].concat());
        let number = |count: Option<u64>| {
            Cell::new(count.map_or_else(|| "-".to_owned(), words::count)).set_alignment(CellAlignment::Right)
        };
        for topic in &self.reconciliation {
            let mut row = vec![Cell::new(&topic.topic)];
            row.extend(with_sinks.then(|| Cell::new(topic.sink.as_deref().unwrap_or("-"))));
            row.extend([
                number(topic.drawn),
                number(topic.produced),
                number(topic.sunk),
                number(Some(topic.dead_lettered)),
                number(Some(topic.duplicates)),
                Cell::new(topic.balanced.as_str()),
            ]);
            table.add_row(row);
        }
        text.push_str(&lines(&table));
    }

    fn write_places(&self, text: &mut String) {
        let mut places: Vec<String> = Vec::new();
        for output in self.tasks.iter().filter_map(|task| task.output.as_ref()) {
            let name = |key: &str| output.get(key).and_then(Value::as_str);
            if let (Some(bucket), Some(folder)) = (name("bucket"), name("topics_dir")) {
                places.push(format!("s3://{bucket}/{folder}/"));
            }
            let results = output.get("results").and_then(Value::as_object);
            for result in results.into_iter().flat_map(Map::values) {
                let objects = result.get("objects").and_then(Value::as_array).into_iter().flatten();
                for object in objects.filter_map(Value::as_str) {
                    let folder = object.rsplit_once('/').map_or(object, |(folder, _)| folder);
                    places.push(format!("{folder}/"));
                }
                if let Some(table) = result.get("table").and_then(Value::as_str) {
                    places.push(format!("table {table}"));
                }
            }
        }
        places.sort();
        places.dedup();
        if !places.is_empty() {
            text.push_str("\nobjects are in\n");
            for place in places {
                let _ = writeln!(text, "  {place}");
            }
        }
    }
}

impl TaskReport {
    /// What matters most about the task, in a few words.
    fn remark(&self) -> String {
        if let Some(error) = &self.error {
            return error.clone();
        }
        let Some(output) = &self.output else { return String::new() };
        let number = |key: &str| output.get(key).and_then(Value::as_u64);
        let of_topics = |key: &str| -> u64 {
            let topics = output.get("topics").and_then(Value::as_object);
            topics.into_iter().flat_map(Map::values).filter_map(|topic| topic.get(key)?.as_u64()).sum()
        };
        match self.operator.as_deref() {
            Some("emulate") => number("rows").map(|rows| format!("{} rows drawn", words::count(rows))),
            Some("produce") => Some(format!("{} records", words::count(of_topics("produced")))),
            Some("sink") => number("objects").map(|objects| {
                format!("{} records in {} objects", words::count(of_topics("records")), words::count(objects))
            }),
            Some("transform") => {
                let results = output.get("results").and_then(Value::as_object);
                results.map(|results| format!("{} results", results.len()))
            }
            _ => output.get("return_value").and_then(Value::as_str).map(|value| value.chars().take(60).collect()),
        }
        .unwrap_or_default()
    }
}

fn write_results(printer: Printer, results: &Map<String, Value>, text: &mut String) {
    let by_name: BTreeMap<&String, &Value> = results.iter().collect();
    for (name, result) in by_name {
        let rows = result.get("rows").and_then(Value::as_u64).unwrap_or(0);
        let noun = if rows == 1 { "row" } else { "rows" };
        let _ = writeln!(text, "\n{name}  ({} {noun})", words::count(rows));
        let empty = Vec::new();
        let columns = result.get("columns").and_then(Value::as_array).unwrap_or(&empty);
        let preview = result.get("preview").and_then(Value::as_array).unwrap_or(&empty);
        let headings: Vec<&str> = columns.iter().filter_map(Value::as_str).collect();
        let mut table = printer.table(&headings);
        for row in preview.iter().take(PREVIEW_ROWS).filter_map(Value::as_array) {
            table.add_row(row.iter().map(preview_cell));
        }
        for line in lines(&table).lines() {
            let _ = writeln!(text, "  {line}");
        }
        let shown = preview.len().min(PREVIEW_ROWS) as u64;
        if rows > shown {
            let _ = writeln!(text, "  … {} more", words::count(rows - shown));
        }
    }
}

fn preview_cell(value: &Value) -> Cell {
    let text = match value {
        Value::String(text) => text.clone(),
        Value::Null => "-".to_owned(),
        other => other.to_string(),
    };
    let short: String = if text.chars().count() > PREVIEW_CELL {
        text.chars().take(PREVIEW_CELL - 1).chain(['…']).collect()
    } else {
        text
    };
    let cell = Cell::new(short.replace(['\n', '\r', '\t'], " "));
    if value.is_number() { cell.set_alignment(CellAlignment::Right) } else { cell }
}

/// The ids of all tasks upstream, direct and indirect.
fn ids_upstream(dag: &Dag, index: TaskIndex) -> Vec<&str> {
    dag.ancestors(index).into_iter().filter_map(|index| dag.task(index)).map(|task| task.id.as_str()).collect()
}

fn still_running(task: &TaskRun) -> Option<Timestamp> {
    (task.state == TaskState::Running).then(clock::now)
}

fn duration_ms(from: Option<Timestamp>, to: Option<Timestamp>) -> Option<i64> {
    Some((to? - from?).num_milliseconds())
}
