//! `pinsched down`: stops the embedded stack of a home, whoever uses it.

use std::fmt;
use std::path::PathBuf;

use serde::Serialize;

use crate::config::Settings;
use crate::embedded::{StackError, stop};

/// What the command answers.
#[derive(Debug, Serialize)]
pub struct DownReport {
    /// The home.
    pub home: PathBuf,
    /// Whether there was a stack to stop.
    pub stopped: bool,
}

/// Stops the stack, and returns when it is gone.
pub async fn down(settings: &Settings) -> Result<DownReport, StackError> {
    Ok(DownReport { home: settings.home.clone(), stopped: stop(&settings.home).await? })
}

impl fmt::Display for DownReport {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let home = self.home.display();
        if self.stopped {
            writeln!(formatter, "stopped the stack of {home}")
        } else {
            writeln!(formatter, "no stack runs in {home}")
        }
    }
}
