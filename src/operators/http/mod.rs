//! `http`: sends a request and takes the answer, as Airflow's `HttpOperator` does.
//!
//! It is at least once: an attempt that dies after the request was sent is repeated. What a request carries (headers,
//! credentials, a query, a body) goes to its own host alone: a redirect to another one is not followed, and fails.

mod config;

use std::fmt::Write as _;
use std::sync::OnceLock;

use async_trait::async_trait;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};
use reqwest::redirect::Policy;
use reqwest::{Client, Method, RequestBuilder, Response, StatusCode};
use secrecy::ExposeSecret;
use serde_json::Value;
use url::Url;

use crate::domain::connection::Connection;
use crate::domain::operator_kind::OperatorKind;
use crate::engine::lookup::LookupError;
use crate::engine::operator::{Failure, Operator, Output, Registration, TaskContext, chain};
use crate::operators::config as keys;

pub(in crate::operators) use config::{Data, Http, Statuses, problems};

pub(crate) const REGISTRATION: Registration = Registration { kind: &KIND, build };

static KIND: OperatorKind = OperatorKind {
    name: "http",
    class_paths: &[
        "airflow.providers.http.operators.http.HttpOperator",
        "airflow.providers.http.operators.http.SimpleHttpOperator",
        "airflow.operators.http_operator.SimpleHttpOperator",
    ],
    about: "Sends an HTTP request and takes the answer",
    schema: || schemars::schema_for!(Http),
    check: |value| keys::check(value, config::problems),
    late_fields: &[],
    file_keys: &[],
};

/// What an answer to a look may have: thousands may look at once, each for a word of it.
const LOOK_LIMIT: u64 = 1024 * 1024;

/// What is read of an answer that is refused anyway.
const REFUSED_LIMIT: u64 = 64 * 1024;

/// As many redirects as browsers and other clients follow.
const REDIRECTS: usize = 10;

/// How much of a refusal's body an error shows.
const SHOWN: usize = 500;

/// Why there is no answer that was wanted.
#[derive(Debug, thiserror::Error)]
pub(in crate::operators) enum HttpError {
    #[error(transparent)]
    Lookup(#[from] LookupError),
    #[error("connection `{id}` is of type `{conn_type}`, which is not http or https")]
    NotHttp { id: String, conn_type: String },
    #[error("the address of {origin} cannot be used: {message}")]
    Address { origin: String, message: String },
    #[error("`{key}` cannot be used")]
    Key { key: &'static str },
    #[error("could not {method} {address}: {message}")]
    Exchange { method: Method, address: String, message: String },
    #[error("could not {method} {address}: it redirects more than {REDIRECTS} times")]
    Redirects { method: Method, address: String },
    #[error("{method} {address} was answered with more than {limit} bytes, which is more than {of} may have")]
    TooLong { method: Method, address: String, limit: u64, of: &'static str },
    #[error("{method} {address} was answered with {status}{advice}{body}")]
    Status { method: Method, address: String, status: StatusCode, advice: String, body: String },
}

impl HttpError {
    /// The status that was not a wanted one, where there was an answer.
    pub(in crate::operators) fn status(&self) -> Option<u16> {
        match self {
            Self::Status { status, .. } => Some(status.as_u16()),
            Self::Lookup(_)
            | Self::NotHttp { .. }
            | Self::Address { .. }
            | Self::Key { .. }
            | Self::Exchange { .. }
            | Self::TooLong { .. }
            | Self::Redirects { .. } => None,
        }
    }
}

impl From<HttpError> for Failure {
    fn from(error: HttpError) -> Self {
        let passes = match &error {
            HttpError::Exchange { .. } => true,
            HttpError::Status { status, .. } => {
                status.is_server_error()
                    || matches!(
                        *status,
                        StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_EARLY
                    )
            }
            HttpError::Lookup(error) => error.is_transient(),
            HttpError::NotHttp { .. }
            | HttpError::Redirects { .. }
            | HttpError::TooLong { .. }
            | HttpError::Address { .. }
            | HttpError::Key { .. } => false,
        };
        if passes { Self::retry(&error) } else { Self::fatal(&error) }
    }
}

fn build(config: Value) -> Result<Box<dyn Operator>, serde_json::Error> {
    Ok(Box::new(serde_json::from_value::<Http>(config)?))
}

#[async_trait]
impl Operator for Http {
    async fn run(&self, context: &TaskContext) -> Result<Output, Failure> {
        tokio::select! {
            biased;
            () = context.cancel.cancelled() => Err(Failure::Interrupted),
            output = self.exchange(context) => Ok(output?),
        }
    }
}

impl Http {
    /// Sends the request, and gives the answer's status and body, as the task's output has them.
    ///
    /// # Errors
    /// [`HttpError`], also for an answer of a status that is not expected.
    pub(in crate::operators) async fn exchange(&self, context: &TaskContext) -> Result<Output, HttpError> {
        let connection = self.connection(context).await?;
        let address = self.address(connection.as_ref())?;
        let method = self.method().ok_or(HttpError::Key { key: "method" })?;
        let shown = shown(&address);
        let failed = |error: reqwest::Error| {
            let (method, address) = (method.clone(), shown.clone());
            if error.is_redirect() {
                return HttpError::Redirects { method, address };
            }
            HttpError::Exchange { method, address, message: chain(&error.without_url()) }
        };
        let request = self.request(method.clone(), address, connection.as_ref())?;
        let mut response = request.send().await.map_err(failed)?;
        let status = response.status();
        if !self.is_quiet {
            context.log.line(format!("{method} {shown}: {status}"));
        }
        let (limit, of) = match self.is_quiet {
            true => (LOOK_LIMIT, "an answer to a look"),
            false => (context.output_limit, "an output (`outputs.limit`)"),
        };
        let limit = if self.expects(status.as_u16()) { limit } else { REFUSED_LIMIT };
        let (body, is_whole) = read(&mut response, limit).await.map_err(failed)?;
        if self.log_response {
            String::from_utf8_lossy(&body).lines().for_each(|line| context.log.line(line));
        }
        if !self.expects(status.as_u16()) {
            let body = context.lookup.masks().mask(&String::from_utf8_lossy(&body)).into_owned();
            let (advice, body) = (advice(&response), excerpt(&body));
            return Err(HttpError::Status { method, address: shown, status, advice, body });
        }
        if !is_whole {
            return Err(HttpError::TooLong { method, address: shown, limit, of });
        }
        let mut output = Output::new();
        output.insert("status".to_owned(), Value::from(status.as_u16()));
        // An answer may say back what it was sent.
        let body = context.lookup.masks().mask_value(content(&response, &body));
        output.insert("body".to_owned(), body);
        Ok(output)
    }

    async fn connection(&self, context: &TaskContext) -> Result<Option<Connection>, HttpError> {
        let Some(id) = &self.http_conn_id else { return Ok(None) };
        let connection = context.lookup.connection(id).await?;
        if connection.is_http() {
            return Ok(Some(connection));
        }
        Err(HttpError::NotHttp { id: id.clone(), conn_type: connection.conn_type })
    }

    /// Where the request goes: `url`, or `endpoint` below the connection's address.
    fn address(&self, connection: Option<&Connection>) -> Result<Url, HttpError> {
        let parsed = |text: &str, origin: &str| {
            config::address(text).map_err(|message| HttpError::Address { origin: origin.to_owned(), message })
        };
        let endpoint = self.endpoint.as_deref().unwrap_or_default();
        match (&self.url, connection) {
            (Some(url), _) => parsed(url, "`url`"),
            (None, None) => parsed(endpoint, "`endpoint`"),
            (None, Some(connection)) => {
                let base = connection.url();
                let address = format!("{}/{}", base.expose_secret(), endpoint.trim_start_matches('/'));
                parsed(&address, &format!("connection `{}`", connection.id))
            }
        }
    }

    fn request(
        &self,
        method: Method,
        address: Url,
        connection: Option<&Connection>,
    ) -> Result<RequestBuilder, HttpError> {
        let timeout = self.timeout().ok_or(HttpError::Key { key: "timeout" })?;
        let headers = self.header_map(connection)?;
        let is_confidential = self.is_confidential(&address) || !headers.is_empty();
        let is_get = method == Method::GET || method == Method::HEAD;
        let mut request = client(is_confidential)?.request(method, address).timeout(timeout).headers(headers);
        if let Some(json) = &self.json {
            request = request.json(json);
        }
        match &self.data {
            None => {}
            Some(Data::Text(text)) => request = request.body(text.clone()),
            Some(Data::Fields(fields)) => {
                let pairs: Vec<(&str, String)> =
                    fields.iter().map(|(name, value)| (name.as_str(), value.clone().into_text())).collect();
                request = if is_get { request.query(&pairs) } else { request.form(&pairs) };
            }
        }
        Ok(request)
    }

    /// The task's headers over those of the connection.
    fn header_map(&self, connection: Option<&Connection>) -> Result<HeaderMap, HttpError> {
        let mut headers = HeaderMap::new();
        let mut add = |name: &str, value: &str| {
            let (Ok(name), Ok(mut value)) = (name.parse::<HeaderName>(), value.parse::<HeaderValue>()) else {
                return Err(HttpError::Key { key: "headers" });
            };
            value.set_sensitive(true);
            headers.insert(name, value);
            Ok(())
        };
        for (name, value) in connection.iter().flat_map(|connection| connection_headers(connection)) {
            add(&name, &value)?;
        }
        for (name, value) in &self.headers {
            add(name, &value.clone().into_text())?;
        }
        Ok(headers)
    }
}

/// The headers that a connection's extra has, as in Airflow: each of its fields, but for those that are settings of
/// Airflow's client, and those below `headers`.
fn connection_headers(connection: &Connection) -> Vec<(String, String)> {
    const SETTINGS: [&str; 12] = [
        "allow_redirects",
        "auth_kwargs",
        "auth_type",
        "check_response",
        "headers",
        "max_redirects",
        "proxies",
        "session_kwargs",
        "stream",
        "timeout",
        "trust_env",
        "verify",
    ];
    let extra = connection.extra_fields();
    let below = extra.get("headers").and_then(Value::as_object).into_iter().flatten();
    let fields = extra.iter().filter(|(name, _)| !SETTINGS.contains(&name.as_str())).chain(below);
    fields.filter_map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned()))).collect()
}

/// The process's client: one for what may be told to any host, and one for what may not.
fn client(is_confidential: bool) -> Result<&'static Client, HttpError> {
    static CLIENTS: [OnceLock<Client>; 2] = [const { OnceLock::new() }; 2];
    let place = &CLIENTS[usize::from(is_confidential)];
    if let Some(client) = place.get() {
        return Ok(client);
    }
    let client = Client::builder()
        .user_agent(concat!("pinsched/", env!("CARGO_PKG_VERSION")))
        .redirect(redirects(is_confidential))
        // It would tell the next host this one's query.
        .referer(false)
        // Thousands of tasks may look at a host each once a minute.
        .pool_max_idle_per_host(0)
        .build()
        .map_err(|error| HttpError::Address { origin: "the request".to_owned(), message: chain(&error) })?;
    Ok(place.get_or_init(|| client))
}

/// Follows redirects to the same host, and to others when there is nothing to give away.
fn redirects(is_confidential: bool) -> Policy {
    Policy::custom(move |attempt| {
        let is_same_host = attempt.previous().first().is_some_and(|first| first.origin() == attempt.url().origin());
        if attempt.previous().len() > REDIRECTS {
            attempt.error("there are too many redirects")
        } else if is_same_host || !is_confidential {
            attempt.follow()
        } else {
            attempt.stop()
        }
    })
}

/// An address without what may be secret in it: the password and the query.
fn shown(address: &Url) -> String {
    let mut text = format!("{}://{}", address.scheme(), address.host_str().unwrap_or_default());
    if let Some(port) = address.port() {
        let _ = write!(text, ":{port}");
    }
    text.push_str(address.path());
    text
}

/// The body up to its limit, and whether that is all.
async fn read(response: &mut Response, limit: u64) -> Result<(Vec<u8>, bool), reqwest::Error> {
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        let room = limit - body.len();
        body.extend_from_slice(&chunk[..chunk.len().min(room)]);
        if chunk.len() > room {
            return Ok((body, false));
        }
    }
    Ok((body, true))
}

/// JSON as JSON, everything else as text.
fn content(response: &Response, body: &[u8]) -> Value {
    let kind = response.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let is_json = kind.starts_with("application/json") || kind.split(';').next().unwrap_or_default().ends_with("+json");
    let parsed = is_json.then(|| serde_json::from_slice(body).ok()).flatten();
    parsed.unwrap_or_else(|| Value::from(String::from_utf8_lossy(body)))
}

fn advice(response: &Response) -> String {
    let header = |name| response.headers().get(name).and_then(|value| value.to_str().ok());
    if response.status().is_redirection() {
        let to = header(reqwest::header::LOCATION).and_then(|to| response.url().join(to).ok());
        let host = to.map_or_else(|| "nowhere".to_owned(), |to| shown(&to));
        return format!(": it redirects to {host}, where this request's headers, query and body must not go");
    }
    header(RETRY_AFTER).map_or_else(String::new, |after| format!(", to be tried again after {after}"))
}

/// The beginning of a body, for an error.
fn excerpt(body: &str) -> String {
    let text = body.trim();
    if text.is_empty() { String::new() } else { format!(": {}", text.chars().take(SHOWN).collect::<String>()) }
}
