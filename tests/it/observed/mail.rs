//! Mail over TLS, to a server that others wrote.

use std::path::Path;
use std::process::Stdio;

use pinsched::connect::notify::{Mail, MailServer, NotifyError, Security, send_mail};
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

use super::PATIENCE;
use crate::services;

/// Makes an issuer of certificates and one of its for `localhost`: `ca.pem`, `server.pem`, `server.key`.
async fn certify(folder: &Path) {
    let extensions = "subjectAltName=DNS:localhost\nbasicConstraints=CA:FALSE\n";
    std::fs::write(folder.join("extensions"), extensions).unwrap();
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
    for arguments in [
        format!("req -x509 {key} -keyout ca.key -out ca.pem -days 2 -subj /CN=issuer"),
        format!("req {key} -keyout server.key -out server.csr -subj /CN=localhost"),
        "x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -extfile extensions -out server.pem -days 2"
            .to_owned(),
    ] {
        let output = Command::new("openssl").args(arguments.split(' ')).current_dir(folder).output().await.unwrap();
        assert!(output.status.success(), "{arguments}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

struct Server {
    _process: Child,
    lines: Lines<BufReader<ChildStdout>>,
    tls: u16,
    start_tls: u16,
}

impl Server {
    async fn start(folder: &Path) -> Self {
        let mut python = Command::new("python3");
        python.args(["-c", include_str!("mail.py"), "server.pem", "server.key"]).current_dir(folder);
        python.env("PYTHONPATH", services::observers()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut process = python.spawn().unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let first = tokio::time::timeout(PATIENCE, lines.next_line()).await.expect("it starts").unwrap();
        let (tls, start_tls) = serde_json::from_str(&first.expect("it says where it listens")).unwrap();
        Self { _process: process, lines, tls, start_tls }
    }

    async fn mail(&mut self) -> Value {
        let line = tokio::time::timeout(PATIENCE, self.lines.next_line()).await.expect("it takes it").unwrap();
        serde_json::from_str(&line.expect("it goes on")).unwrap()
    }
}

fn mail(subject: &str) -> Mail {
    Mail {
        id: "7".to_owned(),
        from: "pinsched@example.org".to_owned(),
        to: vec!["data@example.org".to_owned()],
        subject: subject.to_owned(),
        body: "It failed.\n".to_owned(),
    }
}

#[tokio::test]
async fn mail_goes_by_tls_from_the_start_and_by_starttls_to_who_can_be_trusted() {
    let folder = TempDir::new().unwrap();
    certify(folder.path()).await;
    let mut server = Server::start(folder.path()).await;
    let trusting = |security, port| MailServer {
        host: "localhost".to_owned(),
        port: Some(port),
        security,
        login: None,
        ca_file: Some(folder.path().join("ca.pem")),
    };
    for (security, port) in [(Security::Tls, server.tls), (Security::StartTls, server.start_tls)] {
        send_mail(&trusting(security, port), mail("orders failed")).await.unwrap();
        let taken = server.mail().await;
        assert_eq!((&taken["tls"], &taken["to"][0]), (&Value::Bool(true), &Value::from("data@example.org")));
        let text = taken["text"].as_str().unwrap();
        assert!(text.contains("Subject: orders failed") && text.contains("It failed."), "{text}");
    }
    // Who issued the certificate is nobody that everybody trusts; and a server is not trusted by another's name.
    for (security, port) in [(Security::Tls, server.tls), (Security::StartTls, server.start_tls)] {
        let unknown = MailServer { ca_file: None, ..trusting(security, port) };
        let refused = send_mail(&unknown, mail("never")).await.unwrap_err();
        assert!(refused.to_string().contains("certificate"), "{refused}");
        let other = MailServer { host: "127.0.0.1".to_owned(), ..trusting(security, port) };
        let refused = send_mail(&other, mail("never")).await.unwrap_err();
        assert!(refused.to_string().contains("certificate"), "{refused}");
    }
    // A server that wants TLS gets no mail without.
    let plain = send_mail(&trusting(Security::None, server.start_tls), mail("never")).await.unwrap_err();
    assert!(matches!(plain, NotifyError::Never(_)), "{plain}");
    let absent = MailServer { ca_file: Some("nowhere.pem".into()), ..trusting(Security::Tls, server.tls) };
    let refused = send_mail(&absent, mail("never")).await.unwrap_err();
    assert!(refused.to_string().starts_with("could not use the certificates of nowhere.pem"), "{refused}");
}
