//! pinsched: Managed Airflow in one binary.
//!
//! The rooms, in reading order; each may use only what stands above it. `ARCHITECTURE.md` has the map and the
//! invariants, `tests/it/house.rs` holds the arrows and this order.

pub mod clock;

pub mod domain;

pub mod config;

pub mod telemetry;

pub mod store;

pub mod connect;

pub mod engine;

pub mod operators;

pub mod embedded;

pub mod service;

pub mod cli;
