//! Traces and lineage, as those who gather them read what was sent: by the classes of OpenTelemetry's protocol and of
//! OpenLineage's client.

mod mail;
mod outbox;

use std::collections::BTreeMap;
use std::process::Stdio;
use std::time::Duration;

use axum::http::StatusCode;
use pinsched::domain::run_state::RunState;
use pinsched::engine::exports::{LineageReceiver, Receivers, TraceReceiver};
use secrecy::ExposeSecret;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use tokio::task::JoinSet;

use crate::receivers::Receiver;
use crate::service::Served;
use crate::services;
use crate::stack::scratch::PROGRAM;

const PATIENCE: Duration = Duration::from_secs(180);

/// What a program of Python's, with the libraries of those who gather, makes of this JSON.
async fn read_by(script: &str, input: &Value) -> String {
    let mut python = Command::new("python3");
    python.args(["-c", script]).env("PYTHONPATH", services::observers()).kill_on_drop(true);
    let mut child = python.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(input.to_string().as_bytes()).await.unwrap();
    drop(stdin);
    let output = child.wait_with_output().await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The trace that was received, as OpenTelemetry reads it.
async fn trace(receiver: &Receiver) -> Value {
    let bodies = receiver.bodies();
    serde_json::from_str(&read_by(include_str!("otlp.py"), &json!(bodies)).await).unwrap()
}

fn spans_of<'a>(trace: &'a Value, name: &str) -> Vec<&'a Value> {
    trace["spans"].as_array().unwrap().iter().filter(|span| span["name"] == name).collect()
}

const FLAKY: &str = r#"orders:
  tasks:
    flaky: {operator: bash, bash_command: "echo parent is $TRACEPARENT; test $AIRFLOW_CTX_TRY_NUMBER = 2", retries: 1, retry_delay: 0.05}
    bad: {operator: bash, bash_command: "echo {{ var.value.shop_password }} >&2; exit 3", dependencies: [flaky]}
    after: {operator: empty, dependencies: [bad]}
"#;

/// `pinsched run` on a database of the test's own with these variables.
async fn run(folder: &TempDir, environment: &[(&str, &str)]) -> (Option<i32>, Value, String) {
    let url = services::database().await;
    let mut command = Command::new(PROGRAM);
    command.args(["run", "orders.yaml", "--output", "json", "--home", "home"]).current_dir(folder.path());
    command.stdin(Stdio::null()).kill_on_drop(true).env_clear().env("PATH", env!("PATH"));
    command.env("DATABASE_URL", url.expose_secret()).env("PINSCHED_VARIABLE_SHOP_PASSWORD", "swordfish!");
    // Nothing embedded is started for what no task uses.
    command
        .env("PINSCHED_KAFKA_BOOTSTRAP_SERVERS", "127.0.0.1:9")
        .env("PINSCHED_S3_ENDPOINT_URL", "http://127.0.0.1:9");
    command.env("PINSCHED_SOURCE_URL", "postgres://127.0.0.1:9/nothing").envs(environment.iter().copied());
    let output = tokio::time::timeout(PATIENCE, command.output()).await.expect("it ends").unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    let report = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {stderr}"));
    (output.status.code(), report, stderr)
}

#[tokio::test]
async fn a_run_is_a_trace_that_a_collector_takes() {
    let (mut servers, receiver) = (JoinSet::new(), Receiver::default());
    let url = receiver.serve(&mut servers).await;
    receiver.answer(&[StatusCode::SERVICE_UNAVAILABLE]);
    let folder = TempDir::new().unwrap();
    std::fs::write(folder.path().join("orders.yaml"), FLAKY).unwrap();
    let (code, report, stderr) = run(
        &folder,
        &[
            ("OTEL_EXPORTER_OTLP_ENDPOINT", &url),
            ("OTEL_EXPORTER_OTLP_HEADERS", "x-tenant=shop%20one"),
            ("OTEL_SERVICE_NAME", "shop"),
            ("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment=test"),
        ],
    )
    .await;
    assert_eq!(code, Some(1), "{stderr}");
    let got = receiver.got();
    assert_eq!(got.len(), 2, "refused once, and sent again");
    assert!(!stderr.contains("not all"), "what was being sent when the run ended was sent: {stderr}");
    assert_eq!(got[0].1, got[1].1);
    assert!(got.iter().all(|(headers, _)| headers["x-tenant"] == "shop one"));
    assert!(got.iter().all(|(headers, _)| headers["content-type"] == "application/json"));
    let told = read_by(include_str!("otlp.py"), &json!([receiver.bodies()[1]])).await;
    assert!(!told.contains("swordfish!"), "{told}");
    let trace: Value = serde_json::from_str(&told).unwrap();
    assert_eq!(trace["resource"], json!({"service.name": "shop", "deployment.environment": "test"}));
    let uuid = report["run_uuid"].as_str().unwrap().replace('-', "");
    assert!(trace["spans"].as_array().unwrap().iter().all(|span| span["trace"] == uuid), "{trace}");
    let [whole] = spans_of(&trace, "orders")[..] else { panic!("{trace}") };
    assert_eq!(
        (&whole["parent"], &whole["code"], &whole["attributes"]["state"]),
        (&json!(""), &json!(2), &json!("failed"))
    );
    assert!(whole["message"].as_str().unwrap().starts_with("task `bad`: the command exited with code 3"), "{whole}");
    let [first, second] = spans_of(&trace, "orders.flaky")[..] else { panic!("{trace}") };
    assert_eq!((&first["code"], &second["code"]), (&json!(2), &json!(1)));
    assert_eq!((&first["parent"], &second["links"]), (&whole["id"], &json!([first["id"]])));
    assert_eq!((&first["attributes"]["try_number"], &second["attributes"]["try_number"]), (&json!(1), &json!(2)));
    assert_eq!(second["attributes"]["task_id"], "flaky");
    assert_eq!(spans_of(&trace, "orders.bad").len(), 1);
    assert!(spans_of(&trace, "orders.after").is_empty(), "it never began");
    // What a task starts joins the attempt's own span.
    let (_, first, _) = run(&folder, &[]).await;
    assert_ne!(first["run_uuid"], report["run_uuid"]);
    assert_eq!(receiver.got().len(), 2, "nobody is told who was not named");
}

#[tokio::test]
async fn programs_are_told_of_the_span_that_they_are_part_of() {
    let (mut servers, receiver) = (JoinSet::new(), Receiver::default());
    let url = receiver.serve(&mut servers).await;
    let folder = TempDir::new().unwrap();
    let text = "orders: {tasks: {one: {operator: bash, bash_command: 'echo $TRACEPARENT'}}}";
    std::fs::write(folder.path().join("orders.yaml"), text).unwrap();
    let (_, report, _) = run(&folder, &[("PINSCHED_OTLP_ENDPOINT", &url)]).await;
    let trace = trace(&receiver).await;
    let [span] = spans_of(&trace, "orders.one")[..] else { panic!("{trace}") };
    let told = format!("00-{}-{}-01", span["trace"].as_str().unwrap(), span["id"].as_str().unwrap());
    assert_eq!(report["tasks"][0]["output"]["return_value"], told);
    let (_, report, _) = run(&folder, &[("PINSCHED_OTLP_ENDPOINT", &url), ("OTEL_SDK_DISABLED", "true")]).await;
    assert_eq!(report["tasks"][0]["output"]["return_value"], "");
    assert_eq!(receiver.got().len(), 1);
}

#[tokio::test]
async fn a_refusal_is_told_with_the_host_and_the_setting() {
    let (mut servers, traces, lineage) = (JoinSet::new(), Receiver::default(), Receiver::default());
    let (traces_url, lineage_url) = (traces.serve(&mut servers).await, lineage.serve(&mut servers).await);
    traces.answer(&[StatusCode::UNAUTHORIZED]);
    lineage.answer(&[StatusCode::FORBIDDEN; 8]);
    let folder = TempDir::new().unwrap();
    // Its end falls between two looks at what there is to tell.
    let text = "orders: {tasks: {one: {operator: bash, bash_command: sleep 0.5}}}";
    std::fs::write(folder.path().join("orders.yaml"), text).unwrap();
    let (_, _, stderr) =
        run(&folder, &[("PINSCHED_OTLP_ENDPOINT", &traces_url), ("OPENLINEAGE_URL", &lineage_url)]).await;
    for words in [
        "the collector at 127.0.0.1 (`telemetry.otlp_endpoint`) answered with 401 Unauthorized",
        "the keeper of lineage at 127.0.0.1 (`openlineage.url`) answered with 403 Forbidden",
    ] {
        assert!(stderr.contains(words), "{words}: {stderr}");
    }
}

/// What happened by the events, as `START orders.one`, sorted.
fn events(bodies: &[Value]) -> Vec<String> {
    let words =
        |event: &Value| format!("{} {}", event["eventType"].as_str().unwrap(), event["job"]["name"].as_str().unwrap());
    let mut events: Vec<String> = bodies.iter().map(words).collect();
    events.sort();
    events
}

#[tokio::test]
async fn each_start_and_each_end_is_an_event_of_lineage() {
    let (mut servers, receiver) = (JoinSet::new(), Receiver::default());
    let url = receiver.serve(&mut servers).await;
    receiver.answer(&[StatusCode::BAD_GATEWAY]);
    let folder = TempDir::new().unwrap();
    std::fs::write(folder.path().join("orders.yaml"), FLAKY).unwrap();
    let settings =
        [("OPENLINEAGE_URL", url.as_str()), ("OPENLINEAGE_API_KEY", "open sesame"), ("OPENLINEAGE_NAMESPACE", "shop")];
    let (code, report, stderr) = run(&folder, &settings).await;
    assert_eq!(code, Some(1), "{stderr}");
    let got = receiver.got();
    assert!(got.iter().all(|(headers, _)| headers["authorization"] == "Bearer open sesame"));
    // The one that was refused came again, the same.
    let mut bodies = receiver.bodies();
    let again = bodies[1..].iter().position(|body| *body == bodies[0]).expect("it is sent again");
    bodies.remove(again + 1);
    assert_eq!(
        events(&bodies),
        [
            "COMPLETE orders.flaky",
            "FAIL orders",
            "FAIL orders.bad",
            "FAIL orders.flaky",
            "START orders",
            "START orders.bad",
            "START orders.flaky",
            "START orders.flaky"
        ]
    );
    assert!(!json!(bodies).to_string().contains("swordfish!"));
    let mut runs: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for event in &bodies {
        let run = event["run"]["runId"].as_str().unwrap();
        runs.entry(run).or_default().push(event["eventType"].as_str().unwrap());
        assert_eq!(event["job"]["namespace"], "shop");
        if event["job"]["name"] != "orders" {
            assert_eq!(event["run"]["facets"]["parent"]["run"]["runId"], report["run_uuid"]);
        }
    }
    assert!(runs.len() == 4 && runs.values().all(|types| types.len() == 2), "{runs:?}");
    assert_eq!(read_by(include_str!("openlineage_events.py"), &json!(bodies)).await, "");
}

#[tokio::test]
async fn services_tell_once_whichever_of_them_did_the_work() {
    let (mut servers, traces, lineage) = (JoinSet::new(), Receiver::default(), Receiver::default());
    let (traces_url, lineage_url) = (traces.serve(&mut servers).await, lineage.serve(&mut servers).await);
    let receivers = Receivers {
        traces: Some(TraceReceiver {
            url: format!("{traces_url}/v1/traces").into(),
            headers: Vec::new(),
            resource: vec![("service.name".to_owned(), "shop".to_owned())],
        }),
        lineage: Some(LineageReceiver {
            url: format!("{lineage_url}/api/v1/lineage").into(),
            api_key: None,
            namespace: "shop".to_owned(),
        }),
    };
    let text = "orders: {tasks: {one: {operator: script}, two: {operator: script, acts: [fail, succeed], retries: 1, \
                retry_delay: 0.05, dependencies: [one]}}}";
    let mut served = Served::nothing().await;
    served.receivers = receivers;
    served.write("orders.yaml", text);
    served.start().await;
    served.start().await;
    served.dag("orders", |state| state.version.is_some()).await;
    let run = served.trigger(text, "1").await;
    assert_eq!(served.ended(&run).await, RunState::Success);
    let all = async {
        let mut tick = tokio::time::interval(Duration::from_millis(20));
        while traces.got().is_empty() || lineage.got().len() < 7 {
            tick.tick().await;
        }
    };
    tokio::time::timeout(PATIENCE, all).await.expect("it is told of soon");
    served.stop().await;
    let trace = trace(&traces).await;
    let names: Vec<&str> =
        trace["spans"].as_array().unwrap().iter().map(|span| span["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["orders", "orders.one", "orders.two", "orders.two"]);
    let bodies = lineage.bodies();
    let told = events(&bodies);
    assert_eq!(
        told,
        [
            "COMPLETE orders",
            "COMPLETE orders.one",
            "COMPLETE orders.two",
            "FAIL orders.two",
            "START orders.one",
            "START orders.two",
            "START orders.two"
        ],
        "the run itself was begun by the test, which has nobody to tell"
    );
    assert_eq!(read_by(include_str!("openlineage_events.py"), &json!(bodies)).await, "");
}

#[tokio::test]
async fn log_lines_go_to_the_days_file_in_place_of_stderr() {
    let folder = TempDir::new().unwrap();
    std::fs::write(folder.path().join("orders.yaml"), FLAKY).unwrap();
    std::fs::create_dir(folder.path().join("logs")).unwrap();
    let settings = [
        ("PINSCHED_LOG_FILE", "logs/pinsched.log"),
        ("PINSCHED_LOG", "pinsched=debug,sqlx=info"),
        ("PINSCHED_LOG_FORMAT", "json"),
    ];
    // Nobody is there to take traces, which is a warning.
    let (_, _, stderr) =
        run(&folder, &[&settings[..], &[("PINSCHED_OTLP_ENDPOINT", "http://127.0.0.1:9")]].concat()).await;
    let files: Vec<_> = std::fs::read_dir(folder.path().join("logs")).unwrap().map(|entry| entry.unwrap()).collect();
    let [file] = &files[..] else { panic!("one day has one file: {files:?}") };
    let name = file.file_name().into_string().unwrap();
    assert!(name.starts_with("pinsched.20") && name.ends_with(".log"), "{name}");
    let text = std::fs::read_to_string(file.path()).unwrap();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let warned = |line: &Value| {
        line["level"] == "WARN"
            && line["fields"]["message"].as_str().is_some_and(|words| words.contains("a trace could not be sent"))
    };
    assert!(lines.iter().any(warned), "{text}");
    assert!(!stderr.contains("could not be sent; trying again") && !text.contains("swordfish!"), "{stderr}\n{text}");
    assert!(stderr.contains("not all traces and lineage could be sent"), "{stderr}");
}
