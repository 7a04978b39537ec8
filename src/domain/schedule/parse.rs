//! Schedules as typed: cron, presets, dates, durations, or none.

use std::ops::Range;
use std::str::FromStr;
use std::time::Duration;

use crate::domain::diagnostic::closest;
use crate::domain::duration::{DurationError, parse_duration};
use crate::domain::schedule::cron::CronExpression;
use crate::domain::schedule::moment::MomentError;
use crate::domain::schedule::{Schedule, Time};

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

/// No schedule comes more often: cron has no finer step, and runs that come faster are one that goes on.
const SHORTEST: Duration = Duration::from_secs(1);

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

    /// Reads cron (5 or 6 fields), a preset, a date, `none`, or a duration.
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
            return preset(trimmed).map(Self::cron).map_err(|help| ScheduleError {
                message: format!("`{trimmed}` is no preset"),
                range: whole,
                help: Some(help),
            });
        }
        if looks_like_a_date(trimmed) {
            return trimmed.parse().map(|moment| Self::Times(vec![Time::Once(moment)])).map_err(
                |error: MomentError| {
                    let help = "write 2026-12-24T18:00:00, with an offset (+01:00, Z) if it is not in the DAG's zone";
                    ScheduleError { message: error.to_string(), range: whole, help: Some(help.to_owned()) }
                },
            );
        }
        if trimmed.contains(char::is_whitespace) {
            return CronExpression::parse(text).map(Self::cron);
        }
        match parse_duration(trimmed) {
            Ok(every) => Self::every(every, whole),
            Err(DurationError::Form(_)) => Err(ScheduleError {
                message: format!("`{trimmed}` is neither a cron expression nor a duration"),
                range: whole,
                help: Some("write cron (`0 2 * * *`), a preset (`@daily`), a duration (`15m`) or `none`".to_owned()),
            }),
            Err(error) => Err(ScheduleError { message: error.to_string(), range: whole, help: None }),
        }
    }
}

impl Schedule {
    /// At that distance, which stands in this part of a text.
    ///
    /// # Errors
    /// It is shorter than a second: a service makes runs, and each is a row for good.
    pub fn every(every: Duration, range: Range<usize>) -> Result<Self, ScheduleError> {
        let message = match every {
            Duration::ZERO => "a schedule of no time at all".to_owned(),
            short if short < SHORTEST => {
                format!("a schedule of {} s is too short", short.as_secs_f64())
            }
            every => return Ok(Self::Every(every)),
        };
        let help = "the shortest is `1s`; `@continuous` starts the next run as soon as one ends";
        Err(ScheduleError { message, range, help: Some(help.to_owned()) })
    }

    fn cron(cron: CronExpression) -> Self {
        Self::Times(vec![Time::Cron(cron)])
    }
}

/// The cron expression that a preset stands for, or what may have been meant.
fn preset(typed: &str) -> Result<CronExpression, String> {
    if let Some((_, cron)) = PRESETS.iter().find(|(name, _)| *name == typed) {
        return Ok(CronExpression::parse(cron).expect("presets are cron expressions that come"));
    }
    Err(match closest(typed, PRESETS.iter().map(|(name, _)| *name).chain(["@once", "@continuous"])) {
        Some(name) => format!("did you mean `{name}`?"),
        None => {
            "`@hourly`, `@daily`, `@weekly`, `@monthly`, `@quarterly`, `@yearly`, `@once` and `@continuous` are known"
                .to_owned()
        }
    })
}

/// Four digits and a dash: neither cron nor a duration begins so.
fn looks_like_a_date(text: &str) -> bool {
    let bytes = text.as_bytes();
    bytes.len() > 5 && bytes[..4].iter().all(u8::is_ascii_digit) && bytes[4] == b'-'
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> String {
        match text.parse().unwrap() {
            Schedule::Times(times) => times.iter().map(ToString::to_string).collect::<Vec<_>>().join(" | "),
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn schedules_are_cron_presets_dates_durations_or_none() {
        for (typed, expected) in [
            ("0 2 * * *", "0 2 * * *"),
            (" */10 0 2 * * MON-FRI ", "*/10 0 2 * * MON-FRI"),
            ("0 0 L * 5#2", "0 0 L * 5#2"),
            ("@daily", "0 0 * * *"),
            ("15m", "Every(900s)"),
            ("900", "Every(900s)"),
            ("none", "None"),
            ("@once", "Once"),
            ("@continuous", "Continuous"),
            ("2026-12-24T18:00:00", "2026-12-24T18:00:00"),
            ("2026-12-24 18:00", "2026-12-24T18:00:00"),
            ("2026-12-24T18:00:00+01:00", "2026-12-24T17:00:00Z"),
            ("2026-12-24", "2026-12-24T00:00:00"),
        ] {
            assert_eq!(read(typed), expected);
        }
        for (preset, _) in PRESETS {
            assert_ne!(read(preset), "", "{preset}");
        }
    }

    #[test]
    fn a_wrong_field_is_pointed_at() {
        let error = "0 25 * * *".parse::<Schedule>().unwrap_err();
        assert_eq!(error.to_string(), "`25` cannot be the hour of a cron expression");
        assert_eq!(error.range, 2..4);
        let error = "0 0 30 2 *".parse::<Schedule>().unwrap_err();
        assert_eq!(error.to_string(), "`0 0 30 2 *` never comes");
        assert_eq!("@dayly".parse::<Schedule>().unwrap_err().help.as_deref(), Some("did you mean `@daily`?"));
        for short in ["1ms", "999ms", "0.5"] {
            let error = short.parse::<Schedule>().unwrap_err();
            assert!(error.to_string().ends_with("s is too short") && error.help.is_some(), "{error}");
        }
        assert!("* * *".parse::<Schedule>().unwrap_err().to_string().contains("this has 3"));
        assert_eq!("2026-13-24".parse::<Schedule>().unwrap_err().to_string(), "`2026-13-24` is not a date");
    }
}
