//! `pinsched why RUN TASK`: in words, what a task waits for.

use anyhow::Context;
use serde::Serialize;

use crate::cli::dag_file;
use crate::cli::exit::Exit;
use crate::cli::session::{Session, find_run};
use crate::cli::task_word::{TaskWord, find_task_run};
use crate::cli::words;
use crate::clock;
use crate::domain::Timestamp;
use crate::domain::dag::Dag;
use crate::domain::ids::{TaskIndex, TaskRunKey};
use crate::domain::run_state::RunState;
use crate::domain::task_state::TaskState;
use crate::store::{Deferral, Run, Store, TaskBeforeClaim, TaskRun};

#[derive(Debug, Serialize)]
struct WhyReport {
    dag_id: String,
    run_id: String,
    task_id: String,
    state: Option<TaskState>,
    /// What keeps it from running; nothing where it runs, is over, or may be claimed at any moment.
    reasons: Vec<String>,
}

pub(crate) async fn why(session: &Session, run: &str, task: &TaskWord) -> anyhow::Result<Exit> {
    let (_held, store) = session.connect_store().await?;
    let run = find_run(&store, run).await?;
    let dag = dag_file::of_run(&store, &run).await?;
    let (index, task) = find_task_run(&store, &run, &dag, task).await?;
    let standing = store.standing(TaskRunKey { run: run.key, task: index }).await?;
    let (sentence, reasons) = match &standing {
        None => of_waiting_run(&store, &run).await?,
        Some(standing) if standing.state == TaskState::Deferred => {
            deferred(&store.deferral(TaskRunKey { run: run.key, task: index }).await?, clock::now())
        }
        Some(standing) => {
            let tasks = store.task_runs(run.key).await?;
            explain(standing, &dag, index, &tasks, clock::now())
        }
    };
    let report = WhyReport {
        dag_id: run.dag_id.to_string(),
        run_id: run.run_id.to_string(),
        task_id: task.to_string(),
        state: standing.as_ref().map(|standing| standing.state),
        reasons,
    };
    session.printer.answer(&report, || {
        let mut text = format!("{}  {}  {task}: {sentence}\n", run.dag_id, run.run_id);
        for reason in &report.reasons {
            text.push_str(&format!("  - {reason}\n"));
        }
        text
    })?;
    Ok(Exit::Done)
}

/// Of a run that has no tasks yet.
async fn of_waiting_run(store: &Store, run: &Run) -> anyhow::Result<(String, Vec<String>)> {
    if run.state != RunState::Queued {
        return Ok((format!("its run ended as {} before it began", run.state), Vec::new()));
    }
    let state = store.dag_state(&run.dag_id).await?.context("the DAG is gone")?;
    let mut reasons = Vec::new();
    if state.is_paused {
        reasons.push("the DAG is paused; `pinsched unpause` lets it go on".to_owned());
    } else {
        reasons.push("as many runs as may (max_active_runs, or those of its backfill) go on already".to_owned());
    }
    Ok(("its run waits for its turn".to_owned(), reasons))
}

/// One sentence, and what keeps the task from running.
fn explain(
    standing: &TaskBeforeClaim,
    dag: &Dag,
    task: TaskIndex,
    tasks: &[TaskRun],
    now: Timestamp,
) -> (String, Vec<String>) {
    match standing.state {
        TaskState::Running => (format!("it runs (try {})", standing.try_number), Vec::new()),
        TaskState::Deferred => ("it waits for something outside, and takes no slot".to_owned(), Vec::new()),
        TaskState::Mapped => {
            let left = standing.upstream_unfinished;
            (format!("it waits for its instances: {left} of them are not over"), Vec::new())
        }
        TaskState::Success | TaskState::Failed | TaskState::UpstreamFailed | TaskState::Skipped => {
            let error = standing.error.as_deref().map(|error| format!(": {error}")).unwrap_or_default();
            (format!("it is over, {}{error}", standing.state), Vec::new())
        }
        TaskState::None => {
            let rule = dag.task(task).map_or("all_success", |task| task.trigger_rule.as_str());
            let reasons = dag.upstream(task).into_iter().filter_map(|index| {
                let (upstream, run) = (dag.task(index)?, tasks.iter().find(|run| run.task == index)?);
                (!run.state.is_final()).then(|| format!("`{}` is {}", upstream.id, run.state))
            });
            (format!("it waits for its upstreams (trigger rule {rule})"), reasons.collect())
        }
        TaskState::Queued | TaskState::UpForRetry => waiting(standing, now),
    }
}

/// Of a task that waits without a slot: since when, and for what by its own words.
fn deferred(deferral: &Deferral, now: Timestamp) -> (String, Vec<String>) {
    let since = deferral.since.map(|since| {
        let waited = words::duration((now - since).to_std().unwrap_or_default());
        format!(" since {} ({waited})", words::instant(&since.to_rfc3339()))
    });
    let sentence = format!("it waits for something outside{}, and takes no slot", since.unwrap_or_default());
    (sentence, deferral.said.iter().map(|said| format!("its log says: {said}")).collect())
}

/// What keeps a task back that the queue holds.
fn waiting(standing: &TaskBeforeClaim, now: Timestamp) -> (String, Vec<String>) {
    let mut reasons = Vec::new();
    if let Some(at) = standing.ready_at.filter(|at| *at > now) {
        let error = standing.error.as_deref().map(|error| format!(" (its last attempt: {error})")).unwrap_or_default();
        let wait = (at - now).num_seconds().max(1);
        reasons.push(format!("its retry is due in {wait} s{error}"));
    }
    if standing.cancel_requested {
        reasons.push("the run is being cancelled".to_owned());
    }
    if standing.is_paused && standing.owner.is_none() {
        reasons.push("the DAG is paused; `pinsched unpause` lets it go on".to_owned());
    }
    for limit in standing.limits.iter().filter(|limit| limit.keeps_back()) {
        let (name, most, free, takes) = (&limit.name, limit.most, limit.free.max(0), limit.takes);
        reasons.push(match takes {
            _ if takes > most => {
                let slots = words::counted(most.unsigned_abs(), "slot", "slots");
                format!("{name} has {slots} at all, and it takes {takes}: it can never run")
            }
            1 => format!("{name} is reached: {most} at once, none free"),
            _ => format!("{name} has {free} of {most} slots free, and it takes {takes}"),
        });
    }
    if !standing.past_allows {
        let tasks = standing.waits_for_past.join("`, `");
        reasons.push(format!("the run before has not succeeded with `{tasks}` (depends_on_past)"));
    }
    if standing.live_workers == 0 && standing.owner.is_none() {
        reasons.push("no worker is alive: start one by `pinsched serve`".to_owned());
    }
    if reasons.is_empty() {
        let ahead = standing.ahead;
        let sentence = match ahead {
            0 => "it is ready, and the next free slot of a worker is its own".to_owned(),
            1 => "it is ready; one task of higher priority or greater age goes before it".to_owned(),
            _ => format!("it is ready; {ahead} tasks of higher priority or greater age go before it"),
        };
        return (sentence, reasons);
    }
    ("it waits".to_owned(), reasons)
}
