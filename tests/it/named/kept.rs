//! What the commands keep in the database, and what they show of it.

use std::os::unix::fs::PermissionsExt;

use serde_json::{Value, json};
use sqlx::{Connection, PgConnection, Row};

use super::Place;

/// Everything that the database has of connections and variables, as bytes.
async fn dump(place: &Place) -> Vec<u8> {
    let mut connection = PgConnection::connect(&place.database).await.unwrap();
    let rows = "SELECT id AS name, sealed FROM connection UNION ALL SELECT name, sealed FROM variable";
    let mut bytes = Vec::new();
    for row in sqlx::query(rows).fetch_all(&mut connection).await.unwrap() {
        bytes.extend(row.get::<String, _>("name").into_bytes());
        bytes.extend(row.get::<Vec<u8>, _>("sealed"));
    }
    bytes
}

fn has(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

#[tokio::test]
async fn nothing_is_kept_without_a_key_and_the_refusal_says_how_to_make_one() {
    let mut place = Place::new().await;
    for command in [&["connections", "set", "lake"][..], &["variables", "set", "token"]] {
        let refusal = place.answer(command, "postgres://me:hush@db/lake").await.refused(2);
        assert!(refusal.contains("export PINSCHED_SECRET_KEY=$(pinsched secrets key)"), "{refusal}");
        assert!(!refusal.contains("hush"), "{refusal}");
    }
    assert_eq!(dump(&place).await, b"");
    place.set("PINSCHED_SECRET_KEY", "aHVzaA==");
    let refusal = place.answer(&["variables", "set", "token"], "x").await.refused(2);
    assert!(refusal.contains("key 1 of PINSCHED_SECRET_KEY is not 32 bytes in base64"), "{refusal}");
}

#[tokio::test]
async fn a_connection_is_kept_sealed_and_shown_without_its_password() {
    let place = Place::with_key().await;
    place.answer(&["connections", "set", "lake"], "postgresql://me:hu%2Fsh@db:5432/lake?api_token=tik\n").await.done();
    let flags = ["connections", "set", "api", "--type", "http", "--host", "https://api", "--login", "me"];
    place.answer(&[&flags[..], &["--password-stdin"]].concat(), "hush hush").await.done();
    let sealed = dump(&place).await;
    assert!(has(&sealed, "lake") && !has(&sealed, "hu/sh") && !has(&sealed, "hush") && !has(&sealed, "tik"));

    let listed = place.json(&["connections", "list"]).await;
    assert_eq!(
        listed[1],
        json!({"conn_id": "lake", "conn_type": "postgres", "host": "db", "port": 5432, "schema": "lake", "login": "me",
            "description": null, "origin": "database", "error": null})
    );
    let table = place.answer(&["connections", "list"], "").await.done();
    let shown = place.answer(&["connections", "get", "lake"], "").await.done();
    assert!(table.contains("https://api") && shown.contains("***"), "{table}{shown}");
    for text in [listed.to_string(), table, shown] {
        assert!(!text.contains("hush") && !text.contains("hu/sh") && !text.contains("tik"), "{text}");
    }
    let revealed = place.json(&["connections", "get", "lake", "--reveal"]).await;
    assert_eq!(revealed["password"], "hu/sh");
    assert_eq!(revealed["uri"], "postgres://me:hu%2Fsh@db:5432/lake?api_token=tik");
    assert_eq!(place.json(&["connections", "get", "api", "--reveal"]).await["password"], "hush hush");

    place.answer(&["connections", "delete", "lake"], "").await.done();
    let refusal = place.answer(&["connections", "get", "lake"], "").await.refused(1);
    assert!(refusal.contains("no connection is named `lake`: looked in the environment (PINSCHED_CONNECTION_LAKE, "));
    place.answer(&["connections", "delete", "lake"], "").await.refused(1);
    let refusal = place.answer(&["connections", "set", "bad"], "hush").await.refused(2);
    assert!(refusal.contains("it is neither a URI") && !refusal.contains("hush"), "{refusal}");
}

#[tokio::test]
async fn variables_with_a_secrets_name_are_masked_until_they_are_asked_for() {
    let place = Place::with_key().await;
    place.answer(&["variables", "set", "bucket", "landing"], "").await.done();
    place.answer(&["variables", "set", "api_token"], "hush\n").await.done();
    let settings = json!({"region": "eu", "db_password": "hush"}).to_string();
    place.answer(&["variables", "set", "settings"], &settings).await.done();
    assert!(!has(&dump(&place).await, "hush") && !has(&dump(&place).await, "landing"));
    let listed = place.json(&["variables", "list"]).await;
    let values: Vec<&Value> = listed.as_array().unwrap().iter().map(|line| &line["value"]).collect();
    assert_eq!(values, ["***", "landing", r#"{"region":"eu","db_password":"***"}"#]);
    let table = place.answer(&["variables", "list"], "").await.done();
    assert!(table.contains("landing") && !table.contains("hush"), "{table}");
    assert_eq!(place.answer(&["variables", "get", "bucket"], "").await.done(), "landing\n");
    assert_eq!(place.answer(&["variables", "get", "api_token"], "").await.done(), "***\n");
    assert_eq!(place.answer(&["variables", "get", "api_token", "--reveal"], "").await.done(), "hush\n");
    place.answer(&["variables", "delete", "bucket"], "").await.done();
    place.answer(&["variables", "get", "bucket"], "").await.refused(1);
}

#[tokio::test]
async fn airflows_exports_are_taken_over_and_given_back() {
    let place = Place::with_key().await;
    let connections = json!({
        "lake": {"conn_type": "postgres", "description": "", "login": "me", "password": "hush", "host": "db",
            "port": 5432, "schema": "lake", "extra": "{\"sslmode\": \"require\"}"},
        "api": "http://me:hush@https%3A%2F%2Fapi/",
    });
    let file = place.write("connections.json", &connections.to_string());
    place.answer(&["connections", "import", &file], "").await.done();
    let refusal = place.answer(&["connections", "import", &file], "").await.refused(1);
    assert!(refusal.contains("--overwrite replaces them: lake, api"), "{refusal}");
    place.answer(&["connections", "import", &file, "--overwrite"], "").await.done();
    let out = place.folder().join("out.json");
    place.answer(&["connections", "export", out.to_str().unwrap()], "").await.done();
    assert_eq!(std::fs::metadata(&out).unwrap().permissions().mode() & 0o777, 0o600);
    let exported: Value = serde_json::from_str(&std::fs::read_to_string(&out).unwrap()).unwrap();
    assert_eq!(exported["lake"]["password"], "hush");
    assert_eq!(exported["lake"]["extra"], r#"{"sslmode": "require"}"#);
    assert_eq!(exported["api"]["host"], "https://api");

    let variables = json!({"bucket": "landing", "limits": {"rows": 5}, "n": 7, "text": "{\"a\":  1}"});
    place.answer(&["variables", "import", "-"], &variables.to_string()).await.done();
    let exported = place.answer(&["variables", "export", "-"], "").await.done();
    assert_eq!(serde_json::from_str::<Value>(&exported).unwrap(), variables);
    let refusal = place.answer(&["variables", "import", "-"], r#"{"a": "hush"#).await.refused(2);
    assert!(refusal.contains("is not JSON (line 1") && !refusal.contains("hush"), "{refusal}");
}

#[tokio::test]
async fn a_key_is_changed_without_losing_anything() {
    let mut place = Place::with_key().await;
    place.answer(&["variables", "set", "api_token"], "hush").await.done();
    place.answer(&["connections", "set", "lake"], "postgres://me:hush@db/lake").await.done();
    let old = place.variables[0].1.clone();
    let new = place.answer(&["secrets", "key"], "").await.done();
    let new = new.trim();

    place.set("PINSCHED_SECRET_KEY", new);
    let refusal = place.answer(&["variables", "get", "api_token"], "").await.refused(2);
    assert!(refusal.contains("none of the keys in PINSCHED_SECRET_KEY opens variable `api_token`"), "{refusal}");
    let listed = place.answer(&["variables", "list"], "").await.done();
    assert!(listed.contains("  (sealed)  database  none of the keys"), "what is said is not the value: {listed}");
    let refusal = place.answer(&["secrets", "rotate"], "").await.refused(1);
    assert!(refusal.contains("opens connection `lake`, variable `api_token`"), "{refusal}");
    assert_eq!(place.json(&["variables", "list"]).await[0]["name"], "api_token", "names are listed all the same");

    place.set("PINSCHED_SECRET_KEY", &format!("{new}, {old}"));
    assert_eq!(place.json(&["secrets", "rotate"]).await, json!({"resealed": 2, "unopened": []}));
    assert_eq!(place.json(&["secrets", "rotate"]).await, json!({"resealed": 0, "unopened": []}));
    place.set("PINSCHED_SECRET_KEY", new);
    assert_eq!(place.answer(&["variables", "get", "api_token", "--reveal"], "").await.done(), "hush\n");
    assert_eq!(place.json(&["connections", "get", "lake", "--reveal"]).await["password"], "hush");
}
