//! A mail by SMTP.

use std::path::PathBuf;
use std::time::Duration;

use lettre::message::{Mailbox, header::ContentType};
use lettre::transport::smtp::authentication::Credentials;
use lettre::transport::smtp::client::{Certificate, Tls, TlsParameters};
use lettre::transport::smtp::{SUBMISSION_PORT, SUBMISSIONS_PORT};
use lettre::{AsyncSmtpTransport, AsyncTransport, Message, Tokio1Executor};
use secrecy::{ExposeSecret, SecretString};

use crate::connect::notify::{LIMIT, NotifyError, chain};

/// How the connection is kept from others' eyes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Security {
    /// TLS from the start, as on port 465.
    Tls,
    /// TLS after `STARTTLS`, which the server must offer, as on port 587.
    StartTls,
    /// Not at all.
    None,
}

/// A server that takes mail.
#[derive(Debug, Clone)]
pub struct MailServer {
    /// Its host.
    pub host: String,
    /// Its port; the usual one of its security where none is given.
    pub port: Option<u16>,
    /// How to keep the connection from others' eyes.
    pub security: Security,
    /// User and password.
    pub login: Option<(String, SecretString)>,
    /// A file of certificates in PEM whose issuers are trusted besides those that everybody trusts.
    pub ca_file: Option<PathBuf>,
}

/// A mail of plain text.
#[derive(Debug, Clone)]
pub struct Mail {
    /// By which it is known when it comes again.
    pub id: String,
    /// Whom it is from.
    pub from: String,
    /// Whom it is to.
    pub to: Vec<String>,
    /// Its subject.
    pub subject: String,
    /// Its text.
    pub body: String,
}

/// Sends a mail; it is sent when the server has taken it.
///
/// # Errors
/// [`NotifyError`] names the server.
pub async fn send_mail(server: &MailServer, mail: Mail) -> Result<(), NotifyError> {
    let never = |words: String| NotifyError::Never(words);
    let mailbox = |address: &str| {
        address.trim().parse::<Mailbox>().map_err(|error| never(format!("`{address}` is no mail address: {error}")))
    };
    let mut message = Message::builder()
        .message_id(Some(format!("<{}@pinsched>", mail.id)))
        .from(mailbox(&mail.from)?)
        .subject(mail.subject.replace(['\r', '\n'], " "))
        .header(ContentType::TEXT_PLAIN);
    for address in &mail.to {
        message = message.to(mailbox(address)?);
    }
    let message = message.body(mail.body).map_err(|error| never(format!("could not make the mail: {error}")))?;
    let host = server.host.as_str();
    let failed = |error: lettre::transport::smtp::Error| {
        let words = format!("could not send mail through {host}: {}", chain(&error));
        if error.is_permanent() { NotifyError::Never(words) } else { NotifyError::Again(words) }
    };
    let builder = AsyncSmtpTransport::<Tokio1Executor>::builder_dangerous(host);
    let builder = match server.security {
        Security::Tls => builder.port(SUBMISSIONS_PORT).tls(Tls::Wrapper(tls(server).await?)),
        Security::StartTls => builder.port(SUBMISSION_PORT).tls(Tls::Required(tls(server).await?)),
        Security::None => builder,
    };
    let mut builder = builder.timeout(Some(LIMIT / 2));
    if let Some(port) = server.port {
        builder = builder.port(port);
    }
    if let Some((user, password)) = &server.login {
        builder = builder.credentials(Credentials::new(user.clone(), password.expose_secret().to_owned()));
    }
    let silent = |limit: Duration| {
        NotifyError::Again(format!("could not send mail through {host}: no answer within {} s", limit.as_secs()))
    };
    let sent = tokio::time::timeout(LIMIT, builder.build().send(message)).await.map_err(|_| silent(LIMIT))?;
    sent.map(drop).map_err(failed)
}

async fn tls(server: &MailServer) -> Result<TlsParameters, NotifyError> {
    let mut parameters = TlsParameters::builder(server.host.clone());
    if let Some(file) = &server.ca_file {
        let unusable = |error: &dyn std::error::Error| {
            NotifyError::Never(format!("could not use the certificates of {}: {}", file.display(), chain(error)))
        };
        let pem = tokio::fs::read(file).await.map_err(|error| unusable(&error))?;
        parameters = parameters.add_root_certificate(Certificate::from_pem(&pem).map_err(|error| unusable(&error))?);
    }
    let words = |error| NotifyError::Never(format!("could not set TLS up for {}: {}", server.host, chain(&error)));
    parameters.build().map_err(words)
}
