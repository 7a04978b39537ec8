//! What cannot be done is refused with the right exit code, in words that name the thing and say what to do.

use insta::assert_snapshot;
use secrecy::ExposeSecret;
use sqlx::{Connection, Executor, PgConnection, Row};

use crate::services;
use crate::whole::product::{Answer, Product, dag_file};

/// Exit code, stdout and stderr as one text.
fn told(answer: &Answer) -> String {
    let code = answer.status.code().expect("the command ended by itself");
    format!("exit {code}\n--- stdout\n{}--- stderr\n{}", answer.stdout, answer.stderr)
}

/// A DAG whose one task says hello.
const HELLO: &str = "hello:\n  params: {who: world, times: 1}\n  tasks:\n    greet: {operator: bash, bash_command: \"echo hello {{ params.who }}\"}\n";

#[tokio::test]
async fn mistakes_of_the_command_line_and_of_dag_files_are_told_apart() {
    let product = Product::embedded().await;
    let file = product.write("hello.yaml", HELLO);
    let broken = product.write("broken.yaml", "broken:\n  tasks:\n    a: {operator: bsh}\n");
    let bare = product.write("bare.yaml", "bare: {tasks: {a: {operator: empty}}}\n");
    let two = product.write("two.yaml", "one: {tasks: {a: {operator: empty}}}\ntwo: {tasks: {a: {operator: empty}}}\n");
    for (name, arguments) in [
        ("no_file", vec!["run", "nowhere.yaml"]),
        ("invalid_dag", vec!["run", &broken]),
        ("several_dags", vec!["run", &two]),
        ("unknown_dag", vec!["run", &two, "--dag", "three"]),
        ("unknown_param", vec!["run", &file, "--param", "whom=you"]),
        ("param_of_none", vec!["run", &bare, "--param", "whom=you"]),
        ("param_of_another_type", vec!["run", &file, "--param", "times=often"]),
        ("param_without_value", vec!["run", &file, "--param", "who"]),
        ("no_logical_date", vec!["run", &file, "--logical-date", "tomorrow"]),
        ("unknown_run", vec!["show", "manual__nothing"]),
        ("no_run_yet", vec!["show", "latest"]),
    ] {
        let answer = product.answer(&arguments).await;
        insta::with_settings!({filters => vec![(r"/\S*/home", "[home]"), (r"/tmp/\S*/(\w+\.yaml)", "[folder]/$1")]}, {
            assert_snapshot!(name, told(&answer));
        });
    }
}

#[tokio::test]
async fn a_logical_date_runs_once_unless_a_rerun_is_asked_for() {
    let product = Product::embedded().await;
    let file = product.write("hello.yaml", HELLO);
    let run = ["run", &file, "--logical-date", "2026-01-05"];
    let first = product.json(&run).await;
    assert_eq!((&first["state"], &first["run_id"]), (&"success".into(), &"manual__2026-01-05T00:00:00+00:00".into()));
    let second = product.answer(&run).await;
    assert_snapshot!("finished_logical_date", told(&second));
    let again = product.json(&[&run[..], &["--rerun"]].concat()).await;
    assert_eq!(again["run_id"], "manual__2026-01-05T00:00:00+00:00~1");
    assert_ne!(again["run_uuid"], first["run_uuid"], "a rerun is a run of its own");
    let runs = product.json(&["runs"]).await;
    assert_eq!(runs["runs"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn a_database_that_cannot_be_reached_is_named_without_its_password() {
    let product = Product::embedded().await;
    let answer = product.answer(&["runs", "--database-url", "postgres://me:hush@127.0.0.1:1/nothing"]).await;
    assert_snapshot!("database_down", told(&answer));
    let mut url: url::Url = services::admin_url().parse().unwrap();
    url.set_path("/no_such_database");
    let answer = product.answer(&["runs", "--database-url", url.as_str()]).await;
    assert_eq!(answer.status.code(), Some(2));
    assert!(answer.stderr.contains("database \"no_such_database\" does not exist"), "{}", answer.stderr);
}

#[tokio::test]
async fn a_source_with_other_tables_or_columns_fails_the_task_and_names_them() {
    let product = Product::embedded().await;
    let task = |tables: &str| format!("odd:\n  tasks:\n    draw: {{operator: emulate, rows: 5, tables: {tables}}}\n");
    for (tables, words) in [
        ("{pin: {table: no_pins, key: index}}", "there is no table `no_pins`"),
        ("{pin: {table: pinterest_data, key: no_key}}", "no_key"),
        (
            "{geo: {table: geolocation_data, key: ind, columns: [ind, timestamp, latitude, longitude, land]}}",
            "has other columns than expected: no `land`, also `country`",
        ),
    ] {
        let file = product.write("odd.yaml", &task(tables));
        let answer = product.answer(&["run", &file, "--new"]).await;
        assert_eq!(answer.status.code(), Some(1), "{}", answer.stderr);
        assert!(answer.stdout.contains(words), "{}", answer.stdout);
    }
}

#[tokio::test]
async fn the_tables_of_a_run_read_well() {
    let product = Product::embedded().await;
    let answer = product.answer(&["run", &dag_file("greetings.yaml"), "--logical-date", "2026-01-05"]).await;
    insta::with_settings!({filters => vec![(r"\d+ ms|\d+\.\d s", "[time]"), (r" +\[time\]", " [time]")]}, {
        assert_snapshot!("greetings_table", answer.stdout);
    });
    assert_eq!(answer.status.code(), Some(0), "{}", answer.stderr);
}

#[tokio::test]
async fn a_command_that_reads_leaves_a_database_that_is_not_pinscheds_as_it_is() {
    let product = Product::embedded().await;
    let url = services::database().await;
    let mut connection = PgConnection::connect(url.expose_secret()).await.unwrap();
    connection.execute("CREATE TABLE theirs (id int)").await.unwrap();
    for command in [&["runs"][..], &["show", "latest"], &["logs", "latest", "draw"]] {
        let answer = product.answer(&[command, &["--database-url", url.expose_secret()]].concat()).await;
        assert_eq!(answer.status.code(), Some(2), "{}", answer.stderr);
        assert!(answer.stderr.contains("it has no tables of pinsched's"), "{}", answer.stderr);
    }
    let tables = "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'";
    assert_eq!(connection.fetch_one(tables).await.unwrap().get::<i64, _>(0), 1);
}
