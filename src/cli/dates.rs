//! Dates as people type them behind a flag.

use anyhow::Context;
use chrono::TimeZone;
use chrono_tz::Tz;

use crate::domain::Timestamp;
use crate::domain::schedule::Moment;

/// A date, a local time in `zone`, or an instant; `what` it is for is said of what is none.
pub(crate) fn parse_date(text: &str, zone: Tz, what: &str) -> anyhow::Result<Timestamp> {
    let moment = text.parse().ok().with_context(|| {
        format!("`{text}` is no {what}: write 2026-03-01, 2026-03-01T02:00:00 or 2026-03-01T02:00:00+01:00")
    })?;
    match moment {
        Moment::Fixed(at) => Ok(at),
        Moment::Local(local) => zone.from_local_datetime(&local).latest().map(|at| at.to_utc()).with_context(|| {
            format!("{local} does not exist in {zone}: the clocks skip it; write the offset, as {local}+00:00")
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_read_in_the_dags_zone_unless_they_name_one() {
        let zone: Tz = "Europe/London".parse().unwrap();
        let read = |text| {
            parse_date(text, zone, "logical date").map(|date| date.to_rfc3339()).map_err(|error| error.to_string())
        };
        assert_eq!(read("2026-07-01").unwrap(), "2026-06-30T23:00:00+00:00");
        assert_eq!(read("2026-07-01T02:00").unwrap(), "2026-07-01T01:00:00+00:00");
        assert_eq!(read("2026-07-01T02:00:00Z").unwrap(), "2026-07-01T02:00:00+00:00");
        assert_eq!(read("2026-10-25T01:30:00").unwrap(), "2026-10-25T01:30:00+00:00", "the second of the two");
        assert!(read("2026-03-29T01:30:00").unwrap_err().contains("the clocks skip it"));
        assert!(read("+262142-12-31").unwrap_err().contains("is no logical date"));
        assert!(read("yesterday").unwrap_err().contains("`yesterday` is no logical date"));
    }
}
