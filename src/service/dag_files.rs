//! DAG files on disk: found, read and checked. What every command does that is given one.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::domain::check::{Checked, check, decode};
use crate::domain::diagnostic::{Code, Diagnostic, Severity};
use crate::domain::ids::DagId;
use crate::domain::operator_kind::OperatorKind;
use crate::domain::source::{LARGEST_FILE, SourceFile, Span};
use crate::service::named_files;
use crate::service::walk::{FOLDERS_BEHIND_LINK, What, walk};

/// A DAG file and what became of it.
#[derive(Debug)]
pub struct LoadedFile {
    /// Its text, for showing places in it.
    pub source: SourceFile,
    /// Its DAGs and what is wrong with it.
    pub checked: Checked,
}

impl LoadedFile {
    /// All that is wrong with it, as text.
    pub fn render(&self, coloured: bool) -> String {
        let rendered = self.checked.diagnostics.iter().map(|one| one.render(&self.source, coloured));
        rendered.collect::<Vec<_>>().join("\n\n")
    }

    /// Takes a DAG back that another file has, too.
    pub fn refuse_twice(&mut self, id: &DagId, other: &Path) {
        let message = format!("the DAG `{id}` is in `{}` already", other.display());
        let problem = Diagnostic::error(Code::DuplicateDag, key_of(&self.source, id.as_str()), message)
            .help("give one of them another id");
        self.checked.refuse(id.as_str(), problem);
    }

    /// Its diagnostics as they leave the process: `{code, severity, file, line, column, message, help}` each.
    #[must_use]
    pub fn findings(&self) -> Vec<Finding<'_>> {
        let finding = |diagnostic| Finding::of(diagnostic, &self.source);
        self.checked.diagnostics.iter().map(finding).collect()
    }

    /// Why it could not even be read, when it could not.
    pub fn unreadable(&self) -> Option<&Diagnostic> {
        self.checked.diagnostics.iter().find(|one| one.code == Code::Unreadable)
    }
}

/// A diagnostic as it leaves the process.
#[derive(Debug, Serialize)]
pub struct Finding<'a> {
    code: Code,
    severity: Severity,
    file: &'a str,
    line: usize,
    column: usize,
    message: &'a str,
    help: Option<&'a str>,
}

impl<'a> Finding<'a> {
    fn of(diagnostic: &'a Diagnostic, source: &'a SourceFile) -> Self {
        let position = source.position(diagnostic.span);
        Self {
            code: diagnostic.code,
            severity: diagnostic.severity,
            file: source.name(),
            line: position.line,
            column: position.column,
            message: &diagnostic.message,
            help: diagnostic.help.as_deref(),
        }
    }
}

fn refused(source: SourceFile, diagnostic: Diagnostic) -> LoadedFile {
    LoadedFile { source, checked: Checked { dags: Vec::new(), diagnostics: vec![diagnostic], files: Vec::new() } }
}

/// What is wrong with a link that leads to more folders than are read.
pub(super) fn cut_link(path: &Path) -> LoadedFile {
    let message = format!(
        "`{}` is a symbolic link with more than {FOLDERS_BEHIND_LINK} folders behind it: DAG files in the first \
         {FOLDERS_BEHIND_LINK} are read, others are not",
        path.display()
    );
    let help = "remove the link, or let it lead to the folder with the DAG files alone";
    let diagnostic = Diagnostic::error(Code::Unreadable, Span::default(), message).help(help);
    refused(SourceFile::new(path.display().to_string(), ""), diagnostic)
}

fn empty_folder(path: &Path) -> LoadedFile {
    let name = path.display().to_string();
    let message = format!("there is no *.yaml and no *.yml file in `{name}`");
    refused(SourceFile::new(name, ""), Diagnostic::error(Code::Unreadable, Span::default(), message))
}

/// Reads and checks one file.
pub fn load(path: &Path, catalog: &[&'static OperatorKind]) -> LoadedFile {
    let name = path.display().to_string();
    let bytes = match read(path) {
        Ok(bytes) => bytes,
        Err(error) => {
            let message = format!("could not read `{name}`: {error}");
            return refused(SourceFile::new(name, ""), Diagnostic::error(Code::Unreadable, Span::default(), message));
        }
    };
    match decode(&name, bytes) {
        Ok(source) => {
            let mut checked = check(&source, catalog);
            named_files::look_for(path, &mut checked);
            LoadedFile { source, checked }
        }
        Err(reason) => refused(reason.0, reason.1),
    }
}

/// Reads at most one byte more than is allowed: `/dev/zero` is refused like any other large file.
fn read(path: &Path) -> std::io::Result<Vec<u8>> {
    use std::io::Read as _;
    let mut bytes = Vec::new();
    std::fs::File::open(path)?.take(LARGEST_FILE as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Reads and checks files, and the `*.yaml` and `*.yml` files of folders and the folders in them, in order of name;
/// symbolic links are followed, each to so many folders.
///
/// A DAG id that two files use is an error in the later one, and so is a file that a folder has twice, by a link.
pub fn load_all(paths: &[PathBuf], catalog: &[&'static OperatorKind]) -> Vec<LoadedFile> {
    let mut files = Vec::new();
    let mut loaded: Vec<LoadedFile> = Vec::new();
    for (place, path) in paths.iter().enumerate() {
        let (before, refused_before) = (files.len(), loaded.len());
        if path.is_dir() {
            for found in walk(path, &mut (), &|| false) {
                match found.what {
                    What::File => files.push((place, found.path)),
                    What::CutLink => loaded.push(cut_link(&found.path)),
                }
            }
        } else {
            files.push((place, path.clone()));
        }
        if files.len() == before && loaded.len() == refused_before {
            // Reading it as a file would say "is a directory": what was looked for says more.
            loaded.push(empty_folder(path));
        }
    }
    let mut seen: HashMap<PathBuf, (usize, PathBuf)> = HashMap::new();
    let mut owners: HashMap<String, PathBuf> = HashMap::new();
    for (place, path) in files {
        match seen.entry(path.canonicalize().unwrap_or_else(|_| path.clone())) {
            Entry::Occupied(first) => {
                let (of, other) = first.get();
                // What was named twice is read once.
                if *of == place && *other != path {
                    loaded.push(same_file(&path, other));
                }
                continue;
            }
            Entry::Vacant(new) => drop(new.insert((place, path.clone()))),
        }
        let mut file = load(&path, catalog);
        let mut twice = Vec::new();
        for dag in &file.checked.dags {
            match owners.get(dag.id().as_str()) {
                Some(other) => twice.push((dag.id().clone(), other.clone())),
                None => drop(owners.insert(dag.id().to_string(), path.clone())),
            }
        }
        for (id, other) in twice {
            file.refuse_twice(&id, &other);
        }
        loaded.push(file);
    }
    loaded
}

/// What is wrong with a path that leads to a file which another path leads to, too.
pub(super) fn why_same(path: &Path, other: &Path) -> (String, &'static str) {
    let message = format!("`{}` is the same file as `{}`, by a symbolic link", path.display(), other.display());
    (message, "its DAGs are taken from there; remove the link, or keep it in a folder whose name begins with a dot")
}

fn same_file(path: &Path, other: &Path) -> LoadedFile {
    let (message, help) = why_same(path, other);
    let diagnostic = Diagnostic::error(Code::DuplicateDag, Span::default(), message).help(help);
    refused(SourceFile::new(path.display().to_string(), ""), diagnostic)
}

/// Where a file has a DAG's id: the first line that starts with it.
fn key_of(source: &SourceFile, id: &str) -> Span {
    let text = source.text();
    let starts = std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1));
    let at = starts
        .map(|start| {
            if text[start..].starts_with(['"', '\'', '\u{feff}']) {
                start + text[start..].chars().next().map_or(0, char::len_utf8)
            } else {
                start
            }
        })
        .find(|start| {
            text[*start..]
                .strip_prefix(id)
                .is_some_and(|rest| rest.trim_start_matches(['"', '\'', ' ']).starts_with(':'))
        });
    at.map_or_else(Span::default, |at| Span::new(at, at + id.len()))
}

/// How many diagnostics of a severity there are.
pub fn count(files: &[LoadedFile], severity: Severity) -> usize {
    files.iter().flat_map(|file| &file.checked.diagnostics).filter(|one| one.severity == severity).count()
}
