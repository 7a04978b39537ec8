//! Both forms, there and back, and what an error may say.

use proptest::prelude::*;
use secrecy::ExposeSecret;
use serde_json::json;

use super::*;

fn read(text: &str) -> Connection {
    Connection::parse("lake", text).unwrap()
}

fn written(connection: &Connection) -> Value {
    connection.to_json()
}

#[test]
fn airflows_uris_are_read_and_written() {
    for (uri, expected) in [
        (
            "postgresql://me:p%40ss%2Fword@db.example:5432/orders?sslmode=require",
            json!({"conn_type": "postgres", "login": "me", "password": "p@ss/word", "host": "db.example", "port": 5432,
                "schema": "orders", "extra": r#"{"sslmode":"require"}"#}),
        ),
        (
            "google-cloud-platform://?__extra__=%7B%22a%22%3A+%7B%22b%22%3A+1%7D%7D",
            json!({"conn_type": "google_cloud_platform", "extra": r#"{"a": {"b": 1}}"#}),
        ),
        (
            "http://https://me:pw@api.example/",
            json!({"conn_type": "http", "host": "https://api.example", "login": "me", "password": "pw"}),
        ),
        ("http://api.example/https", json!({"conn_type": "http", "host": "api.example", "schema": "https"})),
        ("ssh://[2001:db8::1]:22", json!({"conn_type": "ssh", "host": "2001:db8::1", "port": 22})),
        ("aws://:secret@/", json!({"conn_type": "aws", "password": "secret"})),
        ("kafka://", json!({"conn_type": "kafka"})),
    ] {
        let read = read(uri);
        let mut all = json!({"conn_type": null, "description": null, "login": null, "password": null, "host": null,
            "port": null, "schema": null, "extra": null});
        all.as_object_mut().unwrap().extend(expected.as_object().unwrap().clone());
        assert_eq!(written(&read), all, "{uri}");
        let again = Connection::parse("lake", read.uri().expose_secret()).unwrap();
        assert_eq!(written(&again), all, "{uri} written again: {}", read.uri().expose_secret());
    }
}

#[test]
fn airflows_json_is_read_with_the_names_of_others() {
    let airflow = json!({"conn_type": "my-sql", "login": "me", "port": "3306", "extra": {"charset": "utf8"}});
    let read = Connection::parse("x", &airflow.to_string()).unwrap();
    assert_eq!((read.conn_type.as_str(), read.port), ("my_sql", Some(3306)));
    assert_eq!(read.extra_fields(), *json!({"charset": "utf8"}).as_object().unwrap());
    let rds = json!({"engine": "postgres", "username": "me", "password": "pw", "host": "db", "port": 5432, "dbname": "d",
        "dbInstanceIdentifier": "i"});
    let read = Connection::parse("x", &rds.to_string()).unwrap();
    assert_eq!(read.url().expose_secret(), "postgres://me:pw@db:5432/d");
}

#[test]
fn clients_get_their_own_urls() {
    for (text, url) in [
        ("postgres://me:p%40ss@db:5432/orders?sslmode=require", "postgres://me:p%40ss@db:5432/orders?sslmode=require"),
        ("postgres://me@%2Frun%2Fpostgresql/orders", "postgres://me@%2Frun%2Fpostgresql/orders"),
        ("postgres:///orders?host=/run/postgresql", "postgres:///orders?host=%2Frun%2Fpostgresql"),
        ("mysql://[::1]:3306/d", "mysql://[::1]:3306/d"),
        ("https://api.example/v1/", "https://api.example/v1"),
        ("https://me:p%40@api.example:8443", "https://me:p%40@api.example:8443"),
        ("http://api.example/https", "https://api.example"),
        ("http://https://api.example", "https://api.example"),
        (
            r#"{"conn_type": "http", "host": "https://api.example/v2", "port": 8443, "login": "me"}"#,
            "https://me@api.example:8443/v2",
        ),
    ] {
        assert_eq!(read(text).url().expose_secret(), url, "{text}");
    }
}

#[test]
fn errors_and_debug_never_quote_what_may_be_secret() {
    for text in [
        "hush",
        "postgres://me:hu/sh@db:5432/orders",
        "postgres://me:hush@db:hush/orders",
        "postgres://me:%FFhush@db",
        r#"{"conn_type": "postgres", "password": "hush""#,
        r#"{"conn_type": "postgres", "password": ["hush"]}"#,
        r#"{"conn_type": "postgres", "port": "hush"}"#,
        r#"{"password": "hush"}"#,
        r#"["hush"]"#,
    ] {
        match Connection::parse("lake", text) {
            Ok(read) => assert!(!format!("{read:?}").contains("hush"), "{text}"),
            Err(error) => assert!(!format!("{error} {error:?}").contains("hu"), "{text}: {error}"),
        }
    }
    let near = Connection::parse("lake", r#"{"conn_type": "http", "pasword": "hush"}"#).unwrap_err();
    assert_eq!(near.to_string(), "no connection has a `pasword`; did you mean `password`?");
    let whole = "postgres://me:hush@db/orders?token=hush";
    assert!(!format!("{:?}", read(whole)).contains("hush"));
}

#[test]
fn passwords_and_extras_with_secrets_names_are_secret() {
    let secrets = |text: &str| -> Vec<String> {
        read(text).secrets().iter().map(|secret| secret.expose_secret().to_owned()).collect()
    };
    let extra = json!({"region_name": "eu-west-1", "aws_secret_access_key": "s3cr3t", "deep": {"api-key": "k3y"}});
    let text = json!({"conn_type": "aws", "login": "AKIA", "password": "pw", "extra": extra}).to_string();
    assert_eq!(secrets(&text), ["pw", "s3cr3t", "k3y"]);
    assert_eq!(secrets(r#"{"conn_type": "x", "extra": "no json"}"#), ["no json"]);
    assert_eq!(secrets("postgres://postgres:postgres@localhost/postgres"), Vec::<String>::new());
}

#[test]
fn ids_are_airflows() {
    for id in ["lake", "my-db.v2", "a/b:c", "ключ"] {
        assert_eq!(check_id(id), Ok(()));
    }
    for id in ["", "a b", "a\nb", &"x".repeat(251)] {
        assert!(check_id(id).is_err(), "{id:?}");
    }
}

proptest! {
    #[test]
    fn a_uri_says_what_the_json_says(
        login in "\\PC{0,12}", password in "\\PC{0,12}", host in "[a-z0-9.-]{0,12}", schema in "\\PC{0,12}",
        port in proptest::option::of(any::<u16>()), name in "\\PC{1,5}", value in "\\PC{0,12}",
    ) {
        let text = json!({"conn_type": "postgres", "login": login, "password": password, "host": host, "port": port,
            "schema": schema, "extra": {name: value}}).to_string();
        let from_json = Connection::parse("x", &text).unwrap();
        let from_uri = Connection::parse("x", from_json.uri().expose_secret()).unwrap();
        prop_assert_eq!(from_uri.to_json(), from_json.to_json());
    }
}
