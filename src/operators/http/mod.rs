//! `http`: sends a request and takes the answer, as Airflow's `HttpOperator` does.
//!
//! It is at least once: an attempt that dies after the request was sent is repeated. What a request carries (headers,
//! credentials, a query, a body) goes to its own host alone: a redirect to another one is not followed, and fails.

mod config;

use std::fmt::Write as _;

use async_trait::async_trait;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};
use reqwest::redirect::Policy;
use reqwest::{Client, Method, RequestBuilder, Response, StatusCode};
use secrecy::ExposeSecret;
use serde_json::Value;
use url::Url;

use crate::connect::NoConnection;
use crate::domain::operator_kind::OperatorKind;
use crate::engine::operator::{Failure, Operator, Output, Registration, TaskContext, chain};
use crate::operators::config as keys;

use config::{Data, Http};

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

/// An answer is kept up to here: outputs are for other tasks' templates, not for downloads.
const BODY_LIMIT: usize = 1024 * 1024;

/// As many redirects as browsers and other clients follow.
const REDIRECTS: usize = 10;

/// How much of a refusal's body an error shows.
const SHOWN: usize = 500;

/// Why there is no answer that was wanted.
#[derive(Debug, thiserror::Error)]
enum HttpError {
    #[error(transparent)]
    NoConnection(#[from] NoConnection),
    #[error("the address of {origin} cannot be used: {message}")]
    Address { origin: String, message: String },
    #[error("`{key}` cannot be used")]
    Key { key: &'static str },
    #[error("could not {method} {address}: {message}")]
    Exchange { method: Method, address: String, message: String },
    #[error("could not {method} {address}: it redirects more than {REDIRECTS} times")]
    Redirects { method: Method, address: String },
    #[error("{method} {address} was answered with {status}{advice}{body}")]
    Status { method: Method, address: String, status: StatusCode, advice: String, body: String },
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
            HttpError::NoConnection(_)
            | HttpError::Redirects { .. }
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
    async fn exchange(&self, context: &TaskContext) -> Result<Output, HttpError> {
        let address = self.address(context)?;
        let method = self.method().ok_or(HttpError::Key { key: "method" })?;
        let shown = shown(&address);
        let failed = |error: reqwest::Error| {
            let (method, address) = (method.clone(), shown.clone());
            if error.is_redirect() {
                return HttpError::Redirects { method, address };
            }
            HttpError::Exchange { method, address, message: chain(&error.without_url()) }
        };
        let request = self.request(method.clone(), address)?;
        let mut response = request.send().await.map_err(failed)?;
        let status = response.status();
        context.log.line(format!("{method} {shown}: {status}"));
        let (body, is_whole) = read(&mut response).await.map_err(failed)?;
        if self.log_response {
            String::from_utf8_lossy(&body).lines().for_each(|line| context.log.line(line));
        }
        if !self.expects(status.as_u16()) {
            let (advice, body) = (advice(&response), excerpt(&body));
            return Err(HttpError::Status { method, address: shown, status, advice, body });
        }
        let mut output = Output::new();
        output.insert("status".to_owned(), Value::from(status.as_u16()));
        output.insert("body".to_owned(), content(&response, &body, is_whole));
        if !is_whole {
            context.log.line(format!("the answer is longer than {BODY_LIMIT} bytes: the rest was left out"));
            output.insert("truncated".to_owned(), Value::from(true));
        }
        Ok(output)
    }

    /// Where the request goes: `url`, or `endpoint` below the connection's address.
    fn address(&self, context: &TaskContext) -> Result<Url, HttpError> {
        let parsed = |text: &str, origin: &str| {
            config::address(text).map_err(|message| HttpError::Address { origin: origin.to_owned(), message })
        };
        let endpoint = self.endpoint.as_deref().unwrap_or_default();
        match (&self.url, &self.http_conn_id) {
            (Some(url), _) => parsed(url, "`url`"),
            (None, None) => parsed(endpoint, "`endpoint`"),
            (None, Some(name)) => {
                let base = context.endpoints.connection(name)?;
                let base = base.expose_secret().trim_end_matches('/');
                parsed(&format!("{base}/{}", endpoint.trim_start_matches('/')), &format!("connection `{name}`"))
            }
        }
    }

    fn request(&self, method: Method, address: Url) -> Result<RequestBuilder, HttpError> {
        let timeout = self.timeout().ok_or(HttpError::Key { key: "timeout" })?;
        let is_confidential = self.is_confidential(&address);
        let client = Client::builder()
            .timeout(timeout)
            .user_agent(concat!("pinsched/", env!("CARGO_PKG_VERSION")))
            .redirect(redirects(is_confidential))
            // It would tell the next host this one's query.
            .referer(false)
            .build()
            .map_err(|error| HttpError::Address { origin: "the request".to_owned(), message: chain(&error) })?;
        let is_get = method == Method::GET || method == Method::HEAD;
        let mut request = client.request(method, address).headers(self.header_map()?);
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

    fn header_map(&self) -> Result<HeaderMap, HttpError> {
        let mut headers = HeaderMap::new();
        for (name, value) in &self.headers {
            let name = name.parse::<HeaderName>().map_err(|_| HttpError::Key { key: "headers" })?;
            let mut value =
                value.clone().into_text().parse::<HeaderValue>().map_err(|_| HttpError::Key { key: "headers" })?;
            value.set_sensitive(true);
            headers.insert(name, value);
        }
        Ok(headers)
    }
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
async fn read(response: &mut Response) -> Result<(Vec<u8>, bool), reqwest::Error> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        let room = BODY_LIMIT - body.len();
        body.extend_from_slice(&chunk[..chunk.len().min(room)]);
        if chunk.len() > room {
            return Ok((body, false));
        }
    }
    Ok((body, true))
}

/// JSON as JSON, everything else as text.
fn content(response: &Response, body: &[u8], is_whole: bool) -> Value {
    let kind = response.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let is_json = kind.starts_with("application/json") || kind.split(';').next().unwrap_or_default().ends_with("+json");
    let parsed = (is_json && is_whole).then(|| serde_json::from_slice(body).ok()).flatten();
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
fn excerpt(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body);
    let text = text.trim();
    if text.is_empty() { String::new() } else { format!(": {}", text.chars().take(SHOWN).collect::<String>()) }
}
