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
    /// What the reader can do about it, where that is known.
    #[must_use]
    pub fn help(&self) -> Option<String> {
        let code = match self {
            Self::Refused { code, .. } => *code,
            Self::Client { source, .. } => source.rdkafka_error_code()?,
            Self::Config(_) | Self::Unreachable { .. } => return None,
        };
        let help = match code {
            Code::TransactionalIdAuthorizationFailed => {
                "allow pinsched's user Write and Describe on transactional ids that begin with `pinsched-`, or set \
                 `transactions: off`"
            }
            Code::GroupAuthorizationFailed => "allow pinsched's user Read on groups that begin with `pinsched-`",
            Code::TopicAuthorizationFailed => {
                "allow pinsched's user Describe, Read, Write and Create on the topic, or correct its name"
            }
            Code::ClusterAuthorizationFailed => "allow pinsched's user IdempotentWrite and Create on the cluster",
            Code::SaslAuthenticationFailed | Code::Authentication | Code::UnsupportedSASLMechanism => {
                "correct the `sasl.*` properties of `kafka.properties`"
            }
            _ => return None,
        };
        Some(help.to_owned())
    }

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_denial_says_what_to_allow() {
        let code = Code::TransactionalIdAuthorizationFailed;
        let error = KafkaError::Refused { action: "begin transactions as `pinsched-1-p`".to_owned(), code };
        assert!(error.help().is_some_and(|help| help.contains("transactional ids that begin with `pinsched-`")));
        let code = Code::NotLeaderForPartition;
        assert_eq!(KafkaError::Refused { action: "send".to_owned(), code }.help(), None);
    }
}
