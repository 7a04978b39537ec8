//! What cannot be read as YAML, in words for people who do not know its grammar.

use serde_saphyr::granit_parser::{ErrorKind, ScanError};

use crate::domain::diagnostic::{Code, Diagnostic};
use crate::domain::source::Span;
use crate::domain::yaml::reader::DEEPEST;

pub(super) fn too_deep(span: Span) -> Diagnostic {
    Diagnostic::error(Code::TooDeep, span, format!("values are nested more than {DEEPEST} deep here"))
}

pub(super) fn unknown_alias(text: &str, span: Span, name: &str) -> Diagnostic {
    let problem = Diagnostic::error(
        Code::UnknownAlias,
        span,
        format!("`*{name}` is an alias, and no anchor `&{name}` stands before it"),
    );
    let looks_like_cron = text[span.end..].starts_with(" *") || name.starts_with('/');
    problem.help(if looks_like_cron {
        "a cron expression that starts with `*` has to be quoted"
    } else {
        "text that starts with `*` has to be quoted"
    })
}

/// What the parser stopped at.
pub(super) fn syntax(text: &str, error: &ScanError) -> Diagnostic {
    let at = error.marker().byte_offset().unwrap_or(text.len()).min(text.len());
    let line_start = text[..at].rfind('\n').map_or(0, |newline| newline + 1);
    let next = text[at..].chars().next();
    let span = Span::new(at, at + next.filter(|c| *c != '\n' && *c != '\r').map_or(0, char::len_utf8));
    let indent_has_tab = text[line_start..].chars().take_while(|c| matches!(c, ' ' | '\t')).any(|c| c == '\t');
    let tab = indent_has_tab.then(|| text[line_start..].find('\t').expect("a tab was just seen") + line_start);
    match (error.kind(), next) {
        (ErrorKind::RecursionLimitExceeded, _) => too_deep(span),
        (ErrorKind::UnclosedQuotedScalar | ErrorKind::DocumentIndicatorInQuotedScalar, _) => {
            Diagnostic::error(Code::UnclosedQuote, span, "a quote is opened here and not closed")
                .help("close it, or double it if it belongs to the text: 'it''s'")
        }
        _ if let Some(tab) = tab => {
            Diagnostic::error(Code::Tab, Span::new(tab, tab + 1), "a tab cannot indent in YAML")
                .help("use blanks; most editors convert tabs when told to")
        }
        (ErrorKind::UnexpectedCharacter { character }, _) if matches!(character, '@' | '`' | '%') => {
            Diagnostic::error(Code::Syntax, span, format!("text cannot start with `{character}` in YAML"))
                .help("put it in quotes: \"@daily\"")
        }
        (kind, _) => {
            let what = kind.to_string();
            let what =
                if what.is_empty() { "this is not YAML".to_owned() } else { format!("this is not YAML: {what}") };
            Diagnostic::error(Code::Syntax, span, what)
        }
    }
}
