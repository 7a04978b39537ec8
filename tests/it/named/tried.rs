//! `connections test`, against real servers and against none.

use serde_json::json;
use tokio::task::JoinSet;

use super::{Place, service};
use crate::services;

#[tokio::test]
async fn a_connection_that_works_says_what_answered() {
    let mut place = Place::new().await;
    let mut tasks = JoinSet::new();
    let address = service(&mut tasks).await;
    let postgres = place.database.clone();
    place.set("PINSCHED_CONNECTION_STATE", &postgres);
    place.set("AIRFLOW_CONN_SHOP", &services::mariadb());
    place.set("PINSCHED_CONNECTION_API", &format!("http://me:hush@{address}/v1?api_token=hush"));
    let kafka = json!({"conn_type": "kafka", "extra": {"bootstrap.servers": services::kafka(), "group.id": "x"}});
    place.set("PINSCHED_CONNECTION_EVENTS", &kafka.to_string());
    for (id, expected) in [
        ("state", "connected to postgres://127.0.0.1:".to_owned()),
        ("shop", "connected to mysql://127.0.0.1:".to_owned()),
        ("api", "http://127.0.0.1/v1 answers 200 OK".to_owned()),
        ("events", format!("Kafka {} answers: 1 broker", services::kafka())),
    ] {
        let words = place.answer(&["connections", "test", id], "").await.done();
        assert!(words.starts_with(&expected), "{id}: {words}");
    }
    let answer = place.json(&["connections", "test", "api"]).await;
    assert_eq!(answer["status"], true);
}

#[tokio::test]
async fn one_that_does_not_work_says_why_and_never_the_password() {
    let mut place = Place::new().await;
    let mut tasks = JoinSet::new();
    let address = service(&mut tasks).await;
    for (id, text, expected) in [
        (
            "DENIED",
            format!("http://me:hush@{address}/denied"),
            "401 Unauthorized: the login or the password is not accepted",
        ),
        ("NOBODY", "https://me:hush@127.0.0.1:9/v1".to_owned(), "could not reach https://127.0.0.1/v1"),
        (
            "GONE",
            "postgres://me:hush@127.0.0.1:9/db".to_owned(),
            "could not connect to the source postgres://127.0.0.1:9/db",
        ),
        (
            "STORE",
            json!({"conn_type": "aws", "login": "me", "password": "hush", "extra": {
            "endpoint_url": "http://127.0.0.1:9"}})
            .to_string(),
            "127.0.0.1:9",
        ),
        ("ODD", "ftp://me:hush@host".to_owned(), "connections of type `ftp` cannot be tried"),
        ("BARE", "kafka://".to_owned(), "neither a host nor a `bootstrap.servers`"),
    ] {
        place.set(&format!("PINSCHED_CONNECTION_{id}"), &text);
        let refusal = place.answer(&["connections", "test", &id.to_lowercase()], "").await.refused(1);
        assert!(refusal.contains(expected) && !refusal.contains("hush"), "{id}: {refusal}");
    }
    place.answer(&["connections", "test", "nowhere"], "").await.refused(1);
}
