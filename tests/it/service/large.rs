//! Large DAGs, long ones, and many of them.

use std::fmt::Write as _;
use std::time::Duration;

use chrono::{DurationRound, TimeDelta};
use pinsched::clock;
use pinsched::domain::Timestamp;
use pinsched::domain::run_state::RunState;
use pinsched::domain::task_state::TaskState;
use pinsched::store::{NewRun, Word};
use secrecy::ExposeSecret;
use sqlx::{Executor, Row};

use super::Served;
use crate::dags::new_run;
use crate::processes::{Process, answer, pinsched};

/// A task, so many that wait for it, and one that waits for all of them.
fn fan(tasks: usize) -> String {
    let mut text = "orders:\n  tasks:\n    first: {operator: empty}\n".to_owned();
    for n in 0..tasks - 2 {
        writeln!(text, "    t{n}: {{operator: empty, dependencies: [first]}}").unwrap();
    }
    let all: Vec<String> = (0..tasks - 2).map(|n| format!("t{n}")).collect();
    writeln!(text, "    last: {{operator: empty, dependencies: [{}]}}", all.join(", ")).unwrap();
    text
}

/// So many tasks in a row.
fn chain(tasks: usize) -> String {
    let mut text = "orders:\n  tasks:\n    t0: {operator: empty}\n".to_owned();
    for n in 1..tasks {
        writeln!(text, "    t{n}: {{operator: empty, dependencies: [t{}]}}", n - 1).unwrap();
    }
    text
}

/// Everything that is done to a DAG file and its runs, by the command line and by a service.
async fn whole(text: &str, tasks: usize) {
    let mut served = Served::nothing().await;
    let (database, home) = (served.house.url.expose_secret().to_owned(), served.path("home"));
    std::fs::create_dir(&home).unwrap();
    served.write("orders.yaml", text);
    let file = served.path("orders.yaml").canonicalize().unwrap();
    let file = file.to_str().unwrap();
    let run = |arguments: &[&str]| answer(pinsched(&database, &home).env("PINSCHED_PARALLELISM", "64").args(arguments));
    assert_eq!(run(&["validate", file]), "1 valid DAG in 1 file\n");
    assert!(run(&["graph", file, "--output", "json"]).len() > tasks * 20);
    let report: serde_json::Value = serde_json::from_str(&run(&["run", file, "--output", "json"])).unwrap();
    let id = report["run_id"].as_str().unwrap_or_else(|| panic!("a run has an id: {report}")).to_owned();
    let shown: serde_json::Value = serde_json::from_str(&run(&["show", &id, "--output", "json"])).unwrap();
    assert_eq!(shown["tasks"].as_array().map(Vec::len), Some(tasks));
    assert_eq!(shown["state"], "success");

    let _service = Process::serve(&database, served.folder.path(), &home, 64);
    served.dag("orders", |state| state.version.is_some()).await;
    let checked = pinsched::domain::check::check(
        &pinsched::domain::source::SourceFile::new("orders.yaml", text),
        &pinsched::operators::catalog(),
    );
    let new = NewRun { file, ..new_run(&checked.dags[0], text) };
    let run = served.house.store.create_run(&new, clock::now()).await.unwrap();
    served.house.store.tell(Word::Work).await.unwrap();
    let query = format!("SELECT state FROM run WHERE id = {}", run.key.0);
    let states = until(&mut served, &query, |rows| rows[0] != "running").await;
    assert_eq!(states, [RunState::Success.as_str()]);
    let ended = served.house.store.task_runs(run.key).await.unwrap();
    assert!(ended.len() == tasks && ended.iter().all(|task| task.state == TaskState::Success && task.fence == 1));
}

/// Waits until a query's only column, as text, is as it should be.
async fn until(served: &mut Served, query: &str, is_so: impl Fn(&[String]) -> bool) -> Vec<String> {
    let waiting = async {
        let mut tick = tokio::time::interval(Duration::from_millis(200));
        loop {
            tick.tick().await;
            let rows = served.house.sql.fetch_all(sqlx::AssertSqlSafe(query.to_owned())).await.unwrap();
            let rows: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
            if is_so(&rows) {
                return rows;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(300), waiting).await.unwrap_or_else(|_| panic!("waited 300 s for {query}"))
}

#[tokio::test]
async fn a_dag_of_ten_thousand_tasks_ends() {
    whole(&fan(10_000), 10_000).await;
}

/// Nothing that walks along a DAG does so by calling itself.
#[tokio::test]
async fn a_dag_of_two_thousand_tasks_in_a_row_ends() {
    whole(&chain(2_000), 2_000).await;
}

/// A thousand DAGs that fire every minute, from one minute to another.
fn every_minute(served: &Served, from: Timestamp, to: Timestamp) {
    for file in 0..20 {
        let mut text = String::new();
        for n in 0..50 {
            writeln!(
                text,
                "d{file}_{n}: {{schedule: '* * * * *', start_date: '{}', end_date: '{}', catchup: all, \
                 tasks: {{one: {{operator: script}}}}}}",
                from.to_rfc3339(),
                to.to_rfc3339()
            )
            .unwrap();
        }
        served.write(&format!("many{file}.yaml"), &text);
    }
}

/// Each tick of each DAG is one run, which ended well by one attempt.
async fn assert_each_tick_ran_once(served: &mut Served, ticks: usize) {
    let runs = 1_000 * ticks;
    let over = "SELECT count(*)::text FROM run WHERE state IN ('success', 'failed')";
    until(served, over, |rows| rows[0].parse::<usize>().is_ok_and(|over| over >= runs)).await;
    let told = "SELECT concat_ws(' ', count(*), count(DISTINCT (dag_id, logical_date)), count(DISTINCT dag_id),
                                 count(DISTINCT logical_date), count(*) FILTER (WHERE state = 'success'),
                                 (SELECT count(*) FROM attempt WHERE outcome = 'success'), (SELECT count(*) FROM attempt))
                FROM run";
    let told = until(served, told, |_| true).await;
    assert_eq!(told, [format!("{runs} {runs} 1000 {ticks} {runs} {runs} {runs}")]);
}

/// The minutes are over when the schedulers begin: all of their ticks are due at once, to each of three.
#[tokio::test(flavor = "multi_thread")]
async fn three_minutes_of_a_thousand_dags_that_fire_every_minute_are_each_tick_once() {
    let mut served = Served::nothing().await;
    let minute = clock::now().duration_trunc(TimeDelta::minutes(1)).unwrap();
    every_minute(&served, minute - TimeDelta::minutes(3), minute - TimeDelta::minutes(1));
    for _ in 0..3 {
        served.start().await;
    }
    assert_each_tick_ran_once(&mut served, 3).await;
    served.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes four minutes: `./scripts/test --long` runs it"]
async fn a_thousand_dags_fire_every_minute_in_time() {
    let mut served = Served::nothing().await;
    let first = clock::now().duration_trunc(TimeDelta::minutes(1)).unwrap() + TimeDelta::minutes(2);
    every_minute(&served, first, first + TimeDelta::minutes(2));
    for _ in 0..3 {
        served.start().await;
    }
    assert_each_tick_ran_once(&mut served, 3).await;
    let late = "SELECT COALESCE(max(extract(epoch FROM started_at - logical_date))::int, 0)::text FROM run";
    let late: u32 = until(&mut served, late, |_| true).await[0].parse().unwrap();
    assert!(late < 45, "a run began {late} s after its minute");
    served.stop().await;
}
