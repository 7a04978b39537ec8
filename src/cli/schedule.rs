//! `pinsched schedule FILE`: when a DAG runs, and what the run of each tick is for.

use serde::Serialize;

use crate::cli::arguments::ScheduleArguments;
use crate::cli::dag_file;
use crate::cli::dates::parse_date;
use crate::cli::exit::Exit;
use crate::cli::output::Printer;
use crate::cli::table::Field;
use crate::clock;
use crate::domain::Timestamp;
use crate::domain::dag::{Dag, DagSettings, Schedule};
use crate::domain::schedule::DataInterval;

/// So many ticks are shown when nothing says where to end.
const NEXT: u32 = 10;

/// So many are shown of a range. A range may be a century of seconds, and nobody reads that.
const OF_A_RANGE: u32 = 1000;

#[derive(Debug, Serialize)]
struct ScheduleReport {
    dag_id: String,
    timezone: &'static str,
    ticks: Vec<Tick>,
}

#[derive(Debug, Serialize)]
struct Tick {
    run_after: String,
    logical_date: String,
    data_interval_start: String,
    data_interval_end: String,
    #[serde(skip)]
    at: Timestamp,
    #[serde(skip)]
    interval: DataInterval,
}

/// Prints the ticks of a DAG from `--from`, which is included, to `--to`, which is not.
pub(crate) fn schedule(arguments: &ScheduleArguments, printer: Printer) -> anyhow::Result<Exit> {
    let Some(file) = dag_file::read(&arguments.file, printer)? else { return Ok(Exit::No) };
    let dag = file.into_dag(arguments.dag.as_ref())?;
    let settings = &dag.settings;
    let read = |text| parse_date(text, settings.timezone, "date");
    let from = arguments.from.as_deref().map(read).transpose()?.unwrap_or_else(clock::now);
    let to = arguments.to.as_deref().map(read).transpose()?;
    if to.is_some_and(|to| to <= from) {
        anyhow::bail!("--to must be after --from, which is {} (UTC)", utc(from));
    }
    let limit = arguments.limit.unwrap_or(if to.is_some() { OF_A_RANGE } else { NEXT });
    let before_end = |tick: &Timestamp| to.is_none_or(|to| *tick < to);
    let mut next = settings.tick_from(from).filter(before_end);
    let mut ticks = Vec::new();
    while let Some(tick) = next
        && ticks.len() < usize::try_from(limit).unwrap_or(usize::MAX)
    {
        ticks.push(Tick::of(settings, tick));
        next = settings.next_tick(tick).filter(before_end);
    }
    if to.is_some() && next.is_some() {
        printer.say(&format!("these are the first {limit}; there are more before --to, which --limit N shows"));
    }
    let report = ScheduleReport { dag_id: dag.id().to_string(), timezone: settings.timezone.name(), ticks };
    printer.answer(&report, || match report.ticks.as_slice() {
        [] => why_none(&dag, from, to),
        ticks => table(settings, ticks, printer),
    })?;
    Ok(Exit::Done)
}

impl Tick {
    fn of(settings: &DagSettings, tick: Timestamp) -> Self {
        let interval = settings.data_interval(tick);
        Self {
            run_after: tick.to_rfc3339(),
            logical_date: interval.logical_date.to_rfc3339(),
            data_interval_start: interval.start.to_rfc3339(),
            data_interval_end: interval.end.to_rfc3339(),
            at: tick,
            interval,
        }
    }
}

fn table(settings: &DagSettings, ticks: &[Tick], printer: Printer) -> String {
    let local = format!("RUN AFTER ({})", settings.timezone.name());
    let mut table = printer.table(&[&local, "UTC", "LOGICAL DATE", "DATA FROM", "DATA TO"]);
    for tick in ticks {
        let wall = tick.at.with_timezone(&settings.timezone);
        table.row(vec![
            Field::text(wall.format("%a %Y-%m-%d %H:%M:%S%.f %:z")),
            Field::text(utc(tick.at)),
            Field::text(utc(tick.interval.logical_date)),
            Field::text(utc(tick.interval.start)),
            Field::text(utc(tick.interval.end)),
        ]);
    }
    table.render()
}

fn why_none(dag: &Dag, from: Timestamp, to: Option<Timestamp>) -> String {
    let (id, settings) = (dag.id(), &dag.settings);
    match settings.schedule {
        Schedule::None => format!("`{id}` has no schedule: it runs when it is triggered\n"),
        Schedule::Continuous => format!("`{id}` has no times: its next run starts as soon as the last one ends\n"),
        Schedule::Once if settings.start_date.is_none() => {
            format!("`{id}` never runs by itself: `@once` means the `start_date`, and it has none\n")
        }
        Schedule::Once | Schedule::Times(_) | Schedule::Every(_) => {
            let until = to.map(|to| format!(" to {}", utc(to))).unwrap_or_default();
            let limit = |name: &str, at: Option<Timestamp>| at.map(|at| format!("; its `{name}` is {}", utc(at)));
            let starts = limit("start_date", settings.start_date).unwrap_or_default();
            let ends = limit("end_date", settings.end_date).unwrap_or_default();
            format!("`{id}` does not run from {}{until} (UTC){starts}{ends}\n", utc(from))
        }
    }
}

fn utc(at: Timestamp) -> String {
    at.format("%Y-%m-%d %H:%M:%S%.f").to_string()
}
