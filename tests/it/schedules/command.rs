//! `schedule` as a person runs it: exit, stdout and stderr of the real binary; and the page about schedules.

use std::process::Command;

use serde_json::{Value, json};

/// Runs pinsched in the checkout's folder; what it said, as a snapshot shows it.
fn pinsched(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_pinsched"))
        .args(arguments)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .env_remove("RUST_LOG")
        .output()
        .unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    let (stdout, stderr) = (text(output.stdout), text(output.stderr));
    format!("exit {}\n--- stdout\n{stdout}--- stderr\n{stderr}", output.status.code().unwrap())
}

/// The document that the command answers.
fn answer(arguments: &[&str]) -> Value {
    let said = pinsched(&[arguments, &["--output", "json"]].concat());
    let stdout = said.split_once("--- stdout\n").unwrap().1.split_once("--- stderr").unwrap().0;
    serde_json::from_str(stdout).unwrap_or_else(|error| panic!("{error}: {said}"))
}

fn dag(keys: &str) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::with_suffix(".yaml").unwrap();
    let keys = keys.replace("; ", "\n  ");
    std::fs::write(file.path(), format!("orders:\n  {keys}\n  tasks: {{a: {{operator: empty}}}}\n")).unwrap();
    file
}

#[test]
fn schedule_shows_ticks_where_the_clocks_change() {
    let range = ["--from", "2026-10-24", "--to", "2026-10-27"];
    insta::assert_snapshot!(pinsched(&[&["schedule", "dags/daily.yaml"][..], &range].concat()));
}

#[test]
fn schedule_answers_programs_in_json() {
    let file = dag("schedule: \"@daily\"; timezone: Europe/Berlin; data_interval: cron; start_date: 2026-03-28");
    let path = file.path().to_str().unwrap();
    let answer = answer(&["schedule", path, "--from", "2026-01-01", "--to", "2026-03-31"]);
    assert_eq!(
        answer,
        json!({
            "dag_id": "orders",
            "timezone": "Europe/Berlin",
            "ticks": [
                {
                    "run_after": "2026-03-28T23:00:00+00:00",
                    "logical_date": "2026-03-27T23:00:00+00:00",
                    "data_interval_start": "2026-03-27T23:00:00+00:00",
                    "data_interval_end": "2026-03-28T23:00:00+00:00",
                },
                {
                    "run_after": "2026-03-29T22:00:00+00:00",
                    "logical_date": "2026-03-28T23:00:00+00:00",
                    "data_interval_start": "2026-03-28T23:00:00+00:00",
                    "data_interval_end": "2026-03-29T22:00:00+00:00",
                },
            ],
        })
    );
}

#[test]
fn from_is_included_and_to_is_not() {
    let file = dag("schedule: \"0 12 * * *\"");
    let path = file.path().to_str().unwrap();
    let answer = answer(&["schedule", path, "--from", "2026-01-01T12:00:00Z", "--to", "2026-01-03T13:00:00+01:00"]);
    let at: Vec<&str> =
        answer["ticks"].as_array().unwrap().iter().filter_map(|tick| tick["run_after"].as_str()).collect();
    assert_eq!(at, ["2026-01-01T12:00:00+00:00", "2026-01-02T12:00:00+00:00"]);
}

#[test]
fn without_a_range_the_next_ten_are_shown_and_a_range_ends_somewhere() {
    let file = dag("schedule: \"* * * * * *\"");
    let path = file.path().to_str().unwrap();
    let count =
        |arguments: &[&str]| answer(&[&["schedule", path][..], arguments].concat())["ticks"].as_array().unwrap().len();
    assert_eq!(count(&[]), 10);
    assert_eq!(count(&["--limit", "3"]), 3);
    assert_eq!(count(&["--from", "2026-01-01", "--to", "2999-01-01", "--limit", "20"]), 20);
    let said = pinsched(&["schedule", path, "--from", "2026-01-01", "--to", "2999-01-01", "-o", "json"]);
    assert!(said.ends_with("these are the first 1000; there are more before --to, which --limit N shows\n"), "{said}");
    assert_eq!(count(&["--from", "2026-01-01", "--to", "2026-01-01T00:16:40"]), 1000);
}

#[test]
fn schedule_tells_of_dags_that_no_clock_starts() {
    let said = |keys: &str| {
        let file = dag(keys);
        let path = file.path().to_str().unwrap();
        let name = file.path().file_name().unwrap().to_str().unwrap();
        pinsched(&["schedule", path, "--from", "2026-06-01", "--to", "2026-07-01"])
            .replace(path, "[file]")
            .replace(name, "[file]")
    };
    let dags = [
        "schedule: none",
        "schedule: \"@continuous\"",
        "schedule: \"@once\"",
        "schedule: \"@daily\"; start_date: 2027-01-01; end_date: 2027-02-01",
        "schedule: 2026-12-24T18:00:00",
    ];
    let all: Vec<String> = dags.into_iter().map(|keys| format!("{keys}\n{}", said(keys))).collect();
    insta::assert_snapshot!(all.join("\n"));
}

#[test]
fn schedule_says_what_it_cannot_show() {
    let daily = |arguments: &[&str]| pinsched(&[&["schedule", "dags/daily.yaml"][..], arguments].concat());
    let said = [
        daily(&["--from", "yesterday"]),
        daily(&["--from", "2026-03-29T01:30"]),
        daily(&["--from", "2026-03-29", "--to", "2026-03-29"]),
        daily(&["--dag", "weekly"]),
        pinsched(&["schedule", "tests/fixtures/bad/schedule_word.yaml"]),
    ];
    insta::assert_snapshot!(said.join("\n"));
}

#[test]
fn the_page_about_schedules_shows_what_is_printed() {
    let read = |path: &str| std::fs::read_to_string(format!("{}/{path}", env!("CARGO_MANIFEST_DIR"))).unwrap();
    let page = read("docs/schedules.md");
    assert!(page.contains(&read("docs/examples/schedules.yaml")), "the page shows its example");
    let mut shown = 0;
    for block in page.split("```console\n$ pinsched ").skip(1) {
        let (command, rest) = block.split_once('\n').unwrap();
        let printed = rest.split_once("```").unwrap().0;
        let said = pinsched(&command.split(' ').collect::<Vec<_>>());
        assert_eq!(said, format!("exit 0\n--- stdout\n{printed}--- stderr\n"), "{command}");
        shown += 1;
    }
    assert!(shown >= 4, "{shown} commands");
}

/// The table of policies, read off the page and compared with what each of them does.
#[test]
fn the_page_about_schedules_says_what_each_policy_does() {
    let page = std::fs::read_to_string(format!("{}/docs/schedules.md", env!("CARGO_MANIFEST_DIR"))).unwrap();
    let rows: Vec<Vec<&str>> = page
        .lines()
        .filter(|line| line.starts_with("| `{"))
        .map(|line| line.trim_matches('|').split('|').map(str::trim).collect())
        .collect();
    assert_eq!(rows.len(), 6);
    for row in rows {
        let policy = row[0].split('`').nth(1).unwrap();
        let file = dag(&format!("schedule: \"30 1 * * *\"; timezone: Europe/London; dst: {policy}"));
        let column = if policy.contains("gap") { 2 } else { 3 };
        let (from, to) = if column == 2 { ("2026-03-29", "2026-03-30") } else { ("2026-10-25", "2026-10-26") };
        let answer = answer(&["schedule", file.path().to_str().unwrap(), "--from", from, "--to", to]);
        let local = |tick: &Value| {
            let at: pinsched::domain::Timestamp = tick["run_after"].as_str().unwrap().parse().unwrap();
            at.with_timezone(&chrono_tz::Europe::London).format("%H:%M %:z").to_string()
        };
        let ticks: Vec<String> = answer["ticks"].as_array().unwrap().iter().map(local).collect();
        assert_eq!(ticks.join(" and "), row[column], "{policy}");
    }
}
