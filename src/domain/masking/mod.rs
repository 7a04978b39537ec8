//! Keeps secrets out of what people and machines read: a secret in any of its usual forms becomes `***`.
//!
//! A set of [`Masks`] is shared by all of a process: whatever an attempt resolves is added, and from then on it is masked
//! in every log, error and line of telemetry. Text is searched once, for all secrets and forms together, and line breaks
//! within a secret do not hide it. Secrets of less than four characters are not masked: they would match everywhere.

mod forms;
mod names;
mod stream;

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use aho_corasick::{AhoCorasick, AhoCorasickKind, MatchKind};
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;

pub use names::{is_secret_name, secrets_in};
pub use stream::MaskedStream;

/// What is shown in a secret's place, as in Airflow.
pub const MASK: &str = "***";

/// Shorter texts stand in every log, as a part of something else.
const SHORTEST: usize = 4;

/// So much of a form, at the end of a text, may be the beginning of a secret: it waits for what comes next. Less than
/// this of a secret may be seen before a line break.
const TELLING: usize = 3;

/// Words that are never secret, whatever the name is under which they stand.
const NO_SECRETS: [&str; 6] = ["true", "false", "null", "none", "True", "False"];

/// The secrets that a process knows; clones share them.
#[derive(Clone, Default)]
pub struct Masks(Arc<RwLock<Arc<Masker>>>);

/// The secrets of one moment, ready to be searched for.
#[derive(Default)]
pub(in crate::domain::masking) struct Masker {
    secrets: BTreeSet<String>,
    /// All forms of all of them, sorted.
    forms: Vec<String>,
    automaton: Option<AhoCorasick>,
    /// Whether a form starts with that byte.
    starts: Vec<bool>,
}

impl fmt::Debug for Masks {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Masks({} secrets)", self.current().secrets.len())
    }
}

impl Masks {
    /// Masks these as well from now on.
    pub fn add<'a>(&self, secrets: impl IntoIterator<Item = &'a SecretString>) {
        let known = self.current();
        let new: BTreeSet<&str> = secrets
            .into_iter()
            .flat_map(|secret| parts(secret.expose_secret()))
            .filter(|secret| is_maskable(secret) && !known.secrets.contains(*secret))
            .collect();
        if new.is_empty() {
            return;
        }
        let mut current = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let all = current.secrets.iter().map(String::as_str).chain(new).map(str::to_owned).collect();
        *current = Arc::new(Masker::new(all));
    }

    pub(in crate::domain::masking) fn current(&self) -> Arc<Masker> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The text with every secret that is whole in it masked.
    #[must_use]
    pub fn mask<'t>(&self, text: &'t str) -> Cow<'t, str> {
        let masker = self.current();
        if masker.automaton.is_none() {
            return Cow::Borrowed(text);
        }
        let seen = Seen::new(text);
        let found = masker.found(&seen.text);
        if found.is_empty() {
            return Cow::Borrowed(text);
        }
        let mut masked = String::with_capacity(text.len());
        let mut from = 0;
        for (start, end) in found {
            let (start, end) = (seen.place(start), seen.end(end));
            masked.push_str(&text[from..start]);
            push_mask(&mut masked, &text[start..end]);
            from = end;
        }
        masked.push_str(&text[from..]);
        Cow::Owned(masked)
    }

    /// The value with its texts masked; keys stay as they are.
    #[must_use]
    pub fn mask_value(&self, value: Value) -> Value {
        match value {
            Value::String(text) => Value::String(self.mask(&text).into_owned()),
            Value::Array(items) => items.into_iter().map(|item| self.mask_value(item)).collect(),
            Value::Object(fields) => fields
                .into_iter()
                .map(|(key, field)| (key, self.mask_value(field)))
                .collect::<serde_json::Map<_, _>>()
                .into(),
            Value::Null | Value::Bool(_) | Value::Number(_) => value,
        }
    }

    /// Masks text that comes piece by piece, as a log does.
    #[must_use]
    pub fn stream(&self) -> MaskedStream {
        MaskedStream::new(self.clone())
    }
}

/// A secret, and what of it may be seen alone: itself without blanks around it, and the long lines of a key file.
fn parts(secret: &str) -> impl Iterator<Item = &str> {
    const LONG: usize = 16;
    let lines = secret.lines().map(str::trim).filter(|line| line.len() >= LONG && !line.starts_with("-----"));
    let lines = lines.filter(move |_| secret.trim().contains('\n'));
    [secret, secret.trim()].into_iter().chain(lines)
}

fn is_maskable(secret: &str) -> bool {
    secret.chars().filter(|letter| !matches!(letter, '\n' | '\r')).count() >= SHORTEST
        && !secret.chars().all(|letter| letter == '*' || letter.is_whitespace())
        && !NO_SECRETS.contains(&secret)
}

/// A mask in the place of `hidden`, whose line breaks stay.
fn push_mask(text: &mut String, hidden: &str) {
    text.push_str(MASK);
    text.extend(hidden.chars().filter(|letter| matches!(letter, '\n' | '\r')));
}

impl Masker {
    fn new(secrets: BTreeSet<String>) -> Self {
        let forms: BTreeSet<String> = secrets.iter().flat_map(|secret| forms::of(secret)).collect();
        let forms: Vec<String> = forms.into_iter().collect();
        let automaton = AhoCorasick::builder()
            .match_kind(MatchKind::LeftmostLongest)
            .kind(Some(AhoCorasickKind::ContiguousNFA)) // a table of all states would take megabytes for a key file
            .build(&forms);
        let mut starts = vec![false; 256];
        for first in forms.iter().filter_map(|form| form.bytes().next()) {
            starts[usize::from(first)] = true;
        }
        // It fails only where the forms come to gigabytes: then nothing can be shown.
        let automaton = Some(automaton.expect("secrets are far smaller than what an automaton can hold"));
        Self { secrets, forms, automaton, starts }
    }

    /// Where secrets stand, from the left, none within another.
    fn found(&self, text: &str) -> Vec<(usize, usize)> {
        let Some(automaton) = &self.automaton else { return Vec::new() };
        automaton.find_iter(text).map(|found| (found.start(), found.end())).collect()
    }

    /// Where, at the text's end, a secret may have begun that is not whole yet.
    fn open_from(&self, text: &str) -> Option<usize> {
        let longest = text.len().checked_sub(TELLING)?;
        let bytes = text.as_bytes();
        (0..=longest).find(|&start| {
            self.starts[usize::from(bytes[start])] && {
                let rest = &bytes[start..];
                let next = self.forms.partition_point(|form| form.as_bytes() <= rest);
                self.forms.get(next).is_some_and(|form| form.as_bytes().starts_with(rest))
            }
        })
    }

    fn is_empty(&self) -> bool {
        self.automaton.is_none()
    }
}

/// A text without its line breaks, as it is searched, and where its bytes stand.
struct Seen<'t> {
    text: Cow<'t, str>,
    /// Where the text goes on behind line breaks: place in `text`, and how many bytes were left out before it.
    gaps: Vec<(usize, usize)>,
}

impl<'t> Seen<'t> {
    fn new(text: &'t str) -> Self {
        let is_break = |letter: char| matches!(letter, '\n' | '\r');
        if !text.contains(is_break) {
            return Self { text: Cow::Borrowed(text), gaps: Vec::new() };
        }
        let mut seen = String::with_capacity(text.len());
        let mut gaps: Vec<(usize, usize)> = Vec::new();
        let mut left_out = 0;
        for piece in text.split_inclusive(is_break) {
            let kept = piece.trim_end_matches(is_break);
            seen.push_str(kept);
            left_out += piece.len() - kept.len();
            if left_out > 0 {
                gaps.push((seen.len(), left_out));
            }
        }
        Self { text: Cow::Owned(seen), gaps }
    }

    /// Where a byte of the seen text stands in the whole one.
    fn place(&self, at: usize) -> usize {
        let before = self.gaps.partition_point(|(from, _)| *from <= at);
        at + before.checked_sub(1).map_or(0, |last| self.gaps[last].1)
    }

    /// Where a stretch that ends there ends: before line breaks, not behind them.
    fn end(&self, end: usize) -> usize {
        self.place(end - 1) + 1
    }
}

#[cfg(test)]
mod tests;
