//! The schema defends itself, knows every state and event, and can be taken back.

use pinsched::domain::run_state::RunState;
use pinsched::domain::task_state::{AttemptOutcome, TaskEvent, TaskState};
use pinsched::store::StoreError;
use sqlx::migrate::Migrator;
use sqlx::{AssertSqlSafe, Executor, Row};

use crate::dags::House;

static MIGRATIONS: Migrator = sqlx::migrate!();

#[tokio::test]
async fn migrations_go_down_to_nothing_and_up_again() {
    let mut house = House::open().await;
    let shape = "SELECT table_name || '.' || column_name || ' ' || data_type || ' ' || is_nullable AS line \
                 FROM information_schema.columns WHERE table_schema = 'public' \
                 UNION SELECT conname || ' ' || pg_get_constraintdef(oid) FROM pg_constraint \
                 WHERE connamespace = 'public'::regnamespace \
                 UNION SELECT indexdef FROM pg_indexes WHERE schemaname = 'public' ORDER BY 1";
    let before: Vec<String> = lines(&mut house, shape).await;
    MIGRATIONS.undo(&mut house.sql, 0).await.unwrap();
    let left = lines(&mut house, "SELECT tablename AS line FROM pg_tables WHERE schemaname = 'public'").await;
    assert_eq!(left, ["_sqlx_migrations"]);
    house.store.migrate().await.unwrap();
    house.store.migrate().await.unwrap();
    assert_eq!(lines(&mut house, shape).await, before);
}

#[tokio::test]
async fn the_tables_of_another_build_are_refused() {
    let mut house = House::open().await;
    house.execute("UPDATE _sqlx_migrations SET checksum = '\\x00' WHERE version = 20261123090000").await;
    let error = house.store.migrate().await.unwrap_err();
    assert!(matches!(error, StoreError::OtherBuild { migration: 20261123090000 }), "{error}");
    assert!(!error.is_transient(), "{error}");
}

async fn lines(house: &mut House, query: &str) -> Vec<String> {
    let rows = house.sql.fetch_all(AssertSqlSafe(query.to_owned())).await.unwrap();
    rows.into_iter().map(|row| row.get("line")).collect()
}

#[tokio::test]
async fn the_checks_know_the_states_and_events_of_the_domain_and_no_others() {
    let mut house = House::open().await;
    let known = |texts: Vec<&'static str>| texts;
    for (constraint, texts) in [
        ("task_state_check", known(TaskState::ALL.iter().map(|state| state.as_str()).collect())),
        ("run_state_check", known(RunState::ALL.iter().map(|state| state.as_str()).collect())),
        ("attempt_outcome_check", known(AttemptOutcome::ALL.iter().map(|outcome| outcome.as_str()).collect())),
        ("task_event_check", known(TaskEvent::ALL.iter().map(|event| event.as_str()).collect())),
    ] {
        let query =
            format!("SELECT pg_get_constraintdef(oid) AS line FROM pg_constraint WHERE conname = '{constraint}'");
        let definition = lines(&mut house, &query).await.remove(0);
        let mut stored: Vec<&str> = definition.split('\'').skip(1).step_by(2).collect();
        let mut expected = texts;
        stored.sort_unstable();
        expected.sort_unstable();
        assert_eq!(stored, expected, "{constraint}");
    }
}

/// Statements that no correct version of pinsched sends, and the constraint that stops each.
const IMPOSSIBLE: [(&str, &str); 12] = [
    ("UPDATE task_run SET state = 'restarting', ready_at = NULL", "task_state_check"),
    ("UPDATE task_run SET state = 'running', ready_at = NULL", "task_run_lease_check"),
    (
        "UPDATE task_run SET lease_until = clock_timestamp(), worker_id = (SELECT id FROM worker)",
        "task_run_lease_check",
    ),
    ("UPDATE task_run SET ready_at = NULL WHERE state = 'queued'", "task_run_ready_at_check"),
    ("UPDATE task_run SET state = 'success', ready_at = NULL", "task_run_finished_at_check"),
    ("UPDATE task_run SET finished_at = clock_timestamp()", "task_run_finished_at_check"),
    ("UPDATE task_run SET try_number = 0", "task_run_try_number_check"),
    ("UPDATE task_run SET upstream_unfinished = -1", "task_run_upstream_unfinished_check"),
    ("UPDATE run SET tasks_unfinished = -1", "run_tasks_unfinished_check"),
    ("UPDATE run SET state = 'success'", "run_finished_at_check"),
    ("UPDATE run SET state = 'paused'", "run_state_check"),
    (
        "INSERT INTO attempt (run_key, task_index, fence, try_number, worker_id, started_at, outcome) \
      SELECT run_key, task_index, 1, 1, 1, clock_timestamp(), 'success' FROM task_run",
        "attempt_finished_at_check",
    ),
];

#[tokio::test]
async fn rows_that_cannot_be_are_refused_by_name() {
    let mut house = House::open().await;
    let _play = house.play("orders: {tasks: {only: {operator: script}}}").await;
    let _worker = super::worker(&house).await;
    for (statement, constraint) in IMPOSSIBLE {
        let refused = house.sql.execute(statement).await.unwrap_err();
        let named = refused.as_database_error().and_then(|error| error.constraint()).map(str::to_owned);
        assert_eq!(named.as_deref(), Some(constraint), "{statement}: {refused}");
    }
}
