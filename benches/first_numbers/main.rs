//! The first figures, each beside a floor that was measured in the same run: `./scripts/bench`.
//!
//! Starts a home of its own in a temporary folder; needs what `pinsched run` needs, and nothing else. Names of sections
//! (`stack`, `memory`, `engine`, `service`, `folders`, `waiting`, `history`, `pipeline`) as arguments choose what is
//! measured; all of it by default.

#![expect(clippy::print_stdout, reason = "a benchmark's answer is what it prints")]
#![expect(clippy::unwrap_used, reason = "a benchmark that cannot go on says so by panicking")]

mod scale;
mod service;

use std::fmt::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use pinsched::clock;
use pinsched::connect::{Endpoints, KafkaEndpoint, S3Endpoint};
use pinsched::domain::check;
use pinsched::domain::run_state::RunState;
use pinsched::domain::run_type::RunType;
use pinsched::domain::source::SourceFile;
use pinsched::engine::lookup::Lookup;
use pinsched::engine::observer::Nobody;
use pinsched::engine::outputs::{OutputLimits, OutputStore};
use pinsched::engine::running::RunningRun;
use pinsched::engine::shutdown::Shutdown;
use pinsched::engine::{self, Driven, Engine};
use pinsched::operators;
use pinsched::store::{Begin, NewRun, Store};
use secrecy::SecretString;
use serde_json::Value;
use sqlx::{Connection, PgConnection};

const PROGRAM: &str = env!("CARGO_BIN_EXE_pinsched");

/// Each figure is the median of so many.
const ROUNDS: usize = 5;

/// The slots of the engine under test: the default of `engine.parallelism`.
const SLOTS: usize = 16;

fn main() {
    let folder = tempfile::Builder::new().prefix("pinsched-bench-").tempdir().unwrap();
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o711)).unwrap();
    println!("{:<40} {:>12} {:>12} {:>8}  goal", "figure", "median", "floor", "ratio");
    let wanted: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    let wants = |section: &str| wanted.is_empty() || wanted.iter().any(|wanted| wanted == section);
    if wants("stack") {
        stack(folder.path());
    }
    let home = folder.path().join("home");
    let up = Up::start(&home);
    if wants("memory") {
        memory(&home, &up);
    }
    if wants("engine") {
        let url = up.urls["database_url"].as_str().unwrap();
        tokio::runtime::Runtime::new().unwrap().block_on(engine_figures(url));
    }
    if wants("service") {
        let url = up.urls["database_url"].as_str().unwrap();
        tokio::runtime::Runtime::new().unwrap().block_on(service::figures(url, &folder.path().join("dags")));
    }
    for section in ["folders", "waiting", "history"] {
        if wants(section) {
            let url = up.urls["database_url"].as_str().unwrap();
            let dags = folder.path().join(section);
            tokio::runtime::Runtime::new().unwrap().block_on(async {
                match section {
                    "folders" => scale::folders(url, &dags).await,
                    "waiting" => scale::waiting(url, &dags).await,
                    _ => scale::history(url).await,
                }
            });
        }
    }
    if wants("pipeline") {
        pipeline(&home);
    }
}

/// One line of the table.
fn line(figure: &str, measured: Duration, floor: (&str, Duration), goal: Duration) {
    let ratio = measured.as_secs_f64() / floor.1.as_secs_f64();
    println!(
        "{figure:<40} {:>9.1} ms {:>9.1} ms {ratio:>7.2}x  under {:.1} ms: {} (floor: {})",
        milliseconds(measured),
        milliseconds(floor.1),
        milliseconds(goal),
        verdict(measured < goal),
        floor.0
    );
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

fn verdict(reached: bool) -> &'static str {
    if reached { "reached" } else { "MISSED" }
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

fn timed<T>(work: impl FnOnce() -> T) -> (Duration, T) {
    let begun = clock::monotonic();
    let done = work();
    (begun.elapsed(), done)
}

/// `pinsched up`, ready.
struct Up {
    child: Child,
    urls: Value,
}

impl Up {
    fn start(home: &Path) -> Self {
        let mut command = Command::new(PROGRAM);
        command.args(["up", "--output", "json", "--home"]).arg(home);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut documents = serde_json::Deserializer::from_reader(child.stdout.take().unwrap()).into_iter::<Value>();
        let urls = documents.next().expect("`pinsched up` prints its URLs").unwrap();
        Self { child, urls }
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn down(home: &Path) {
    let status = Command::new(PROGRAM).args(["down", "--home"]).arg(home).stdout(Stdio::null()).status().unwrap();
    assert!(status.success());
}

/// Cold and warm start of the whole stack, beside what Postgres alone costs.
fn stack(folder: &Path) {
    let (mut cold, mut warm, mut initdb, mut ready) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let home = folder.join(format!("cold-{round}"));
        for times in [&mut cold, &mut warm] {
            let (time, up) = timed(|| Up::start(&home));
            times.push(time);
            drop(up);
            down(&home);
        }
        let (created, started) = bare_postgres(&folder.join(format!("bare-{round}")));
        initdb.push(created);
        ready.push(started);
    }
    line("embedded stack, cold start", median(cold), ("initdb alone", median(initdb)), Duration::from_secs(3));
    line("embedded stack, warm start", median(warm), ("pg_ctl start alone", median(ready)), Duration::from_secs(1));
}

/// How long `initdb` and `pg_ctl start` take, as a person would call them.
fn bare_postgres(folder: &Path) -> (Duration, Duration) {
    let bin = newest_postgres();
    std::fs::create_dir(folder).unwrap();
    std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o777)).unwrap();
    let folder = folder.display();
    let (created, ()) = timed(|| shell(&format!("{bin}/initdb --no-sync -A trust -D {folder}/cluster")));
    let options = format!("-c listen_addresses='' -c unix_socket_directories={folder}");
    let pg_ctl = format!("{bin}/pg_ctl -D {folder}/cluster -w");
    let (started, ()) = timed(|| shell(&format!("{pg_ctl} -l {folder}/log -o \"{options}\" start")));
    shell(&format!("{pg_ctl} -m immediate stop"));
    (created, started)
}

/// Runs a line of shell; as root as the user `postgres`, since Postgres refuses root.
fn shell(text: &str) {
    let mut command = Command::new("sh");
    if rustix::process::geteuid().is_root() {
        command = Command::new("runuser");
        command.args(["-u", "postgres", "--", "sh"]);
    }
    let status = command.arg("-c").arg(text).stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap();
    assert!(status.success(), "`{text}` fails");
}

fn newest_postgres() -> String {
    let versions = std::fs::read_dir("/usr/lib/postgresql").expect("Debian's PostgreSQL is installed");
    let newest = versions.map(|entry| entry.unwrap().path()).max().expect("Debian's PostgreSQL is installed");
    newest.join("bin").to_string_lossy().into_owned()
}

/// What `pinsched up` and the stack's process hold, Postgres aside.
fn memory(home: &Path, up: &Up) {
    let file: Value = serde_json::from_slice(&std::fs::read(home.join("stack.json")).unwrap()).unwrap();
    let processes = [file["pid"].as_u64().unwrap(), u64::from(up.child.id())];
    let [stack, waiting] = processes.map(|pid| megabytes(pid, "Pss:"));
    let resident: f64 = processes.map(|pid| megabytes(pid, "Rss:")).iter().sum();
    println!(
        "{:<40} {:>9.1} MB {:>12} {:>8}  under 60 MB: {} (the stack {:.1} MB, the waiting `up` {:.1} MB; {:.1} MB where the \
         program's pages that both share count twice)",
        "idle `pinsched up`, Postgres aside",
        stack + waiting,
        "-",
        "-",
        verdict(stack + waiting < 60.0),
        stack,
        waiting,
        resident
    );
}

/// A process's memory in megabytes: `Rss:` is all that it holds, `Pss:` its share of what others hold as well.
fn megabytes(pid: u64, figure: &str) -> f64 {
    let rollup = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    let line = rollup.lines().find_map(|line| line.strip_prefix(figure)).unwrap();
    line.trim().trim_end_matches(" kB").trim().parse::<f64>().unwrap() * 1024.0 / 1e6
}

/// The engine on the embedded Postgres, in this process.
async fn engine_figures(url: &str) {
    let store = Store::connect(&SecretString::from(url), 16).await.unwrap();
    store.migrate().await.unwrap();
    let (chain, fan) = (chain(40), fan(1000));
    for _ in 0..ROUNDS {
        drive(&store, &chain).await; // until statements are prepared and pages warm, on whichever connection
    }
    let (mut chains, mut commits, mut fans, mut singles) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        commits.push(durable_commits(url, 40).await);
        chains.push(drive(&store, &chain).await);
        singles.push(one_by_one(url, 1000, 8).await);
        fans.push(drive(&store, &fan).await);
    }
    let commits = median(commits);
    line("chain-40, no-op tasks in sequence", median(chains), ("40 durable commits", commits), commits * 2);
    let (fan, single) = (median(fans), median(singles));
    line("fan-1000, no-op tasks at once", fan, ("claim, finish: 8 clients", single), Duration::from_millis(200));
    let rate = |time: Duration| 1000.0 / time.as_secs_f64();
    println!("{:<40} {:>7.0} tasks/s; one by one {:.0} tasks/s", "", rate(fan), rate(single));
}

fn chain(length: usize) -> String {
    let mut file = String::from("chain:\n  tasks:\n    t0: {operator: empty}\n");
    for place in 1..length {
        let _ = writeln!(file, "    t{place}: {{operator: empty, dependencies: [t{}]}}", place - 1);
    }
    file
}

fn fan(width: usize) -> String {
    let mut file = String::from("fan:\n  tasks:\n");
    for place in 0..width {
        let _ = writeln!(file, "    t{place}: {{operator: empty}}");
    }
    file
}

/// From a run's first claim to its end; the run is created before, by a process that has registered, as `pinsched run`
/// does it.
async fn drive(store: &Store, source: &str) -> Duration {
    let checked = check::check(&SourceFile::new("bench.yaml", source), &operators::catalog());
    let dag = checked.dags.into_iter().next().expect("the benchmark's DAG is valid");
    let sign = engine::register(store).await.unwrap();
    let now = clock::now();
    let new = NewRun {
        dag: &dag,
        file: "/bench.yaml",
        source,
        run_id: RunType::Manual.run_id(now, 0),
        run_type: RunType::Manual,
        rerun: 0,
        logical_date: now,
        data_interval_start: now,
        data_interval_end: now,
        params: serde_json::Map::new(),
        conf: serde_json::Map::new(),
        note: None,
        triggered_by: "benchmark",
        begin: Begin::DrivenBy(sign.worker),
    };
    let engine = Engine {
        store: store.clone(),
        registrations: operators::registry(),
        endpoints: Arc::new(nowhere()),
        observer: Arc::new(Nobody),
        slots: SLOTS,
        memory_limit: 512 * 1024 * 1024,
        processes: Default::default(),
        receivers: Default::default(),
        max_map_length: 10_000,
        outputs: Arc::new(OutputStore::new(nowhere().s3, OutputLimits::default())),
        lookup: Lookup::new(store.clone(), Default::default(), Default::default(), Default::default()),
    };
    let run = store.create_run(&new, now).await.unwrap();
    let begun = clock::monotonic();
    let driven = engine.drive_as(sign, RunningRun::new(&run, dag), &Shutdown::default()).await.unwrap();
    assert_eq!(driven, Driven::Concluded(RunState::Success));
    begun.elapsed()
}

/// No-op tasks reach nothing outside.
fn nowhere() -> Endpoints {
    Endpoints {
        kafka: KafkaEndpoint { bootstrap_servers: String::new(), properties: Default::default() },
        s3: S3Endpoint {
            endpoint_url: None,
            region: None,
            credentials: None,
            path_style: false,
            create_buckets: false,
            staging_bucket: String::new(),
        },
        source_url: SecretString::from(""),
        named: Default::default(),
    }
}

/// Durable commits of one row, one after the other.
async fn durable_commits(url: &str, count: usize) -> Duration {
    let mut connection = PgConnection::connect(url).await.unwrap();
    let create = "CREATE TABLE IF NOT EXISTS bench_commit (n int); INSERT INTO bench_commit VALUES (0)";
    sqlx::raw_sql(create).execute(&mut connection).await.unwrap();
    let begun = clock::monotonic();
    for _ in 0..count {
        sqlx::query("UPDATE bench_commit SET n = n + 1").execute(&mut connection).await.unwrap();
    }
    let took = begun.elapsed();
    sqlx::raw_sql("DROP TABLE bench_commit").execute(&mut connection).await.unwrap();
    took
}

/// The usual queue: each client claims one row in a commit and finishes it in another.
async fn one_by_one(url: &str, rows: i32, clients: usize) -> Duration {
    let mut connection = PgConnection::connect(url).await.unwrap();
    let create = "CREATE TABLE bench_task (id int PRIMARY KEY, state text NOT NULL)";
    sqlx::raw_sql(create).execute(&mut connection).await.unwrap();
    let fill = sqlx::query("INSERT INTO bench_task SELECT n, 'queued' FROM generate_series(1, $1) AS n").bind(rows);
    fill.execute(&mut connection).await.unwrap();
    let mut connections = Vec::new();
    for _ in 0..clients {
        connections.push(PgConnection::connect(url).await.unwrap());
    }
    let begun = clock::monotonic();
    let mut work = tokio::task::JoinSet::new();
    for mut connection in connections {
        work.spawn(async move {
            let claim = "UPDATE bench_task SET state = 'running' WHERE id = (SELECT id FROM bench_task
                         WHERE state = 'queued' LIMIT 1 FOR UPDATE SKIP LOCKED) RETURNING id";
            while let Some(id) = sqlx::query_scalar::<_, i32>(claim).fetch_optional(&mut connection).await.unwrap() {
                let finish = sqlx::query("UPDATE bench_task SET state = 'success' WHERE id = $1").bind(id);
                finish.execute(&mut connection).await.unwrap();
            }
        });
    }
    work.join_all().await;
    let took = begun.elapsed();
    sqlx::raw_sql("DROP TABLE bench_task").execute(&mut connection).await.unwrap();
    took
}

/// `pinsched run dags/daily.yaml` as a process, on a stack that is up; the floor is the same process with four no-op
/// tasks, so that the ratio is what the rows cost.
fn pipeline(home: &Path) {
    let daily = Path::new(env!("CARGO_MANIFEST_DIR")).join("dags/daily.yaml");
    let no_op = home.join("no-op.yaml");
    std::fs::write(&no_op, chain(4)).unwrap();
    let run = |file: &Path, param: &[&str]| {
        let mut command = Command::new(PROGRAM);
        command.arg("run").arg(file).args(["--new", "--home"]).arg(home).args(param);
        let (time, output) = timed(|| command.output().unwrap());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        time
    };
    let (mut floors, mut small, mut large) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        floors.push(run(&no_op, &[]));
        small.push(run(&daily, &["--param", "rows=500"]));
        large.push(run(&daily, &["--param", "rows=11000"]));
    }
    let floor = ("four no-op tasks", median(floors));
    line("run dags/daily.yaml, 500 rows, warm", median(small), floor, Duration::from_secs(4));
    line("run dags/daily.yaml, 11,000 rows, warm", median(large), floor, Duration::from_secs(8));
}
