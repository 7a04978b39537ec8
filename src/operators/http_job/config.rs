//! The keys of a `http_job` task, and the requests that they make.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;

use crate::domain::operator_kind::ConfigProblem;
use crate::engine::operator::Failure;
use crate::operators::config::Scalar;
use crate::operators::http::{self, Data, Http, Statuses};
use crate::operators::sensor::patience::{Patience, positive};

/// How often a job is looked at by default.
const INTERVAL: Duration = Duration::from_secs(30);

/// The keys of a `http_job` task.
#[derive(Clone, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct HttpJob {
    /// The whole address that the job is submitted to, `https://…`.
    #[serde(default)]
    pub(super) url: Option<String>,
    /// The path (and query) below the address of `http_conn_id`.
    #[serde(default)]
    pub(super) endpoint: Option<String>,
    /// The connection that has the address. `status_url` and `cancel_url` are then paths below it, unless they begin with
    /// `http://` or `https://`.
    #[serde(default)]
    pub(super) http_conn_id: Option<String>,
    /// The method of the submission. Default: POST.
    #[serde(default)]
    pub(super) method: Option<String>,
    /// Headers of all requests. Never logged.
    #[serde(default)]
    pub(super) headers: BTreeMap<String, Scalar>,
    /// The submission's body as text, or as the fields of a form.
    #[serde(default)]
    pub(super) data: Option<Data>,
    /// The submission's body as JSON.
    #[serde(default)]
    pub(super) json: Option<Value>,
    /// The status, or the statuses, of a submission that was taken. Default: every 2xx.
    #[serde(default)]
    pub(super) expected_status: Option<Statuses>,
    /// How long one exchange may take, as `30s`. Default: 60s.
    #[serde(default)]
    pub(super) request_timeout: Option<Scalar>,
    /// The header by which the service knows a submission again. Default: `Idempotency-Key`.
    #[serde(default = "idempotency_header")]
    pub(super) idempotency_header: String,
    /// Where the job's state is asked for: a template with `response.status` and `response.body`, the answer to the
    /// submission.
    pub(super) status_url: String,
    /// Where in the answer's JSON the state is, as a JSON pointer. Default: `/status`.
    #[serde(default = "state_pointer")]
    pub(super) state_pointer: String,
    /// The states of a job that ended well.
    pub(super) success_states: Vec<String>,
    /// The states of a job that did not. Every other state is one of a job that goes on.
    pub(super) failure_states: Vec<String>,
    /// Where the job's cancellation is asked for, a template as `status_url` is. Without it a job is never cancelled.
    #[serde(default)]
    pub(super) cancel_url: Option<String>,
    /// The method of that. Default: DELETE.
    #[serde(default)]
    pub(super) cancel_method: Option<String>,
    /// How long it is between two looks at the job. Default: 30s.
    #[serde(default)]
    pub(super) poke_interval: Option<Scalar>,
    /// How long the job may take, from the task's first attempt on: then it is cancelled, and the task fails for good.
    #[serde(default)]
    pub(super) timeout: Option<Scalar>,
}

fn idempotency_header() -> String {
    "Idempotency-Key".to_owned()
}

fn state_pointer() -> String {
    "/status".to_owned()
}

impl HttpJob {
    pub(super) fn patience(&self) -> Result<Patience, Failure> {
        let read = |key, given: &Option<Scalar>| {
            positive(key, given.as_ref()).map_err(|problem| Failure::Fatal(format!("`{key}`: {}", problem.message)))
        };
        let interval = read("poke_interval", &self.poke_interval)?.unwrap_or(INTERVAL);
        Ok(Patience { timeout: read("timeout", &self.timeout)?, ..Patience::endless(interval) })
    }

    /// The request that submits the job.
    pub(super) fn submission(&self, token: &str) -> Http {
        let mut headers = self.headers.clone();
        headers.insert(self.idempotency_header.clone(), Scalar::Text(token.to_owned()));
        Http {
            url: self.url.clone(),
            endpoint: self.endpoint.clone(),
            http_conn_id: self.http_conn_id.clone(),
            method: self.method.clone(),
            headers,
            data: self.data.clone(),
            json: self.json.clone(),
            timeout: self.request_timeout.clone(),
            expected_status: self.expected_status.clone(),
            log_response: false,
            is_quiet: false,
        }
    }

    /// A request about the job.
    pub(super) fn request(&self, address: String, method: &str) -> Http {
        let is_whole = self.http_conn_id.is_none() || address.contains("://");
        let (url, endpoint) = if is_whole { (Some(address), None) } else { (None, Some(address)) };
        Http {
            url,
            endpoint,
            http_conn_id: self.http_conn_id.clone().filter(|_| !is_whole),
            method: Some(method.to_owned()),
            headers: self.headers.clone(),
            data: None,
            json: None,
            timeout: self.request_timeout.clone(),
            expected_status: None,
            log_response: false,
            is_quiet: true,
        }
    }

    pub(super) fn cancellation(&self, address: String) -> Http {
        self.request(address, self.cancel_method.as_deref().unwrap_or("DELETE"))
    }
}

/// What is wrong beyond the shape.
pub(super) fn problems(job: &HttpJob) -> Vec<ConfigProblem> {
    let mut problems: Vec<ConfigProblem> = http::problems(&job.submission("token"));
    for problem in &mut problems {
        if problem.path == ["timeout"] {
            problem.path = vec!["request_timeout".to_owned()];
        }
    }
    let method = job.cancellation(String::new()).method();
    if method.is_none() {
        problems.push(ConfigProblem::at("cancel_method", "this is no HTTP method"));
    }
    problems.extend(positive("poke_interval", job.poke_interval.as_ref()).err());
    problems.extend(positive("timeout", job.timeout.as_ref()).err());
    if !job.state_pointer.is_empty() && !job.state_pointer.starts_with('/') {
        problems
            .push(ConfigProblem::at("state_pointer", "a JSON pointer begins with `/`").help("write it as `/status`"));
    }
    if job.success_states.is_empty() {
        problems.push(ConfigProblem::at("success_states", "without one the job never ends well"));
    }
    if let Some(both) = job.success_states.iter().find(|state| job.failure_states.contains(state)) {
        let message = format!("`{both}` is among `success_states` too");
        problems.push(ConfigProblem::at("failure_states", message));
    }
    problems
}
