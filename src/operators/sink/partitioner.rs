//! Which folder of its topic a record goes to: Confluent's partitioners, pure.

use chrono::{DateTime, NaiveDate, NaiveDateTime, TimeDelta};
use chrono_tz::Tz;
use serde_json::{Map, Value};

use super::path_format::PathFormat;

/// A partitioner, checked.
#[derive(Debug, Clone)]
pub(super) enum Partitioner {
    /// `partition=<n>`.
    Default,
    /// A format of the record's time, cut to a multiple of the duration in the zone.
    Time { format: PathFormat, zone: Tz, duration: TimeDelta, field: Option<FieldPath> },
    /// `<field>=<value>`, one folder for each field.
    Field(Vec<FieldPath>),
}

/// A field of a record, dots leading into objects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct FieldPath(pub(super) String);

/// What the partitioners look at.
pub(super) struct RecordFacts<'a> {
    pub(super) partition: i32,
    /// Kafka's timestamp of the record, in milliseconds.
    pub(super) timestamp: i64,
    /// The record; empty for partitioners that need none.
    pub(super) fields: &'a Map<String, Value>,
}

impl Partitioner {
    /// Whether it needs the record's fields.
    pub(super) fn reads_fields(&self) -> bool {
        match self {
            Self::Default => false,
            Self::Time { field, .. } => field.is_some(),
            Self::Field(_) => true,
        }
    }

    /// The time by which the record is rotated and, with the time partitioner, filed.
    ///
    /// # Errors
    /// Why the record has none: a reason for its dead letter.
    pub(super) fn timestamp(&self, record: &RecordFacts<'_>) -> Result<i64, String> {
        match self {
            Self::Time { field: Some(path), .. } => timestamp_of(path, path.find(record.fields)?),
            Self::Default | Self::Field(_) | Self::Time { field: None, .. } => Ok(record.timestamp),
        }
    }

    /// The folder, given the time of [`Partitioner::timestamp`].
    ///
    /// # Errors
    /// Why the record has none: a reason for its dead letter.
    pub(super) fn folder(&self, record: &RecordFacts<'_>, timestamp: i64) -> Result<String, String> {
        match self {
            Self::Default => Ok(format!("partition={}", record.partition)),
            Self::Time { format, zone, duration, .. } => {
                let instant = DateTime::from_timestamp_millis(timestamp);
                let instant = instant.ok_or_else(|| format!("its time {timestamp} ms is out of range"))?;
                Ok(format.format(floor(instant.with_timezone(zone).naive_local(), *duration)))
            }
            Self::Field(paths) => {
                let folders = paths.iter().map(|path| {
                    let value = folder_value(path, path.find(record.fields)?)?;
                    Ok(format!("{}={value}", path.0))
                });
                folders.collect::<Result<Vec<_>, String>>().map(|folders| folders.join("/"))
            }
        }
    }
}

impl FieldPath {
    fn find<'a>(&self, fields: &'a Map<String, Value>) -> Result<&'a Value, String> {
        // A name that has a dot in it goes before a path.
        if let Some(value) = fields.get(&self.0) {
            return Ok(value);
        }
        let missing = || format!("it has no field `{}` to be filed by", self.0);
        let mut names = self.0.split('.');
        let first = names.next().and_then(|name| fields.get(name)).ok_or_else(missing)?;
        names.try_fold(first, |value, name| value.get(name)).ok_or_else(missing)
    }
}

/// The largest multiple of `duration`, counted from 1970 in local time, that is not later.
fn floor(local: NaiveDateTime, duration: TimeDelta) -> NaiveDateTime {
    let (now, step) = (local.and_utc().timestamp_millis(), duration.num_milliseconds().max(1));
    DateTime::from_timestamp_millis(now - now.rem_euclid(step)).map_or(local, |floored| floored.naive_utc())
}

/// What a field says of the time: milliseconds since 1970 (also as text), or ISO 8601; without a zone it is UTC.
fn timestamp_of(path: &FieldPath, value: &Value) -> Result<i64, String> {
    let wrong = || format!("its field `{}` holds no time", path.0);
    match value {
        Value::Number(number) => number.as_i64().ok_or_else(wrong),
        Value::String(text) => text.parse().ok().or_else(|| iso_8601(text)).ok_or_else(wrong),
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => Err(wrong()),
    }
}

fn iso_8601(text: &str) -> Option<i64> {
    if let Ok(instant) = DateTime::parse_from_rfc3339(text) {
        return Some(instant.timestamp_millis());
    }
    let day = |text| NaiveDate::parse_from_str(text, "%Y-%m-%d").ok().and_then(|day| day.and_hms_opt(0, 0, 0));
    let local = NaiveDateTime::parse_from_str(text, "%Y-%m-%dT%H:%M:%S%.f")
        .or_else(|_| NaiveDateTime::parse_from_str(text, "%Y-%m-%d %H:%M:%S%.f"))
        .ok()
        .or_else(|| day(text))?;
    Some(local.and_utc().timestamp_millis())
}

/// A value as a folder's name. Confluent escapes nothing, a `/` makes a folder within; what no store can keep apart is
/// refused.
fn folder_value(path: &FieldPath, value: &Value) -> Result<String, String> {
    let text = match value {
        Value::Null => "null".to_owned(),
        Value::Bool(value) => value.to_string(),
        Value::Number(number) if !number.is_f64() => number.to_string(),
        Value::String(text) => text.clone(),
        Value::Number(_) | Value::Array(_) | Value::Object(_) => {
            return Err(format!("its field `{}` is no text, whole number or boolean to be filed by", path.0));
        }
    };
    // Keys have 1,024 bytes at most, and files of that name, on the laptop, 255 a folder.
    let unfit = |part: &str| part.is_empty() || part == "." || part == ".." || part.len() > 200;
    if text.split('/').any(unfit) || text.chars().any(char::is_control) || text.len() > 600 {
        return Err(format!("its field `{}` makes no folder name", path.0));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn folder(partitioner: &Partitioner, timestamp: i64, fields: Value) -> Result<String, String> {
        let Value::Object(fields) = fields else { panic!("an object") };
        let record = RecordFacts { partition: 3, timestamp, fields: &fields };
        partitioner.folder(&record, partitioner.timestamp(&record)?)
    }

    fn hourly(zone: Tz, field: Option<&str>) -> Partitioner {
        Partitioner::Time {
            format: PathFormat::parse("'year'=YYYY/'month'=MM/'day'=dd/'hour'=HH").unwrap(),
            zone,
            duration: TimeDelta::hours(1),
            field: field.map(|name| FieldPath(name.to_owned())),
        }
    }

    #[test]
    fn time_is_cut_in_the_zones_own_hours() {
        // 2026-03-29T00:59:59.999Z and a millisecond later: London's clocks go from 00:59 to 02:00.
        let london = hourly(chrono_tz::Europe::London, None);
        assert_eq!(folder(&london, 1_774_745_999_999, json!({})).unwrap(), "year=2026/month=03/day=29/hour=00");
        assert_eq!(folder(&london, 1_774_746_000_000, json!({})).unwrap(), "year=2026/month=03/day=29/hour=02");
        let kolkata = hourly(chrono_tz::Asia::Kolkata, None);
        assert_eq!(folder(&kolkata, 0, json!({})).unwrap(), "year=1970/month=01/day=01/hour=05");
        assert_eq!(folder(&kolkata, -1, json!({})).unwrap(), "year=1970/month=01/day=01/hour=05");
    }

    #[test]
    fn a_field_may_hold_the_time_in_any_of_confluents_forms() {
        let by_field = hourly(chrono_tz::UTC, Some("at.time"));
        for time in [
            json!(1_598_586_767_000_i64),
            json!("1598586767000"),
            json!("2020-08-28T03:52:47"),
            json!("2020-08-28 03:52:47"),
            json!("2020-08-28T05:52:47+02:00"),
            json!("2020-08-28T03:52:47.5Z"),
        ] {
            let path = folder(&by_field, 0, json!({"at": {"time": time}}));
            assert_eq!(path.unwrap(), "year=2020/month=08/day=28/hour=03");
        }
        assert_eq!(folder(&by_field, 0, json!({"at": 1})).unwrap_err(), "it has no field `at.time` to be filed by");
        assert_eq!(folder(&by_field, 0, json!({"at.time": "soon"})).unwrap_err(), "its field `at.time` holds no time");
    }

    #[test]
    fn fields_make_folders() {
        let paths = ["category", "geo.country"].map(|name| FieldPath(name.to_owned()));
        let by_field = Partitioner::Field(paths.to_vec());
        let path = |category: Value| folder(&by_field, 0, json!({"category": category, "geo": {"country": "Chad"}}));
        assert_eq!(path(json!("art")).unwrap(), "category=art/geo.country=Chad");
        assert_eq!(path(json!(null)).unwrap(), "category=null/geo.country=Chad");
        assert_eq!(path(json!("a/b")).unwrap(), "category=a/b/geo.country=Chad");
        assert_eq!(path(json!(7)).unwrap(), "category=7/geo.country=Chad");
        for unfit in [json!(1.5), json!([]), json!("../up"), json!(""), json!("a\nb"), json!("x".repeat(300))] {
            assert!(path(unfit).is_err());
        }
    }
}
