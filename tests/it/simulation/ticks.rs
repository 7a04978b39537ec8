//! Schedulers on one database, with clocks of their own, that crash, hang and come back: what `domain::catchup` decides is
//! written only where the schedule still is as it was seen, and so each tick is one run, once.

use chrono::TimeDelta;
use pinsched::domain::Timestamp;
use pinsched::domain::catchup::{self, Due};
use pinsched::domain::dag::DagSettings;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::database::instant;
use super::drawing::{chance, pick};
use crate::{dags, services};

/// How late a single missed tick may be that runs without catchup.
const GRACE: TimeDelta = TimeDelta::hours(1);

/// A DAG's row, and its runs.
struct Row {
    scheduled_until: Timestamp,
    ticks: Vec<Timestamp>,
}

impl Row {
    /// `Store::fire`: the tick is a run if the schedule is where it was when that was decided.
    fn fire(&mut self, was_until: Timestamp, tick: Timestamp) -> bool {
        let is_as_it_was = self.scheduled_until == was_until;
        if is_as_it_was {
            self.scheduled_until = tick;
            self.ticks.push(tick);
        }
        is_as_it_was
    }
}

/// A scheduler between its looks: what it has decided and not written.
struct Scheduler {
    clock_offset: TimeDelta,
    hangs_until: Timestamp,
    decided: Option<(Timestamp, Due, Timestamp)>,
}

impl Scheduler {
    /// Looks, or writes one more of what it decided.
    fn act(&mut self, settings: &DagSettings, row: &mut Row, now: Timestamp) {
        let wall = now + self.clock_offset;
        let Some((until, mut due, at)) = self.decided.take() else {
            let due = catchup::due(settings, row.scheduled_until, wall, GRACE);
            self.decided = Some((row.scheduled_until, due, wall));
            return;
        };
        if due.ticks.is_empty() {
            // What was missed and is left out is over.
            if row.scheduled_until == until && at > until {
                row.scheduled_until = at;
            }
            return;
        }
        let tick = due.ticks.remove(0);
        if row.fire(until, tick) && !due.ticks.is_empty() {
            self.decided = Some((tick, due, at));
        }
    }
}

#[test]
fn each_tick_is_one_run_whatever_becomes_of_the_schedulers() {
    let mut all = 0;
    for seed in services::seeds(2_000..2_300) {
        let mut random = StdRng::seed_from_u64(seed);
        let schedule = pick(&mut random, &["'* * * * *'", "'*/7 * * * *'", "15m", "'*/20 * * * * *'"]);
        let catchup = pick(&mut random, &["all", "none", "latest", "{window: 10m}"]);
        let text =
            format!("orders: {{schedule: {schedule}, catchup: {catchup}, tasks: {{one: {{operator: script}}}}}}");
        let settings = dags::dag(&text).settings;
        let begun = instant() - TimeDelta::minutes(random.random_range(0..180));
        let mut row = Row { scheduled_until: catchup::begin(&settings, begun).unwrap(), ticks: Vec::new() };
        // In some worlds the clocks are right to some seconds, and somebody is there at any time.
        let is_calm = chance(&mut random, 40);
        let offset = |random: &mut StdRng| {
            let most = if is_calm { 3_000 } else { 1_200_000 };
            TimeDelta::milliseconds(random.random_range(-most..most))
        };
        let scheduler =
            |random: &mut StdRng| Scheduler { clock_offset: offset(random), hangs_until: begun, decided: None };
        let mut schedulers: Vec<Scheduler> = (0..3).map(|_| scheduler(&mut random)).collect();
        let mut now = begun;
        for _ in 0..6_000 {
            now += TimeDelta::milliseconds(random.random_range(1..1_500));
            let at = random.random_range(0..3);
            if chance(&mut random, 2) {
                schedulers[at] = scheduler(&mut random); // killed with what it had decided
            } else if chance(&mut random, 2) && !(is_calm && at == 0) {
                schedulers[at].hangs_until = now + TimeDelta::seconds(random.random_range(1..900));
            } else if schedulers[at].hangs_until <= now {
                schedulers[at].act(&settings, &mut row, now);
            }
        }
        all += row.ticks.len();
        let rises = row.ticks.windows(2).all(|pair| pair[0] < pair[1]);
        assert!(rises, "seed {seed}: a tick came twice, or too late: {:?}", row.ticks);
        assert!(row.ticks.iter().all(|tick| settings.next_tick(*tick - TimeDelta::microseconds(1)) == Some(*tick)));
        let gap = row.ticks.windows(2).find(|pair| settings.next_tick(pair[0]) != Some(pair[1]));
        if is_calm || catchup == "all" {
            assert!(gap.is_none(), "seed {seed}: catchup {catchup}, and ticks are missing between {gap:?}");
        }
        let last = row.ticks.last().copied().unwrap_or(begun);
        let is_late = settings.next_tick(last).is_some_and(|next| next < now - TimeDelta::minutes(25));
        assert!(!is_late, "seed {seed}: at {now} the last run is of {last}");
    }
    assert!(all > 1_000 || services::seed().is_some(), "only {all} ticks came");
}
