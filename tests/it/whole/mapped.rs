//! Mapped tasks and large outputs as their users have them: commands that name an instance, a process that is killed in
//! the middle of one, and an output that the embedded object store keeps.

use serde_json::Value;

use crate::whole::interrupted::lines;
use crate::whole::product::Product;

#[tokio::test]
async fn an_instance_is_shown_logged_and_cleared_by_its_index() {
    let product = Product::embedded().await;
    let file = product.write(
        "each.yaml",
        "each: {tasks: {a: {operator: bash, expand: {bash_command: [echo one, echo two; exit 3]}, \
         map_index_template: \"{{ bash_command }}\"}}}\n",
    );
    let run = product.answer(&["run", &file]).await;
    assert_eq!(run.status.code(), Some(1), "{}", run.stderr);
    for words in ["a [2]", "1 success, 1 failed", "a[1] echo two; exit 3"] {
        assert!(run.stdout.contains(words), "{words}: {}", run.stdout);
    }
    assert!(!run.stdout.contains("a[0]"), "what went well is counted only: {}", run.stdout);
    let shown = product.json(&["show", "latest"]).await;
    let time = |task: usize, key: &str| shown["tasks"][task][key].as_str().unwrap().to_owned();
    assert_eq!(time(0, "started_at"), time(1, "started_at").min(time(2, "started_at")), "{shown}");
    assert_eq!(time(0, "finished_at"), time(1, "finished_at").max(time(2, "finished_at")), "{shown}");
    let all = product.answer(&["show", "latest", "--task", "a"]).await;
    assert!(all.stdout.contains("a[0] echo one"), "{}", all.stdout);
    assert_eq!(product.answer(&["logs", "latest", "a[0]"]).await.stdout, "one\n");
    let nobody = product.answer(&["logs", "latest", "a[7]"]).await;
    assert!(nobody.stderr.contains("task `a` has 2 instances, `a[0]` to `a[1]`"), "{}", nobody.stderr);
    let changes = product.json(&["clear", "latest", "a", "--only-failed", "--dry-run"]).await;
    let changed: Vec<(i64, &str)> = changes["changes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|line| (line["map_index"].as_i64().unwrap(), line["to"].as_str().unwrap()))
        .collect();
    assert_eq!(changed, [(-1, "mapped"), (1, "queued")]);
}

#[tokio::test]
async fn a_process_that_is_killed_in_the_middle_of_a_mapped_task_loses_no_instance() {
    let product = Product::embedded().await;
    let done = product.folder().join("done");
    let file = product.write(
        "each.yaml",
        &format!(
            "each:
  tasks:
    a:
      operator: bash
      bash_command: sleep 0.1; echo {{{{ map_item.skip_on_exit_code }}}} >> {done}
      expand: {{skip_on_exit_code: \"{{{{ range(100, 140) | list }}}}\"}}
    after: {{operator: bash, dependencies: [a], bash_command: \"echo {{{{ outputs.a | length }}}}\"}}
",
            done = done.display()
        ),
    );
    let mut child = product.start(&["run", &file]);
    lines(&done, 5).await;
    child.kill().await.unwrap();
    let resumed = product.json(&["resume", "latest"]).await;
    assert_eq!(resumed["state"], "success");
    let tasks = resumed["tasks"].as_array().unwrap();
    let instances: Vec<&Value> = tasks.iter().filter(|task| task["map_index"].as_i64() >= Some(0)).collect();
    assert_eq!(instances.len(), 40);
    assert!(instances.iter().all(|task| task["state"] == "success"));
    let indexes: Vec<i64> = instances.iter().map(|task| task["map_index"].as_i64().unwrap()).collect();
    assert_eq!(indexes, (0..40).collect::<Vec<_>>());
    assert_eq!(tasks.last().unwrap()["output"]["return_value"], "40");
}

#[tokio::test]
async fn a_large_output_is_kept_by_the_embedded_object_store_and_shown_whole() {
    let product = Product::embedded().await;
    let file = product.write(
        "large.yaml",
        "large:\n  tasks:\n    a: {operator: bash, bash_command: \"head -c 1000000 /dev/zero | tr '\\\\0' x\"}\n    b: {operator: \
         bash, dependencies: [a], bash_command: \"echo {{ outputs.a.return_value | length }}\"}\n",
    );
    let report = product.json(&["run", &file]).await;
    assert!(report["tasks"][0]["output"].is_null() && report["tasks"][0]["spilled"]["bytes"] == 1_000_033);
    assert_eq!(report["tasks"][1]["output"]["return_value"], "1000000");
    let shown = product.json(&["show", "latest", "--task", "a"]).await;
    assert_eq!(shown["tasks"][0]["output"]["return_value"].as_str().map(str::len), Some(1_000_000));
}
