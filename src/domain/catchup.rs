//! Which ticks of a schedule become runs: those that come in time, and of those that were missed what the DAG's
//! `catchup` says.
//!
//! A scheduler that looks often finds each tick in time. After a pause of the service, or when a DAG is registered or
//! unpaused, it finds ticks that are older.

use std::collections::VecDeque;

use chrono::TimeDelta;

use crate::domain::Timestamp;
use crate::domain::dag::{Catchup, DagSettings};
use crate::domain::schedule::Schedule;

/// A tick that is found within this time came in time: schedulers restart, and databases fail over.
const IN_TIME: TimeDelta = TimeDelta::seconds(60);

/// How many runs one look makes at most; the next look goes on behind them.
const AT_ONCE: usize = 100;

/// What a look at a schedule finds.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Due {
    /// The ticks that become runs, in order.
    pub ticks: Vec<Timestamp>,
    /// How many ticks were missed and do not become runs, as far as they were counted.
    pub dropped: usize,
    /// Whether there are more: look again once these have become runs.
    pub more: bool,
}

/// From where on a DAG's ticks count that is registered, or unpaused, at `now`: ticks up to this instant are over. Nothing
/// for a DAG that runs once, and at once.
#[must_use]
pub fn begin(settings: &DagSettings, now: Timestamp) -> Option<Timestamp> {
    let before_start = settings.start_date.map(|start| start - TimeDelta::microseconds(1));
    match (&settings.schedule, settings.catchup) {
        (Schedule::Once, _) => before_start,
        (_, Catchup::None) => Some(now),
        (_, Catchup::Latest | Catchup::All | Catchup::Window { .. }) => Some(before_start.unwrap_or(now).min(now)),
    }
}

/// What is due at `now`, when ticks up to `until` are over.
///
/// `grace` is how late a single missed tick may be that runs under `catchup: none` all the same: a service that was
/// restarted at the wrong minute does not cost a daily run.
#[must_use]
pub fn due(settings: &DagSettings, until: Timestamp, now: Timestamp, grace: TimeDelta) -> Due {
    let in_time = now.checked_sub_signed(IN_TIME).unwrap_or(until).max(until);
    let mut due = Due::default();
    match settings.catchup {
        Catchup::All => {
            let mut ticks = Ticks { settings, at: until, now };
            due.ticks = ticks.by_ref().take(AT_ONCE).collect();
            due.more = due.ticks.len() == AT_ONCE && ticks.next().is_some();
            return due;
        }
        Catchup::None => due.miss(settings, until.max(back(now, grace)), in_time, Some(1)),
        Catchup::Latest => {
            let latest = settings.previous_tick(in_time + TimeDelta::microseconds(1));
            due.ticks.extend(latest.filter(|tick| *tick > until));
        }
        Catchup::Window { window, max } => {
            let window = TimeDelta::from_std(window).unwrap_or(TimeDelta::MAX);
            due.miss(settings, until.max(back(now, window)), in_time, max);
        }
    }
    let mut ticks = Ticks { settings, at: in_time, now };
    let timely: Vec<Timestamp> = ticks.by_ref().take(AT_ONCE).collect();
    due.more = timely.len() == AT_ONCE && ticks.next().is_some();
    if matches!(settings.catchup, Catchup::None | Catchup::Latest) && !timely.is_empty() {
        due.dropped += due.ticks.len(); // what comes in time is the latest one
        due.ticks.clear();
    }
    due.ticks.extend(timely);
    due
}

impl Due {
    /// Takes the last `most` of the ticks after `from` up to `to`.
    fn miss(&mut self, settings: &DagSettings, from: Timestamp, to: Timestamp, most: Option<u32>) {
        let most = most.map_or(usize::MAX, |most| usize::try_from(most).unwrap_or(usize::MAX));
        let mut last = VecDeque::new();
        for tick in (Ticks { settings, at: from, now: to }) {
            last.push_back(tick);
            if last.len() > most {
                last.pop_front();
                self.dropped += 1;
            }
        }
        self.ticks.extend(last);
    }
}

fn back(now: Timestamp, time: TimeDelta) -> Timestamp {
    now.checked_sub_signed(time).unwrap_or(Timestamp::MIN_UTC)
}

/// The ticks after an instant up to another.
struct Ticks<'a> {
    settings: &'a DagSettings,
    at: Timestamp,
    now: Timestamp,
}

impl Iterator for Ticks<'_> {
    type Item = Timestamp;

    fn next(&mut self) -> Option<Timestamp> {
        let tick = self.settings.next_tick(self.at).filter(|tick| *tick <= self.now)?;
        self.at = tick;
        Some(tick)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::check::check;
    use crate::domain::source::SourceFile;

    fn settings(keys: &str) -> DagSettings {
        let text = format!("daily: {{schedule: '0 2 * * *', {keys} tasks: {{one: {{operator: none}}}}}}");
        static KIND: crate::domain::operator_kind::OperatorKind = crate::domain::operator_kind::OperatorKind {
            name: "none",
            class_paths: &[],
            about: "",
            schema: || schemars::json_schema!({ "type": "object", "additionalProperties": false }),
            check: |_| Vec::new(),
            late_fields: &[],
            file_keys: &[],
        };
        let checked = check(&SourceFile::new("daily.yaml", text), &[&KIND]);
        assert!(!checked.has_errors(), "{:?}", checked.diagnostics);
        checked.dags[0].settings.clone()
    }

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    /// The days of March whose ticks become runs.
    fn days(keys: &str, until: &str, now: &str) -> Vec<u32> {
        use chrono::Datelike;
        let due = due(&settings(keys), at(until), at(now), TimeDelta::hours(1));
        due.ticks.iter().map(|tick| tick.day()).collect()
    }

    #[test]
    fn a_tick_that_comes_in_time_always_runs() {
        for catchup in ["none", "latest", "all", "{window: 1d, max: 3}"] {
            let keys = format!("catchup: {catchup}, start_date: 2026-01-01,");
            assert_eq!(days(&keys, "2026-03-01T02:00:00Z", "2026-03-02T02:00:00Z"), [2], "{catchup}: on the dot");
            assert_eq!(days(&keys, "2026-03-01T02:00:00Z", "2026-03-02T02:00:59Z"), [2], "{catchup}: a little late");
            assert!(days(&keys, "2026-03-01T02:00:00Z", "2026-03-02T01:59:59Z").is_empty(), "{catchup}: not before");
            assert!(days(&keys, "2026-03-02T02:00:00Z", "2026-03-02T02:00:05Z").is_empty(), "{catchup}: and once");
        }
    }

    #[test]
    fn missed_ticks_are_none_the_latest_all_or_those_of_a_window() {
        let (until, now) = ("2026-03-01T02:00:00Z", "2026-03-09T12:00:00Z");
        let with = |catchup: &str| days(&format!("catchup: {catchup}, start_date: 2026-01-01,"), until, now);
        assert!(with("none").is_empty());
        assert_eq!(with("latest"), [9]);
        assert_eq!(with("all"), [2, 3, 4, 5, 6, 7, 8, 9]);
        assert_eq!(with("{window: 3d}"), [7, 8, 9]);
        assert_eq!(with("{window: 5d, max: 2}"), [8, 9]);
    }

    #[test]
    fn a_short_stop_of_the_service_costs_no_run_even_without_catchup() {
        let keys = "catchup: none,";
        assert_eq!(days(keys, "2026-03-01T02:00:00Z", "2026-03-02T02:59:00Z"), [2]);
        assert!(days(keys, "2026-03-01T02:00:00Z", "2026-03-02T03:01:00Z").is_empty());
    }

    #[test]
    fn a_registered_dag_begins_now_or_at_its_start_as_its_catchup_says() {
        let now = at("2026-03-09T12:00:00Z");
        let from = |keys: &str| begin(&settings(keys), now).unwrap();
        assert_eq!(from("start_date: 2026-01-01,"), now, "nothing before the next tick");
        assert_eq!(from("catchup: all, start_date: 2026-01-01,"), at("2025-12-31T23:59:59.999999Z"));
        assert_eq!(from("catchup: latest,"), now, "without a start there is nothing to catch up with");
    }

    #[test]
    fn many_ticks_come_in_bounded_looks_and_none_is_lost() {
        let settings = settings("catchup: all, start_date: 2025-01-01,");
        let (mut until, now) = (begin(&settings, at("2026-01-01T00:00:00Z")).unwrap(), at("2026-01-01T00:00:00Z"));
        let mut ticks = Vec::new();
        loop {
            let due = due(&settings, until, now, TimeDelta::zero());
            until = *due.ticks.last().unwrap();
            ticks.extend(due.ticks);
            if !due.more {
                break;
            }
        }
        assert_eq!(ticks.len(), 365);
        assert!(ticks.windows(2).all(|pair| pair[1] - pair[0] == TimeDelta::days(1)));
    }
}
