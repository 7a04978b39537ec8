//! DAG files as MWAA Serverless and dag-factory take them run here as they are.

use std::path::Path;

use axum::Router;
use axum::routing::get;
use pinsched::connect::s3::PutOptions;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::process::Command;
use tokio::task::JoinSet;

use crate::stack::scratch::PROGRAM;
use crate::whole::product::Product;

fn fixture(name: &str) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/foreign");
    folder.join(name).to_string_lossy().into_owned()
}

/// What became of each task, as `count_orders success 3`.
fn pictured(run: &Value) -> Vec<String> {
    let words = |task: &Value| {
        let returned = &task["output"]["return_value"];
        let returned = if returned.is_null() { String::new() } else { format!(" {returned}") };
        format!("{} {}{returned}", task["task_id"].as_str().unwrap(), task["state"].as_str().unwrap())
    };
    run["tasks"].as_array().unwrap().iter().map(words).collect()
}

#[tokio::test]
async fn they_are_valid_as_they_are() {
    for name in ["mwaa_serverless.yaml", "dag_factory_map.yaml", "dag_factory_list.yaml"] {
        let answer = Command::new(PROGRAM).args(["validate", &fixture(name)]).env_clear().output().await.unwrap();
        assert!(answer.status.success(), "{}", String::from_utf8_lossy(&answer.stdout));
    }
}

#[tokio::test]
async fn a_workflow_of_mwaa_serverless_runs() {
    let product = Product::embedded().await;
    let s3 = product.s3().await;
    s3.ensure_bucket("foreign-orders").await.unwrap();
    let key = "incoming/eu-west-1/today.csv";
    s3.put("foreign-orders", key, b"1\n".to_vec().into(), PutOptions::default()).await.unwrap();
    let run = product.json(&["run", &fixture("mwaa_serverless.yaml")]).await;
    assert_eq!(run["state"], "success", "{run}");
    assert_eq!(
        pictured(&run),
        [
            "wait_for_file success true",
            "count_orders success \"3\"",
            "summarise success \"3 orders of eu-west-1\"",
            "done success"
        ]
    );
}

#[tokio::test]
async fn a_file_of_dag_factorys_with_mappings_runs() {
    let product = Product::embedded().await;
    let run = product.json(&["run", &fixture("dag_factory_map.yaml"), "--logical-date", "2026-03-01"]).await;
    assert_eq!(run["state"], "success", "{run}");
    assert_eq!(
        pictured(&run),
        [
            "prepare.settle success \"2026-03-01T00:00:01+00:00\"",
            "prepare.check success \"checked manual__2026-03-01T00:00:00+00:00 try 1\"",
            "load.choose success \"small\"",
            "load.big skipped",
            "load.small success \"small\"",
            "report success [1,\"two\",\"2026-03-01\"]",
            &format!("file_there success \"{}\"", fixture("foreign_tasks.py")),
            "finish success"
        ]
    );
}

#[tokio::test]
async fn a_file_of_dag_factorys_with_lists_runs() {
    let mut servers = JoinSet::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let router = Router::new().route("/orders", get(|| async { "[7]" })).route("/ready", get(|| async { "yes" }));
    servers.spawn(async move { axum::serve(listener, router).await.unwrap() });
    let product = Product::embedded().await;
    let settings =
        format!("[connections]\nforeign_api = \"http://{address}\"\n[variables]\nforeign_target = \"shop\"\n");
    product.write("pinsched.toml", &settings);
    let run = product.json(&["run", &fixture("dag_factory_list.yaml"), "--logical-date", "2026-03-01"]).await;
    assert_eq!(run["state"], "success", "{run}");
    let pictured = pictured(&run);
    assert_eq!(pictured.len(), 5);
    assert!(pictured[1].starts_with("fetch.ask success"), "{pictured:?}");
    assert_eq!(pictured[3], "is_worth_it success true");
    assert_eq!(json!(pictured[4]), json!("publish success \"published by publish on 2026-03-02\""));
}
