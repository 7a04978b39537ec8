//! Airflow's JSON form: an object with `conn_type`, `login`, `password`, `host`, `port`, `schema`, `extra`. The other names
//! that Airflow's Secrets Manager backend takes, and those of secrets that RDS makes, are understood too.

use secrecy::ExposeSecret;
use serde_json::{Map, Value};

use super::{Connection, ConnectionError, kind};
use crate::domain::diagnostic::closest;

/// The keys, each with its other names.
const KEYS: [(&str, &[&str]); 8] = [
    ("conn_type", &["engine"]),
    ("description", &[]),
    ("login", &["user", "username", "user_name"]),
    ("password", &["pass", "key"]),
    ("host", &["remote_host", "server"]),
    ("port", &[]),
    ("schema", &["database", "dbname"]),
    ("extra", &["extras"]),
];

/// Keys of such objects that say nothing about how to connect.
const PASSED_OVER: [&str; 7] =
    ["conn_id", "id", "is_encrypted", "is_extra_encrypted", "dbInstanceIdentifier", "dbClusterIdentifier", "masterarn"];

pub(super) fn parse(id: &str, text: &str) -> Result<Connection, ConnectionError> {
    match serde_json::from_str(text) {
        Ok(Value::Object(fields)) => from_object(id, &fields),
        Ok(_) => Err(ConnectionError::Json { line: 1, column: 1 }),
        Err(error) => Err(ConnectionError::Json { line: error.line(), column: error.column() }),
    }
}

pub(super) fn from_object(id: &str, fields: &Map<String, Value>) -> Result<Connection, ConnectionError> {
    let mut found = Connection { id: id.to_owned(), ..Connection::default() };
    for (name, value) in fields {
        let Some((key, _)) = KEYS.iter().find(|(key, others)| key == name || others.contains(&name.as_str())) else {
            if PASSED_OVER.contains(&name.as_str()) {
                continue;
            }
            let near = closest(name, KEYS.iter().map(|(key, _)| *key));
            return Err(ConnectionError::Key { key: name.escape_debug().to_string(), near });
        };
        match *key {
            "conn_type" => found.conn_type = text(key, value)?.map(|text| kind(&text)).unwrap_or_default(),
            "description" => found.description = text(key, value)?,
            "login" => found.login = text(key, value)?,
            "password" => found.password = text(key, value)?.map(Into::into),
            "host" => found.host = text(key, value)?,
            "port" => found.port = port(value)?,
            "schema" => found.schema = text(key, value)?,
            _ => found.extra = extra(value).map(Into::into),
        }
    }
    if found.conn_type.is_empty() { Err(ConnectionError::NoType) } else { Ok(found) }
}

fn text(key: &'static str, value: &Value) -> Result<Option<String>, ConnectionError> {
    match value {
        Value::Null => Ok(None),
        Value::String(text) if text.is_empty() => Ok(None),
        Value::String(text) => Ok(Some(text.clone())),
        Value::Number(number) => Ok(Some(number.to_string())),
        Value::Bool(_) | Value::Array(_) | Value::Object(_) => Err(ConnectionError::Type { key, expected: "text" }),
    }
}

fn port(value: &Value) -> Result<Option<u16>, ConnectionError> {
    let wrong = ConnectionError::Type { key: "port", expected: "a number from 0 to 65535" };
    match value {
        Value::Null => Ok(None),
        Value::Number(number) => number.as_u64().and_then(|port| u16::try_from(port).ok()).map(Some).ok_or(wrong),
        Value::String(text) if text.is_empty() => Ok(None),
        Value::String(text) => text.parse().map(Some).map_err(|_| wrong),
        Value::Bool(_) | Value::Array(_) | Value::Object(_) => Err(wrong),
    }
}

/// Text as it is, everything else as JSON.
fn extra(value: &Value) -> Option<String> {
    match value {
        Value::Null => None,
        Value::String(text) if text.is_empty() => None,
        Value::String(text) => Some(text.clone()),
        other => Some(other.to_string()),
    }
}

/// As `airflow connections export` writes it: every key is there, and the extra is text.
pub(super) fn write(connection: &Connection) -> Value {
    let secret = |secret: &Option<secrecy::SecretString>| {
        secret.as_ref().map_or(Value::Null, |secret| Value::from(secret.expose_secret()))
    };
    serde_json::json!({
        "conn_type": connection.conn_type,
        "description": connection.description,
        "login": connection.login,
        "password": secret(&connection.password),
        "host": connection.host,
        "port": connection.port,
        "schema": connection.schema,
        "extra": secret(&connection.extra),
    })
}
