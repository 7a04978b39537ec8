//! What can be wrong with the configuration. A file's mistakes are told all at once.

use std::fmt;
use std::path::PathBuf;

use super::values::Origin;

/// The configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file was named, or is there, and cannot be read.
    #[error("could not read the configuration {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// Values or keys that are wrong, at least one.
    #[error("{}", list(.0))]
    Problems(Vec<Problem>),
}

/// One thing that is wrong, and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Where the wrong thing was given.
    pub origin: Origin,
    /// What is wrong with it, never with a secret in it.
    pub message: String,
    /// What to do about it.
    pub help: Option<String>,
}

impl fmt::Display for Problem {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: {}", self.origin, self.message)?;
        if let Some(help) = &self.help {
            write!(formatter, " ({help})")?;
        }
        Ok(())
    }
}

fn list(problems: &[Problem]) -> String {
    problems.iter().map(Problem::to_string).collect::<Vec<_>>().join("\n")
}
