//! What is past keeping goes, by one service at a time, and what must stay stays.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU32;

use chrono::{DateTime, TimeDelta, Utc};
use pinsched::clock;
use pinsched::service::{Retention, past_keeping, sweep};
use pinsched::store::NewRun;
use pinsched::store::retention::{Beyond, Deleted};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use sqlx::{Connection, PgConnection, Row};

use super::Served;
use crate::dags::{self, House};

const TEXT: &str = "orders: {tasks: {one: {operator: script}, two: {operator: script, dependencies: [one]}}}";

/// A run as the test wrote it.
#[derive(Debug, Clone)]
struct Written {
    key: i64,
    logical_date: DateTime<Utc>,
    finished_at: Option<DateTime<Utc>>,
}

/// Runs of the DAG `orders` on days of their own; `ended` says for how many days each is over, where it is.
async fn written(house: &mut House, name: &str, ended: &[Option<i64>]) -> Vec<Written> {
    let text = TEXT.replace("orders", name);
    let dag = dags::dag(&text);
    let now = clock::now();
    let mut runs = Vec::new();
    for (day, ended) in ended.iter().enumerate() {
        let logical_date = dags::date() + TimeDelta::days(i64::try_from(day).unwrap());
        let run_id = format!("manual__{day}").parse().unwrap();
        let new = NewRun { run_id, logical_date, ..dags::new_run(&dag, &text) };
        let run = house.store.create_run(&new, now).await.unwrap();
        let finished_at = ended.map(|days| now - TimeDelta::days(days));
        if let Some(finished_at) = finished_at {
            house
                .execute(&format!(
                    "UPDATE run SET state = 'success', tasks_unfinished = 0, finished_at = '{finished_at}' WHERE id = {}",
                    run.key.0
                ))
                .await;
            house
                .execute(&format!(
                    "UPDATE task_run SET state = 'success', ready_at = NULL, finished_at = '{finished_at}' WHERE run_key = {}",
                    run.key.0
                ))
                .await;
            for (table, values) in [
                ("attempt", "0, 1, 1, 1, now(), now(), 'success'"),
                ("task_output", "0, '{}'"),
                ("transition", "0, 1, 'claimed', 'queued', 'running', now()"),
                ("attempt_log", "0, 1, 0, 'a line'"),
            ] {
                let columns = match table {
                    "attempt" => "task_index, fence, try_number, worker_id, started_at, finished_at, outcome",
                    "task_output" => "task_index, output",
                    "transition" => "task_index, fence, event, from_state, to_state, at",
                    _ => "task_index, fence, seq, body",
                };
                house
                    .execute(&format!("INSERT INTO {table} (run_key, {columns}) VALUES ({}, {values})", run.key.0))
                    .await;
            }
        }
        runs.push(Written { key: run.key.0, logical_date, finished_at });
    }
    runs
}

async fn left(house: &mut House, table: &str, column: &str) -> BTreeSet<i64> {
    let select = sqlx::AssertSqlSafe(format!("SELECT DISTINCT {column} FROM {table}"));
    let rows = sqlx::query(select).fetch_all(&mut house.sql).await.unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

/// What the rules say in plain words, beside what the database decides.
fn expected(runs: &[Written], beyond: Beyond) -> BTreeSet<i64> {
    let mut finished: Vec<&Written> = runs.iter().filter(|run| run.finished_at.is_some()).collect();
    finished.sort_by_key(|run| std::cmp::Reverse((run.finished_at, run.key)));
    let mut kept: BTreeSet<i64> = runs.iter().filter(|run| run.finished_at.is_none()).map(|run| run.key).collect();
    kept.extend(finished.first().map(|run| run.key));
    kept.extend(finished.iter().max_by_key(|run| run.logical_date).map(|run| run.key));
    for unfinished in runs.iter().filter(|run| run.finished_at.is_none()) {
        let before = runs.iter().filter(|run| run.logical_date < unfinished.logical_date);
        kept.extend(before.max_by_key(|run| run.logical_date).map(|run| run.key));
    }
    for (place, run) in finished.iter().enumerate() {
        let is_young = beyond.ended_before.is_none_or(|before| run.finished_at.unwrap() >= before);
        let is_among = beyond.newest.is_none_or(|newest| place < newest as usize);
        if is_young && is_among {
            kept.insert(run.key);
        }
    }
    kept
}

#[tokio::test]
async fn what_must_stay_stays_and_all_else_that_is_old_goes_whatever_the_ages() {
    for seed in crate::services::seeds(0..6) {
        let mut random = StdRng::seed_from_u64(seed);
        let mut house = House::open().await;
        let mut all: BTreeMap<&str, Vec<Written>> = BTreeMap::new();
        for name in ["orders", "returns"] {
            let count = random.random_range(1..30);
            let ages: Vec<Option<i64>> = (0..count)
                .map(|_| if random.random_bool(0.15) { None } else { Some(random.random_range(0..40)) })
                .collect();
            all.insert(name, written(&mut house, name, &ages).await);
        }
        let now = clock::now();
        let beyond = Beyond {
            ended_before: random.random_bool(0.7).then(|| now - TimeDelta::days(random.random_range(0..45))),
            newest: random.random_bool(0.7).then(|| random.random_range(1..20)),
        };
        let stay: BTreeSet<i64> = all.values().flat_map(|runs| expected(runs, beyond)).collect();
        let count: usize = all.values().map(Vec::len).sum();
        let states = house.store.dag_states().await.unwrap();
        let past: u64 = past_keeping(&house.store, &states, beyond).await.unwrap().iter().map(|(_, runs)| runs).sum();
        let swept = sweep(&house.store, &states, beyond, now, None).await.unwrap();
        assert_eq!(left(&mut house, "run", "id").await, stay, "seed {seed}: {beyond:?}");
        assert_eq!((swept.runs, past), ((count - stay.len()) as u64, (count - stay.len()) as u64), "seed {seed}");
        // What belonged to them went with them, and what belongs to the others is there.
        let finished: BTreeSet<i64> = all
            .values()
            .flatten()
            .filter(|run| run.finished_at.is_some() && stay.contains(&run.key))
            .map(|run| run.key)
            .collect();
        for table in ["attempt", "task_output", "attempt_log"] {
            assert_eq!(left(&mut house, table, "run_key").await, finished, "seed {seed}: {table}");
        }
        let history = left(&mut house, "transition", "run_key").await; // of those that go on, too
        assert!(history.is_superset(&finished) && history.is_subset(&stay), "seed {seed}: {history:?}");
        assert_eq!(left(&mut house, "task_run", "run_key").await, stay, "seed {seed}");
        let again = sweep(&house.store, &states, beyond, now, None).await.unwrap();
        assert_eq!(again.runs, 0, "seed {seed}: nothing is left to do");
    }
}

#[tokio::test]
async fn without_a_bound_nothing_goes() {
    let mut house = House::open().await;
    written(&mut house, "orders", &[Some(4000), Some(3000), Some(2000)]).await;
    let states = house.store.dag_states().await.unwrap();
    let swept = sweep(&house.store, &states, Retention::default().beyond(clock::now()), clock::now(), None).await;
    assert_eq!(swept.unwrap().runs, 0);
    assert_eq!(left(&mut house, "run", "id").await.len(), 3);
}

#[tokio::test]
async fn a_run_that_somebody_holds_is_left_for_the_next_time() {
    let mut house = House::open().await;
    let runs = written(&mut house, "orders", &[Some(90), Some(80), Some(1)]).await;
    let dag = house.store.dag_states().await.unwrap().remove(0).key;
    let beyond = Beyond { ended_before: Some(clock::now() - TimeDelta::days(30)), newest: None };
    house.execute("BEGIN").await;
    house.execute(&format!("SELECT FROM run WHERE id = {} FOR UPDATE", runs[0].key)).await;
    assert_eq!(house.store.delete_runs_past_keeping(dag, beyond, 100).await.unwrap(), Deleted::Rows(1));
    house.execute("ROLLBACK").await;
    assert_eq!(house.store.delete_runs_past_keeping(dag, beyond, 100).await.unwrap(), Deleted::Rows(1));
    assert_eq!(left(&mut house, "run", "id").await, BTreeSet::from([runs[2].key]));
}

#[tokio::test]
async fn of_two_processes_one_deletes_at_a_time() {
    let mut house = House::open().await;
    written(&mut house, "orders", &[Some(90), Some(80), Some(1)]).await;
    let dag = house.store.dag_states().await.unwrap().remove(0).key;
    let beyond = Beyond { ended_before: Some(clock::now() - TimeDelta::days(30)), newest: None };
    // The other one, in the middle of it: `pinu` is the lock's name.
    house.execute("BEGIN").await;
    house.execute("SELECT pg_advisory_xact_lock(x'70696e75'::int, 0)").await;
    assert_eq!(house.store.delete_runs_past_keeping(dag, beyond, 100).await.unwrap(), Deleted::Elsewhere);
    let states = house.store.dag_states().await.unwrap();
    assert!(sweep(&house.store, &states, beyond, clock::now(), None).await.unwrap().elsewhere);
    assert_eq!(left(&mut house, "run", "id").await.len(), 3);
    house.execute("ROLLBACK").await;
    let (one, other) = tokio::join!(
        sweep(&house.store, &states, beyond, clock::now(), None),
        sweep(&house.store, &states, beyond, clock::now(), None)
    );
    assert_eq!(one.unwrap().runs + other.unwrap().runs, 2, "each run is deleted by one of them");
    assert_eq!(left(&mut house, "run", "id").await.len(), 1);
}

#[tokio::test]
async fn versions_and_workers_go_when_nobody_refers_to_them() {
    let mut house = House::open().await;
    let runs = written(&mut house, "orders", &[Some(90), Some(1)]).await;
    // An old version that only the old run was of; a new one that nobody is of yet.
    let long_ago = clock::now() - TimeDelta::days(100);
    house
        .execute(&format!(
            "WITH old AS (INSERT INTO dag_version (dag_id, content_hash, file, source, created_at)
                          VALUES ('orders', 'old', '/dags/orders.yaml', '', '{long_ago}') RETURNING id)
             UPDATE run SET dag_version_id = (SELECT id FROM old) WHERE id = {}",
            runs[0].key
        ))
        .await;
    house
        .execute(
            "INSERT INTO dag_version (dag_id, content_hash, file, source, created_at)
             VALUES ('orders', 'new', '/dags/orders.yaml', '', now())",
        )
        .await;
    let alive = house.store.register_worker("here", 1, clock::now()).await.unwrap();
    let ended = house.store.register_worker("here", 2, clock::now()).await.unwrap();
    let (alive_id, ended_id) = (alive.worker.0, ended.worker.0);
    ended.end(long_ago).await.unwrap();
    house.execute(&format!("UPDATE worker SET seen_at = '{long_ago}'")).await;
    let states = house.store.dag_states().await.unwrap();
    let retention = Retention { days: NonZeroU32::new(30), runs_per_dag: None };
    let now = clock::now();
    let swept = sweep(&house.store, &states, retention.beyond(now), now, None).await.unwrap();
    assert_eq!((swept.runs, swept.versions, swept.workers), (1, 1, 1));
    let workers = left(&mut house, "worker", "id").await;
    assert!(workers.contains(&alive_id) && !workers.contains(&ended_id), "one that lives stays, however long unseen");
    assert_eq!(left(&mut house, "dag_version", "id").await.len(), 2);
    drop(alive);
}

#[tokio::test]
async fn services_delete_what_is_past_keeping_by_themselves() {
    let mut served = Served::nothing().await;
    written(&mut served.house, "orders", &[Some(90), Some(80), Some(1)]).await;
    served.retention = Retention { days: NonZeroU32::new(30), runs_per_dag: None };
    served.start().await;
    served.start().await;
    let is_done = async |house: &House| {
        let mut sql = PgConnection::connect(secrecy::ExposeSecret::expose_secret(&house.url)).await.unwrap();
        let runs: i64 = sqlx::query_scalar("SELECT count(*) FROM run").fetch_one(&mut sql).await.unwrap();
        (runs == 1).then_some(())
    };
    served.until("the old runs to go", is_done).await;
    served.stop().await;
}
