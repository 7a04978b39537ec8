//! The keys of an `http` task, and what can be said of them before it runs.

use std::collections::BTreeMap;
use std::time::Duration;

use reqwest::Method;
use reqwest::header::{HeaderName, HeaderValue};
use serde::Deserialize;
use serde_json::Value;
use url::Url;

use crate::domain::duration::parse_duration;
use crate::domain::operator_kind::ConfigProblem;
use crate::operators::config::Scalar;

/// As long as a service may think by default.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(60);

/// The keys of an `http` task.
#[derive(Clone, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::operators) struct Http {
    /// The whole address, `https://…`.
    #[serde(default)]
    pub(in crate::operators) url: Option<String>,
    /// The path (and query) below the address of `http_conn_id`.
    #[serde(default)]
    pub(in crate::operators) endpoint: Option<String>,
    /// The connection that has the address: `https://[user:password@]host[:port][/path]`; its extra has headers.
    #[serde(default)]
    pub(in crate::operators) http_conn_id: Option<String>,
    /// The method; POST by default, as in Airflow.
    #[serde(default)]
    pub(in crate::operators) method: Option<String>,
    /// Headers. Never logged.
    #[serde(default)]
    pub(in crate::operators) headers: BTreeMap<String, Scalar>,
    /// The body as text; or fields: the query of a GET, else a form.
    #[serde(default)]
    pub(in crate::operators) data: Option<Data>,
    /// The body as JSON.
    #[serde(default)]
    pub(in crate::operators) json: Option<Value>,
    /// How long the whole exchange may take, as `30s`. Default: 60s.
    #[serde(default)]
    pub(in crate::operators) timeout: Option<Scalar>,
    /// The status, or the statuses, that mean success. Default: every 2xx.
    #[serde(default)]
    pub(in crate::operators) expected_status: Option<Statuses>,
    /// Writes the answer's body to the log.
    #[serde(default)]
    pub(in crate::operators) log_response: bool,
    /// Whether the log is not told of each exchange; for those who have many.
    #[serde(skip)]
    pub(in crate::operators) is_quiet: bool,
}

/// A body.
#[derive(Clone, Deserialize, schemars::JsonSchema)]
#[serde(untagged)]
pub(in crate::operators) enum Data {
    /// As it is.
    Text(String),
    /// Fields.
    Fields(BTreeMap<String, Scalar>),
}

/// One status or several.
#[derive(Clone, Deserialize, schemars::JsonSchema)]
#[serde(untagged)]
pub(in crate::operators) enum Statuses {
    /// One.
    One(u16),
    /// Several.
    Several(Vec<u16>),
}

impl Statuses {
    pub(in crate::operators) fn as_slice(&self) -> &[u16] {
        match self {
            Self::One(status) => std::slice::from_ref(status),
            Self::Several(statuses) => statuses,
        }
    }
}

impl Http {
    /// The method; `None` when it is none.
    pub(in crate::operators) fn method(&self) -> Option<Method> {
        let name = self.method.as_deref().unwrap_or("POST").to_ascii_uppercase();
        ["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"]
            .contains(&name.as_str())
            .then(|| Method::from_bytes(name.as_bytes()).ok())
            .flatten()
    }

    /// The time limit; `None` when the text is no duration.
    pub(in crate::operators) fn timeout(&self) -> Option<Duration> {
        match &self.timeout {
            Some(timeout) => parse_duration(&timeout.clone().into_text()).ok(),
            None => Some(DEFAULT_TIMEOUT),
        }
    }

    /// Whether an answer of that status is a success.
    pub(in crate::operators) fn expects(&self, status: u16) -> bool {
        match &self.expected_status {
            Some(statuses) => statuses.as_slice().contains(&status),
            None => (200..300).contains(&status),
        }
    }

    /// Whether the request carries anything that is meant for its own host alone.
    pub(in crate::operators) fn is_confidential(&self, address: &Url) -> bool {
        !self.headers.is_empty()
            || self.data.is_some()
            || self.json.is_some()
            || !address.username().is_empty()
            || address.password().is_some()
            // Tokens are often given there.
            || address.query().is_some()
    }
}

/// What is wrong beyond the shape.
pub(in crate::operators) fn problems(http: &Http) -> Vec<ConfigProblem> {
    let mut problems = Vec::new();
    match (&http.url, &http.endpoint, &http.http_conn_id) {
        (Some(url), None, None) => problems.extend(address(url).err().map(|why| ConfigProblem::at("url", why))),
        (None, Some(endpoint), None) if address(endpoint).is_err() => problems.push(
            ConfigProblem::at("endpoint", "it has no host")
                .help("name the host's connection by `http_conn_id`, or use `url`"),
        ),
        (None, Some(_), _) | (None, None, Some(_)) => {}
        (None, None, None) => problems.push(ConfigProblem::at("url", "either `url` or `endpoint` is needed")),
        (Some(_), _, _) => {
            problems.push(ConfigProblem::at("url", "it is the whole address: leave out `endpoint` and `http_conn_id`"))
        }
    }
    if http.method().is_none() {
        problems.push(
            ConfigProblem::at("method", "this is no HTTP method")
                .help("GET, POST, PUT, PATCH, DELETE, HEAD or OPTIONS"),
        );
    }
    if http.data.is_some() && http.json.is_some() {
        problems.push(ConfigProblem::at("json", "a request has one body: `data` or `json`"));
    }
    if http.timeout().is_none_or(|timeout| timeout.is_zero()) {
        problems.push(ConfigProblem::at("timeout", "this is no duration").help("write it as `30s` or `2m`"));
    }
    if http.expected_status.as_ref().is_some_and(|all| !all.as_slice().iter().all(|status| (200..600).contains(status)))
    {
        problems.push(ConfigProblem::at("expected_status", "a status is a number from 200 to 599"));
    }
    for (name, value) in &http.headers {
        let is_valid = name.parse::<HeaderName>().is_ok() && value.clone().into_text().parse::<HeaderValue>().is_ok();
        if !is_valid {
            let path = vec!["headers".to_owned(), name.clone()];
            problems.push(ConfigProblem {
                path,
                message: format!("`{name}` or its value is no HTTP header"),
                help: None,
            });
        }
    }
    problems
}

/// An address that a request can go to.
pub(in crate::operators) fn address(text: &str) -> Result<Url, String> {
    let url = Url::parse(text).map_err(|error| format!("this is no address: {error}"))?;
    match url.scheme() {
        "http" | "https" if url.has_host() => Ok(url),
        scheme => Err(format!("`{scheme}` is not http or https")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(config: &Value) -> Vec<Vec<String>> {
        crate::operators::config::check(config, problems).into_iter().map(|problem| problem.path).collect()
    }

    #[test]
    fn mistakes_name_their_key() {
        assert!(check(&json!({"url": "https://h/x"})).is_empty());
        assert!(
            check(&json!({"endpoint": "api/x", "http_conn_id": "h", "timeout": 5, "expected_status": [200, 404]}))
                .is_empty()
        );
        assert_eq!(check(&json!({})), [["url"]]);
        assert_eq!(check(&json!({"url": "ftp://h/x"})), [["url"]]);
        assert_eq!(check(&json!({"endpoint": "api/x"})), [["endpoint"]]);
        assert_eq!(check(&json!({"url": "https://h", "method": "FETCH"})), [["method"]]);
        assert_eq!(check(&json!({"url": "https://h", "data": "a", "json": {}})), [["json"]]);
        assert_eq!(check(&json!({"url": "https://h", "timeout": "soon"})), [["timeout"]]);
        assert_eq!(check(&json!({"url": "https://h", "expected_status": 99})), [["expected_status"]]);
        assert_eq!(check(&json!({"url": "https://h", "headers": {"a b": "c"}})), [["headers", "a b"]]);
    }
}
