//! `http_sensor`: waits until a service answers as it is wanted to.

use std::collections::BTreeMap;

use async_trait::async_trait;
use serde_json::Value;

use super::patience::sensor_keys;
use super::watch::{Look, Seen};
use super::{Sensor, build, check, met};
use crate::domain::operator_kind::{ConfigProblem, LateField, OperatorKind};
use crate::engine::operator::{Failure, Output, Registration, TaskContext};
use crate::operators::config::Scalar;
use crate::operators::http::{Data, Http, Statuses, problems};
use crate::operators::short_circuit::holds;

pub(in crate::operators) const REGISTRATION: Registration = Registration { kind: &KIND, build: build::<HttpSensor> };

static KIND: OperatorKind = OperatorKind {
    name: "http_sensor",
    class_paths: &["airflow.providers.http.sensors.http.HttpSensor", "airflow.sensors.http_sensor.HttpSensor"],
    about: "Waits until a service answers as it is wanted to",
    schema: || schemars::schema_for!(HttpSensor),
    check: check::<HttpSensor>,
    late_fields: &[LateField { key: "response_check", variables: &["response"] }],
    file_keys: &[],
};

/// A service that has not got it yet says so with this status.
const NOT_FOUND: u16 = 404;

sensor_keys! {
    /// The keys of a `http_sensor` task.
    HttpSensor {
        /// The whole address, `https://…`.
        #[serde(default)]
        url: Option<String>,
        /// The path (and query) below the address of `http_conn_id`.
        #[serde(default)]
        endpoint: Option<String>,
        /// The connection that has the address.
        #[serde(default)]
        http_conn_id: Option<String>,
        /// The method. Default: GET.
        #[serde(default)]
        method: Option<String>,
        /// Headers. Never logged.
        #[serde(default)]
        headers: BTreeMap<String, Scalar>,
        /// The query, by names.
        #[serde(default)]
        request_params: Option<BTreeMap<String, Scalar>>,
        /// How long one exchange may take, as `30s`. Default: 60s.
        #[serde(default)]
        request_timeout: Option<Scalar>,
        /// The status, or the statuses, that are waited for. Default: every 2xx.
        #[serde(default)]
        expected_status: Option<Statuses>,
        /// A template that says whether the answer is the one that is waited for, by `response.status` and `response.body`.
        #[serde(default)]
        response_check: Option<String>,
    }
}

impl HttpSensor {
    fn request(&self) -> Http {
        Http {
            url: self.url.clone(),
            endpoint: self.endpoint.clone(),
            http_conn_id: self.http_conn_id.clone(),
            method: self.method.clone().or_else(|| Some("GET".to_owned())),
            headers: self.headers.clone(),
            data: self.request_params.clone().map(Data::Fields),
            json: None,
            timeout: self.request_timeout.clone(),
            expected_status: self.expected_status.clone(),
            log_response: false,
            is_quiet: true,
        }
    }

    async fn is_wanted(&self, response: &Output, context: &TaskContext) -> Result<bool, Failure> {
        let Some(template) = &self.response_check else { return Ok(true) };
        let scope = context.templates_for(template).await?;
        let response = Value::Object(response.clone());
        let said = scope.render(template, &[("response", response)]);
        Ok(holds(&Value::String(said?)))
    }
}

impl Sensor for HttpSensor {
    fn problems(&self) -> Vec<ConfigProblem> {
        problems(&self.request()).into_iter().map(renamed).collect()
    }
}

/// A problem of the request's, at the key that it has here.
fn renamed(mut problem: ConfigProblem) -> ConfigProblem {
    for part in problem.path.iter_mut().take(1) {
        match part.as_str() {
            "timeout" => "request_timeout".clone_into(part),
            "data" | "json" => "request_params".clone_into(part),
            _ => {}
        }
    }
    problem
}

#[async_trait]
impl Look for HttpSensor {
    async fn look(&self, context: &TaskContext) -> Result<Seen, Failure> {
        let response = match self.request().exchange(context).await {
            Ok(response) => response,
            Err(error) if is_not_yet(error.status(), self.expected_status.is_some()) => {
                return Ok(Seen::NotYet(error.to_string()));
            }
            Err(error) => return Err(error.into()),
        };
        if self.is_wanted(&response, context).await? {
            return Ok(Seen::Met(met(response.get("body").cloned().unwrap_or_default())));
        }
        Ok(Seen::NotYet("the answer is not the one that is waited for".to_owned()))
    }
}

/// Whether an answer of another status than the wanted ones is one of a service that has not got it yet. One that says
/// which status it waits for waits through all others.
fn is_not_yet(status: Option<u16>, is_given: bool) -> bool {
    status.is_some_and(|status| is_given || status == NOT_FOUND)
}
