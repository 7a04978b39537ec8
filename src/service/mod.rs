//! What `pinsched serve` runs beside the engine's worker: the folder of DAG files, the scheduler, what wakes them,
//! housekeeping, and what tells how all of it does.
//! Several processes may do this on one database: what is decided here is decided in Postgres, once.

pub mod dag_files;
mod folder;
mod http;
mod listener;
mod metrics;
mod named_files;
pub mod notifier;
pub mod registry;
mod scheduler;
mod serve;
mod upkeep;
mod walk;
mod watch;

pub use http::{Door, DoorError};
pub use metrics::Metrics;
pub use serve::{Role, Service, ServiceError};
pub use upkeep::{Retention, Swept, past_keeping, sweep};
