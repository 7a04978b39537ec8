//! The only place that reads time. Everything else takes `now` as an argument (or, for leases, asks Postgres).

#![expect(clippy::disallowed_methods, reason = "this is the one file that may read the clocks")]

use std::time::Instant;

use chrono::{DateTime, SubsecRound, Utc};

/// The wall clock, in UTC, cut to the microsecond that Postgres keeps: what is read back equals what was written.
#[must_use]
pub fn now() -> DateTime<Utc> {
    Utc::now().trunc_subsecs(6)
}

/// A monotonic instant, for measuring how long something took.
#[must_use]
pub fn monotonic() -> Instant {
    Instant::now()
}

/// Milliseconds since the Unix epoch, as Kafka stamps its records.
#[must_use]
pub fn unix_ms() -> i64 {
    Utc::now().timestamp_millis()
}
