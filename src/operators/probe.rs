//! Tries a connection as the operators that use one would, and says in a line what answered.

use std::collections::BTreeMap;
use std::time::Duration;

use reqwest::redirect::Policy;
use reqwest::{Client, StatusCode};
use secrecy::ExposeSecret;
use serde_json::Value;
use url::Url;

use crate::connect::kafka::{Cluster, KafkaError};
use crate::connect::s3::{S3, S3Error};
use crate::connect::source::{Source, SourceError};
use crate::connect::{KafkaEndpoint, S3Credentials, S3Endpoint};
use crate::domain::connection::Connection;
use crate::engine::operator::chain;

/// How long a system may take to answer: a person waits.
const PATIENCE: Duration = Duration::from_secs(10);

/// What can be tried, for messages.
const KNOWN: &str = "postgres, mysql, mariadb, http, https, kafka, aws and s3";

/// Why a connection does not work.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// It is of a kind that pinsched has no client for.
    #[error("connections of type `{0}` cannot be tried; {KNOWN} can")]
    UnknownType(String),
    /// A database.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// Kafka.
    #[error(transparent)]
    Kafka(#[from] KafkaError),
    /// An object store.
    #[error(transparent)]
    S3(#[from] S3Error),
    /// Something that its type needs is missing, or cannot be used.
    #[error("{0}")]
    Lacks(String),
    /// No answer by HTTP.
    #[error("could not reach {address}: {message}")]
    Http {
        /// The address, without what may be secret.
        address: String,
        /// What the client said.
        message: String,
    },
    /// An answer that says no.
    #[error("{address} answers {status}: the login or the password is not accepted")]
    Denied {
        /// The address, without what may be secret.
        address: String,
        /// The answer's status.
        status: StatusCode,
    },
    /// Nothing at all.
    #[error("no answer within {} s", PATIENCE.as_secs())]
    Silent,
}

/// Tries the connection, for ten seconds at the most; returns what answered.
///
/// # Errors
/// [`ProbeError`] says what is wrong, never with a password in it.
pub async fn probe(connection: &Connection) -> Result<String, ProbeError> {
    let trying = async {
        match connection.conn_type.as_str() {
            "postgres" | "mysql" | "mariadb" => database(connection).await,
            "http" | "https" => http(connection).await,
            "kafka" => kafka(connection).await,
            "aws" | "s3" => object_store(connection).await,
            other => Err(ProbeError::UnknownType(other.to_owned())),
        }
    };
    tokio::time::timeout(PATIENCE, trying).await.unwrap_or(Err(ProbeError::Silent))
}

async fn database(connection: &Connection) -> Result<String, ProbeError> {
    let source = Source::connect(&connection.url()).await?;
    let words = format!("connected to {}", source.address());
    source.close().await;
    Ok(words)
}

/// Any answer but a refused login will do: few services answer a HEAD of their root.
async fn http(connection: &Connection) -> Result<String, ProbeError> {
    let url = connection.url();
    let url = Url::parse(url.expose_secret()).ok().filter(Url::has_host);
    let url = url.ok_or_else(|| ProbeError::Lacks("it has no host that an address could be made of".to_owned()))?;
    let address = format!("{}://{}{}", url.scheme(), url.host_str().unwrap_or_default(), url.path());
    let failed = |error: reqwest::Error| {
        let message = chain(&error.without_url());
        ProbeError::Http { address: address.clone(), message }
    };
    let client = Client::builder().timeout(PATIENCE).redirect(Policy::none()).build().map_err(failed)?;
    let status = client.head(url).send().await.map_err(failed)?.status();
    if matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
        return Err(ProbeError::Denied { address, status });
    }
    Ok(format!("{address} answers {status}"))
}

/// The extra has librdkafka's properties, as in Airflow; the servers may stand as host and port as well.
async fn kafka(connection: &Connection) -> Result<String, ProbeError> {
    let mut properties: BTreeMap<String, _> = connection
        .extra_fields()
        .into_iter()
        .map(|(name, value)| (name, value.as_str().map_or_else(|| value.to_string(), ToOwned::to_owned).into()))
        .collect();
    let servers = match (properties.remove("bootstrap.servers"), &connection.host) {
        (Some(servers), _) => ExposeSecret::<str>::expose_secret(&servers).to_owned(),
        (None, Some(host)) => format!("{host}:{}", connection.port.unwrap_or(9092)),
        (None, None) => {
            let words = "it has neither a host nor a `bootstrap.servers` in its extra";
            return Err(ProbeError::Lacks(words.to_owned()));
        }
    };
    for property in ["group.id", "client.id"] {
        properties.remove(property); // these are the observer's own
    }
    let cluster = Cluster::new(&KafkaEndpoint { bootstrap_servers: servers.clone(), properties })?;
    // A moment less than the whole: librdkafka's own words are better than none.
    let brokers = cluster.count_brokers(PATIENCE - Duration::from_secs(1)).await?;
    Ok(format!("Kafka {servers} answers: {brokers} broker{}", if brokers == 1 { "" } else { "s" }))
}

async fn object_store(connection: &Connection) -> Result<String, ProbeError> {
    let extra = connection.extra_fields();
    let text = |names: &[&str]| names.iter().find_map(|name| extra.get(*name).and_then(Value::as_str));
    let endpoint_url = match text(&["endpoint_url", "host"]) {
        Some(url) => match url.parse() {
            Ok(url) => Some(url),
            Err(_) => return Err(ProbeError::Lacks("the `endpoint_url` in its extra is no URL".to_owned())),
        },
        None => None,
    };
    let id = connection.login.as_deref().or_else(|| text(&["aws_access_key_id"]));
    let secret = connection.password.clone().or_else(|| text(&["aws_secret_access_key"]).map(Into::into));
    let endpoint = S3Endpoint {
        path_style: endpoint_url.is_some(),
        endpoint_url,
        region: text(&["region_name"]).map(ToOwned::to_owned),
        credentials: id
            .zip(secret)
            .map(|(id, secret_access_key)| S3Credentials { access_key_id: id.to_owned(), secret_access_key }),
        create_buckets: false,
        staging_bucket: String::new(),
    };
    let s3 = S3::connect_impatiently(&endpoint).await;
    let buckets = s3.count_buckets().await?;
    Ok(format!("S3 at {} answers: {buckets} bucket{}", s3.endpoint(), if buckets == 1 { "" } else { "s" }))
}
