//! Where a zone's clocks change. The zone database answers what the offset is at an instant; when it becomes another is
//! found by looking.

use chrono::{NaiveDateTime, Offset, TimeDelta, TimeZone};
use chrono_tz::Tz;

use crate::domain::Timestamp;

/// No change moves the clocks further: Samoa left out a whole day when it moved over the date line.
pub(super) const FURTHEST: TimeDelta = TimeDelta::hours(24);

/// Offsets are compared at this distance. No zone has changed its clocks twice within less than a week since 1970.
const STEP: TimeDelta = TimeDelta::hours(24);

/// A change of the clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Change {
    /// The first instant of the new offset.
    pub(super) at: Timestamp,
    /// The offset from UTC up to then.
    pub(super) before: TimeDelta,
    /// The offset from UTC from then on.
    pub(super) after: TimeDelta,
}

impl Change {
    /// How far the clocks move ahead; below zero where they move back.
    pub(super) fn ahead(self) -> TimeDelta {
        self.after - self.before
    }

    /// What the clock on the wall would show at the change if it did not move.
    pub(super) fn old_wall(self) -> NaiveDateTime {
        self.at.naive_utc() + self.before
    }

    /// What it shows instead.
    pub(super) fn new_wall(self) -> NaiveDateTime {
        self.at.naive_utc() + self.after
    }
}

/// How far local time is ahead of UTC at an instant.
pub(super) fn offset(zone: Tz, at: Timestamp) -> TimeDelta {
    TimeDelta::seconds(i64::from(zone.offset_from_utc_datetime(&at.naive_utc()).fix().local_minus_utc()))
}

/// What the clock on the wall shows at an instant.
pub(super) fn wall(zone: Tz, at: Timestamp) -> NaiveDateTime {
    at.naive_utc() + offset(zone, at)
}

/// The first change after `after`, up to and with `until`.
pub(super) fn first_change(zone: Tz, after: Timestamp, until: Timestamp) -> Option<Change> {
    let (mut low, before) = (after, offset(zone, after));
    while low < until {
        let high = (low + STEP).min(until);
        if offset(zone, high) != before {
            return Some(between(zone, low, high));
        }
        low = high;
    }
    None
}

/// The last change after `after`, up to and with `until`.
pub(super) fn last_change(zone: Tz, after: Timestamp, until: Timestamp) -> Option<Change> {
    let (mut high, now) = (until, offset(zone, until));
    while high > after {
        let low = (high - STEP).max(after);
        if offset(zone, low) != now {
            return Some(between(zone, low, high));
        }
        high = low;
    }
    None
}

/// The change between two instants with different offsets, found by halving.
fn between(zone: Tz, low: Timestamp, high: Timestamp) -> Change {
    let (before, after) = (offset(zone, low), offset(zone, high));
    let (mut old, mut new) = (low.timestamp(), high.timestamp());
    while new - old > 1 {
        let middle = old + (new - old) / 2;
        match Timestamp::from_timestamp(middle, 0) {
            Some(at) if offset(zone, at) == before => old = middle,
            _ => new = middle,
        }
    }
    Change { at: Timestamp::from_timestamp(new, 0).unwrap_or(high), before, after }
}
