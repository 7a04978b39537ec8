//! When a DAG runs: schedules as typed, and the next instant that one names. Local times are matched as the clock on
//! the wall shows them and then mapped to instants by the DAG's own [`DstPolicy`].

use std::ops::Range;
use std::str::FromStr;
use std::time::Duration;

use chrono::{DateTime, LocalResult, NaiveDateTime, Offset, SubsecRound, TimeDelta, TimeZone, Utc};
use chrono_tz::Tz;
use croner::Cron;
use croner::parser::{CronParser, Seconds, Year};

use crate::domain::Timestamp;
use crate::domain::dag::{DstGap, DstOverlap, DstPolicy, Schedule};
use crate::domain::diagnostic::closest;
use crate::domain::duration::{DurationError, parse_duration};

/// Airflow's names for common schedules.
const PRESETS: [(&str, &str); 9] = [
    ("@yearly", "0 0 1 1 *"),
    ("@annually", "0 0 1 1 *"),
    ("@quarterly", "0 0 1 */3 *"),
    ("@monthly", "0 0 1 * *"),
    ("@weekly", "0 0 * * 0"),
    ("@daily", "0 0 * * *"),
    ("@midnight", "0 0 * * *"),
    ("@hourly", "0 * * * *"),
    ("@minutely", "* * * * *"),
];

/// The fields of a cron expression, with seconds in front when there are six.
const FIELDS: [&str; 6] = ["second", "minute", "hour", "day of month", "month", "day of week"];

/// No change of the clocks moves them further than this.
const LARGEST_SHIFT: TimeDelta = TimeDelta::hours(3);

/// A schedule that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ScheduleError {
    /// What is wrong.
    pub message: String,
    /// Where in the text, in bytes.
    pub range: Range<usize>,
    /// What to do about it.
    pub help: Option<String>,
}

impl FromStr for Schedule {
    type Err = ScheduleError;

    /// Reads cron (5 or 6 fields), a preset, `none`, or a duration.
    fn from_str(text: &str) -> Result<Self, ScheduleError> {
        let trimmed = text.trim();
        let whole = 0..text.len();
        match trimmed {
            "none" | "None" | "null" => return Ok(Self::None),
            "@once" => return Ok(Self::Once),
            "@continuous" => return Ok(Self::Continuous),
            "" => {
                let help = Some("leave `schedule` out, or write `none`, for a DAG that runs when triggered".to_owned());
                return Err(ScheduleError { message: "an empty schedule".to_owned(), range: whole, help });
            }
            _ => {}
        }
        if trimmed.starts_with('@') {
            let cron = PRESETS.iter().find(|(name, _)| *name == trimmed).map(|(_, cron)| (*cron).to_owned());
            return cron.map(|cron| Self::Cron(vec![cron])).ok_or_else(|| {
                let names = PRESETS.iter().map(|(name, _)| *name).chain(["@once", "@continuous"]);
                let help = match closest(trimmed, names) {
                    Some(name) => format!("did you mean `{name}`?"),
                    None => "`@hourly`, `@daily`, `@weekly`, `@monthly`, `@quarterly`, `@yearly`, `@once` and \
                             `@continuous` are known"
                        .to_owned(),
                };
                ScheduleError { message: format!("`{trimmed}` is no preset"), range: whole, help: Some(help) }
            });
        }
        if !trimmed.contains(char::is_whitespace) {
            return match parse_duration(trimmed) {
                Ok(Duration::ZERO) => Err(ScheduleError {
                    message: "a schedule of no time at all".to_owned(),
                    range: whole,
                    help: Some("`@continuous` starts the next run as soon as one ends".to_owned()),
                }),
                Ok(every) => Ok(Self::Every(every)),
                Err(DurationError::Form(_)) => Err(ScheduleError {
                    message: format!("`{trimmed}` is neither a cron expression nor a duration"),
                    range: whole,
                    help: Some(
                        "write cron (`0 2 * * *`), a preset (`@daily`), a duration (`15m`) or `none`".to_owned(),
                    ),
                }),
                Err(error) => Err(ScheduleError { message: error.to_string(), range: whole, help: None }),
            };
        }
        parse_cron(text)?;
        Ok(Self::Cron(vec![trimmed.to_owned()]))
    }
}

fn parser() -> CronParser {
    CronParser::builder().seconds(Seconds::Optional).year(Year::Disallowed).build()
}

fn parse_cron(text: &str) -> Result<Cron, ScheduleError> {
    let fields: Vec<Range<usize>> = words(text);
    if !(5..=6).contains(&fields.len()) {
        return Err(ScheduleError {
            message: format!("a cron expression has 5 or 6 fields, this has {}", fields.len()),
            range: 0..text.len(),
            help: Some("minute, hour, day of month, month, day of week; six have seconds in front".to_owned()),
        });
    }
    let Err(error) = parser().parse(text) else {
        let cron = parser().parse(text).expect("it was just parsed");
        // `0 0 30 2 *` is well formed and never comes.
        return if cron.find_next_occurrence(&DateTime::<Utc>::UNIX_EPOCH, true).is_ok() {
            Ok(cron)
        } else {
            Err(ScheduleError {
                message: format!("`{}` never comes", text.trim()),
                range: 0..text.len(),
                help: Some("no year has such a day".to_owned()),
            })
        };
    };
    let names = &FIELDS[FIELDS.len() - fields.len()..];
    for (position, range) in fields.iter().enumerate() {
        // Each field alone, among fields that are right: the one that is still refused is the wrong one.
        let mut alone = vec!["*"; fields.len()];
        alone[position] = &text[range.clone()];
        if let Err(error) = parser().parse(&alone.join(" ")) {
            return Err(ScheduleError {
                message: format!("`{}` cannot be the {} of a cron expression", &text[range.clone()], names[position]),
                range: range.clone(),
                help: Some(field_help(names[position], &error.to_string())),
            });
        }
    }
    Err(ScheduleError { message: error.to_string(), range: 0..text.len(), help: None })
}

fn field_help(field: &str, error: &str) -> String {
    match field {
        "second" | "minute" => "0 to 59, as `5`, `*/15`, `10-20` or `0,30`".to_owned(),
        "hour" => "0 to 23, as `2`, `*/6`, `8-18` or `6,18`".to_owned(),
        "day of month" => "1 to 31, `L` for the last, `15W` for the workday nearest to the 15th".to_owned(),
        "month" => "1 to 12, or JAN to DEC".to_owned(),
        "day of week" => {
            "0 to 7 (0 and 7 are Sunday), or SUN to SAT; `5L` is the last Friday, `1#2` the second Monday".to_owned()
        }
        _ => error.to_owned(),
    }
}

fn words(text: &str) -> Vec<Range<usize>> {
    let start = text.as_ptr() as usize;
    text.split_whitespace()
        .map(|word| {
            let from = word.as_ptr() as usize - start;
            from..from + word.len()
        })
        .collect()
}

impl Schedule {
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
                let every = TimeDelta::from_std(*every).ok()?.num_microseconds()?.max(1);
                let passed = (after - start).num_microseconds()?;
                if passed < 0 {
                    return Some(start);
                }
                start.checked_add_signed(TimeDelta::microseconds((passed / every + 1).checked_mul(every)?))
            }
            Self::Cron(expressions) => expressions.iter().filter_map(|text| next_of_cron(text, after, zone, dst)).min(),
        }
    }
}

fn next_of_cron(expression: &str, after: Timestamp, zone: Tz, dst: DstPolicy) -> Option<Timestamp> {
    let cron = parse_cron(expression).ok()?;
    let after = after.trunc_subsecs(0); // the parser carries a fraction of a second over into its ticks
    let offset = |at: Timestamp| zone.offset_from_utc_datetime(&at.naive_utc()).fix();
    if dst == DstPolicy::default() && takes_every_hour(expression) {
        // Airflow's way: what comes every hour is a distance on the clock, kept across its change.
        let wall = after.with_timezone(&zone).naive_local();
        let tick = cron.find_next_occurrence(&wall.and_utc(), false).ok()?.naive_utc();
        return after.checked_add_signed(tick - wall);
    }
    let near_change = offset(after - LARGEST_SHIFT) != offset(after + LARGEST_SHIFT);
    // Near a change of the clocks, an earlier time on the wall may be a later instant: start before it.
    let back = if near_change { LARGEST_SHIFT } else { TimeDelta::zero() };
    let mut wall = after.with_timezone(&zone).naive_local() - back;
    let mut best: Option<Timestamp> = None;
    loop {
        // The parser's own mapping of zones is not ours: it sees the wall clock as if it were UTC.
        let tick = cron.find_next_occurrence(&wall.and_utc(), false).ok()?.naive_utc();
        if let Some(best) = best
            && tick > best.with_timezone(&zone).naive_local() + LARGEST_SHIFT
        {
            return Some(best);
        }
        let due = instants(tick, zone, dst).into_iter().flatten().filter(|instant| *instant > after).min();
        best = [best, due].into_iter().flatten().min();
        if best.is_some() && !near_change && !is_near_change(best, zone) {
            return best;
        }
        wall = tick;
    }
}

/// Whether a cron expression takes every hour.
fn takes_every_hour(expression: &str) -> bool {
    expression.split_whitespace().rev().nth(3).is_some_and(|hour| matches!(hour, "*" | "*/1"))
}

fn is_near_change(at: Option<Timestamp>, zone: Tz) -> bool {
    let offset = |at: Timestamp| zone.offset_from_utc_datetime(&at.naive_utc()).fix();
    at.is_some_and(|at| offset(at - LARGEST_SHIFT) != offset(at + LARGEST_SHIFT))
}

/// The instants that a time on the wall means: none, one or two, by the policy.
fn instants(wall: NaiveDateTime, zone: Tz, dst: DstPolicy) -> [Option<Timestamp>; 2] {
    match zone.from_local_datetime(&wall) {
        LocalResult::Single(at) => [Some(at.to_utc()), None],
        LocalResult::Ambiguous(first, second) => match dst.overlap {
            DstOverlap::First => [Some(first.to_utc()), None],
            DstOverlap::Second => [Some(second.to_utc()), None],
            DstOverlap::Both => [Some(first.to_utc()), Some(second.to_utc())],
        },
        LocalResult::None => {
            // With the offset from before the gap, the instant is as far behind the gap's end as the wall time is
            // behind its start.
            let before = zone.offset_from_utc_datetime(&(wall - LARGEST_SHIFT * 8)).fix();
            let shifted = (wall - TimeDelta::seconds(i64::from(before.local_minus_utc()))).and_utc();
            match dst.gap {
                DstGap::Skip => [None, None],
                DstGap::Shift => [Some(shifted), None],
                DstGap::RunAtEnd => [Some(gap_end(shifted, zone)), None],
            }
        }
    }
}

/// The instant of the change of the clocks at or before `inside`, found by halving.
fn gap_end(inside: Timestamp, zone: Tz) -> Timestamp {
    let offset = |at: Timestamp| zone.offset_from_utc_datetime(&at.naive_utc()).fix();
    let new = offset(inside);
    let (mut old_side, mut new_side) = ((inside - LARGEST_SHIFT * 8).timestamp(), inside.timestamp());
    while new_side - old_side > 1 {
        let middle = old_side + (new_side - old_side) / 2;
        match DateTime::from_timestamp(middle, 0) {
            Some(at) if offset(at) == new => new_side = middle,
            _ => old_side = middle,
        }
    }
    DateTime::from_timestamp(new_side, 0).unwrap_or(inside)
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn schedules_are_cron_presets_durations_or_none() {
        assert_eq!("0 2 * * *".parse(), Ok(Schedule::Cron(vec!["0 2 * * *".into()])));
        assert_eq!("*/10 0 2 * * MON-FRI".parse(), Ok(Schedule::Cron(vec!["*/10 0 2 * * MON-FRI".into()])));
        assert_eq!("0 0 L * 5#2".parse(), Ok(Schedule::Cron(vec!["0 0 L * 5#2".into()])));
        assert_eq!("@daily".parse(), Ok(Schedule::Cron(vec!["0 0 * * *".into()])));
        assert_eq!("15m".parse(), Ok(Schedule::Every(Duration::from_secs(900))));
        assert_eq!("900".parse(), Ok(Schedule::Every(Duration::from_secs(900))));
        assert_eq!("none".parse(), Ok(Schedule::None));
        assert_eq!("@once".parse(), Ok(Schedule::Once));
    }

    #[test]
    fn a_wrong_field_is_pointed_at() {
        let error = "0 25 * * *".parse::<Schedule>().unwrap_err();
        assert_eq!(error.to_string(), "`25` cannot be the hour of a cron expression");
        assert_eq!(error.range, 2..4);
        let error = "0 0 30 2 *".parse::<Schedule>().unwrap_err();
        assert_eq!(error.to_string(), "`0 0 30 2 *` never comes");
        assert_eq!("@dayly".parse::<Schedule>().unwrap_err().help.as_deref(), Some("did you mean `@daily`?"));
        assert!("* * *".parse::<Schedule>().unwrap_err().to_string().contains("this has 3"));
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
