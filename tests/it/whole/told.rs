//! Callbacks of `pinsched run`: it tells by itself, and what a killed one left untold is told by who goes on.

use std::time::Duration;

use axum::http::StatusCode;
use pinsched::store::{Notification, Store};
use secrecy::SecretString;
use serde_json::json;
use tokio::task::JoinSet;

use crate::receivers::Receiver;
use crate::whole::product::{PATIENCE, Product, dag_file};

#[tokio::test]
async fn the_example_tells_of_a_retry_a_missed_deadline_and_its_end() {
    let (mut servers, receiver) = (JoinSet::new(), Receiver::default());
    let hook = format!("hook={}/events", receiver.serve(&mut servers).await);
    let product = Product::embedded().await;
    let report = product.json(&["run", &dag_file("callbacks.yaml"), "--param", &hook]).await;
    assert_eq!(report["state"], json!("success"));
    assert_eq!(receiver.told(), ["deadline of slow, try 1", "retry of flaky, try 1", "success of the run"]);
    let signed = receiver.got().iter().filter(|(headers, _)| headers.contains_key("x-pinsched-signature")).count();
    assert_eq!(signed, 1, "only where there is a secret");
}

#[tokio::test]
async fn what_a_killed_run_left_untold_is_told_when_it_goes_on() {
    let (mut servers, receiver) = (JoinSet::new(), Receiver::default());
    let url = receiver.serve(&mut servers).await;
    let product = Product::embedded().await;
    let flag = product.folder().join("flag");
    let file = product.write(
        "told.yaml",
        &format!(
            "told:
  on_success: {{webhook: {{url: '{url}/run'}}}}
  tasks:
    one: {{operator: bash, bash_command: 'true', on_success: {{webhook: {{url: '{url}/task'}}}}}}
    two: {{operator: bash, bash_command: 'until test -e {}; do sleep 0.05; done', dependencies: [one]}}",
            flag.display()
        ),
    );
    receiver.answer(&[StatusCode::SERVICE_UNAVAILABLE]);
    let mut child = product.start(&["run", &file]);
    let store = Store::connect(&SecretString::from(product.database_url()), 2).await.unwrap();
    let failed_once = async {
        let mut look = tokio::time::interval(Duration::from_millis(20));
        loop {
            look.tick().await;
            let all = told_of(&store).await;
            if all.iter().any(|one| one.error.is_some()) {
                return all;
            }
        }
    };
    let all = tokio::time::timeout(PATIENCE, failed_once).await.expect("its receiver is away");
    assert_eq!((all.len(), all[0].sent_at), (1, None));
    child.kill().await.unwrap();
    assert_eq!(receiver.told().len(), 1, "it was refused");
    std::fs::write(&flag, "").unwrap();
    let run = store.list_runs(None, 1).await.unwrap().pop().expect("the run of the killed process");
    let report = product.json(&["resume", run.run_id.as_str()]).await;
    assert_eq!(report["state"], json!("success"));
    assert_eq!(
        receiver.told(),
        ["success of one, try 1", "success of one, try 1", "success of the run"],
        "the first one was refused"
    );
    let all = told_of(&store).await;
    assert!(all.len() == 2 && all.iter().all(|one| one.sent_at.is_some()), "{all:?}");
}

/// What there is to tell of the latest run.
async fn told_of(store: &Store) -> Vec<Notification> {
    let Ok(runs) = store.list_runs(None, 1).await else { return Vec::new() };
    match runs.first() {
        Some(run) => store.notifications(run.key).await.unwrap(),
        None => Vec::new(),
    }
}

/// The reason of a cancellation that nobody asked for is shown wherever the run is.
#[tokio::test]
async fn a_run_that_took_too_long_says_so() {
    let product = Product::embedded().await;
    let file = product
        .write("late.yaml", "late: {dagrun_timeout: 1s, tasks: {one: {operator: bash, bash_command: sleep 60}}}");
    let answer = product.answer(&["run", &file, "--output", "json"]).await;
    assert_eq!(answer.status.code(), Some(1));
    let report: serde_json::Value = serde_json::from_str(&answer.stdout).unwrap();
    let reason = "it ran longer than its dagrun_timeout of 1 s";
    assert_eq!(report["cancel_reason"], json!(reason));
    let listed = product.json(&["runs"]).await;
    assert_eq!(listed["runs"][0]["cancel_reason"], json!(reason));
    let shown = product.answer(&["show", report["run_id"].as_str().unwrap()]).await;
    assert!(shown.stdout.contains(&format!("cancelled: {reason}")), "{}", shown.stdout);
    let shown = product.answer(&["runs"]).await;
    assert!(shown.stdout.contains("dagrun_timeout of 1 s"), "{}", shown.stdout);
}
