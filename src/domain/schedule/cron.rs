//! Cron expressions, parsed once: what they match on the wall, and what is wrong with those that cannot be read.

use std::collections::HashMap;
use std::fmt;
use std::ops::Range;
use std::sync::{Arc, LazyLock, Mutex, PoisonError, Weak};

use chrono::{DateTime, NaiveDateTime};
use croner::Cron;
use croner::errors::CronError;
use croner::parser::{CronParser, Seconds, Year};

use crate::domain::schedule::parse::ScheduleError;

/// A field of a cron expression.
struct Field {
    name: &'static str,
    first: u32,
    last: u32,
    /// What its values are called, from the first on.
    names: &'static [&'static str],
}

/// The fields, with seconds in front when there are six.
const FIELDS: [Field; 6] = [
    Field { name: "second", first: 0, last: 59, names: &[] },
    Field { name: "minute", first: 0, last: 59, names: &[] },
    Field { name: "hour", first: 0, last: 23, names: &[] },
    Field { name: "day of month", first: 1, last: 31, names: &[] },
    Field {
        name: "month",
        first: 1,
        last: 12,
        names: &["JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"],
    },
    Field { name: "day of week", first: 0, last: 6, names: &["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"] },
];

/// A cron expression of 5 or 6 fields that comes some day.
#[derive(Clone)]
pub struct CronExpression {
    text: String,
    cron: Arc<Cron>,
}

/// The tables of the expressions that are in use, by text: they are five kilobytes each, and of thousands of DAGs most run at
/// the same few times. It is no state: the same text always gives the same tables, and what nobody holds is not kept.
static IN_USE: LazyLock<Mutex<HashMap<String, Weak<Cron>>>> = LazyLock::new(Mutex::default);

/// The same tables for the same text.
fn shared(text: &str, cron: Cron) -> Arc<Cron> {
    let mut in_use = IN_USE.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(cron) = in_use.get(text).and_then(Weak::upgrade) {
        return cron;
    }
    if in_use.len() == in_use.capacity() {
        in_use.retain(|_, cron| cron.strong_count() > 0); // rather than to grow for what is gone
    }
    let cron = Arc::new(cron);
    in_use.insert(text.to_owned(), Arc::downgrade(&cron));
    cron
}

impl PartialEq for CronExpression {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for CronExpression {}

impl fmt::Debug for CronExpression {
    /// Its text: what was parsed from it are tables of bits.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.text, f)
    }
}

impl fmt::Display for CronExpression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl CronExpression {
    pub(super) fn parse(text: &str) -> Result<Self, ScheduleError> {
        let fields: Vec<Range<usize>> = words(text);
        if !(5..=6).contains(&fields.len()) {
            return Err(ScheduleError {
                message: format!("a cron expression has 5 or 6 fields, this has {}", fields.len()),
                range: 0..text.len(),
                help: Some("minute, hour, day of month, month, day of week; six have seconds in front".to_owned()),
            });
        }
        let cron = parse_fields(fields.iter().map(|range| &text[range.clone()]))
            .map_err(|error| mistake(text, &fields, &error.to_string()))?;
        let trimmed = text.trim();
        let expression = Self { text: trimmed.to_owned(), cron: shared(trimmed, cron) };
        // `0 0 30 2 *` is well formed and never comes.
        if expression.first_from(DateTime::UNIX_EPOCH.naive_utc()).is_none() {
            return Err(ScheduleError {
                message: format!("`{expression}` never comes"),
                range: 0..text.len(),
                help: Some("no year has such a day".to_owned()),
            });
        }
        Ok(expression)
    }

    /// The first match at or after a local time.
    pub(super) fn first_from(&self, from: NaiveDateTime) -> Option<NaiveDateTime> {
        // The parser's own mapping of zones is not ours: it sees the wall clock as if it were UTC.
        self.cron.find_next_occurrence(&from.and_utc(), true).ok().map(|at| at.naive_utc())
    }

    /// The last match at or before a local time.
    pub(super) fn last_until(&self, until: NaiveDateTime) -> Option<NaiveDateTime> {
        self.cron.find_previous_occurrence(&until.and_utc(), true).ok().map(|at| at.naive_utc())
    }

    /// Whether it takes every hour of the days that it takes.
    pub(super) fn takes_every_hour(&self) -> bool {
        self.cron.pattern.hours.is_all_set()
    }
}

fn parser() -> CronParser {
    CronParser::builder().seconds(Seconds::Optional).year(Year::Disallowed).build()
}

/// Parses the five or six fields.
fn parse_fields<'a>(typed: impl ExactSizeIterator<Item = &'a str>) -> Result<Cron, CronError> {
    let kinds = &FIELDS[FIELDS.len() - typed.len()..];
    let fields: Vec<String> = typed.zip(kinds).map(|(typed, field)| field.upwards(typed)).collect();
    parser().parse(&fields.join(" "))
}

impl Field {
    /// The same with ranges over the end (`FRI-MON`, `22-2`), which Airflow knows and the parser does not, as two.
    fn upwards(&self, typed: &str) -> String {
        let part = |part: &str| {
            let ends = part.split_once('-').and_then(|(from, to)| Some((self.value(from)?, self.value(to)?)));
            match ends {
                Some((from, to)) if from > to => format!("{from}-{},{}-{to}", self.last, self.first),
                _ => part.to_owned(),
            }
        };
        typed.split(',').map(part).collect::<Vec<_>>().join(",")
    }

    fn value(&self, typed: &str) -> Option<u32> {
        let named = || self.names.iter().position(|name| name.eq_ignore_ascii_case(typed));
        let number = || named().and_then(|place| u32::try_from(place).ok()).map(|place| place + self.first);
        typed.parse().ok().or_else(number).filter(|value| (self.first..=self.last).contains(value))
    }
}

/// What is wrong with an expression that the parser refuses.
fn mistake(text: &str, fields: &[Range<usize>], error: &str) -> ScheduleError {
    let kinds = &FIELDS[FIELDS.len() - fields.len()..];
    for (position, range) in fields.iter().enumerate() {
        // Each field alone, among fields that are right: the one that is still refused is the wrong one.
        let mut alone = vec!["*"; fields.len()];
        alone[position] = &text[range.clone()];
        if let Err(error) = parse_fields(alone.into_iter()) {
            return ScheduleError {
                message: format!(
                    "`{}` cannot be the {} of a cron expression",
                    &text[range.clone()],
                    kinds[position].name
                ),
                range: range.clone(),
                help: Some(field_help(kinds[position].name, &error.to_string())),
            };
        }
    }
    ScheduleError { message: error.to_owned(), range: 0..text.len(), help: None }
}

fn field_help(field: &str, error: &str) -> String {
    match field {
        "second" | "minute" => "0 to 59, as `5`, `*/15`, `10-20` or `0,30`".to_owned(),
        "hour" => "0 to 23, as `2`, `*/6`, `8-18` or `6,18`".to_owned(),
        "day of month" => "1 to 31, `L` for the last, `15W` for the workday nearest to the 15th".to_owned(),
        "month" => "1 to 12, or JAN to DEC".to_owned(),
        "day of week" => {
            "0 to 7 (0 and 7 are Sunday), or SUN to SAT; `5L` is the last Friday, `1#2` the second Monday".to_owned()
        }
        _ => error.to_owned(),
    }
}

fn words(text: &str) -> Vec<Range<usize>> {
    let start = text.as_ptr() as usize;
    text.split_whitespace()
        .map(|word| {
            let from = word.as_ptr() as usize - start;
            from..from + word.len()
        })
        .collect()
}
