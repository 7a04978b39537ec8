//! The embedded stack, as the real program serves it: shared, durable, and back after a kill.

mod accounts;
pub mod disk;
mod kept;
mod recovery;
pub mod scratch;
mod sharing;
mod shell;
mod versions;
