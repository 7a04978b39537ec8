//! ApiVersions: what is spoken here.

use kafka_protocol::ResponseError;
use kafka_protocol::messages::api_versions_response::ApiVersion;
use kafka_protocol::messages::{ApiVersionsRequest, ApiVersionsResponse};

use super::answer::Caller;
use crate::embedded::broker::wire::versions::APIS;

/// Answers with the table of versions. Clients must name themselves in plain characters from version 3 on.
pub(crate) fn answer(request: &ApiVersionsRequest, caller: &Caller) -> ApiVersionsResponse {
    let named = is_plain(&request.client_software_name) && is_plain(&request.client_software_version);
    if caller.version >= 3 && !named {
        return ApiVersionsResponse::default().with_error_code(ResponseError::InvalidRequest.code());
    }
    ApiVersionsResponse::default().with_api_keys(table())
}

/// The answer to a version of ApiVersions that is not spoken: it goes out as version 0 and tells which are.
pub(crate) fn unsupported() -> ApiVersionsResponse {
    ApiVersionsResponse::default().with_error_code(ResponseError::UnsupportedVersion.code()).with_api_keys(table())
}

fn table() -> Vec<ApiVersion> {
    let entry = |api: &crate::embedded::broker::wire::versions::Api| {
        ApiVersion::default()
            .with_api_key(api.key as i16)
            .with_min_version(api.advertised_min)
            .with_max_version(api.max)
    };
    APIS.iter().map(entry).collect()
}

/// Letters, digits, dots and dashes, with a letter or digit at both ends.
fn is_plain(name: &str) -> bool {
    let bytes = name.as_bytes();
    let ends = [bytes.first(), bytes.last()];
    ends.iter().all(|end| end.is_some_and(u8::is_ascii_alphanumeric))
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-'))
}
