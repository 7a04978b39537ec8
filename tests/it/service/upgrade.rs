//! A schema that moves on under a service: the older version works on until it is replaced, and loses nothing.

use pinsched::domain::run_state::RunState;
use pinsched::store::StoreError;
use sqlx::migrate::Migrator;
use sqlx::{Connection, PgConnection};

use super::Served;

static MIGRATIONS: Migrator = sqlx::migrate!();

const TEXT: &str = "orders: {tasks: {one: {operator: script}, two: {operator: script, dependencies: [one]}}}";

/// What a later version adds before it uses it: columns, a table, an index, a trigger. Nothing is taken away.
const EXPANDED: &str = "
    ALTER TABLE run ADD COLUMN later text NOT NULL DEFAULT 'x';
    ALTER TABLE task_run ADD COLUMN later integer;
    ALTER TABLE attempt ADD COLUMN later jsonb;
    CREATE TABLE later (run_key bigint REFERENCES run (id) ON DELETE CASCADE);
    CREATE INDEX later_idx ON task_run (later) WHERE later IS NOT NULL;
    CREATE FUNCTION later() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;
    CREATE TRIGGER later AFTER UPDATE ON task_run FOR EACH ROW EXECUTE FUNCTION later();
    INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
    VALUES (20990101000000, 'later', true, '', 0)";

#[tokio::test]
async fn an_older_service_works_on_under_a_later_schema_and_says_that_it_is_to_be_replaced() {
    let mut served = Served::by_one(&[("orders.yaml", TEXT)]).await;
    served.dag("orders", |state| state.version.is_some()).await;
    // All of its statements are prepared by now, and know the tables as they were.
    let run = served.trigger(TEXT, "before").await;
    assert_eq!(served.ended(&run).await, RunState::Success);
    served.house.execute(EXPANDED).await;
    let run = served.trigger(TEXT, "after").await;
    assert_eq!(served.ended(&run).await, RunState::Success);
    let ready = reqwest::get(format!("http://{}/health/ready", served.addresses[0])).await.unwrap();
    assert_eq!(ready.status(), 503);
    let said = ready.text().await.unwrap();
    assert!(said.contains("20990101000000"), "{said}");
    let live = reqwest::get(format!("http://{}/health/live", served.addresses[0])).await.unwrap();
    assert_eq!(live.status(), 200);
    // One that starts now refuses, in words.
    let refused = served.house.store.migrate().await.unwrap_err();
    assert!(matches!(refused, StoreError::Newer { migration: 20990101000000 }), "{refused}");
    served.stop().await;
}

#[tokio::test]
async fn a_newer_version_migrates_while_an_older_one_works() {
    let mut served = Served::by_one(&[("orders.yaml", TEXT)]).await;
    served.dag("orders", |state| state.version.is_some()).await;
    let versions: Vec<i64> =
        MIGRATIONS.iter().filter(|one| !one.migration_type.is_down_migration()).map(|one| one.version).collect();
    let before = versions[versions.len() - 2];
    let mut connection = PgConnection::connect(secrecy::ExposeSecret::expose_secret(&served.house.url)).await.unwrap();
    // The last migration is taken back and made again under a service that works all the while.
    MIGRATIONS.undo(&mut connection, before).await.unwrap();
    let mut runs = Vec::new();
    for number in 0..30 {
        runs.push(served.trigger(TEXT, &format!("run{number}")).await);
        if number == 10 {
            served.house.store.migrate().await.unwrap();
        }
    }
    for run in &runs {
        assert_eq!(served.ended(run).await, RunState::Success);
    }
    assert!(served.house.store.schema().await.unwrap().is_current());
    served.start().await;
    let run = served.trigger(TEXT, "by_either").await;
    assert_eq!(served.ended(&run).await, RunState::Success);
    served.stop().await;
}
