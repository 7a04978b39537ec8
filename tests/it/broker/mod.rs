//! The embedded broker, driven from outside: by librdkafka, by kcat where it is installed, and by raw bytes.

mod garbage;
mod groups;
mod harness;
mod idempotence;
mod kcat;
mod produce_fetch;
mod recovery;
mod throughput;
mod topics;
mod transactions;
