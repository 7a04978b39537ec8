//! Who is told of runs beside people: a collector of traces, a keeper of lineage.
//!
//! The variables are those of OpenTelemetry's and OpenLineage's own clients.

use percent_encoding::percent_decode_str;
use secrecy::{ExposeSecret, SecretString};
use url::Url;

use super::error::Problem;
use super::keys::{Key, key};
use super::settings::http_url;
use super::values::{Origin, Value, Values};

/// Where OTLP takes traces below its endpoint.
const TRACES: &str = "v1/traces";

/// Traces.
#[derive(Debug, Clone)]
pub struct TelemetrySettings {
    /// Where they go; `None`: nowhere.
    pub traces_url: Option<Url>,
    /// Headers that go with them.
    pub headers: Vec<(String, SecretString)>,
    /// Attributes of their resource, `service.name` among them.
    pub resource: Vec<(String, String)>,
}

/// OpenLineage events.
#[derive(Debug, Clone)]
pub struct OpenLineageSettings {
    /// Where they go, with the path; `None`: nowhere.
    pub url: Option<Url>,
    /// The bearer token that goes with them.
    pub api_key: Option<SecretString>,
    /// The namespace of jobs.
    pub namespace: String,
}

pub(super) fn telemetry(
    values: &Values,
    problems: &mut Vec<Problem>,
    warnings: &mut Vec<String>,
) -> Option<TelemetrySettings> {
    let base = values.parse(&key::TELEMETRY_OTLP_ENDPOINT, problems, http_url);
    let full = values.parse(&key::TELEMETRY_OTLP_TRACES_ENDPOINT, problems, http_url);
    let headers = values.parse(&key::TELEMETRY_OTLP_HEADERS, problems, pairs).unwrap_or_default();
    let attributes = values.parse(&key::TELEMETRY_RESOURCE_ATTRIBUTES, problems, pairs).unwrap_or_default();
    let is_off = is_disabled(values, problems, warnings);
    let name = values.parse(&key::TELEMETRY_SERVICE_NAME, problems, text)?;
    // A name among the attributes is weaker than the one that is set for itself.
    let is_named = values.set(&key::TELEMETRY_SERVICE_NAME).is_some();
    let named = attributes.iter().find(|(key, _)| key == "service.name").map(|(_, value)| value.clone());
    let name = named.filter(|_| !is_named).unwrap_or(name);
    let mut resource = vec![("service.name".to_owned(), name)];
    resource.extend(attributes.into_iter().filter(|(key, _)| key != "service.name"));
    Some(TelemetrySettings {
        traces_url: full.or_else(|| base.map(|base| below(&base, TRACES))).filter(|_| !is_off),
        headers: headers.into_iter().map(|(name, value)| (name, value.into())).collect(),
        resource,
    })
}

pub(super) fn openlineage(values: &Values, problems: &mut Vec<Problem>) -> Option<OpenLineageSettings> {
    let base = values.parse(&key::OPENLINEAGE_URL, problems, http_url);
    let endpoint = values.parse(&key::OPENLINEAGE_ENDPOINT, problems, text)?;
    let is_off = switch(values, &key::OPENLINEAGE_DISABLED, problems);
    let api_key = values.set(&key::OPENLINEAGE_API_KEY).map(|value| value.text.expose_secret().trim().into());
    Some(OpenLineageSettings {
        url: base.map(|base| below(&base, &endpoint)).filter(|_| !is_off),
        api_key,
        namespace: values.parse(&key::OPENLINEAGE_NAMESPACE, problems, text)?,
    })
}

fn text(text: &str) -> Result<String, &'static str> {
    Ok(text.to_owned())
}

fn switch(values: &Values, key: &Key, problems: &mut Vec<Problem>) -> bool {
    let parse = |text: &str| text.to_ascii_lowercase().parse::<bool>().map_err(|_| "`true` or `false`");
    values.parse(key, problems, parse).unwrap_or_default()
}

/// OpenTelemetry's own variable is `true` or counts as false, with a warning: another client of the same environment would
/// send as well. A setting of ours is one or the other.
fn is_disabled(values: &Values, problems: &mut Vec<Problem>, warnings: &mut Vec<String>) -> bool {
    let key = &key::TELEMETRY_DISABLED;
    let Some(Value { text, origin: Origin::Environment(variable) }) = values.set(key) else {
        return switch(values, key, problems);
    };
    let text = text.expose_secret().trim();
    let is_off = text.eq_ignore_ascii_case("true");
    if !is_off && !text.eq_ignore_ascii_case("false") {
        warnings.push(format!(
            "{variable} is `{text}`, which counts as false: only `true` turns traces off (OpenTelemetry's specification)"
        ));
    }
    is_off
}

/// A path below a URL, whose own path it comes behind.
fn below(base: &Url, path: &str) -> Url {
    let mut url = base.clone();
    url.set_path(&format!("{}/{}", base.path().trim_end_matches('/'), path.trim_start_matches('/')));
    url
}

/// `a=1,b=2`, each percent-encoded, as OpenTelemetry has headers and attributes.
fn pairs(text: &str) -> Result<Vec<(String, String)>, &'static str> {
    const EXPECTED: &str = "`name=value`, comma separated";
    let decoded = |text: &str| percent_decode_str(text.trim()).decode_utf8_lossy().into_owned();
    let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
    parts
        .map(|part| match part.split_once('=') {
            Some((name, value)) if !name.trim().is_empty() => Ok((decoded(name), decoded(value))),
            _ => Err(EXPECTED),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_come_behind_what_the_url_has() {
        let below = |base: &str, path| below(&base.parse().unwrap(), path).to_string();
        assert_eq!(below("http://a:4318", TRACES), "http://a:4318/v1/traces");
        assert_eq!(below("https://a/otlp/", TRACES), "https://a/otlp/v1/traces");
        assert_eq!(below("http://a:5000/", "/api/v1/lineage"), "http://a:5000/api/v1/lineage");
    }

    #[test]
    fn pairs_are_decoded_and_what_is_none_is_refused() {
        let read = pairs("api-key=a%3Db%2C, x = 1 ,").unwrap();
        assert_eq!(read, [("api-key".to_owned(), "a=b,".to_owned()), ("x".to_owned(), "1".to_owned())]);
        assert!(pairs("lone").is_err() && pairs("=1").is_err());
    }
}
