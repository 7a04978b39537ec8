//! The headers by which `produce` marks its records and `sink` knows them again.

/// The run, by its UUID in hyphenated text.
pub const RUN: &str = "pinsched.run";
/// The producing task's id.
pub const TASK: &str = "pinsched.task";
/// The row's number in the run, from 0, in decimal text. Within a partition a task's numbers only rise.
pub const SEQUENCE: &str = "pinsched.seq";
