//! `pinsched pause DAG` and `pinsched unpause DAG`. Before a DAG goes on, what runs because of it is told.

use anyhow::Context;
use chrono::TimeDelta;
use serde::Serialize;

use crate::cli::dag_file;
use crate::cli::exit::Exit;
use crate::cli::session::{Session, find_dag};
use crate::clock;
use crate::domain::Timestamp;
use crate::domain::catchup;
use crate::domain::dag::{Catchup, Dag};
use crate::domain::ids::DagId;
use crate::store::{DagState, Pause, RunsHeld, Store, Word};

#[derive(Debug, Serialize)]
struct Paused {
    dag_id: String,
    is_paused: bool,
    changed: bool,
    /// The ticks that become runs at once, oldest first; the first hundred.
    runs_now: Vec<String>,
    /// Runs that have begun and stand still for the pause, which go on.
    runs_begun: u64,
    /// Runs that were asked for and wait, which begin now in their turn.
    runs_waiting: u64,
    next_tick: Option<String>,
}

pub(crate) async fn pause(session: &Session, dag: &DagId) -> anyhow::Result<Exit> {
    let (_held, store) = session.connect_store().await?;
    find_dag(&store, dag).await?;
    let changed = store.pause_dag(dag, Pause::Pause).await?.context("the DAG is gone")?;
    store.tell(Word::Schedule).await?;
    let report = Paused {
        dag_id: dag.to_string(),
        is_paused: true,
        changed,
        runs_now: Vec::new(),
        runs_begun: 0,
        runs_waiting: 0,
        next_tick: None,
    };
    session.printer.answer(&report, || {
        let already = if changed { "" } else { " already" };
        format!(
            "{dag} is paused{already}: tasks that run end, and their runs stop there until `pinsched unpause`; nothing new \
             begins\n"
        )
    })?;
    Ok(Exit::Done)
}

pub(crate) async fn unpause(session: &Session, dag: &DagId, dry_run: bool) -> anyhow::Result<Exit> {
    let (_held, store) = session.connect_store().await?;
    let state = find_dag(&store, dag).await?;
    let now = clock::now();
    let held = store.runs_held(dag).await?;
    let ahead = match registered(&store, &state).await? {
        Some(dag) => Ahead::of(&dag, &state, now, session.settings.misfire_grace),
        None => Ahead::default(),
    };
    let changed = match dry_run {
        true => state.is_paused,
        false => store.pause_dag(dag, Pause::GoOn { begins: ahead.begins }).await?.context("the DAG is gone")?,
    };
    if !dry_run {
        store.tell(Word::Schedule).await?;
    }
    let instant = |at: &Timestamp| at.to_rfc3339();
    let report = Paused {
        dag_id: dag.to_string(),
        is_paused: dry_run && state.is_paused,
        changed: changed && !dry_run,
        runs_now: ahead.ticks.iter().map(instant).collect(),
        runs_begun: held.begun,
        runs_waiting: held.waiting,
        next_tick: ahead.next.as_ref().map(instant),
    };
    session.printer.answer(&report, || ahead.render(dag, changed, dry_run, held))?;
    Ok(Exit::Done)
}

/// What runs once a DAG goes on.
#[derive(Default)]
struct Ahead {
    begins: Option<Timestamp>,
    ticks: Vec<Timestamp>,
    more: bool,
    next: Option<Timestamp>,
}

impl Ahead {
    fn of(dag: &Dag, state: &DagState, now: Timestamp, grace: std::time::Duration) -> Self {
        let settings = &dag.settings;
        // Without a catchup nothing runs before the next tick.
        let begins = (settings.catchup == Catchup::None).then_some(now);
        let due = match begins.or(state.scheduled_until) {
            Some(until) => catchup::due(settings, until, now, TimeDelta::from_std(grace).unwrap_or(TimeDelta::MAX)),
            None => catchup::Due::default(),
        };
        Self { begins, ticks: due.ticks, more: due.more, next: settings.next_tick(now) }
    }

    fn render(&self, dag: &DagId, changed: bool, dry_run: bool, held: RunsHeld) -> String {
        let goes_on = match (changed, dry_run) {
            (true, true) => "would go on",
            (true, false) => "goes on",
            (false, _) => "is not paused",
        };
        let now = match (self.ticks.as_slice(), self.more) {
            ([], _) => "no tick runs at once".to_owned(),
            ([only], false) => format!("one run starts at once, for {}", only.to_rfc3339()),
            ([first, .., last], more) => {
                let many = if more { "more than " } else { "" };
                let (first, last) = (first.to_rfc3339(), last.to_rfc3339());
                format!("{many}{} runs start at once, for {first} to {last}", self.ticks.len())
            }
            ([only], true) => format!("runs start at once, from {} on", only.to_rfc3339()),
        };
        let next = match &self.next {
            Some(next) => format!("the next tick is {}", next.to_rfc3339()),
            None => "its schedule has no further tick".to_owned(),
        };
        let begun = match held.begun {
            0 => String::new(),
            1 => "; one run that has begun goes on".to_owned(),
            many => format!("; {many} runs that have begun go on"),
        };
        let waiting = match held.waiting {
            0 => String::new(),
            1 => "; one run that waits begins in its turn".to_owned(),
            many => format!("; {many} runs that wait begin in their turn"),
        };
        format!("{dag} {goes_on}: {now}{begun}{waiting}; {next}\n")
    }
}

/// The DAG as its next run is made from it.
async fn registered(store: &Store, state: &DagState) -> anyhow::Result<Option<Dag>> {
    let Some(version) = state.version else { return Ok(None) };
    let source = store.version_source(version).await?;
    Ok(Some(dag_file::reread(&source.file, source.source, &state.dag_id)?))
}
