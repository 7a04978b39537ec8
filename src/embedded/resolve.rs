//! From settings to endpoints: what is set is used, what is not comes from the stack.

use std::path::PathBuf;

use secrecy::SecretString;

use super::component::Component;
use super::error::StackError;
use super::home::S3Urls;
use super::lease::{LeaseRequest, Progress, StackLease, attach};
use crate::config::{S3Settings, SecretsSettings, Settings};
use crate::connect::{Endpoints, KafkaEndpoint, NamedSettings, S3Credentials, S3Endpoint, SecretsManagerEndpoint};

/// The region that the embedded store is signed for; any would do.
const REGION: &str = "us-east-1";

/// Where everything is.
#[derive(Debug)]
pub struct Resolved {
    /// The outside systems.
    pub endpoints: Endpoints,
    /// The database of pinsched's own state.
    pub database_url: SecretString,
    /// Held for as long as any of it comes from the stack; none when all is configured.
    pub stack: Option<StackLease>,
}

/// The program that serves a home: this one, even if its file was replaced since it started.
fn this_program() -> PathBuf {
    PathBuf::from("/proc/self/exe")
}

impl LeaseRequest {
    /// Asks for these parts as the settings say.
    #[must_use]
    pub fn new(settings: &Settings, components: Vec<Component>) -> Self {
        Self {
            home: settings.home.clone(),
            components,
            program: this_program(),
            postgres_bin: settings.postgres_bin.clone(),
            linger: settings.stack_linger,
            log: settings.log.clone(),
        }
    }
}

/// The parts that the settings leave to the stack.
#[must_use]
pub fn lacking(settings: &Settings) -> Vec<Component> {
    let lacks = |component: &Component| match component {
        Component::Postgres => settings.database_url.is_none(),
        Component::Kafka => settings.kafka.bootstrap_servers.is_none(),
        Component::S3 => !settings.s3.configured,
        Component::Source => settings.source_url.is_none(),
    };
    Component::ALL.into_iter().filter(lacks).collect()
}

/// Finds every endpoint, and starts the stack or waits for it where something is not configured.
pub async fn resolve(settings: &Settings, progress: &mut (dyn FnMut(Progress) + Send)) -> Result<Resolved, StackError> {
    let components = lacking(settings);
    let stack = match components.is_empty() {
        true => None,
        false => Some(attach(&LeaseRequest::new(settings, components), progress).await?),
    };
    let urls = stack.as_ref().map(|lease| lease.urls().clone()).unwrap_or_default();
    // The stack grants a lease only when all that was asked for is ready, and was asked for all that is not set.
    let or_stack = |set: Option<SecretString>, url: Option<String>| set.or(url.map(SecretString::from));
    let expected = "a granted lease has the URL of every part that was asked for";
    Ok(Resolved {
        endpoints: Endpoints {
            kafka: match &settings.kafka.bootstrap_servers {
                Some(servers) => {
                    KafkaEndpoint { bootstrap_servers: servers.clone(), properties: settings.kafka.properties.clone() }
                }
                None => KafkaEndpoint {
                    bootstrap_servers: urls.kafka_bootstrap_servers.expect(expected),
                    properties: urls.kafka_properties.into_iter().map(|(name, value)| (name, value.into())).collect(),
                },
            },
            s3: if settings.s3.configured {
                configured(&settings.s3)
            } else {
                embedded(urls.s3.expect(expected), &settings.s3)
            },
            source_url: or_stack(settings.source_url.clone(), urls.source_url).expect(expected),
            named: named(settings),
        },
        database_url: or_stack(settings.database_url.clone(), urls.database_url).expect(expected),
        stack,
    })
}

/// Connections and variables, as far as the settings have them.
#[must_use]
pub fn named(settings: &Settings) -> NamedSettings {
    NamedSettings {
        connections: settings.connections.clone(),
        variables: settings.variables.clone(),
        secrets_manager: secrets_manager(&settings.secrets),
    }
}

fn secrets_manager(settings: &SecretsSettings) -> Option<SecretsManagerEndpoint> {
    let (connections_prefix, variables_prefix) = (&settings.connections_prefix, &settings.variables_prefix);
    (connections_prefix.is_some() || variables_prefix.is_some()).then(|| SecretsManagerEndpoint {
        endpoint_url: settings.endpoint_url.clone(),
        region: settings.region.clone(),
        connections_prefix: connections_prefix.clone(),
        variables_prefix: variables_prefix.clone(),
    })
}

fn configured(settings: &S3Settings) -> S3Endpoint {
    S3Endpoint {
        endpoint_url: settings.endpoint_url.clone(),
        region: settings.region.clone(),
        credentials: settings
            .credentials
            .clone()
            .map(|(access_key_id, secret_access_key)| S3Credentials { access_key_id, secret_access_key }),
        path_style: settings.path_style,
        create_buckets: false,
        staging_bucket: settings.staging_bucket.clone(),
    }
}

fn embedded(urls: S3Urls, settings: &S3Settings) -> S3Endpoint {
    S3Endpoint {
        endpoint_url: urls.endpoint_url.parse().ok(),
        region: Some(REGION.to_owned()),
        credentials: Some(S3Credentials {
            access_key_id: urls.access_key_id,
            secret_access_key: urls.secret_access_key.into(),
        }),
        path_style: true,
        create_buckets: true,
        staging_bucket: settings.staging_bucket.clone(),
    }
}
