//! `pinsched validate [PATH…]`: all that is wrong with DAG files.

use std::fmt::Write as _;
use std::path::PathBuf;

use crate::cli::exit::Exit;
use crate::domain::diagnostic::Severity;
use crate::domain::operator_kind::OperatorKind;
use crate::service::dag_files::{LoadedFile, count, load_all};

/// What the command answers.
#[derive(Debug)]
pub(crate) struct ValidateReport {
    files: Vec<LoadedFile>,
}

/// Checks the files, and the YAML files in the folders, that `paths` name.
pub(crate) fn validate(paths: &[PathBuf], catalog: &[&'static OperatorKind]) -> ValidateReport {
    ValidateReport { files: load_all(paths, catalog) }
}

impl ValidateReport {
    /// No when there is an error; not tried when something could not be read.
    pub(crate) fn exit(&self) -> Exit {
        match () {
            () if self.files.iter().any(|file| file.unreadable().is_some()) => Exit::NotTried,
            () if count(&self.files, Severity::Error) > 0 => Exit::No,
            () => Exit::Done,
        }
    }

    /// The diagnostics and a line that sums up, `coloured` for terminals.
    pub(crate) fn render(&self, coloured: bool) -> String {
        let mut text = String::new();
        for file in self.files.iter().filter(|file| !file.checked.diagnostics.is_empty()) {
            let _ = writeln!(text, "{}\n", file.render(coloured)); // writing to a string cannot fail
        }
        text.push_str(&self.summary());
        text
    }

    fn summary(&self) -> String {
        let dags: usize = self.files.iter().map(|file| file.checked.dags.len()).sum();
        let (errors, warnings) = (count(&self.files, Severity::Error), count(&self.files, Severity::Warning));
        let checked = format!("{} in {}", counted(dags, "valid DAG"), counted(self.files.len(), "file"));
        match (errors, warnings) {
            (0, 0) => format!("{checked}\n"),
            (0, _) => format!("{checked}, {}\n", counted(warnings, "warning")),
            (_, 0) => format!("{checked}, {}\n", counted(errors, "error")),
            _ => format!("{checked}, {}, {}\n", counted(errors, "error"), counted(warnings, "warning")),
        }
    }

    /// The diagnostics as JSON: a list of `{code, severity, file, line, column, message, help}`.
    pub(crate) fn to_json(&self) -> serde_json::Value {
        let findings = self.files.iter().flat_map(LoadedFile::findings);
        serde_json::to_value(findings.collect::<Vec<_>>()).expect("findings are text and numbers")
    }
}

fn counted(count: usize, noun: &str) -> String {
    if count == 1 { format!("1 {noun}") } else { format!("{count} {noun}s") }
}
