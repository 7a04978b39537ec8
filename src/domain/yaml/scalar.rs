//! What a plain scalar means, by YAML 1.2's core schema.

use serde_json::Number;

use crate::domain::yaml::NodeKind;

/// Reads a plain (unquoted) scalar.
///
/// Numbers that JSON cannot hold (`.inf`, `.nan`) stay text.
pub(super) fn resolve(text: &str) -> NodeKind {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => NodeKind::Null,
        "true" | "True" | "TRUE" => NodeKind::Bool(true),
        "false" | "False" | "FALSE" => NodeKind::Bool(false),
        _ => number(text).map_or_else(|| NodeKind::Text(text.to_owned()), NodeKind::Number),
    }
}

fn number(text: &str) -> Option<Number> {
    // Most scalars are words: they are turned away by their first character.
    if !text.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '+' | '-' | '.')) {
        return None;
    }
    if let Some(digits) = text.strip_prefix("0x") {
        return u64::from_str_radix(digits, 16).ok().map(Number::from);
    }
    if let Some(digits) = text.strip_prefix("0o") {
        return u64::from_str_radix(digits, 8).ok().map(Number::from);
    }
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    if !unsigned.is_empty() && unsigned.bytes().all(|byte| byte.is_ascii_digit()) {
        let plain = text.strip_prefix('+').unwrap_or(text);
        return plain
            .parse::<i64>()
            .map(Number::from)
            .or_else(|_| plain.parse::<u64>().map(Number::from))
            .ok()
            .or_else(|| plain.parse::<f64>().ok().and_then(Number::from_f64));
    }
    let is_float = unsigned.bytes().any(|byte| byte.is_ascii_digit())
        && unsigned.bytes().all(|byte| byte.is_ascii_digit() || matches!(byte, b'.' | b'e' | b'E' | b'+' | b'-'));
    if is_float { text.parse::<f64>().ok().and_then(Number::from_f64) } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_core_schema_and_nothing_more() {
        let number = |text: &str| NodeKind::Number(text.parse().unwrap());
        let text = |text: &str| NodeKind::Text(text.to_owned());
        for (typed, meant) in [
            ("~", NodeKind::Null),
            ("true", NodeKind::Bool(true)),
            ("False", NodeKind::Bool(false)),
            ("yes", text("yes")),
            ("off", text("off")),
            ("2026-01-01", text("2026-01-01")),
            ("12:30", text("12:30")),
            ("007", NodeKind::Number(7.into())),
            ("0x10", NodeKind::Number(16.into())),
            ("+3", NodeKind::Number(3.into())),
            ("-3", number("-3")),
            ("1.5", number("1.5")),
            ("1e3", number("1000.0")),
            (".nan", text(".nan")),
            ("-", text("-")),
            ("1_000", text("1_000")),
            ("18446744073709551615", number("18446744073709551615")),
        ] {
            assert_eq!(resolve(typed), meant, "{typed}");
        }
    }
}
