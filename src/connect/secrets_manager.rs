//! AWS Secrets Manager: texts by their names, as Airflow's backend keeps connections and variables there.
//!
//! Every call has a timeout, is retried by the SDK where the service or the network stumbled, and fails with an error
//! that names the secret, never its text. Answers are remembered for a minute, so that a thousand tasks ask once.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_sdk_secretsmanager::Client;
use aws_sdk_secretsmanager::config::{BehaviorVersion, Region};
use aws_sdk_secretsmanager::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_secretsmanager::operation::get_secret_value::GetSecretValueError;
use aws_smithy_http_client::tls::{Provider, rustls_provider::CryptoMode};
use secrecy::SecretString;
use tokio::sync::OnceCell;
use tokio::time::Instant;

use crate::connect::SecretsManagerEndpoint;
use crate::connect::s3::words;

/// A load balancer that is up answers a SYN within this, however far.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// One try of one request: answers are some kilobytes.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(10);
/// One call with all of the SDK's retries.
const OPERATION_TIMEOUT: Duration = Duration::from_secs(40);
/// The SDK's tries of one request, the first included: throttling passes in some seconds.
const ATTEMPTS: u32 = 4;
/// How long an answer holds: a secret that was rotated is used within this.
const REMEMBERED: Duration = Duration::from_secs(60);

/// A secret could not be read, though it may be there.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SecretsManagerError {
    /// Throttled, unreachable, or no answer in time.
    #[error("could not read secret `{name}` from AWS Secrets Manager: {message}")]
    Passing {
        /// Its name.
        name: String,
        /// What went wrong.
        message: String,
    },
    /// Denied, or wrongly configured: another try would fail the same way.
    #[error("could not read secret `{name}` from AWS Secrets Manager: {message}")]
    Refused {
        /// Its name.
        name: String,
        /// What the service or the SDK said.
        message: String,
    },
}

impl SecretsManagerError {
    /// Whether another attempt may succeed.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Passing { .. })
    }
}

/// A client; clones share what they remember. Connects when it is first asked.
#[derive(Clone)]
pub struct SecretsManager {
    endpoint: SecretsManagerEndpoint,
    client: Arc<OnceCell<Client>>,
    remembered: Arc<Mutex<HashMap<String, Answer>>>,
}

/// What there was under a name, and when.
struct Answer {
    at: Instant,
    text: Option<SecretString>,
}

impl Answer {
    fn holds(&self, now: Instant) -> bool {
        now.duration_since(self.at) < REMEMBERED
    }
}

impl SecretsManager {
    /// A client for `endpoint`.
    #[must_use]
    pub fn new(endpoint: SecretsManagerEndpoint) -> Self {
        Self { endpoint, client: Arc::default(), remembered: Arc::default() }
    }

    /// The full name of a connection's secret, where connections are looked for here.
    #[must_use]
    pub fn connection_name(&self, id: &str) -> Option<String> {
        self.endpoint.connections_prefix.as_ref().map(|prefix| below(prefix, id))
    }

    /// The full name of a variable's secret, where variables are looked for here.
    #[must_use]
    pub fn variable_name(&self, name: &str) -> Option<String> {
        self.endpoint.variables_prefix.as_ref().map(|prefix| below(prefix, name))
    }

    /// The secret's text; `None` where there is no such secret, or one that waits for its deletion.
    ///
    /// # Errors
    /// [`SecretsManagerError`] says whether another attempt may help.
    pub async fn text(&self, name: &str) -> Result<Option<SecretString>, SecretsManagerError> {
        let now = Instant::now();
        if let Some(answer) = self.remembered.lock().unwrap_or_else(PoisonError::into_inner).get(name)
            && answer.holds(now)
        {
            return Ok(answer.text.clone());
        }
        let client = self.client.get_or_init(|| connect(&self.endpoint)).await;
        let text = match client.get_secret_value().secret_id(name).send().await {
            Ok(found) => match (found.secret_string, found.secret_binary) {
                (Some(text), _) => Some(text.into()),
                (None, Some(bytes)) => Some(
                    String::from_utf8(bytes.into_inner())
                        .map_err(|_| refused(name, "it is binary, and no text".to_owned()))?
                        .into(),
                ),
                (None, None) => None,
            },
            Err(error) if is_absent(&error) => None,
            Err(error) => return Err(explained(name, &error)),
        };
        let mut remembered = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        remembered.retain(|_, answer| answer.holds(now));
        remembered.insert(name.to_owned(), Answer { at: now, text: text.clone() });
        Ok(text)
    }
}

fn below(prefix: &str, name: &str) -> String {
    format!("{}/{name}", prefix.trim_end_matches('/'))
}

async fn connect(endpoint: &SecretsManagerEndpoint) -> Client {
    let http = aws_smithy_http_client::Builder::new().tls_provider(Provider::Rustls(CryptoMode::Ring)).build_https();
    let timeouts = TimeoutConfig::builder()
        .connect_timeout(CONNECT_TIMEOUT)
        .operation_attempt_timeout(ATTEMPT_TIMEOUT)
        .operation_timeout(OPERATION_TIMEOUT)
        .build();
    let mut loader = aws_config::defaults(BehaviorVersion::v2026_01_12()).http_client(http);
    if let Some(region) = &endpoint.region {
        loader = loader.region(Region::new(region.clone()));
    }
    if let Some(url) = &endpoint.endpoint_url {
        loader = loader.endpoint_url(url.as_str());
    }
    let shared = loader.load().await;
    let config = aws_sdk_secretsmanager::config::Builder::from(&shared)
        .timeout_config(timeouts)
        .retry_config(RetryConfig::standard().with_max_attempts(ATTEMPTS))
        .build();
    Client::from_conf(config)
}

/// A secret that was deleted can be asked for until its deletion is final: it is there no more.
fn is_absent(error: &SdkError<GetSecretValueError>) -> bool {
    let Some(service) = error.as_service_error() else { return false };
    service.is_resource_not_found_exception()
        || (service.is_invalid_request_exception()
            && service.message().is_some_and(|message| message.contains("delet")))
}

fn refused(name: &str, message: String) -> SecretsManagerError {
    SecretsManagerError::Refused { name: name.to_owned(), message }
}

fn explained(name: &str, error: &SdkError<GetSecretValueError>) -> SecretsManagerError {
    const THROTTLED: [&str; 4] =
        ["ThrottlingException", "Throttling", "TooManyRequestsException", "RequestLimitExceeded"];
    let passes = match error {
        SdkError::DispatchFailure(failure) => !failure.is_user(),
        SdkError::TimeoutError(_) | SdkError::ResponseError(_) => true,
        SdkError::ServiceError(service) => {
            let code = service.err().code().unwrap_or_default();
            service.raw().status().as_u16() >= 500 || THROTTLED.contains(&code)
        }
        _ => false,
    };
    let message = match error.as_service_error() {
        Some(service) => {
            format!("{}: {}", service.code().unwrap_or("an error"), service.message().unwrap_or("it says no more"))
        }
        None => words(error),
    };
    if passes { SecretsManagerError::Passing { name: name.to_owned(), message } } else { refused(name, message) }
}
