//! DataFusion's errors in the words of the person who wrote the SQL: the file, the line, and what there would be.

use std::io;

use datafusion::common::Diagnostic;
use datafusion::error::DataFusionError;

use crate::domain::diagnostic::closest;
use crate::operators::transform::engine::{EngineError, Job, Script};

/// Why a script does not make a plan.
pub(super) fn sql(script: &Script, error: &DataFusionError, tables: &[String]) -> EngineError {
    let message = error.strip_backtrace();
    let mut position =
        error.diagnostic().and_then(|diagnostic| diagnostic.span).map(|span| (span.start.line, span.start.column));
    let mut message = plain(&message).to_owned();
    if let Some((text, at)) = parser_position(&message) {
        (message, position) = (text, Some(at));
    }
    if let Some(missing) = missing_table(&message) {
        let help = similar(&missing, tables).map_or_else(
            || format!("the tables are {}", tables.join(", ")),
            |name| format!("did you mean `{name}`? (the tables are {})", tables.join(", ")),
        );
        position = position.or_else(|| find_word(&script.text, &missing));
        message = format!("there is no table `{missing}`: {help}");
    }
    for help in error.diagnostic().map(helps).unwrap_or_default() {
        // DataFusion says in most messages what its diagnostics say again.
        if !message.contains("Did you mean") && !message.contains(&help) {
            message.push_str("; ");
            message.push_str(&help);
        }
    }
    EngineError::Sql { file: script.file.clone(), position, message }
}

/// Why a plan did not run to its end.
pub(super) fn compute(file: &str, error: &DataFusionError, job: &Job) -> EngineError {
    let file = file.to_owned();
    let message = plain(&error.strip_backtrace()).to_owned();
    if let Some(kind) = full_disk(error) {
        return EngineError::Scratch { path: job.scratch.clone(), source: io::Error::new(kind, message) };
    }
    match error.find_root() {
        DataFusionError::ResourcesExhausted(_) => {
            // The pool lists its consumers line by line; the first line says who wanted how much.
            let message = message.lines().next().unwrap_or_default().to_owned();
            EngineError::Memory { file, limit_mb: job.memory_limit / 1_000_000, message }
        }
        _ => EngineError::Compute { file, message },
    }
}

/// Whether it was for want of room on the disk, which somebody may make.
fn full_disk(error: &DataFusionError) -> Option<io::ErrorKind> {
    let causes = std::iter::successors(Some(error as &dyn std::error::Error), |error| error.source());
    let mut kinds = causes.filter_map(|cause| Some(cause.downcast_ref::<io::Error>()?.kind()));
    kinds.find(|kind| matches!(kind, io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded))
}

/// Without the class of the error that comes before its text.
fn plain(message: &str) -> &str {
    let classes = [
        "SQL error: ",
        "Error during planning: ",
        "Schema error: ",
        "Execution error: ",
        "External error: ",
        "Arrow error: ",
    ];
    let mut text = message;
    while let Some(rest) = classes.iter().find_map(|class| text.strip_prefix(class)) {
        text = rest;
    }
    text
}

/// `… at Line: 3, Column: 5` is how sqlparser ends its errors.
fn parser_position(message: &str) -> Option<(String, (u64, u64))> {
    let (text, position) = message.rsplit_once(" at Line: ")?;
    let (line, column) = position.split_once(", Column: ")?;
    let digits = |text: &str| text.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok();
    let text = text.strip_prefix("ParserError(\"").unwrap_or(text);
    Some((text.to_owned(), (digits(line)?, digits(column)?)))
}

/// The bare name in `table 'datafusion.public.raw_pim' not found`.
fn missing_table(message: &str) -> Option<String> {
    let name = message.strip_prefix("table '")?.strip_suffix("' not found")?;
    Some(name.rsplit('.').next().unwrap_or(name).to_owned())
}

fn similar<'a>(name: &str, names: &'a [String]) -> Option<&'a str> {
    closest(name, names.iter().map(String::as_str))
}

fn find_word(text: &str, word: &str) -> Option<(u64, u64)> {
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    for (line, content) in (1..).zip(text.lines()) {
        for (start, _) in content.match_indices(word) {
            let before = content[..start].chars().next_back();
            let after = content[start + word.len()..].chars().next();
            if !before.is_some_and(is_part) && !after.is_some_and(is_part) {
                return Some((line, content[..start].chars().count() as u64 + 1));
            }
        }
    }
    None
}

fn helps(diagnostic: &Diagnostic) -> Vec<String> {
    let notes = diagnostic.notes.iter().map(|note| note.message.clone());
    notes.chain(diagnostic.helps.iter().map(|help| help.message.clone())).collect()
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::error::ArrowError;
    use parquet::errors::ParquetError;

    use super::*;

    #[test]
    fn a_full_disk_is_one_whoever_says_so() {
        let full = || io::Error::from_raw_os_error(28); // ENOSPC
        let arrow = ArrowError::IoError("spill".to_owned(), full());
        let parquet = ParquetError::from(full());
        for error in [DataFusionError::from(full()), DataFusionError::from(arrow), DataFusionError::from(parquet)] {
            assert_eq!(full_disk(&error.context("while sorting")), Some(io::ErrorKind::StorageFull));
        }
        assert_eq!(full_disk(&DataFusionError::Execution("division by zero".to_owned())), None);
        assert_eq!(full_disk(&DataFusionError::from(io::Error::other("odd"))), None);
    }
}
