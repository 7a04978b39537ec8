//! Durations, dates, timezones and schedules.

use std::time::Duration;

use chrono_tz::Tz;

use crate::domain::dag::Schedule;
use crate::domain::diagnostic::{Code, Diagnostic};
use crate::domain::duration::{DurationError, from_seconds, parse_duration};
use crate::domain::schedule::{Moment, MomentError, ScheduleError};
use crate::domain::spec::Problems;
use crate::domain::spec::value::{FromNode, described, wrong_type};
use crate::domain::yaml::{Node, NodeKind};

/// A length of time.
#[derive(Debug, Clone, Copy)]
pub(in crate::domain) struct Seconds(pub(in crate::domain) Duration);

impl FromNode for Seconds {
    fn from_node(node: &Node, key: &str, problems: &mut Problems<'_>) -> Option<Self> {
        let read = match &node.kind {
            NodeKind::Number(number) => from_seconds(number.as_f64().unwrap_or(f64::NAN)),
            NodeKind::Text(text) => parse_duration(text),
            NodeKind::Null | NodeKind::Bool(_) | NodeKind::List(_) | NodeKind::Mapping(_) => {
                wrong_type(node, key, "a duration", problems);
                return None;
            }
        };
        read.map_err(|error| {
            let help = match error {
                DurationError::Form(_) => {
                    "a number of seconds, or a number with `s`, `m`, `h` or `d`: `90`, `30s`, `1h30m`"
                }
                DurationError::Negative | DurationError::TooLong => "it counts in seconds unless it has a unit",
            };
            problems.add(Diagnostic::error(Code::BadDuration, node.span, format!("`{key}`: {error}")).help(help));
        })
        .ok()
        .map(Self)
    }
}
described!(Seconds, "Duration", {
    "description": "A number of seconds, or a number with a unit: 30s, 5m, 2h, 1d.",
    "anyOf": [{ "type": "number", "minimum": 0 }, { "type": "string", "pattern": "^[0-9]" }]
});

/// A [`Moment`] in a file.
#[derive(Debug, Clone, Copy)]
pub(in crate::domain) struct DateOrInstant(pub(in crate::domain) Moment);

impl FromNode for DateOrInstant {
    fn from_node(node: &Node, key: &str, problems: &mut Problems<'_>) -> Option<Self> {
        let Some(text) = node.as_text() else {
            wrong_type(node, key, "a date", problems);
            return None;
        };
        text.parse()
            .map_err(|error: MomentError| {
                problems.add(Diagnostic::error(Code::BadDate, node.span, format!("`{key}`: {error}")).help(
                    "write 2026-01-31, or 2026-01-31T02:00:00, with an offset (+01:00, Z) if it is not in the DAG's zone",
                ));
            })
            .ok()
            .map(Self)
    }
}
described!(DateOrInstant, "Date", {
    "type": "string",
    "description": "2026-01-31, 2026-01-31T02:00:00, or with an offset: 2026-01-31T02:00:00+01:00."
});

/// A timezone by its name.
#[derive(Debug, Clone, Copy)]
pub(in crate::domain) struct Zone(pub(in crate::domain) Tz);

impl FromNode for Zone {
    fn from_node(node: &Node, key: &str, problems: &mut Problems<'_>) -> Option<Self> {
        let Some(text) = node.as_text() else {
            wrong_type(node, key, "the name of a timezone", problems);
            return None;
        };
        let zone = text.parse().ok();
        if zone.is_none() {
            problems.add(
                Diagnostic::error(Code::BadTimezone, node.span, format!("there is no timezone `{text}`")).did_you_mean(
                    text,
                    chrono_tz::TZ_VARIANTS.iter().map(|zone| zone.name()),
                    || Some("use a name of the IANA database, as `Europe/London` or `UTC`".to_owned()),
                ),
            );
        }
        zone.map(Self)
    }
}
described!(Zone, "Timezone", { "type": "string", "description": "A name of the IANA database, as Europe/London." });

impl FromNode for Schedule {
    const NULL_MEANS_SOMETHING: bool = true;

    fn from_node(node: &Node, key: &str, problems: &mut Problems<'_>) -> Option<Self> {
        match &node.kind {
            NodeKind::Null => Some(Self::None),
            NodeKind::Number(_) => {
                let every = Seconds::from_node(node, key, problems)?;
                let tell = |error: ScheduleError| {
                    let mut problem = Diagnostic::error(Code::BadSchedule, node.span, error.message);
                    problem.help = error.help;
                    problems.add(problem);
                };
                Self::every(every.0, 0..0).map_err(tell).ok()
            }
            NodeKind::Text(_) => one_schedule(node, problems),
            NodeKind::List(items) if !items.is_empty() => {
                let mut times = Vec::new();
                for item in items {
                    match one_schedule(item, problems)? {
                        Self::Times(more) => times.extend(more),
                        Self::None | Self::Once | Self::Continuous | Self::Every(_) => {
                            let message = "a list of schedules holds cron expressions, presets and dates only";
                            problems.add(Diagnostic::error(Code::BadSchedule, item.span, message));
                            return None;
                        }
                    }
                }
                Some(Self::Times(times))
            }
            NodeKind::Bool(_) | NodeKind::List(_) | NodeKind::Mapping(_) => {
                wrong_type(node, key, "a cron expression, a preset, a duration, a date or a list of those", problems);
                None
            }
        }
    }
}
described!(Schedule, "Schedule", {
    "anyOf": [
        { "type": "string" },
        { "type": "number", "minimum": 1 },
        { "type": "array", "minItems": 1, "items": { "type": "string" } }
    ]
});

fn one_schedule(node: &Node, problems: &mut Problems<'_>) -> Option<Schedule> {
    let Some(text) = node.as_text() else {
        wrong_type(node, "schedule", "a cron expression or a date", problems);
        return None;
    };
    text.parse()
        .map_err(|error: ScheduleError| {
            let mut problem = Diagnostic::error(
                Code::BadSchedule,
                problems.span_within(node, error.range.clone()),
                error.message.clone(),
            );
            problem.help = error.help;
            problems.add(problem);
        })
        .ok()
}
