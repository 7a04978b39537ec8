//! A DAG of tasks of many kinds, and what outside of pinsched sees them.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::{Path as InPath, State};
use axum::http::HeaderMap;
use axum::response::Json;
use axum::routing::{get, post};
use pinsched::domain::check::check;
use pinsched::domain::dag::Dag;
use pinsched::domain::source::SourceFile;
use rand::RngExt;
use rand::rngs::StdRng;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

/// How many tasks stand side by side.
const WIDTH: usize = 20;

/// What a task is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Bash,
    Python,
    Http,
    HttpJob,
    Empty,
    Sensor,
    /// Chooses the one right after it, a `Bash`, and leaves out the next one.
    Branch,
    LeftOut,
}

impl Kind {
    /// Whether somebody outside sees each attempt of it.
    pub fn is_witnessed(self) -> bool {
        match self {
            Self::Bash | Self::Python | Self::Http | Self::HttpJob => true,
            Self::Empty | Self::Sensor | Self::Branch | Self::LeftOut => false,
        }
    }
}

/// A file that tasks write lines to, and a server that they ask.
#[derive(Clone)]
pub struct Witness {
    folder: PathBuf,
    url: String,
    asked: Arc<Mutex<BTreeMap<String, Vec<String>>>>,
}

impl Witness {
    pub async fn start(servers: &mut JoinSet<()>, folder: &Path) -> Self {
        let folder = folder.canonicalize().unwrap();
        std::fs::write(
            folder.join("witness.py"),
            "def tell(task, path):\n    with open(path, 'a') as lines:\n        lines.write(task + '\\n')\n",
        )
        .unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let witness = Self { folder, url, asked: Arc::default() };
        let router = Router::new()
            .route("/tasks/{task}", post(asked))
            .route("/jobs/{task}", get(job))
            .with_state(witness.clone());
        servers.spawn(async move { axum::serve(listener, router).await.unwrap() });
        witness
    }

    fn lines(&self) -> PathBuf {
        self.folder.join("witness.txt")
    }

    /// What all sensors wait for is there.
    pub fn let_sensors_go(&self) {
        std::fs::write(self.folder.join("go"), "").unwrap();
    }

    /// How often that task was seen.
    pub fn saw(&self, task: &str) -> usize {
        let lines = std::fs::read_to_string(self.lines()).unwrap();
        let asked = self.asked.lock().unwrap().get(task).map_or(0, Vec::len);
        lines.lines().filter(|line| *line == task).count() + asked
    }
}

async fn asked(State(witness): State<Witness>, InPath(task): InPath<String>, headers: HeaderMap) -> Json<Value> {
    let key = headers.get("idempotency-key").and_then(|key| key.to_str().ok()).unwrap_or_default();
    witness.asked.lock().unwrap().entry(task.clone()).or_default().push(key.to_owned());
    Json(json!({"id": task}))
}

async fn job(State(witness): State<Witness>, InPath(task): InPath<String>) -> Json<Value> {
    let is_known = witness.asked.lock().unwrap().contains_key(&task);
    Json(json!({"status": if is_known { "done" } else { "lost" }}))
}

/// A DAG of them.
pub struct Mixture {
    pub text: String,
    pub dag: Dag,
    /// By task, in the DAG's order.
    pub kinds: Vec<Kind>,
}

impl Mixture {
    /// So many tasks in layers, each task with two of the layer before it.
    pub fn draw(random: &mut StdRng, tasks: usize, witness: &Witness) -> Self {
        let most = if tasks > 500 { 18 } else { 10 };
        let mut text = format!(
            "orders:\n  max_active_tasks: {most}\n  default_args: {{retries: 3, retry_delay: 0.1s}}\n  tasks:\n"
        );
        let mut kinds: Vec<Kind> = Vec::new();
        while kinds.len() < tasks {
            let (at, layer) = (kinds.len(), kinds.len() / WIDTH);
            let kind = match kinds.last() {
                _ if at >= 2 && kinds[at - 2] == Kind::Branch => Kind::LeftOut,
                Some(Kind::Branch) => Kind::Bash,
                _ => draw_kind(random, at + 2 < tasks),
            };
            let mut upstream: Vec<usize> = match kind {
                _ if kinds.last() == Some(&Kind::Branch) => vec![at - 1],
                Kind::LeftOut => vec![at - 2],
                _ if layer == 0 => Vec::new(),
                _ => (0..2).map(|_| (layer - 1) * WIDTH + random.random_range(0..WIDTH)).collect(),
            };
            // Nothing but what a branch chooses and leaves out stands right after it.
            let is_of_branch = matches!(kind, Kind::LeftOut) || kinds.last() == Some(&Kind::Branch);
            let may_wait_for = |before: &usize| match kinds[*before] {
                Kind::LeftOut => false,
                Kind::Branch => is_of_branch,
                _ => true,
            };
            upstream.retain(may_wait_for);
            upstream.sort_unstable();
            upstream.dedup();
            let upstream: Vec<String> = upstream.iter().map(|before| format!("t{before}")).collect();
            let pool = if random.random_range(0..4) == 0 { ", pool: narrow" } else { "" };
            let keys = keys_of(kind, at, random, witness);
            writeln!(text, "    t{at}: {{{keys}, dependencies: [{}]{pool}}}", upstream.join(", ")).unwrap();
            kinds.push(kind);
        }
        let mut checked = check(&SourceFile::new("orders.yaml", &text), &pinsched::operators::catalog());
        assert!(!checked.has_errors(), "{:?}\n{text}", checked.diagnostics);
        Self { dag: checked.dags.pop().expect("it is valid"), text, kinds }
    }
}

fn draw_kind(random: &mut StdRng, may_branch: bool) -> Kind {
    match random.random_range(0..100) {
        0..40 => Kind::Bash,
        40..50 => Kind::Python,
        50..62 => Kind::Http,
        62..70 => Kind::HttpJob,
        70..85 => Kind::Empty,
        85..93 => Kind::Sensor,
        _ if may_branch => Kind::Branch,
        _ => Kind::Empty,
    }
}

fn keys_of(kind: Kind, at: usize, random: &mut StdRng, witness: &Witness) -> String {
    let (lines, url) = (witness.lines(), &witness.url);
    let lines = lines.display();
    match kind {
        Kind::Bash | Kind::LeftOut => {
            let nap = random.random_range(0..60);
            format!("operator: bash, bash_command: 'echo t{at} >> {lines}; sleep 0.{nap:02}'")
        }
        Kind::Python => format!(
            "operator: python, python_callable_file: witness.py, python_callable_name: tell, \
             op_kwargs: {{task: t{at}, path: '{lines}'}}"
        ),
        Kind::Http => format!("operator: http, url: '{url}/tasks/t{at}', json: {{}}"),
        Kind::HttpJob => format!(
            "operator: http_job, url: '{url}/tasks/t{at}', json: {{}}, poke_interval: 100ms, \
             status_url: '{url}/jobs/{{{{ response.body.id }}}}', success_states: [done], failure_states: [lost]"
        ),
        Kind::Empty => "operator: empty".to_owned(),
        Kind::Sensor => "operator: file_sensor, filepath: go, poke_interval: 200ms".to_owned(),
        Kind::Branch => format!("operator: branch, follow: t{}", at + 1),
    }
}
