//! What stops the engine itself; what stops a task is a `Failure`.

use crate::store::StoreError;

/// Why the engine gave up.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The database went away and did not come back.
    #[error("the database was gone for {} s; the run goes on from where it stood once it is resumed", .after.as_secs())]
    DatabaseGone {
        /// How long it was waited for.
        after: std::time::Duration,
        /// The last try's error.
        #[source]
        source: StoreError,
    },
    /// The run was deleted.
    #[error("the run is gone: somebody deleted it")]
    RunGone,
    /// Another process drives the run.
    #[error("the run is driven by process {pid} on {hostname}")]
    Driven {
        /// The host.
        hostname: String,
        /// The process id on it.
        pid: u32,
    },
}
