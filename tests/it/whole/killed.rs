//! `pinsched run` killed with SIGKILL at random instants, and started again: every drawn row is in S3 exactly once.
//!
//! Each seed decides how often and when; a failing one is named, and `PINSCHED_TEST_SEED` replays it.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::services;
use crate::whole::account::{TABLES, consumed, drawn, output, sunk};
use crate::whole::product::{Product, dag_file};

/// Enough that every phase takes a while, few enough that a seed takes seconds.
const ROWS: &str = "3000";

/// Longer than an undisturbed run takes: some kills come too late, most do not.
const LATEST_KILL: Duration = Duration::from_millis(2_500);

#[tokio::test]
async fn every_row_is_there_exactly_once_whatever_is_killed_on_the_embedded_stack() {
    let product = Product::embedded().await;
    let mut kills = 0;
    for seed in services::seeds(0..10) {
        kills += killed_and_resumed(&product, seed).await;
    }
    assert!(kills > 0, "no kill came before its run's end: nothing was tried");
}

#[tokio::test]
async fn every_row_is_there_exactly_once_whatever_is_killed_on_apache_kafka() {
    let product = Product::with_kafka(services::kafka()).await;
    let mut kills = 0;
    for seed in services::seeds(100..104) {
        kills += killed_and_resumed(&product, seed).await;
    }
    assert!(kills > 0, "no kill came before its run's end: nothing was tried");
}

/// Returns how many kills came before the run's end.
async fn killed_and_resumed(product: &Product, seed: u64) -> usize {
    let mut random = StdRng::seed_from_u64(seed);
    // Apache Kafka outlives the test: its topics must be new ones.
    let user = format!("{:06x}{seed:06x}", rand::random::<u32>() & 0x00ff_ffff);
    let file = dag_file("daily.yaml");
    let (user_param, rows_param) = (format!("user_id={user}"), format!("rows={ROWS}"));
    let date = format!("2026-01-{:02}T00:00:00Z", seed % 100 + 1);
    let first = ["run", &file, "--logical-date", &date, "--param", &user_param, "--param", &rows_param];
    let mut kills = 0;
    for _ in 0..random.random_range(1..=3) {
        let mut child = product.start(&first);
        let instant = random.random_range(Duration::ZERO..LATEST_KILL);
        if tokio::time::timeout(instant, child.wait()).await.is_err() {
            child.kill().await.unwrap();
            kills += 1;
        }
    }
    let again = product.answer(&[&first[..], &["--output", "json"]].concat()).await;
    let report = match again.status.code() {
        Some(0) => serde_json::from_str(&again.stdout).unwrap(),
        // Every kill came too late: the run is finished, and `run` says so.
        Some(1) if again.stderr.contains("is finished (success)") => product.json(&["show", "latest"]).await,
        _ => panic!("seed {seed}: {}\n{}\n{}", again.status, again.stdout, again.stderr),
    };
    assert_eq!(report["state"], "success", "seed {seed}: {report}");
    let drawn = drawn(product, &report).await;
    for table in TABLES {
        assert_eq!(drawn[table].len(), 3000, "seed {seed}: {table} rows drawn");
        assert!(drawn[table].values().all(|&count| count == 1), "seed {seed}: a row was drawn twice");
    }
    assert!(sunk(product, &user).await == drawn, "seed {seed}: S3 holds other rows than were drawn");
    assert!(consumed(product, &user).await == drawn, "seed {seed}: Kafka holds other rows than were drawn");
    assert_eq!(output(&report, "transform")["results"].as_object().unwrap().len(), 9, "seed {seed}");
    let balance = report["reconciliation"].as_array().unwrap();
    assert!(balance.len() == 3 && balance.iter().all(|topic| topic["balanced"] == true), "seed {seed}: {balance:?}");
    kills
}
