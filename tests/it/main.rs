//! The integration tests, in one binary: real Postgres, Apache Kafka, S3, MariaDB, started by `./scripts/test`.

#![expect(unreachable_pub, reason = "one binary: `pub` means to the other tests")]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

mod attempts;
mod bash;
mod bounds;
mod broker;
mod complaints;
mod dag_files;
mod dags;
mod engine;
mod foreign;
mod house;
mod http;
mod named;
mod observed;
mod pipeline;
mod postgres;
mod processes;
mod python;
mod receivers;
mod s3;
mod schedules;
mod script;
mod sensors;
mod service;
mod services;
mod simulation;
mod sink;
mod stack;
mod store;
mod transform;
mod whole;
