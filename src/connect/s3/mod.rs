//! The S3 client: AWS itself or anything that speaks its protocol. Knows buckets, keys and bytes, nothing of runs.
//!
//! Every call has a timeout, is retried by the SDK where the service or the network stumbled, and fails with an
//! [`S3Error`] that names operation and object and says whether a later attempt may help.

mod error;
mod upload;

use std::collections::BTreeMap;
use std::time::Duration;

use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_sdk_s3::Client;
use aws_sdk_s3::config::{
    BehaviorVersion, Credentials, Region, RequestChecksumCalculation, ResponseChecksumValidation,
};
use aws_smithy_http_client::tls::{Provider, rustls_provider::CryptoMode};
use bytes::{Bytes, BytesMut};
use secrecy::ExposeSecret;
use tokio::io::{AsyncBufRead, AsyncReadExt};

use crate::connect::S3Endpoint;

pub use error::S3Error;
use error::Target;
pub(in crate::connect) use error::words;
pub use upload::{PART_SIZE, Upload};

/// A load balancer that is up answers a SYN within this, however far.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// The longest silence of a service before its answer begins, and between two pieces of a body.
const READ_TIMEOUT: Duration = Duration::from_secs(30);
/// One try of one request; an 8 MiB part passes at 100 KB/s.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(90);
/// One call with all of the SDK's retries.
const OPERATION_TIMEOUT: Duration = Duration::from_secs(300);
/// The SDK's tries of one request, the first included: throttling and elections pass in some seconds.
const ATTEMPTS: u32 = 5;
/// How often a put that lost to a concurrent one of the same key is repeated (409, which the SDK does not retry).
const CONFLICT_ATTEMPTS: u32 = 5;

/// A client; clones share connections.
#[derive(Debug, Clone)]
pub struct S3 {
    client: Client,
    endpoint: String,
    create_buckets: bool,
}

/// How an object is written.
#[derive(Debug, Clone)]
pub struct PutOptions {
    /// Its `Content-Type`.
    pub content_type: &'static str,
    /// Its user metadata, without the `x-amz-meta-` prefix.
    pub metadata: BTreeMap<String, String>,
    /// What happens to an object that is already there.
    pub precondition: Precondition,
}

impl Default for PutOptions {
    fn default() -> Self {
        Self {
            content_type: "application/octet-stream",
            metadata: BTreeMap::new(),
            precondition: Precondition::Overwrite,
        }
    }
}

/// What a put does to an object that is already there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Precondition {
    /// Replaces it.
    #[default]
    Overwrite,
    /// Fails with [`S3Error::AlreadyExists`] (`If-None-Match: *`). The answer to one's own put may have been lost and
    /// the put repeated: compare the object before calling it somebody else's.
    CreateOnly,
}

/// What is known of an object without reading it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectHead {
    /// Its size in bytes.
    pub size: u64,
    /// Its user metadata; keys in lower case.
    pub metadata: BTreeMap<String, String>,
}

/// A line of a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectSummary {
    /// The object's key.
    pub key: String,
    /// Its size in bytes.
    pub size: u64,
}

impl S3 {
    /// A client for `endpoint`. Connects lazily: a wrong address shows at the first call.
    pub async fn connect(endpoint: &S3Endpoint) -> Self {
        Self::with_attempts(endpoint, ATTEMPTS).await
    }

    /// The same without the SDK's retries, for one who wants to know at once.
    pub async fn connect_impatiently(endpoint: &S3Endpoint) -> Self {
        Self::with_attempts(endpoint, 1).await
    }

    async fn with_attempts(endpoint: &S3Endpoint, attempts: u32) -> Self {
        let http =
            aws_smithy_http_client::Builder::new().tls_provider(Provider::Rustls(CryptoMode::Ring)).build_https();
        let timeouts = TimeoutConfig::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .read_timeout(READ_TIMEOUT)
            .operation_attempt_timeout(ATTEMPT_TIMEOUT)
            .operation_timeout(OPERATION_TIMEOUT)
            .build();
        let mut loader = aws_config::defaults(BehaviorVersion::v2026_01_12()).http_client(http);
        // A store that is not AWS takes any region, and a laptop without a profile has none to offer.
        let fallback = endpoint.endpoint_url.as_ref().map(|_| "us-east-1".to_owned());
        if let Some(region) = endpoint.region.clone().or(fallback) {
            loader = loader.region(Region::new(region));
        }
        if let Some(keys) = &endpoint.credentials {
            let secret = keys.secret_access_key.expose_secret();
            loader = loader.credentials_provider(Credentials::new(&keys.access_key_id, secret, None, None, "settings"));
        }
        if let Some(url) = &endpoint.endpoint_url {
            loader = loader.endpoint_url(url.as_str());
        }
        let shared = loader.load().await;
        let config = aws_sdk_s3::config::Builder::from(&shared)
            .force_path_style(endpoint.path_style)
            .timeout_config(timeouts)
            .retry_config(RetryConfig::standard().with_max_attempts(attempts))
            // Old clones of S3 refuse the checksum trailers that SDKs add since 2025.
            .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
            .response_checksum_validation(ResponseChecksumValidation::WhenRequired)
            .build();
        let endpoint_name = endpoint.endpoint_url.as_ref().map_or_else(|| "AWS".to_owned(), ToString::to_string);
        Self { client: Client::from_conf(config), endpoint: endpoint_name, create_buckets: endpoint.create_buckets }
    }

    /// The store's address for messages: its URL, or `AWS`.
    #[must_use]
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Fails when the bucket is missing or denied; makes it first where the endpoint allows that.
    pub async fn ensure_bucket(&self, bucket: &str) -> Result<(), S3Error> {
        let target = Target::bucket("find bucket", bucket);
        let answer = self.client.head_bucket().bucket(bucket).send().await;
        let error = match answer {
            Ok(_) => return Ok(()),
            Err(error) => self.error(&target, error),
        };
        if !(self.create_buckets && matches!(error, S3Error::NoSuchBucket { .. })) {
            return Err(error);
        }
        let target = Target::bucket("create bucket", bucket);
        match self.client.create_bucket().bucket(bucket).send().await {
            Ok(_) => Ok(()),
            Err(error) => match self.error(&target, error) {
                // Two of us at once: the other one made it.
                S3Error::AlreadyExists { .. } => Ok(()),
                error => Err(error),
            },
        }
    }

    /// Writes a whole object: one request, or above 8 MiB a multipart upload that is aborted when it fails.
    ///
    /// A reader sees the whole of it or nothing. When the future is dropped half-way an unfinished multipart upload may
    /// stay behind for the bucket's lifecycle rule.
    pub async fn put(&self, bucket: &str, key: &str, body: Bytes, options: PutOptions) -> Result<(), S3Error> {
        let mut attempt = 1;
        loop {
            let mut upload = self.upload(bucket, key, options.clone());
            let result = match upload.write(body.clone()).await {
                Ok(()) => upload.finish().await,
                Err(error) => {
                    upload.abort().await;
                    Err(error)
                }
            };
            match result {
                Err(S3Error::Conflict { .. }) if attempt < CONFLICT_ATTEMPTS => {
                    tokio::time::sleep(conflict_wait(attempt)).await;
                    attempt += 1;
                }
                result => return result,
            }
        }
    }

    /// Starts to write an object of any size piece by piece, holding at most one part of it in memory.
    #[must_use]
    pub fn upload(&self, bucket: &str, key: &str, options: PutOptions) -> Upload {
        Upload::new(self.clone(), bucket, key, options)
    }

    /// Reads a whole object into memory.
    pub async fn get(&self, bucket: &str, key: &str) -> Result<Bytes, S3Error> {
        let mut reader = self.get_stream(bucket, key).await?;
        let mut body = BytesMut::new();
        loop {
            match tokio::time::timeout(READ_TIMEOUT, reader.read_buf(&mut body)).await {
                Ok(Ok(0)) => return Ok(body.freeze()),
                Ok(Ok(_)) => {}
                Ok(Err(error)) => return Err(S3Error::broken_body(bucket, key, &error)),
                Err(_) => return Err(S3Error::Timeout { target: Target::object("get", bucket, key) }),
            }
        }
    }

    /// Opens an object for reading. The SDK ends a stream that stalls with an error.
    pub async fn get_stream(
        &self,
        bucket: &str,
        key: &str,
    ) -> Result<impl AsyncBufRead + Send + Unpin + use<>, S3Error> {
        let target = Target::object("get", bucket, key);
        let answer = self.client.get_object().bucket(bucket).key(key).send().await;
        let answer = answer.map_err(|error| self.error(&target, error))?;
        Ok(answer.body.into_async_read())
    }

    /// An object's size and metadata; `None` when it is not there.
    pub async fn head(&self, bucket: &str, key: &str) -> Result<Option<ObjectHead>, S3Error> {
        let target = Target::object("head", bucket, key);
        match self.client.head_object().bucket(bucket).key(key).send().await {
            Ok(head) => Ok(Some(ObjectHead {
                size: size(head.content_length),
                metadata: head.metadata.unwrap_or_default().into_iter().collect(),
            })),
            Err(error) => match self.error(&target, error) {
                S3Error::NotFound { .. } => Ok(None),
                error => Err(error),
            },
        }
    }

    /// How many buckets the credentials' owner has.
    pub async fn count_buckets(&self) -> Result<usize, S3Error> {
        let answer = self.client.list_buckets().send().await;
        let found = answer.map_err(|error| self.error(&Target::bucket("list the buckets of", ""), error))?;
        Ok(found.buckets().len())
    }

    /// All objects whose keys begin with `prefix`, in key order.
    pub async fn list(&self, bucket: &str, prefix: &str) -> Result<Vec<ObjectSummary>, S3Error> {
        let target = Target::object("list", bucket, prefix);
        let mut pages = self.client.list_objects_v2().bucket(bucket).prefix(prefix).into_paginator().send();
        let mut objects = Vec::new();
        while let Some(page) = pages.next().await {
            let page = page.map_err(|error| self.error(&target, error))?;
            for object in page.contents.unwrap_or_default() {
                objects.push(ObjectSummary { key: object.key.unwrap_or_default(), size: size(object.size) });
            }
        }
        // Directory buckets and some clones answer in an order of their own.
        objects.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(objects)
    }

    /// Removes an object; one that is not there counts as removed.
    pub async fn delete(&self, bucket: &str, key: &str) -> Result<(), S3Error> {
        let target = Target::object("delete", bucket, key);
        match self.client.delete_object().bucket(bucket).key(key).send().await {
            Ok(_) => Ok(()),
            Err(error) => match self.error(&target, error) {
                S3Error::NotFound { .. } => Ok(()),
                error => Err(error),
            },
        }
    }
}

/// How long to wait before a put that met a concurrent one is repeated.
pub(crate) fn conflict_wait(attempt: u32) -> Duration {
    Duration::from_millis(100 * u64::from(2_u32.saturating_pow(attempt.min(6))))
}

/// S3 counts sizes as signed numbers and leaves out what it does not know.
fn size(bytes: Option<i64>) -> u64 {
    bytes.and_then(|bytes| u64::try_from(bytes).ok()).unwrap_or(0)
}
