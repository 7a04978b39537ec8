//! What is wrong with a DAG file, and where: a mistake of the user's is a [`Diagnostic`], never an error of ours.

mod code;
mod render;

pub use code::Code;

use crate::domain::source::Span;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The DAG cannot be used.
    Error,
    /// The DAG can be used, but something in it has no effect or looks like a slip.
    Warning,
}

/// One thing that is wrong, at one place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// Which kind of mistake.
    pub code: Code,
    /// How bad.
    pub severity: Severity,
    /// What is wrong, lower case, no period.
    pub message: String,
    /// Where.
    pub span: Span,
    /// A few words under the marked place.
    pub label: String,
    /// Other places that have to do with it.
    pub related: Vec<(Span, String)>,
    /// What to do about it.
    pub help: Option<String>,
}

impl Diagnostic {
    /// An error at `span`.
    #[must_use]
    pub fn error(code: Code, span: Span, message: impl Into<String>) -> Self {
        Self {
            code,
            severity: Severity::Error,
            message: message.into(),
            span,
            label: String::new(),
            related: Vec::new(),
            help: None,
        }
    }

    /// A warning at `span`.
    #[must_use]
    pub fn warning(code: Code, span: Span, message: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, ..Self::error(code, span, message) }
    }

    /// The same with words under the marked place.
    #[must_use]
    pub fn label(mut self, label: impl Into<String>) -> Self {
        self.label = label.into();
        self
    }

    /// The same with another place marked.
    #[must_use]
    pub fn related(mut self, span: Span, label: impl Into<String>) -> Self {
        self.related.push((span, label.into()));
        self
    }

    /// The same with advice.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// The same with "did you mean", when one of `known` is close to `typed`; otherwise with `else_help`.
    #[must_use]
    pub fn did_you_mean<'a>(
        mut self,
        typed: &str,
        known: impl IntoIterator<Item = &'a str>,
        else_help: impl FnOnce() -> Option<String>,
    ) -> Self {
        self.help = match closest(typed, known) {
            Some(known) => Some(format!("did you mean `{known}`?")),
            None => else_help(),
        };
        self
    }
}

/// The name among `known` that `typed` most likely meant.
#[must_use]
pub fn closest<'a>(typed: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let lower = typed.to_lowercase();
    let length = lower.chars().count();
    // A third of the letters may be wrong: `tranform` means `transform`, `sql` does not mean `emulate`.
    let allowed = length / 3;
    known
        .into_iter()
        // Names of very different length are never close: spares the distance for most of a long list.
        .filter(|name| name.chars().count().abs_diff(length) <= allowed)
        .map(|name| (strsim::osa_distance(&lower, &name.to_lowercase()), name))
        .filter(|(distance, _)| *distance <= allowed)
        .min()
        .map(|(_, name)| name)
}

/// Names for a sentence: `` `a`, `b` and `c` ``; long lists are cut.
#[must_use]
pub fn listed<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    /// More do not help anybody choose.
    const MOST: usize = 24;
    let names: Vec<String> = names.into_iter().map(|name| format!("`{name}`")).collect();
    match names.as_slice() {
        [] => "none".to_owned(),
        [one] => one.clone(),
        many if many.len() > MOST => format!("{} and {} more", many[..MOST].join(", "), many.len() - MOST),
        [most @ .., last] => format!("{} and {last}", most.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_closest_name_is_found_and_far_ones_are_not() {
        assert_eq!(closest("tranform", ["emulate", "transform"]), Some("transform"));
        assert_eq!(closest("Retries", ["retries", "retry_delay"]), Some("retries"));
        assert_eq!(closest("sql", ["emulate", "sink"]), None);
        assert_eq!(closest("a", ["b", "A"]), Some("A"));
    }

    #[test]
    fn names_are_listed_as_in_a_sentence() {
        assert_eq!(listed(["a"]), "`a`");
        assert_eq!(listed(["a", "b", "c"]), "`a`, `b` and `c`");
    }
}
