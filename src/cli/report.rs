//! A run in full, as `run`, `resume` and `show` answer with: tasks, reconciliation, results, and where the objects are.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::Serialize;
use serde_json::{Map, Value};

use crate::cli::colour::Colour;
use crate::cli::dag_file;
use crate::cli::output::Printer;
use crate::cli::session::Session;
use crate::cli::table::Field;
use crate::cli::task_word::{TaskWord, find_task_run};
use crate::cli::times::{Times, duration_ms};
use crate::cli::words;
use crate::clock;
use crate::domain::dag::Dag;
use crate::domain::ids::TaskIndex;
use crate::domain::reconcile::{self, AccountTask, TopicBalance};
use crate::domain::run_state::RunState;
use crate::domain::task_output::Spilled;
use crate::domain::task_state::TaskState;
use crate::engine::operator::chain;
use crate::store::{Run, Store, StoreError, WorkerId};

/// How many rows of a result people are shown; the objects have all.
const PREVIEW_ROWS: usize = 5;

/// Before a result's rows.
const MARGIN: &str = "  ";

/// The longest cell of a preview, in characters.
const PREVIEW_CELL: usize = 48;

/// An error in the table of tasks. Pages of HTML, or of SQL, would hide the other tasks.
const ERROR_EXCERPT: usize = 160;

/// An error of up to so many bytes and lines is told whole below the table when its run ends.
const PARAGRAPH: usize = 1000;
const PARAGRAPH_LINES: usize = 8;

/// Params, or a conf, of which `--output json` has all.
const GIVEN_EXCERPT: usize = 400;
/// What an instance is called, which may come from data.
const LABEL_EXCERPT: usize = 40;

/// So many failed instances are listed unasked.
const INSTANCES_LISTED: usize = 20;

/// A value in the table of tasks.
const VALUE_EXCERPT: usize = 60;

/// How much people are told of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Detail {
    /// At its end: of very long errors an excerpt, and where the rest is.
    Brief,
    /// When they ask: errors whole, and whether anybody drives it.
    Full,
}

/// A run, as it leaves the process. Every key is there, `null` or empty where there is nothing to say.
#[derive(Debug, Serialize)]
pub(crate) struct RunReport {
    run_id: String,
    dag_id: String,
    run_uuid: String,
    run_type: &'static str,
    /// Who asked for it: `schedule`, `run`, `cli`, `backfill`, a user, or a task as `dag.task`.
    triggered_by: String,
    logical_date: String,
    data_interval_start: String,
    data_interval_end: String,
    state: RunState,
    /// Whether a live process drives it.
    driven: bool,
    cancel_requested_at: Option<String>,
    /// Where it was not a person who asked.
    cancel_reason: Option<String>,
    /// What somebody wrote about it.
    note: Option<String>,
    queued_at: String,
    started_at: Option<String>,
    finished_at: Option<String>,
    duration_ms: Option<i64>,
    params: Map<String, Value>,
    /// What its trigger gave.
    conf: Map<String, Value>,
    tasks: Vec<TaskReport>,
    /// Whether people are shown every instance.
    #[serde(skip)]
    lists_instances: bool,
    reconciliation: Vec<TopicBalance>,
}

/// A task of a run, as it leaves the process.
#[derive(Debug, Serialize)]
struct TaskReport {
    task_id: String,
    /// Which instance of a mapped task; -1 of others, as Airflow has it.
    map_index: i64,
    /// What the instance is called.
    label: Option<String>,
    /// Of a mapped task: how many instances it has in each state.
    instances: BTreeMap<TaskState, u64>,
    /// Unknown when the run's DAG cannot be read any more.
    operator: Option<String>,
    state: TaskState,
    attempts: i64,
    lost: i32,
    /// When its latest attempt began; of a mapped task the first of its instances.
    started_at: Option<String>,
    /// When that ended; of a mapped task the last of its instances.
    finished_at: Option<String>,
    duration_ms: Option<i64>,
    error: Option<String>,
    output: Option<Map<String, Value>>,
    /// Where the output is, where it is too large for the database.
    spilled: Option<Spilled>,
}

/// Answers with a run that this process has driven, and does not any more.
pub(crate) async fn answer(session: &Session, store: &Store, run: &Run, dag: Option<&Dag>) -> anyhow::Result<()> {
    let report = RunReport::read(store, run, dag, None).await?;
    session.printer.answer(&report, || report.render(session.printer, Detail::Brief))
}

/// Answers with any run, whose DAG is read from the store. What cannot be read any more hides the operators' names, not
/// the run.
pub(crate) async fn answer_stored(session: &Session, store: &Store, run: &Run, detail: Detail) -> anyhow::Result<()> {
    let source = store.run_source(run.key).await?;
    let dag = dag_file::reread(&source.file, source.source, &run.dag_id);
    if let Err(error) = &dag {
        session.printer.say(&format!("warning: {error}; its operators are not shown"));
    }
    let driver = store.live_driver(run).await?;
    let mut report = RunReport::read(store, run, dag.as_ref().ok(), driver).await?;
    if session.printer.is_json() {
        report.fetch(session).await?;
    }
    session.printer.answer(&report, || report.render(session.printer, detail))
}

/// Answers with a run that somebody has asked for: a line for people, and all of it for programs.
pub(crate) async fn answer_asked(session: &Session, store: &Store, run: &Run) -> anyhow::Result<()> {
    let driver = store.live_driver(run).await?;
    let report = RunReport::read(store, run, dag_file::of_run(store, run).await.ok().as_ref(), driver).await?;
    session.printer.answer(&report, || {
        let state = Field::coloured(report.state, Colour::of_run(report.state));
        session.printer.line(vec![Field::text(&report.dag_id), Field::text(&report.run_id), state])
    })
}

/// Answers with the end of a run that was waited for: what failed for people, and all of it for programs.
pub(crate) async fn answer_end(session: &Session, store: &Store, run: &Run) -> anyhow::Result<()> {
    let report = RunReport::read(store, run, dag_file::of_run(store, run).await.ok().as_ref(), None).await?;
    session.printer.answer(&report, || report.render_end(session.printer))
}

/// Answers with one task of a run, of a mapped one with all instances or the one that is named. What is in object storage
/// is fetched.
pub(crate) async fn answer_task(session: &Session, store: &Store, run: &Run, word: &TaskWord) -> anyhow::Result<()> {
    let dag = dag_file::of_run(store, run).await?;
    let (_, name) = find_task_run(store, run, &dag, word).await?;
    let driver = store.live_driver(run).await?;
    let mut report = RunReport::read(store, run, Some(&dag), driver).await?;
    report.tasks.retain(|task| {
        let is_one = name.map_index.is_none_or(|index| task.map_index == i64::from(index));
        task.task_id == name.task.as_str() && is_one
    });
    report.lists_instances = true;
    report.fetch(session).await?;
    session.printer.answer(&report, || report.render(session.printer, Detail::Full))
}

impl RunReport {
    /// Fetches the outputs that are in object storage.
    async fn fetch(&mut self, session: &Session) -> anyhow::Result<()> {
        if self.tasks.iter().all(|task| task.spilled.is_none()) {
            return Ok(());
        }
        let (resolved, _) = session.connect(1).await?;
        let outputs = session.output_store(&resolved);
        for task in &mut self.tasks {
            let Some(spilled) = &task.spilled else { continue };
            match outputs.fetch_one(spilled).await {
                Ok(Value::Object(output)) => task.output = Some(output),
                Ok(_) => {}
                Err(error) => session.printer.say(&format!(
                    "warning: the output of `{}` is left out: {}",
                    task.name(),
                    chain(&error)
                )),
            }
        }
        Ok(())
    }

    /// Reads all of it from the store; `driver` is who drives the run now.
    async fn read(store: &Store, run: &Run, dag: Option<&Dag>, driver: Option<WorkerId>) -> Result<Self, StoreError> {
        let mut tasks = Vec::new();
        let mut indices = Vec::new();
        let mut all = store.task_runs(run.key).await?;
        // Instances come after their task.
        all.sort_by_key(|task| (task.map_of.unwrap_or(task.task), task.map_index));
        let mut by_task: BTreeMap<TaskIndex, BTreeMap<TaskState, u64>> = BTreeMap::new();
        for task in &all {
            if let Some(map_of) = task.map_of {
                *by_task.entry(map_of).or_default().entry(task.state).or_default() += 1;
            }
        }
        let (times, now) = (Times::of_all(&all, driver), clock::now());
        for task in all {
            let times = times.get(&task.task).copied().unwrap_or_default();
            let described = task.map_of.unwrap_or(task.task);
            let operator = dag.and_then(|dag| dag.task(described)).map(|task| task.operator.to_owned());
            indices.push(task.task);
            tasks.push(TaskReport {
                task_id: task.task_id.to_string(),
                map_index: task.map_index.map_or(-1, i64::from),
                label: task.label.clone(),
                instances: by_task.remove(&task.task).unwrap_or_default(),
                operator,
                state: task.state,
                attempts: task.fence, // each claim raises it by one, and is an attempt
                lost: task.lost,
                started_at: times.from.map(|at| at.to_rfc3339()),
                finished_at: times.to.map(|at| at.to_rfc3339()),
                duration_ms: times.duration_ms(now),
                error: task.error,
                output: task.output,
                spilled: task.spilled,
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
            run_type: run.run_type.as_str(),
            triggered_by: run.triggered_by.clone(),
            logical_date: run.logical_date.to_rfc3339(),
            data_interval_start: run.data_interval_start.to_rfc3339(),
            data_interval_end: run.data_interval_end.to_rfc3339(),
            state: run.state,
            driven: driver.is_some(),
            cancel_requested_at: run.cancel_requested_at.map(|at| at.to_rfc3339()),
            cancel_reason: run.cancel_reason.clone(),
            note: run.note.clone(),
            queued_at: run.queued_at.to_rfc3339(),
            started_at: run.started_at.map(|at| at.to_rfc3339()),
            finished_at: run.finished_at.map(|at| at.to_rfc3339()),
            duration_ms: duration_ms(run.started_at, run.finished_at),
            params: run.params.clone(),
            conf: run.conf.clone(),
            tasks,
            lists_instances: false,
            reconciliation,
        })
    }

    /// For people.
    fn render(&self, printer: Printer, detail: Detail) -> String {
        let mut text = String::new();
        self.write_heading(printer, detail, &mut text);
        self.write_tasks(printer, |_| true, &mut text);
        self.write_errors(detail, &mut text);
        self.write_reconciliation(printer, &mut text);
        for task in &self.tasks {
            if let Some(results) = task.output.as_ref().and_then(|output| output.get("results")?.as_object()) {
                write_results(printer, results, &mut text);
            }
        }
        self.write_places(&mut text);
        text
    }

    fn write_heading(&self, printer: Printer, detail: Detail, text: &mut String) {
        let took = self.duration_ms.map(|ms| format!(" in {}", words::milliseconds(ms))).unwrap_or_default();
        let cancelled = if self.cancel_requested_at.is_some() { " (cancelled)" } else { "" };
        let state = format!("{}{cancelled}{took}", self.state);
        text.push_str(&printer.line(vec![
            Field::text(&self.dag_id),
            Field::text(&self.run_id),
            Field::coloured(state, Colour::of_run(self.state)),
        ]));
        if let Some(reason) = &self.cancel_reason {
            let _ = writeln!(text, "cancelled: {}", words::printable(reason));
        }
        if let Some(note) = &self.note {
            for (place, line) in note.trim().lines().enumerate() {
                let before = if place == 0 { "note:" } else { "     " };
                let _ = writeln!(text, "{before} {}", words::printable(line));
            }
        }
        if detail == Detail::Full && !self.state.is_final() && !self.driven {
            let _ = writeln!(text, "nobody drives it; `pinsched resume {}` goes on", self.run_id);
        }
        text.push('\n');
        if detail == Detail::Full {
            self.write_facts(printer, text);
            text.push('\n');
        }
    }

    /// Where the run comes from and when what happened, in UTC.
    fn write_facts(&self, printer: Printer, text: &mut String) {
        let instant = |at: &Option<String>| at.as_deref().map_or_else(|| "-".to_owned(), words::instant);
        let interval = match self.data_interval_start == self.data_interval_end {
            true => words::instant(&self.data_interval_start),
            false => {
                format!("{} to {}", words::instant(&self.data_interval_start), words::instant(&self.data_interval_end))
            }
        };
        let mut facts = vec![
            ("uuid", self.run_uuid.clone()),
            ("type", format!("{}, by {}", self.run_type, words::printable(&self.triggered_by))),
            ("logical date", words::instant(&self.logical_date)),
            ("data interval", interval),
            ("queued", words::instant(&self.queued_at)),
            ("started", instant(&self.started_at)),
            ("finished", instant(&self.finished_at)),
        ];
        let given = [("params", &self.params), ("conf", &self.conf)];
        let said =
            |given: &Map<String, Value>| words::excerpt(&Value::Object(given.clone()).to_string(), GIVEN_EXCERPT);
        facts.extend(given.iter().filter(|(_, given)| !given.is_empty()).map(|(name, given)| (*name, said(given))));
        let fits = |line: &String| printer.answer_width().is_none_or(|width| words::columns(line) <= width);
        for (name, fact) in facts {
            let line = Some(format!("{name:<15}{fact}")).filter(fits);
            let _ = writeln!(text, "{}", line.unwrap_or_else(|| format!("{name}\n  {fact}")));
        }
    }

    /// The end of a run that was waited for: what failed, and where all of it is shown.
    fn render_end(&self, printer: Printer) -> String {
        let mut text = String::new();
        self.write_heading(printer, Detail::Brief, &mut text);
        let own = || self.tasks.iter().filter(|task| task.map_index < 0); // an instance is part of its task
        let count = |state: TaskState| own().filter(|task| task.state == state).count();
        let (failed, upstream_failed) = (count(TaskState::Failed), count(TaskState::UpstreamFailed));
        if failed > 0 {
            self.write_tasks(printer, |task| task.state.is_failure(), &mut text);
            self.write_errors(Detail::Brief, &mut text);
            text.push('\n');
        }
        let (all, shown) = (own().count() as u64, words::short_uuid(&self.run_uuid));
        let tasks = words::counted(all, "task", "tasks");
        let _ = match failed {
            0 => writeln!(text, "{tasks}; `pinsched show {shown}` shows all of it"),
            _ if upstream_failed > 0 => writeln!(
                text,
                "{failed} of {tasks} failed, {upstream_failed} upstream_failed; `pinsched show {shown}` shows all of it"
            ),
            _ => writeln!(text, "{failed} of {tasks} failed; `pinsched show {shown}` shows all of it"),
        };
        text
    }

    fn write_tasks(&self, printer: Printer, which: impl Fn(&TaskReport) -> bool, text: &mut String) {
        let mut table = printer.table(&["TASK", "OPERATOR", "STATE", "ATTEMPTS", "DURATION", ""]);
        let mut listed = 0;
        let mut left_out: BTreeMap<&str, u64> = BTreeMap::new();
        for task in self.tasks.iter().filter(|task| which(task)) {
            let is_instance = task.map_index >= 0;
            if is_instance && !self.lists_instances {
                listed += usize::from(task.state.is_failure());
                if !task.state.is_failure() {
                    continue;
                }
                if listed > INSTANCES_LISTED {
                    *left_out.entry(&task.task_id).or_default() += 1;
                    continue;
                }
            }
            table.row(vec![
                Field::text(task.name()),
                Field::text(task.operator.as_deref().unwrap_or("?")),
                Field::coloured(task.state, Colour::of_task(task.state)),
                Field::number(task.attempts),
                Field::number(task.duration_ms.map(words::milliseconds).unwrap_or_default()),
                Field::text(task.remark()),
            ]);
        }
        text.push_str(&table.render());
        for (task, count) in left_out {
            let instances = words::counted(count, "more instance", "more instances");
            let run = &self.run_id;
            let _ = writeln!(text, "… {instances} of `{task}` failed: `pinsched show {run} --task {task}` lists all");
        }
    }

    /// What of errors the table has no room for.
    fn write_errors(&self, detail: Detail, text: &mut String) {
        let mut left_out = false;
        let mut instances = 0;
        for task in &self.tasks {
            instances += usize::from(task.map_index >= 0 && task.error.is_some());
            if task.map_index >= 0 && instances > INSTANCES_LISTED && !self.lists_instances {
                continue;
            }
            let Some(error) = task.error.as_deref().filter(|error| !words::fits(error, ERROR_EXCERPT)) else {
                continue;
            };
            if detail == Detail::Brief && (error.len() > PARAGRAPH || error.trim().lines().count() > PARAGRAPH_LINES) {
                left_out = true;
                continue;
            }
            let _ = writeln!(text, "\nerror of `{}`", task.name());
            for line in error.trim().lines() {
                let _ = writeln!(text, "  {}", words::printable(line));
            }
        }
        if left_out {
            let _ = writeln!(text, "\nthe whole of an error: `pinsched show {}`", self.run_id);
        }
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
        let number = |count: Option<u64>| Field::number(count.map_or_else(|| "-".to_owned(), words::count));
        for topic in &self.reconciliation {
            let mut row = vec![Field::text(&topic.topic)];
            row.extend(with_sinks.then(|| Field::text(topic.sink.as_deref().unwrap_or("-"))));
            row.extend([
                number(topic.drawn),
                number(topic.produced),
                number(topic.sunk),
                number(Some(topic.dead_lettered)),
                number(Some(topic.duplicates)),
                Field::text(topic.balanced.as_str()),
            ]);
            table.row(row);
        }
        text.push_str(&table.render());
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
                let _ = writeln!(text, "  {}", words::printable(&place));
            }
        }
    }
}

impl TaskReport {
    /// `each`, of a mapped task with how many instances it has, and of one of these which it is.
    fn name(&self) -> String {
        let count: u64 = self.instances.values().sum();
        match (self.map_index, &self.label) {
            (0.., Some(label)) => {
                format!("{}[{}] {}", self.task_id, self.map_index, words::excerpt(label, LABEL_EXCERPT))
            }
            (0.., None) => format!("{}[{}]", self.task_id, self.map_index),
            _ if count > 0 => format!("{} [{}]", self.task_id, words::count(count)),
            _ => self.task_id.clone(),
        }
    }

    /// What matters most about the task, in a few words.
    fn remark(&self) -> String {
        if !self.instances.is_empty() {
            let counts: Vec<String> =
                self.instances.iter().map(|(state, count)| format!("{} {state}", words::count(*count))).collect();
            return counts.join(", ");
        }
        if let Some(error) = &self.error {
            return words::excerpt(error, ERROR_EXCERPT);
        }
        if let Some(spilled) = &self.spilled {
            return format!("{} bytes in {}", words::count(spilled.bytes), spilled.url);
        }
        let Some(output) = &self.output else { return String::new() };
        let number = |key: &str| output.get(key).and_then(Value::as_u64);
        let of_topics = |key: &str| -> u64 {
            let topics = output.get("topics").and_then(Value::as_object);
            topics.into_iter().flat_map(Map::values).filter_map(|topic| topic.get(key)?.as_u64()).sum()
        };
        match self.operator.as_deref() {
            Some("emulate") => number("rows").map(|rows| format!("{} drawn", words::counted(rows, "row", "rows"))),
            Some("produce") => Some(words::counted(of_topics("produced"), "record", "records")),
            Some("sink") => number("objects").map(|objects| {
                let records = words::counted(of_topics("records"), "record", "records");
                format!("{records} in {}", words::counted(objects, "object", "objects"))
            }),
            Some("transform") => {
                let results = output.get("results").and_then(Value::as_object);
                results.map(|results| words::counted(results.len() as u64, "result", "results"))
            }
            _ => output.get("return_value").and_then(Value::as_str).map(|value| words::excerpt(value, VALUE_EXCERPT)),
        }
        .unwrap_or_default()
    }
}

fn write_results(printer: Printer, results: &Map<String, Value>, text: &mut String) {
    let by_name: BTreeMap<&String, &Value> = results.iter().collect();
    for (name, result) in by_name {
        let rows = result.get("rows").and_then(Value::as_u64).unwrap_or(0);
        let _ = writeln!(text, "\n{}  ({})", words::printable(name), words::counted(rows, "row", "rows"));
        let empty = Vec::new();
        let columns = result.get("columns").and_then(Value::as_array).unwrap_or(&empty);
        let preview = result.get("preview").and_then(Value::as_array).unwrap_or(&empty);
        let headings: Vec<&str> = columns.iter().filter_map(Value::as_str).collect();
        let mut table = printer.table(&headings).within(MARGIN.len());
        for row in preview.iter().take(PREVIEW_ROWS).filter_map(Value::as_array) {
            table.row(row.iter().map(preview_field).collect());
        }
        for line in table.render().lines() {
            let _ = writeln!(text, "{MARGIN}{line}");
        }
        let shown = preview.len().min(PREVIEW_ROWS) as u64;
        if rows > shown {
            let _ = writeln!(text, "  … {} more", words::count(rows - shown));
        }
    }
}

fn preview_field(value: &Value) -> Field {
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
    let short = short.replace(['\n', '\r', '\t'], " ");
    if value.is_number() { Field::number(short) } else { Field::text(short) }
}

/// The ids of all tasks upstream, direct and indirect.
fn ids_upstream(dag: &Dag, index: TaskIndex) -> Vec<&str> {
    dag.ancestors(index).into_iter().filter_map(|index| dag.task(index)).map(|task| task.id.as_str()).collect()
}
