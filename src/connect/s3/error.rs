//! What can go wrong with an object store: what was attempted on what, and whether a later attempt may help.

use std::fmt;

use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};

use super::S3;

/// What was attempted on which object or bucket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// As `put`.
    pub operation: &'static str,
    /// The bucket.
    pub bucket: String,
    /// The object's key, when one was meant.
    pub key: Option<String>,
}

impl Target {
    pub(super) fn bucket(operation: &'static str, bucket: &str) -> Self {
        Self { operation, bucket: bucket.to_owned(), key: None }
    }

    pub(super) fn object(operation: &'static str, bucket: &str, key: &str) -> Self {
        Self { operation, bucket: bucket.to_owned(), key: Some(key.to_owned()) }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "could not {} s3://{}", self.operation, self.bucket)?;
        self.key.as_ref().map_or(Ok(()), |key| write!(f, "/{key}"))
    }
}

/// An error of the object store.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum S3Error {
    /// The bucket does not exist.
    #[error("{target}: there is no bucket `{}` at {endpoint}", .target.bucket)]
    NoSuchBucket {
        /// What was attempted.
        target: Target,
        /// The store's address.
        endpoint: String,
    },
    /// The credentials are unknown, expired or not allowed to.
    #[error("{target}: {endpoint} denies it ({code})")]
    AccessDenied {
        /// What was attempted.
        target: Target,
        /// The store's address.
        endpoint: String,
        /// The service's word for it, as `AccessDenied` or `InvalidAccessKeyId`.
        code: String,
    },
    /// A create-only put found an object (412), or a bucket to be made was there.
    #[error("{target}: it already exists")]
    AlreadyExists {
        /// What was attempted.
        target: Target,
    },
    /// A conditional put met a concurrent one of the same key (409): the whole put may be repeated.
    #[error("{target}: another write of the same key was under way")]
    Conflict {
        /// What was attempted.
        target: Target,
    },
    /// The object does not exist.
    #[error("{target}: it does not exist")]
    NotFound {
        /// What was attempted.
        target: Target,
    },
    /// No answer in time, the SDK's retries included.
    #[error("{target}: no answer in time")]
    Timeout {
        /// What was attempted.
        target: Target,
    },
    /// The service could not be reached, or its answer broke off.
    #[error("{target} at {endpoint}: {message}")]
    Unreachable {
        /// What was attempted.
        target: Target,
        /// The store's address.
        endpoint: String,
        /// What the network or the HTTP client said.
        message: String,
    },
    /// The service refused or failed in a way that has no variant of its own.
    #[error("{target}: status {status}, {code}: {message}")]
    Refused {
        /// What was attempted.
        target: Target,
        /// The HTTP status.
        status: u16,
        /// The service's code.
        code: String,
        /// The service's text.
        message: String,
    },
    /// The request could not be made at all: no credentials, no region, a bucket name that is none.
    #[error("{target}: {message}")]
    Misconfigured {
        /// What was attempted.
        target: Target,
        /// What the SDK said.
        message: String,
    },
}

/// Refusals with a status of 4xx that pass. S3 answers 400 when a body comes too slowly or breaks off; an upload is gone
/// when the answer to its completion was lost or a lifecycle rule was quicker.
const PASSING: [&str; 4] = ["RequestTimeout", "IncompleteBody", "NoSuchUpload", "RequestTimeTooSkewed"];

impl S3Error {
    /// Whether trying the same again later may help.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Conflict { .. } | Self::Timeout { .. } | Self::Unreachable { .. } => true,
            Self::Refused { status, code, .. } => {
                *status >= 500 || matches!(*status, 408 | 429) || PASSING.contains(&code.as_str())
            }
            Self::NoSuchBucket { .. }
            | Self::AccessDenied { .. }
            | Self::AlreadyExists { .. }
            | Self::NotFound { .. }
            | Self::Misconfigured { .. } => false,
        }
    }

    /// What the reader can do about it, where that is known.
    #[must_use]
    pub fn help(&self) -> Option<String> {
        match self {
            Self::NoSuchBucket { target, endpoint } => Some(format!(
                "create it (`aws s3 mb s3://{}`), or correct the task's `bucket` or the S3 endpoint, now {endpoint}",
                target.bucket
            )),
            Self::AccessDenied { target, .. } => Some(format!(
                "allow these credentials s3:ListBucket on `{0}` and s3:GetObject, s3:PutObject, s3:AbortMultipartUpload \
                 on `{0}/*`, or give others",
                target.bucket
            )),
            // Answers to HEAD say no more than the status.
            Self::Refused { target, status: 301 | 307, .. } => {
                Some(format!("bucket `{}` is in another region: set the S3 region to its own", target.bucket))
            }
            _ => None,
        }
    }

    /// A body that ended before its object did.
    pub(crate) fn broken_body(bucket: &str, key: &str, error: &std::io::Error) -> Self {
        Self::Unreachable {
            target: Target::object("get", bucket, key),
            endpoint: "the store".to_owned(),
            message: format!("the body broke off: {error}"),
        }
    }
}

impl S3 {
    /// Maps what the SDK said to what it means.
    pub(super) fn error<E>(&self, target: &Target, error: SdkError<E, HttpResponse>) -> S3Error
    where
        E: ProvideErrorMetadata + std::error::Error + 'static,
    {
        let target = target.clone();
        let endpoint = self.endpoint.clone();
        match error {
            SdkError::ServiceError(context) => {
                let status = context.raw().status().as_u16();
                let code = context.err().code().unwrap_or_default().to_owned();
                let message = context.err().message().unwrap_or("no text").to_owned();
                service_error(target, endpoint, status, code, message)
            }
            SdkError::TimeoutError(_) => S3Error::Timeout { target },
            SdkError::DispatchFailure(failure) if failure.is_timeout() => S3Error::Timeout { target },
            // Credentials that cannot be had end here as well; a metadata service may be slow, so another try may help.
            SdkError::DispatchFailure(failure) => {
                let message = failure.as_connector_error().map_or_else(String::new, |error| words(error));
                if failure.is_user() {
                    S3Error::Misconfigured { target, message }
                } else {
                    S3Error::Unreachable { target, endpoint, message }
                }
            }
            SdkError::ResponseError(response) => {
                let error = SdkError::<E, HttpResponse>::ResponseError(response);
                S3Error::Unreachable { target, endpoint, message: words(&error) }
            }
            error => S3Error::Misconfigured { target, message: words(&error) },
        }
    }
}

/// An error's text and those of its sources. (The SDK's own `DisplayErrorContext` adds the debug form, headers and all.)
pub(in crate::connect) fn words(error: &(dyn std::error::Error + 'static)) -> String {
    let texts = std::iter::successors(Some(error), |error| error.source()).map(ToString::to_string);
    let mut texts: Vec<String> = texts.collect();
    texts.dedup();
    texts.join(": ")
}

/// The meaning of a service's refusal. Answers to HEAD have no body: their status alone must do.
fn service_error(target: Target, endpoint: String, status: u16, code: String, message: String) -> S3Error {
    match (status, code.as_str()) {
        (_, "NoSuchBucket") => S3Error::NoSuchBucket { target, endpoint },
        (_, "NoSuchUpload") => S3Error::Refused { target, status, code, message },
        (404, _) if target.key.is_none() => S3Error::NoSuchBucket { target, endpoint },
        (404, _) => S3Error::NotFound { target },
        (412, _) | (_, "BucketAlreadyOwnedByYou" | "BucketAlreadyExists") => S3Error::AlreadyExists { target },
        (409, "ConditionalRequestConflict" | "OperationAborted") => S3Error::Conflict { target },
        (_, "RequestTimeTooSkewed") => S3Error::Refused { target, status, code, message },
        (401 | 403, "") => S3Error::AccessDenied { target, endpoint, code: format!("status {status}") },
        (401 | 403, _) => S3Error::AccessDenied { target, endpoint, code },
        (_, "") => S3Error::Refused { target, status, code: "no code".to_owned(), message },
        _ => S3Error::Refused { target, status, code, message },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meaning(status: u16, code: &str, target: Target) -> S3Error {
        service_error(target, "http://127.0.0.1:1/".to_owned(), status, code.to_owned(), "text".to_owned())
    }

    #[test]
    fn refusals_mean_what_s3_documents() {
        let put = || Target::object("put", "b", "k");
        assert!(matches!(meaning(412, "PreconditionFailed", put()), S3Error::AlreadyExists { .. }));
        assert!(matches!(meaning(409, "ConditionalRequestConflict", put()), S3Error::Conflict { .. }));
        assert!(matches!(meaning(404, "NoSuchBucket", put()), S3Error::NoSuchBucket { .. }));
        assert!(matches!(meaning(404, "", Target::object("head", "b", "k")), S3Error::NotFound { .. }));
        assert!(matches!(meaning(404, "", Target::bucket("find bucket", "b")), S3Error::NoSuchBucket { .. }));
        assert!(meaning(503, "SlowDown", put()).is_transient());
        assert!(meaning(400, "RequestTimeout", put()).is_transient());
        assert!(meaning(400, "IncompleteBody", put()).is_transient());
        assert!(!meaning(400, "InvalidArgument", put()).is_transient());
        assert!(!meaning(403, "AccessDenied", put()).is_transient());
    }

    #[test]
    fn a_denied_head_names_bucket_endpoint_and_the_fix() {
        let error = meaning(403, "", Target::bucket("find bucket", "user-0e35-bucket"));
        assert_eq!(
            error.to_string(),
            "could not find bucket s3://user-0e35-bucket: http://127.0.0.1:1/ denies it (status 403)"
        );
        assert!(error.help().is_some_and(|help| help.contains("s3:PutObject")));
    }
}
