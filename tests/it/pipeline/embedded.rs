//! The embedded source tables, and how little memory a large draw takes.

use pinsched::embedded::source;
use secrecy::ExposeSecret;
use serde_json::json;
use sqlx::{Connection, Executor, PgConnection};

use super::{Bench, posts, triple};
use crate::services;

#[tokio::test]
async fn the_embedded_tables_are_filled_once_however_often_and_by_whomever() {
    let url = services::database().await;
    let (first, second) = tokio::join!(source::ensure(&url), source::ensure(&url));
    first.unwrap();
    second.unwrap();
    let mut connection = PgConnection::connect(url.expose_secret()).await.unwrap();
    connection.execute("DELETE FROM user_data WHERE ind = 5").await.unwrap();
    // Whole once, they are the user's: what became of them since is left alone.
    source::ensure(&url).await.unwrap();
    let count = |table: &'static str| sqlx::query_scalar::<_, i64>(table);
    let pins = count("SELECT count(*) FROM pinterest_data").fetch_one(&mut connection).await.unwrap();
    let users = count("SELECT count(*) FROM user_data").fetch_one(&mut connection).await.unwrap();
    assert_eq!((pins, users), (11_154, 11_153));
    // Without the marker nobody knows whether they are whole.
    connection.execute("COMMENT ON TABLE pinterest_data IS NULL").await.unwrap();
    source::ensure(&url).await.unwrap();
    let users = count("SELECT count(*) FROM user_data").fetch_one(&mut connection).await.unwrap();
    assert_eq!(users, 11_154);
}

#[tokio::test]
async fn every_generated_row_comes_through_as_it_was_generated() {
    let mut bench = Bench::start().await;
    bench.run.endpoints.source_url = services::database().await;
    source::ensure(&bench.run.endpoints.source_url).await.unwrap();
    let output = bench.emulate(json!({})).await;
    assert_eq!(output["rows"], source::ROWS);
    let staged = bench.staged(&output).await;
    for (row, post) in staged.iter().zip(posts(source::ROWS, 1)) {
        assert_eq!(*row, triple(&post));
    }
}

/// Peak of this process's memory, in MB.
fn peak_mb() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "minutes, and it measures its own process: run it alone"]
async fn millions_of_rows_stream_in_bounded_memory() {
    let mut bench = Bench::start().await;
    let url = services::database().await;
    let mut connection = PgConnection::connect(url.expose_secret()).await.unwrap();
    connection
        .execute(
            "CREATE TABLE things AS SELECT n * 3 AS id, repeat(md5(n::text), 10) AS text FROM generate_series(1, 3000000) n;
             ALTER TABLE things ADD PRIMARY KEY (id)",
        )
        .await
        .unwrap();
    bench.run.endpoints.source_url = url;
    let before = peak_mb();
    let config = json!({"tables": {"t": {"table": "things", "key": "id"}}, "rows": 2_500_000});
    let staged = bench.emulate(config).await;
    let drawn = peak_mb();
    let config = json!({"topics": bench.topics()});
    let output = bench.run.run("produce", "produce", config).await.unwrap();
    assert_eq!((&staged["rows"], &output["rows"]), (&json!(2_500_000), &json!(2_500_000)));
    assert!(drawn < 200 && peak_mb() < 300, "{before} MB, then {drawn} MB drawn, then {} MB sent", peak_mb());
}
