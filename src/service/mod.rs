//! What `pinsched serve` runs beside the engine's worker: the folder of DAG files, the scheduler, and what wakes them.
//! Several processes may do this on one database: what is decided here is decided in Postgres, once.

pub mod dag_files;
mod folder;
mod listener;
mod named_files;
pub mod notifier;
pub mod registry;
mod scheduler;
mod serve;

pub use serve::{Role, Service, ServiceError};
