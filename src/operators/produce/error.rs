//! Why rows could not be sent, and whether another attempt may help.

use super::rows::RowsError;
use crate::connect::kafka::KafkaError;
use crate::connect::s3::S3Error;
use crate::engine::operator::{Failure, chain};
use crate::operators::staged::StagedError;
use crate::store::StoreError;

/// Why rows could not be sent.
#[derive(Debug, thiserror::Error)]
pub(super) enum ProduceError {
    #[error("no task upstream stages rows: let produce depend on an emulate task")]
    NothingStaged,
    #[error("several tasks upstream stage rows ({0}): name one by `from`")]
    SeveralStaged(String),
    #[error("task `{0}`, which `from` names, is not upstream or stages no rows")]
    NotStaged(String),
    #[error("the output of emulate task `{task}` is not one: {reason}")]
    Upstream { task: String, reason: String },
    #[error("could not render `topics` for table `{table}`: {problem}")]
    Template { table: String, problem: String },
    #[error("`{topic}`, the topic of table `{table}`, is no topic name: letters, digits, `.`, `_`, `-`, at most 249")]
    TopicName { table: String, topic: String },
    #[error("tables `{first}` and `{second}` both go to topic `{topic}`: write {{{{ table }}}} into `topics`")]
    SameTopic { first: String, second: String, topic: String },
    #[error("the cluster at {0} has no transactions, and `transactions: required` wants them")]
    TransactionsMissing(String),
    #[error("an earlier attempt sent in transactions, which the cluster has no more")]
    TransactionsGone,
    #[error(
        "the progress of group `{group}` is gone from Kafka, though rows were sent: to go on could send them twice. \
         Offsets expire (7 days by default): clear the run and start another"
    )]
    ProgressLost { group: String },
    #[error("the progress of group `{group}` is not ours: {metadata:?} at {rows}")]
    ProgressForeign { group: String, rows: i64, metadata: String },
    #[error(
        "producers under `{0}` keep taking over from each other: is a second pinsched on another database running?"
    )]
    Contended(String),
    #[error(transparent)]
    Kafka(#[from] KafkaError),
    #[error(transparent)]
    Rows(#[from] RowsError),
    #[error(transparent)]
    Staged(#[from] StagedError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("could not keep a dead letter")]
    DeadLetter(#[source] S3Error),
    #[error("interrupted")]
    Cancelled,
}

impl From<ProduceError> for Failure {
    fn from(error: ProduceError) -> Self {
        let transient = match &error {
            ProduceError::Cancelled | ProduceError::Store(StoreError::Fenced { .. }) => return Self::Interrupted,
            ProduceError::Kafka(error) => error.is_transient(),
            ProduceError::Rows(RowsError::Staged(error)) | ProduceError::Staged(error) => error.is_transient(),
            ProduceError::Store(error) => error.is_transient(),
            ProduceError::DeadLetter(error) => error.is_transient(),
            ProduceError::Contended(_) => true,
            ProduceError::NothingStaged
            | ProduceError::SeveralStaged(_)
            | ProduceError::NotStaged(_)
            | ProduceError::Upstream { .. }
            | ProduceError::Template { .. }
            | ProduceError::TopicName { .. }
            | ProduceError::SameTopic { .. }
            | ProduceError::TransactionsMissing(_)
            | ProduceError::TransactionsGone
            | ProduceError::ProgressLost { .. }
            | ProduceError::ProgressForeign { .. }
            | ProduceError::Rows(_) => false,
        };
        let mut text = chain(&error);
        if let Some(help) = error.help() {
            text = format!("{text}; {help}");
        }
        if transient { Self::Retry(text) } else { Self::Fatal(text) }
    }
}

impl ProduceError {
    /// What the reader can do about it, where the outside system's error says so.
    fn help(&self) -> Option<String> {
        match self {
            Self::Kafka(error) => error.help(),
            Self::Staged(error) | Self::Rows(RowsError::Staged(error)) => error.help(),
            Self::DeadLetter(error) => error.help(),
            _ => None,
        }
    }
}
