//! `pinsched logs RUN TASK`: an attempt's log, live or finished, by the same reader.

use std::time::Duration;

use anyhow::Context;
use serde::Serialize;

use crate::cli::arguments::LogsArguments;
use crate::cli::exit::Exit;
use crate::cli::session::{Session, find_run};
use crate::domain::ids::RunKey;
use crate::domain::task_state::AttemptOutcome;
use crate::store::{AttemptRecord, Store, TaskRun};

/// How often a followed log is looked at.
const LOOK: Duration = Duration::from_millis(300);

#[derive(Debug, Serialize)]
struct LogReport {
    run_id: String,
    task_id: String,
    attempt: usize,
    try_number: i32,
    outcome: Option<AttemptOutcome>,
    lines: Vec<String>,
}

pub(crate) async fn logs(session: &Session, arguments: &LogsArguments) -> anyhow::Result<Exit> {
    let (_held, store) = session.connect_store().await?;
    let run = find_run(&store, &arguments.run).await?;
    let tasks = store.task_runs(run.key).await?;
    let task = tasks.iter().find(|task| task.task_id == arguments.task).with_context(|| {
        let known: Vec<&str> = tasks.iter().map(|task| task.task_id.as_str()).collect();
        format!("run `{}` has no task `{}`; it has: {}", run.run_id, arguments.task, known.join(", "))
    })?;
    let Some((number, attempt)) = find_attempt(&store, run.key, task, arguments).await? else {
        session.printer.say(&format!("task `{}` has not run yet: it is {}", task.task_id, task.state));
        return Ok(Exit::Done);
    };
    if session.printer.is_json() {
        let mut body = String::new();
        read_on(&store, run.key, task, &attempt, 0, |chunk| body.push_str(chunk)).await?;
        let report = LogReport {
            run_id: run.run_id.to_string(),
            task_id: task.task_id.to_string(),
            attempt: number,
            try_number: attempt.try_number,
            outcome: attempt.outcome,
            lines: body.lines().map(str::to_owned).collect(),
        };
        session.printer.answer(&report, String::new);
        return Ok(Exit::Done);
    }
    let mut next = 0;
    loop {
        // The outcome is read before the chunks: an attempt writes its last chunk before its end.
        let attempts = store.attempts(run.key, task.task).await?;
        let ended = attempts.iter().any(|record| record.fence == attempt.fence && record.outcome.is_some());
        next = read_on(&store, run.key, task, &attempt, next, |chunk| session.printer.text(chunk)).await?;
        if ended || !arguments.follow {
            return Ok(Exit::Done);
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK) => {}
            _ = tokio::signal::ctrl_c() => return Ok(Exit::Done),
        }
    }
}

async fn find_attempt(
    store: &Store,
    run: RunKey,
    task: &TaskRun,
    arguments: &LogsArguments,
) -> anyhow::Result<Option<(usize, AttemptRecord)>> {
    loop {
        let attempts = store.attempts(run, task.task).await?;
        let count = attempts.len();
        let wanted = arguments.attempt.map_or(count, |number| number as usize);
        let found = wanted.checked_sub(1).and_then(|place| attempts.into_iter().nth(place));
        match found {
            Some(attempt) => return Ok(Some((wanted, attempt))),
            None if arguments.attempt.is_some() => {
                anyhow::bail!("task `{}` has {count} attempts; there is no attempt {wanted}", task.task_id)
            }
            None if arguments.follow && !task.state.is_final() => tokio::time::sleep(LOOK).await,
            None => return Ok(None),
        }
    }
}

/// Hands every chunk from `from` on to `take`; returns where to go on.
async fn read_on(
    store: &Store,
    run: RunKey,
    task: &TaskRun,
    attempt: &AttemptRecord,
    from: i32,
    mut take: impl FnMut(&str),
) -> anyhow::Result<i32> {
    let mut next = from;
    loop {
        let chunks = store.read_log(run, task.task, attempt.fence, next).await?;
        if chunks.is_empty() {
            return Ok(next);
        }
        for (seq, body) in chunks {
            take(&body);
            next = seq + 1;
        }
    }
}
