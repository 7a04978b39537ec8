//! Names of files as tasks give them: a path, or a folder and a name with `*` and `?` in it.

use std::io;
use std::path::{Path, PathBuf};

/// The files that `pattern` names, from `folder` on: in no order, and none when there is none.
///
/// # Errors
/// When the folder of a name with `*` or `?` is there and cannot be read.
pub(crate) fn matching(folder: &Path, pattern: &str) -> io::Result<Vec<PathBuf>> {
    let path = folder.join(pattern);
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    if !name.contains(['*', '?']) {
        return Ok(if path.exists() { vec![path] } else { Vec::new() });
    }
    let mut found = Vec::new();
    let entries = match std::fs::read_dir(path.parent().unwrap_or(folder)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(found),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        let entry_name = entry.file_name();
        // As in a shell, `*` does not mean hidden files: editors leave theirs beside the real ones.
        let entry_name = entry_name.to_string_lossy();
        if !entry_name.starts_with('.') && matches(name.as_bytes(), entry_name.as_bytes()) {
            found.push(entry.path());
        }
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
