//! What a request is answered with, and what is known of who asked.

use std::net::IpAddr;
use std::sync::Arc;

use kafka_protocol::messages::{FetchResponse, ResponseKind};
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::CancellationToken;

use super::produce::Pending;
use super::sasl::Admission;

/// Who asked, and how.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    pub(crate) version: i16,
    pub(crate) client_id: String,
    pub(crate) host: IpAddr,
    /// Ends when the connection or the broker does: a wait for this caller is then pointless.
    pub(crate) gone: CancellationToken,
    /// What its connection may do; the same for all of the connection's requests.
    pub(crate) admission: Arc<Admission>,
}

/// An answer, or what it still waits for.
pub(crate) enum Answer {
    /// Ready to be sent.
    Now(Box<ResponseKind>),
    /// Ready to be sent, with the share of memory that its records take until then.
    Records(Box<FetchResponse>, OwnedSemaphorePermit),
    /// Appended; to be sent once it is durable. The next request of the connection need not wait for that.
    WhenDurable(Pending),
}

impl<T: Into<ResponseKind>> From<T> for Answer {
    fn from(response: T) -> Self {
        Self::Now(Box::new(response.into()))
    }
}
