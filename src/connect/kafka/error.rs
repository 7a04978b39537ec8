//! What an error of Kafka means: whose fault it is, and whether to try again.

use rdkafka::error::{KafkaError as DriverError, RDKafkaErrorCode as Code};

/// What can go wrong between us and Kafka.
#[derive(Debug, thiserror::Error)]
pub enum KafkaError {
    /// librdkafka refused its configuration.
    #[error("could not configure a Kafka client: {0}")]
    Config(String),
    /// No broker answered in time.
    #[error("could not {action} at Kafka {servers}: {detail}")]
    Unreachable {
        /// What was attempted, as `list topics`.
        action: String,
        /// The bootstrap servers.
        servers: String,
        /// The last thing that librdkafka said of the connection, or that the time was up.
        detail: String,
    },
    /// The broker said no.
    #[error("could not {action}: {code}")]
    Refused {
        /// What was attempted.
        action: String,
        /// The broker's answer.
        code: Code,
    },
    /// librdkafka failed in some other way.
    #[error("could not {action}")]
    Client {
        /// What was attempted.
        action: String,
        /// What it said.
        #[source]
        source: DriverError,
    },
}

impl KafkaError {
    /// Whether trying the same again later may help.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable { .. } => true,
            Self::Config(_) => false,
            Self::Refused { code, .. } => is_transient(*code),
            Self::Client { source, .. } => source.rdkafka_error_code().is_none_or(is_transient),
        }
    }
}

/// Whether an answer of a broker, or of librdkafka itself, may be another one next time.
#[must_use]
pub fn is_transient(code: Code) -> bool {
    !matches!(
        code,
        Code::TopicAuthorizationFailed
            | Code::GroupAuthorizationFailed
            | Code::ClusterAuthorizationFailed
            | Code::TransactionalIdAuthorizationFailed
            | Code::SaslAuthenticationFailed
            | Code::Authentication
            | Code::UnsupportedSASLMechanism
            | Code::InvalidTopic
            | Code::InvalidPartitions
            | Code::InvalidReplicationFactor
            | Code::InvalidConfig
            | Code::PolicyViolation
            | Code::UnsupportedVersion
            | Code::UnsupportedFeature
            | Code::UnsupportedCompressionType
            | Code::InvalidArgument
            | Code::InvalidRequest
            | Code::SecurityDisabled
            | Code::SSL
    )
}
