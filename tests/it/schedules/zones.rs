//! Every change of the clocks of every zone from 1970 to 2050, by every policy. What must come is made here from the
//! minutes of the clock on the wall, one by one, without what is tested.

use std::collections::BTreeSet;

use chrono::{DateTime, Datelike, NaiveDateTime, Offset, TimeDelta, TimeZone, Timelike};
use chrono_tz::Tz;
use pinsched::domain::Timestamp;
use pinsched::domain::dag::{DstGap, DstOverlap, DstPolicy};
use pinsched::domain::schedule::Schedule;

use crate::schedules::at;

const FROM_YEAR: i32 = 1970;
const TO_YEAR: i32 = 2050;

/// How often a zone's offset is looked at: changes are a week apart at the least.
const LOOK: i64 = 24 * 60 * 60;

/// Around a change, beside how far it moves the clocks.
const AROUND: TimeDelta = TimeDelta::hours(3);

const GAPS: [DstGap; 3] = [DstGap::Shift, DstGap::RunAtEnd, DstGap::Skip];
const OVERLAPS: [DstOverlap; 3] = [DstOverlap::Second, DstOverlap::First, DstOverlap::Both];

/// A change of the clocks in some zone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Change {
    at: Timestamp,
    before: TimeDelta,
    after: TimeDelta,
}

impl Change {
    fn is_gap(self) -> bool {
        self.after > self.before
    }

    /// The instants at which the clock shows `wall`, as far as this change is concerned.
    fn shown(self, wall: NaiveDateTime) -> Vec<Timestamp> {
        let (old, new) = (wall.and_utc() - self.before, wall.and_utc() - self.after);
        let mut shown = Vec::new();
        shown.extend((old < self.at).then_some(old));
        shown.extend((new >= self.at).then_some(new));
        shown
    }
}

fn offset(zone: Tz, at: i64) -> i64 {
    let at = DateTime::from_timestamp(at, 0).unwrap();
    i64::from(zone.offset_from_utc_datetime(&at.naive_utc()).fix().local_minus_utc())
}

fn year(year: i32) -> i64 {
    at(&format!("{year}-01-01T00:00:00Z")).timestamp()
}

fn changes_of(zone: Tz) -> Vec<Change> {
    let mut changes = Vec::new();
    let (mut low, end) = (year(FROM_YEAR), year(TO_YEAR + 1));
    let mut before = offset(zone, low);
    while low < end {
        let high = low + LOOK;
        let after = offset(zone, high);
        if after != before {
            let (mut old, mut new) = (low, high);
            while new - old > 1 {
                let middle = old + (new - old) / 2;
                if offset(zone, middle) == before { old = middle } else { new = middle }
            }
            let at = DateTime::from_timestamp(new, 0).unwrap();
            changes.push(Change { at, before: TimeDelta::seconds(before), after: TimeDelta::seconds(after) });
        }
        (low, before) = (high, after);
    }
    changes
}

/// A cron expression, with what it means said once more.
struct Case {
    cron: String,
    minutes: BTreeSet<u32>,
    hours: BTreeSet<u32>,
    day: Box<dyn Fn(NaiveDateTime) -> bool>,
}

impl Case {
    fn matches(&self, wall: NaiveDateTime) -> bool {
        wall.second() == 0
            && self.minutes.contains(&wall.minute())
            && self.hours.contains(&wall.hour())
            && (self.day)(wall)
    }

    fn takes_every_hour(&self) -> bool {
        self.hours.len() == 24
    }

    /// The matches on the wall from one local time to another, minute by minute.
    fn walls(&self, from: NaiveDateTime, to: NaiveDateTime) -> impl Iterator<Item = NaiveDateTime> {
        let mut minute = from.with_second(0).unwrap();
        std::iter::from_fn(move || {
            minute += TimeDelta::minutes(1);
            (minute <= to).then_some(minute)
        })
        .filter(|wall| self.matches(*wall))
    }
}

/// What people schedule, aimed at the local times that the change skips or repeats.
fn cases(change: Change) -> Vec<Case> {
    let moved = (change.after - change.before).abs();
    let aim = change.at.naive_utc() + change.before.min(change.after) + moved / 2;
    let aim = aim.with_second(0).unwrap();
    let (minute, hour) = (aim.minute(), aim.hour());
    let all: BTreeSet<u32> = (0..24).collect();
    let some: BTreeSet<u32> = [(hour + 23) % 24, hour, (hour + 1) % 24].into();
    let twenty: BTreeSet<u32> = [0, 20, 40].into();
    let listed = some.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
    let weekday = aim.weekday().num_days_from_sunday();
    let any = |_: NaiveDateTime| true;
    let is_last = |wall: NaiveDateTime| (wall + TimeDelta::days(1)).month() != wall.month();
    let case = |cron: String,
                minutes: &BTreeSet<u32>,
                hours: &BTreeSet<u32>,
                day: Box<dyn Fn(NaiveDateTime) -> bool>| {
        Case { cron, minutes: minutes.clone(), hours: hours.clone(), day }
    };
    let (minute_alone, hour_alone) = (BTreeSet::from([minute]), BTreeSet::from([hour]));
    vec![
        case(format!("{minute} {hour} * * *"), &minute_alone, &hour_alone, Box::new(any)),
        case(format!("{minute} * * * *"), &minute_alone, &all, Box::new(any)),
        case("*/20 * * * *".to_owned(), &twenty, &all, Box::new(any)),
        case(format!("*/20 {listed} * * *"), &twenty, &some, Box::new(any)),
        case(
            format!("{minute} {hour} * * {weekday}"),
            &minute_alone,
            &hour_alone,
            Box::new(move |wall| wall.weekday().num_days_from_sunday() == weekday),
        ),
        case(format!("{minute} {hour} L * *"), &minute_alone, &hour_alone, Box::new(is_last)),
    ]
}

/// What must come around a change: each match once, but for what the policy says.
fn expected(case: &Case, change: Change, policy: DstPolicy, from: Timestamp, to: Timestamp) -> BTreeSet<Timestamp> {
    let every_hour = case.takes_every_hour();
    let (mut ticks, mut shifted) = (BTreeSet::new(), None);
    for wall in case.walls(from.naive_utc() + change.before, to.naive_utc() + change.after) {
        let shown = change.shown(wall);
        match (shown.as_slice(), policy.gap, policy.overlap) {
            ([], DstGap::Shift, _) => shifted = shifted.or(Some(wall.and_utc() - change.before)),
            ([], DstGap::RunAtEnd, _) => drop(ticks.insert(change.at)),
            ([], DstGap::Skip, _) => {}
            ([_, second], _, DstOverlap::Second) if !every_hour => drop(ticks.insert(*second)),
            ([first, _], _, DstOverlap::First) => drop(ticks.insert(*first)),
            (shown, _, _) => ticks.extend(shown),
        }
    }
    if let Some(shifted) = shifted {
        // From there the schedule goes on.
        ticks.retain(|tick| *tick < change.at || *tick > shifted);
        ticks.insert(shifted);
    }
    ticks.retain(|tick| *tick > from && *tick < to);
    ticks
}

/// What Airflow does: from each tick to the next match on the wall that shows it.
fn as_airflow(case: &Case, change: Change, from: Timestamp, to: Timestamp) -> BTreeSet<Timestamp> {
    let wall_at = |at: Timestamp| at.naive_utc() + if at < change.at { change.before } else { change.after };
    let mut tick = from;
    let mut ticks = BTreeSet::new();
    while tick < to {
        let wall = wall_at(tick);
        let Some(next) = case.walls(wall, to.naive_utc() + change.after).next() else { break };
        tick = match change.shown(next).as_slice() {
            _ if case.takes_every_hour() => tick + (next - wall),
            [.., last] => *last,
            [] => next.and_utc() - change.before,
        };
        ticks.insert(tick);
    }
    ticks.retain(|tick| *tick > from && *tick < to);
    ticks
}

/// Checks a change: by default, and by a third of the other policies, another third than at the change before.
fn check(zone: Tz, change: Change, nth: usize) {
    let moved = (change.after - change.before).abs();
    let (from, to) = (change.at - moved - AROUND, change.at + moved + AROUND);
    for case in cases(change) {
        let schedule: Schedule = case.cron.parse().unwrap();
        // What does not happen at this change makes no difference but by being there.
        let policies = GAPS.iter().flat_map(|gap| OVERLAPS.map(|overlap| DstPolicy { gap: *gap, overlap }));
        let matters = |policy: &DstPolicy| match change.is_gap() {
            true => policy.overlap != DstOverlap::Both,
            false => policy.gap != DstGap::RunAtEnd,
        };
        for (place, policy) in policies.filter(matters).enumerate() {
            let by_default = policy == DstPolicy::default();
            if !by_default && !(place + nth).is_multiple_of(3) {
                continue;
            }
            let expected = if by_default {
                as_airflow(&case, change, from, to)
            } else {
                expected(&case, change, policy, from, to)
            };
            if by_default && !case.takes_every_hour() {
                assert_eq!(expected, self::expected(&case, change, policy, from, to));
            }
            let next = |after| schedule.next_after(after, zone, policy, None);
            let mut ticks = BTreeSet::new();
            let mut last = from;
            while let Some(tick) = next(last).filter(|tick| *tick < to) {
                assert!(tick > last, "{} in {zone}: {tick} is not after {last}", case.cron);
                ticks.insert(tick);
                last = tick;
            }
            let what = || format!("`{}` in {zone} with {policy:?} around {change:?}", case.cron);
            assert_eq!(ticks, expected, "{}", what());
            for asked in [change.at - moved / 2, change.at - TimeDelta::seconds(1), change.at, change.at + moved / 2] {
                let following = expected.range(asked + TimeDelta::seconds(1)..).next();
                assert_eq!(next(asked).filter(|tick| *tick < to).as_ref(), following, "after {asked}: {}", what());
                if let Some(before) = expected.range(..asked).next_back() {
                    assert_eq!(schedule.last_before(asked, zone, policy, None), Some(*before), "{}", what());
                }
            }
        }
    }
}

#[test]
fn every_change_of_the_clocks_does_what_the_policy_says() {
    let zones: Vec<Tz> = chrono_tz::TZ_VARIANTS.to_vec();
    let halves: Vec<&[Tz]> = zones.chunks(zones.len().div_ceil(4)).collect();
    let mut seen: Vec<(Change, Tz)> = std::thread::scope(|scope| {
        let threads: Vec<_> = halves
            .iter()
            .map(|zones| {
                scope.spawn(|| {
                    let mut found = Vec::new();
                    for zone in *zones {
                        let changes = changes_of(*zone);
                        for pair in changes.windows(2) {
                            assert!(pair[1].at - pair[0].at > TimeDelta::days(6), "{zone}: {pair:?} are too close");
                        }
                        found.extend(changes.into_iter().map(|change| (change, *zone)));
                    }
                    found
                })
            })
            .collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    assert!(seen.len() > 30_000, "{} changes", seen.len());
    // Zones that change at once by the same are one.
    seen.sort_by_key(|(change, _)| *change);
    seen.dedup_by_key(|(change, _)| *change);
    std::thread::scope(|scope| {
        for part in 0..4 {
            let seen = &seen;
            scope.spawn(move || {
                for (nth, (change, zone)) in seen.iter().enumerate().skip(part).step_by(4) {
                    check(*zone, *change, nth / 4);
                }
            });
        }
    });
}
