//! SaslHandshake and SaslAuthenticate: who may use a broker that has credentials. By PLAIN alone: it is on loopback.

use std::sync::atomic::{AtomicBool, Ordering};

use kafka_protocol::ResponseError;
use kafka_protocol::messages::{
    ApiKey, SaslAuthenticateRequest, SaslAuthenticateResponse, SaslHandshakeRequest, SaslHandshakeResponse,
};
use secrecy::ExposeSecret;
use sha2::{Digest, Sha256};

use super::answer::Caller;
use crate::embedded::broker::config::BrokerCredentials;
use crate::embedded::broker::state::{State, text};

const MECHANISM: &str = "PLAIN";

/// Whether a connection may ask for more than to be let in.
#[derive(Debug)]
pub(crate) struct Admission(AtomicBool);

impl Admission {
    /// A connection to a broker without credentials may from the start.
    pub(crate) fn new(credentials: Option<&BrokerCredentials>) -> Self {
        Self(AtomicBool::new(credentials.is_none()))
    }

    /// Whether it may make this request now.
    pub(crate) fn allows(&self, key: ApiKey) -> bool {
        matches!(key, ApiKey::ApiVersions | ApiKey::SaslHandshake | ApiKey::SaslAuthenticate) || self.is_granted()
    }

    fn is_granted(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// Names the one mechanism.
pub(crate) fn handshake(caller: &Caller, request: &SaslHandshakeRequest) -> SaslHandshakeResponse {
    let refused = if caller.admission.is_granted() {
        Some(ResponseError::IllegalSaslState)
    } else if request.mechanism.as_str() != MECHANISM {
        Some(ResponseError::UnsupportedSaslMechanism)
    } else {
        None
    };
    let response = SaslHandshakeResponse::default().with_mechanisms(vec![text(MECHANISM)]);
    response.with_error_code(refused.map_or(0, |error| error.code()))
}

/// Lets the connection in if it shows the credentials.
pub(crate) fn authenticate(
    state: &State,
    caller: &Caller,
    request: &SaslAuthenticateRequest,
) -> SaslAuthenticateResponse {
    let refused = |error: ResponseError, message: &str| {
        SaslAuthenticateResponse::default().with_error_code(error.code()).with_error_message(Some(text(message)))
    };
    let Some(credentials) = state.config.credentials.as_ref().filter(|_| !caller.admission.is_granted()) else {
        return refused(ResponseError::IllegalSaslState, "this connection is let in already");
    };
    if !shows(&request.auth_bytes, credentials) {
        return refused(ResponseError::SaslAuthenticationFailed, "wrong user or password");
    }
    caller.admission.0.store(true, Ordering::Release);
    SaslAuthenticateResponse::default()
}

/// RFC 4616: whom to act as, who one is, and the password, with a NUL between; the first may be left out.
fn shows(message: &[u8], credentials: &BrokerCredentials) -> bool {
    let parts: Vec<&[u8]> = message.split(|byte| *byte == 0).collect();
    let [acting_as, user, password] = parts[..] else { return false };
    let expected = credentials.username.as_bytes();
    // Digests, so that how long the comparison takes tells nothing of the password.
    let is_password = Sha256::digest(password) == Sha256::digest(credentials.password.expose_secret());
    (acting_as.is_empty() || acting_as == expected) && user == expected && is_password
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_whole_credentials_are_accepted() {
        let credentials = BrokerCredentials { username: "me".to_owned(), password: "hush".into() };
        for right in [&b"\0me\0hush"[..], b"me\0me\0hush"] {
            assert!(shows(right, &credentials));
        }
        for wrong in
            [&b""[..], b"\0me\0", b"\0\0", b"me\0hush", b"\0me\0hush\0", b"\0you\0hush", b"you\0me\0hush", b"\0me\0hus"]
        {
            assert!(!shows(wrong, &credentials), "{wrong:?}");
        }
    }
}
