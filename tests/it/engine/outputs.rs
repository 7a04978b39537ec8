//! Outputs of any size: kept in the database, put into the real S3 server and fetched from there, or refused.

use std::path::Path;
use std::sync::Arc;

use pinsched::clock;
use pinsched::connect::s3::S3;
use pinsched::connect::{S3Credentials, S3Endpoint};
use pinsched::domain::control::{Action, Reach};
use pinsched::domain::run_state::RunState;
use pinsched::domain::task_state::TaskState;
use pinsched::embedded::s3::{S3Server, S3ServerConfig};
use pinsched::engine::outputs::{OutputLimits, OutputStore, SpillPlace, Unused, delete_unused, find_unused};
use pinsched::engine::shutdown::Shutdown;
use pinsched::engine::{Driven, Engine};
use pinsched::operators;
use pinsched::store::{Mode, NewRun, Request};
use secrecy::SecretString;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::drive_with;
use crate::dags::{House, Play, new_run};
use crate::script::Stage;

/// A DAG of real operators.
async fn play(house: &House, text: &str) -> Play {
    let file = pinsched::domain::source::SourceFile::new("orders.yaml", text);
    let mut checked = pinsched::domain::check::check(&file, &operators::catalog());
    assert!(!checked.has_errors(), "{:?}", checked.diagnostics);
    let dag = checked.dags.pop().unwrap();
    let folder = std::env::temp_dir().join("orders.yaml");
    let new = NewRun { file: folder.to_str().unwrap(), ..new_run(&dag, text) };
    let run = house.store.create_run(&new, pinsched::clock::now()).await.unwrap();
    Play { stage: Stage::of(run.uuid), dag, run }
}

async fn engine(house: &House, outputs: OutputStore) -> Engine {
    Engine { registrations: operators::registry(), outputs: Arc::new(outputs), ..house.engine().await }
}

async fn error_of(house: &House, play: &Play, task: usize) -> String {
    house.store.task_runs(play.run.key).await.unwrap().remove(task).error.unwrap_or_default()
}

async fn server(folder: &Path) -> S3Server {
    let config = S3ServerConfig {
        root: folder.join("s3"),
        listen: "127.0.0.1:0".parse().unwrap(),
        access_key_id: "key".to_owned(),
        secret_access_key: SecretString::from("secret"),
    };
    S3Server::start(config, CancellationToken::new()).await.unwrap()
}

fn endpoint(server: &S3Server) -> S3Endpoint {
    let credentials =
        S3Credentials { access_key_id: "key".to_owned(), secret_access_key: SecretString::from("secret") };
    S3Endpoint {
        endpoint_url: Some(server.endpoint_url().parse().unwrap()),
        region: None,
        credentials: Some(credentials),
        path_style: true,
        create_buckets: true,
        staging_bucket: "lake".to_owned(),
    }
}

const LARGE: &str = "orders:
  tasks:
    large: {operator: bash, bash_command: \"head -c 300000 /dev/zero | tr '\\\\0' x; echo\"}
    each: {operator: bash, dependencies: [large], expand: {bash_command: [\"head -c 300000 /dev/zero | tr '\\\\0' y; echo\", echo small]}}
    after:
      operator: bash
      dependencies: [each]
      bash_command: \"echo {{ outputs.large.return_value | length }} {{ outputs.each | map(attribute='return_value') | map('length') | join('+') }}\"
    careless: {operator: bash, dependencies: [each], bash_command: echo fine}
    by_any_name:
      operator: bash
      dependencies: [each]
      bash_command: \"echo {% for id in ['large'] %}{{ outputs[id].return_value | length }}{% endfor %}\"
";

#[tokio::test]
async fn what_is_too_large_for_a_row_goes_to_object_storage_and_comes_back_and_goes_with_its_run() {
    let folder = tempfile::tempdir().unwrap();
    let server = server(folder.path()).await;
    let place = SpillPlace { bucket: "lake".to_owned(), prefix: "some/outputs".to_owned() };
    let limits = OutputLimits { spill_to: Some(place), ..OutputLimits::default() };
    let mut house = House::open().await;
    let play = play(&house, LARGE).await;
    let engine = engine(&house, OutputStore::new(endpoint(&server), limits)).await;
    assert_eq!(drive_with(&engine, &house, &play).await, RunState::Success);
    let tasks = house.store.task_runs(play.run.key).await.unwrap();
    let spilled = tasks[0].spilled.as_ref().expect("it is not in the database");
    assert!(tasks[0].output.is_none());
    assert_eq!(tasks[2].output.as_ref().unwrap()["return_value"], "300000 300000+5");
    assert_eq!(tasks[4].output.as_ref().unwrap()["return_value"], "300000");
    // By anybody, and checked.
    let fetched = engine.outputs.fetch_one(spilled).await.unwrap();
    assert_eq!(fetched["return_value"].as_str().map(str::len), Some(300_000));
    assert_eq!(spilled.bytes, fetched.to_string().len() as u64);
    let s3 = S3::connect(&endpoint(&server)).await;
    let objects = s3.list("lake", "some/outputs").await.unwrap();
    assert_eq!(objects.len(), 2);
    // A task whose output is gone fails, and says why; one that does not name it does not notice.
    for object in &objects {
        s3.put("lake", &object.key, "{}".into(), Default::default()).await.unwrap();
    }
    let changed = engine.outputs.fetch_one(spilled).await.unwrap_err().to_string();
    assert!(
        changed.starts_with("the object at s3://lake/some/outputs/")
            && changed.ends_with("is not the output that was put there"),
        "{changed}"
    );
    // They go with the run.
    let nothing = Unused::default();
    assert_eq!(delete_unused(&house.store, &engine.outputs).await.unwrap(), nothing);
    house.execute(&format!("DELETE FROM run WHERE id = {}", play.run.key.0)).await;
    // The objects are `{}` now.
    let unused = Unused { runs: 1, objects: 2, bytes: 4 };
    assert_eq!(find_unused(&house.store, &engine.outputs).await.unwrap(), unused);
    assert_eq!(delete_unused(&house.store, &engine.outputs).await.unwrap(), unused);
    assert_eq!(s3.list("lake", "").await.unwrap().len(), 0);
    assert_eq!(delete_unused(&house.store, &engine.outputs).await.unwrap(), nothing);
}

/// One bucket is gone with all that was in it, one cannot be named, and one is fine.
#[tokio::test]
async fn what_cannot_be_deleted_keeps_nothing_else_from_it() {
    let folder = tempfile::tempdir().unwrap();
    let server = server(folder.path()).await;
    let mut house = House::open().await;
    let outputs = OutputStore::new(endpoint(&server), OutputLimits::default());
    let s3 = S3::connect(&endpoint(&server)).await;
    s3.ensure_bucket("lake").await.unwrap();
    s3.put("lake", "z/0/1.json", "{}".into(), Default::default()).await.unwrap();
    for place in ["file:///a/", "s3://gone/a/", "s3://lake/z/"] {
        house.execute(&format!("INSERT INTO spill_place (place) VALUES ('{place}')")).await;
    }
    let error = delete_unused(&house.store, &outputs).await.unwrap_err();
    assert_eq!(error.to_string(), "the output's place `file:///a/` is no s3:// URL");
    assert_eq!(house.store.spills_to_delete("", 9).await.unwrap(), ["file:///a/"]);
    assert_eq!(s3.list("lake", "").await.unwrap().len(), 0);
}

#[tokio::test]
async fn a_cancelled_run_does_not_wait_for_an_object_store_that_does_not_answer() {
    // It takes connections, and says nothing.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = S3Endpoint {
        endpoint_url: Some(format!("http://{}", silent.local_addr().unwrap()).parse().unwrap()),
        credentials: Some(S3Credentials {
            access_key_id: "key".to_owned(),
            secret_access_key: SecretString::from("secret"),
        }),
        ..crate::attempts::nowhere().s3
    };
    let limits = OutputLimits {
        spill_to: Some(SpillPlace { bucket: "lake".to_owned(), prefix: "outputs".to_owned() }),
        ..OutputLimits::default()
    };
    let house = House::open().await;
    let play = play(&house, LARGE).await;
    let engine = engine(&house, OutputStore::new(endpoint, limits)).await;
    let (run, shutdown) = (house.running(&play).await, Shutdown::default());
    let cancelled = async {
        let _connection = silent.accept().await.unwrap();
        house.store.request_cancel(play.run.key, clock::now()).await.unwrap();
        std::future::pending::<()>().await
    };
    let driven = tokio::select! {
        driven = engine.drive(run, &shutdown) => driven.unwrap(),
        () = cancelled => unreachable!("it is pending"),
    };
    assert_eq!(driven, Driven::Concluded(RunState::Failed));
    assert_eq!(error_of(&house, &play, 0).await, "the run was cancelled");
}

#[tokio::test]
async fn what_a_branch_decides_stays_in_the_database_however_small_a_row_is() {
    let house = House::open().await;
    let text = "orders:
  tasks:
    choose: {operator: branch, follow: [ID]}
    ID: {operator: bash, bash_command: \"true\", dependencies: [choose]}
    right: {operator: bash, bash_command: echo right, dependencies: [choose]}
"
    .replace("ID", &"left".repeat(30));
    let play = play(&house, &text).await;
    let limits = OutputLimits { inline: 100, ..OutputLimits::default() };
    let outputs = OutputStore::new(crate::attempts::nowhere().s3, limits);
    let driven = drive_with(&engine(&house, outputs).await, &house, &play).await;
    let choose = house.store.task_runs(play.run.key).await.unwrap().remove(0);
    assert_eq!((driven, choose.state), (RunState::Success, TaskState::Success), "{choose:?}");
    // Cleared alone, what was not chosen is still kept back.
    let tasks = [play.task("right")];
    let request = Request { action: Action::Clear, tasks: &tasks, reach: Reach::default(), words: "cleared" };
    let changed = house.store.change_tasks(play.run.key, &play.dag, request, Mode::Do, clock::now()).await.unwrap();
    assert!(changed.iter().all(|one| one.to == TaskState::Skipped), "{changed:?}");
}

#[tokio::test]
async fn without_object_storage_the_limit_is_an_error_that_names_the_settings() {
    let house = House::open().await;
    let play = play(&house, LARGE).await;
    let outputs = OutputStore::new(crate::attempts::nowhere().s3, OutputLimits::default());
    assert_eq!(drive_with(&engine(&house, outputs).await, &house, &play).await, RunState::Failed);
    insta::assert_snapshot!(error_of(&house, &play, 0).await);
}

#[tokio::test]
async fn an_output_of_100_mb_is_refused_whoever_leaves_it_and_the_engine_goes_on() {
    let house = House::open().await;
    let play = play(
        &house,
        "orders:
  default_args: {retries: 3}
  tasks:
    line: {operator: bash, bash_command: \"head -c 100000000 /dev/zero | tr '\\\\0' x\"}
    file: {operator: bash, bash_command: \"true\", dependencies: [line], trigger_rule: all_done}
    after: {operator: bash, bash_command: echo on, dependencies: [file]}
",
    )
    .await;
    let outputs = OutputStore::new(crate::attempts::nowhere().s3, OutputLimits::default());
    assert_eq!(drive_with(&engine(&house, outputs).await, &house, &play).await, RunState::Success);
    let tasks = house.store.task_runs(play.run.key).await.unwrap();
    assert_eq!(tasks[0].try_number, 1, "another try would leave as much");
    insta::assert_snapshot!(tasks[0].error.as_ref().unwrap());
    assert_eq!(tasks[2].output.as_ref().and_then(|output| output["return_value"].as_str()), Some("on"));
    assert_eq!(tasks[0].output.clone().map(Value::Object), None);
}
