//! The embedded broker, driven from outside: by librdkafka, by kcat, and by raw bytes.

mod expiry;
mod garbage;
mod groups;
mod harness;
mod idempotence;
mod kcat;
mod produce_fetch;
mod recovery;
mod topics;
mod transactions;
