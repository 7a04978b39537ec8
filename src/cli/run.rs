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
use crate::cli::session::Session;
use crate::clock;
use crate::domain::Timestamp;
use crate::domain::dag::Dag;
use crate::domain::diagnostic::closest;
use crate::domain::ids::RunId;
use crate::engine::{self, KILLED_LINGERS};
use crate::store::{NewRun, Run, Store, WorkerId};

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
    let params = params(&dag, &arguments.params)?;
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
        run_id: run_id(when.logical_date, when.rerun),
        rerun: when.rerun,
        logical_date: when.logical_date,
        data_interval_start: interval.start,
        data_interval_end: interval.end,
        params,
        owner: Some(owner),
    };
    Ok(store.create_run(&new, clock::now()).await?)
}

/// `manual__2026-03-01T02:00:00+00:00`, as Airflow forms it; reruns add `~1`, `~2`, ….
fn run_id(logical_date: Timestamp, rerun: i32) -> RunId {
    let instant = logical_date.format("%Y-%m-%dT%H:%M:%S%.f+00:00");
    let text = if rerun == 0 { format!("manual__{instant}") } else { format!("manual__{instant}~{rerun}") };
    text.parse().expect("an instant's characters are all allowed in a run id")
}

/// The DAG's params with `overrides` (`key=value`) in their place, each of the type that its default has.
fn params(dag: &Dag, overrides: &[String]) -> anyhow::Result<Map<String, Value>> {
    let mut params = dag.settings.params.clone();
    for text in overrides {
        let (key, value) =
            text.split_once('=').with_context(|| format!("`{text}` is no param: write --param key=value"))?;
        let Some(default) = params.get(key) else {
            anyhow::bail!("DAG `{}` {}", dag.id(), no_such_param(key, &params));
        };
        let Some(value) = typed(default, value) else {
            anyhow::bail!("param `{key}` cannot be `{value}`: its default, {default}, is of another type");
        };
        params.insert(key.to_owned(), value);
    }
    Ok(params)
}

fn no_such_param(key: &str, params: &Map<String, Value>) -> String {
    if params.is_empty() {
        return format!("has no params, so no `{key}` either; a DAG file declares them under `params`");
    }
    let known = || params.keys().map(String::as_str);
    let hint = closest(key, known()).map(|name| format!("; did you mean `{name}`?")).unwrap_or_default();
    format!("has no param `{key}`{hint} (it has: {})", known().collect::<Vec<_>>().join(", "))
}

/// The text as a value of the default's type; as any where the default is null.
fn typed(default: &Value, text: &str) -> Option<Value> {
    let plain = Value::String(text.to_owned());
    if default.is_string() {
        return Some(plain);
    }
    let value: Option<Value> = serde_json::from_str(text).ok();
    match default {
        Value::Null => Some(value.unwrap_or(plain)),
        Value::Bool(_) => value.filter(Value::is_boolean),
        Value::Number(_) => value.filter(Value::is_number),
        Value::String(_) => value.filter(Value::is_string),
        Value::Array(_) => value.filter(Value::is_array),
        Value::Object(_) => value.filter(Value::is_object),
    }
}

#[cfg(test)]
mod tests {
    use chrono::{DateTime, Utc};

    use super::*;

    #[test]
    fn run_ids_are_airflows() {
        let date = DateTime::from_timestamp(1_772_330_400, 123_456_000).unwrap();
        assert_eq!(run_id(date, 0).as_str(), "manual__2026-03-01T02:00:00.123456+00:00");
        assert_eq!(run_id(date.with_timezone(&Utc), 2).as_str(), "manual__2026-03-01T02:00:00.123456+00:00~2");
    }

    #[test]
    fn params_keep_the_type_of_their_default() {
        assert_eq!(typed(&Value::from(500), "11000").unwrap(), Value::from(11_000));
        assert_eq!(typed(&Value::from("x"), "11000").unwrap(), Value::from("11000"));
        assert!(typed(&Value::from(500), "many").is_none());
        assert!(typed(&Value::from(500), "\"7\"").is_none());
        assert_eq!(typed(&Value::Null, "plain").unwrap(), Value::from("plain"));
    }
}
