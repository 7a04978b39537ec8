//! What was typed: the keys of DAGs and tasks, each with its place. Reading reports values of a wrong form and keeps
//! the rest; whether things fit together is `check`'s business. `pinsched schema` is made from the same types.

mod factory;
mod file;
mod groups;
mod keys;
mod known;
mod value;

pub(in crate::domain) use factory::translated;
pub(in crate::domain) use file::{DagSpec, TaskSpec, is_dag_key_in_default_args, read_file, report_support};
pub(in crate::domain) use groups::Groups;
pub(in crate::domain) use keys::{DagKeys, GroupKeys, TaskKeys};
pub(in crate::domain) use known::airflow_task_key;
pub(in crate::domain) use value::{CallbackList, Dependencies, Spanned, output_of};

use std::ops::Range;

use crate::domain::diagnostic::{Diagnostic, Severity};
use crate::domain::source::{SourceFile, Span};
use crate::domain::yaml::Node;

/// The mistakes found so far in one file.
#[derive(Debug)]
pub(in crate::domain) struct Problems<'a> {
    pub(in crate::domain) file: &'a SourceFile,
    pub(in crate::domain) found: Vec<Diagnostic>,
    errors: usize,
    compared: usize,
}

/// So many ids of tasks are compared with mistyped ones to find what was meant. Ten thousand mistakes among ten thousand
/// tasks would be a hundred million comparisons, and nobody reads that much advice.
const MOST_COMPARED: usize = 1_000_000;

impl<'a> Problems<'a> {
    pub(in crate::domain) fn new(file: &'a SourceFile) -> Self {
        Self { file, found: Vec::new(), errors: 0, compared: 0 }
    }

    pub(in crate::domain) fn add(&mut self, problem: Diagnostic) {
        self.errors += usize::from(problem.severity == Severity::Error);
        self.found.push(problem);
    }

    /// How many of them are errors.
    pub(in crate::domain) fn errors(&self) -> usize {
        self.errors
    }

    /// How many of `ids` one more mistyped id may be compared with: all of them, until [`MOST_COMPARED`] are used up.
    pub(in crate::domain) fn comparable(&mut self, ids: usize) -> usize {
        if self.compared + ids > MOST_COMPARED {
            return 0;
        }
        self.compared += ids;
        ids
    }

    /// The place of a part of a text value, given by its bytes in the text as it was read.
    ///
    /// It is exact where the file has that part letter by letter; where escapes or folded lines are in it, it is the
    /// whole value.
    pub(in crate::domain) fn span_within(&self, node: &Node, range: Range<usize>) -> Span {
        let Some(text) = node.as_text() else { return node.span };
        let source = self.file.slice(node.span);
        let quote = usize::from(source.starts_with(['"', '\'']));
        if source.get(quote..quote + text.len()) == Some(text) && quote * 2 + text.len() == source.len() {
            return Span::new(node.span.start + quote + range.start, node.span.start + quote + range.end);
        }
        // Several lines or escapes: the part is looked for, and counted if it is there more than once.
        let part = text.get(range.clone()).filter(|part| !part.is_empty());
        let found = part.filter(|part| text.matches(part).count() == source.matches(part).count()).and_then(|part| {
            let before = text.match_indices(part).take_while(|(at, _)| *at < range.start).count();
            source.match_indices(part).nth(before).map(|(at, part)| Span::new(at, at + part.len()))
        });
        found.map_or(node.span, |within| Span::new(node.span.start + within.start, node.span.start + within.end))
    }
}
