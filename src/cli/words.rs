//! Numbers, sizes and durations as people read them.

use std::time::Duration;

/// `950 ms`, `3.4 s`, `2 m 05 s`, `1 h 02 m`.
pub(crate) fn duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0 => format!("{} ms", duration.as_millis()),
        1..60 => format!("{:.1} s", duration.as_secs_f64()),
        60..3600 => format!("{} m {:02} s", seconds / 60, seconds % 60),
        _ => format!("{} h {:02} m", seconds / 3600, seconds % 3600 / 60),
    }
}

/// The same from milliseconds.
pub(crate) fn milliseconds(milliseconds: i64) -> String {
    duration(Duration::from_millis(u64::try_from(milliseconds).unwrap_or(0)))
}

/// `2026-03-01 02:00:00`, from an instant in RFC 3339.
pub(crate) fn instant(instant: &str) -> String {
    instant.get(..19).unwrap_or(instant).replace('T', " ")
}

/// `1c2d3e4f`: the end of a uuid, which tells runs apart; those of one time begin alike.
pub(crate) fn short_uuid(uuid: &str) -> &str {
    uuid.get(uuid.len().saturating_sub(8)..).unwrap_or(uuid)
}

/// `1 run`, `11,154 runs`.
pub(crate) fn counted(number: u64, one: &str, many: &str) -> String {
    format!("{} {}", count(number), if number == 1 { one } else { many })
}

/// `11,154`.
pub(crate) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut grouped = String::with_capacity(digits.len() + digits.len() / 3);
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

/// `0.52/s`, `12.3/s`, `1.23k/s`, `45.6M/s`: three figures, which is what an eye takes in while they change.
pub(crate) fn rate(per_second: f64) -> String {
    let rounds_below = |limit: f64| per_second < limit - 0.0005 * limit;
    let (value, unit) = match per_second {
        _ if rounds_below(1e3) => (per_second, ""),
        _ if rounds_below(1e6) => (per_second / 1e3, "k"),
        _ => (per_second / 1e6, "M"),
    };
    let decimals = match value {
        0.0 => 0,
        ..9.995 => 2,
        ..99.95 => 1,
        _ => 0,
    };
    format!("{value:.decimals$}{unit}/s")
}

/// How many columns of a terminal a text takes: letters of East Asian scripts and emoji are about twice as wide.
pub(crate) fn columns(text: &str) -> usize {
    let is_wide = |letter: char| matches!(u32::from(letter), 0x1100..0x2000 | 0x2E80..);
    text.chars().map(|letter| if is_wide(letter) { 2 } else { 1 }).sum()
}

/// The text in one line of at most `most` characters; `…` stands for what is left out of its middle: an error says at its
/// beginning what was attempted, and at its end why that could not be done.
pub(crate) fn excerpt(text: &str, most: usize) -> String {
    let line = one_line(text);
    let length = line.chars().count();
    if length <= most {
        return line;
    }
    let end = most.saturating_sub(1) / 2;
    let beginning = most.saturating_sub(1) - end;
    line.chars().take(beginning).chain(['…']).chain(line.chars().skip(length - end)).collect()
}

/// A text that others wrote without what would command a terminal; its lines stay.
pub(crate) fn printable(text: &str) -> String {
    text.chars().map(|letter| if letter.is_control() && letter != '\n' { ' ' } else { letter }).collect()
}

/// Whether an excerpt of so many characters is the whole text.
pub(crate) fn fits(text: &str, most: usize) -> bool {
    one_line(text).chars().count() <= most
}

fn one_line(text: &str) -> String {
    let words =
        text.split(|letter: char| letter.is_whitespace() || letter.is_control()).filter(|word| !word.is_empty());
    words.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_and_counts_read_well() {
        let texts: Vec<String> = [0, 950, 3_400, 125_000, 3_720_000].into_iter().map(milliseconds).collect();
        assert_eq!(texts, ["0 ms", "950 ms", "3.4 s", "2 m 05 s", "1 h 02 m"]);
        assert_eq!([0, 999, 1000, 11_154, 1_000_000].map(count), ["0", "999", "1,000", "11,154", "1,000,000"]);
    }

    #[test]
    fn rates_have_three_figures() {
        let rates = [0.0, 0.523, 9.994, 9.996, 45.67, 99.96, 999.4, 999.6, 1_234.567_8, 999_600.0, 45_600_000.0];
        let texts = rates.map(rate);
        assert_eq!(
            texts,
            [
                "0/s", "0.52/s", "9.99/s", "10.0/s", "45.7/s", "100/s", "999/s", "1.00k/s", "1.23k/s", "1.00M/s",
                "45.6M/s"
            ]
        );
    }

    #[test]
    fn an_excerpt_is_one_line_and_says_whether_there_is_more() {
        assert_eq!(excerpt("it failed;\nits last line:\n\tno\n", 40), "it failed; its last line: no");
        assert_eq!(
            excerpt("\ncould not put a/b:\nstatus 500: the disk is full\n", 31),
            "could not put a…he disk is full"
        );
        assert_eq!(excerpt("a\u{1b}[31m\0b", 10), "a [31m b");
        assert_eq!(excerpt("", 10), "");
    }

    #[test]
    fn nothing_printable_commands_a_terminal() {
        assert_eq!(printable("a\u{1b}]0;x\u{7}\tb\u{9b}1m\nc\r"), "a ]0;x  b 1m\nc ");
    }
}
