//! Workers: their sign of life, their leases, and what is left when they are gone.

use std::time::Duration;

use pinsched::clock;
use pinsched::domain::plan::Ending;
use pinsched::store::{ClaimOf, Orphan, Store, StoreError, WorkerId};
use secrecy::SecretString;

use super::{claim, end, ended, worker};
use crate::dags::House;
use crate::services;

const TEXT: &str = "orders: {tasks: {one: {operator: script}, two: {operator: script}}}";

/// Waits until Postgres has noticed that the worker's connection is gone.
async fn until_dead(house: &House, worker: WorkerId) {
    let noticed = async {
        let mut look = tokio::time::interval(Duration::from_millis(20));
        while house.store.is_alive(worker).await.unwrap() {
            look.tick().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), noticed).await.expect("Postgres notices within 30 s");
}

#[tokio::test]
async fn the_attempts_of_a_worker_whose_connection_is_gone_are_orphans() {
    let house = House::open().await;
    let play = house.play(TEXT).await;
    let (dying, living) = (worker(&house).await, worker(&house).await);
    let orphaned = claim(&house.store, &dying, 1).await[0];
    let kept = claim(&house.store, &living, 1).await[0];
    assert!(house.store.orphans(ClaimOf::Run(play.run.key), &[]).await.unwrap().is_empty());
    let dead = dying.worker;
    drop(dying);
    until_dead(&house, dead).await;
    assert!(house.store.is_alive(living.worker).await.unwrap());
    let expected = Orphan { task_run: orphaned.task_run, fence: 1, worker: dead, lease_expired: false };
    assert_eq!(house.store.orphans(ClaimOf::Run(play.run.key), &[]).await.unwrap(), [expected]);
    end(&house.store, &play, vec![ended(&orphaned, Ending::Lost)]).await;
    assert!(house.store.orphans(ClaimOf::Run(play.run.key), &[]).await.unwrap().is_empty());
    assert_ne!(kept.task_run, orphaned.task_run);
}

#[tokio::test]
async fn a_lease_that_ended_makes_an_orphan_of_a_worker_that_still_seems_alive() {
    let mut house = House::open().await;
    let play = house.play(TEXT).await;
    let hung = worker(&house).await;
    let claimed = claim(&house.store, &hung, 1).await[0];
    house
        .execute("UPDATE task_run SET lease_until = clock_timestamp() - interval '1 ms' WHERE state = 'running'")
        .await;
    let expected = Orphan { task_run: claimed.task_run, fence: 1, worker: hung.worker, lease_expired: true };
    assert_eq!(house.store.orphans(ClaimOf::Run(play.run.key), &[]).await.unwrap(), [expected]);
    let held = house.store.renew_leases(hung.worker).await.unwrap();
    assert_eq!(held, [(claimed.task_run, 1)], "nobody took it meanwhile: it is the worker's again");
    assert!(house.store.orphans(ClaimOf::Run(play.run.key), &[]).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_renewal_tells_what_the_worker_still_holds_and_leaves_others_alone() {
    let mut house = House::open().await;
    let play = house.play(TEXT).await;
    let (one, other) = (worker(&house).await, worker(&house).await);
    let mine = claim(&house.store, &one, 1).await[0];
    let theirs = claim(&house.store, &other, 1).await[0];
    house.execute("UPDATE task_run SET lease_until = clock_timestamp()").await;
    assert_eq!(house.store.renew_leases(one.worker).await.unwrap(), [(mine.task_run, 1)]);
    let orphans = house.store.orphans(ClaimOf::Run(play.run.key), &[]).await.unwrap();
    assert_eq!(orphans.iter().map(|orphan| orphan.task_run).collect::<Vec<_>>(), [theirs.task_run]);
    end(&house.store, &play, vec![ended(&mine, Ending::Lost)]).await;
    let again = claim(&house.store, &other, 1).await[0];
    assert_eq!((again.task_run, again.fence), (mine.task_run, 2));
    assert!(house.store.renew_leases(one.worker).await.unwrap().is_empty(), "it was taken over");
    assert_eq!(house.store.renew_leases(other.worker).await.unwrap().len(), 2);
}

/// Session locks do not hold behind it, however alike its servers look: also when it gives a connection the same one
/// again and again, as it does while nobody else asks.
#[tokio::test]
async fn a_transaction_pooler_is_refused() {
    let refused = async {
        let store = Store::connect(&SecretString::from(services::pooler()), 4).await?;
        store.migrate().await?;
        store.register_worker("laptop", 1, clock::now()).await
    };
    let error = refused.await.unwrap_err();
    assert!(matches!(error, StoreError::Pooler), "{error:?}");
}

#[tokio::test]
async fn a_worker_ends_in_good_order_and_is_known_by_its_place() {
    let house = House::open().await;
    let mut sign = house.store.register_worker("laptop", 4_294_967_295, clock::now()).await.unwrap();
    sign.confirm().await.unwrap();
    let worker = sign.worker;
    assert!(house.store.is_alive(worker).await.unwrap());
    assert_eq!(house.store.worker_place(worker).await.unwrap(), ("laptop".to_owned(), 4_294_967_295));
    house.store.worker_place(WorkerId(1)).await.unwrap_err();
    sign.end(clock::now()).await.unwrap();
    until_dead(&house, worker).await;
}

#[tokio::test]
async fn a_sign_of_life_whose_connection_was_cut_says_so() {
    let mut house = House::open().await;
    let mut sign = worker(&house).await;
    let cut = "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' \
               AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
    assert_eq!(house.execute(cut).await, 1);
    let error = sign.confirm().await.unwrap_err();
    assert!(error.is_transient(), "{error:?}");
}
