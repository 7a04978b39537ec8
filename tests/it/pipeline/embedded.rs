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

/// Not a test of its own: the process whose memory the next one measures. It draws rows of a few bytes until pieces are
/// large, then rows of a megabyte.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "`a_large_draw_takes_little_memory` runs it"]
#[expect(clippy::print_stdout, reason = "that test reads the numbers there")]
async fn a_draw_of_rows_that_grow() {
    let peak_mb = || {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
    };
    let mut bench = Bench::start().await;
    let url = services::database().await;
    let mut connection = PgConnection::connect(url.expose_secret()).await.unwrap();
    connection
        .execute(
            "CREATE TABLE things AS
             SELECT n AS id, repeat(md5(n::text), CASE WHEN n > 30000 THEN 32 * 1024 ELSE 1 END) AS text
             FROM generate_series(1, 30300) n;
             ALTER TABLE things ADD PRIMARY KEY (id)",
        )
        .await
        .unwrap();
    bench.run.endpoints.source_url = url;
    let before = peak_mb();
    let staged = bench.emulate(json!({"tables": {"t": {"table": "things", "key": "id"}}})).await;
    println!("\npeak {before} {} {}", peak_mb(), staged["rows"]);
}

#[tokio::test]
async fn a_large_draw_takes_little_memory() {
    let mut command = tokio::process::Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "pipeline::embedded::a_draw_of_rows_that_grow", "--ignored", "--nocapture"]);
    let drawing = command.kill_on_drop(true).output();
    let output =
        tokio::time::timeout(std::time::Duration::from_secs(120), drawing).await.expect("within 120 s").unwrap();
    let output = String::from_utf8_lossy(&output.stdout).into_owned();
    let numbers = output.lines().find_map(|line| line.strip_prefix("peak ")).expect("it says what it took");
    let numbers: Vec<u64> = numbers.split(' ').map(|number| number.parse().unwrap()).collect();
    let [before, peak, rows] = numbers[..] else { panic!("{output}") };
    assert_eq!(rows, 30_300);
    // The rows that grew are 300 MB, and any piece of the former size would hold them all.
    assert!(peak < 200 && peak - before < 120, "{before} MB before, {peak} MB at the peak");
}
