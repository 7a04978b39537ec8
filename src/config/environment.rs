//! The process's environment, taken once. Everything else is handed this value, so that tests may hand in their own.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::path::PathBuf;

/// Every variable that has a value in UTF-8, the names of those that have another, and the search path.
#[derive(Debug, Clone, Default)]
pub struct Environment {
    variables: BTreeMap<String, String>,
    unreadable: BTreeSet<String>,
    path: Option<OsString>,
}

/// The process's variables that the embedded stack must not inherit: it is told all it needs, a setting may be a secret,
/// and what the user's shell says to clients of Postgres would reach the stack's own server.
#[expect(clippy::disallowed_methods, reason = "config reads the environment")]
pub fn not_for_the_stack() -> impl Iterator<Item = OsString> {
    let names = std::env::vars_os().map(|(name, _)| name);
    names.filter(|name| {
        let name = name.to_string_lossy();
        ["PINSCHED_", "AIRFLOW_CONN_", "AIRFLOW_VAR_"].iter().any(|prefix| name.starts_with(prefix))
            || name.starts_with("PG")
            || name == "DATABASE_URL"
    })
}

impl Environment {
    /// Reads the process's environment.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "config reads the environment")]
    pub fn capture() -> Self {
        Self::of(std::env::vars_os(), std::env::var_os("PATH"))
    }

    /// These variables.
    pub(super) fn of(given: impl Iterator<Item = (OsString, OsString)>, path: Option<OsString>) -> Self {
        let mut environment = Self { path, ..Self::default() };
        for (name, value) in given.filter_map(|(name, value)| Some((name.into_string().ok()?, value))) {
            match value.into_string() {
                Ok(value) => drop(environment.variables.insert(name, value)),
                Err(_) => drop(environment.unreadable.insert(name)),
            }
        }
        environment
    }

    /// The variables whose value is not UTF-8, in order of their names.
    pub fn unreadable(&self) -> impl Iterator<Item = &str> {
        self.unreadable.iter().map(String::as_str)
    }

    /// The variable's value; one that is empty counts as not set.
    #[must_use]
    pub fn value(&self, name: &str) -> Option<&str> {
        self.variables.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// The variables that start with `prefix` and have a value, in order of their names.
    pub fn starting_with<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = (&'a str, &'a str)> {
        self.variables
            .range(prefix.to_owned()..)
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .take_while(move |(name, _)| name.starts_with(prefix))
            .filter(|(_, value)| !value.is_empty())
    }

    /// The directories in which programs are looked for.
    #[must_use]
    pub fn search_path(&self) -> Vec<PathBuf> {
        self.path.as_ref().map(|path| std::env::split_paths(path).collect()).unwrap_or_default()
    }

    /// Whether the user asked for no colours (<https://no-color.org>).
    #[must_use]
    pub fn no_color(&self) -> bool {
        self.value("NO_COLOR").is_some()
    }
}

impl<const N: usize> From<[(&str, &str); N]> for Environment {
    fn from(pairs: [(&str, &str); N]) -> Self {
        let variables = pairs.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        Self { variables, ..Self::default() }
    }
}
