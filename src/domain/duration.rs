//! Lengths of time as a DAG file writes them: a number of seconds (Airflow's habit), or `30s`, `5m`, `2h`, `1d`.

use std::time::Duration;

/// Nothing in a pipeline takes ten years; a longer duration is a slip of the keyboard.
const LONGEST: Duration = Duration::from_secs(3660 * 24 * 60 * 60);

/// A duration that is not one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DurationError {
    /// Neither a number nor numbers with units.
    #[error("`{0}` is not a duration")]
    Form(String),
    /// Below zero.
    #[error("a duration cannot be negative")]
    Negative,
    /// More than ten years.
    #[error("a duration of more than ten years")]
    TooLong,
}

/// Reads `30s`, `1h30m`, `250ms` or a number of seconds.
///
/// # Errors
/// [`DurationError`] says what is wrong with the text.
pub fn parse_duration(text: &str) -> Result<Duration, DurationError> {
    let trimmed = text.trim();
    if let Ok(seconds) = trimmed.parse::<f64>() {
        return from_seconds(seconds).map_err(|error| match error {
            DurationError::Form(_) => DurationError::Form(text.to_owned()),
            other => other,
        });
    }
    if trimmed.strip_prefix('-').is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit())) {
        return Err(DurationError::Negative);
    }
    let form = || DurationError::Form(text.to_owned());
    let mut total = Duration::ZERO;
    let mut rest = trimmed;
    if rest.is_empty() {
        return Err(form());
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(form)?;
        let amount: f64 = rest[..digits].parse().map_err(|_| form())?;
        let unit_and_more = rest[digits..].trim_start();
        let unit_length = unit_and_more.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(unit_and_more.len());
        let seconds = match &unit_and_more[..unit_length] {
            "ms" => 0.001,
            "s" | "sec" | "second" | "seconds" => 1.0,
            "m" | "min" | "minute" | "minutes" => 60.0,
            "h" | "hour" | "hours" => 3600.0,
            "d" | "day" | "days" => 86400.0,
            "w" | "week" | "weeks" => 604_800.0,
            _ => return Err(form()),
        };
        total = total.saturating_add(from_seconds(amount * seconds)?);
        rest = unit_and_more[unit_length..].trim_start();
    }
    if total > LONGEST { Err(DurationError::TooLong) } else { Ok(total) }
}

/// A number of seconds as a duration.
///
/// # Errors
/// [`DurationError`] when it is negative, too long or not a number.
pub fn from_seconds(seconds: f64) -> Result<Duration, DurationError> {
    if !seconds.is_finite() {
        return Err(DurationError::Form(seconds.to_string()));
    }
    if seconds < 0.0 {
        return Err(DurationError::Negative);
    }
    if seconds > LONGEST.as_secs_f64() {
        return Err(DurationError::TooLong);
    }
    Ok(Duration::from_secs_f64(seconds))
}

/// As a DAG file would write it: `1h30m`.
#[must_use]
pub fn format_duration(duration: Duration) -> String {
    let mut rest = duration.as_secs();
    let mut text = String::new();
    for (unit, seconds) in [("d", 86400), ("h", 3600), ("m", 60), ("s", 1)] {
        if rest >= seconds {
            text.push_str(&format!("{}{unit}", rest / seconds));
            rest %= seconds;
        }
    }
    if duration.subsec_millis() > 0 {
        text.push_str(&format!("{}ms", duration.subsec_millis()));
    }
    if text.is_empty() { "0s".to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_seconds_or_have_units() {
        for (text, seconds) in [
            ("30", 30.0),
            ("1.5", 1.5),
            ("30s", 30.0),
            ("5m", 300.0),
            ("1h30m", 5400.0),
            ("1d", 86400.0),
            ("250ms", 0.25),
        ] {
            assert_eq!(parse_duration(text), Ok(Duration::from_secs_f64(seconds)), "{text}");
        }
        for text in ["", "soon", "5x", "m", "1h30", "nan", "inf"] {
            assert!(matches!(parse_duration(text), Err(DurationError::Form(_))), "{text}");
        }
        assert_eq!(parse_duration("-5"), Err(DurationError::Negative));
        assert_eq!(parse_duration("-5m"), Err(DurationError::Negative));
        assert_eq!(parse_duration("400000d"), Err(DurationError::TooLong));
    }

    #[test]
    fn durations_are_written_as_they_are_read() {
        for text in ["0s", "30s", "1h30m", "1d", "2d3h4m5s", "250ms"] {
            assert_eq!(format_duration(parse_duration(text).unwrap()), text);
        }
    }
}
