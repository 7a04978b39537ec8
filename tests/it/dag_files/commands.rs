//! `validate`, `graph` and `schema` as a person runs them: exit, stdout and stderr of the real binary.

use std::process::Command;

use serde_json::Value;

/// Runs pinsched in the checkout's folder; what it said, as a snapshot shows it.
fn pinsched(arguments: &[&str]) -> String {
    let (code, stdout, stderr) = outcome(arguments);
    format!("exit {code}\n--- stdout\n{stdout}--- stderr\n{stderr}")
}

fn outcome(arguments: &[&str]) -> (i32, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_pinsched"))
        .args(arguments)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .env_remove("RUST_LOG")
        .output()
        .unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

#[test]
fn validate_says_all_that_is_wrong_and_exits_1() {
    insta::assert_snapshot!(pinsched(&["validate", "tests/fixtures/bad/many_at_once.yaml"]));
}

#[test]
fn validate_answers_programs_in_json() {
    let (code, stdout, stderr) =
        outcome(&["validate", "--output", "json", "tests/fixtures/bad/dependency_dangling.yaml"]);
    assert_eq!((code, stderr.as_str()), (1, ""));
    let findings: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(
        findings[0],
        serde_json::json!({
            "code": "DAG004",
            "severity": "error",
            "file": "tests/fixtures/bad/dependency_dangling.yaml",
            "line": 9,
            "column": 22,
            "message": "task `publish` waits for `tranform`, which does not exist",
            "help": "did you mean `transform`?"
        })
    );
}

#[test]
fn validate_finds_the_files_of_folders_and_the_dags_that_come_with_pinsched_are_right() {
    insta::assert_snapshot!(pinsched(&["validate"]));
}

#[test]
fn validate_follows_links_and_tells_a_file_that_is_there_twice() {
    let scratch = tempfile::tempdir().unwrap();
    let at = |name: &str| scratch.path().join(name);
    std::fs::create_dir_all(at("dags/team")).unwrap();
    std::fs::write(at("dags/team/orders.yaml"), "orders: {tasks: {one: {operator: empty}}}\n").unwrap();
    std::os::unix::fs::symlink("team", at("dags/again")).unwrap();
    std::os::unix::fs::symlink("..", at("dags/team/up")).unwrap();
    let dags = at("dags").display().to_string();
    let (code, stdout, _) = outcome(&["validate", &dags]);
    let said = stdout.replace(&dags, "DAGS");
    insta::assert_snapshot!(format!("exit {code}\n{said}"));
    // What is named twice is no problem of the folder's.
    let (file, link) = (format!("{dags}/team/orders.yaml"), format!("{dags}/again"));
    assert_eq!(outcome(&["validate", &file, &link]).0, 0);
}

#[test]
fn validate_exits_2_when_a_file_cannot_be_read() {
    insta::assert_snapshot!(pinsched(&["validate", "dags/hello.yaml", "no/such.yaml"]));
}

#[test]
fn validate_does_not_pass_where_there_is_nothing_to_check() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_str().unwrap();
    let said = pinsched(&["validate", path]).replace(path, "[folder]");
    insta::assert_snapshot!("validate_empty_folder", said);
    insta::assert_snapshot!("validate_default_only", pinsched(&["validate", "tests/fixtures/bad/default_only.yaml"]));
}

#[test]
fn a_dag_id_in_two_files_is_refused_in_the_later_one() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["a.yaml", "b.yml"] {
        std::fs::copy("dags/hello.yaml", folder.path().join(name)).unwrap();
    }
    let folder = folder.path().to_str().unwrap();
    let said = pinsched(&["validate", folder]).replace(folder, "[folder]");
    insta::assert_snapshot!(said);
}

#[test]
fn a_file_that_a_task_names_must_be_there_from_the_dag_files_folder_on() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("sql")).unwrap();
    std::fs::write(folder.path().join("sql/totals.sql"), "SELECT 1").unwrap();
    let file = folder.path().join("reports.yaml");
    let dag = "reports:
  default_args: {sql: sql/missing.sql}
  params: {name: totals}
  tasks:
    there: {operator: transform, sql: [sql/totals.sql, sql/*.sql, \"sql/{{ params.name }}.sql\"]}
    queries: {operator: transform, sql: {totals: SELECT 1}}
    pattern: {operator: transform, sql: sql/t?.sql}
    mistyped: {operator: transform, sql: [sql/totals.sql, sql/total.sql]}
    elsewhere: {operator: transform, sql: sqls/deep/*.sql}
    wrong: {operator: transform, sql: s*l/totals.sql}
    default: {operator: transform}
    default_too: {operator: transform}
    command: {operator: bash, bash_command: ls sql/missing.sql}
fine:
  tasks: {totals: {operator: transform, sql: sql/totals.sql}}
";
    std::fs::write(&file, dag).unwrap();
    let path = folder.path().to_str().unwrap();
    let said = pinsched(&["validate", file.to_str().unwrap()]).replace(path, "[folder]");
    insta::assert_snapshot!(said);
    let here =
        Command::new(env!("CARGO_BIN_EXE_pinsched")).args(["validate", "reports.yaml"]).current_dir(path).output();
    let stdout = String::from_utf8(here.unwrap().stdout).unwrap();
    for advice in ["did you mean `sql/totals.sql`?", "start at the DAG file's folder, `.`", "no folder `./sqls`"] {
        assert!(stdout.contains(advice), "{stdout}");
    }
}

#[test]
fn a_file_that_an_earlier_task_may_write_need_not_be_there_yet() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("reports.yaml");
    let dag = "reports:
  tasks:
    write: {operator: bash, bash_command: ls}
    report: {operator: transform, dependencies: [write], sql: sql/made.sql}
";
    std::fs::write(&file, dag).unwrap();
    let both = "  default_args: {sql: made.sql}
  tasks:
    first: {operator: transform}
    second: {operator: transform, dependencies: [first]}
";
    std::fs::write(folder.path().join("both.yaml"), format!("both:\n{both}")).unwrap();
    let path = folder.path().to_str().unwrap();
    for (name, checked) in [("validate_written_later", file.to_str().unwrap()), ("validate_some_written_later", path)] {
        insta::assert_snapshot!(name, pinsched(&["validate", checked]).replace(path, "[folder]"));
    }
}

#[test]
fn graph_draws_for_the_terminal() {
    insta::assert_snapshot!("task_groups.text", pinsched(&["graph", "dags/task_groups.yaml"]));
    insta::assert_snapshot!("mapped.text", pinsched(&["graph", "dags/mapped.yaml"]));
    insta::assert_snapshot!(pinsched(&["graph", "dags/fan_out.yaml"]));
    insta::assert_snapshot!(pinsched(&["graph", "dags/from_airflow.yaml"]));
}

#[test]
fn graph_draws_mermaid_dot_and_svg() {
    for format in ["mermaid", "dot", "svg"] {
        let said = pinsched(&["graph", "dags/fan_out.yaml", "--format", format]);
        insta::assert_snapshot!(format!("fan_out.{format}"), said);
        let said = pinsched(&["graph", "dags/task_groups.yaml", "--format", format]);
        insta::assert_snapshot!(format!("task_groups.{format}"), said);
        let (_, drawn, _) = outcome(&["graph", "dags/mapped.yaml", "--format", format]);
        assert!(drawn.contains("python · mapped") || drawn.contains("bash · mapped"), "{drawn}");
    }
}

#[test]
fn graph_answers_programs_with_nodes_and_edges() {
    let (code, stdout, stderr) = outcome(&["graph", "dags/from_airflow.yaml", "--output", "json"]);
    assert_eq!((code, stderr.lines().filter(|line| line.starts_with("error")).count()), (0, 0), "{stderr}");
    let answer: Value = serde_json::from_str(&stdout).unwrap();
    assert!(answer["dags"].as_array().unwrap().len() > 1, "all DAGs of the file");
    let (_, stdout, _) = outcome(&["graph", "dags/fan_out.yaml", "--dag", "fan_out", "-o", "json"]);
    insta::assert_snapshot!("fan_out.json", stdout);
    let said = pinsched(&["graph", "dags/fan_out.yaml", "-o", "json", "--format", "dot"]);
    insta::assert_snapshot!("graph_of_two_forms", said);
}

#[test]
fn graph_says_what_it_cannot_draw() {
    insta::assert_snapshot!(pinsched(&["graph", "dags/from_airflow.yaml", "--format", "svg"]));
    insta::assert_snapshot!(pinsched(&["graph", "dags/from_airflow.yaml", "--dag", "nothing"]));
    insta::assert_snapshot!(pinsched(&["graph", "tests/fixtures/bad/cycle.yaml"]));
    insta::assert_snapshot!(pinsched(&["graph", "no/such.yaml"]));
}

#[test]
fn schema_describes_every_operator_and_points_nowhere_that_is_not() {
    let (code, stdout, stderr) = outcome(&["schema"]);
    assert_eq!((code, stderr.as_str()), (0, ""));
    let schema: Value = serde_json::from_str(&stdout).unwrap();
    for kind in pinsched::operators::catalog() {
        let task = &schema["$defs"][format!("task_{}", kind.name)];
        let names = task["properties"]["operator"]["enum"].as_array().unwrap();
        assert!(kind.class_paths.iter().all(|path| names.iter().any(|name| name == path)), "{}", kind.name);
    }
    fn references<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
        match value {
            Value::Object(fields) => {
                found.extend(fields.get("$ref").and_then(Value::as_str));
                fields.values().for_each(|field| references(field, found));
            }
            Value::Array(items) => items.iter().for_each(|item| references(item, found)),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }
    let mut found = Vec::new();
    references(&schema, &mut found);
    for reference in found {
        assert!(schema.pointer(reference.trim_start_matches('#')).is_some(), "{reference} leads nowhere");
    }
}
