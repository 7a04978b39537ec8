//! The database's URL: what of it is understood, said without any of it that may be a password.

use secrecy::{ExposeSecret, SecretString};
use url::Url;

use crate::domain::diagnostic::{closest, listed};
use crate::store::StoreError;

/// The parameters that a connection takes.
const TAKEN: [&str; 18] = [
    "application_name",
    "dbname",
    "host",
    "hostaddr",
    "options",
    "password",
    "port",
    "ssl-ca",
    "ssl-cert",
    "ssl-key",
    "ssl-mode",
    "ssl-root-cert",
    "sslcert",
    "sslkey",
    "sslmode",
    "sslrootcert",
    "statement-cache-capacity",
    "user",
];

/// What Postgres's own client programs take besides, and providers' URLs have: it does nothing here.
const PASSED_BY: [&str; 13] = [
    "channel_binding",
    "client_encoding",
    "connect_timeout",
    "fallback_application_name",
    "gssencmode",
    "keepalives",
    "keepalives_count",
    "keepalives_idle",
    "keepalives_interval",
    "pgbouncer",
    "sslnegotiation",
    "target_session_attrs",
    "tcp_user_timeout",
];

/// Refuses a URL with a parameter that nothing takes: a slip, or a part of a password with a `?` in it.
///
/// # Errors
/// [`StoreError::Parameter`], which repeats nothing of the URL.
pub(super) fn check(url: &SecretString) -> Result<(), StoreError> {
    // What is no URL at all the driver tells, and without repeating it.
    let Ok(url) = Url::parse(url.expose_secret()) else { return Ok(()) };
    for (name, _) in url.query_pairs() {
        if let Some(known) = PASSED_BY.iter().find(|known| **known == name) {
            tracing::warn!("the database URL's parameter `{known}` does nothing");
        } else if !TAKEN.contains(&name.as_ref()) && !name.starts_with("options[") {
            let near = closest(&name, TAKEN).map(|near| format!("; did you mean `{near}`?")).unwrap_or_default();
            return Err(StoreError::Parameter { known: format!("{}{near}", listed(TAKEN)) });
        }
    }
    Ok(())
}

/// Where the database is, for people: `postgres://host:port/database`, or what is wrong with the URL.
pub(super) fn told(url: &SecretString) -> String {
    let Ok(url) = Url::parse(url.expose_secret()) else { return "at a URL that cannot be read".to_owned() };
    // Then what stands for host and port is the beginning of a password.
    if [url.path(), url.fragment().unwrap_or_default()].iter().any(|part| part.contains('@')) {
        return "at a URL with an `@` behind its host: in a user's name or password, `/`, `?`, `#` and `@` are written \
                `%2F`, `%3F`, `%23` and `%40`"
            .to_owned();
    }
    format!("postgres://{}:{}{}", url.host_str().unwrap_or("localhost"), url.port().unwrap_or(5432), url.path())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(url: &str) -> Option<String> {
        check(&SecretString::from(url)).err().map(|error| error.to_string())
    }

    #[test]
    fn a_parameter_that_nothing_takes_is_refused_without_a_word_of_it() {
        for url in [
            "postgres://me:pass@db/pinsched?sslmode=require&options[search_path]=a",
            "postgres:///pinsched?host=/run/postgresql&user=me&password=secret",
            "postgres://db/pinsched?connect_timeout=10&channel_binding=require",
            "no url",
        ] {
            assert_eq!(refused(url), None, "{url}");
        }
        let said = refused("postgres://etl:12?s3cretPass=x@127.0.0.1:31576/db").unwrap();
        assert!(said.contains("`%3F`"), "{said}");
        for part in ["etl", "12", "s3cret", "x@", "127"] {
            assert!(!said.contains(part), "{said}");
        }
        let said = refused("postgres://db/pinsched?sslmod=require").unwrap();
        assert!(said.contains("did you mean `sslmode`?") && !said.contains("require"), "{said}");
    }

    #[test]
    fn an_address_holds_no_part_of_a_password() {
        let told = |url: &str| told(&SecretString::from(url));
        assert_eq!(told("postgres://me:secret@db:5433/pinsched?sslmode=require"), "postgres://db:5433/pinsched");
        for url in ["postgres://etl:12/s3cret@db:5433/pinsched", "postgres://etl:12#s3cret@db/pinsched"] {
            let said = told(url);
            assert!(said.contains("`%2F`") && !said.contains("s3cret") && !said.contains("12"), "{said}");
        }
    }
}
