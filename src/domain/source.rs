//! A DAG file's text and places in it. Places are byte ranges; lines and columns are worked out when somebody asks.

use std::ops::Range;

/// The largest DAG file that is read, in bytes. A generated DAG of 50,000 tasks fits; a database dump does not.
pub const LARGEST_FILE: usize = 10 * 1024 * 1024;

/// A range of bytes in a source file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Span {
    /// The first byte.
    pub start: usize,
    /// The byte after the last.
    pub end: usize,
}

impl Span {
    /// The bytes from `start` to before `end`.
    #[must_use]
    pub fn new(start: usize, end: usize) -> Self {
        Self { start, end: end.max(start) }
    }
}

/// A place as people count: both from 1, columns in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// The line.
    pub line: usize,
    /// The character in the line.
    pub column: usize,
}

/// The text of one file, with where its lines start.
#[derive(Debug, Clone)]
pub struct SourceFile {
    name: String,
    text: String,
    line_starts: Vec<usize>,
}

impl SourceFile {
    /// A file by the name that diagnostics show.
    #[must_use]
    pub fn new(name: impl Into<String>, text: impl Into<String>) -> Self {
        let text = text.into();
        let line_starts = std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect();
        Self { name: name.into(), text, line_starts }
    }

    /// What diagnostics call it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// All of it.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// What a span covers.
    #[must_use]
    pub fn slice(&self, span: Span) -> &str {
        self.text.get(span.start..span.end).unwrap_or_default()
    }

    /// Where a span starts.
    #[must_use]
    pub fn position(&self, span: Span) -> Position {
        let line = self.line_of(span.start);
        let before = self.text.get(self.line_starts[line]..span.start.min(self.text.len())).unwrap_or_default();
        // A byte order mark is part of the file, not of what an editor counts as columns.
        let column = before.chars().filter(|c| *c != '\u{feff}').count() + 1;
        Position { line: line + 1, column }
    }

    /// The span cut off at the end of its first line: what a diagnostic underlines.
    #[must_use]
    pub fn first_line_of(&self, span: Span) -> Span {
        let end_of_line = self.line_range(self.line_of(span.start)).end;
        Span::new(span.start, span.end.min(end_of_line))
    }

    /// The number, from 0, of the line that holds the byte `at`.
    #[must_use]
    pub(in crate::domain) fn line_of(&self, at: usize) -> usize {
        self.line_starts.partition_point(|start| *start <= at).saturating_sub(1)
    }

    /// The bytes of a line by its number from 0, without its line break.
    #[must_use]
    pub(in crate::domain) fn line_range(&self, line: usize) -> Range<usize> {
        let last = self.line_starts.len() - 1;
        let start = self.line_starts[line.min(last)];
        let end = self.line_starts.get(line + 1).copied().unwrap_or(self.text.len());
        let text = &self.text[start..end];
        start..start + text.trim_end_matches(['\n', '\r']).len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_count_characters_and_line_breaks_of_either_kind_end_a_line() {
        let file = SourceFile::new("a.yaml", "\u{feff}äöü: 1\r\nb: 2");
        let one = file.text().find('1').unwrap();
        assert_eq!(file.position(Span::new(one, one + 1)), Position { line: 1, column: 6 });
        let two = file.text().find('2').unwrap();
        assert_eq!(file.position(Span::new(two, two + 1)), Position { line: 2, column: 4 });
        assert_eq!(file.slice(file.first_line_of(Span::new(one, two))), "1");
    }
}
