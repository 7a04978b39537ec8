//! What pinsched starts when nothing is configured: Postgres, a Kafka broker, an S3 server, source tables.
//!
//! All of it lives in one detached process a home, `stack`, which every `pinsched` in that home shares by a `lease` and
//! which goes some seconds after the last one. Nothing else knows: operators get URLs, as from configuration
//! (`resolve`). This room starts servers and keeps their data; it knows nothing of runs, tasks and DAGs.

pub mod broker;
mod component;
mod control;
mod error;
mod home;
mod keep;
mod lease;
mod postgres;
mod resolve;
mod restarts;
pub mod s3;
mod services;
pub mod source;
mod stack;

pub use broker::{Expired, Expiry};
pub use component::{Component, Phase};
pub use control::End;
pub use error::{HomeError, StackError};
pub use home::{Home, S3Urls, StackUrls};
pub use keep::StackNews;
pub use lease::{LeaseRequest, Progress, StackLease, attach, running, stop};
pub use postgres::{AbandonedData, PostgresError, abandoned_data};
pub use resolve::{Resolved, lacking, named, resolve};
pub use stack::{StackOptions, say, serve};

/// Where a client program of Postgres's is (`pg_dump`, say): where `postgres.bin` says, on the search path, or where
/// distributions put the newest version.
#[must_use]
pub fn postgres_client(name: &str, settings: &crate::config::Settings) -> Option<std::path::PathBuf> {
    postgres::client(name, settings.postgres_bin.as_deref(), &settings.search_path)
}

/// Finds what the embedded broker of a home was given before that, and deletes it if asked to: whole segments.
///
/// # Errors
/// [`StackError::InUse`] while the stack runs.
pub fn expire_records(
    home: &std::path::Path,
    before: std::time::SystemTime,
    what: Expiry,
) -> Result<Expired, StackError> {
    let home = Home::open(home)?;
    let Some(_held) = home.lock()? else { return Err(StackError::InUse { home: home.path().to_owned() }) };
    Ok(broker::expiry::expire(&home.path().join("kafka"), before, what)?)
}
