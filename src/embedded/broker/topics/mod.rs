//! Topics: their names, their settings, and which partitions exist. Durable through a journal; the records themselves are
//! the `log` module's.

pub(crate) mod registry;
pub(crate) mod settings;
