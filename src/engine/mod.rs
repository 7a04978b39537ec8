//! Runs tasks: claims what is ready, executes it under a lease, completes it, recovers what others left.
//!
//! It decides nothing that `domain::plan` can decide, and keeps nothing in memory that a `kill -9` must not take.

pub mod attempt;
mod attempt_log;
pub mod bells;
mod drive;
mod error;
mod expansion;
pub mod exports;
mod hand;
mod holding;
#[cfg(test)]
mod lease_protocol;
pub mod lookup;
pub mod notices;
pub mod observer;
pub mod operator;
mod orphans;
pub mod outputs;
mod rendered;
pub mod running;
pub mod shutdown;
pub mod task_log;
pub mod versions;
mod worker;

pub use drive::{Driven, Engine, KILLED_LINGERS, register};
pub use error::EngineError;
