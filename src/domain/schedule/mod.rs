//! When a DAG runs: schedules as typed, the next instant that one names, and the data interval of each tick. Cron
//! expressions match the clock on the wall; `local` maps that to instants by the DAG's own [`DstPolicy`].

mod changes;
mod cron;
mod local;
mod moment;
mod parse;
mod ticks;

pub use cron::CronExpression;
pub use moment::{Moment, MomentError};
pub use parse::ScheduleError;
pub use ticks::DataInterval;

use std::fmt;
use std::time::Duration;

use chrono::{DateTime, TimeDelta};
use chrono_tz::Tz;

use crate::domain::Timestamp;
use crate::domain::dag::DstPolicy;

/// When a DAG runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Schedule {
    /// Only when triggered.
    None,
    /// Once, at the start date.
    Once,
    /// As soon as the last run ended (Airflow's `@continuous`).
    Continuous,
    /// Whenever one of these comes. Two that come at once make one tick.
    Times(Vec<Time>),
    /// At this distance from the start date on.
    Every(Duration),
}

/// One line of a schedule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Time {
    /// Whenever it matches local time.
    Cron(CronExpression),
    /// One time.
    Once(Moment),
}

impl fmt::Display for Time {
    /// As typed; a preset as the cron expression that it stands for.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cron(cron) => cron.fmt(f),
            Self::Once(moment) => moment.fmt(f),
        }
    }
}

impl Time {
    fn next_after(&self, after: Timestamp, zone: Tz, dst: DstPolicy) -> Option<Timestamp> {
        match self {
            Self::Cron(cron) => cron.next_after(after, zone, dst),
            Self::Once(moment) => moment.instants(zone, dst).into_iter().flatten().filter(|at| *at > after).min(),
        }
    }

    fn last_before(&self, before: Timestamp, zone: Tz, dst: DstPolicy) -> Option<Timestamp> {
        match self {
            Self::Cron(cron) => cron.last_before(before, zone, dst),
            Self::Once(moment) => moment.instants(zone, dst).into_iter().flatten().filter(|at| *at < before).max(),
        }
    }
}

impl Schedule {
    /// Whether the clock alone says when it comes, and not a person or the end of another run.
    #[must_use]
    pub fn is_by_the_clock(&self) -> bool {
        match self {
            Self::None | Self::Continuous => false,
            Self::Once | Self::Times(_) | Self::Every(_) => true,
        }
    }

    /// Whether it comes again and again, so that there is time between its ticks.
    #[must_use]
    pub fn recurs(&self) -> bool {
        match self {
            Self::None | Self::Once | Self::Continuous => false,
            Self::Times(times) => times.iter().any(|time| matches!(time, Time::Cron(_))),
            Self::Every(_) => true,
        }
    }

    /// The first instant after `after` at which a run is due; nothing when there is none, or when no clock decides it.
    ///
    /// `anchor` is the DAG's start date: from it (or from 1970) a duration is counted, and [`Schedule::Once`] means it.
    #[must_use]
    pub fn next_after(
        &self,
        after: Timestamp,
        zone: Tz,
        dst: DstPolicy,
        anchor: Option<Timestamp>,
    ) -> Option<Timestamp> {
        match self {
            Self::None | Self::Continuous => None,
            Self::Once => anchor.filter(|start| *start > after),
            Self::Every(every) => {
                let start = anchor.unwrap_or(DateTime::UNIX_EPOCH);
                if after < start {
                    return Some(start);
                }
                let every = microseconds(*every)?;
                let passed = (after - start).num_microseconds()? / every;
                start.checked_add_signed(TimeDelta::microseconds((passed + 1).checked_mul(every)?))
            }
            Self::Times(times) => times.iter().filter_map(|time| time.next_after(after, zone, dst)).min(),
        }
    }

    /// The last instant before `before` at which a run was due, by the same rules.
    #[must_use]
    pub fn last_before(
        &self,
        before: Timestamp,
        zone: Tz,
        dst: DstPolicy,
        anchor: Option<Timestamp>,
    ) -> Option<Timestamp> {
        match self {
            Self::None | Self::Continuous => None,
            Self::Once => anchor.filter(|start| *start < before),
            Self::Every(every) => {
                let start = anchor.unwrap_or(DateTime::UNIX_EPOCH);
                let every = microseconds(*every)?;
                let until = before - TimeDelta::nanoseconds(1);
                if until < start {
                    return None;
                }
                let passed = (until - start).num_microseconds()? / every;
                start.checked_add_signed(TimeDelta::microseconds(passed.checked_mul(every)?))
            }
            Self::Times(times) => times.iter().filter_map(|time| time.last_before(before, zone, dst)).max(),
        }
    }
}

/// Postgres keeps instants to the microsecond, so a shorter distance would be none.
fn microseconds(every: Duration) -> Option<i64> {
    Some(TimeDelta::from_std(every).ok()?.num_microseconds()?.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::dag::{DstGap, DstOverlap};

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn ticks(schedule: &str, zone: Tz, dst: DstPolicy, from: &str, count: usize) -> Vec<String> {
        let schedule: Schedule = schedule.parse().unwrap();
        let mut at = at(from);
        (0..count)
            .map(|_| {
                at = schedule.next_after(at, zone, dst, None).unwrap();
                at.format("%m-%dT%H:%M").to_string()
            })
            .collect()
    }

    #[test]
    fn fields_are_values_names_ranges_steps_and_lists_of_them() {
        for (cron, expected) in [
            ("0 0 L * *", ["01-31T00:00", "02-28T00:00", "03-31T00:00"]),
            ("0 0 15W * *", ["01-15T00:00", "02-16T00:00", "03-16T00:00"]),
            ("0 0 1W * *", ["02-02T00:00", "03-02T00:00", "04-01T00:00"]),
            ("0 0 * * 5L", ["01-30T00:00", "02-27T00:00", "03-27T00:00"]),
            ("0 0 * * MON#1", ["01-05T00:00", "02-02T00:00", "03-02T00:00"]),
            ("0 0 * * 7", ["01-04T00:00", "01-11T00:00", "01-18T00:00"]),
            ("0 0 1,15,L * *", ["01-15T00:00", "01-31T00:00", "02-01T00:00"]),
            ("10-40/15 8-9 * * *", ["01-02T08:10", "01-02T08:25", "01-02T08:40"]),
            ("0 0 1 apr,JUL *", ["04-01T00:00", "07-01T00:00", "04-01T00:00"]),
            ("0 12 * * FRI-mon", ["01-02T12:00", "01-03T12:00", "01-04T12:00"]),
            ("0 22-1 * * TUE", ["01-06T00:00", "01-06T01:00", "01-06T22:00"]),
            ("0 0 30-1 NOV-FEB *", ["01-30T00:00", "01-31T00:00", "02-01T00:00"]),
            ("30 0 0 12 * *", ["01-12T00:00", "02-12T00:00", "03-12T00:00"]),
            ("0 12 20 * TUE", ["01-06T12:00", "01-13T12:00", "01-20T12:00"]),
        ] {
            assert_eq!(ticks(cron, Tz::UTC, DstPolicy::default(), "2026-01-01T12:30:00Z", 3), expected, "{cron}");
        }
    }

    #[test]
    fn a_gap_is_shifted_run_at_its_end_or_skipped() {
        let zone = chrono_tz::Europe::London; // 2026-03-29: 01:00 becomes 02:00
        let with = |gap| DstPolicy { gap, ..DstPolicy::default() };
        let from = "2026-03-28T12:00:00Z";
        assert_eq!(ticks("30 1 * * *", zone, with(DstGap::Shift), from, 2), ["03-29T01:30", "03-30T00:30"]);
        assert_eq!(ticks("30 1 * * *", zone, with(DstGap::RunAtEnd), from, 2), ["03-29T01:00", "03-30T00:30"]);
        assert_eq!(ticks("30 1 * * *", zone, with(DstGap::Skip), from, 2), ["03-30T00:30", "03-31T00:30"]);
    }

    #[test]
    fn a_repeated_hour_runs_once_or_twice() {
        let zone = chrono_tz::Europe::London; // 2026-10-25: 02:00 becomes 01:00
        let with = |overlap| DstPolicy { overlap, ..DstPolicy::default() };
        let from = "2026-10-24T12:00:00Z";
        assert_eq!(ticks("30 1 * * *", zone, with(DstOverlap::Second), from, 2), ["10-25T01:30", "10-26T01:30"]);
        assert_eq!(ticks("30 1 * * *", zone, with(DstOverlap::First), from, 2), ["10-25T00:30", "10-26T01:30"]);
        assert_eq!(
            ticks("30 1 * * *", zone, with(DstOverlap::Both), from, 3),
            ["10-25T00:30", "10-25T01:30", "10-26T01:30"]
        );
    }

    #[test]
    fn what_comes_every_hour_keeps_its_distance_as_in_airflow() {
        for (cron, zone, after, expected) in [
            ("30 * * * *", Tz::Europe__London, "2026-10-25T00:10:00Z", "10-25T00:30"),
            ("0 * * * *", Tz::America__St_Johns, "2026-11-01T02:30:00Z", "11-01T03:30"),
            ("0 */6 * * *", Tz::America__New_York, "2026-11-01T04:00:00Z", "11-01T11:00"),
        ] {
            assert_eq!(ticks(cron, zone, DstPolicy::default(), after, 1), [expected]);
        }
    }

    #[test]
    fn durations_count_from_the_start_date() {
        let every: Schedule = "15m".parse().unwrap();
        let anchor = Some(at("2026-01-01T00:05:00Z"));
        let next = |after| every.next_after(at(after), Tz::UTC, DstPolicy::default(), anchor);
        assert_eq!(next("2026-01-01T00:00:00Z"), anchor);
        assert_eq!(next("2026-01-01T00:05:00Z"), Some(at("2026-01-01T00:20:00Z")));
        assert_eq!(next("2026-01-01T00:19:59Z"), Some(at("2026-01-01T00:20:00Z")));
    }

    #[test]
    fn a_tick_is_a_whole_second_whenever_it_is_asked_for() {
        for cron in ["30 1 * * *", "*/15 * * * *", "*/20 0-4 * * *", "5 0 2 * * *"] {
            let schedule: Schedule = cron.parse().unwrap();
            let next = |after| schedule.next_after(at(after), Tz::Europe__London, DstPolicy::default(), None).unwrap();
            for (after, whole) in [
                ("2026-03-28T12:00:00.000001Z", "2026-03-28T12:00:00Z"),
                ("2026-10-25T00:59:59.999999Z", "2026-10-25T00:59:59Z"),
                ("1969-12-31T23:59:59.5Z", "1969-12-31T23:59:59Z"),
            ] {
                assert_eq!(next(after), next(whole), "{cron} after {after}");
                assert_eq!(next(after).timestamp_subsec_nanos(), 0);
            }
        }
    }
}
