//! The DAG files that the pages on waiting show, run whole by a service.

use std::fs;
use std::path::Path;

use pinsched::domain::run_state::RunState;

use super::Stand;

/// The file as it stands in `dags/`, which the page shows word for word.
fn shown(name: &str, page: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = fs::read_to_string(root.join("dags").join(name)).unwrap();
    let page = fs::read_to_string(root.join("docs").join(page)).unwrap();
    let dags = text.split_once("\n\n").unwrap().1;
    assert!(page.contains(dags), "the page shows {name}");
    text
}

#[tokio::test]
async fn the_page_on_sensors_shows_what_runs() {
    let (stand, _) = Stand::with(1, &shown("sensors.yaml", "sensors.md")).await;
    let run = stand.trigger("arrivals").await;
    assert_eq!(stand.ended(&run).await, RunState::Success);
    let picture = stand.picture(&run).await.replace(&run.uuid.to_string(), "[run]");
    insta::assert_snapshot!(picture, @r#"
      deliver     success          attempt 1
      early       skipped          attempt 1  "it was waited for 100ms in vain: `/tmp/pinsched-arrivals/never-[run].csv` is not there"
      arrived     success          attempt 1
      after_hour  success          attempt 1
      load        success          attempt 1
    "#);
    stand.stop().await;
}

#[tokio::test]
async fn the_page_on_triggers_shows_what_runs() {
    let (stand, _) = Stand::with(1, &shown("trigger.yaml", "trigger-dag-run.md")).await;
    let run = stand.trigger("regions").await;
    assert_eq!(stand.ended(&run).await, RunState::Success);
    let regions = stand.runs("region").await;
    let params: Vec<_> = regions.iter().map(|run| run.params["name"].as_str().unwrap().to_owned()).collect();
    assert_eq!(params.len(), 2, "{params:?}");
    assert!(regions.iter().all(|run| run.state == RunState::Success));
    stand.stop().await;
}
