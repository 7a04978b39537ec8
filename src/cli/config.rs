//! `pinsched config`: every setting, its value with secrets masked, and where it came from.

use std::fmt;

use serde::Serialize;

use crate::config::Settings;

/// What the command answers.
#[derive(Debug, Serialize)]
pub struct ConfigReport {
    settings: Vec<Line>,
}

#[derive(Debug, Serialize)]
struct Line {
    name: String,
    value: Option<String>,
    origin: String,
}

/// Lists the settings.
#[must_use]
pub fn config(settings: &Settings) -> ConfigReport {
    let lines = settings.entries().into_iter();
    let settings =
        lines.map(|entry| Line { name: entry.name, value: entry.value, origin: entry.origin.to_string() }).collect();
    ConfigReport { settings }
}

impl fmt::Display for ConfigReport {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = |text: fn(&Line) -> usize| self.settings.iter().map(text).max().unwrap_or_default();
        let name_width = width(|line| line.name.chars().count());
        let value_width = width(|line| line.value.as_deref().unwrap_or("-").chars().count());
        for line in &self.settings {
            let value = line.value.as_deref().unwrap_or("-");
            writeln!(formatter, "{:name_width$}  {value:value_width$}  {}", line.name, line.origin)?;
        }
        Ok(())
    }
}
