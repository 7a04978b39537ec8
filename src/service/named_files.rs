//! The files that DAG files name: whether they are there. Where they are named, `domain::check` says.

use std::path::{Path, PathBuf};

use crate::domain::check::{Checked, NamedFile};
use crate::domain::diagnostic::{Code, Diagnostic, Severity, closest};
use crate::operators::file_pattern::matching;

/// Refuses the DAGs of the file at `path` that name a file which is not there. Where an earlier task may write it there is
/// a warning.
pub(super) fn look_for(path: &Path, checked: &mut Checked) {
    let folder = path.parent().filter(|folder| *folder != Path::new("")).unwrap_or(Path::new("."));
    let mut files = std::mem::take(&mut checked.files);
    // Errors first: what `default_args` name is an error where one task may not wait for it, and no warning as well.
    files.sort_by_key(|named| named.has_upstream);
    for named in files {
        let NamedFile { dag, pattern, span, has_upstream } = named;
        let message = match matching(folder, &pattern) {
            Ok(found) if !found.is_empty() => continue,
            Ok(_) if pattern.contains(['*', '?']) => format!("no file matches `{pattern}`"),
            Ok(_) => format!("there is no file `{pattern}`"),
            Err(error) => format!("could not look for `{pattern}`: {error}"),
        };
        let has_error = |code| {
            let here = |one: &Diagnostic| (one.span, one.code, one.severity) == (span, code, Severity::Error);
            checked.diagnostics.iter().any(here)
        };
        if has_error(Code::BadConfig) || has_upstream && has_error(Code::MissingFile) {
            continue;
        }
        let advice = advice(folder, &pattern);
        if has_upstream {
            let help = format!("{advice} (no error: a task before this one may write the file)");
            checked.add(Diagnostic::warning(Code::MissingFile, span, message).help(help));
        } else {
            checked.refuse(&dag, Diagnostic::error(Code::MissingFile, span, message).help(advice));
        }
    }
}

/// The first folder on the way that is missing, the file that was meant, or where the way begins.
fn advice(folder: &Path, pattern: &str) -> String {
    let path = folder.join(pattern);
    let parent = path.parent().unwrap_or(folder);
    let is_missing = |folder: &&Path| *folder != Path::new("") && !folder.exists();
    if let Some(missing) = parent.ancestors().filter(is_missing).last() {
        return format!("there is no folder `{}`", missing.display());
    }
    let names = names_in(parent);
    let typed = path.file_name().unwrap_or_default().to_string_lossy();
    match closest(&typed, names.iter().map(String::as_str)) {
        Some(near) => format!("did you mean `{}`?", Path::new(pattern).with_file_name(near).display()),
        None => format!("relative paths start at the DAG file's folder, `{}`", folder.display()),
    }
}

fn names_in(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten();
    let files = entries.filter_map(|entry| Some(entry.ok()?.path())).filter(|path| path.is_file());
    let mut names: Vec<String> =
        files.filter_map(|path: PathBuf| Some(path.file_name()?.to_str()?.to_owned())).collect();
    names.sort();
    names
}
