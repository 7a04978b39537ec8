//! Tells others: a POST of JSON to a webhook or to Slack, a mail by SMTP. Each is sent whole or fails with words that
//! hold neither an address's path nor anything else that may be secret.

mod email;
mod signature;
mod webhook;

pub use email::{Mail, MailServer, Security, send_mail};
pub use signature::signature;
pub use webhook::{Answer, Post, exchange, is_refused, post};

use std::time::Duration;

/// How long one exchange may take, from looking the host up to the answer.
pub const LIMIT: Duration = Duration::from_secs(30);

/// Why somebody could not be told.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotifyError {
    /// Another try may do it.
    #[error("{0}")]
    Again(String),
    /// Another try would fail the same way.
    #[error("{0}")]
    Never(String),
}

/// An error with what caused it, in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut words = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let next = cause.to_string();
        if !words.contains(&next) {
            words.push_str(": ");
            words.push_str(&next);
        }
        source = cause.source();
    }
    words
}
