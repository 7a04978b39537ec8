//! What tasks find, in which order, and that no log, error or output has a secret in it.

use aws_sdk_secretsmanager::Client;
use aws_sdk_secretsmanager::config::{BehaviorVersion, Credentials, Region};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use serde_json::{Value, json};
use sqlx::{Connection, PgConnection, Row};
use tokio::task::JoinSet;

use super::{Place, service};
use crate::services;

const SECRET: &str = "c0rrect/horse+bättery";

/// The DAG file of the page for users.
fn documented() -> String {
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/connections.md")).unwrap();
    let (_, rest) = page.split_once("```yaml\n").unwrap();
    rest.split_once("```").unwrap().0.to_owned()
}

#[tokio::test]
async fn the_documented_dag_runs_with_a_variable_and_an_http_connection() {
    let mut place = Place::new().await;
    let mut tasks = JoinSet::new();
    let address = service(&mut tasks).await;
    place.set("PINSCHED_CONNECTION_ORDERS_API", &format!("http://reporter:s3cr3t@{address}/v1?X-Api-Version=2"));
    place.set("AIRFLOW_VAR_LIMITS", r#"{"rows": 10}"#);
    let file = place.write("orders_report.yaml", &documented());
    place.answer(&["validate", &file], "").await.done();
    place.answer(&["run", &file], "").await.done();
    let host = address.split(':').next().unwrap();
    assert_eq!(place.log("say").await, format!("hello: 10 orders of {host}\n"));
    let mut database = PgConnection::connect(&place.database).await.unwrap();
    let row =
        sqlx::query("SELECT output FROM task_output WHERE task_index = 0").fetch_one(&mut database).await.unwrap();
    let output: Value = row.get("output");
    assert_eq!(output["body"]["target"], "/v1/orders?limit=10");
    assert_eq!(output["body"]["version"], "2", "the extra has headers");
    assert_eq!(output["body"]["authorization"], "Basic cmVwb3J0ZXI6***", "what the service says back is masked");
}

/// Prints a secret in every form that a shell and Python's libraries can make of it, whole and in pieces.
fn talkative() -> String {
    let secret = SECRET;
    let percent: String = secret
        .bytes()
        .map(|byte| if byte.is_ascii_alphanumeric() { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect();
    let hex: String = secret.bytes().map(|byte| format!("{byte:02x}")).collect();
    let forms = [
        secret.to_owned(),
        STANDARD.encode(secret),
        URL_SAFE.encode(format!("x{secret}")),
        STANDARD.encode(format!("me:{secret}@")),
        percent.to_lowercase(),
        percent,
        json!(secret).to_string(),
        "c0rrect/horse+b\\u00e4ttery".to_owned(),
        hex,
    ];
    // In hex, so that the file itself has none of the forms; each form whole, in two lines, and letter by letter.
    let encoded = |form: &String| form.bytes().map(|byte| format!("{byte:02x}")).collect::<String>();
    let printed = forms.iter().map(|form| {
        let half = encoded(form).len() / 4 * 2;
        let (first, second) = (&encoded(form)[..half], &encoded(form)[half..]);
        format!(
            "say {first}{second}; echo; say {first}; echo; say {second}; echo; say {first}; sleep 0.01; say {second}; echo\n"
        )
    });
    format!("say() {{ printf '%s' \"$1\" | xxd -r -p; }}\n{}", printed.collect::<String>())
}

#[tokio::test]
async fn no_log_error_or_history_has_a_secret_in_any_form() {
    let mut place = Place::with_key().await;
    place.answer(&["variables", "set", "api_key"], SECRET).await.done();
    place.set("PINSCHED_LOG", "debug");
    let script = talkative().replace('\n', "\n        ");
    let file = place.write(
        "talk.yaml",
        &format!(
            "talk:\n  tasks:\n    talk:\n      operator: bash\n      retries: 1\n      retry_delay: 0.01\n      \
             env: {{KEY: \"{{{{ var.value.api_key }}}}\"}}\n      append_env: true\n      bash_command: |\n        {script}\n        \
             echo \"$KEY\"; echo \"end of it\"; echo \"$KEY\" >&2; exit 3\n"
        ),
    );
    let ran = place.answer(&["run", &file], "").await;
    assert_eq!(ran.code, Some(1), "{}{}", ran.stdout, ran.stderr);
    let shown = place.answer(&["show", "latest"], "").await;
    let mut database = PgConnection::connect(&place.database).await.unwrap();
    let rows =
        "SELECT body AS text FROM attempt_log UNION ALL SELECT error FROM attempt UNION ALL SELECT error FROM task_run";
    let rows = sqlx::query(rows).fetch_all(&mut database).await.unwrap();
    let stored: Vec<String> = rows.iter().filter_map(|row| row.get("text")).collect();
    assert!(stored.iter().any(|text| text.contains("end of it")) && stored.iter().any(|text| text.contains("code 3")));
    let percent = "c0rrect%2Fhorse%2Bb%C3%A4ttery";
    for text in stored.iter().chain([&ran.stdout, &ran.stderr, &shown.stdout, &place.log("talk").await]) {
        let joined = text.replace(['\n', '\r'], "");
        for form in [
            SECRET.to_owned(),
            STANDARD.encode(SECRET),
            STANDARD.encode(format!("me:{SECRET}@"))[4..24].to_owned(),
            URL_SAFE.encode(format!("x{SECRET}"))[2..24].to_owned(),
            percent.to_owned(),
            percent.to_lowercase(),
            "c0rrect/horse+b\\u00e4ttery".to_owned(),
            SECRET.bytes().map(|byte| format!("{byte:02x}")).collect(),
        ] {
            assert!(!joined.contains(&form), "`{form}` is in {text}");
        }
    }
    let log = place.log("talk").await;
    assert!(log.matches("***").count() >= 9 * 3 + 2, "every one is masked, and once more in the error: {log}");
}

#[tokio::test]
async fn a_name_that_is_nowhere_is_tried_again_as_retries_allow_and_says_where_it_was_looked_for() {
    let place = Place::new().await;
    let file = place.write(
        "missing.yaml",
        "missing:\n  tasks:\n    a: {operator: bash, retries: 1, retry_delay: 0s, bash_command: \"echo {{ var.value.bucket }}\"}\n    \
         b: {operator: http, retries: 1, retry_delay: 0s, http_conn_id: Api, endpoint: x}\n    \
         c: {operator: bash, bash_command: \"echo {{ var.value.get('bucket', 'none') }} {{ conn.get('api') }}\"}\n",
    );
    let ran = place.json_of_failed(&["run", &file]).await;
    let error = |task: usize| ran["tasks"][task]["error"].as_str().unwrap_or_default().to_owned();
    assert_eq!(
        error(0),
        "could not render `bash_command`: no variable is named `bucket`: looked in the environment \
         (PINSCHED_VARIABLE_BUCKET, AIRFLOW_VAR_BUCKET), the settings (`variables.bucket`) and the database"
    );
    assert!(error(1).starts_with("no connection is named `Api`: looked in the environment (PINSCHED_CONNECTION_API, "));
    assert_eq!((&ran["tasks"][0]["attempts"], &ran["tasks"][1]["attempts"]), (&2.into(), &2.into()), "{ran}");
    assert_eq!(place.log("c").await, "none None\n");
}

impl Place {
    async fn json_of_failed(&self, arguments: &[&str]) -> Value {
        let answer = self.answer(&[arguments, &["--output", "json"]].concat(), "").await;
        assert_eq!(answer.code, Some(1), "{}{}", answer.stdout, answer.stderr);
        serde_json::from_str(&answer.stdout).unwrap()
    }

    /// Looks in the stand-in for Secrets Manager, below prefixes of its own.
    fn use_secrets_manager(&mut self, url: &str, prefix: &str) {
        self.set("PINSCHED_SECRETS_AWS_ENDPOINT_URL", url);
        self.set("PINSCHED_SECRETS_AWS_REGION", "eu-west-1");
        self.set("PINSCHED_SECRETS_AWS_CONNECTIONS_PREFIX", &format!("{prefix}/connections"));
        self.set("PINSCHED_SECRETS_AWS_VARIABLES_PREFIX", &format!("{prefix}/variables"));
        self.set("AWS_ACCESS_KEY_ID", "test");
        self.set("AWS_SECRET_ACCESS_KEY", "nobody-checks-it");
    }
}

#[tokio::test]
async fn the_first_place_that_has_it_wins() {
    let mut place = Place::with_key().await;
    let url = services::secrets_manager();
    let prefix = format!("it-{}", uuid::Uuid::now_v7());
    let config = aws_sdk_secretsmanager::Config::builder()
        .behavior_version(BehaviorVersion::v2026_01_12())
        .region(Region::new("eu-west-1"))
        .credentials_provider(Credentials::new("test", "nobody-checks-it", None, None, "test"))
        .http_client(aws_smithy_http_client::Builder::new().build_http())
        .endpoint_url(&url)
        .build();
    let manager = Client::from_conf(config);
    let secret = |name: &str, text: &str| {
        let create = manager.create_secret().name(format!("{prefix}/{name}")).secret_string(text);
        async move { create.send().await.unwrap() }
    };
    secret("variables/place", "secrets manager").await;
    secret("connections/place", r#"{"engine": "postgres", "username": "me", "password": "hush", "host": "rds"}"#).await;
    secret("variables/deleted", "hush").await;
    let deleted = manager.delete_secret().secret_id(format!("{prefix}/variables/deleted")).recovery_window_in_days(7);
    deleted.send().await.unwrap();

    place.answer(&["variables", "set", "place", "database"], "").await.done();
    place.answer(&["connections", "set", "place"], "http://database").await.done();
    let found = async |place: &Place| {
        let variable = place.json(&["variables", "get", "place"]).await;
        let connection = place.json(&["connections", "get", "place"]).await;
        [&variable["value"], &variable["origin"], &connection["host"], &connection["origin"]]
            .map(|value| value.as_str().unwrap().to_owned())
    };
    assert_eq!(found(&place).await, ["database", "database", "database", "database"]);
    place.write("pinsched.toml", "[variables]\nplace = \"file\"\n[connections]\nplace = \"http://file\"\n");
    assert_eq!(found(&place).await, ["file", "pinsched.toml:2", "file", "pinsched.toml:4"]);
    place.set("AIRFLOW_VAR_PLACE", "airflow");
    place.set("AIRFLOW_CONN_PLACE", "http://airflow");
    assert_eq!(found(&place).await, ["airflow", "AIRFLOW_VAR_PLACE", "airflow", "AIRFLOW_CONN_PLACE"]);
    place.set("PINSCHED_VARIABLE_PLACE", "ours");
    place.set("PINSCHED_CONNECTION_PLACE", "http://ours");
    assert_eq!(found(&place).await, ["ours", "PINSCHED_VARIABLE_PLACE", "ours", "PINSCHED_CONNECTION_PLACE"]);
    place.use_secrets_manager(&url, &prefix);
    let origin = |kind| format!("AWS Secrets Manager `{prefix}/{kind}/place`");
    assert_eq!(
        found(&place).await,
        ["secrets manager".to_owned(), origin("variables"), "rds".to_owned(), origin("connections")]
    );
    let said = place.answer(&["variables", "set", "place", "again"], "").await;
    assert!(said.stderr.contains("PINSCHED_VARIABLE_PLACE has one of that name too"), "{}", said.stderr);
    for name in ["deleted", "nowhere"] {
        let refusal = place.answer(&["variables", "get", name], "").await.refused(1);
        assert!(
            refusal.contains(&format!("looked in AWS Secrets Manager (`{prefix}/variables/{name}`), the env")),
            "{refusal}"
        );
    }
    // And so do tasks.
    let file = place.write(
        "place.yaml",
        "place:\n  tasks:\n    say: {operator: bash, bash_command: \"echo {{ var.value.place }} {{ conn.place.password }}\"}\n",
    );
    place.answer(&["run", &file], "").await.done();
    assert_eq!(place.log("say").await, "secrets manager ***\n");
}

#[tokio::test]
async fn a_secrets_manager_that_is_away_fails_the_attempt_and_one_that_denies_fails_the_task() {
    let mut place = Place::new().await;
    place.use_secrets_manager("http://127.0.0.1:9", "airflow");
    let file = place.write(
        "away.yaml",
        "away:\n  tasks:\n    say: {operator: bash, retries: 1, retry_delay: 0.01, bash_command: \"echo {{ var.value.x }}\"}\n",
    );
    let away = place.json_of_failed(&["run", &file]).await;
    let error = away["tasks"][0]["error"].as_str().unwrap();
    assert!(error.starts_with("could not read secret `airflow/variables/x` from AWS Secrets Manager: "), "{error}");
    assert_eq!(away["tasks"][0]["attempts"], 2, "{away}");

    let mut tasks = JoinSet::new();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let denies = axum::Router::new().fallback(|| async {
        let body = r#"{"__type": "AccessDeniedException", "Message": "not for you"}"#;
        (axum::http::StatusCode::BAD_REQUEST, [("content-type", "application/x-amz-json-1.1")], body)
    });
    tasks.spawn(async move { axum::serve(listener, denies).await.unwrap() });
    place.use_secrets_manager(&format!("http://{address}"), "airflow");
    let denied = place.json_of_failed(&["run", &file, "--new"]).await;
    let error = denied["tasks"][0]["error"].as_str().unwrap();
    assert!(error.ends_with("from AWS Secrets Manager: AccessDeniedException: not for you"), "{error}");
    assert_eq!(denied["tasks"][0]["attempts"], 1, "{denied}");
}
