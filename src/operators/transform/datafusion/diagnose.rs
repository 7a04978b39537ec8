//! DataFusion's errors in the words of the person who wrote the SQL: the file, the line, and what there would be.

use datafusion::common::Diagnostic;
use datafusion::error::DataFusionError;

use crate::operators::transform::engine::{EngineError, Script};

/// Names further apart than this are not what was meant.
const SIMILAR: f64 = 0.7;

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
pub(super) fn compute(file: &str, error: &DataFusionError, memory_limit: usize) -> EngineError {
    let file = file.to_owned();
    let message = plain(&error.strip_backtrace()).to_owned();
    match error.find_root() {
        DataFusionError::ResourcesExhausted(_) => {
            // The pool lists its consumers line by line; the first line says who wanted how much.
            let message = message.lines().next().unwrap_or_default().to_owned();
            EngineError::Memory { file, limit_mb: memory_limit / 1_000_000, message }
        }
        _ => EngineError::Compute { file, message },
    }
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
    let score = |other: &String| strsim::jaro_winkler(name, other);
    let best = names.iter().max_by(|a, b| score(a).total_cmp(&score(b)))?;
    (score(best) >= SIMILAR).then_some(best)
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
