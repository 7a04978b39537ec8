//! `pinsched clear`, `mark`, `restart`, `priority` and `note`: what people do to runs. It is written to the database; whoever
//! runs the tasks acts on it.

use serde::Serialize;

use crate::cli::colour::Colour;
use crate::cli::dag_file::{self, find_named};
use crate::cli::exit::Exit;
use crate::cli::service_arguments::{ClearArguments, MarkArguments, MarkAs, Span};
use crate::cli::session::{Session, find_run};
use crate::cli::table::Field;
use crate::clock;
use crate::domain::control::{Action, Reach};
use crate::domain::dag::Dag;
use crate::domain::ids::{TaskIndex, TaskRunKey};
use crate::domain::mapping::TaskName;
use crate::domain::task_state::TaskState;
use crate::store::{Mode, Request, Run, Store, TaskRun, Word};

#[derive(Debug, Serialize)]
struct ChangeReport {
    dry_run: bool,
    changes: Vec<ChangeLine>,
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

/// What is done to which tasks of which runs.
struct Wish<'a> {
    action: Action,
    tasks: &'a [TaskName],
    reach: Reach,
    span: Span,
    dry_run: bool,
    words: &'a str,
}

pub(crate) async fn clear(session: &Session, arguments: &ClearArguments) -> anyhow::Result<Exit> {
    let reach =
        Reach { upstream: arguments.upstream, downstream: arguments.downstream, only_failed: arguments.only_failed };
    let wish = Wish {
        action: Action::Clear,
        tasks: &arguments.tasks,
        reach,
        span: arguments.span,
        dry_run: arguments.dry_run,
        words: "cleared by a person",
    };
    change(session, &arguments.run, &wish).await
}

pub(crate) async fn mark(session: &Session, arguments: &MarkArguments) -> anyhow::Result<Exit> {
    let (action, words) = match arguments.state {
        MarkAs::Success => (Action::MarkSuccess, "marked as success by a person"),
        MarkAs::Failed => (Action::MarkFailed, "marked as failed by a person"),
    };
    let reach = Reach { upstream: arguments.upstream, downstream: arguments.downstream, only_failed: false };
    let tasks = &arguments.tasks;
    let wish = Wish { action, tasks, reach, span: arguments.span, dry_run: arguments.dry_run, words };
    change(session, &arguments.run, &wish).await
}

/// Stops one task of a run, which fails. One that is over stays as it is: `mark` is for those.
pub(crate) async fn cancel_task(session: &Session, run: &str, task: &TaskName) -> anyhow::Result<Exit> {
    let (held, store) = session.connect_store().await?;
    let found = find_run(&store, run).await?;
    let index = find_named(&store, &found, &dag_file::of_run(&store, &found).await?, task).await?;
    let tasks = store.task_runs(found.key).await?;
    if let Some(over) = tasks.iter().find(|run| run.task == index && run.state.is_final()) {
        session.printer.error(&format!(
            "task `{task}` of run `{}` is over ({}); `pinsched mark` and `pinsched clear` change it",
            found.run_id, over.state
        ));
        return Ok(Exit::No);
    }
    drop(held);
    let wish = Wish {
        action: Action::MarkFailed,
        tasks: std::slice::from_ref(task),
        reach: Reach::default(),
        span: Span::default(),
        dry_run: false,
        words: "cancelled by a person",
    };
    change(session, run, &wish).await
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
    let wish = Wish {
        action: Action::Clear,
        tasks: &[],
        reach: Reach::default(),
        span: Span::default(),
        dry_run,
        words: "restarted by a person",
    };
    let lines = if undone.is_empty() { Vec::new() } else { apply_to(&store, &run, &dag, &wish, &undone).await? };
    answer(session, &store, dry_run, lines).await
}

pub(crate) async fn priority(session: &Session, run: &str, task: &TaskName, priority: i32) -> anyhow::Result<Exit> {
    let (_held, store) = session.connect_store().await?;
    let run = find_run(&store, run).await?;
    let dag = dag_file::of_run(&store, &run).await?;
    let index = find_named(&store, &run, &dag, task).await?;
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

async fn change(session: &Session, run: &str, wish: &Wish<'_>) -> anyhow::Result<Exit> {
    let (_held, store) = session.connect_store().await?;
    let run = find_run(&store, run).await?;
    let mut runs = vec![run.clone()];
    if wish.span.past || wish.span.future {
        let from = (!wish.span.past).then_some(run.logical_date);
        let to = (!wish.span.future).then_some(run.logical_date);
        let others = store.runs_between(&run.dag_id, from, to).await?;
        runs.extend(others.into_iter().filter(|other| other.key != run.key));
    }
    let mut lines = Vec::new();
    for one in &runs {
        let dag = dag_file::of_run(&store, one).await?;
        // Another run's DAG may be of another version, without some of the tasks.
        if one.key != run.key
            && wish.tasks.iter().all(|name| dag.task_named(&name.task).is_none())
            && !wish.tasks.is_empty()
        {
            continue;
        }
        lines.extend(apply(&store, one, &dag, wish).await?);
    }
    answer(session, &store, wish.dry_run, lines).await
}

async fn apply(store: &Store, run: &Run, dag: &Dag, wish: &Wish<'_>) -> anyhow::Result<Vec<ChangeLine>> {
    let mut tasks = Vec::with_capacity(wish.tasks.len());
    for name in wish.tasks {
        tasks.push(find_named(store, run, dag, name).await?);
    }
    apply_to(store, run, dag, wish, &tasks).await
}

/// The same to tasks whose places are known; the wish's own names are not looked at.
async fn apply_to(
    store: &Store,
    run: &Run,
    dag: &Dag,
    wish: &Wish<'_>,
    tasks: &[TaskIndex],
) -> anyhow::Result<Vec<ChangeLine>> {
    let request = Request { action: wish.action, tasks, reach: wish.reach, words: wish.words };
    let mode = if wish.dry_run { Mode::DryRun } else { Mode::Do };
    let changed = store.change_tasks(run.key, dag, request, mode, clock::now()).await?;
    Ok(changed
        .into_iter()
        .map(|changed| ChangeLine {
            dag_id: run.dag_id.to_string(),
            run_id: run.run_id.to_string(),
            task_id: changed.name.task.to_string(),
            map_index: changed.name.map_index.map_or(-1, i64::from),
            from: changed.from,
            to: changed.to,
        })
        .collect())
}

async fn answer(session: &Session, store: &Store, dry_run: bool, changes: Vec<ChangeLine>) -> anyhow::Result<Exit> {
    if !dry_run && !changes.is_empty() {
        for word in [Word::Look, Word::Work, Word::Schedule] {
            store.tell(word).await?;
        }
    }
    let report = ChangeReport { dry_run, changes };
    session.printer.answer(&report, || {
        if report.changes.is_empty() {
            return "nothing changes\n".to_owned();
        }
        let mut table = session.printer.table(&["DAG", "RUN", "TASK", "FROM", "TO"]).named_by(3);
        for line in &report.changes {
            table.row(vec![
                Field::text(&line.dag_id),
                Field::text(&line.run_id),
                Field::text(line.name()),
                Field::coloured(line.from, Colour::of_task(line.from)),
                Field::coloured(line.to, Colour::of_task(line.to)),
            ]);
        }
        let (count, would) = (report.changes.len(), if dry_run { "would change" } else { "changed" });
        let tasks = if count == 1 { "task" } else { "tasks" };
        format!("{}\n{count} {tasks} {would}\n", table.render())
    })?;
    Ok(Exit::Done)
}
