//! `path_format`: how a time becomes folders, in the letters of Joda-Time that Confluent's partitioners use.
//!
//! `YYYY` is the year of the era, not the year of the week as in java.time. Text in single quotes stands for itself,
//! two of them for one.

use std::fmt::Write as _;

use chrono::{Datelike, NaiveDateTime, Timelike};

/// A format, read once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PathFormat(Vec<Piece>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Literal(String),
    Field { letter: char, width: usize },
}

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const DAYS: [&str; 7] = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"];

impl PathFormat {
    /// Reads a format. A `/` at its end is dropped.
    ///
    /// # Errors
    /// The letter that has no meaning, or the quote that is not closed.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let text = text.strip_suffix('/').unwrap_or(text);
        let mut pieces = Vec::new();
        let mut characters = text.chars().peekable();
        while let Some(character) = characters.next() {
            if character == '\'' {
                let mut literal = String::new();
                loop {
                    match characters.next() {
                        Some('\'') if characters.peek() == Some(&'\'') => {
                            literal.extend(characters.next());
                        }
                        Some('\'') => break,
                        Some(other) => literal.push(other),
                        None => return Err(format!("the quote before `{literal}` is not closed")),
                    }
                }
                // `''` outside of quotes is a quote.
                pieces.push(Piece::Literal(if literal.is_empty() { "'".to_owned() } else { literal }));
            } else if character.is_ascii_alphabetic() {
                let mut width = 1;
                while characters.next_if_eq(&character).is_some() {
                    width += 1;
                }
                if !"YyxMdHhmsSDwEea".contains(character) {
                    return Err(format!("`{character}` means nothing in a path format (text goes into single quotes)"));
                }
                pieces.push(Piece::Field { letter: character, width });
            } else {
                pieces.push(Piece::Literal(character.to_string()));
            }
        }
        match pieces.is_empty() {
            true => Err("it is empty".to_owned()),
            false => Ok(Self(pieces)),
        }
    }

    /// Writes a local time in this format.
    pub(super) fn format(&self, time: NaiveDateTime) -> String {
        let mut path = String::new();
        for piece in &self.0 {
            match piece {
                Piece::Literal(text) => path.push_str(text),
                Piece::Field { letter, width } => write_field(&mut path, *letter, *width, time),
            }
        }
        path
    }
}

fn write_field(path: &mut String, letter: char, width: usize, time: NaiveDateTime) {
    let twelve = |hour: u32| (hour + 11) % 12 + 1;
    let number = match letter {
        'Y' => i64::from(time.year_ce().1),
        'y' => i64::from(time.year()),
        'x' => i64::from(time.iso_week().year()),
        'M' if width >= 3 => return text(path, MONTHS[time.month0() as usize], width),
        'M' => i64::from(time.month()),
        'd' => i64::from(time.day()),
        'H' => i64::from(time.hour()),
        'h' => i64::from(twelve(time.hour())),
        'm' => i64::from(time.minute()),
        's' => i64::from(time.second()),
        'D' => i64::from(time.ordinal()),
        'w' => i64::from(time.iso_week().week()),
        'e' => i64::from(time.weekday().number_from_monday()),
        'E' => return text(path, DAYS[time.weekday().num_days_from_monday() as usize], width),
        'a' => return path.push_str(if time.hour() < 12 { "AM" } else { "PM" }),
        // A fraction of a second: the first `width` digits of it, not a number.
        _ => {
            let digits = format!("{:09}", time.nanosecond() % 1_000_000_000);
            return path.extend(digits.chars().chain(std::iter::repeat('0')).take(width));
        }
    };
    // Two letters of a year are its last two digits; anything else is padded, never cut.
    let number = if matches!(letter, 'Y' | 'y' | 'x') && width == 2 { number % 100 } else { number };
    let _ = write!(path, "{number:0width$}");
}

/// Three letters of a name, or with four and more the whole of it.
fn text(path: &mut String, name: &str, width: usize) {
    path.push_str(if width >= 4 { name } else { &name[..3] });
}

#[cfg(test)]
mod tests {
    use chrono::NaiveDate;

    use super::*;

    fn at(format: &str) -> String {
        // A Sunday whose ISO week belongs to the year before.
        let time = NaiveDate::from_ymd_opt(2023, 1, 1).and_then(|day| day.and_hms_milli_opt(3, 4, 5, 67)).unwrap();
        PathFormat::parse(format).unwrap().format(time)
    }

    #[test]
    fn jodas_letters() {
        assert_eq!(at("'year'=YYYY/'month'=MM/'day'=dd/'hour'=HH"), "year=2023/month=01/day=01/hour=03");
        assert_eq!(at("yyyy-MM-dd'T'HH:mm:ss.SSS"), "2023-01-01T03:04:05.067");
        assert_eq!(at("xxxx-'W'ww-e"), "2022-W52-7");
        assert_eq!(at("yy M d H h a D MMM MMMM EEE EEEE"), "23 1 1 3 3 AM 1 Jan January Sun Sunday");
        assert_eq!(at("'it''s' ''YYYY''/"), "it's '2023'");
    }

    #[test]
    fn what_is_no_format_says_why() {
        assert_eq!(PathFormat::parse("'year=YYYY").unwrap_err(), "the quote before `year=YYYY` is not closed");
        assert_eq!(PathFormat::parse("/").unwrap_err(), "it is empty");
        assert!(PathFormat::parse("year=YYYY").unwrap_err().starts_with("`r` means nothing"));
    }
}
