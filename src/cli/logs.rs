//! `pinsched logs RUN TASK`: an attempt's log, live or finished, by the same reader.

use std::time::Duration;

use anyhow::Context;
use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};

use crate::cli::arguments::LogsArguments;
use crate::cli::exit::Exit;
use crate::cli::output::Reader;
use crate::cli::session::{Session, find_run};
use crate::cli::words;
use crate::domain::diagnostic::{closest, listed};
use crate::domain::task_state::AttemptOutcome;
use crate::store::{AttemptRecord, Run, Store, TaskRun};

/// How often a followed log is looked at.
const LOOK: Duration = Duration::from_millis(300);

/// Every key is there, `null` where there is no attempt yet.
#[derive(Debug, Serialize)]
struct LogReport {
    run_id: String,
    task_id: String,
    /// Which instance of a mapped task; -1 of others, as Airflow has it.
    map_index: i64,
    attempt: Option<usize>,
    try_number: Option<i32>,
    outcome: Option<AttemptOutcome>,
    lines: Vec<String>,
}

pub(crate) async fn logs(session: &Session, arguments: &LogsArguments) -> anyhow::Result<Exit> {
    let (_held, store) = session.connect_store().await?;
    let run = find_run(&store, &arguments.run).await?;
    if !arguments.follow {
        return print_log(session, &store, &run, arguments).await;
    }
    // One stream, opened before the first wait: a Ctrl-C between two waits counts, too.
    let mut interrupts = signal(SignalKind::interrupt()).context("could not listen for Ctrl-C")?;
    tokio::select! {
        ended = print_log(session, &store, &run, arguments) => ended,
        _ = interrupts.recv() => Ok(Exit::Done),
    }
}

async fn print_log(session: &Session, store: &Store, run: &Run, arguments: &LogsArguments) -> anyhow::Result<Exit> {
    let (task, found) = find_attempt(session, store, run, arguments).await?;
    let mut report = LogReport {
        run_id: run.run_id.to_string(),
        task_id: task.task_id.to_string(),
        map_index: task.map_index.map_or(-1, i64::from),
        attempt: found.as_ref().map(|(number, _)| *number),
        try_number: found.as_ref().map(|(_, attempt)| attempt.try_number),
        outcome: None,
        lines: Vec::new(),
    };
    let mut body = String::new();
    match found {
        Some((_, attempt)) => {
            let mut next = 0;
            report.outcome = loop {
                // The outcome is read before the chunks: an attempt writes its last chunk before its end.
                let attempts = store.attempts(run.key, task.task).await?;
                let outcome = attempts.into_iter().find(|one| one.fence == attempt.fence).and_then(|one| one.outcome);
                loop {
                    let chunks = store.read_log(run.key, task.task, attempt.fence, next).await?;
                    if chunks.is_empty() {
                        break;
                    }
                    for (seq, chunk) in chunks {
                        next = seq + 1;
                        if session.printer.is_json() {
                            body.push_str(&chunk);
                        } else if session.printer.text(&chunk)? == Reader::Gone {
                            return Ok(Exit::Done);
                        }
                    }
                }
                if outcome.is_some() || !arguments.follow {
                    break outcome;
                }
                tokio::time::sleep(LOOK).await;
            };
        }
        None => session.printer.say(&format!("task `{}` has not run: it is {}", task.name(), task.state)),
    }
    if session.printer.is_json() {
        report.lines = body.lines().map(str::to_owned).collect();
        session.printer.answer(&report, String::new)?;
    }
    Ok(Exit::Done)
}

/// The task, and the attempt that is meant with its number. A follower waits for it while it may still come.
async fn find_attempt(
    session: &Session,
    store: &Store,
    run: &Run,
    arguments: &LogsArguments,
) -> anyhow::Result<(TaskRun, Option<(usize, AttemptRecord)>)> {
    let mut waits = false;
    loop {
        // The task is read before its attempts: one that has ended by now begins none.
        let mut tasks = store.task_runs(run.key).await?;
        let Some(place) = tasks.iter().position(|task| task.name() == arguments.task) else {
            let known = || tasks.iter().filter(|task| task.map_of.is_none()).map(|task| task.task_id.as_str());
            let of_it = tasks.iter().filter(|task| task.map_of.is_some() && task.task_id == arguments.task.task);
            if let Some(map_index) =
                arguments.task.map_index.filter(|_| known().any(|id| id == arguments.task.task.as_str()))
            {
                anyhow::bail!(
                    "task `{}` of run `{}` has no instance [{map_index}]: it has {} of them",
                    arguments.task.task,
                    run.run_id,
                    of_it.count()
                )
            }
            let near = closest(arguments.task.task.as_str(), known()).map(|near| format!("did you mean `{near}`? "));
            anyhow::bail!(
                "run `{}` has no task `{}`; {}it has {}",
                run.run_id,
                arguments.task,
                near.unwrap_or_default(),
                listed(known())
            )
        };
        let task = tasks.swap_remove(place);
        let attempts = store.attempts(run.key, task.task).await?;
        let count = attempts.len();
        let wanted = arguments.attempt.map_or(count, |number| number as usize);
        let found = wanted.checked_sub(1).and_then(|place| attempts.into_iter().nth(place));
        match found {
            Some(attempt) => return Ok((task, Some((wanted, attempt)))),
            None if arguments.attempt.is_some() => {
                let attempts = match count {
                    0 => "has no attempt yet".to_owned(),
                    _ => format!("has {}", words::counted(count as u64, "attempt", "attempts")),
                };
                anyhow::bail!("task `{}` {attempts}; there is no attempt {wanted}", task.name())
            }
            None if arguments.follow && !task.state.is_final() => {
                if !waits {
                    session.printer.say(&format!("waiting for task `{}` to begin: it is {}", task.name(), task.state));
                    waits = true;
                }
                tokio::time::sleep(LOOK).await;
            }
            None => return Ok((task, None)),
        }
    }
}
