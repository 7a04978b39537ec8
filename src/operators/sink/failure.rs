//! What can go wrong with a sink, and whether another attempt may help.

use std::io;

use crate::connect::kafka::KafkaError;
use crate::connect::s3::S3Error;
use crate::engine::operator::{Failure, chain};
use crate::store::{SinkClaimError, StoreError};

use super::topics::TopicError;

/// Why an attempt ended early.
#[derive(Debug, thiserror::Error)]
pub(super) enum SinkError {
    #[error("interrupted")]
    Interrupted,
    #[error(transparent)]
    Topics(#[from] TopicError),
    #[error("the output of produce task `{task}` is not one: {reason}")]
    Upstream { task: String, reason: String },
    #[error(
        "records of {topic}/{partition} expired before they were sunk: offset {next} is needed, the first one left is \
         {low} (raise the topic's `retention.ms`, then run the draw again; a sink without one goes on at the first record \
         left under a new task id)"
    )]
    Expired { topic: String, partition: i32, next: i64, low: i64 },
    #[error(
        "{topic}/{partition} cannot be read up to offset {end}: its last stable offset stayed at {stable} for {waited} s \
         (a transaction of another producer is open, or replicas lag)"
    )]
    Unstable { topic: String, partition: i32, end: i64, stable: i64, waited: u64 },
    #[error("{topic}/{partition} gave no record for {waited} s, at offset {next} of {end}")]
    Stalled { topic: String, partition: i32, next: i64, end: i64, waited: u64 },
    #[error(
        "the record at {topic}/{partition} offset {offset} has no value (`tombstones: fail`; `skip` and `write` go on)"
    )]
    Tombstone { topic: String, partition: i32, offset: i64 },
    #[error("could not write an object's bytes to a temporary file below {}", std::env::temp_dir().display())]
    Spool(#[source] io::Error),
    #[error("s3://{bucket}/{key} exists and is another object: {difference} (`put: create` replaces nothing)")]
    Different { bucket: String, key: String, difference: String },
    #[error("`records: run` takes what this run's produce stamped, and no produce ran before this task")]
    NoProduce,
    #[error("not every row arrived: {0}")]
    Unbalanced(String),
    #[error(transparent)]
    Kafka(#[from] KafkaError),
    #[error(transparent)]
    S3(#[from] S3Error),
    #[error(transparent)]
    Claim(SinkClaimError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<SinkClaimError> for SinkError {
    fn from(error: SinkClaimError) -> Self {
        match error {
            SinkClaimError::Store(error) => Self::Store(error),
            error => Self::Claim(error),
        }
    }
}

impl From<SinkError> for Failure {
    fn from(error: SinkError) -> Self {
        let transient = match &error {
            // Whoever lost the lease has no say any more.
            SinkError::Interrupted | SinkError::Store(StoreError::Fenced { .. }) => return Self::Interrupted,
            SinkError::Topics(_)
            | SinkError::Upstream { .. }
            | SinkError::Expired { .. }
            | SinkError::Tombstone { .. }
            | SinkError::Different { .. }
            | SinkError::NoProduce
            | SinkError::Unbalanced(_) => false,
            // The other run may be done by then, a leader sure of its end; a full disk may have room again.
            SinkError::Claim(_) | SinkError::Unstable { .. } | SinkError::Stalled { .. } | SinkError::Spool(_) => true,
            SinkError::Kafka(error) => error.is_transient(),
            SinkError::S3(error) => error.is_transient(),
            SinkError::Store(error) => error.is_transient(),
        };
        let mut text = chain(&error);
        if let SinkError::S3(error) = &error
            && let Some(help) = error.help()
        {
            text = format!("{text}; {help}");
        }
        if transient { Self::Retry(text) } else { Self::Fatal(text) }
    }
}
