//! The DAGs of `dags/` that the pages of `docs/` show, run whole with the real operators.

use std::fs;
use std::path::Path;

use pinsched::clock;
use pinsched::domain::check::{check, decode};
use pinsched::domain::params::{Undeclared, resolve};
use pinsched::engine::Engine;
use pinsched::operators;
use pinsched::store::NewRun;
use serde_json::{Value, json};

use super::drive_with;
use crate::dags::{House, Play, new_run};
use crate::script::Stage;

/// Runs `dags/<name>.yaml` with these params, and gives its tasks' states, and last lines, as text.
async fn example(name: &str, params: Value) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("dags").join(name).with_extension("yaml");
    run_file(&path, params).await
}

async fn run_file(path: &Path, params: Value) -> String {
    let text = fs::read_to_string(path).unwrap();
    let file = decode("example.yaml", text.clone().into_bytes()).unwrap();
    let mut checked = check(&file, &operators::catalog());
    assert!(checked.diagnostics.is_empty(), "{:?}", checked.diagnostics);
    let dag = checked.dags.pop().expect("a DAG in the file");
    let house = House::open().await;
    let given = params.as_object().cloned().unwrap_or_default();
    let all = resolve(&dag.settings, given, Undeclared::Refused).expect("the params keep to their schemas");
    let new = NewRun { file: path.to_str().unwrap(), params: all, ..new_run(&dag, &text) };
    let run = house.store.create_run(&new, clock::now()).await.expect("the run is new");
    let play = Play { stage: Stage::of(run.uuid), dag, run };
    let engine = Engine { registrations: operators::registry(), ..house.engine().await };
    let state = drive_with(&engine, &house, &play).await;
    let mut lines = vec![format!("{params}: {}", state.as_str())];
    for task in house.store.task_runs(play.run.key).await.unwrap() {
        let name = task.name();
        let said = task.output.and_then(|output| output.get("return_value").cloned()).unwrap_or_default();
        let said = if said.is_null() { String::new() } else { format!("  {said}") };
        let error = task.error.map(|error| format!("  ({error})")).unwrap_or_default();
        lines.push(format!("  {} {}{said}{error}", name, task.state));
    }
    lines.join("\n")
}

#[tokio::test]
async fn branching_goes_one_way() {
    let mut ways = Vec::new();
    for rows in [10, 5000, 3, 0] {
        ways.push(example("branching", json!({"rows": rows})).await);
    }
    insta::assert_snapshot!(ways.join("\n"));
}

#[tokio::test]
async fn the_nightly_report_is_run() {
    insta::assert_snapshot!(example("nightly", json!({})).await, @r#"
    {}: success
      collect success  "rows of 2026-02-01"
      report success  "report of 2026-02-01"
    "#);
}

#[tokio::test]
async fn groups_wait_for_each_other_as_one() {
    insta::assert_snapshot!(example("task_groups", json!({})).await);
}

#[tokio::test]
async fn what_was_set_up_is_cleaned_up_and_the_run_fails_by_its_work_alone() {
    let folder = regex::Regex::new("/tmp/tmp[.][A-Za-z0-9]+").unwrap();
    let worked = example("cleanup", json!({})).await;
    let failed = example("cleanup", json!({"fail": true})).await;
    for made in folder.find_iter(&format!("{worked}{failed}")) {
        assert!(!Path::new(made.as_str()).exists(), "{} is still there", made.as_str());
    }
    insta::assert_snapshot!(folder.replace_all(&format!("{worked}\n{failed}"), "[folder]"));
}

#[tokio::test]
async fn params_reach_the_task() {
    insta::assert_snapshot!(example("params", json!({"rows": 500, "days": ["2026-03-01", "2026-03-02"]})).await);
}

#[tokio::test]
async fn python_runs_functions_and_scripts() {
    let drawn = example("python", json!({})).await;
    let nothing = example("python", json!({"rows": 0})).await;
    insta::assert_snapshot!(format!("{drawn}\n{nothing}"));
}

#[tokio::test]
async fn a_mapped_task_has_an_instance_for_each_word() {
    let of = async |words: Value| example("mapped", json!({"words": words})).await;
    insta::assert_snapshot!([of(json!(["apple", "plum"])).await, of(json!([])).await].join("\n"));
}
