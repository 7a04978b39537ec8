//! A folder for an attempt's files, gone after it, whatever becomes of the attempt.

use std::io;
use std::path::{Path, PathBuf};

use crate::domain::ids::AttemptKey;

use super::EngineError;

/// The folder; dropping it removes it with all that is in it.
#[derive(Debug)]
pub(super) struct Scratch {
    path: PathBuf,
}

impl Scratch {
    /// An empty folder in the system's folder for temporary files. What earlier attempts of the task left there when
    /// they were killed is removed; one that lives on without its lease fails by it, as it should.
    pub(super) fn create(attempt: &AttemptKey) -> Result<Self, EngineError> {
        let task = format!("pinsched-transform-{}-{}", attempt.run_uuid, attempt.task_run.task.0);
        let of_task = std::env::temp_dir().join(task);
        let path = of_task.join(attempt.fence.to_string());
        let scratch = |source| EngineError::Scratch { path: path.clone(), source };
        match std::fs::remove_dir_all(&of_task) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(scratch(error)),
            _ => {}
        }
        std::fs::create_dir_all(&path).map_err(scratch)?;
        Ok(Self { path })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "could not remove a scratch folder");
        }
        // The folder above is the task's; it goes with its last attempt.
        let _ = self.path.parent().map(std::fs::remove_dir);
    }
}
