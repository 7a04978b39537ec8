//! From the clock on the wall to instants, by policy. Time is cut where a zone's clocks change; between two changes a
//! local time is one instant, and at a change the policy says what becomes of times that are skipped or repeated.

use chrono::{NaiveDateTime, SubsecRound, TimeDelta};
use chrono_tz::Tz;

use crate::domain::Timestamp;
use crate::domain::dag::{DstGap, DstOverlap, DstPolicy};
use crate::domain::schedule::changes::{Change, FURTHEST, first_change, last_change, offset, wall};
use crate::domain::schedule::cron::CronExpression;

/// Ticks are whole seconds.
const SECOND: TimeDelta = TimeDelta::seconds(1);

impl CronExpression {
    /// The first tick after `after`.
    pub(super) fn next_after(&self, after: Timestamp, zone: Tz, mut dst: DstPolicy) -> Option<Timestamp> {
        let after = floor(after);
        if self.takes_every_hour() {
            if dst == DstPolicy::default() {
                return self.next_at_a_distance(after, zone);
            }
            if dst.overlap == DstOverlap::Second {
                // As by default: nobody means by it that what runs every hour pauses for one.
                dst.overlap = DstOverlap::Both;
            }
        }
        let mut from = after.checked_add_signed(SECOND)?;
        loop {
            let here = offset(zone, from);
            let mut open = from;
            match last_change(zone, from - FURTHEST - SECOND, from) {
                Some(gap) if gap.ahead() > TimeDelta::zero() => {
                    if let Some(tick) = self.tick_of_gap(gap, dst.gap).filter(|tick| *tick >= from) {
                        return Some(tick);
                    }
                }
                Some(repeated) if dst.overlap == DstOverlap::First => {
                    open = from.max(repeated.at - repeated.ahead());
                }
                _ => {}
            }
            let tick = self.first_from(open.naive_utc() + here)?.and_utc() - here;
            let Some(change) = first_change(zone, from, tick.checked_add_signed(FURTHEST)?) else { return Some(tick) };
            let closed = match dst.overlap {
                DstOverlap::Second => change.at.min(change.at + change.ahead()),
                DstOverlap::First | DstOverlap::Both => change.at,
            };
            if tick < closed {
                return Some(tick);
            }
            from = change.at;
        }
    }

    /// The last tick before `before`: the ticks since the match before it are counted up, as far back as it takes.
    pub(super) fn last_before(&self, before: Timestamp, zone: Tz, dst: DstPolicy) -> Option<Timestamp> {
        let until = floor(before - TimeDelta::nanoseconds(1));
        let here = offset(zone, until);
        let mut look = until.naive_utc() + here;
        loop {
            let matched = self.last_until(look)?;
            let mut last = matched.and_utc() - here - SECOND;
            let mut found = None;
            while let Some(tick) = self.next_after(last, zone, dst).filter(|tick| *tick < before) {
                (last, found) = (tick, Some(tick));
            }
            if found.is_some() {
                return found;
            }
            look = matched - SECOND;
        }
    }

    /// The tick that a gap gives. Airflow counts on from where a skipped time was shifted to, so that only the first of
    /// several gives one, and what would come between the gap's end and that tick does not come.
    fn tick_of_gap(&self, gap: Change, policy: DstGap) -> Option<Timestamp> {
        let skipped = self.first_from(gap.old_wall()).filter(|skipped| *skipped < gap.new_wall())?;
        match policy {
            DstGap::Shift => Some(skipped.and_utc() - gap.before),
            DstGap::RunAtEnd => Some(gap.at),
            DstGap::Skip => None,
        }
    }

    /// Airflow's way with what takes every hour: the distance on the wall from one tick to the next is a distance in
    /// time, kept across a change of the clocks.
    fn next_at_a_distance(&self, after: Timestamp, zone: Tz) -> Option<Timestamp> {
        let here = offset(zone, after);
        // Where the clocks changed since a match that is well back, the tick that steps over the change is not where the
        // wall says, and the others are counted from it.
        let changed = self.last_until(wall(zone, after) - FURTHEST - SECOND).and_then(|back| {
            let back = back.and_utc() - here;
            last_change(zone, back, after)
        });
        if let Some(change) = changed {
            let over = self.first_from(change.old_wall())?.and_utc();
            let last = self.last_until(change.old_wall() - SECOND);
            let distance = last.map_or(change.before, |last| offset(zone, last.and_utc() - change.before));
            let over = over - distance;
            if after < over {
                return Some(over);
            }
        }
        Some(self.first_from(after.naive_utc() + here + SECOND)?.and_utc() - here)
    }
}

/// The instants that a time on the wall means: none, one or two, by the policy.
pub(super) fn instants(local: NaiveDateTime, zone: Tz, dst: DstPolicy) -> [Option<Timestamp>; 2] {
    let reach = FURTHEST * 2;
    let Some(change) = change_around(local, zone, reach) else {
        let at = local.and_utc();
        return [Some(at - offset(zone, at)), None];
    };
    let (first, second) = (local.and_utc() - change.before, local.and_utc() - change.after);
    match (first < change.at, second < change.at) {
        (true, true) => [Some(first), None],
        (false, false) => [Some(second), None],
        // It was before the change, and is again after it.
        (true, false) => match dst.overlap {
            DstOverlap::First => [Some(first), None],
            DstOverlap::Second => [Some(second), None],
            DstOverlap::Both => [Some(first), Some(second)],
        },
        (false, true) => match dst.gap {
            DstGap::Shift => [Some(first), None],
            DstGap::RunAtEnd => [Some(change.at), None],
            DstGap::Skip => [None, None],
        },
    }
}

/// The change of the clocks nearest to a local time.
fn change_around(local: NaiveDateTime, zone: Tz, reach: TimeDelta) -> Option<Change> {
    let near = local.and_utc();
    let (back, ahead) = (last_change(zone, near - reach, near), first_change(zone, near, near + reach));
    match (back, ahead) {
        (Some(back), Some(ahead)) => Some(if near - back.at < ahead.at - near { back } else { ahead }),
        (one, other) => one.or(other),
    }
}

/// The whole second at or before an instant.
fn floor(at: Timestamp) -> Timestamp {
    let whole = at.trunc_subsecs(0);
    if whole > at { whole - SECOND } else { whole }
}
