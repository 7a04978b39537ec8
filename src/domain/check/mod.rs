//! From a file's text to checked DAGs, or to all that is wrong with it at once. Only this makes a [`Dag`].

mod branches;
mod callbacks;
mod catalog;
mod config;
mod graph;
mod groups;
mod mapping;
mod rendered;
mod settings;
mod tasks;
mod teardowns;
mod templates;
mod weights;

#[cfg(test)]
pub(in crate::domain) use config::mismatches;
pub use rendered::rendered_problems;

use crate::domain::dag::{Dag, Task};
use crate::domain::diagnostic::{Code, Diagnostic, Severity};
use crate::domain::operator_kind::OperatorKind;
use crate::domain::source::{LARGEST_FILE, SourceFile, Span};
use crate::domain::spec::{self, DagSpec, Problems};
use crate::domain::yaml;
use catalog::Catalog;

/// What became of a file.
#[derive(Debug)]
pub struct Checked {
    /// The DAGs that can be used, in the file's order.
    pub dags: Vec<Dag>,
    /// All that is wrong, in the file's order; warnings may accompany DAGs.
    pub diagnostics: Vec<Diagnostic>,
    /// The files that its tasks name. Whether they are there, the disk knows.
    pub files: Vec<NamedFile>,
}

/// A file, or a pattern of files, that a task names without a template in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedFile {
    /// The id of the task's DAG.
    pub dag: String,
    /// As it was typed.
    pub pattern: String,
    /// Where.
    pub span: Span,
    /// Whether the task waits for others, which may write the file first.
    pub has_upstream: bool,
}

impl Checked {
    /// Whether one of the diagnostics is an error.
    #[must_use]
    pub fn has_errors(&self) -> bool {
        self.diagnostics.iter().any(|diagnostic| diagnostic.severity == Severity::Error)
    }

    /// Takes a DAG back for an error that this file alone does not show.
    pub fn refuse(&mut self, dag: &str, problem: Diagnostic) {
        self.dags.retain(|other| other.id().as_str() != dag);
        self.add(problem);
    }

    /// Adds what this file alone does not show; for an error there is [`Self::refuse`].
    pub fn add(&mut self, problem: Diagnostic) {
        self.diagnostics.push(problem);
        put_in_order(&mut self.diagnostics);
    }
}

/// A file's bytes as a source file that can be checked; a diagnostic when they are too many or no text.
///
/// # Errors
/// The diagnostic with the part of the file that could be read, for rendering.
pub fn decode(name: &str, bytes: Vec<u8>) -> Result<SourceFile, Box<(SourceFile, Diagnostic)>> {
    if bytes.len() > LARGEST_FILE {
        let megabytes = LARGEST_FILE / (1024 * 1024);
        // Whoever read the file stopped there: how large it is, nobody knows.
        let message = format!("the file has more than {megabytes} MB; a DAG file has at most that");
        let problem = Diagnostic::error(Code::TooLarge, Span::default(), message)
            .help("split the DAGs over several files, or keep data in files of its own");
        return Err(Box::new((SourceFile::new(name, ""), problem)));
    }
    String::from_utf8(bytes).map(|text| SourceFile::new(name, text)).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        let byte = error.as_bytes()[at];
        let text = String::from_utf8_lossy(error.as_bytes()).into_owned();
        let message = format!("the file is not UTF-8: byte {byte:#04x} at offset {at}");
        let problem = Diagnostic::error(Code::NotUtf8, Span::new(at, at + '\u{fffd}'.len_utf8()), message)
            .help("save the file as UTF-8");
        Box::new((SourceFile::new(name, text), problem))
    })
}

/// Checks a file against the operators that there are.
#[must_use]
pub fn check(file: &SourceFile, operators: &[&'static OperatorKind]) -> Checked {
    let mut problems = Problems::new(file);
    let document = yaml::read(file.text());
    for problem in document.problems {
        problems.add(problem);
    }
    for duplicate in &document.duplicates {
        problems.add(duplicate_key(duplicate));
    }
    let readable = problems.errors() == 0;
    let (mut dags, mut files) = (Vec::new(), Vec::new());
    match &document.root {
        _ if document.broken => {}
        Some(root) if !root.is_null() => {
            let mut catalog = Catalog::new(operators);
            let errors_before = problems.errors();
            let specs = spec::read_file(&spec::translated(root), &mut problems);
            for spec in &specs {
                dags.extend(check_dag(spec, &mut catalog, &mut files, &mut problems).filter(|_| readable));
            }
            if specs.is_empty() && problems.errors() == errors_before {
                problems.add(empty_file(root.span));
            }
        }
        _ => problems.add(empty_file(Span::default())),
    }
    let mut diagnostics = problems.found;
    put_in_order(&mut diagnostics);
    Checked { dags, diagnostics, files }
}

/// In the file's order. What `default_args` get wrong is wrong once, not once for each task.
fn put_in_order(diagnostics: &mut Vec<Diagnostic>) {
    diagnostics.sort_by(|one, other| (one.span, one.code, &one.message).cmp(&(other.span, other.code, &other.message)));
    diagnostics.dedup();
}

fn check_dag(
    spec: &DagSpec,
    catalog: &mut Catalog,
    files: &mut Vec<NamedFile>,
    problems: &mut Problems<'_>,
) -> Option<Dag> {
    let errors_before = problems.errors();
    let settings = settings::check(spec, problems);
    let tasks = tasks::check(spec, catalog, problems);
    files.extend(tasks.files().map(|(task, pattern, span)| NamedFile {
        dag: spec.id.text.clone(),
        pattern: pattern.to_owned(),
        span,
        has_upstream: !task.upstream.is_empty(),
    }));
    let order = graph::order(&tasks, problems);
    branches::check(&tasks, problems);
    teardowns::check(&tasks, problems);
    templates::check(spec, &tasks, &order, problems);
    callbacks::check(spec, problems);
    let settings = settings.filter(|_| spec.sound && problems.errors() == errors_before)?;
    let edges = tasks.edges();
    let priorities = weights::priorities(&tasks.weighed(), &tasks.places(), &order.upstream_first());
    let tasks = tasks
        .checked
        .into_iter()
        .zip(priorities)
        .map(|(task, priority_weight)| Some(Task { priority_weight, ..task.task? }))
        .collect::<Option<Vec<_>>>()?;
    Some(Dag::assemble(settings, tasks, &edges).with_groups(groups::assembled(spec)))
}

fn empty_file(span: Span) -> Diagnostic {
    Diagnostic::error(Code::EmptyFile, span, "there is no DAG in this file")
        .help("a DAG starts with its id: `my_dag:`, and `tasks` below it")
}

fn duplicate_key(duplicate: &yaml::Duplicate) -> Diagnostic {
    let name = &duplicate.key.text;
    let (code, message) = match duplicate.path.as_slice() {
        [] => (Code::DuplicateDag, format!("two DAGs are called `{name}`")),
        [_, groups] if groups == "task_groups" => (Code::DuplicateTask, format!("two task groups are called `{name}`")),
        [_, tasks] if tasks == "tasks" => (Code::DuplicateTask, format!("two tasks are called `{name}`")),
        _ => (Code::DuplicateKey, format!("the key `{name}` stands twice in one mapping")),
    };
    Diagnostic::error(code, duplicate.key.span, message).related(duplicate.first, "the first one")
}
