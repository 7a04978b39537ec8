//! What grows: a folder of thousands of files, thousands of jobs that are waited for, years of history. `pinsched serve`
//! as a process, on the Postgres of the bench's own home.

use std::fmt::Write as _;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use axum::Json;
use axum::routing::{get, post};
use pinsched::clock;
use pinsched::store::Store;
use secrecy::SecretString;
use sqlx::{Connection, PgConnection};

use super::{PROGRAM, ROUNDS, chain, drive, fan, line, median, megabytes, milliseconds, verdict};

/// Rows of the history by default: `BENCH_HISTORY` sets another number (pinsched refuses variables of its own that it does
/// not know).
const HISTORY: i64 = 10_000_000;

/// How long the idle service is watched.
const WATCHED: Duration = Duration::from_secs(30);

/// A `pinsched serve`, told where it listens.
struct Serve {
    child: Child,
    address: String,
    spawned: std::time::Instant,
}

impl Serve {
    fn start(database: &str, dags: &Path) -> Self {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let address = format!("127.0.0.1:{port}");
        let spawned = clock::monotonic();
        let mut command = Command::new(PROGRAM);
        command.args(["serve", "--database-url", database, "--listen", &address, "--dags"]).arg(dags);
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        Self { child, address, spawned }
    }

    /// From its start until it says that it is ready.
    async fn ready(&self) -> Duration {
        let client = reqwest::Client::new();
        let url = format!("http://{}/health/ready", self.address);
        loop {
            if client.get(&url).send().await.is_ok_and(|answer| answer.status().is_success()) {
                return self.spawned.elapsed();
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// Processor time so far, in seconds.
    fn processor(&self) -> f64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap();
        let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
        let ticks: f64 = fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap();
        ticks / 100.0 // _SC_CLK_TCK is 100 on Linux
    }
}

impl Drop for Serve {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A database of its own, so that what one section leaves behind is not in another's way.
async fn database(url: &str, name: &str) -> String {
    let mut connection = PgConnection::connect(url).await.unwrap();
    let create = format!("CREATE DATABASE {name}");
    sqlx::raw_sql(sqlx::AssertSqlSafe(create)).execute(&mut connection).await.unwrap();
    let mut url = url::Url::parse(url).unwrap();
    url.set_path(name);
    url.to_string()
}

async fn migrate(url: &str) {
    Store::connect(&SecretString::from(url), 1).await.unwrap().migrate().await.unwrap();
}

async fn count(url: &str, sql: &'static str) -> i64 {
    let mut connection = PgConnection::connect(url).await.unwrap();
    sqlx::query_scalar(sql).fetch_one(&mut connection).await.unwrap()
}

async fn until(url: &str, sql: &'static str, wanted: i64) {
    let mut connection = PgConnection::connect(url).await.unwrap();
    while sqlx::query_scalar::<_, i64>(sql).fetch_one(&mut connection).await.unwrap() < wanted {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// DAG files of ten tasks each, once a year.
fn files(folder: &Path, count: usize) {
    std::fs::create_dir_all(folder).unwrap();
    for place in 0..count {
        std::fs::write(folder.join(format!("{place}.yaml")), yearly(place, 10)).unwrap();
    }
}

fn yearly(place: usize, tasks: usize) -> String {
    chain(tasks).replacen("chain:\n", &format!("dag_{place}:\n  schedule: '@yearly'\n"), 1)
}

const KNOWN: &str = "SELECT count(*) FROM dag WHERE dag_version_id IS NOT NULL";

/// Start, a folder of 5,000 files, and a thousand DAGs that have nothing to do.
pub(super) async fn folders(url: &str, folder: &Path) {
    let mut starts = Vec::new();
    let few = folder.join("few");
    files(&few, 10);
    let url_few = database(url, "bench_few").await;
    for _ in 0..=ROUNDS {
        let serve = Serve::start(&url_few, &few);
        starts.push(serve.ready().await);
    }
    starts.remove(0); // it made the tables
    let mut connects = Vec::new();
    for _ in 0..ROUNDS {
        let begun = clock::monotonic();
        let status = Command::new(PROGRAM).arg("--version").stdout(Stdio::null()).status().unwrap();
        assert!(status.success());
        PgConnection::connect(&url_few).await.unwrap().close().await.unwrap();
        connects.push(begun.elapsed());
    }
    let floor = ("the program and one connection", median(connects));
    line("serve, start to ready", median(starts), floor, Duration::from_millis(200));

    let many = folder.join("many");
    files(&many, 5_000);
    let url_many = database(url, "bench_many").await;
    migrate(&url_many).await;
    let serve = Serve::start(&url_many, &many);
    until(&url_many, KNOWN, 5_000).await;
    let (first, read) = (serve.spawned.elapsed(), plain_read(&many));
    line("5,000 new files, start to all known", first, ("reading them", read), Duration::from_secs(2));
    std::fs::write(many.join("17.yaml"), yearly(5_000, 10)).unwrap();
    let begun = clock::monotonic();
    until(&url_many, KNOWN, 5_001).await;
    println!("{:<40} {:>9.1} ms", "  one changed, until it is known", milliseconds(begun.elapsed()));
    drop(serve);
    let serve = Serve::start(&url_many, &many);
    println!("{:<40} {:>9.1} ms", "  started anew, to ready", milliseconds(serve.ready().await));
    drop(serve);

    let thousand = folder.join("thousand");
    files(&thousand, 1_000);
    let url_thousand = database(url, "bench_thousand").await;
    migrate(&url_thousand).await;
    let serve = Serve::start(&url_thousand, &thousand);
    until(&url_thousand, KNOWN, 1_000).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let (before, begun) = (serve.processor(), clock::monotonic());
    tokio::time::sleep(WATCHED).await;
    let share = (serve.processor() - before) / begun.elapsed().as_secs_f64() * 100.0;
    let pid = u64::from(serve.child.id());
    let (own, resident) = (megabytes(pid, "Pss:"), megabytes(pid, "Rss:"));
    println!(
        "{:<40} {own:>9.1} MB {:>12} {:>8}  under 40 MB: {} ({resident:.1} MB resident); {share:.2}% of a core, under 0.5%: {}",
        "idle serve, 1,000 DAGs of ten tasks",
        "-",
        "-",
        verdict(own < 40.0),
        verdict(share < 0.5)
    );
}

/// Reads all files of a folder, one after the other.
fn plain_read(folder: &Path) -> Duration {
    let paths: Vec<PathBuf> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    let begun = clock::monotonic();
    let bytes: usize = paths.iter().map(|path| std::fs::read(path).unwrap().len()).sum();
    assert!(bytes > 0);
    begun.elapsed()
}

/// Ten thousand jobs of another system that go on and on, each looked at every thirty seconds.
pub(super) async fn waiting(url: &str, folder: &Path) {
    const JOBS: usize = 10_000;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let routes = axum::Router::new()
        .route("/jobs", post(|| async { Json(serde_json::json!({ "id": 1 })) }))
        .route("/jobs/1", get(|| async { Json(serde_json::json!({ "status": "RUNNING" })) }));
    let mut server = tokio::task::JoinSet::new();
    server.spawn(async move { axum::serve(listener, routes).await.unwrap() });

    let mut file = String::from("jobs:\n  schedule: '@once'\n  start_date: 2026-01-01\n  catchup: all\n  tasks:\n");
    for place in 0..JOBS {
        let _ = writeln!(
            file,
            "    j{place}: {{operator: http_job, url: 'http://{address}/jobs', status_url: 'http://{address}/jobs/1', \
             success_states: [DONE], failure_states: [FAILED]}}"
        );
    }
    let dags = folder.join("jobs");
    std::fs::create_dir_all(&dags).unwrap();
    std::fs::write(dags.join("jobs.yaml"), file).unwrap();
    let url = database(url, "bench_waiting").await;
    migrate(&url).await;
    let serve = Serve::start(&url, &dags);
    let jobs = i64::try_from(JOBS).unwrap();
    until(&url, "SELECT count(*) FROM task_run WHERE state = 'deferred'", jobs).await;
    let submitted = serve.spawned.elapsed();
    let (before, begun) = (serve.processor(), clock::monotonic());
    let mut most = 0.0f64;
    while begun.elapsed() < Duration::from_secs(40) {
        tokio::time::sleep(Duration::from_millis(200)).await;
        most = most.max(megabytes(u64::from(serve.child.id()), "Pss:"));
    }
    let share = (serve.processor() - before) / begun.elapsed().as_secs_f64() * 100.0;
    let still = count(&url, "SELECT count(*) FROM task_run WHERE state = 'deferred'").await;
    assert_eq!(still, jobs, "all of them go on");
    println!(
        "{:<40} {most:>9.1} MB {:>12} {:>8}  under 150 MB: {} (submitted in {:.1} s; {share:.1}% of a core to look at them)",
        "waiting, 10,000 external jobs",
        "-",
        "-",
        verdict(most < 150.0),
        submitted.as_secs_f64()
    );
}

/// What claiming and completing cost beside years of finished tasks.
#[expect(clippy::disallowed_methods, reason = "how large the history is to be is no setting of the product's")]
pub(super) async fn history(url: &str) {
    let rows: i64 = std::env::var("BENCH_HISTORY").map_or(HISTORY, |rows| rows.parse().unwrap());
    let (empty, full) = (database(url, "bench_empty").await, database(url, "bench_full").await);
    let mut stores = Vec::new();
    for url in [&empty, &full] {
        let store = Store::connect(&SecretString::from(url.as_str()), 16).await.unwrap();
        store.migrate().await.unwrap();
        drive(&store, &chain(40)).await;
        stores.push(store);
    }
    let begun = clock::monotonic();
    fill(&full, rows).await;
    println!("  {rows} finished tasks loaded in {:.0} s", begun.elapsed().as_secs_f64());
    let (chain, fan) = (chain(40), fan(1000));
    let (mut chains, mut fans) = ([Vec::new(), Vec::new()], [Vec::new(), Vec::new()]);
    for round in 0..=ROUNDS * 2 {
        for (place, store) in stores.iter().enumerate() {
            let (one, other) = (drive(store, &chain).await, drive(store, &fan).await);
            if round > 0 {
                chains[place].push(one);
                fans[place].push(other);
            }
        }
    }
    for (figure, [floor, measured]) in [("chain-40 beside", chains), ("fan-1000 beside", fans)] {
        let floor = median(floor);
        let millions = rows / 1_000_000;
        line(
            &format!("{figure} {millions} M finished tasks"),
            median(measured),
            ("an empty database", floor),
            floor.mul_f64(1.2),
        );
    }
}

/// Finished runs of a hundred tasks each, three days' worth an hour apart.
async fn fill(url: &str, rows: i64) {
    let mut connection = PgConnection::connect(url).await.unwrap();
    let runs = rows / 100;
    let statements = format!(
        "SET synchronous_commit = off; SET work_mem = '256MB';
         INSERT INTO run (uuid, dag_key, dag_id, run_id, dag_version_id, run_type, logical_date, data_interval_start,
                          data_interval_end, params, state, tasks_unfinished, queued_at, started_at, finished_at)
         SELECT gen_random_uuid(), d.id, d.dag_id, 'scheduled__' || n, d.dag_version_id, 'scheduled', at, at, at, '{{}}',
                'success', 0, at, at, at
         FROM (SELECT n, timestamptz '2020-01-01' + n * interval '1 minute' AS at FROM generate_series(1, {runs}) AS n) AS old
         CROSS JOIN (SELECT d.id, d.dag_id, (SELECT min(v.id) FROM dag_version AS v WHERE v.dag_id = d.dag_id)
                            AS dag_version_id FROM dag AS d LIMIT 1) AS d;
         INSERT INTO task_run (run_key, task_index, dag_key, task_id, state, fence, upstream_unfinished, upstream_success,
                               started_at, finished_at)
         SELECT r.id, n, r.dag_key, 't' || n, 'success', 1, 0, 1, r.started_at, r.finished_at
         FROM run AS r CROSS JOIN generate_series(0, 99) AS n WHERE r.run_type = 'scheduled';
         INSERT INTO attempt (run_key, task_index, fence, try_number, worker_id, started_at, finished_at, outcome)
         SELECT t.run_key, t.task_index, 1, 1, 1, t.started_at, t.finished_at, 'success'
         FROM task_run AS t JOIN run AS r ON r.id = t.run_key WHERE r.run_type = 'scheduled';
         INSERT INTO transition (run_key, task_index, fence, event, from_state, to_state, at)
         SELECT t.run_key, t.task_index, e.fence, e.event, e.from_state, e.to_state, t.started_at
         FROM task_run AS t JOIN run AS r ON r.id = t.run_key
         CROSS JOIN (VALUES (0, 'released', 'none', 'queued'), (1, 'claimed', 'queued', 'running'),
                            (1, 'succeeded', 'running', 'success')) AS e (fence, event, from_state, to_state)
         WHERE r.run_type = 'scheduled';
         ANALYZE; CHECKPOINT;"
    );
    sqlx::raw_sql(sqlx::AssertSqlSafe(statements)).execute(&mut connection).await.unwrap();
    for table in ["run", "task_run", "attempt", "transition"] {
        sqlx::raw_sql(sqlx::AssertSqlSafe(format!("VACUUM {table}"))).execute(&mut connection).await.unwrap();
    }
    // What was loaded is on disk: nobody writes it while others are measured.
    sqlx::raw_sql("CHECKPOINT").execute(&mut connection).await.unwrap();
}
