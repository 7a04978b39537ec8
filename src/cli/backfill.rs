//! `pinsched backfill DAG` and `pinsched backfills`: runs over a stretch of the past.

use anyhow::Context;
use serde::Serialize;
use serde_json::Map;

use crate::cli::dag_file;
use crate::cli::dates::parse_date;
use crate::cli::exit::Exit;
use crate::cli::params;
use crate::cli::service_arguments::{BackfillArguments, BackfillsCommand, Only};
use crate::cli::session::{Session, find_dag};
use crate::cli::table::Field;
use crate::cli::words;
use crate::clock;
use crate::domain::Timestamp;
use crate::domain::dag::Dag;
use crate::domain::diagnostic::listed;
use crate::domain::run_state::RunState;
use crate::domain::run_type::RunType;
use crate::domain::schedule::DataInterval;
use crate::store::{Backfill, BackfillChange, BackfillId, BackfillPause, Begin, NewBackfill, NewRun, Store, Word};

/// More runs than this in one backfill are more likely a slip than a wish.
const LARGEST: usize = 10_000;

#[derive(Debug, Serialize)]
struct Made {
    backfill_id: Option<BackfillId>,
    dag_id: String,
    dry_run: bool,
    max_active_runs: u32,
    runs: Vec<MadeRun>,
    /// Ticks that are left out, since of them there is a run already.
    left_out: usize,
}

#[derive(Debug, Serialize)]
struct MadeRun {
    run_id: String,
    logical_date: String,
    /// How the latest run of that date stands, where there is one.
    latest: Option<RunState>,
}

/// A run that the backfill makes.
struct Planned {
    interval: DataInterval,
    rerun: i32,
    latest: Option<RunState>,
}

pub(crate) async fn backfill(session: &Session, arguments: &BackfillArguments) -> anyhow::Result<Exit> {
    let (_held, store) = session.connect_store().await?;
    let state = find_dag(&store, &arguments.dag).await?;
    let version = state.version.with_context(|| format!("no service has registered DAG `{}`", state.dag_id))?;
    let source = store.version_source(version).await?;
    let dag = dag_file::reread(&source.file, source.source.clone(), &state.dag_id)?;
    let zone = dag.settings.timezone;
    let from = parse_date(&arguments.from, zone, "date")?;
    let to = parse_date(&arguments.to, zone, "date")?;
    anyhow::ensure!(from < to, "`--to {}` is not after `--from {}`", arguments.to, arguments.from);
    let now = clock::now();
    let (mut planned, left_out) = plan(&store, &dag, from, to, now, arguments.only).await?;
    if arguments.reverse {
        ensure_no_past_is_waited_for(&dag)?;
        planned.reverse();
    }
    let max_active_runs = arguments.max_active.unwrap_or(dag.settings.max_active_runs);
    let params = params::merge(&dag, &arguments.params, &Map::new())?;
    let runs: Vec<NewRun<'_>> = planned
        .iter()
        .map(|one| NewRun {
            dag: &dag,
            file: &source.file,
            source: &source.source,
            run_id: RunType::Backfill.run_id(one.interval.logical_date, one.rerun),
            run_type: RunType::Backfill,
            rerun: one.rerun,
            logical_date: one.interval.logical_date,
            data_interval_start: one.interval.start,
            data_interval_end: one.interval.end,
            params: params.clone(),
            conf: Map::new(),
            note: None,
            triggered_by: "backfill",
            begin: Begin::InTurn,
        })
        .collect();
    let lines = runs.iter().zip(&planned).map(|(run, planned)| MadeRun {
        run_id: run.run_id.to_string(),
        logical_date: run.logical_date.to_rfc3339(),
        latest: planned.latest,
    });
    let mut made = Made {
        backfill_id: None,
        dag_id: state.dag_id.to_string(),
        dry_run: arguments.dry_run,
        max_active_runs,
        runs: lines.collect(),
        left_out,
    };
    if !arguments.dry_run && !runs.is_empty() {
        let new = NewBackfill { dag: state.key, from, to, max_active_runs, runs };
        made.backfill_id = Some(store.create_backfill(&new, now).await?);
        store.tell(Word::Schedule).await?;
    }
    session.printer.answer(&made, || made.render(session))?;
    Ok(Exit::Done)
}

/// Newest first, a task that depends on the past would run without its past.
fn ensure_no_past_is_waited_for(dag: &Dag) -> anyhow::Result<()> {
    let waits = || dag.tasks().iter().filter(|task| task.depends_on_past).map(|task| task.id.as_str());
    anyhow::ensure!(
        waits().next().is_none(),
        "DAG `{}` cannot be filled in with `--reverse`: {} {} for the run before (depends_on_past, \
         wait_for_downstream), which would come after; leave `--reverse` out",
        dag.id(),
        listed(waits()),
        if waits().count() == 1 { "waits" } else { "wait" }
    );
    Ok(())
}

/// The ticks of the stretch that become runs, and how many are left out.
async fn plan(
    store: &Store,
    dag: &Dag,
    from: Timestamp,
    to: Timestamp,
    now: Timestamp,
    only: Only,
) -> anyhow::Result<(Vec<Planned>, usize)> {
    let settings = &dag.settings;
    anyhow::ensure!(
        settings.schedule.recurs(),
        "DAG `{}` has no schedule that recurs: there are no ticks to fill in",
        dag.id()
    );
    let mut intervals = Vec::new();
    let mut next = settings.tick_from(from);
    while let Some(tick) = next.filter(|tick| *tick < to) {
        anyhow::ensure!(
            tick <= now,
            "the tick of {} is still to come, and its run is made by the schedule when it does; end the stretch before it, \
             with `--to {}` or earlier",
            tick.to_rfc3339(),
            tick.to_rfc3339()
        );
        anyhow::ensure!(
            intervals.len() < LARGEST,
            "there are more than {LARGEST} ticks in that stretch; fill it in by parts"
        );
        intervals.push(settings.data_interval(tick));
        next = settings.next_tick(tick);
    }
    let dates: Vec<Timestamp> = intervals.iter().map(|interval| interval.logical_date).collect();
    let latest = store.latest_runs(dag.id(), &dates).await?;
    let all = intervals.len();
    let planned: Vec<Planned> = intervals
        .into_iter()
        .filter_map(|interval| {
            let latest = latest.get(&interval.logical_date).copied();
            let state = latest.map(|(state, _)| state);
            let wanted = match only {
                Only::Missing => state.is_none(),
                Only::Failed => state == Some(RunState::Failed),
                Only::All => state.is_none_or(RunState::is_final),
            };
            wanted.then(|| Planned { interval, rerun: latest.map_or(0, |(_, rerun)| rerun + 1), latest: state })
        })
        .collect();
    let left_out = all - planned.len();
    Ok((planned, left_out))
}

impl Made {
    fn render(&self, session: &Session) -> String {
        let mut table = session.printer.table(&["LOGICAL DATE", "RUN", "UNTIL NOW"]);
        for run in &self.runs {
            table.row(vec![
                Field::text(words::instant(&run.logical_date)),
                Field::text(&run.run_id),
                Field::text(run.latest.map_or("no run", RunState::as_str)),
            ]);
        }
        let mut text = if self.runs.is_empty() { String::new() } else { format!("{}\n", table.render()) };
        let (count, at_once) = (self.runs.len(), self.max_active_runs);
        let runs = words::counted(count as u64, "run", "runs");
        match (self.backfill_id, count) {
            (_, 0) => text.push_str("nothing to fill in\n"),
            (Some(id), _) => text.push_str(&format!(
                "backfill {}: {runs}, {at_once} at once; `pinsched backfills` shows how it goes\n",
                id.0
            )),
            (None, _) => text.push_str(&format!("{runs} would be made, {at_once} at once\n")),
        }
        if self.left_out > 0 {
            let left = words::counted(self.left_out as u64, "tick is", "ticks are");
            text.push_str(&format!("{left} left out (--only missing, failed or all says which)\n"));
        }
        text
    }
}

#[derive(Debug, Serialize)]
struct BackfillLine {
    backfill_id: BackfillId,
    dag_id: String,
    from: String,
    to: String,
    state: &'static str,
    max_active_runs: i32,
    runs: std::collections::BTreeMap<&'static str, i64>,
}

impl BackfillLine {
    fn new(backfill: Backfill) -> Self {
        let count = |state: RunState| backfill.runs.get(state.as_str()).copied().unwrap_or(0);
        let is_over = count(RunState::Queued) + count(RunState::Running) == 0;
        let state = match () {
            () if backfill.cancelled_at.is_some() => "cancelled",
            () if is_over => "done",
            () if backfill.is_paused => "paused",
            () => "running",
        };
        Self {
            backfill_id: backfill.id,
            dag_id: backfill.dag_id.to_string(),
            from: backfill.from.to_rfc3339(),
            to: backfill.to.to_rfc3339(),
            state,
            max_active_runs: backfill.max_active_runs,
            runs: backfill.runs,
        }
    }
}

pub(crate) async fn backfills(session: &Session, command: Option<&BackfillsCommand>) -> anyhow::Result<Exit> {
    let (_held, store) = session.connect_store().await?;
    if let Some(command) = command {
        let (id, changed) = match *command {
            BackfillsCommand::Pause { id } => (id, store.pause_backfill(BackfillId(id), BackfillPause::Paused).await?),
            BackfillsCommand::Resume { id } => {
                (id, store.pause_backfill(BackfillId(id), BackfillPause::Resumed).await?)
            }
            BackfillsCommand::Cancel { id } => (id, store.cancel_backfill(BackfillId(id), clock::now()).await?),
        };
        match changed {
            BackfillChange::Done => {}
            BackfillChange::Over(how) => {
                session.printer.error(&format!(
                    "backfill {id} is over ({}): nothing changes; `pinsched clear` and `pinsched restart` run runs of it again",
                    how.as_str()
                ));
                return Ok(Exit::No);
            }
            BackfillChange::Unknown => anyhow::bail!("there is no backfill {id}; `pinsched backfills` lists them"),
        }
        store.tell(Word::Look).await?;
        store.tell(Word::Schedule).await?;
    }
    let lines: Vec<BackfillLine> = store.backfills().await?.into_iter().map(BackfillLine::new).collect();
    session.printer.answer(&lines, || {
        if lines.is_empty() {
            return "no backfills yet; `pinsched backfill DAG --from DATE --to DATE` makes one\n".to_owned();
        }
        let mut table =
            session.printer.table(&["ID", "DAG", "FROM", "TO", "STATE", "WAITING", "RUNNING", "SUCCESS", "FAILED"]);
        for line in &lines {
            let day = |instant: &str| instant.get(..16).unwrap_or(instant).replace('T', " ");
            let count = |state: RunState| Field::number(line.runs.get(state.as_str()).copied().unwrap_or(0));
            table.row(vec![
                Field::number(line.backfill_id.0),
                Field::text(&line.dag_id),
                Field::text(day(&line.from)),
                Field::text(day(&line.to)),
                Field::text(line.state),
                count(RunState::Queued),
                count(RunState::Running),
                count(RunState::Success),
                count(RunState::Failed),
            ]);
        }
        table.render()
    })?;
    Ok(Exit::Done)
}
