//! Airflow's URI form, `type://login:password@host:port/schema?extra`, and the URLs that systems' own clients take.

use std::fmt::Write as _;

use percent_encoding::percent_decode_str;
use secrecy::ExposeSecret;
use serde_json::{Map, Value};
use url::form_urlencoded;

use super::{Connection, ConnectionError, kind, quoted};

/// The query's key that holds an extra as one text: one that is no flat object of texts.
const WHOLE_EXTRA: &str = "__extra__";

pub(super) fn parse(id: &str, text: &str) -> Result<Connection, ConnectionError> {
    let (scheme, rest) = text.split_once("://").ok_or(ConnectionError::Form)?;
    let is_scheme = |text: &str| {
        text.starts_with(|first: char| first.is_ascii_alphabetic())
            && text.chars().all(|letter| letter.is_ascii_alphanumeric() || "+-._".contains(letter))
    };
    if !is_scheme(scheme) {
        return Err(ConnectionError::Form);
    }
    // `http://https://api.example`: Airflow's way to give the host a protocol of its own.
    let (protocol, rest) = match rest.split_once("://") {
        Some((protocol, rest)) if is_scheme(protocol) => (Some(protocol), rest),
        _ => (None, rest),
    };
    let rest = rest.split('#').next().unwrap_or_default();
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    let (user, place) = match authority.rsplit_once('@') {
        Some((user, place)) => (Some(user), place),
        None => (None, authority),
    };
    let (login, password) = match user.map(|user| user.split_once(':').ok_or(user)) {
        Some(Ok((login, password))) => (Some(login), Some(password)),
        Some(Err(login)) => (Some(login), None),
        None => (None, None),
    };
    let (host, port) = place_of(place)?;
    let host = decoded(host, "host")?;
    let some = |text: String| (!text.is_empty()).then_some(text);
    Ok(Connection {
        id: id.to_owned(),
        conn_type: kind(scheme),
        description: None,
        host: some(match protocol {
            Some(protocol) => format!("{protocol}://{host}"),
            None => host,
        }),
        port,
        schema: some(decoded(path, "schema")?),
        login: login.map(|login| decoded(login, "login")).transpose()?.and_then(some),
        password: password.map(|password| decoded(password, "password")).transpose()?.and_then(some).map(Into::into),
        extra: extra(query).map(Into::into),
    })
}

fn decoded(text: &str, part: &'static str) -> Result<String, ConnectionError> {
    let text = percent_decode_str(text).decode_utf8().map_err(|_| ConnectionError::Part(part))?;
    Ok(text.into_owned())
}

/// `host:port`, `[::1]:port`, or without a port.
fn place_of(place: &str) -> Result<(&str, Option<u16>), ConnectionError> {
    let (host, port) = match place.strip_prefix('[') {
        Some(rest) => {
            let (host, port) = rest.split_once(']').ok_or(ConnectionError::Part("host"))?;
            (host, port.strip_prefix(':').unwrap_or(port))
        }
        None => place.rsplit_once(':').unwrap_or((place, "")),
    };
    match port {
        "" => Ok((host, None)),
        // What stands there may be the end of a password whose `@` or `/` was not encoded.
        port => port.parse().map(|port| (host, Some(port))).map_err(|_| ConnectionError::Part("port")),
    }
}

fn extra(query: &str) -> Option<String> {
    let mut fields = Map::new();
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        if name == WHOLE_EXTRA {
            return Some(value.into_owned());
        }
        fields.insert(name.into_owned(), Value::String(value.into_owned()));
    }
    (!fields.is_empty()).then(|| Value::Object(fields).to_string())
}

pub(super) fn write(connection: &Connection) -> String {
    let mut text = format!("{}://", connection.conn_type.to_lowercase().replace('_', "-"));
    let host = match connection.host.as_deref().and_then(|host| host.split_once("://")) {
        Some((protocol, host)) => {
            let _ = write!(text, "{protocol}://");
            Some(host)
        }
        None => connection.host.as_deref(),
    };
    let user = user(connection);
    let has_user = !user.is_empty();
    text.push_str(&user);
    text.push_str(&quoted(host.unwrap_or_default()));
    if let Some(port) = connection.port {
        let lone = if host.is_none() && !has_user { "@" } else { "" };
        let _ = write!(text, "{lone}:{port}");
    }
    if let Some(schema) = &connection.schema {
        let _ = write!(text, "/{}", quoted(schema));
    }
    if let Some(extra) = &connection.extra {
        let mut query = form_urlencoded::Serializer::new(String::new());
        match flat(&connection.extra_fields()) {
            Some(fields) => query.extend_pairs(fields),
            None => query.append_pair(WHOLE_EXTRA, extra.expose_secret()),
        };
        let _ = write!(text, "{}?{}", if connection.schema.is_some() { "" } else { "/" }, query.finish());
    }
    text
}

/// The fields of an extra that a query says as well: not empty, and each a text.
fn flat(fields: &Map<String, Value>) -> Option<Vec<(&str, &str)>> {
    let fields: Option<Vec<_>> = fields.iter().map(|(name, value)| Some((name.as_str(), value.as_str()?))).collect();
    fields.filter(|fields| !fields.is_empty() && fields.iter().all(|(name, _)| *name != WHOLE_EXTRA))
}

fn user(connection: &Connection) -> String {
    let login = connection.login.as_deref().map(quoted).unwrap_or_default();
    match &connection.password {
        Some(password) => format!("{login}:{}@", quoted(password.expose_secret())),
        None if login.is_empty() => String::new(),
        None => format!("{login}@"),
    }
}

/// A host as URLs have it: an IPv6 address in brackets, and a path to a socket encoded.
fn host_of(host: &str) -> String {
    if is_ipv6(host) { format!("[{host}]") } else { quoted(host) }
}

fn is_ipv6(host: &str) -> bool {
    host.matches(':').count() > 1 && host.chars().all(|letter| letter.is_ascii_hexdigit() || ":.".contains(letter))
}

/// A database's URL. Of the extra, what is a plain value goes into the query, as drivers' parameters do.
pub(super) fn client_url(connection: &Connection) -> String {
    let scheme = connection.conn_type.replace('_', "-");
    let host = connection.host.as_deref().map(host_of).unwrap_or_default();
    let mut text = format!("{scheme}://{}{host}", user(connection));
    if let Some(port) = connection.port {
        let _ = write!(text, ":{port}");
    }
    if let Some(schema) = &connection.schema {
        let _ = write!(text, "/{}", quoted(schema));
    }
    let fields = connection.extra_fields();
    let plain = fields.iter().filter_map(|(name, value)| match value {
        Value::String(text) => Some((name, text.clone())),
        Value::Number(_) | Value::Bool(_) => Some((name, value.to_string())),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    });
    let mut query = form_urlencoded::Serializer::new(String::new());
    query.extend_pairs(plain);
    let query = query.finish();
    if !query.is_empty() {
        let _ = write!(text, "{}?{query}", if connection.schema.is_some() { "" } else { "/" });
    }
    text
}

/// The address below which an HTTP connection's endpoints are. A schema of `http` or `https` is the protocol, as in
/// Airflow; any other is a path, as URLs have it.
pub(super) fn http_url(connection: &Connection) -> String {
    let host = connection.host.as_deref().unwrap_or_default();
    let (schema, path) = match connection.schema.as_deref() {
        Some(schema @ ("http" | "https")) => (Some(schema), ""),
        other => (None, other.unwrap_or_default()),
    };
    let (protocol, host) = host.split_once("://").unwrap_or((schema.unwrap_or(&connection.conn_type), host));
    let (host, base) = host.split_once('/').unwrap_or((host, ""));
    let host = if is_ipv6(host) { format!("[{host}]") } else { host.to_owned() };
    let mut text = format!("{protocol}://{}{host}", user(connection));
    if let Some(port) = connection.port {
        let _ = write!(text, ":{port}");
    }
    for part in [base, path].iter().flat_map(|path| path.split('/')).filter(|part| !part.is_empty()) {
        let _ = write!(text, "/{part}");
    }
    text
}
