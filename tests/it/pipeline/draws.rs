//! Which rows are drawn, and what becomes of a draw that is done twice.

use pinsched::engine::operator::Failure;
use serde_json::{Value, json};

use super::{Bench, comes_to, mariadb, postgres, posts, triple};
use crate::attempts;

fn keys(rows: &[Value]) -> Vec<i64> {
    rows.iter().map(|row| row["pin"]["index"].as_i64().unwrap()).collect()
}

#[tokio::test]
async fn a_sample_is_the_same_from_mariadb_and_postgres_with_gaps_or_without() {
    for every in [1, 3] {
        let posts = posts(900, every);
        let mut bench = Bench::start().await;
        let mut draws = Vec::new();
        for (task, url) in [("maria", mariadb(&posts).await), ("postgres", postgres(&posts).await)] {
            bench.run.endpoints.named.connections.insert(task.to_owned(), url);
            let output = bench.run.run(task, "emulate", json!({"source": task, "rows": 300, "seed": 7})).await.unwrap();
            assert_eq!((&output["rows"], &output["draw"], &output["seed"]), (&json!(300), &json!("sample"), &json!(7)));
            assert_eq!(
                output["tables"]["geo"]["columns"],
                json!(["ind", "timestamp", "latitude", "longitude", "country"])
            );
            draws.push(bench.staged(&output).await);
        }
        assert_eq!(draws[0], draws[1]);
        let drawn = keys(&draws[0]);
        assert_eq!(drawn.len(), 300);
        assert!(drawn.windows(2).all(|pair| pair[0] < pair[1]));
        for row in &draws[0] {
            let place = usize::try_from(row["pin"]["index"].as_i64().unwrap() / i64::from(every)).unwrap();
            assert_eq!(*row, triple(&posts[place]));
        }
    }
}

#[tokio::test]
async fn sequential_draws_from_the_lowest_key_and_all_without_a_number() {
    let mut bench = Bench::with_source(&posts(120, 5)).await;
    let output = bench.run.run("some", "emulate", json!({"draw": "sequential", "rows": "30"})).await.unwrap();
    assert_eq!(keys(&bench.staged(&output).await), (0..30).map(|key| key * 5).collect::<Vec<_>>());
    let output = bench.run.run("all", "emulate", json!({"draw": "sequential"})).await.unwrap();
    assert_eq!(bench.staged(&output).await.len(), 120);
}

#[tokio::test]
async fn replay_draws_the_originals_rows_some_of_them_twice() {
    let mut bench = Bench::with_source(&posts(11_154, 1)).await;
    let output = bench.emulate(json!({"draw": "replay", "rows": 3000})).await;
    assert_eq!(output["seed"], 100);
    let drawn = keys(&bench.staged(&output).await);
    // python3: random.seed(100); loop: random.randrange(0, 2), random.randint(0, 11000)
    assert_eq!(drawn[..6], [7528, 2863, 5730, 8304, 8731, 1313]);
    let mut different = drawn.clone();
    different.sort_unstable();
    different.dedup();
    assert!(drawn.len() == 3000 && different.len() < 3000 && different[0] >= 0 && different.last() <= Some(&11_000));
}

#[tokio::test]
async fn a_later_attempt_returns_what_was_staged_whatever_became_of_the_source() {
    let mut bench = Bench::with_source(&posts(200, 1)).await;
    let first = bench.emulate(json!({"rows": 50})).await;
    bench.run.endpoints.source_url = "postgres://127.0.0.1:9/gone".into();
    assert_eq!(bench.emulate(json!({"rows": 50})).await, first);
    assert_eq!(bench.s3.list("staging", "staging/").await.unwrap().len(), 2);
}

#[tokio::test]
async fn the_first_to_name_its_manifest_wins_and_a_zombie_names_none() {
    let mut bench = Bench::with_source(&posts(200, 1)).await;
    let zombie = bench.run.claim("emulate").await;
    let output = bench.emulate(json!({"rows": 50})).await;
    // It came late: somebody else's files are named, and it returns those.
    let late = attempts::run(&zombie.context, "emulate", json!({"rows": 50})).await.unwrap();
    assert_eq!(late, output);
    // It drew while another held the task: it must not name its files.
    let zombie = bench.run.claim("other").await;
    bench.run.claim("other").await;
    let result = attempts::run(&zombie.context, "emulate", json!({"rows": 50})).await;
    assert_eq!(result, Err(Failure::Interrupted));
    let claimed = bench.run.claim("other").await;
    assert!(attempts::run(&claimed.context, "emulate", json!({"rows": 50})).await.is_ok());
    let folder = format!("staging/pinterest_daily/{}/other/", bench.run.uuid);
    let left = bench.s3.list("staging", &folder).await.unwrap();
    assert!(left.iter().all(|object| object.key.contains("/fence=3/")), "{left:?}");
}

#[tokio::test]
async fn a_cancelled_draw_stops_in_the_middle() {
    let mut bench = Bench::with_source(&posts(300, 1)).await;
    let attempt = bench.run.claim("emulate").await;
    let drawing = attempts::run(&attempt.context, "emulate", json!({"rate": "20/s"}));
    let stopping = async {
        comes_to(&attempt.context, 3).await;
        attempt.context.cancel.cancel();
    };
    let (result, ()) = tokio::join!(drawing, stopping);
    assert_eq!(result, Err(Failure::Interrupted));
    assert!(attempt.context.progress.read().0 < 300);
}
