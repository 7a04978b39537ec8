//! Which names tell that a value is secret: Airflow's list, and what AWS and others call theirs.

use secrecy::SecretString;
use serde_json::Value;

/// What a secret's name has in it, in lower case with underscores.
const TELLTALE: [&str; 13] = [
    "access_key",
    "api_key",
    "apikey",
    "authorization",
    "credential",
    "keyfile_dict",
    "passphrase",
    "passwd",
    "password",
    "private_key",
    "secret",
    "service_account",
    "token",
];

/// Whether what stands under that name is not for everybody's eyes.
#[must_use]
pub fn is_secret_name(name: &str) -> bool {
    let name = name.to_lowercase().replace(['-', ' ', '.'], "_");
    TELLTALE.iter().any(|part| name.contains(part))
}

/// The texts in a value that stand under a secret's name, at any depth. No numbers: `token_ttl: 3600` would hide every 3600.
#[must_use]
pub fn secrets_in(name: &str, value: &Value) -> Vec<SecretString> {
    let mut found = Vec::new();
    collect(is_secret_name(name), value, &mut found);
    found
}

fn collect(is_secret: bool, value: &Value, found: &mut Vec<SecretString>) {
    match value {
        Value::String(text) if is_secret => found.push(text.as_str().into()),
        Value::Array(items) => items.iter().for_each(|item| collect(is_secret, item, found)),
        Value::Object(fields) => {
            fields.iter().for_each(|(name, field)| collect(is_secret || is_secret_name(name), field, found));
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}
