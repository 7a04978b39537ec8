//! `pinsched logs RUN TASK`: an attempt's log, live or finished, by the same reader.

use std::time::Duration;

use anyhow::Context;
use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};

use crate::cli::arguments::LogsArguments;
use crate::cli::dag_file;
use crate::cli::exit::Exit;
use crate::cli::output::Reader;
use crate::cli::session::{Session, find_run};
use crate::cli::task_word::{TaskWord, find_task_run};
use crate::cli::words;
use crate::domain::mapping::TaskName;
use crate::domain::task_state::AttemptOutcome;
use crate::store::{AttemptRecord, Run, Store, TaskPlace};

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
    let Found { name, row, attempt } = find_attempt(session, store, run, arguments).await?;
    let mut report = LogReport {
        run_id: run.run_id.to_string(),
        task_id: name.task.to_string(),
        map_index: name.map_index.map_or(-1, i64::from),
        attempt: attempt.as_ref().map(|(number, _)| *number),
        try_number: attempt.as_ref().map(|(_, attempt)| attempt.try_number),
        outcome: None,
        lines: Vec::new(),
    };
    let mut body = String::new();
    match attempt {
        Some((_, attempt)) => {
            let mut next = 0;
            report.outcome = loop {
                // The outcome is read before the chunks: an attempt writes its last chunk before its end.
                let attempts = store.attempts(run.key, row.task).await?;
                let outcome = attempts.into_iter().find(|one| one.fence == attempt.fence).and_then(|one| one.outcome);
                loop {
                    let chunks = store.read_log(run.key, row.task, attempt.fence, next).await?;
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
        None => session.printer.say(&format!("task `{name}` has not run: it is {}", row.state)),
    }
    if session.printer.is_json() {
        report.lines = body.lines().map(str::to_owned).collect();
        session.printer.answer(&report, String::new)?;
    }
    Ok(Exit::Done)
}

/// The task, and the attempt that is meant with its number.
struct Found {
    name: TaskName,
    row: TaskPlace,
    attempt: Option<(usize, AttemptRecord)>,
}

/// What is meant. A follower waits for it while it may still come.
async fn find_attempt(session: &Session, store: &Store, run: &Run, arguments: &LogsArguments) -> anyhow::Result<Found> {
    let mut waits = false;
    loop {
        // The task is read before its attempts: one that has ended by now begins none.
        let (name, row) = find_row(store, run, &arguments.task).await?;
        let attempts = store.attempts(run.key, row.task).await?;
        let count = attempts.len();
        let wanted = arguments.attempt.map_or(count, |number| number as usize);
        let found = wanted.checked_sub(1).and_then(|place| attempts.into_iter().nth(place));
        match found {
            Some(attempt) => return Ok(Found { name, row, attempt: Some((wanted, attempt)) }),
            None if arguments.attempt.is_some() => {
                let attempts = match count {
                    0 => "has no attempt yet".to_owned(),
                    _ => format!("has {}", words::counted(count as u64, "attempt", "attempts")),
                };
                anyhow::bail!("task `{name}` {attempts}; there is no attempt {wanted}")
            }
            None if arguments.follow && !row.state.is_final() => {
                if !waits {
                    session.printer.say(&format!("waiting for task `{name}` to begin: it is {}", row.state));
                    waits = true;
                }
                tokio::time::sleep(LOOK).await;
            }
            None => return Ok(Found { name, row, attempt: None }),
        }
    }
}

/// The task run of that name, without what it left; what there is instead the DAG says.
async fn find_row(store: &Store, run: &Run, word: &TaskWord) -> anyhow::Result<(TaskName, TaskPlace)> {
    if let Ok(name) = word.name()
        && let Some(row) = store.task_row(run.key, &name).await?
    {
        return Ok((name, row));
    }
    let dag = dag_file::of_run(store, run).await?;
    let (_, name) = find_task_run(store, run, &dag, word).await?;
    let row = store.task_row(run.key, &name).await?; // it may have come just now
    let row = row.with_context(|| {
        format!("run `{}` has no tasks yet, for it waits for its turn: `pinsched why` says for what", run.run_id)
    })?;
    Ok((name, row))
}
