//! `http` against a server of the test's own.

use std::net::SocketAddr;

use axum::Router;
use axum::extract::Request;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Json, Redirect};
use axum::routing::{any, get};
use pinsched::engine::operator::Failure;
use secrecy::SecretString;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::attempts::{self, Attempt, TestRun};

/// The servers of a test; they end with it.
struct Servers {
    tasks: JoinSet<()>,
}

impl Servers {
    async fn serve(&mut self, router: Router) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        self.tasks.spawn(async move { axum::serve(listener, router).await.unwrap() });
        address
    }
}

async fn echo(headers: HeaderMap, request: Request) -> Json<Value> {
    let header = |name| headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let (method, query) = (request.method().to_string(), request.uri().query().map(str::to_owned));
    let body = axum::body::to_bytes(request.into_body(), 1 << 20).await.unwrap();
    Json(json!({
        "method": method,
        "query": query,
        "body": String::from_utf8_lossy(&body),
        "token": header("x-token"),
        "authorization": header("authorization"),
        "referer": header("referer"),
    }))
}

async fn server(servers: &mut Servers) -> SocketAddr {
    let other = servers.serve(Router::new().route("/echo", any(echo))).await;
    let elsewhere = format!("http://{other}/echo");
    let router = Router::new()
        .route("/echo", any(echo))
        .route("/here", get(|| async { Redirect::temporary("/echo") }))
        .route("/round", get(|| async { Redirect::temporary("/round") }))
        .route("/elsewhere", get(move || async move { Redirect::temporary(&elsewhere) }))
        .route("/busy", any(|| async { (StatusCode::TOO_MANY_REQUESTS, [("retry-after", "30")], "slow down") }))
        .route("/broken", any(|| async { (StatusCode::BAD_GATEWAY, "oops") }))
        .route("/denied", any(|| async { (StatusCode::FORBIDDEN, "no") }))
        .route("/large", get(|| async { "x".repeat(3 << 20) }))
        .route("/never", get(|| async { std::future::pending::<StatusCode>().await.into_response() }));
    servers.serve(router).await
}

#[tokio::test]
async fn requests_carry_what_the_task_says() {
    let mut servers = Servers { tasks: JoinSet::new() };
    let address = server(&mut servers).await;
    let mut run = TestRun::start().await;
    let url = format!("http://{address}/echo");
    let body = |output: &serde_json::Map<String, Value>| output["body"].clone();

    let config = json!({"url": url, "json": {"a": 1}, "headers": {"X-Token": "t"}});
    let output = run.run("post", "http", config).await.unwrap();
    assert_eq!(output["status"], json!(200));
    assert_eq!(body(&output)["method"], json!("POST"));
    assert_eq!(body(&output)["body"], json!("{\"a\":1}"));
    assert_eq!(body(&output)["token"], json!("t"));

    let output = run.run("get", "http", json!({"url": url, "method": "get", "data": {"q": "a b"}})).await.unwrap();
    assert_eq!(body(&output)["query"], json!("q=a+b"));

    let connection = SecretString::from(format!("http://me:secret@{address}"));
    run.endpoints.named.connections.insert("service".to_owned(), connection);
    let config = json!({"http_conn_id": "service", "endpoint": "/echo", "method": "PUT", "data": {"q": 1}});
    let output = run.run("put", "airflow.providers.http.operators.http.HttpOperator", config).await.unwrap();
    assert_eq!(body(&output)["body"], json!("q=1"));
    // `me:` and what was a secret of the connection's.
    assert_eq!(body(&output)["authorization"], json!("Basic bWU6***"));
}

#[tokio::test]
async fn refusals_say_whether_another_attempt_may_help() {
    let mut servers = Servers { tasks: JoinSet::new() };
    let address = server(&mut servers).await;
    let mut run = TestRun::start().await;
    let base = format!("http://{address}");
    let mut outcomes = Vec::new();
    for path in ["/busy", "/broken", "/denied", "/missing?token=secret"] {
        let config = json!({"url": format!("{base}{path}")});
        let failure = run.run("t", "http", config).await.unwrap_err();
        outcomes.push(format!("{failure:?}").replace(&base, "[server]"));
    }
    let config = json!({"url": format!("{base}/never"), "method": "GET", "timeout": 0.2});
    let failure = run.run("t", "http", config).await.unwrap_err();
    outcomes.push(format!("{failure:?}").replace(&base, "[server]"));
    insta::assert_snapshot!(outcomes.join("\n"));

    let config = json!({"url": format!("{base}/denied"), "expected_status": [200, 403]});
    assert_eq!(run.run("t", "http", config).await.unwrap()["status"], json!(403));
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let failure = run.run("t", "http", json!({"url": format!("http://{closed}/")})).await.unwrap_err();
    assert!(matches!(failure, Failure::Retry(_)), "{failure:?}");
}

#[tokio::test]
async fn secrets_stay_with_their_host() {
    let mut servers = Servers { tasks: JoinSet::new() };
    let address = server(&mut servers).await;
    let mut run = TestRun::start().await;
    let base = format!("http://{address}");
    let with_token = |path: &str| json!({"url": format!("{base}{path}"), "method": "GET", "headers": {"X-Token": "t"}});
    let output = run.run("here", "http", with_token("/here")).await.unwrap();
    assert_eq!(output["body"]["token"], json!("t"));
    let failure = run.run("elsewhere", "http", with_token("/elsewhere")).await.unwrap_err();
    assert!(matches!(&failure, Failure::Fatal(text) if text.contains("redirects to")), "{failure:?}");
    let query = json!({"url": format!("{base}/elsewhere?token=t"), "method": "GET"});
    let failure = run.run("query", "http", query).await.unwrap_err();
    assert!(matches!(&failure, Failure::Fatal(text) if text.contains("redirects to")), "{failure:?}");
    let open = json!({"url": format!("{base}/elsewhere"), "method": "GET"});
    let output = run.run("open", "http", open).await.unwrap();
    assert_eq!((&output["status"], &output["body"]["referer"]), (&json!(200), &Value::Null));
    let output =
        run.run("here", "http", json!({"url": format!("{base}/here?token=t"), "method": "GET"})).await.unwrap();
    assert_eq!(output["body"]["referer"], Value::Null);
}

#[tokio::test]
async fn redirects_without_end_end_for_good() {
    let mut servers = Servers { tasks: JoinSet::new() };
    let address = server(&mut servers).await;
    let mut run = TestRun::start().await;
    let url = format!("http://{address}/round");
    let failure = run.run("round", "http", json!({"url": url, "method": "GET"})).await.unwrap_err();
    assert_eq!(failure, Failure::Fatal(format!("could not GET {url}: it redirects more than 10 times")));
}

#[tokio::test]
async fn an_answer_is_kept_whole_or_not_at_all_and_a_cancelled_request_ends() {
    let mut servers = Servers { tasks: JoinSet::new() };
    let address = server(&mut servers).await;
    let mut run = TestRun::start().await;
    let url = format!("http://{address}/large");
    let large = json!({"url": url, "method": "GET"});
    let output = run.run("t", "http", large.clone()).await.unwrap();
    assert!(output["body"].as_str().unwrap().len() > 1 << 20);
    let mut small = run.claim("small").await;
    small.context.output_limit = 1000;
    let words = format!(
        "GET {url} was answered with more than 1000 bytes, which is more than an output (`outputs.limit`) may have"
    );
    assert_eq!(attempts::run(&small.context, "http", large).await, Err(Failure::Fatal(words)));

    let Attempt { context, .. } = run.claim("slow").await;
    context.cancel.cancel();
    let config = json!({"url": format!("http://{address}/never"), "method": "GET"});
    assert_eq!(attempts::run(&context, "http", config).await, Err(Failure::Interrupted));
}
