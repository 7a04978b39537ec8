//! A POST to an address that a DAG file names.
//!
//! Redirects are not followed, and no address of a cloud's metadata service or of a link is connected to, whatever name
//! leads there: the name is looked up once, all of its addresses are looked at, and the connection goes to those.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};
use reqwest::redirect::Policy;
use reqwest::{Client, StatusCode};
use secrecy::{ExposeSecret, SecretString};
use url::{Host, Url};

use crate::connect::notify::{LIMIT, NotifyError, chain};

/// What is posted.
pub struct Post {
    /// Where: all of it may be secret but for the host.
    pub url: SecretString,
    /// Headers beside the content's type.
    pub headers: Vec<(String, SecretString)>,
    /// JSON.
    pub body: Vec<u8>,
}

impl Post {
    /// The host that it goes to.
    ///
    /// # Errors
    /// When the address cannot be used.
    pub fn host(&self) -> Result<String, NotifyError> {
        Ok(host(self)?.1)
    }
}

/// What a receiver answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer {
    /// Its status.
    pub status: StatusCode,
    /// When it wants to be asked again, if it says so.
    pub retry_after: Option<Duration>,
}

/// Posts, and is content with any 2xx.
///
/// # Errors
/// [`NotifyError`] names the host.
pub async fn post(post: Post) -> Result<(), NotifyError> {
    let host = post.host()?;
    let Answer { status, .. } = exchange(post, LIMIT).await?;
    let passes = status.is_server_error()
        || matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_EARLY);
    let words = || format!("{host} answered with {status}");
    match status {
        status if status.is_success() => Ok(()),
        _ if passes => Err(NotifyError::Again(words())),
        status if status.is_redirection() => {
            Err(NotifyError::Never(format!("{}: redirects are not followed", words())))
        }
        _ => Err(NotifyError::Never(words())),
    }
}

fn host(post: &Post) -> Result<(Url, String), NotifyError> {
    let url = Url::parse(post.url.expose_secret())
        .map_err(|error| NotifyError::Never(format!("its address cannot be used: {error}")))?;
    match (url.host_str().map(ToOwned::to_owned), url.scheme()) {
        (Some(host), "http" | "https") => Ok((url, host)),
        _ => Err(NotifyError::Never("its address is none of http or https".to_owned())),
    }
}

/// Posts, and gives the answer, whatever it is.
///
/// # Errors
/// [`NotifyError`] names the host; there was no answer then.
pub async fn exchange(post: Post, limit: Duration) -> Result<Answer, NotifyError> {
    let (url, host) = host(&post)?;
    let failed = |words: String| NotifyError::Again(format!("could not post to {host}: {words}"));
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    for (name, value) in &post.headers {
        let unusable = |_| NotifyError::Never(format!("the header `{name}` cannot be used"));
        let key = HeaderName::from_bytes(name.as_bytes()).map_err(|_| unusable(()))?;
        let mut value = HeaderValue::from_str(value.expose_secret()).map_err(|_| unusable(()))?;
        value.set_sensitive(true);
        headers.insert(key, value);
    }
    let exchange = async {
        let addresses = addresses(&url).await.map_err(|error| failed(chain(&error)))?;
        if addresses.iter().any(|address| is_refused(address.ip())) {
            let words = format!("{host} is an address of a link or of a metadata service: nothing is sent there");
            return Err(NotifyError::Never(words));
        }
        let client = Client::builder().redirect(Policy::none()).no_proxy().resolve_to_addrs(&host, &addresses);
        let client = client.build().map_err(|error| failed(chain(&error)))?;
        let request = client.post(url.clone()).headers(headers).body(post.body);
        let response = request.send().await.map_err(|error| failed(chain(&error.without_url())))?;
        let retry_after =
            response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.trim().parse().ok());
        Ok(Answer { status: response.status(), retry_after: retry_after.map(Duration::from_secs) })
    };
    let silent = || failed(format!("no answer within {} s", limit.as_secs()));
    tokio::time::timeout(limit, exchange).await.unwrap_or_else(|_| Err(silent()))
}

async fn addresses(url: &Url) -> Result<Vec<SocketAddr>, std::io::Error> {
    let port = url.port_or_known_default().unwrap_or(443);
    Ok(match url.host() {
        Some(Host::Ipv4(address)) => vec![(address, port).into()],
        Some(Host::Ipv6(address)) => vec![(address, port).into()],
        Some(Host::Domain(name)) => tokio::net::lookup_host((name, port)).await?.collect(),
        None => Vec::new(),
    })
}

/// Whether nothing is ever sent to that address: those of a link (where clouds have their metadata services), none at all,
/// and groups.
#[must_use]
pub fn is_refused(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => {
            address.is_link_local() || address.is_unspecified() || address.is_multicast() || address.is_broadcast()
        }
        IpAddr::V6(address) => match address.to_ipv4_mapped() {
            Some(mapped) => is_refused(mapped.into()),
            None => {
                // AWS has its metadata service at fd00:ec2::254, too.
                let segments = address.segments();
                address.is_unicast_link_local()
                    || address.is_unspecified()
                    || address.is_multicast()
                    || segments == [0xfd00, 0x0ec2, 0, 0, 0, 0, 0, 0x0254]
            }
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_services_are_refused_however_they_are_written() {
        for refused in
            ["169.254.169.254", "169.254.170.2", "fe80::1", "::ffff:169.254.169.254", "0.0.0.0", "fd00:ec2::254"]
        {
            assert!(is_refused(refused.parse().unwrap()), "{refused}");
        }
        for allowed in ["127.0.0.1", "10.0.0.1", "192.168.1.1", "::1", "93.184.216.34", "fd00::1"] {
            assert!(!is_refused(allowed.parse().unwrap()), "{allowed}");
        }
    }

    #[tokio::test]
    async fn nothing_is_sent_there() {
        for url in ["http://169.254.169.254/latest", "http://[fe80::1]/", "http://2852039166/", "ftp://localhost/x"] {
            let body = b"{}".to_vec();
            let refused = post(Post { url: SecretString::from(url), headers: Vec::new(), body }).await.unwrap_err();
            assert!(matches!(refused, NotifyError::Never(_)), "{url}: {refused:?}");
        }
    }
}
