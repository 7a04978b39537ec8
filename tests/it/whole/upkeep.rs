//! `pinsched db` and `pinsched clean` as processes, and a served process that is asked how it does.

use std::os::unix::fs::PermissionsExt as _;
use std::process::Stdio;

use pinsched::connect::s3::PutOptions;
use pinsched::domain::run_state::RunState;
use secrecy::ExposeSecret;
use serde_json::{Value, json};
use sqlx::{Connection as _, Executor as _};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;
use uuid::Uuid;

use crate::dags::House;
use crate::services;
use crate::stack::scratch::PROGRAM;
use crate::whole::product::{PATIENCE, Product};

/// Runs a command on that database: exit code, stdout, stderr.
pub(super) async fn on(folder: &TempDir, url: &str, arguments: &[&str]) -> (Option<i32>, String, String) {
    let mut command = Command::new(PROGRAM);
    command.args(arguments).current_dir(folder.path()).stdin(Stdio::null()).kill_on_drop(true);
    command.env_clear().env("PATH", env!("PATH")).env("DATABASE_URL", url);
    // Nothing embedded is started for what no command here uses.
    command
        .env("PINSCHED_KAFKA_BOOTSTRAP_SERVERS", "127.0.0.1:9")
        .env("PINSCHED_SOURCE_URL", "postgres://127.0.0.1:9/x");
    command.env("PINSCHED_S3_ENDPOINT_URL", "http://127.0.0.1:9");
    let output = tokio::time::timeout(PATIENCE, command.output()).await.expect("it ends").unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

pub(super) async fn json_on(folder: &TempDir, url: &str, arguments: &[&str]) -> Value {
    let (code, stdout, stderr) = on(folder, url, &[arguments, &["--output", "json"]].concat()).await;
    assert_eq!(code, Some(0), "{arguments:?}: {stdout}\n{stderr}");
    serde_json::from_str(&stdout).unwrap()
}

const TEXT: &str = "orders: {tasks: {one: {operator: script}, two: {operator: script, dependencies: [one]}}}";

#[tokio::test]
async fn migrate_and_check_say_how_the_schema_stands() {
    let (folder, url) = (TempDir::new().unwrap(), services::database().await);
    let url = url.expose_secret();
    let (code, stdout, _) = on(&folder, url, &["db", "check"]).await;
    assert_eq!(code, Some(1));
    assert!(stdout.contains("wrong: it has no tables of pinsched's"), "{stdout}");
    let migrated = json_on(&folder, url, &["db", "migrate"]).await;
    assert!(migrated["from"].is_null() && migrated["to"].is_i64(), "{migrated}");
    let (_, stdout, _) = on(&folder, url, &["db", "migrate"]).await;
    assert_eq!(stdout, format!("the schema is at {} already\n", migrated["to"]));
    let checked = json_on(&folder, url, &["db", "check"]).await;
    assert_eq!(checked["schema"], migrated["to"]);
    assert_eq!((&checked["runs"], &checked["processes"], &checked["problems"]), (&json!(0), &json!(0), &json!([])));
}

#[tokio::test]
async fn a_database_of_a_later_version_is_left_alone() {
    let folder = TempDir::new().unwrap();
    let mut house = House::open().await;
    let later = "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
                 VALUES (20990101000000, 'later', true, '', 0)";
    house.execute(later).await;
    let url = house.url.expose_secret().to_owned();
    let (code, stdout, _) = on(&folder, &url, &["db", "check"]).await;
    assert_eq!(code, Some(1));
    assert!(stdout.contains("wrong: it is of a later version of pinsched"), "{stdout}");
    std::fs::write(folder.path().join("dag.yaml"), "one: {tasks: {a: {operator: empty}}}").unwrap();
    for arguments in [
        vec!["db", "migrate"],
        vec!["runs"],
        vec!["db", "clean"],
        vec!["run", "dag.yaml"],
        vec!["trigger", "one"],
        vec!["serve", "--dags", ".", "--listen", "off"],
    ] {
        let (code, _, stderr) = on(&folder, &url, &arguments).await;
        assert_eq!(code, Some(2), "{arguments:?}");
        assert!(stderr.contains("the database is of a later version of pinsched"), "{stderr}");
    }
}

#[tokio::test]
async fn what_is_backed_up_is_restored_into_another_database() {
    let folder = TempDir::new().unwrap();
    let mut house = House::open().await;
    house.play(TEXT).await;
    let url = house.url.expose_secret().to_owned();
    let file = folder.path().join("pinsched.dump").to_string_lossy().into_owned();
    let backed_up = json_on(&folder, &url, &["db", "backup", &file]).await;
    let mode = std::fs::metadata(&file).unwrap().permissions().mode();
    assert_eq!(mode & 0o077, 0, "it has logs and params: {mode:o}");
    assert_eq!(backed_up["bytes"].as_u64(), Some(std::fs::metadata(&file).unwrap().len()));
    assert!(!folder.path().join("pinsched.dump.part").exists());

    let other = services::database().await;
    let other = other.expose_secret();
    json_on(&folder, other, &["db", "restore", &file]).await;
    let runs = json_on(&folder, &url, &["runs"]).await;
    assert_eq!(runs["runs"].as_array().unwrap().len(), 1);
    assert_eq!(json_on(&folder, other, &["runs"]).await, runs);
    let run = ["show", "latest"];
    assert_eq!(json_on(&folder, other, &run).await, json_on(&folder, &url, &run).await);

    // Not over what is there, unless it is meant; and never under somebody who works.
    house.execute("UPDATE run SET note = 'after the backup'").await;
    let (code, _, stderr) = on(&folder, &url, &["db", "restore", &file]).await;
    assert_eq!(code, Some(1));
    assert!(stderr.contains("the database is not empty"), "{stderr}");
    let alive = house.store.register_worker("here", 1, pinsched::clock::now()).await.unwrap();
    let (code, _, stderr) = on(&folder, &url, &["db", "restore", &file, "--force"]).await;
    assert_eq!(code, Some(1));
    assert!(stderr.contains("1 process works on this database"), "{stderr}");
    alive.end(pinsched::clock::now()).await.unwrap();
    json_on(&folder, &url, &["db", "restore", &file, "--force"]).await;
    assert_eq!(json_on(&folder, &url, &["runs"]).await, runs, "as it was at the backup");
}

#[tokio::test]
async fn a_backup_that_cannot_be_written_is_an_error_and_leaves_nothing() {
    let folder = TempDir::new().unwrap();
    let house = House::open().await;
    let url = house.url.expose_secret().to_owned();
    let file = folder.path().join("nowhere/pinsched.dump").to_string_lossy().into_owned();
    let (code, _, stderr) = on(&folder, &url, &["db", "backup", &file]).await;
    assert_eq!(code, Some(2));
    assert!(stderr.contains("could not write") && stderr.contains("No such file or directory"), "{stderr}");
    let empty = services::database().await;
    let (code, _, stderr) = on(&folder, empty.expose_secret(), &["db", "backup", "empty.dump"]).await;
    assert_eq!(code, Some(2));
    assert!(stderr.contains("there is nothing to back up"), "{stderr}");
    assert!(!folder.path().join("empty.dump").exists());
    std::fs::create_dir(folder.path().join("dags")).unwrap();
    let (code, _, stderr) = on(&folder, &url, &["db", "backup", "dags"]).await;
    assert_eq!(code, Some(2));
    assert!(stderr.contains("could not write dags: that is a folder"), "{stderr}");
    assert!(!folder.path().join("dags.part").exists());
}

#[tokio::test]
async fn clean_tells_first_and_deletes_then() {
    let folder = TempDir::new().unwrap();
    let mut house = House::open().await;
    house.play(TEXT).await;
    let url = house.url.expose_secret().to_owned();
    house
        .execute("UPDATE run SET state = 'success', tasks_unfinished = 0, finished_at = now() - interval '40 days'")
        .await;
    let (code, stdout, _) = on(&folder, &url, &["db", "clean", "--older-than", "30d", "--dry-run"]).await;
    assert_eq!((code, stdout.as_str()), (Some(0), "no run is past keeping\n"), "a DAG's last run stays");
    // The same DAG's next run makes it one of two.
    let dag = crate::dags::dag(TEXT);
    let (run_id, logical_date) = ("manual__later".parse().unwrap(), pinsched::clock::now());
    let new = pinsched::store::NewRun { run_id, logical_date, ..crate::dags::new_run(&dag, TEXT) };
    house.store.create_run(&new, pinsched::clock::now()).await.unwrap();
    house
        .execute("UPDATE run SET state = 'success', tasks_unfinished = 0, finished_at = now() WHERE state = 'running'")
        .await;
    let would = json_on(&folder, &url, &["db", "clean", "--older-than", "30d", "--dry-run"]).await;
    assert_eq!(would["past_keeping"], json!([{"dag_id": "orders", "runs": 1}]));
    assert_eq!(would["runs_deleted"], 0);
    let none = json_on(&folder, &url, &["db", "clean"]).await;
    assert_eq!(none["runs_deleted"], 0, "by the settings 90 days are kept");
    // Nobody sits at stdin: what would go is shown, and nothing goes.
    let old = ["db", "clean", "--older-than", "30d", "--dag", "orders"];
    let (code, stdout, stderr) = on(&folder, &url, &old).await;
    assert_eq!((code, stdout.contains("orders")), (Some(1), true), "{stdout}\n{stderr}");
    assert!(stderr.contains("nothing was deleted: --yes"), "{stderr}");
    assert_eq!(house.store.list_runs(None, 10).await.unwrap().len(), 2);
    let (code, _, stderr) = on(&folder, &url, &[&old[..], &["--yes", "--dry-run"]].concat()).await;
    assert_eq!(code, Some(2), "{stderr}");
    let cleaned = json_on(&folder, &url, &[&old[..], &["--yes"]].concat()).await;
    assert_eq!(cleaned["runs_deleted"], 1);
    let left = house.store.list_runs(None, 10).await.unwrap();
    assert_eq!(left.len(), 1);
    assert_eq!(left[0].state, RunState::Success);
    let (code, _, stderr) = on(&folder, &url, &["db", "clean", "--dag", "order"]).await;
    assert_eq!(code, Some(2));
    assert!(stderr.contains("did you mean `orders`?"), "{stderr}");
}

#[tokio::test]
async fn what_was_staged_for_runs_that_are_gone_is_cleaned_and_nothing_else() {
    let product = Product::embedded().await;
    let file = product.write("once.yaml", "once: {tasks: {one: {operator: empty}}}");
    assert_eq!(product.answer(&["run", &file]).await.status.code(), Some(0));
    let runs = product.json(&["runs"]).await;
    let known = runs["runs"][0]["run_uuid"].as_str().unwrap().to_owned();
    let (s3, bucket) = (product.s3().await, "pinsched-staging");
    s3.ensure_bucket(bucket).await.unwrap();
    let gone = format!("staging/once/{}/draw/fence=1/part-00000.ndjson.zst", Uuid::from_u128(7));
    let stays = [format!("staging/once/{known}/draw/fence=1/manifest.json"), "results/once/report.json".to_owned()];
    for key in stays.iter().chain([&gone]) {
        s3.put(bucket, key, vec![7; 10].into(), PutOptions::default()).await.unwrap();
    }
    let told = product.json(&["clean", "--dry-run"]).await;
    let outputs = json!({"runs": 0, "objects": 0, "bytes": 0});
    let left = json!({"bucket": bucket, "runs": 1, "objects": 1, "bytes": 10, "outputs": outputs, "deleted": false});
    assert_eq!(told, left);
    assert!(s3.head(bucket, &gone).await.unwrap().is_some());
    assert_eq!(product.json(&["clean"]).await["deleted"], true);
    assert!(s3.head(bucket, &gone).await.unwrap().is_none());
    for key in &stays {
        assert!(s3.head(bucket, key).await.unwrap().is_some(), "{key}");
    }
}

#[tokio::test]
async fn large_outputs_of_runs_that_are_gone_are_told_of_and_cleaned() {
    let product = Product::embedded().await;
    let bash = "operator: bash, bash_command: \"head -c 300000 /dev/zero | tr '\\\\0' x\"";
    let file = product.write("large.yaml", &format!("large: {{tasks: {{one: {{{bash}}}, two: {{{bash}}}}}}}\n"));
    for _ in 0..2 {
        assert_eq!(product.answer(&["run", &file, "--new"]).await.status.code(), Some(0));
    }
    let nothing = "bucket pinsched-staging holds no drawn rows of runs that are gone\n";
    let told = product.answer(&["clean", "--dry-run"]).await;
    assert_eq!(told.stdout, format!("{nothing}there are no large outputs of runs that are gone\n"), "{}", told.stderr);
    assert_eq!(product.json(&["db", "clean", "--older-than", "0s", "--yes"]).await["runs_deleted"], 1);
    let words = "2 large outputs of 1 run that is gone (600,066 bytes)\n";
    for _ in 0..2 {
        let told = product.answer(&["clean", "--dry-run"]).await;
        assert_eq!((told.status.code(), told.stdout), (Some(0), format!("{nothing}left: {words}")));
    }
    let cleaned = product.answer(&["clean"]).await;
    assert_eq!((cleaned.status.code(), cleaned.stdout), (Some(0), format!("{nothing}deleted {words}")));
    let none = product.json(&["clean", "--dry-run"]).await;
    assert_eq!(none["outputs"], json!({"runs": 0, "objects": 0, "bytes": 0}));
    // The other run's are there.
    let shown = product.json(&["show", "latest", "--task", "two"]).await;
    assert_eq!(shown["tasks"][0]["output"]["return_value"].as_str().map(str::len), Some(300_000));
}

#[tokio::test]
async fn large_outputs_that_cannot_be_looked_for_are_not_said_to_be_none() {
    let product = Product::embedded().await;
    let file = product.write("once.yaml", "once: {tasks: {one: {operator: empty}}}");
    assert_eq!(product.answer(&["run", &file]).await.status.code(), Some(0));
    product.s3().await.ensure_bucket("pinsched-staging").await.unwrap();
    let mut database = sqlx::PgConnection::connect(&product.database_url()).await.unwrap();
    database.execute("INSERT INTO spill_place (place) VALUES ('file:///a/')").await.unwrap();
    let nothing = "bucket pinsched-staging holds no drawn rows of runs that are gone\n";
    for (arguments, what) in [(&["clean", "--dry-run"][..], "looked for"), (&["clean"], "deleted")] {
        let told = product.answer(arguments).await;
        assert_eq!(told.status.code(), Some(2), "{}", told.stderr);
        let words = format!("{nothing}large outputs of runs that are gone could not all be {what}\n");
        assert_eq!(told.stdout, words, "{}", told.stderr);
        assert!(told.stderr.contains("the output's place `file:///a/` is no s3:// URL"), "{}", told.stderr);
        let told = product.answer(&[arguments, &["--output", "json"]].concat()).await;
        let told: Value = serde_json::from_str(&told.stdout).unwrap();
        assert_eq!(told["outputs"], Value::Null, "{told}");
    }
}

#[tokio::test]
async fn a_served_process_tells_of_its_health_and_its_port_is_its_alone() {
    let product = Product::embedded().await;
    std::fs::create_dir(product.folder().join("dags")).unwrap();
    let serve = |listen: &str| ["serve", "--log-format", "json", "--listen", listen].map(str::to_owned);
    let arguments = serve("127.0.0.1:0");
    let mut served = product.start(&arguments.each_ref().map(String::as_str));
    let mut lines = BufReader::new(served.stderr.take().unwrap()).lines();
    let reading = async {
        while let Some(line) = lines.next_line().await.unwrap() {
            if let Some((_, rest)) = line.split_once("http://") {
                return rest.split('/').next().unwrap().to_owned();
            }
        }
        panic!("it says where it listens");
    };
    let address = tokio::time::timeout(PATIENCE, reading).await.expect("it says so in time");
    let live = reqwest::get(format!("http://{address}/health/live")).await.unwrap();
    assert_eq!(live.status().as_u16(), 200);
    let arguments = serve(&address);
    let second = product.answer(&arguments.each_ref().map(String::as_str)).await;
    assert_eq!(second.status.code(), Some(2));
    assert!(second.stderr.contains(&format!("could not listen on {address}")), "{}", second.stderr);
    let third = product.answer(&["serve", "--listen", "everywhere"]).await;
    assert_eq!(third.status.code(), Some(2));
    assert!(third.stderr.contains("--listen takes an address and a port"), "{}", third.stderr);
    served.start_kill().unwrap();
    let mut rest = Vec::new();
    while let Some(line) = lines.next_line().await.unwrap() {
        rest.push(line);
    }
    let noise = |line: &&String| line.contains("Uninited") || line.contains("already exists, skipping");
    assert!(!rest.iter().any(|line| noise(&line)), "{rest:#?}");
}

#[tokio::test]
async fn old_homes_and_old_records_are_told_of_and_deleted_on_demand_alone() {
    let product = Product::embedded().await;
    let refused = product.answer(&["clean", "--old-records", "30d"]).await;
    assert_eq!(refused.status.code(), Some(2));
    assert!(refused.stderr.contains("`pinsched down` stops it"), "{}", refused.stderr);
    let both = product.answer(&["clean", "--old-records", "30d", "--old-homes"]).await;
    assert_eq!(both.status.code(), Some(2));
    assert_eq!(product.answer(&["down"]).await.status.code(), Some(0));
    let told = product.json(&["clean", "--old-records", "30d"]).await;
    assert_eq!(told, json!({"partitions": 0, "segments": 0, "bytes": 0, "deleted": false}));
    let homes = product.json(&["clean", "--old-homes", "--dry-run"]).await;
    assert_eq!(homes["deleted"], false);
    // This home is there, wherever its database lies.
    let here = product.home().to_string_lossy().into_owned();
    assert!(homes["homes"].as_array().unwrap().iter().all(|home| home["home"] != here), "{homes}");
}
