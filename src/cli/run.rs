//! `pinsched run FILE`: finds out which run is meant, creates or resumes it, and drives it.

use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use serde_json::{Map, Value};

use crate::cli::arguments::RunArguments;
use crate::cli::dag_file;
use crate::cli::dates::parse_date;
use crate::cli::drive;
use crate::cli::exit::Exit;
use crate::cli::params;
use crate::cli::session::Session;
use crate::clock;
use crate::domain::Timestamp;
use crate::domain::dag::Dag;
use crate::domain::run_type::RunType;
use crate::engine::{self, KILLED_LINGERS};
use crate::store::{Begin, NewRun, Run, Store, WorkerId};

/// Connections of a process that drives one run: the worker's steps, and the operators' own.
const CONNECTIONS: u32 = 16;

/// How often a run's driver is looked for.
const LOOK: Duration = Duration::from_millis(100);

/// What is to be done about the run that was asked for.
enum Choice {
    /// A new one.
    Create { logical_date: Timestamp, rerun: i32 },
    /// Go on with this one.
    Resume(Box<Run>),
    /// It is done already.
    Finished(Box<Run>),
}

pub(crate) async fn run(session: &Session, arguments: &RunArguments) -> anyhow::Result<Exit> {
    let Some(file) = dag_file::read(&arguments.file, session.printer)? else { return Ok(Exit::No) };
    let source = file.source.clone();
    let dag = file.into_dag(arguments.dag.as_ref())?;
    let read = |text| parse_date(text, dag.settings.timezone, "logical date");
    let logical_date = arguments.logical_date.as_deref().map(read).transpose()?;
    let params = params::merge(&dag, &arguments.params, &Map::new())?;
    let (resolved, store) = session.connect(CONNECTIONS).await?;
    // Before the run is there: it is created as this process's own, so that no other takes it for one left behind.
    let sign = engine::register(&store).await?;
    match choose(&store, &dag, arguments, logical_date).await? {
        Choice::Create { logical_date, rerun } => {
            let when = When { logical_date, rerun };
            let run = create(&store, &arguments.file, &source, &dag, params, when, sign.worker).await?;
            session.printer.say(&format!("{}  {}", run.dag_id, run.run_id));
            drive::drive(session, resolved, &store, run, dag, sign).await
        }
        Choice::Resume(run) => {
            if !arguments.params.is_empty() && run.params != params {
                anyhow::bail!(
                    "run `{}` is unfinished and has other params; resume it without --param, or start another by --new",
                    run.run_id
                );
            }
            session.printer.say(&format!("{}  {}  resuming: it was left {}", run.dag_id, run.run_id, run.state));
            if store.run_source(run.key).await?.source != source {
                session.printer.say(
                    "the file has changed since the run began: the run goes on with it as it was; --new starts another \
                     with the new text",
                );
            }
            drive::drive_stored(session, resolved, &store, *run, sign).await
        }
        Choice::Finished(run) => {
            session.printer.error(&format!(
                "run `{}` of DAG `{}` is finished ({}); `pinsched show {}` shows it, --rerun runs its logical date again",
                run.run_id, run.dag_id, run.state, run.run_id
            ));
            Ok(Exit::No)
        }
    }
}

async fn choose(
    store: &Store,
    dag: &Dag,
    arguments: &RunArguments,
    logical_date: Option<Timestamp>,
) -> anyhow::Result<Choice> {
    if let Some(logical_date) = logical_date {
        return Ok(match store.run_of_logical_date(dag.id(), logical_date).await? {
            None => Choice::Create { logical_date, rerun: 0 },
            Some(run) if !run.state.is_final() => Choice::Resume(Box::new(run)),
            Some(run) if arguments.rerun => Choice::Create { logical_date, rerun: run.rerun + 1 },
            Some(run) => Choice::Finished(Box::new(run)),
        });
    }
    if !arguments.new {
        let begun = clock::monotonic();
        loop {
            let unfinished = store.unfinished_runs(dag.id()).await?;
            let all_driven = !unfinished.is_empty();
            for run in unfinished {
                if store.live_driver(&run).await?.is_none() {
                    return Ok(Choice::Resume(Box::new(run)));
                }
            }
            // A process that was killed just now still seems to live: a moment tells.
            if !all_driven || begun.elapsed() > KILLED_LINGERS {
                break;
            }
            tokio::time::sleep(LOOK).await;
        }
    }
    Ok(Choice::Create { logical_date: clock::now(), rerun: 0 })
}

/// Which run of its DAG a new one is.
struct When {
    logical_date: Timestamp,
    rerun: i32,
}

async fn create(
    store: &Store,
    path: &Path,
    source: &str,
    dag: &Dag,
    params: Map<String, Value>,
    when: When,
    owner: WorkerId,
) -> anyhow::Result<Run> {
    let absolute = std::path::absolute(path).with_context(|| format!("could not find {}", path.display()))?;
    let interval = dag.settings.manual_data_interval(when.logical_date);
    let new = NewRun {
        dag,
        file: &absolute.to_string_lossy(),
        source,
        run_id: RunType::Manual.run_id(when.logical_date, when.rerun),
        run_type: RunType::Manual,
        rerun: when.rerun,
        logical_date: when.logical_date,
        data_interval_start: interval.start,
        data_interval_end: interval.end,
        params,
        conf: Map::new(),
        note: None,
        triggered_by: "run",
        begin: Begin::DrivenBy(owner),
    };
    Ok(store.create_run(&new, clock::now()).await?)
}
