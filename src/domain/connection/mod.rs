//! Connections as Airflow has them: where another system is and how to get in, in Airflow's two written forms.
//!
//! No error and no `Debug` of these shows what a password, an extra or a whole text holds.

mod json;
mod uri;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Map, Value};

use crate::domain::masking::secrets_in;

/// What Airflow leaves as it is in a part of a URI.
const RESERVED: AsciiSet = NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// The longest id, in Airflow's database as in this one.
const LONGEST_ID: usize = 250;

/// Where another system is, and how to get in.
#[derive(Debug, Clone, Default)]
pub struct Connection {
    /// The name by which tasks know it.
    pub id: String,
    /// What kind of system it is: `postgres`, `http`, `aws`, ….
    pub conn_type: String,
    /// What people say of it.
    pub description: Option<String>,
    /// The host; Airflow allows a protocol before it, as `https://api.example`.
    pub host: Option<String>,
    /// The port.
    pub port: Option<u16>,
    /// The database; for HTTP the protocol, as in Airflow, or the path below which everything is.
    pub schema: Option<String>,
    /// The user.
    pub login: Option<String>,
    /// The password.
    pub password: Option<SecretString>,
    /// Further settings as text, mostly a JSON object; any of them may be secret.
    pub extra: Option<SecretString>,
}

/// Why a text is no connection. Never with a part of the text in it that may be secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConnectionError {
    /// An id that Airflow would not take either.
    #[error("`{0}` is no connection's id: up to 250 letters, digits and any of _ - . : ! # ( ) / \\")]
    Id(String),
    /// Neither a URI nor JSON.
    #[error("it is neither a URI, as postgres://login:password@host:5432/database, nor a JSON object")]
    Form,
    /// A part of a URI that cannot be read.
    #[error("the {0} of its URI cannot be read (special characters are written as %40 and the like)")]
    Part(&'static str),
    /// JSON that is no object.
    #[error("its JSON is no object (line {line}, column {column})")]
    Json {
        /// The line that cannot be read.
        line: usize,
        /// The column in it.
        column: usize,
    },
    /// A key of another type than it has to be.
    #[error("its `{key}` is not {expected}")]
    Type {
        /// The key.
        key: &'static str,
        /// What it has to be.
        expected: &'static str,
    },
    /// A key that no connection has.
    #[error("no connection has a `{key}`{}", .near.map(|near| format!("; did you mean `{near}`?")).unwrap_or_default())]
    Key {
        /// The key.
        key: String,
        /// What was most likely meant.
        near: Option<&'static str>,
    },
    /// Nothing says what it is.
    #[error("its `conn_type` is missing")]
    NoType,
}

/// Checks a connection's id by Airflow's rules.
///
/// # Errors
/// [`ConnectionError::Id`].
pub fn check_id(id: &str) -> Result<(), ConnectionError> {
    let allowed = |letter: char| letter.is_alphanumeric() || "_-.:!#()/\\".contains(letter);
    let is_good = !id.is_empty() && id.chars().count() <= LONGEST_ID && id.chars().all(allowed);
    if is_good { Ok(()) } else { Err(ConnectionError::Id(id.escape_debug().to_string())) }
}

impl Connection {
    /// Reads either of Airflow's forms: a URI, or a JSON object.
    ///
    /// # Errors
    /// [`ConnectionError`] says what is wrong with it, without quoting it.
    pub fn parse(id: &str, text: &str) -> Result<Self, ConnectionError> {
        let text = text.trim();
        if text.starts_with('{') { json::parse(id, text) } else { uri::parse(id, text) }
    }

    /// Reads Airflow's JSON form, parsed already.
    ///
    /// # Errors
    /// [`ConnectionError`] names the key that is wrong.
    pub fn from_json(id: &str, fields: &Map<String, Value>) -> Result<Self, ConnectionError> {
        json::from_object(id, fields)
    }

    /// Airflow's JSON form, with everything in it.
    #[must_use]
    pub fn to_json(&self) -> Value {
        json::write(self)
    }

    /// Airflow's URI form, with everything in it.
    #[must_use]
    pub fn uri(&self) -> SecretString {
        uri::write(self).into()
    }

    /// The address as the system's own clients take it: `postgres://…`, `mysql://…`, `https://…`.
    #[must_use]
    pub fn url(&self) -> SecretString {
        let text = if self.is_http() { uri::http_url(self) } else { uri::client_url(self) };
        text.into()
    }

    /// Whether it is reached by HTTP.
    #[must_use]
    pub fn is_http(&self) -> bool {
        matches!(self.conn_type.as_str(), "http" | "https")
    }

    /// The extra as an object; empty where it is none.
    #[must_use]
    pub fn extra_fields(&self) -> Map<String, Value> {
        let text = self.extra.as_ref().map_or("", ExposeSecret::expose_secret);
        serde_json::from_str(text).unwrap_or_default()
    }

    /// What of it must not be seen: the password, and what of the extra has a secret's name. An extra that is no JSON is
    /// a secret as a whole. A password that is the login as well is none: logins are shown.
    #[must_use]
    pub fn secrets(&self) -> Vec<SecretString> {
        let login = self.login.as_deref();
        let mut secrets: Vec<SecretString> =
            self.password.iter().filter(|password| Some(password.expose_secret()) != login).cloned().collect();
        if let Some(extra) = &self.extra {
            match serde_json::from_str::<Value>(extra.expose_secret()) {
                Ok(value) => secrets.extend(secrets_in("", &value)),
                Err(_) => secrets.push(extra.clone()),
            }
        }
        secrets
    }
}

/// Airflow's names for kinds: `postgresql` is `postgres`, and dashes, which URIs need, are underscores.
fn kind(text: &str) -> String {
    let text = text.to_ascii_lowercase();
    if text == "postgresql" { "postgres".to_owned() } else { text.replace('-', "_") }
}

fn quoted(text: &str) -> String {
    utf8_percent_encode(text, &RESERVED).to_string()
}

#[cfg(test)]
mod tests;
