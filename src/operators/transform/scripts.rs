//! From the `sql` key to SQL texts: finds the files, orders them, renders the templates in them.

use std::io;
use std::path::{Path, PathBuf};

use crate::engine::operator::{Failure, TaskContext};

use super::config::SqlSource;
use super::engine::Script;

/// Why there are no scripts.
#[derive(Debug, thiserror::Error)]
enum ScriptError {
    #[error("could not read `{}`", .path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("no SQL file matches `{pattern}` in `{}`", .folder.display())]
    NoMatch { pattern: String, folder: PathBuf },
    #[error("`{name}` is the name of two results: {first} and {second}")]
    SameName { name: String, first: String, second: String },
    #[error("could not render {file}")]
    Render { file: String, source: crate::domain::template::TemplateError },
}

/// The scripts in the order in which they run: files by name, queries as written.
pub(super) async fn load(source: &SqlSource, context: &TaskContext) -> Result<Vec<Script>, Failure> {
    load_all(source, context).await.map_err(|error| Failure::fatal(&error))
}

async fn load_all(source: &SqlSource, context: &TaskContext) -> Result<Vec<Script>, ScriptError> {
    let mut scripts = match source {
        SqlSource::Pattern(pattern) => files(&context.dag_folder, std::slice::from_ref(pattern)).await?,
        SqlSource::Patterns(patterns) => files(&context.dag_folder, patterns).await?,
        SqlSource::Queries(queries) => {
            let script = |(name, text): (&String, &String)| Script {
                name: name.clone(),
                file: format!("sql.{name}"),
                text: text.clone(),
            };
            queries.iter().map(script).collect()
        }
    };
    for script in &mut scripts {
        // Most SQL has no template in it, and must not fail for what looks like one only to a template engine.
        if ["{{", "{%", "{#"].iter().any(|start| script.text.contains(start)) {
            let rendered = context.templates.render(&script.text, &[]);
            let file = script.file.clone();
            script.text = rendered.map_err(|source| ScriptError::Render { file, source })?;
        }
    }
    for (index, script) in scripts.iter().enumerate() {
        if let Some(other) = scripts[..index].iter().find(|other| other.name == script.name) {
            let (first, second) = (other.file.clone(), script.file.clone());
            return Err(ScriptError::SameName { name: script.name.clone(), first, second });
        }
    }
    Ok(scripts)
}

async fn files(folder: &Path, patterns: &[String]) -> Result<Vec<Script>, ScriptError> {
    let mut found: Vec<PathBuf> = Vec::new();
    for pattern in patterns {
        found.extend(matching(folder, pattern).await?);
    }
    found.sort_by(|a, b| a.file_name().cmp(&b.file_name()).then_with(|| a.cmp(b)));
    found.dedup();
    let mut scripts = Vec::with_capacity(found.len());
    for path in found {
        let text = tokio::fs::read_to_string(&path).await;
        let text = text.map_err(|source| ScriptError::Read { path: path.clone(), source })?;
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let file = path.strip_prefix(folder).unwrap_or(&path).display().to_string();
        scripts.push(Script { name, file, text });
    }
    Ok(scripts)
}

async fn matching(folder: &Path, pattern: &str) -> Result<Vec<PathBuf>, ScriptError> {
    let path = folder.join(pattern);
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    if !name.contains(['*', '?']) {
        return Ok(vec![path]);
    }
    let parent = path.parent().unwrap_or(folder);
    let unreadable = |source| ScriptError::Read { path: parent.to_owned(), source };
    let mut entries = tokio::fs::read_dir(parent).await.map_err(unreadable)?;
    let mut found = Vec::new();
    while let Some(entry) = entries.next_entry().await.map_err(unreadable)? {
        let entry_name = entry.file_name();
        // As in a shell, `*` does not mean hidden files: editors leave theirs beside the real ones.
        let entry_name = entry_name.to_string_lossy();
        if !entry_name.starts_with('.') && matches(name.as_bytes(), entry_name.as_bytes()) {
            found.push(entry.path());
        }
    }
    if found.is_empty() {
        return Err(ScriptError::NoMatch { pattern: name, folder: parent.to_owned() });
    }
    Ok(found)
}

/// Whether a name fits a pattern with `*` (anything) and `?` (one byte).
fn matches(pattern: &[u8], name: &[u8]) -> bool {
    match (pattern, name) {
        ([], []) => true,
        ([b'*', rest @ ..], _) => (0..=name.len()).any(|skipped| matches(rest, &name[skipped..])),
        ([b'?', rest @ ..], [_, after @ ..]) => matches(rest, after),
        ([first, rest @ ..], [same, after @ ..]) if first == same => matches(rest, after),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stars_and_question_marks_match_as_in_a_shell() {
        let fits = |pattern: &str, name: &str| matches(pattern.as_bytes(), name.as_bytes());
        assert!(fits("*.sql", "01_a.sql"));
        assert!(fits("0?_*.sql", "01_a.sql"));
        assert!(!fits("*.sql", "01_a.sql~"));
        assert!(!fits("?.sql", ".sql"));
    }
}
