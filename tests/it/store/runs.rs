//! Runs are created whole or not at all, and found again.

use std::time::Duration;

use chrono::TimeDelta;
use pinsched::clock;
use pinsched::domain::run_state::RunState;
use pinsched::domain::run_type::RunType;
use pinsched::engine::operator::chain;
use pinsched::store::{DagRegistration, NewRun, StoreError};
use secrecy::ExposeSecret;
use sqlx::{Connection, PgConnection};

use super::{assert_history_is_legal, claim, end, states, succeeded, worker};
use crate::dags::{self, House, dag};

const TEXT: &str = "orders:
  tasks:
    extract: {operator: script}
    load: {operator: script, dependencies: [extract], priority_weight: 7}
    watch: {operator: script, dependencies: [load], trigger_rule: always}";

#[tokio::test]
async fn a_run_is_created_with_its_tasks_and_their_first_steps() {
    let house = House::open().await;
    let play = house.play(TEXT).await;
    let stored = house.store.run(play.run.key).await.unwrap().unwrap();
    assert_eq!(format!("{stored:?}"), format!("{:?}", play.run), "what is returned is what is stored");
    assert_eq!(stored.state, RunState::Running);
    assert_eq!(house.store.run_source(play.run.key).await.unwrap().source, TEXT);
    insta::assert_snapshot!(house.picture(&play).await, @r"
    orders @ 2026-02-01  running
      extract  queued
      load     none
      watch    queued
    ");
    let first: Vec<_> = house.store.transitions(play.run.key).await.unwrap();
    let first: Vec<_> = first.iter().map(|step| (step.task.0, step.event.as_str(), step.fence)).collect();
    assert_eq!(first, [(0, "released", 0), (2, "released", 0)]);
    assert_history_is_legal(&house.store, play.run.key).await;
}

#[tokio::test]
async fn a_run_that_is_there_already_is_named_and_nothing_is_left_of_the_second() {
    let mut house = House::open().await;
    let play = house.play(TEXT).await;
    let dag = dag(TEXT);
    let other_text = format!("{TEXT}\n# changed");
    let same_id = NewRun { logical_date: clock::now(), ..dags::new_run(&dag, &other_text) };
    let same_date = NewRun { run_id: "manual__again".parse().unwrap(), ..dags::new_run(&dag, &other_text) };
    for new in [same_id, same_date] {
        let refused = house.store.create_run(&new, clock::now()).await.unwrap_err();
        assert!(matches!(&refused, StoreError::RunExists { run_id, .. } if *run_id == new.run_id), "{refused:?}");
    }
    for (table, rows) in [("run", 1), ("task_run", 3), ("transition", 2), ("dag_version", 1)] {
        assert_eq!(house.execute(&format!("SELECT 1 FROM {table}")).await, rows, "{table}");
    }
    let again = NewRun { run_id: "manual__again".parse().unwrap(), rerun: 1, ..dags::new_run(&dag, TEXT) };
    let rerun = house.store.create_run(&again, clock::now()).await.unwrap();
    let latest = house.store.run_of_logical_date(dag.id(), dags::date()).await.unwrap().unwrap();
    assert_eq!((latest.key, latest.rerun), (rerun.key, 1));
    assert_eq!(house.execute("SELECT 1 FROM dag_version").await, 1, "the same text is kept once");
    assert_ne!(play.run.key, rerun.key);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_runs_created_at_once_for_one_logical_date_one_is() {
    let house = House::open().await;
    let mut creators = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let store = house.store.clone();
        creators.spawn(async move {
            let dag = dag(TEXT);
            store.create_run(&dags::new_run(&dag, TEXT), clock::now()).await.map(|run| run.key)
        });
    }
    let created = creators.join_all().await;
    assert_eq!(created.iter().filter(|result| result.is_ok()).count(), 1, "{created:?}");
    assert!(created.iter().all(|result| matches!(result, Ok(_) | Err(StoreError::RunExists { .. }))), "{created:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn runs_are_created_while_their_dag_is_registered_anew() {
    let house = House::open().await;
    let mut creators = tokio::task::JoinSet::new();
    for creator in 0..4 {
        let store = house.store.clone();
        creators.spawn(async move {
            let dag = dag(TEXT);
            for place in 0..25 {
                let logical_date = dags::date() + TimeDelta::minutes(creator * 1000 + place);
                let run_id = RunType::Manual.run_id(logical_date, 0);
                // Each the first of a version of its own for some, and of one that is there for others.
                let source = format!("{TEXT}# {place}\n");
                let new = NewRun { logical_date, run_id, ..dags::new_run(&dag, &source) };
                store.create_run(&new, clock::now()).await.map_err(|error| chain(&error))?;
                let registration =
                    DagRegistration { dag: &dag, file: new.file, source: &source, begins: None, begins_anew: false };
                store.register_dags(&[registration], clock::now()).await.map_err(|error| chain(&error))?;
            }
            Ok::<_, String>(())
        });
    }
    let failures: Vec<String> = creators.join_all().await.into_iter().filter_map(Result::err).collect();
    assert!(failures.is_empty(), "{failures:?}");
}

/// Nothing refers to the version any more, and whoever keeps house is about to delete it.
#[tokio::test]
async fn a_version_that_retention_deletes_at_the_same_moment_is_kept_anew() {
    let mut house = House::open().await;
    let play = house.play(TEXT).await;
    house.execute("DELETE FROM run").await;
    house.execute("BEGIN").await;
    assert_eq!(house.execute("DELETE FROM dag_version").await, 1);
    let store = house.store.clone();
    let new = dags::new_run(&play.dag, TEXT);
    let created = store.create_run(&new, clock::now());
    let deleted = async {
        let mut watch = PgConnection::connect(house.url.expose_secret()).await.unwrap();
        let mut look = tokio::time::interval(Duration::from_millis(10));
        let waits =
            "SELECT count(*) > 0 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
        while !sqlx::query_scalar::<_, bool>(waits).fetch_one(&mut watch).await.unwrap() {
            look.tick().await;
        }
        sqlx::query("COMMIT").execute(&mut house.sql).await.unwrap();
    };
    let both = tokio::time::timeout(Duration::from_secs(60), async { tokio::join!(created, deleted) });
    let (created, ()) = both.await.expect("the one waits for the other");
    assert_eq!(store.run_source(created.unwrap().key).await.unwrap().source, TEXT);
}

#[tokio::test]
async fn runs_are_found_by_id_by_an_end_of_their_uuid_and_while_they_are_unfinished() {
    let house = House::open().await;
    let play = house.play("orders: {tasks: {only: {operator: script}}}").await;
    let uuid = play.run.uuid.to_string();
    let tail = &uuid[uuid.len() - 6..];
    for name in [play.run.run_id.as_str(), &uuid, &uuid[..8], &uuid[..8].to_uppercase(), tail, &tail.to_uppercase()] {
        let found: Vec<_> = house.store.runs_named(None, name).await.unwrap().into_iter().map(|run| run.key).collect();
        assert_eq!(found, [play.run.key], "by `{name}`");
    }
    for said_too_little in [&uuid[..5], &uuid[uuid.len() - 5..], "%"] {
        assert!(house.store.runs_named(None, said_too_little).await.unwrap().is_empty(), "{said_too_little}");
    }
    assert_eq!(house.store.runs_named(Some("orders"), tail).await.unwrap().len(), 1);
    assert!(house.store.runs_named(Some("others"), tail).await.unwrap().is_empty());
    assert_eq!(house.store.unfinished_runs(play.dag.id()).await.unwrap().len(), 1);
    assert_eq!(house.store.list_runs(None, 10).await.unwrap().len(), 1);
    let worker = worker(&house).await;
    let claimed = claim(&house.store, &worker, 9).await;
    end(&house.store, &play, vec![succeeded(&claimed[0])]).await;
    assert!(house.store.unfinished_runs(play.dag.id()).await.unwrap().is_empty());
    let run = house.store.run(play.run.key).await.unwrap().unwrap();
    assert_eq!(run.state, RunState::Success);
    assert!(run.started_at.unwrap() <= run.finished_at.unwrap());
    assert_eq!(states(&house.store, play.run.key).await.len(), 1);
}

#[tokio::test]
async fn a_run_is_taken_over_from_whom_it_was_thought_to_be_with() {
    let house = House::open().await;
    let play = house.play(TEXT).await;
    let (one, other) = (worker(&house).await, worker(&house).await);
    let store = &house.store;
    assert!(store.take_over_run_if(play.run.key, None, one.worker).await.unwrap());
    assert!(!store.take_over_run_if(play.run.key, None, other.worker).await.unwrap());
    assert!(store.take_over_run_if(play.run.key, Some(one.worker), other.worker).await.unwrap());
    assert_eq!(store.run(play.run.key).await.unwrap().unwrap().owner, Some(other.worker));
}
