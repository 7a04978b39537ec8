//! Each sensor against what it looks at.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use axum::Router;
use axum::http::StatusCode;
use axum::response::Json;
use axum::routing::get;
use bytes::Bytes;
use pinsched::clock;
use pinsched::connect::KafkaEndpoint;
use pinsched::connect::kafka::{Cluster, TopicPlan};
use pinsched::connect::s3::{PutOptions, S3};
use pinsched::embedded::s3::{S3Server, S3ServerConfig};
use pinsched::engine::operator::{Failure, Output};
use pinsched::store::{Begin, NewRun};
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};
use sqlx::{Connection, Executor, PgConnection};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::attempts::{self, Attempt, TestRun};
use crate::dags::{self, House};
use crate::{services, sink};

/// Runs a sensor that has to wait at first; once it has said so, something happens. Gives what it said, and its end.
async fn waits(
    run: &mut TestRun,
    operator: &str,
    mut config: Value,
    happens: impl AsyncFnOnce(),
) -> (String, Result<Output, Failure>) {
    config["poke_interval"] = json!("20ms");
    let Attempt { context, mut log } = run.claim("wait").await;
    let attempt = attempts::run(&context, operator, config);
    tokio::pin!(attempt);
    let said = tokio::select! {
        ended = &mut attempt => panic!("it did not wait: {ended:?}"),
        said = log.next_line() => said,
    };
    let limit = std::time::Duration::from_secs(30);
    let ((), ended) = tokio::join!(happens(), tokio::time::timeout(limit, attempt)); // it may end before the other does
    (said, ended.expect("it comes within 30 s"))
}

#[tokio::test]
async fn a_file_is_waited_for_by_name_by_pattern_and_in_a_folder() {
    let folder = tempfile::tempdir().unwrap();
    let mut run = TestRun::start().await;
    run.dag_folder = folder.path().to_owned();
    for (wanted, made) in [("a.csv", "a.csv"), ("b_*.csv", "b_1.csv"), ("in", "in/deeper/c.csv")] {
        let path = folder.path().join(made);
        let (said, ended) = waits(&mut run, "file_sensor", json!({"filepath": wanted}), async || {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, "x").unwrap();
        })
        .await;
        assert_eq!(said, format!("`{wanted}` is not there"));
        assert!(ended.unwrap()["return_value"].as_str().unwrap().starts_with(folder.path().to_str().unwrap()));
    }
    // One that is there costs no wait.
    let Attempt { context, mut log } = run.claim("wait").await;
    attempts::run(&context, "airflow.sensors.filesystem.FileSensor", json!({"filepath": "a.csv"})).await.unwrap();
    assert!(log.lines().is_empty());
}

#[tokio::test]
async fn a_time_comes() {
    let mut run = TestRun::start().await;
    run.variables["data_interval_end"] = json!("2026-03-01T02:00:00+00:00");
    let over = run.run("t", "time_sensor", json!({"target_time": "06:30"})).await.unwrap();
    assert_eq!(over["return_value"], json!("2026-03-01T06:30:00+00:00"));
    let over = run.run("t", "time_sensor", json!({"target_time": "2026-02-01T00:00:00+01:00"})).await.unwrap();
    assert_eq!(over["return_value"], json!("2026-01-31T23:00:00+00:00"));
    let over = run.run("t", "time_delta_sensor", json!({"delta": "1h30m"})).await.unwrap();
    assert_eq!(over["return_value"], json!("2026-03-01T03:30:00+00:00"));

    let soon = clock::now() + chrono::TimeDelta::milliseconds(700);
    let config = json!({"target_time": soon.to_rfc3339()});
    let (said, ended) = waits(&mut run, "time_sensor", config, async || {}).await;
    assert!(said.starts_with("waits until 2"), "{said}");
    ended.unwrap();
    assert!(clock::now() >= soon, "not before");
    run.variables["data_interval_end"] = json!(clock::now().to_rfc3339());
    let begun = clock::monotonic();
    let (_, ended) = waits(&mut run, "time_delta_sensor", json!({"delta": "500ms"}), async || {}).await;
    ended.unwrap();
    assert!(begun.elapsed() < std::time::Duration::from_secs(30), "it is woken at the instant, not a minute later");
}

#[tokio::test]
async fn a_query_becomes_true_on_postgres_and_on_mariadb() {
    let mut run = TestRun::start().await;
    let database = services::database().await;
    let mut client = PgConnection::connect(database.expose_secret()).await.unwrap();
    client.execute("CREATE TABLE loads (day date, part numeric)").await.unwrap();
    run.endpoints.named.connections.insert("warehouse".to_owned(), database);
    let config = json!({"conn_id": "warehouse", "sql": "SELECT sum(part) FROM loads"});
    let (said, ended) = waits(&mut run, "sql_sensor", config, async || {
        client.execute("INSERT INTO loads VALUES ('2026-03-01', 0.5)").await.unwrap();
    })
    .await;
    assert_eq!((said.as_str(), &ended.unwrap()["return_value"]), ("the first value is NULL", &json!("0.5")));
    let config = json!({"conn_id": "warehouse", "sql": "SELECT true FROM loads WHERE day > '2026-03-01'"});
    let (said, ended) = waits(&mut run, "sql_sensor", config.clone(), async || {
        client.execute("INSERT INTO loads VALUES ('2026-03-02', 0)").await.unwrap();
    })
    .await;
    assert_eq!(said, "the query has no rows");
    ended.unwrap();
    let empty = json!({"conn_id": "warehouse", "sql": "SELECT 1 WHERE false", "fail_on_empty": true});
    assert_eq!(run.run("t", "sql_sensor", empty).await, Err(Failure::Fatal("the query has no rows".to_owned())));
    let wrong = json!({"conn_id": "warehouse", "sql": "SELEKT 1"});
    let failure = run.run("t", "sql_sensor", wrong).await.unwrap_err();
    assert!(matches!(&failure, Failure::Fatal(text) if text.contains("syntax error")), "{failure:?}");

    run.endpoints.named.connections.insert("maria".to_owned(), SecretString::from(services::mariadb()));
    for (sql, is_true) in [("SELECT 1 + 1", true), ("SELECT 0.00", false), ("SELECT 'x'", true), ("SELECT NULL", false)]
    {
        let config = json!({"conn_id": "maria", "sql": sql, "timeout": "1ms", "soft_fail": true});
        assert_eq!(run.run("t", "sql_sensor", config).await.is_ok(), is_true, "{sql}");
    }
}

#[tokio::test]
async fn a_service_answers_as_it_is_wanted_to() {
    let mut run = TestRun::start().await;
    let status = Arc::new(AtomicU16::new(404));
    let answer = {
        let status = Arc::clone(&status);
        move || async move {
            let status = StatusCode::from_u16(status.load(Ordering::SeqCst)).unwrap();
            let state = if status == StatusCode::CREATED { "done" } else { "busy" };
            (status, Json(json!({"state": state})))
        }
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut server = JoinSet::new();
    server.spawn(async move { axum::serve(listener, Router::new().route("/state", get(answer))).await.unwrap() });
    run.endpoints.named.connections.insert("api".to_owned(), SecretString::from(format!("http://{address}")));
    let config = json!({"http_conn_id": "api", "endpoint": "state"});
    let (said, ended) =
        waits(&mut run, "http_sensor", config.clone(), async || status.store(200, Ordering::SeqCst)).await;
    assert!(said.contains("was answered with 404"), "{said}");
    assert_eq!(ended.unwrap()["return_value"], json!({"state": "busy"}));

    let mut checked = config.clone();
    checked["response_check"] = json!("{{ response.body.state == 'done' }}");
    let (said, ended) = waits(&mut run, "http_sensor", checked, async || status.store(201, Ordering::SeqCst)).await;
    assert_eq!(said, "the answer is not the one that is waited for");
    ended.unwrap();

    status.store(503, Ordering::SeqCst);
    let (said, ended) =
        waits(&mut run, "http_sensor", config.clone(), async || status.store(200, Ordering::SeqCst)).await;
    assert!(said.starts_with("could not look: "), "what may pass is waited through: {said}");
    ended.unwrap();
    status.store(403, Ordering::SeqCst);
    let failure = run.run("t", "http_sensor", config).await.unwrap_err();
    assert!(matches!(failure, Failure::Fatal(_)), "{failure:?}");
}

#[tokio::test]
async fn objects_come_by_key_and_by_pattern() {
    let folder = tempfile::tempdir().unwrap();
    let config = S3ServerConfig {
        root: folder.path().join("s3"),
        listen: "127.0.0.1:0".parse().unwrap(),
        access_key_id: "test".to_owned(),
        secret_access_key: SecretString::from("secret"),
    };
    let server = S3Server::start(config, CancellationToken::new()).await.unwrap();
    let mut run = TestRun::start().await;
    run.endpoints.s3 = sink::s3_endpoint(&server, "secret");
    let s3 = S3::connect(&run.endpoints.s3).await;
    let put = async |key: &str| s3.put("lake", key, Bytes::from_static(b"x"), PutOptions::default()).await.unwrap();
    let keys = json!({"bucket_key": ["s3://lake/a/1.csv", "s3://lake/a/2.csv"]});
    let (said, ended) = waits(&mut run, "s3_key_sensor", keys, async || {
        s3.ensure_bucket("lake").await.unwrap();
        put("a/1.csv").await;
        put("a/2.csv").await;
    })
    .await;
    assert_eq!(said, "s3://lake/a/1.csv is not there");
    ended.unwrap();
    let pattern = json!({"bucket_name": "lake", "bucket_key": "b/day=*/_SUCCESS", "wildcard_match": true});
    let (said, ended) = waits(&mut run, "s3_key_sensor", pattern, async || put("b/day=1/_SUCCESS").await).await;
    assert_eq!(said, "s3://lake/b/day=*/_SUCCESS is not there");
    ended.unwrap();
}

#[tokio::test]
async fn a_topic_grows() {
    let mut run = TestRun::start().await;
    run.endpoints.kafka = KafkaEndpoint { bootstrap_servers: services::kafka(), properties: BTreeMap::new() };
    let topic = format!("grows-{}", run.uuid);
    let cluster = Cluster::new(&run.endpoints.kafka).unwrap();
    let record = |n: i32| sink::Record { timestamp: clock::unix_ms(), ..sink::Record::of(n.to_string()) };
    let three = || (0..3).map(record).collect::<Vec<_>>();
    let config = json!({"topic": topic, "offset": 1});
    let (said, ended) = waits(&mut run, "kafka_offset_sensor", config, async || {
        let plan = TopicPlan { name: topic.clone(), partitions: 1, replication: Some(1) };
        cluster.ensure_topics(&[plan]).await.unwrap();
        sink::send(&topic, &three());
    })
    .await;
    assert_eq!(said, format!("topic `{topic}` is not there"));
    assert_eq!(ended.unwrap()["return_value"].as_i64().map(|offset| offset >= 1), Some(true));
    // Another run, which the three so far do not count for.
    run.next("success").await;
    let config = json!({"topic": topic, "records": 3});
    let (said, ended) = waits(&mut run, "kafka_offset_sensor", config, async || sink::send(&topic, &three())).await;
    assert_eq!(said, format!("`{topic}` has grown by less than 3 since the run began"));
    assert_eq!(ended.unwrap()["return_value"].as_i64().map(|grown| grown >= 3), Some(true));
}

#[tokio::test]
async fn another_dags_run_and_tasks_are_waited_for() {
    let mut run = TestRun::start().await;
    let gone = json!({"external_dag_id": "orders", "check_existence": true});
    let failure = run.run("t", "external_task_sensor", gone).await.unwrap_err();
    assert_eq!(failure, Failure::Fatal("there is no DAG `orders`".to_owned()));

    let text = "orders: {tasks: {one: {operator: script}, two: {operator: script, dependencies: [one]}}}";
    let (dag, store) = (dags::dag(text), run.store.clone());
    let logical_date = "2026-03-01T01:00:00Z".parse().unwrap();
    let new = NewRun { logical_date, begin: Begin::InTurn, ..dags::new_run(&dag, text) };
    let run_of = json!({"external_dag_id": "orders", "execution_delta": "1h", "allowed_states": ["success", "failed"]});
    let (said, ended) = waits(&mut run, "external_task_sensor", run_of.clone(), async || {
        let other = store.create_run(&new, clock::now()).await.unwrap();
        store.give_up_run(other.key, "given up", clock::now()).await.unwrap();
    })
    .await;
    assert_eq!(said, "DAG `orders` has no run of 2026-03-01T01:00:00Z");
    ended.unwrap();

    let two = json!({"external_dag_id": "orders", "execution_delta": "1h", "external_task_ids": ["one", "two"]});
    let with = |more: Value| {
        let mut config = two.clone();
        config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        config
    };
    let failed = run.run("t", "external_task_sensor", with(json!({"failed_states": ["failed"]}))).await;
    assert!(matches!(&failed, Err(Failure::Fatal(text)) if text.ends_with("is failed")), "{failed:?}");
    let soft = with(json!({"failed_states": ["failed"], "soft_fail": true}));
    assert!(matches!(run.run("t", "external_task_sensor", soft).await, Err(Failure::Skip(_))));
    let skipped = with(json!({"skipped_states": ["failed"]}));
    assert!(matches!(run.run("t", "external_task_sensor", skipped).await, Err(Failure::Skip(_))));
    let unknown = json!({"external_dag_id": "orders", "execution_delta": "1h", "external_task_id": "three"});
    let failure = run.run("t", "external_task_sensor", unknown).await.unwrap_err();
    assert!(matches!(&failure, Failure::Fatal(text) if text.ends_with("has no task `three`")), "{failure:?}");
    let vain = with(json!({"timeout": "1ms"}));
    let failure = run.run("t", "external_task_sensor", vain).await.unwrap_err();
    assert!(
        matches!(&failure, Failure::Fatal(text) if text.starts_with("it was waited for 1ms in vain")),
        "{failure:?}"
    );
}

#[tokio::test]
async fn patience_ends_for_good_or_softly_and_a_cancellation_at_once() {
    let mut run = TestRun::start().await;
    run.dag_folder = tempfile::tempdir().unwrap().path().to_owned();
    let failure = run.run("t", "file_sensor", json!({"filepath": "a", "timeout": "30ms", "poke_interval": "1h"})).await;
    assert_eq!(failure, Err(Failure::Fatal("it was waited for 30ms in vain: `a` is not there".to_owned())));
    let soft = json!({"filepath": "a", "timeout": "1ms", "soft_fail": true, "mode": "reschedule", "deferrable": true});
    assert!(matches!(run.run("t", "file_sensor", soft).await, Err(Failure::Skip(_))));

    let Attempt { context, mut log } = run.claim("t").await;
    let cancelling = async {
        log.next_line().await;
        context.cancel.cancel();
    };
    let (ended, ()) = tokio::join!(attempts::run(&context, "file_sensor", json!({"filepath": "a"})), cancelling);
    assert_eq!(ended, Err(Failure::Interrupted));
}

/// The timeout is the task's, not an attempt's.
#[tokio::test]
async fn the_time_is_counted_from_the_first_attempt_since_the_last_clear() {
    let mut house = House::open().await;
    let play = house.play("orders: {tasks: {one: {operator: script}}}").await;
    let task = pinsched::domain::ids::TaskRunKey { run: play.run.key, task: play.task("one") };
    assert_eq!(house.store.first_attempt_at(task).await.unwrap(), None);
    for (fence, try_number) in [(1, 1), (2, 1), (3, 2)] {
        let insert = format!(
            "INSERT INTO attempt (run_key, task_index, fence, try_number, worker_id, started_at)
             VALUES ({}, 0, {fence}, {try_number}, 1, '2026-03-01T0{fence}:00:00Z')",
            play.run.key.0
        );
        assert_eq!(house.execute(&insert).await, 1);
    }
    let first = async |house: &House| house.store.first_attempt_at(task).await.unwrap().unwrap().to_rfc3339();
    assert_eq!(first(&house).await, "2026-03-01T01:00:00+00:00");
    house.execute(&format!("UPDATE task_run SET first_try = 2 WHERE run_key = {}", play.run.key.0)).await;
    assert_eq!(first(&house).await, "2026-03-01T03:00:00+00:00");
}
