//! Transactions: who may write under which id and epoch, which partitions and groups take part, and how each one ends. A
//! decision is durable before anything is told of it, and what it demands may be repeated, so a crash at any point ends in
//! the decided outcome.

pub(crate) mod coordinator;
pub(crate) mod ending;
pub(crate) mod record;
