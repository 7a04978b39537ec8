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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_and_counts_read_well() {
        let texts: Vec<String> = [0, 950, 3_400, 125_000, 3_720_000].into_iter().map(milliseconds).collect();
        assert_eq!(texts, ["0 ms", "950 ms", "3.4 s", "2 m 05 s", "1 h 02 m"]);
        assert_eq!([0, 999, 1000, 11_154, 1_000_000].map(count), ["0", "999", "1,000", "11,154", "1,000,000"]);
    }
}
