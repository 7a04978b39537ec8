//! One file per family of requests: decode is done, each reads the shared state, acts through the rooms that own it, and
//! writes an answer. Nothing here touches files or sockets.

pub(crate) mod answer;
pub(crate) mod api_versions;
pub(crate) mod configs;
pub(crate) mod dispatch;
pub(crate) mod fetch;
pub(crate) mod find_coordinator;
pub(crate) mod group_admin;
pub(crate) mod groups;
pub(crate) mod list_offsets;
pub(crate) mod metadata;
pub(crate) mod offset_commit;
pub(crate) mod offset_fetch;
pub(crate) mod produce;
pub(crate) mod sasl;
pub(crate) mod topics;
pub(crate) mod transactions;

#[cfg(test)]
mod every_answer;
