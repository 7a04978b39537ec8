//! `pinsched clear`, `mark`, `restart`, `priority` and `note`: what people do to runs. It is written to the database; whoever
//! runs the tasks acts on it.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use crate::cli::colour::Colour;
use crate::cli::dag_file;
use crate::cli::exit::Exit;
use crate::cli::output::Printer;
use crate::cli::service_arguments::{ClearArguments, MarkArguments, MarkAs, Span};
use crate::cli::session::{Session, find_run};
use crate::cli::table::Field;
use crate::cli::task_word::{TaskWord, find_task_run};
use crate::cli::words;
use crate::clock;
use crate::domain::control::{Action, Reach};
use crate::domain::dag::Dag;
use crate::domain::ids::{TaskIndex, TaskRunKey};
use crate::domain::mapping::TaskName;
use crate::domain::task_state::TaskState;
use crate::store::{Mode, Request, Run, Store, TaskRun, Word};

/// So many instances of a task that go are listed; of more, how many are in which state.
const INSTANCES_LISTED: usize = 20;

#[derive(Debug, Serialize)]
struct ChangeReport {
    dry_run: bool,
    changes: Vec<ChangeLine>,
    /// Instances of mapped tasks that are no more: their task is expanded anew.
    removed: Vec<RemovedLine>,
}

/// An instance that is no more.
#[derive(Debug, Serialize)]
struct RemovedLine {
    dag_id: String,
    run_id: String,
    task_id: String,
    map_index: i64,
    /// Where it stands.
    from: TaskState,
}

#[derive(Debug, Serialize)]
struct ChangeLine {
    dag_id: String,
    run_id: String,
    task_id: String,
    /// Which instance of a mapped task; -1 of others, as Airflow has it.
    map_index: i64,
    from: TaskState,
    to: TaskState,
}

impl ChangeLine {
    fn name(&self) -> String {
        match self.map_index {
            ..0 => self.task_id.clone(),
            index => format!("{}[{index}]", self.task_id),
        }
    }
}

/// What is done, to tasks that are named with it.
struct Wish<'a> {
    action: Action,
    reach: Reach,
    dry_run: bool,
    words: &'a str,
}

pub(crate) async fn clear(session: &Session, arguments: &ClearArguments) -> anyhow::Result<Exit> {
    let reach =
        Reach { upstream: arguments.upstream, downstream: arguments.downstream, only_failed: arguments.only_failed };
    let wish = Wish { action: Action::Clear, reach, dry_run: arguments.dry_run, words: "cleared by a person" };
    change(session, &arguments.run, arguments.span, &arguments.tasks, &wish).await
}

pub(crate) async fn mark(session: &Session, arguments: &MarkArguments) -> anyhow::Result<Exit> {
    let (action, words) = match arguments.state {
        MarkAs::Success => (Action::MarkSuccess, "marked as success by a person"),
        MarkAs::Failed => (Action::MarkFailed, "marked as failed by a person"),
    };
    let reach = Reach { upstream: arguments.upstream, downstream: arguments.downstream, only_failed: false };
    let wish = Wish { action, reach, dry_run: arguments.dry_run, words };
    change(session, &arguments.run, arguments.span, &arguments.tasks, &wish).await
}

/// Stops one task of a run, which fails. One that is over stays as it is: `mark` is for those.
pub(crate) async fn cancel_task(session: &Session, run: &str, task: &TaskWord) -> anyhow::Result<Exit> {
    let (_held, store) = session.connect_store().await?;
    let found = find_run(&store, run).await?;
    let dag = dag_file::of_run(&store, &found).await?;
    let (index, task) = find_task_run(&store, &found, &dag, task).await?;
    let tasks = store.task_runs(found.key).await?;
    if let Some(over) = tasks.iter().find(|run| run.task == index && run.state.is_final()) {
        session.printer.error(&format!(
            "task `{task}` of run `{}` is over ({}); `pinsched mark` and `pinsched clear` change it",
            found.run_id, over.state
        ));
        return Ok(Exit::No);
    }
    let wish =
        Wish { action: Action::MarkFailed, reach: Reach::default(), dry_run: false, words: "cancelled by a person" };
    let mut report = ChangeReport { dry_run: wish.dry_run, changes: Vec::new(), removed: Vec::new() };
    apply(&store, &found, &dag, &[index], &wish, &mut report).await?;
    answer(session, &store, report).await
}

/// Lets a run go on from any state: what did not succeed runs again, or all of it.
pub(crate) async fn restart(session: &Session, run: &str, all: bool, dry_run: bool) -> anyhow::Result<Exit> {
    let (_held, store) = session.connect_store().await?;
    let run = find_run(&store, run).await?;
    let dag = dag_file::of_run(&store, &run).await?;
    let tasks = store.task_runs(run.key).await?;
    let is_done = |state: TaskState| matches!(state, TaskState::Success | TaskState::Skipped);
    let has_undone = |task: &TaskRun| tasks.iter().any(|one| one.map_of == Some(task.task) && !is_done(one.state));
    // Of a mapped task those instances that are not done, where there are some; all of it means new ones.
    let is_meant = |task: &&TaskRun| match all {
        true => task.map_of.is_none(),
        false => !is_done(task.state) && !has_undone(task),
    };
    let undone: Vec<TaskIndex> = tasks.iter().filter(is_meant).map(|task| task.task).collect();
    let wish = Wish { action: Action::Clear, reach: Reach::default(), dry_run, words: "restarted by a person" };
    let mut report = ChangeReport { dry_run, changes: Vec::new(), removed: Vec::new() };
    if !undone.is_empty() {
        apply(&store, &run, &dag, &undone, &wish, &mut report).await?;
    }
    answer(session, &store, report).await
}

pub(crate) async fn priority(session: &Session, run: &str, task: &TaskWord, priority: i32) -> anyhow::Result<Exit> {
    let (_held, store) = session.connect_store().await?;
    let run = find_run(&store, run).await?;
    let dag = dag_file::of_run(&store, &run).await?;
    let (index, task) = find_task_run(&store, &run, &dag, task).await?;
    if !store.set_priority(TaskRunKey { run: run.key, task: index }, priority).await? {
        session.printer.error(&format!("task `{task}` of run `{}` runs already, or is over", run.run_id));
        return Ok(Exit::No);
    }
    store.tell(Word::Work).await?;
    session.printer.say(&format!("{}  {}  {task}  has priority {priority}", run.dag_id, run.run_id));
    Ok(Exit::Done)
}

#[derive(Debug, Serialize)]
struct Noted {
    dag_id: String,
    run_id: String,
    note: String,
}

pub(crate) async fn note(session: &Session, run: &str, text: &str) -> anyhow::Result<Exit> {
    let (_held, store) = session.connect_store().await?;
    let run = find_run(&store, run).await?;
    store.note_run(run.key, text).await?;
    let noted = Noted { dag_id: run.dag_id.to_string(), run_id: run.run_id.to_string(), note: text.to_owned() };
    session.printer.answer(&noted, || format!("{}  {}  noted\n", run.dag_id, run.run_id))?;
    Ok(Exit::Done)
}

/// Does it to the named tasks of a run, and of others where the span says so: all that is named is found before anything is
/// done.
async fn change(session: &Session, run: &str, span: Span, words: &[TaskWord], wish: &Wish<'_>) -> anyhow::Result<Exit> {
    let (_held, store) = session.connect_store().await?;
    let run = find_run(&store, run).await?;
    let dag = dag_file::of_run(&store, &run).await?;
    let (mut tasks, mut names) = (Vec::with_capacity(words.len()), Vec::with_capacity(words.len()));
    for word in words {
        let (task, name) = find_task_run(&store, &run, &dag, word).await?;
        tasks.push(task);
        names.push(name);
    }
    let mut found = vec![(run.clone(), tasks)];
    let mut dags = BTreeMap::from([(run.version, dag)]);
    if span.past || span.future {
        let from = (!span.past).then_some(run.logical_date);
        let to = (!span.future).then_some(run.logical_date);
        for other in store.runs_between(&run.dag_id, from, to).await? {
            if other.key == run.key {
                continue;
            }
            let dag = match dags.entry(other.version) {
                Entry::Occupied(known) => known.into_mut(),
                Entry::Vacant(unknown) => unknown.insert(dag_file::of_run(&store, &other).await?),
            };
            let tasks = present(&store, &other, dag, &names).await?;
            if names.is_empty() || !tasks.is_empty() {
                found.push((other, tasks));
            }
        }
    }
    let mut report = ChangeReport { dry_run: wish.dry_run, changes: Vec::new(), removed: Vec::new() };
    for (run, tasks) in &found {
        if let Some(dag) = dags.get(&run.version) {
            apply(&store, run, dag, tasks, wish, &mut report).await?;
        }
    }
    answer(session, &store, report).await
}

/// Those of the named tasks that another run has: its DAG may be of another version, and its mapped tasks of another length.
async fn present(store: &Store, run: &Run, dag: &Dag, names: &[TaskName]) -> anyhow::Result<Vec<TaskIndex>> {
    let mut found = Vec::with_capacity(names.len());
    for name in names {
        let Some(task) = dag.task_named(&name.task) else { continue };
        match name.map_index {
            None => found.push(task.index),
            Some(index) => found.extend(store.instance(run.key, task.index, index).await?),
        }
    }
    Ok(found)
}

async fn apply(
    store: &Store,
    run: &Run,
    dag: &Dag,
    tasks: &[TaskIndex],
    wish: &Wish<'_>,
    report: &mut ChangeReport,
) -> anyhow::Result<()> {
    let request = Request { action: wish.action, tasks, reach: wish.reach, words: wish.words };
    let mode = if wish.dry_run { Mode::DryRun } else { Mode::Do };
    // As they stand before: those of a task that is cleared are gone after.
    let mapped = dag.tasks().iter().filter(|task| task.mapping.is_some()).map(|task| task.index);
    let mapped: Vec<TaskIndex> = mapped.collect();
    let instances = match mapped.is_empty() {
        true => Vec::new(),
        false => store.instance_states(run.key, &mapped).await?,
    };
    let changed = store.change_tasks(run.key, dag, request, mode, clock::now()).await?;
    // One that is marked is so with its instances, and one whose instances run again is `mapped`: any other that changes is
    // cleared, and is expanded anew.
    let keeps = |to: TaskState| matches!(to, TaskState::Mapped | TaskState::Success | TaskState::Failed);
    let anew: BTreeSet<TaskIndex> = changed.iter().filter(|one| !keeps(one.to)).map(|one| one.task).collect();
    report.removed.extend(instances.into_iter().filter(|one| anew.contains(&one.map_of)).filter_map(|instance| {
        Some(RemovedLine {
            dag_id: run.dag_id.to_string(),
            run_id: run.run_id.to_string(),
            task_id: dag.task(instance.map_of)?.id.to_string(),
            map_index: i64::from(instance.map_index),
            from: instance.state,
        })
    }));
    report.changes.extend(changed.into_iter().map(|changed| ChangeLine {
        dag_id: run.dag_id.to_string(),
        run_id: run.run_id.to_string(),
        task_id: changed.name.task.to_string(),
        map_index: changed.name.map_index.map_or(-1, i64::from),
        from: changed.from,
        to: changed.to,
    }));
    Ok(())
}

async fn answer(session: &Session, store: &Store, report: ChangeReport) -> anyhow::Result<Exit> {
    if !report.dry_run && !report.changes.is_empty() {
        for word in [Word::Look, Word::Work, Word::Schedule] {
            store.tell(word).await?;
        }
    }
    session.printer.answer(&report, || report.render(session.printer))?;
    Ok(Exit::Done)
}

impl ChangeReport {
    fn render(&self, printer: Printer) -> String {
        if self.changes.is_empty() {
            return "nothing changes\n".to_owned();
        }
        let mut removed: BTreeMap<(&str, &str), Vec<&RemovedLine>> = BTreeMap::new();
        for line in &self.removed {
            removed.entry((&line.run_id, &line.task_id)).or_default().push(line);
        }
        let mut table = printer.table(&["DAG", "RUN", "TASK", "FROM", "TO"]).named_by(3);
        for line in &self.changes {
            table.row(vec![
                Field::text(&line.dag_id),
                Field::text(&line.run_id),
                Field::text(line.name()),
                Field::coloured(line.from, Colour::of_task(line.from)),
                Field::coloured(line.to, Colour::of_task(line.to)),
            ]);
            let of_it = removed.get(&(line.run_id.as_str(), line.task_id.as_str())).filter(|_| line.map_index < 0);
            for (name, from) in of_it.into_iter().flat_map(|instances| removed_rows(instances)) {
                table.row(vec![
                    Field::text(&line.dag_id),
                    Field::text(&line.run_id),
                    name,
                    from,
                    Field::text("removed"),
                ]);
            }
        }
        let would = if self.dry_run { "would change" } else { "changed" };
        let mut said = format!("{} {would}", words::counted(self.changes.len() as u64, "task", "tasks"));
        if !self.removed.is_empty() {
            let count = words::counted(self.removed.len() as u64, "instance", "instances");
            let go = if self.dry_run { "would be removed" } else { "removed" };
            let anew = match (self.removed.len(), removed.len()) {
                (1, _) => "its task is",
                (_, 1) => "their task is",
                (..) => "their tasks are",
            };
            said.push_str(&format!(", {count} {go}: {anew} expanded anew"));
        }
        format!("{}\n{said}\n", table.render())
    }
}

/// The instances of a task that are no more, each with where it stands; of many, how many are in which state.
fn removed_rows(instances: &[&RemovedLine]) -> Vec<(Field, Field)> {
    if instances.len() <= INSTANCES_LISTED {
        let row = |line: &&RemovedLine| {
            let name = Field::text(format!("{}[{}]", line.task_id, line.map_index));
            (name, Field::coloured(line.from, Colour::of_task(line.from)))
        };
        return instances.iter().map(row).collect();
    }
    let mut counts: BTreeMap<TaskState, u64> = BTreeMap::new();
    for line in instances {
        *counts.entry(line.from).or_default() += 1;
    }
    let counts: Vec<String> = counts.iter().map(|(state, count)| format!("{} {state}", words::count(*count))).collect();
    let name = format!("{} [{}]", instances[0].task_id, words::count(instances.len() as u64));
    vec![(Field::text(name), Field::text(counts.join(", ")))]
}
