//! `pinsched trigger DAG`: asks for a run, which any worker takes.

use std::time::Duration;

use anyhow::Context;
use serde_json::{Map, Value};

use crate::cli::dag_file;
use crate::cli::dates::parse_date;
use crate::cli::exit::Exit;
use crate::cli::params;
use crate::cli::report;
use crate::cli::service_arguments::TriggerArguments;
use crate::cli::session::{Session, find_dag};
use crate::cli::words;
use crate::clock;
use crate::domain::run_state::RunState;
use crate::domain::run_type::RunType;
use crate::store::{Begin, NewRun, Run, Store, StoreError, Word};

/// How often the run is looked at while its end is waited for.
const LOOK: Duration = Duration::from_millis(200);

pub(crate) async fn trigger(session: &Session, arguments: &TriggerArguments) -> anyhow::Result<Exit> {
    let (_held, store) = session.connect_store().await?;
    let state = find_dag(&store, &arguments.dag).await?;
    let version = state.version.with_context(|| {
        format!("no service has registered DAG `{}`: `pinsched run FILE` runs it from its file", state.dag_id)
    })?;
    anyhow::ensure!(state.retired_at.is_none(), "DAG `{}` is retired: its file is gone", state.dag_id);
    let source = store.version_source(version).await?;
    let dag = dag_file::reread(&source.file, source.source.clone(), &state.dag_id)?;
    let now = clock::now();
    let logical_date = match &arguments.logical_date {
        Some(text) => parse_date(text, dag.settings.timezone, "logical date")?,
        None => now,
    };
    let conf = conf(arguments)?;
    let params = params::merge(&dag, &arguments.params, &conf)?;
    let interval = dag.settings.manual_data_interval(logical_date);
    let new = NewRun {
        dag: &dag,
        file: &source.file,
        source: &source.source,
        run_id: arguments.run_id.clone().unwrap_or_else(|| RunType::Manual.run_id(logical_date, 0)),
        run_type: RunType::Manual,
        rerun: 0,
        logical_date,
        data_interval_start: interval.start,
        data_interval_end: interval.end,
        params,
        conf,
        note: arguments.note.as_deref(),
        triggered_by: "cli",
        begin: Begin::InTurn,
    };
    let run = match store.create_run(&new, now).await {
        Err(error @ StoreError::RunExists { .. }) => return Err(in_its_place(&store, &new, error).await?),
        made => made?,
    };
    store.tell(Word::Work).await?;
    let is_served = store.live_driver(&run).await?.is_some();
    if !arguments.wait {
        report::answer_asked(session, &store, &run).await?;
        session.printer.say(&waits(&run, state.is_paused, is_served));
        return Ok(Exit::Done);
    }
    session.printer.say(&format!("{}  {}  {}", run.dag_id, run.run_id, waits(&run, state.is_paused, is_served)));
    let ended = end_of(&store, &run).await?;
    report::answer_end(session, &store, &ended).await?;
    Ok(if ended.state == RunState::Success { Exit::Done } else { Exit::No })
}

/// Which run there is where none can be made: one of that id, or one of that date under another id.
async fn in_its_place(store: &Store, new: &NewRun<'_>, error: StoreError) -> anyhow::Result<anyhow::Error> {
    let at = Some(new.logical_date);
    let of_date = store.runs_between(new.dag.id(), at, at).await?;
    Ok(match of_date.iter().find(|run| run.rerun == new.rerun && run.run_id != new.run_id) {
        Some(run) => anyhow::anyhow!(
            "DAG `{}` has a run of the logical date {} already, `{}` ({}); `pinsched restart` and `pinsched clear` run it \
             again",
            run.dag_id,
            run.logical_date.to_rfc3339(),
            run.run_id,
            run.state
        ),
        None => error.into(),
    })
}

fn waits(run: &Run, is_paused: bool, is_served: bool) -> String {
    let stands = match run.state {
        RunState::Queued if is_paused => "it waits: the DAG is paused (`pinsched unpause` lets it go on)",
        RunState::Queued => "it waits for its turn: as many runs as may (max_active_runs) go on already",
        RunState::Running if !is_served => "it has begun, but no service is alive to run it (`pinsched serve`)",
        RunState::Running | RunState::Success | RunState::Failed => "it has begun",
    };
    let uuid = run.uuid.to_string();
    format!("{stands}; `pinsched show {}` shows how it goes", words::short_uuid(&uuid))
}

fn conf(arguments: &TriggerArguments) -> anyhow::Result<Map<String, Value>> {
    let Some(text) = &arguments.conf else { return Ok(Map::new()) };
    match serde_json::from_str(text).with_context(|| format!("`--conf {text}` is no JSON"))? {
        Value::Object(conf) => Ok(conf),
        _ => anyhow::bail!("`--conf {text}` is no JSON object"),
    }
}

async fn end_of(store: &Store, run: &Run) -> anyhow::Result<Run> {
    loop {
        let now = store.run(run.key).await?.context("the run was deleted while it was waited for")?;
        if now.state.is_final() {
            return Ok(now);
        }
        tokio::time::sleep(LOOK).await;
    }
}
