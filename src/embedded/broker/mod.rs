//! The embedded single-node Kafka broker: the laptop's default. Production is Kafka.
//!
//! It keeps record batches as they came, in segment files with a sparse index, and syncs them before it acknowledges. It
//! speaks enough of the protocol for producers (plain, idempotent, transactional), consumers, groups and topic
//! administration. It has one node and one replica, asks for a password at most (SASL's PLAIN), listens on loopback only,
//! and expires records only when told to (`expiry`). It may not know anything of the rest of this program.

mod config;
mod error;
pub(in crate::embedded) mod expiry;
mod server;

mod api;
mod connection;
mod group_commit;
mod groups;
mod journal;
mod log;
mod state;
mod topics;
mod transactions;
mod wire;

pub use config::{BrokerConfig, BrokerCredentials};
pub use error::BrokerError;
pub use expiry::{Expired, Expiry};
pub use server::Broker;
