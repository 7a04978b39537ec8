//! Clients of outside systems that operators share: Kafka, S3, Secrets Manager, the source database,
//! who is told of runs. Knows
//! nothing of runs and tasks.

pub mod copy;
pub mod kafka;
pub mod notify;
pub mod s3;
pub mod secrets_manager;
pub mod source;
pub mod sqlstate;

use std::collections::BTreeMap;

use secrecy::SecretString;
use url::Url;

/// Where the outside systems are; from configuration, or from the embedded stack.
#[derive(Debug, Clone)]
pub struct Endpoints {
    /// The Kafka cluster.
    pub kafka: KafkaEndpoint,
    /// The object store.
    pub s3: S3Endpoint,
    /// The default source database's URL, `mysql://…` or `postgres://…`.
    pub source_url: SecretString,
    /// Connections and variables, as far as configuration has them.
    pub named: NamedSettings,
}

/// Connections and variables from configuration, and where else they are looked for.
#[derive(Debug, Clone, Default)]
pub struct NamedSettings {
    /// Connections, each a URL or Airflow's JSON.
    pub connections: BTreeMap<String, SecretString>,
    /// Variables.
    pub variables: BTreeMap<String, SecretString>,
    /// AWS Secrets Manager, where connections or variables are to be looked for there.
    pub secrets_manager: Option<SecretsManagerEndpoint>,
}

/// AWS Secrets Manager, or what stands in for it.
#[derive(Debug, Clone)]
pub struct SecretsManagerEndpoint {
    /// Where it is, when it is not AWS itself.
    pub endpoint_url: Option<Url>,
    /// The region to sign for.
    pub region: Option<String>,
    /// What the names of connections start with; `None` when none are looked for.
    pub connections_prefix: Option<String>,
    /// The same for variables.
    pub variables_prefix: Option<String>,
}

/// A Kafka cluster.
#[derive(Debug, Clone)]
pub struct KafkaEndpoint {
    /// `host:port`, comma separated.
    pub bootstrap_servers: String,
    /// Further librdkafka properties, as they are (security, timeouts).
    pub properties: BTreeMap<String, SecretString>,
}

/// An S3 object store.
#[derive(Debug, Clone)]
pub struct S3Endpoint {
    /// Where it is, when it is not AWS itself.
    pub endpoint_url: Option<Url>,
    /// The region to sign for.
    pub region: Option<String>,
    /// Static credentials; without them the SDK's own chain (environment, profile, web identity, IMDS) is used.
    pub credentials: Option<S3Credentials>,
    /// `http://host/bucket/key` rather than `http://bucket.host/key`.
    pub path_style: bool,
    /// Whether a bucket that is missing may be made: true for the embedded store alone.
    pub create_buckets: bool,
    /// Where drawn rows wait until they are produced, and where results go that name no bucket.
    pub staging_bucket: String,
}

/// A static pair of keys.
#[derive(Debug, Clone)]
pub struct S3Credentials {
    /// The access key's id.
    pub access_key_id: String,
    /// Its secret.
    pub secret_access_key: SecretString,
}
