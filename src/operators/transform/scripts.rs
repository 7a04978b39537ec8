//! From the `sql` key to SQL texts: finds the files, orders them, renders the templates in them.

use std::io;
use std::path::{Path, PathBuf};

use crate::engine::lookup::LookupError;
use crate::engine::operator::{Failure, TaskContext};
use crate::operators::file_pattern;

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
    #[error(transparent)]
    Lookup(#[from] LookupError),
    #[error("could not render {file}")]
    Render { file: String, source: crate::domain::template::TemplateError },
}

/// The scripts in the order in which they run: files by name, queries as written.
pub(super) async fn load(source: &SqlSource, context: &TaskContext) -> Result<Vec<Script>, Failure> {
    load_all(source, context).await.map_err(|error| match error {
        ScriptError::Lookup(error) => error.into(),
        ScriptError::Render { ref source, .. } if source.may_pass => Failure::retry(&error),
        error => Failure::fatal(&error),
    })
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
            let templates = context.templates_for(&script.text).await?;
            let rendered = templates.render(&script.text, &[]);
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
    let (start, given) = (folder.to_owned(), pattern.to_owned());
    let found = tokio::task::spawn_blocking(move || file_pattern::matching(&start, &given)).await;
    let path = folder.join(pattern);
    let unreadable = |source| ScriptError::Read { path: path.clone(), source };
    let found = found.map_err(|died| unreadable(io::Error::other(died)))?.map_err(unreadable)?;
    if found.is_empty() {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        return Err(ScriptError::NoMatch { pattern: name, folder: path.parent().unwrap_or(folder).to_owned() });
    }
    Ok(found)
}
