//! Ctrl-C: once drains, twice stops what runs without counting it; the run goes on from there when it is resumed.

use std::path::Path;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt, BufReader};

use crate::whole::account::output;
use crate::whole::product::Product;

/// The first task says that it runs, then waits for a file; the second comes after.
pub fn waiting(flag: &Path) -> String {
    let wait = format!(
        "echo begun >> {0}.log; echo waits; while [ ! -e {0} ]; do sleep 0.05; done; echo through",
        flag.display()
    );
    format!(
        "waiting:\n  tasks:\n    wait: {{operator: bash, bash_command: \"{wait}\"}}\n    after: {{operator: bash, \
         dependencies: [wait], bash_command: \"echo {{{{ outputs.wait.return_value }}}}\"}}\n"
    )
}

/// Returns when the file is there, and has so many lines.
pub async fn lines(path: &Path, count: usize) {
    let look = async {
        while std::fs::read_to_string(path).unwrap_or_default().lines().count() < count {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), look).await.expect("the task begins");
}

async fn interrupt_and_resume(interrupts: usize) -> (serde_json::Value, String) {
    let product = Product::embedded().await;
    let flag = product.folder().join("flag");
    let file = product.write("waiting.yaml", &waiting(&flag));
    let mut child = product.start(&["run", &file, "--output", "json"]);
    let mut stderr = BufReader::new(child.stderr.take().unwrap()).lines();
    lines(&flag.with_extension("log"), 1).await;
    let pid = Pid::from_raw(child.id().unwrap().cast_signed()).unwrap();
    let mut said = String::new();
    for _ in 0..interrupts {
        kill_process(pid, Signal::INT).unwrap();
        loop {
            let line = stderr.next_line().await.unwrap().expect("the command says what Ctrl-C does");
            said.push_str(&line);
            said.push('\n');
            if line.starts_with("draining") || line.starts_with("stopping") {
                break;
            }
        }
    }
    if interrupts == 1 {
        std::fs::write(&flag, "").unwrap(); // what runs may end
    }
    let status = tokio::time::timeout(Duration::from_secs(60), child.wait()).await.unwrap().unwrap();
    assert_eq!(status.code(), Some(1), "{said}");
    while let Some(line) = stderr.next_line().await.unwrap() {
        said.push_str(&line);
        said.push('\n');
    }
    std::fs::write(&flag, "").unwrap();
    let report = product.json(&["run", &file]).await;
    assert_eq!(report["state"], "success");
    assert_eq!(output(&report, "after")["return_value"], "through");
    (report, said)
}

fn attempts(report: &serde_json::Value, task: &str) -> u64 {
    let tasks = report["tasks"].as_array().unwrap();
    tasks.iter().find(|found| found["task_id"] == task).unwrap()["attempts"].as_u64().unwrap()
}

#[tokio::test]
async fn once_drains_what_runs_ends_and_nothing_new_begins() {
    let (report, said) = interrupt_and_resume(1).await;
    assert!(said.contains("draining: nothing new starts") && said.contains("pinsched resume"), "{said}");
    assert_eq!((attempts(&report, "wait"), attempts(&report, "after")), (1, 1));
}

#[tokio::test]
async fn twice_stops_what_runs_and_it_is_tried_again_uncounted() {
    let (report, said) = interrupt_and_resume(2).await;
    assert!(said.contains("stopping: what runs is handed back uncounted"), "{said}");
    assert_eq!((attempts(&report, "wait"), attempts(&report, "after")), (2, 1), "no retries were configured");
}

#[tokio::test]
async fn a_cancelled_run_ends_failed_and_says_so() {
    let product = Product::embedded().await;
    let flag = product.folder().join("flag");
    let file = product.write("waiting.yaml", &waiting(&flag));
    let mut child = product.start(&["run", &file, "--output", "json"]);
    lines(&flag.with_extension("log"), 1).await;
    let cancel = product.answer(&["cancel", "latest"]).await;
    assert_eq!(cancel.status.code(), Some(0), "{}", cancel.stderr);
    let status = tokio::time::timeout(Duration::from_secs(60), child.wait()).await.unwrap().unwrap();
    assert_eq!(status.code(), Some(1));
    let report = product.json(&["show", "latest"]).await;
    assert_eq!(report["state"], "failed");
    assert!(report["cancel_requested_at"].is_string());
    assert_eq!(product.answer(&["cancel", "latest"]).await.status.code(), Some(1), "it is finished");
}
