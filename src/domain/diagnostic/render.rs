//! Diagnostics as text, in rustc's form.

use annotate_snippets::renderer::DecorStyle;
use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};

use crate::domain::diagnostic::{Diagnostic, Severity};
use crate::domain::source::{SourceFile, Span};

/// Marked lines closer than this are shown as one piece of source, with the lines between them.
const SAME_PIECE: usize = 4;

/// A run of lines, from first to last, with the marks in it.
type Piece<'a> = (usize, usize, Vec<(Span, &'a str, AnnotationKind)>);

impl Diagnostic {
    /// The diagnostic with its source lines, `coloured` for terminals; no line break at its end.
    #[must_use]
    pub fn render(&self, file: &SourceFile, coloured: bool) -> String {
        let renderer = if coloured { Renderer::styled() } else { Renderer::plain() };
        let level = match self.severity {
            Severity::Error => Level::ERROR,
            Severity::Warning => Level::WARNING,
        };
        let mut group = Group::with_title(level.primary_title(self.message.as_str()).id(self.code.as_str()));
        for piece in self.pieces(file) {
            group = group.element(piece);
        }
        if let Some(help) = &self.help {
            group = group.element(Level::HELP.message(help.as_str()));
        }
        renderer.decor_style(DecorStyle::Ascii).render(&[group])
    }

    /// The pieces of source that hold the marks, the primary one first. Only those lines are handed on: the renderer
    /// would otherwise go through the whole file for each diagnostic.
    fn pieces<'a>(&'a self, file: &'a SourceFile) -> Vec<Snippet<'a, annotate_snippets::Annotation<'a>>> {
        let mut marks = vec![(self.span, self.label.as_str(), AnnotationKind::Primary)];
        marks.extend(self.related.iter().map(|(span, label)| (*span, label.as_str(), AnnotationKind::Context)));
        let mut pieces: Vec<Piece<'_>> = Vec::new();
        for (span, label, kind) in marks {
            let span = file.first_line_of(span);
            let line = file.line_of(span.start);
            let near = |first: usize, last: usize| line + SAME_PIECE >= first && line <= last + SAME_PIECE;
            match pieces.iter_mut().find(|(first, last, _)| near(*first, *last)) {
                Some((first, last, marks)) => {
                    (*first, *last) = ((*first).min(line), (*last).max(line));
                    marks.push((span, label, kind));
                }
                None => pieces.push((line, line, vec![(span, label, kind)])),
            }
        }
        pieces
            .into_iter()
            .map(|(first, last, marks)| {
                let start = file.line_range(first).start;
                let text = &file.text()[start..file.line_range(last).end];
                // The byte order mark would be drawn, and shift the marks.
                let (start, text) = match text.strip_prefix('\u{feff}') {
                    Some(rest) => (start + '\u{feff}'.len_utf8(), rest),
                    None => (start, text),
                };
                let annotations = marks.into_iter().map(move |(span, label, kind)| {
                    let from = span.start.max(start) - start;
                    let to = span.end.max(start) - start;
                    let annotation = kind.span(from.min(text.len())..to.min(text.len()));
                    if label.is_empty() { annotation } else { annotation.label(label) }
                });
                Snippet::source(text).line_start(first + 1).path(file.name()).fold(false).annotations(annotations)
            })
            .collect()
    }
}
