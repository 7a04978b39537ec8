//! `pinsched run FILE`: finds out which run is meant, creates or resumes it, and drives it.

use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use chrono::{DateTime, Datelike, NaiveDate, NaiveDateTime, TimeZone, Utc};
use chrono_tz::Tz;
use serde_json::{Map, Value};

use crate::cli::arguments::RunArguments;
use crate::cli::dag_file;
use crate::cli::drive;
use crate::cli::exit::Exit;
use crate::cli::session::Session;
use crate::clock;
use crate::domain::Timestamp;
use crate::domain::dag::Dag;
use crate::domain::ids::RunId;
use crate::domain::params::{self, Undeclared};
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
    let logical_date =
        arguments.logical_date.as_deref().map(|text| parse_logical_date(text, dag.settings.timezone)).transpose()?;
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
    let new = NewRun {
        dag,
        file: &absolute.to_string_lossy(),
        source,
        run_id: run_id(when.logical_date, when.rerun),
        rerun: when.rerun,
        logical_date: when.logical_date,
        data_interval_start: when.logical_date,
        data_interval_end: when.logical_date,
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

/// A date, a local time, or an instant.
fn parse_logical_date(text: &str, zone: Tz) -> anyhow::Result<Timestamp> {
    if let Ok(instant) = DateTime::parse_from_rfc3339(text) {
        return Ok(instant.with_timezone(&Utc));
    }
    let local = NaiveDate::parse_from_str(text, "%Y-%m-%d")
        .map(|date| date.and_time(chrono::NaiveTime::MIN))
        .or_else(|_| NaiveDateTime::parse_from_str(text, "%Y-%m-%dT%H:%M:%S"))
        .or_else(|_| NaiveDateTime::parse_from_str(text, "%Y-%m-%dT%H:%M"))
        .ok()
        .filter(|local| (1..=9999).contains(&local.year())) // Postgres's and RFC 3339's dates end there, too
        .with_context(|| {
            format!("`{text}` is no logical date: write 2026-03-01, 2026-03-01T02:00:00 or 2026-03-01T02:00:00+01:00")
        })?;
    zone.from_local_datetime(&local).latest().map(|instant| instant.with_timezone(&Utc)).with_context(|| {
        format!("{local} does not exist in {zone}: the clocks skip it; write the offset, as {local}+00:00")
    })
}

/// The DAG's params with `overrides` (`key=value`) in their place.
fn params(dag: &Dag, overrides: &[String]) -> anyhow::Result<Map<String, Value>> {
    let mut values = Map::new();
    for text in overrides {
        let (key, value) =
            text.split_once('=').with_context(|| format!("`{text}` is no param: write --param key=value"))?;
        values.insert(key.to_owned(), params::typed(&dag.settings, key, value)?);
    }
    params::resolve(&dag.settings, values, Undeclared::Refused).map_err(|problems| {
        let words: Vec<String> = problems.into_iter().map(|problem| problem.message).collect();
        anyhow::anyhow!(words.join("\n"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logical_dates_are_read_in_the_dags_zone_unless_they_name_one() {
        let zone: Tz = "Europe/London".parse().unwrap();
        let read = |text| parse_logical_date(text, zone).map(|date| date.to_rfc3339()).map_err(|e| e.to_string());
        assert_eq!(read("2026-07-01").unwrap(), "2026-06-30T23:00:00+00:00");
        assert_eq!(read("2026-07-01T02:00").unwrap(), "2026-07-01T01:00:00+00:00");
        assert_eq!(read("2026-07-01T02:00:00Z").unwrap(), "2026-07-01T02:00:00+00:00");
        assert_eq!(read("2026-10-25T01:30:00").unwrap(), "2026-10-25T01:30:00+00:00", "the second of the two");
        assert!(read("2026-03-29T01:30:00").unwrap_err().contains("the clocks skip it"));
        assert!(read("+262142-12-31").unwrap_err().contains("is no logical date"));
        assert!(read("yesterday").unwrap_err().contains("`yesterday` is no logical date"));
    }

    #[test]
    fn run_ids_are_airflows() {
        let date = DateTime::from_timestamp(1_772_330_400, 123_456_000).unwrap();
        assert_eq!(run_id(date, 0).as_str(), "manual__2026-03-01T02:00:00.123456+00:00");
        assert_eq!(run_id(date.with_timezone(&Utc), 2).as_str(), "manual__2026-03-01T02:00:00.123456+00:00~2");
    }
}
