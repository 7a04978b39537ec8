//! Text as the text format of Postgres's COPY wants it.

use std::fmt;

/// A value whose tabs, line ends and backslashes are written as escapes.
#[derive(Debug, Clone, Copy)]
pub struct Escaped<'a>(pub &'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.0;
        while let Some(at) = rest.find(['\\', '\t', '\n', '\r']) {
            f.write_str(&rest[..at])?;
            f.write_str(match rest.as_bytes()[at] {
                b'\\' => "\\\\",
                b'\t' => "\\t",
                b'\n' => "\\n",
                _ => "\\r",
            })?;
            rest = &rest[at + 1..];
        }
        f.write_str(rest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_cannot_break_out_of_their_column() {
        assert_eq!(Escaped("a\\.\tb\nc\r").to_string(), "a\\\\.\\tb\\nc\\r");
        assert_eq!(Escaped("naïve").to_string(), "naïve");
    }
}
