//! A point in time as people type it: with its own offset, or on the clock of the DAG's zone.

use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, Datelike, NaiveDate, NaiveDateTime, NaiveTime};
use chrono_tz::Tz;

use crate::domain::Timestamp;
use crate::domain::dag::DstPolicy;
use crate::domain::schedule::local;

/// A point in time as typed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// It had an offset.
    Fixed(Timestamp),
    /// It had none: the DAG's zone says when it is.
    Local(NaiveDateTime),
}

/// Text that is no point in time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a date")]
pub struct MomentError(String);

impl FromStr for Moment {
    type Err = MomentError;

    /// Reads `2026-01-31`, `2026-01-31T02:00`, `2026-01-31 02:00:00`, with fractions, and with an offset behind it.
    fn from_str(text: &str) -> Result<Self, MomentError> {
        let trimmed = text.trim();
        let moment = if let Some(fixed) = ["%Y-%m-%d %H:%M:%S%.f%:z", "%Y-%m-%dT%H:%M%:z", "%Y-%m-%d %H:%M%:z"]
            .iter()
            .find_map(|format| DateTime::parse_from_str(trimmed, format).ok())
            .or_else(|| DateTime::parse_from_rfc3339(trimmed).ok())
        {
            Some(Self::Fixed(fixed.to_utc()))
        } else if let Ok(date) = NaiveDate::parse_from_str(trimmed, "%Y-%m-%d") {
            Some(Self::Local(date.and_time(NaiveTime::MIN)))
        } else {
            ["%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%dT%H:%M", "%Y-%m-%d %H:%M"]
                .iter()
                .find_map(|format| NaiveDateTime::parse_from_str(trimmed, format).ok())
                .map(Self::Local)
        };
        // Beyond these years instants run out of range, and nobody means them.
        moment.filter(|moment| (1..=9999).contains(&moment.year())).ok_or_else(|| MomentError(text.to_owned()))
    }
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fixed(at) => write!(f, "{}", at.format("%Y-%m-%dT%H:%M:%S%.fZ")),
            Self::Local(local) => write!(f, "{}", local.format("%Y-%m-%dT%H:%M:%S%.f")),
        }
    }
}

impl Moment {
    /// The first instant that it means in `zone`: none where the clocks jump over it and the policy says to leave it out.
    #[must_use]
    pub fn first_instant(self, zone: Tz, dst: DstPolicy) -> Option<Timestamp> {
        self.instants(zone, dst).into_iter().flatten().next()
    }

    fn year(self) -> i32 {
        match self {
            Self::Fixed(at) => at.year(),
            Self::Local(local) => local.year(),
        }
    }

    /// The instants that it means in `zone`: none or two where the clocks change and the policy says so.
    pub(super) fn instants(self, zone: Tz, dst: DstPolicy) -> [Option<Timestamp>; 2] {
        match self {
            Self::Fixed(at) => [Some(at), None],
            Self::Local(local) => local::instants(local, zone, dst),
        }
    }
}
