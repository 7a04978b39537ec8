//! A DAG's ticks: its schedule within its start and end, and the data interval that each one's run is for.

use chrono::TimeDelta;

use crate::domain::Timestamp;
use crate::domain::dag::{DagSettings, DataIntervals};
use crate::domain::schedule::Schedule;

/// The smallest step of an instant: a tick at `from` is the first one after `from` less this.
const STEP: TimeDelta = TimeDelta::nanoseconds(1);

/// What a run is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DataInterval {
    /// The date that names the run.
    pub logical_date: Timestamp,
    /// The first instant whose data it takes.
    pub start: Timestamp,
    /// The first instant whose data it leaves to the next run.
    pub end: Timestamp,
}

impl DataInterval {
    fn at(at: Timestamp) -> Self {
        Self { logical_date: at, start: at, end: at }
    }
}

impl DagSettings {
    /// The first tick after `after`: not before the start date, and none whose logical date is after the end date.
    #[must_use]
    pub fn next_tick(&self, after: Timestamp) -> Option<Timestamp> {
        let tick = self.due_after(self.first_possible().map_or(after, |first| after.max(first - STEP)))?;
        self.is_before_end(tick).then_some(tick)
    }

    /// The first tick at or after `from`, by the same rules.
    #[must_use]
    pub fn tick_from(&self, from: Timestamp) -> Option<Timestamp> {
        self.next_tick(from - STEP)
    }

    /// The last tick before `before`, by the same rules.
    #[must_use]
    pub fn previous_tick(&self, before: Timestamp) -> Option<Timestamp> {
        let mut tick = self.due_before(before)?;
        if !self.is_before_end(tick)
            && let Some(end) = self.end_date
        {
            tick = self.due_before(end + STEP)?;
            if self.covers_time() {
                tick = self.due_after(tick)?;
            }
        }
        let has_begun = match self.first_possible() {
            Some(first) => tick >= first,
            None => self.start_date.is_none(),
        };
        has_begun.then_some(tick)
    }

    /// What the run of a tick is for: the instant itself, or with `data_interval: cron` the time since the tick before.
    #[must_use]
    pub fn data_interval(&self, tick: Timestamp) -> DataInterval {
        match self.due_before(tick) {
            Some(start) if self.covers_time() => DataInterval { logical_date: start, start, end: tick },
            _ => DataInterval::at(tick),
        }
    }

    /// What a run is for that somebody triggers `at` an instant: that instant, or with `data_interval: cron` the last
    /// interval that was complete then; for a duration, which has no marks on the clock, the time of its length.
    #[must_use]
    pub fn manual_data_interval(&self, at: Timestamp) -> DataInterval {
        let whole = || {
            if let Schedule::Every(every) = self.schedule {
                return Some((at.checked_sub_signed(TimeDelta::from_std(every).ok()?)?, at));
            }
            let end = self.due_before(at + STEP)?;
            Some((self.due_before(end)?, end))
        };
        match whole() {
            Some((start, end)) if self.covers_time() => DataInterval { logical_date: at, start, end },
            _ => DataInterval::at(at),
        }
    }

    /// Whether runs are for the time between two ticks. A schedule that does not recur has no such time.
    fn covers_time(&self) -> bool {
        self.data_interval == DataIntervals::Cron && self.schedule.recurs()
    }

    /// No tick is before this: with intervals, the second one since the start date, which ends the first interval.
    fn first_possible(&self) -> Option<Timestamp> {
        let start = self.start_date?;
        if !self.covers_time() {
            return Some(start);
        }
        self.due_after(start - STEP).and_then(|first| self.due_after(first))
    }

    fn is_before_end(&self, tick: Timestamp) -> bool {
        self.end_date.is_none_or(|end| self.data_interval(tick).logical_date <= end)
    }

    fn due_after(&self, after: Timestamp) -> Option<Timestamp> {
        self.schedule.next_after(after, self.timezone, self.dst, self.start_date)
    }

    fn due_before(&self, before: Timestamp) -> Option<Timestamp> {
        self.schedule.last_before(before, self.timezone, self.dst, self.start_date)
    }
}
