//! pinsched: Managed Airflow in one binary.
//!
//! The rooms, in reading order; each may use only what stands above it. `ARCHITECTURE.md` has the map and the
//! invariants, `tests/it/house.rs` holds the arrows.

pub mod clock;
pub mod config;
pub mod telemetry;

pub mod cli;
pub mod connect;
pub mod domain;
pub mod embedded;
pub mod engine;
pub mod operators;
pub mod store;
