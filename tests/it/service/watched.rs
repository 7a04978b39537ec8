//! What a service tells over HTTP of its health and of what it does.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use pinsched::clock;
use pinsched::domain::run_state::RunState;
use pinsched::service::Door;
use pinsched::store::{Begin, NewRun, Pause, Word};
use regex::Regex;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::Served;
use crate::dags::House;

async fn get(address: SocketAddr, path: &str) -> (u16, String) {
    let answer = reqwest::get(format!("http://{address}{path}")).await.unwrap();
    (answer.status().as_u16(), answer.text().await.unwrap())
}

async fn health(address: SocketAddr) -> (u16, Value) {
    let (code, text) = get(address, "/health/ready").await;
    (code, serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}")))
}

/// The samples by name and labels; fails on a line that is not of the format.
fn samples(text: &str) -> BTreeMap<String, f64> {
    let sample = Regex::new(r#"^([a-zA-Z_:][a-zA-Z0-9_:]*)(\{[a-zA-Z_][a-zA-Z0-9_]*="(?:[^"\\]|\\.)*"(?:,[a-zA-Z_][a-zA-Z0-9_]*="(?:[^"\\]|\\.)*")*\})? (-?[0-9.e+-]+|\+Inf|NaN)$"#).unwrap();
    let comment = Regex::new(r"^# (HELP \S+ .+|TYPE \S+ (counter|gauge|histogram|info)|UNIT \S+ \S+)$").unwrap();
    let mut samples = BTreeMap::new();
    let mut lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.pop(), Some("# EOF"));
    for line in lines {
        if let Some(parts) = sample.captures(line) {
            let key = format!("{}{}", &parts[1], parts.get(2).map_or("", |labels| labels.as_str()));
            let is_new = samples.insert(key, parts[3].parse().unwrap()).is_none();
            assert!(is_new, "twice: {line}");
        } else {
            assert!(comment.is_match(line), "neither a sample nor a comment: {line}");
        }
    }
    samples
}

async fn metrics(address: SocketAddr) -> BTreeMap<String, f64> {
    let (code, text) = get(address, "/metrics").await;
    assert_eq!(code, 200, "{text}");
    samples(&text)
}

#[tokio::test]
async fn metrics_count_what_happened() {
    let served = Served::by_one(&[(
        "orders.yaml",
        "orders: {schedule: '@once', catchup: all, tasks: {one: {operator: script, retries: 1, retry_delay: 0, acts: [fail, succeed]}, \
         two: {operator: script, dependencies: [one]}}}\n\
         bad: {tasks: {refused: {operator: script, acts: [refuse]}}}\n",
    )])
    .await;
    let text = "bad: {tasks: {refused: {operator: script, acts: [refuse]}}}";
    served.dag("bad", |state| state.version.is_some()).await;
    let bad = served.trigger(text, "bad").await;
    assert_eq!(served.ended(&bad).await, RunState::Failed);
    let good = async |house: &House| {
        let runs = house.store.list_runs(Some(&"orders".parse().unwrap()), 10).await.unwrap();
        runs.iter().any(|run| run.state == RunState::Success).then_some(())
    };
    served.until("the scheduled run's end", good).await;
    let address = served.addresses[0];
    let counted = async |_: &House| {
        let seen = metrics(address).await;
        // The end is stored a moment before it is counted.
        let ended = |state: &str| seen.get(&format!("pinsched_runs_ended_total{{state=\"{state}\"}}")).copied();
        (ended("success") == Some(1.0) && ended("failed") == Some(1.0)).then_some(seen)
    };
    let seen = served.until("the count of both runs", counted).await;
    let value = |name: &str| *seen.get(name).unwrap_or_else(|| panic!("there is no {name} in {seen:#?}"));
    assert_eq!(value("pinsched_task_attempts_started_total"), 4.0);
    assert_eq!(value("pinsched_task_attempts_total{outcome=\"success\"}"), 2.0);
    assert_eq!(value("pinsched_task_attempts_total{outcome=\"failed\"}"), 2.0);
    assert_eq!(value("pinsched_ticks_total{outcome=\"run\"}"), 1.0);
    assert_eq!(value("pinsched_leases_taken_over_total"), 0.0);
    assert!(value("pinsched_engine_step_seconds_count") >= 4.0);
    assert!(value("pinsched_schedule_delay_seconds_count") >= 1.0);
    assert!(value("pinsched_task_start_delay_seconds_count") >= 1.0);
    assert_eq!(value("pinsched_database_up"), 1.0);
    assert!(value("process_resident_memory_bytes") > 1_000_000.0);
    assert_eq!(value(&format!("pinsched_build_info{{version=\"{}\"}}", env!("CARGO_PKG_VERSION"))), 1.0);
    served.stop().await;
}

#[tokio::test]
async fn a_tick_whose_run_somebody_made_before_is_no_skipped_one() {
    let text = "orders: {schedule: '@daily', start_date: 2026-01-01, end_date: 2026-01-01, catchup: all, \
                is_paused_upon_creation: true, tasks: {one: {operator: script}}}";
    let served = Served::by_one(&[("orders.yaml", text)]).await;
    let state = served.dag("orders", |state| state.version.is_some()).await;
    let (dag, store) = (crate::dags::dag(text), &served.house.store);
    let at = "2026-01-01T00:00:00Z".parse().unwrap();
    let by_hand = NewRun { logical_date: at, begin: Begin::InTurn, ..crate::dags::new_run(&dag, text) };
    store.create_run(&by_hand, clock::now()).await.unwrap();
    store.pause_dag(&state.dag_id, Pause::GoOn { begins: None }).await.unwrap();
    store.tell(Word::Schedule).await.unwrap();
    let address = served.addresses[0];
    let counted = async |_: &House| {
        let seen = metrics(address).await;
        seen.contains_key("pinsched_ticks_total{outcome=\"exists\"}").then_some(seen)
    };
    let seen = served.until("the tick", counted).await;
    assert_eq!(seen["pinsched_ticks_total{outcome=\"exists\"}"], 1.0);
    assert!(!seen.contains_key("pinsched_ticks_total{outcome=\"skipped\"}"), "{seen:#?}");
    assert_eq!(served.runs("orders").await.len(), 1);
    served.stop().await;
}

#[tokio::test]
async fn what_waits_and_runs_is_measured_when_somebody_looks() {
    let text = "orders: {tasks: {one: {operator: script, acts: [hang], pool: warehouse}, two: {operator: script, \
                dependencies: [one]}}}";
    let served =
        Served::by_one(&[("orders.yaml", text), ("broken.yaml", "broken: {tasks: {one: {operator: nothing}}}")]).await;
    served.house.store.set_pool("warehouse", 3, None).await.unwrap();
    served.dag("orders", |state| state.version.is_some()).await;
    let run = served.trigger(text, "one").await;
    let address = served.addresses[0];
    let running = async |_: &House| {
        let seen = metrics(address).await;
        (seen.get("pinsched_tasks{state=\"running\"}") == Some(&1.0)).then_some(seen)
    };
    let seen = served.until("the task to run", running).await;
    let value = |name: &str| *seen.get(name).unwrap_or_else(|| panic!("there is no {name} in {seen:#?}"));
    assert_eq!(value("pinsched_runs{state=\"running\"}"), 1.0);
    assert_eq!(value("pinsched_tasks{state=\"queued\"}"), 0.0);
    assert_eq!(value("pinsched_pool_slots{pool=\"warehouse\"}"), 3.0);
    assert_eq!(value("pinsched_pool_slots_free{pool=\"warehouse\"}"), 2.0);
    assert_eq!(value("pinsched_broken_files"), 1.0);
    assert!(!run.state.is_final());
    served.stop().await;
}

#[tokio::test]
async fn a_service_is_ready_while_it_can_work_and_not_while_it_drains() {
    let text = "orders: {tasks: {one: {operator: script, acts: [hang]}}}";
    let mut served = Served::by_one(&[("orders.yaml", text)]).await;
    let address = served.addresses[0];
    let ready = async |_: &House| Some(health(address).await).filter(|(code, _)| *code == 200);
    let (_, said) = served.until("readiness", ready).await;
    assert_eq!(said["status"], "ready");
    let checks = serde_json::json!({"database": "ok", "schema": "ok", "scheduler": "ok", "worker": "ok"});
    assert_eq!(said["checks"], checks);
    let (code, body) = get(address, "/health").await;
    assert_eq!((code, serde_json::from_str::<Value>(&body).unwrap()), (200, said), "the same without a name");
    assert_eq!(get(address, "/health/live").await.0, 200);
    assert_eq!(get(address, "/anything").await.0, 404);

    // A schema that a later version made.
    served.house.execute("UPDATE _sqlx_migrations SET version = version + 90000000000000 WHERE version = (SELECT max(version) FROM _sqlx_migrations)").await;
    let (code, said) = health(address).await;
    assert_eq!(code, 503, "{said}");
    assert!(said["checks"]["schema"].as_str().unwrap().starts_with("the database is at "), "{said}");
    served.house.execute("UPDATE _sqlx_migrations SET version = version - 90000000000000 WHERE version = (SELECT max(version) FROM _sqlx_migrations)").await;

    served.dag("orders", |state| state.version.is_some()).await;
    served.trigger(text, "one").await;
    let running = async |house: &House| (house.store.load().await.unwrap().running == 1).then_some(());
    served.until("a task that keeps the service from ending", running).await;
    served.shutdown.drain();
    let (code, said) = health(address).await;
    assert_eq!((code, said["checks"]["process"].as_str()), (503, Some("draining")));
    assert_eq!(get(address, "/health/live").await.0, 200, "it lives");
    served.stop().await;
}

/// A probe that gives up after two seconds hears why.
#[tokio::test]
async fn a_database_that_does_not_answer_is_told_within_a_second_or_so() {
    let mut served = Served::by_one(&[]).await;
    let address = served.addresses[0];
    let ready = async |_: &House| (health(address).await.0 == 200).then_some(());
    served.until("readiness", ready).await;
    served.house.execute("BEGIN").await;
    served.house.execute("LOCK TABLE _sqlx_migrations IN ACCESS EXCLUSIVE MODE").await;
    let (code, said) = tokio::time::timeout(Duration::from_secs(3), health(address)).await.expect("it answers");
    assert_eq!((code, said["checks"]["database"].as_str()), (503, Some("no answer within 1 s")), "{said}");
    served.house.execute("ROLLBACK").await;
    served.stop().await;
}

#[tokio::test]
async fn a_client_that_says_nothing_is_let_go() {
    let served = Served::by_one(&[]).await;
    let mut silent = TcpStream::connect(served.addresses[0]).await.unwrap();
    silent.write_all(b"GET /metrics HTT").await.unwrap();
    let mut answer = Vec::new();
    let read = tokio::time::timeout(Duration::from_secs(30), silent.read_to_end(&mut answer)).await;
    assert!(read.is_ok(), "the connection is closed");
    served.stop().await;
}

#[tokio::test]
async fn a_port_that_is_taken_is_said_so() {
    let door = Door::open("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let error = Door::open(door.address()).await.unwrap_err();
    let said = error.to_string();
    assert!(said.contains(&door.address().to_string()) && said.contains("--listen"), "{said}");
}
