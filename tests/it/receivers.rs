//! Who is told by callbacks: a receiver of webhooks, and a server that takes mail.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// A receiver of webhooks: keeps what it gets, and answers as it is told.
#[derive(Clone, Default)]
pub struct Receiver {
    got: Arc<Mutex<Vec<(HeaderMap, Bytes)>>>,
    /// What is answered to the next ones; then 200.
    answers: Arc<Mutex<VecDeque<StatusCode>>>,
}

impl Receiver {
    pub async fn serve(&self, servers: &mut JoinSet<()>) -> String {
        async fn receive(State(receiver): State<Receiver>, headers: HeaderMap, body: Bytes) -> StatusCode {
            receiver.got.lock().unwrap().push((headers, body));
            receiver.answers.lock().unwrap().pop_front().unwrap_or(StatusCode::OK)
        }
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new().route("/{*path}", post(receive)).with_state(self.clone());
        servers.spawn(async move { axum::serve(listener, router).await.unwrap() });
        format!("http://{address}")
    }

    pub fn answer(&self, statuses: &[StatusCode]) {
        self.answers.lock().unwrap().extend(statuses);
    }

    pub fn bodies(&self) -> Vec<Value> {
        self.got.lock().unwrap().iter().map(|(_, body)| serde_json::from_slice(body).unwrap()).collect()
    }

    /// What it got, with the headers.
    pub fn got(&self) -> Vec<(HeaderMap, Bytes)> {
        self.got.lock().unwrap().clone()
    }

    /// What it was told of, as `event of task, try`, sorted.
    pub fn told(&self) -> Vec<String> {
        let words = |body: &Value| match body["task"].as_object() {
            Some(task) => format!(
                "{} of {}, try {}",
                body["event"].as_str().unwrap(),
                task["task_id"].as_str().unwrap(),
                task["try_number"]
            ),
            None => format!("{} of the run", body["event"].as_str().unwrap()),
        };
        let mut told: Vec<String> = self.bodies().iter().map(words).collect();
        told.sort();
        told
    }
}

/// A server that takes mail and keeps it.
#[derive(Clone, Default)]
pub struct MailBox(Arc<Mutex<Vec<String>>>);

impl MailBox {
    pub async fn serve(&self, servers: &mut JoinSet<()>) -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let mailbox = self.clone();
        servers.spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                mailbox.converse(stream).await;
            }
        });
        port
    }

    /// What was taken, with the commands before it.
    pub fn mails(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }

    /// One conversation by RFC 5321, as far as a client of one mail goes.
    async fn converse(&self, stream: TcpStream) {
        let (read, mut write) = stream.into_split();
        let mut lines = BufReader::new(read).lines();
        write.write_all(b"220 test\r\n").await.unwrap();
        let (mut mail, mut in_data) = (String::new(), false);
        while let Ok(Some(line)) = lines.next_line().await {
            mail.push_str(&line);
            mail.push('\n');
            let answer = match line.split(' ').next().unwrap_or_default() {
                "." if in_data => {
                    in_data = false;
                    self.0.lock().unwrap().push(std::mem::take(&mut mail));
                    "250 taken\r\n"
                }
                _ if in_data => continue,
                "DATA" => {
                    in_data = true;
                    "354 go on\r\n"
                }
                "QUIT" => "221 bye\r\n",
                _ => "250 yes\r\n",
            };
            write.write_all(answer.as_bytes()).await.unwrap();
        }
    }
}
