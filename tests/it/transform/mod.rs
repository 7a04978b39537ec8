//! `transform` over sunk objects, against an independent calculation in plain Python.

mod sunk;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use pinsched::domain::sinking::{SinkCounts, SinkCut, SinkObject, SinkRange, TopicPartition};
use pinsched::engine::operator::{Failure, Output};
use serde_json::{Value, json};
use sqlx::{Connection, PgConnection, Row};

use crate::attempts;
use crate::services;
use secrecy::ExposeSecret;
use sunk::{BUCKET, STAGING, Sunk};

/// Our results by the numbers that the reference gives them.
const RESULTS: [(&str, &str); 9] = [
    ("1", "01_most_popular_category_per_country"),
    ("2", "02_most_popular_category_per_year"),
    ("3a", "03a_most_followed_user_per_country"),
    ("3b", "03b_country_of_most_followed_user"),
    ("4", "04_most_popular_category_per_age_group"),
    ("5", "05_median_follower_count_per_age_group"),
    ("6", "06_users_joined_per_year"),
    ("7", "07_median_follower_count_per_joining_year"),
    ("8", "08_median_follower_count_per_joining_year_and_age_group"),
];

/// What `tests/reference/results.py` makes of the objects in the bucket.
fn reference(sunk: &Sunk) -> Value {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reference/results.py");
    let output = Command::new("python3").arg(script).arg(sunk.bucket_folder()).output().expect("python3 is installed");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// The rows of a result that was written as JSON lines.
async fn rows(sunk: &Sunk, result: &Value) -> Vec<Value> {
    let address = result["objects"][0].as_str().unwrap();
    let key = address.strip_prefix(&format!("s3://{STAGING}/")).expect("results go to the staging bucket");
    let body = sunk.s3.get(STAGING, key).await.unwrap();
    let columns: Vec<&str> = result["columns"].as_array().unwrap().iter().map(|name| name.as_str().unwrap()).collect();
    String::from_utf8(body.to_vec())
        .unwrap()
        .lines()
        .map(|line| {
            let row: Value = serde_json::from_str(line).unwrap();
            columns.iter().map(|name| row[*name].clone()).collect()
        })
        .collect()
}

async fn assert_equals_reference(sunk: &Sunk, output: &Output) {
    let expected = reference(sunk);
    let results = &output["results"];
    assert_eq!(results.as_object().unwrap().len(), RESULTS.len());
    for (number, name) in RESULTS {
        let ours = rows(sunk, &results[name]).await;
        assert_eq!(json!(ours), expected[number], "result {name} differs from the reference's {number}");
        assert_eq!(results[name]["rows"], json!(ours.len()));
        assert_eq!(results[name]["preview"], json!(ours[..ours.len().min(10)]));
    }
}

fn pinterest() -> Value {
    json!({"sql": "sql/pinterest/*.sql", "output": {"format": "json"}})
}

#[tokio::test(flavor = "multi_thread")]
async fn the_results_equal_an_independent_calculation_on_generated_rows() {
    for (seed, count, flush_size) in [(1, 3000, 500), (2, 200, 1), (3, 1, 10)] {
        let mut sunk = Sunk::start().await;
        sunk.sink(&sunk::awkward_triples(count, seed), flush_size).await;
        let output = sunk.run.run("transform", "transform", pinterest()).await.unwrap();
        assert_equals_reference(&sunk, &output).await;
        sunk.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
#[expect(clippy::print_stderr, reason = "a test that did not run must say so")]
async fn the_results_equal_an_independent_calculation_on_the_real_rows() {
    let Some(triples) = sunk::real_triples() else {
        eprintln!("skipped: the real rows are not beside this checkout");
        return;
    };
    let mut sunk = Sunk::start().await;
    sunk.sink(&triples, 50).await;
    let output = sunk.run.run("transform", "transform", pinterest()).await.unwrap();
    assert_equals_reference(&sunk, &output).await;
    sunk.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_results_are_the_same_when_little_memory_is_allowed() {
    let mut sunk = Sunk::start().await;
    let mut triples = sunk::awkward_triples(20_000, 4);
    // Long texts, so that the records themselves are more than what is allowed.
    for (index, triple) in triples.iter_mut().enumerate() {
        triple["pin"]["description"] = json!(format!("{index} {}", "long ".repeat(400)));
    }
    sunk.sink(&triples, 5_000).await;
    let mut config = pinterest();
    config["memory_limit"] = json!("20MB");
    let output = sunk.run.run("transform", "transform", config).await.unwrap();
    assert_equals_reference(&sunk, &output).await;
    sunk.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_that_is_repeated_leaves_the_same_behind() {
    let mut sunk = Sunk::start().await;
    sunk.sink(&sunk::awkward_triples(100, 5), 10).await;
    let first = sunk.run.run("transform", "transform", pinterest()).await.unwrap();
    let objects = sunk.s3.list(STAGING, "").await.unwrap();
    let second = sunk.run.run("transform", "transform", pinterest()).await.unwrap();
    assert_eq!(first, second);
    assert_eq!(objects, sunk.s3.list(STAGING, "").await.unwrap());
    assert!(objects[0].key.starts_with("results/pinterest_daily/manual__2026-03-01T02:00:00+00:00/"), "{objects:?}");
    sunk.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_of_results_are_replaced_at_once() {
    let mut sunk = Sunk::start().await;
    let database = services::database().await;
    sunk.run.endpoints.named.connections.insert("warehouse".to_owned(), database.clone());
    let mut config = pinterest();
    config["output"]["postgres"] = json!({"connection": "warehouse", "schema": "pin \"results\""});
    for (seed, count) in [(6, 50), (7, 500)] {
        sunk.sink(&sunk::awkward_triples(count, seed), 100).await;
        let output = sunk.run.run("transform", "transform", config.clone()).await.unwrap();
        let result = &output["results"]["03a_most_followed_user_per_country"];
        assert_eq!(result["table"], json!("pin \"results\".most_followed_user_per_country"));
        let expected = rows(&sunk, result).await;
        let mut connection = PgConnection::connect(database.expose_secret()).await.unwrap();
        let select = "SELECT country, poster_name, follower_count
                      FROM \"pin \"\"results\"\"\".most_followed_user_per_country
                      ORDER BY country COLLATE \"C\", poster_name COLLATE \"C\" NULLS LAST";
        let found = sqlx::query(select).fetch_all(&mut connection).await.unwrap();
        let found: Vec<Value> = found
            .iter()
            .map(|row| json!([row.get::<String, _>(0), row.get::<Option<String>, _>(1), row.get::<i32, _>(2)]))
            .collect();
        assert_eq!(found, expected);
    }
    sunk.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_format_is_read_and_written() {
    let mut sunk = Sunk::start().await;
    sunk.put("pin", 0, 0, ".json", &[json!({"a": 1, "b": "x,\"y\""})]).await;
    sunk.put("pin", 0, 1, ".json.gz", &[json!({"a": 2, "b": null})]).await;
    sunk.put("pin", 1, 0, ".json.zst", &[json!({"a": 3, "b": ""}), json!({"b": "no a", "c": [1, 2]})]).await;
    let topic = json!({"raw": {"topic": format!("{}.pin", sunk::USER)}});
    let mut config = json!({
        "bucket": BUCKET,
        "tables": topic,
        "sql": {"all": "SELECT a, b, c FROM raw ORDER BY a NULLS LAST"},
        "output": {"bucket": BUCKET, "prefix": "out/", "format": "parquet"},
    });
    let preview = json!([[1, "x,\"y\"", null], [2, null, null], [3, "", null], [null, "no a", [1, 2]]]);
    let written = sunk.run.run("write", "transform", config.clone()).await.unwrap();
    assert_eq!(written["results"]["all"]["preview"], preview);

    config["tables"] = json!({"raw": {"prefix": "out/"}});
    config["output"]["format"] = json!("csv");
    let read_back = sunk.run.run("read", "transform", config.clone()).await.unwrap();
    assert_eq!(read_back["results"]["all"]["preview"], preview);
    let csv = sunk.s3.get(BUCKET, "out/all.csv").await.unwrap();
    assert_eq!(&csv[..], b"a,b,c\n1,\"x,\"\"y\"\"\",\n2,,\n3,,\n,no a,\"[1,2]\"\n");

    config["tables"] = json!({"raw": {"prefix": "out/", "format": "csv", "columns": {"a": "text"}}});
    config["output"]["format"] = json!("none");
    let from_csv = sunk.run.run("csv", "transform", config).await.unwrap();
    assert_eq!(from_csv["results"]["all"]["preview"][0], json!(["1", "x,\"y\"", null]));
    assert_eq!(from_csv["results"]["all"]["objects"], json!([]));
    sunk.stop().await;
}

/// As a sink's attempt records it: what task `sink` of the run wrote to partition 0 of the topic.
async fn recorded(sunk: &mut Sunk, topic: &str, range: (i64, i64), first_of_objects: &[i64]) {
    let sink = sunk.run.claim("sink").await.context;
    let of = TopicPartition { topic: topic.to_owned(), partition: 0 };
    let ranges = [SinkRange { of: of.clone(), start: range.0, end: range.1 }];
    sink.store.settle_sink_ranges_if_fenced(sink.attempt, &ranges).await.unwrap();
    let object = |start: &i64| SinkObject {
        key: format!("topics/{topic}/partition=0/{topic}+0+{start:010}.json"),
        start: *start,
        last: *start,
        records: 1,
        bytes: 8,
        sha256: [0; 32],
    };
    let objects = first_of_objects.iter().map(object).collect();
    let (counts, marks) = (SinkCounts::default(), BTreeMap::new());
    let cut = SinkCut { start: range.0, end: range.1, counts, objects, marks };
    let now = "2026-03-01T02:00:00Z".parse().unwrap();
    sink.store.record_sink_cuts_if_fenced(sink.attempt, &of, &[cut], now).await.unwrap();
    let topics = json!({topic: {"partitions": {"0": {"start": range.0, "end": range.1}}}});
    sunk.run.finished("sink", "sink", json!({"bucket": BUCKET, "topics_dir": "topics", "topics": topics}));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_reads_only_its_own_objects_when_asked() {
    let mut sunk = Sunk::start().await;
    for number in 0..4 {
        sunk.put("pin", 0, number, ".json", &[json!({"a": number})]).await;
    }
    // Two runs produced at once: their ranges overlap, and each has objects among the other's.
    let topic = format!("{}.pin", sunk::USER);
    recorded(&mut sunk, &topic, (0, 3), &[0, 2]).await;
    sunk.run.next("success").await;
    recorded(&mut sunk, &topic, (1, 4), &[1, 3]).await;
    let mut config = json!({"sql": {"all": "SELECT a FROM raw_pin ORDER BY a"}, "output": {"format": "none"}});
    let all = sunk.run.run("all", "transform", config.clone()).await.unwrap();
    assert_eq!(all["results"]["all"]["preview"], json!([[0], [1], [2], [3]]));
    config["input"] = json!("run");
    let run = sunk.run.run("run", "transform", config).await.unwrap();
    assert_eq!(run["results"]["all"]["preview"], json!([[1], [3]]));
    sunk.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn large_integers_are_read_to_their_last_digit() {
    let mut sunk = Sunk::start().await;
    let records = [json!({"a": u64::MAX, "b": u64::MAX}), json!({"a": 1, "b": -1})];
    sunk.put("pin", 0, 0, ".json", &records).await;
    let config = json!({
        "bucket": BUCKET, "tables": {"raw": {"prefix": "topics/"}}, "output": {"format": "none"},
        "sql": {"all": "SELECT CAST(MAX(a) AS TEXT) AS a, CAST(MAX(b) AS TEXT) AS b, CAST(MIN(b) AS TEXT) AS c FROM raw"},
    });
    let output = sunk.run.run("transform", "transform", config).await.unwrap();
    assert_eq!(output["results"]["all"]["preview"], json!([["18446744073709551615", "18446744073709551615", "-1"]]));
    sunk.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sql_files_are_templates() {
    let mut sunk = Sunk::start().await;
    sunk.put("pin", 0, 0, ".json", &[json!({"a": 1}), json!({"a": 2})]).await;
    let folder = tempfile::tempdir().unwrap();
    sunk.run.dag_folder = folder.path().to_owned();
    sunk.run.variables = json!({"ds": "2026-03-01", "params": {"least": 2}});
    std::fs::write(folder.path().join("1_b.sql"), "SELECT x, '{{ ds }}' AS ds FROM b WHERE x >= {{ params.least }}")
        .unwrap();
    std::fs::write(folder.path().join("0_a.sql"), "CREATE VIEW b AS SELECT a AS x FROM raw; -- more to come\n")
        .unwrap();
    let config = json!({
        "bucket": BUCKET, "tables": {"raw": {"prefix": "topics/"}}, "sql": ["?_*.sql"], "output": {"format": "none"},
    });
    let output = sunk.run.run("transform", "transform", config).await.unwrap();
    assert_eq!(output["results"]["1_b"]["preview"], json!([[2, "2026-03-01"]]));
    assert_eq!(output["results"].as_object().unwrap().len(), 1);
    sunk.stop().await;
}

/// Runs SQL over one small table and returns how it fails.
async fn failure(sunk: &mut Sunk, sql: Value) -> String {
    let config = json!({
        "bucket": BUCKET, "tables": {"raw_pin": {"prefix": "topics/"}}, "sql": sql, "output": {"format": "none"},
    });
    match sunk.run.run("transform", "transform", config).await {
        Err(Failure::Fatal(text)) => text,
        other => panic!("this can only fail: {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn mistakes_name_file_line_and_what_there_is() {
    let mut sunk = Sunk::start().await;
    sunk.put("pin", 0, 0, ".json", &[json!({"index": 1, "category": "art", "title": "x"})]).await;
    let folder = tempfile::tempdir().unwrap();
    sunk.run.dag_folder = folder.path().to_owned();
    let mut failures = Vec::new();
    for sql in [
        "SELECT category,\n  titel\nFROM raw_pin",
        "SELECT 1\nFROM raw_pim",
        "SELECT FROM WHERE",
        "SELECT index, index FROM raw_pin",
        "SELECT 1; SELECT 2",
        "DROP TABLE raw_pin",
        "SELECT CAST(title AS INT) FROM raw_pin",
        "SELECT nosuch(title) FROM raw_pin",
    ] {
        std::fs::write(folder.path().join("a.sql"), sql).unwrap();
        failures.push(failure(&mut sunk, json!("a.sql")).await);
    }
    failures.push(failure(&mut sunk, json!("b.sql")).await.replace(&folder.path().display().to_string(), "[dags]"));
    failures.push(failure(&mut sunk, json!("x*.sql")).await.replace(&folder.path().display().to_string(), "[dags]"));
    insta::assert_snapshot!(failures.join("\n\n"));
    sunk.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_objects_are_named() {
    let mut sunk = Sunk::start().await;
    let all = json!({"all": "SELECT * FROM raw_pin"});
    let mut failures = vec![failure(&mut sunk, all.clone()).await];
    let key = "topics/u.pin/partition=0/u.pin+0+0000000000.json";
    for body in ["{\"a\": 1}\nnot json\n", "{\"a\": 1}\n[1]\n", "{\"a\": [1]}\n{\"a\": {\"b\": 1}}\n"] {
        sunk.s3.put(BUCKET, key, body.into(), pinsched::connect::s3::PutOptions::default()).await.unwrap();
        failures.push(failure(&mut sunk, all.clone()).await);
    }
    let config = json!({
        "bucket": "nowhere", "tables": {"raw_pin": {"prefix": "topics/"}}, "sql": all.clone(), "output": {"format": "none"},
    });
    let missing = sunk.run.run("transform", "transform", config).await.unwrap_err().to_string();
    let port = sunk.run.endpoints.s3.endpoint_url.as_ref().unwrap().to_string();
    failures.push(missing.replace(&port, "[s3]").replace(port.trim_end_matches('/'), "[s3]"));
    let config = json!({"sql": all});
    failures.push(sunk.run.run("transform", "transform", config).await.unwrap_err().to_string());
    insta::assert_snapshot!(failures.join("\n\n"));
    sunk.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_that_cannot_be_decompressed_is_named_and_not_tried_again() {
    let mut sunk = Sunk::start().await;
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut encoder, b"a,b\n1,2\n3,4\n").unwrap();
    let mut body = encoder.finish().unwrap();
    body.truncate(body.len() - 12);
    let put = sunk.s3.put(BUCKET, "csv/half.csv.gz", body.into(), pinsched::connect::s3::PutOptions::default());
    put.await.unwrap();
    let config = json!({
        "bucket": BUCKET, "tables": {"raw": {"prefix": "csv/"}}, "sql": {"all": "SELECT * FROM raw"},
        "output": {"format": "none"},
    });
    let failure = sunk.run.run("transform", "transform", config).await.unwrap_err();
    let named = format!("could not read s3://{BUCKET}/csv/half.csv.gz for table `raw`: ");
    assert!(matches!(&failure, Failure::Fatal(text) if text.starts_with(&named)), "{failure:?}");
    sunk.stop().await;
}

/// An S3 server with one large object, in the middle of which the connection breaks.
async fn broken_object(request: axum::extract::Request) -> axum::response::Response {
    const SIZE: usize = 9 << 20;
    let response = axum::response::Response::builder();
    if request.uri().query().is_some_and(|query| query.contains("list-type=2")) {
        let list = format!(
            "<ListBucketResult><Name>b</Name><KeyCount>1</KeyCount><IsTruncated>false</IsTruncated><Contents>\
             <Key>topics/a.json</Key><Size>{SIZE}</Size></Contents></ListBucketResult>"
        );
        return response.header("content-type", "application/xml").body(list.into()).unwrap();
    }
    let pieces = [Ok(vec![b' '; SIZE / 2]), Err(std::io::Error::other("the cable was pulled"))];
    let body = axum::body::Body::from_stream(futures::stream::iter(pieces));
    response.header("content-length", SIZE).body(body).unwrap()
}

#[tokio::test]
async fn a_download_that_breaks_off_is_the_object_stores_error_and_tried_again() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut servers = tokio::task::JoinSet::new();
    let router = axum::Router::new().fallback(axum::routing::any(broken_object));
    servers.spawn(async move { axum::serve(listener, router).await.unwrap() });
    let mut run = attempts::TestRun::start().await;
    run.endpoints.s3.endpoint_url = Some(format!("http://{address}").parse().unwrap());
    run.endpoints.s3.credentials = Some(pinsched::connect::S3Credentials {
        access_key_id: "test".to_owned(),
        secret_access_key: "test-secret".into(),
    });
    let config = json!({
        "bucket": "b", "tables": {"raw": {"prefix": "topics/"}}, "sql": {"all": "SELECT * FROM raw"},
        "output": {"format": "none"},
    });
    let failure = run.run("transform", "transform", config).await.unwrap_err();
    let named = "could not get s3://b/topics/a.json at the store: the body broke off: ";
    assert!(matches!(&failure, Failure::Retry(text) if text.starts_with(named)), "{failure:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_without_objects_is_empty_when_its_columns_are_declared() {
    let mut sunk = Sunk::start().await;
    let config = json!({
        "bucket": BUCKET,
        "tables": {"raw_pin": {"prefix": "topics/none/", "columns": {"a": "int", "b": "text"}}},
        "sql": {"n": "SELECT COUNT(*) AS n FROM raw_pin", "rows": "SELECT a, b FROM raw_pin"},
    });
    let output = sunk.run.run("transform", "transform", config).await.unwrap();
    assert_eq!(output["results"]["n"]["preview"], json!([[0]]));
    assert_eq!(output["results"]["rows"]["columns"], json!(["a", "b"]));
    sunk.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_query_stops_and_leaves_no_files() {
    let mut sunk = Sunk::start().await;
    sunk.put("pin", 0, 0, ".json", &(0..100).map(|a| json!({"a": a})).collect::<Vec<_>>()).await;
    // 10^12 rows: days of work.
    let sql =
        "SELECT COUNT(*) FROM raw_pin a, raw_pin b, raw_pin c, raw_pin d, raw_pin e, raw_pin f WHERE a.a + f.a < 0";
    let config = json!({
        "bucket": BUCKET, "tables": {"raw_pin": {"prefix": "topics/"}}, "sql": {"all": sql}, "output": {"format": "none"},
    });
    let mut attempt = sunk.run.claim("transform").await;
    let context = &attempt.context;
    let cancel = async {
        attempt.log.next_line().await;
        context.cancel.cancel();
    };
    let (result, ()) = tokio::join!(attempts::run(context, "transform", config), cancel);
    assert_eq!(result, Err(Failure::Interrupted));
    let left = std::env::temp_dir().join(format!("pinsched-transform-{}-0", sunk.run.uuid));
    assert!(!left.exists(), "{} was left behind", left.display());
    sunk.stop().await;
}
