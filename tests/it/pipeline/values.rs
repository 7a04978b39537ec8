//! Types of columns as JSON, and what is said of a source that is not as expected.

use pinsched::engine::operator::Failure;
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};
use sqlx::{Connection, Executor, PgConnection};

use super::{Bench, mariadb_database, posts};
use crate::services;

fn one_table(source: &str) -> Value {
    json!({"source": source, "tables": {"t": {"table": "things", "key": "id"}}})
}

async fn postgres_with(statements: &[&'static str]) -> SecretString {
    let url = services::database().await;
    let mut connection = PgConnection::connect(url.expose_secret()).await.unwrap();
    for statement in statements {
        connection.execute(*statement).await.unwrap();
    }
    url
}

fn fatal(result: Result<pinsched::engine::operator::Output, Failure>) -> String {
    match result {
        Err(Failure::Fatal(message)) => message,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn postgres_types_become_json() {
    let url = postgres_with(&[
        "CREATE TYPE mood AS ENUM ('sad', 'ok')",
        "CREATE TABLE things (id bigint PRIMARY KEY, small smallint, yes boolean, float real, double double precision,
         exact numeric(20, 5), day date, at timestamp, instant timestamptz, time time, code char(3), name varchar(9),
         id128 uuid, document jsonb, mood mood, nothing text)",
        "INSERT INTO things VALUES (9007199254740993, -7, true, 1.1, 0.1, 12345678901234.50000, '2020-02-29',
         '2020-08-28 03:52:47', '2020-08-28 03:52:47.25+02', '23:59:59', 'ab', 'naïve',
         '55abcd28-bda1-4453-bbcd-1427fb3aa49b', '{\"a\": [1, 2.50]}', 'ok', NULL)",
    ])
    .await;
    let mut bench = Bench::start().await;
    let output = bench.emulate(one_table(url.expose_secret())).await;
    assert_eq!(
        bench.staged(&output).await,
        [json!({"t": {
            "id": 9_007_199_254_740_993_i64, "small": -7, "yes": true, "float": 1.1, "double": 0.1,
            "exact": "12345678901234.50000", "day": "2020-02-29", "at": "2020-08-28T03:52:47",
            "instant": "2020-08-28T01:52:47.250Z", "time": "23:59:59", "code": "ab ", "name": "naïve",
            "id128": "55abcd28-bda1-4453-bbcd-1427fb3aa49b", "document": {"a": [1, 2.5]}, "mood": "ok", "nothing": null,
        }})]
    );
}

#[tokio::test]
async fn mariadb_types_become_json() {
    let (url, mut connection) = mariadb_database().await;
    for statement in [
        "CREATE TABLE things (id INT UNSIGNED PRIMARY KEY, tiny TINYINT, yes BOOLEAN, big BIGINT UNSIGNED, f FLOAT,
         d DOUBLE, exact DECIMAL(20, 5), day DATE, at DATETIME(3), stamp TIMESTAMP, time TIME, year YEAR, c CHAR(3),
         v VARCHAR(9) CHARACTER SET latin1, long_text LONGTEXT, mood ENUM('sad', 'ok'), tags SET('x', 'y'), nothing INT)",
        "SET time_zone = '+00:00'",
        "INSERT INTO things VALUES (4000000000, -7, TRUE, 18446744073709551615, -170.188, 0.1, 12345678901234.5,
         '2020-02-29', '2020-08-28 03:52:47.120', '2020-08-28 03:52:47', '23:59:59', 2024, 'ab', 'naïve', '😍\n\"', 'ok',
         'x,y', NULL)",
    ] {
        connection.execute(statement).await.unwrap();
    }
    let mut bench = Bench::start().await;
    let output = bench.emulate(one_table(url.expose_secret())).await;
    assert_eq!(
        bench.staged(&output).await,
        [json!({"t": {
            "id": 4_000_000_000_u32, "tiny": -7, "yes": 1, "big": 18_446_744_073_709_551_615_u64, "f": -170.188, "d": 0.1,
            "exact": "12345678901234.50000", "day": "2020-02-29", "at": "2020-08-28T03:52:47.120",
            "stamp": "2020-08-28T03:52:47Z", "time": "23:59:59", "year": "2024", "c": "ab", "v": "naïve",
            "long_text": "😍\n\"", "mood": "ok", "tags": "x,y", "nothing": null,
        }})]
    );
}

#[tokio::test]
async fn mariadb_text_that_is_compared_by_its_bytes_is_text() {
    let (url, mut connection) = mariadb_database().await;
    for statement in [
        "CREATE TABLE things (id INT PRIMARY KEY, c CHAR(3) COLLATE utf8mb4_bin, v VARCHAR(9) COLLATE utf8mb4_bin,
         tiny TINYTEXT COLLATE utf8mb4_bin, t TEXT COLLATE utf8mb4_bin, medium MEDIUMTEXT COLLATE utf8mb4_bin,
         mood ENUM('sad', 'ok') COLLATE utf8mb4_bin, document JSON, latin TEXT CHARACTER SET latin1 COLLATE latin1_bin)",
        "INSERT INTO things VALUES (1, 'ab', 'naïve', '😍', 'x', 'y', 'ok', '{\"a\": [1, 2.50]}', 'naïve')",
        "CREATE TABLE raw (id INT PRIMARY KEY, bytes BLOB)",
        "CREATE TABLE fixed (id INT PRIMARY KEY, bytes BINARY(3))",
    ] {
        connection.execute(statement).await.unwrap();
    }
    let mut bench = Bench::start().await;
    let output = bench.emulate(one_table(url.expose_secret())).await;
    assert_eq!(
        bench.staged(&output).await,
        [json!({"t": {"id": 1, "c": "ab", "v": "naïve", "tiny": "😍", "t": "x", "medium": "y", "mood": "ok",
                      "document": "{\"a\": [1, 2.50]}", "latin": "naïve"}})]
    );
    for (table, found) in [("raw", "BLOB"), ("fixed", "BINARY")] {
        let config = json!({"source": url.expose_secret(), "tables": {"t": {"table": table, "key": "id"}}});
        let refused = fatal(bench.run.run(table, "emulate", config).await);
        let wanted = format!("column `bytes` of table `{table}` is {found}, which has no form in JSON");
        assert!(refused.starts_with(&wanted), "{refused}");
    }
}

#[tokio::test]
async fn a_staging_bucket_that_is_missing_says_what_to_do() {
    let mut bench = Bench::with_source(&posts(20, 1)).await;
    bench.run.endpoints.s3.create_buckets = false;
    bench.run.endpoints.s3.staging_bucket = "nowhere".to_owned();
    let missing = fatal(bench.run.run("a", "emulate", json!({})).await);
    assert!(missing.contains("there is no bucket `nowhere`"), "{missing}");
    assert!(missing.contains("; create it (`aws s3 mb s3://nowhere`)"), "{missing}");
}

#[tokio::test]
async fn a_source_that_is_not_as_expected_is_named() {
    let mut bench = Bench::with_source(&posts(20, 1)).await;
    let database = bench.run.endpoints.source_url.expose_secret().rsplit('/').next().unwrap().to_owned();
    let tables = |table: &str, key: &str| json!({"tables": {"pin": {"table": table, "key": key}}});

    let missing = fatal(bench.run.run("a", "emulate", tables("pins", "index")).await);
    assert!(missing.starts_with("there is no table `pins` in the source postgres://"), "{missing}");
    assert!(missing.contains(&database) && !missing.contains("dev@"), "{missing}");
    let column = fatal(bench.run.run("b", "emulate", tables("user_data", "index")).await);
    assert_eq!(
        column,
        "table `user_data` has no column `index`; it has `ind`, `first_name`, `last_name`, `age`, `date_joined`"
    );
    let key = fatal(bench.run.run("c", "emulate", tables("user_data", "first_name")).await);
    assert_eq!(key, "column `first_name` of table `user_data` is TEXT; a key must be an integer");
    let rows = fatal(bench.run.run("d", "emulate", json!({"rows": 21})).await);
    assert_eq!(
        rows,
        "21 rows were asked for, and table `pinterest_data` has 20: ask for fewer, or for `draw: replay`, which may draw a row again"
    );
    let replay = fatal(bench.run.run("e", "emulate", json!({"rows": 5, "draw": "replay"})).await);
    assert_eq!(replay, "`draw: replay` draws among the first 11001 rows, and table `pinterest_data` has 20");
    let Err(Failure::Retry(name)) = bench.run.run("f", "emulate", json!({"source": "rds"})).await else {
        panic!("somebody may make the connection meanwhile");
    };
    assert_eq!(
        name,
        "no connection is named `rds`: looked in the environment (PINSCHED_CONNECTION_RDS, AIRFLOW_CONN_RDS), the settings \
         (`connections.rds`) and the database"
    );

    let mut connection = PgConnection::connect(bench.run.endpoints.source_url.expose_secret()).await.unwrap();
    connection.execute("DELETE FROM geolocation_data WHERE ind = 17").await.unwrap();
    let apart = fatal(bench.run.run("g", "emulate", json!({})).await);
    assert_eq!(
        apart,
        "table `geolocation_data` has no row with `ind` = 17, which `pinterest_data` has: the tables do not belong \
         together"
    );
}

#[tokio::test]
async fn values_that_json_cannot_hold_are_named() {
    let url = postgres_with(&["CREATE TABLE things (id int, f real)", "INSERT INTO things VALUES (1, 'NaN')"]).await;
    let mut bench = Bench::start().await;
    let nan = fatal(bench.run.run("a", "emulate", one_table(url.expose_secret())).await);
    assert_eq!(nan, "column `f` of table `things` holds NaN, which JSON cannot");
    let url = postgres_with(&["CREATE TABLE things (id int, raw bytea)"]).await;
    let bytes = fatal(bench.run.run("b", "emulate", one_table(url.expose_secret())).await);
    assert!(bytes.starts_with("column `raw` of table `things` is BYTEA, which has no form in JSON"), "{bytes}");
    let url = postgres_with(&["CREATE TABLE things (id int)", "INSERT INTO things VALUES (1), (1), (3)"]).await;
    let twice = fatal(bench.run.run("c", "emulate", one_table(url.expose_secret())).await);
    assert_eq!(twice, "table `things` has more than one row with `id` = 1");
}

#[tokio::test]
async fn who_may_not_in_is_fatal_and_who_is_not_there_is_not() {
    let mut bench = Bench::start().await;
    let mut url: url::Url = services::mariadb().parse().unwrap();
    url.set_password(Some("wrong-password")).unwrap();
    let denied = fatal(bench.run.run("a", "emulate", json!({"source": url.as_str()})).await);
    assert!(denied.contains("refused the connection") && !denied.contains("wrong-password"), "{denied}");
    let nobody = bench.run.run("b", "emulate", json!({"source": "mysql://dev:secret@127.0.0.1:9/x"})).await;
    let Err(Failure::Retry(nobody)) = nobody else { panic!("{nobody:?}") };
    assert!(nobody.starts_with("could not connect to the source mysql://127.0.0.1:9/x"), "{nobody}");
    assert!(!nobody.contains("secret"), "{nobody}");
}
