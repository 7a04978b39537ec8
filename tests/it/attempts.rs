//! A run in a database of its own whose tasks a test claims and runs one by one, without the engine.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use futures::FutureExt;
use pinsched::connect::{Endpoints, KafkaEndpoint, NamedSettings, S3Endpoint};
use pinsched::domain::ids::{AttemptKey, RunKey, TaskId, TaskIndex, TaskRunKey};
use pinsched::domain::masking::Masks;
use pinsched::domain::task_output::TaskOutput;
use pinsched::domain::template::TemplateScope;
use pinsched::engine::lookup::Lookup;
use pinsched::engine::operator::{
    Deferring, Failure, Output, Processes, Progress, TaskContext, Templates, UpstreamOutput,
};
use pinsched::engine::task_log::{LogReader, TaskLog};
use pinsched::store::{SecretKeys, Store};
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};
use sqlx::{Connection, PgConnection, Row};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{dags, services};

/// A run of the DAG `pinterest_daily` at 2026-03-01T02:00Z. The fields may be set before a task is claimed.
pub struct TestRun {
    pub store: Store,
    pub uuid: Uuid,
    pub dag_folder: PathBuf,
    pub endpoints: Endpoints,
    pub upstream: BTreeMap<TaskId, UpstreamOutput>,
    pub variables: Value,
    pub processes: Processes,
    key: RunKey,
    connection: PgConnection,
    tasks: Vec<String>,
}

/// One attempt: the context for the operator and, at the other end, its log.
pub struct Attempt {
    pub context: TaskContext,
    pub log: Log,
}

/// What an attempt logged.
pub struct Log(LogReader);

impl TestRun {
    pub async fn start() -> Self {
        let database = services::database().await;
        let store = Store::connect(&database, 8).await.expect("the new database answers");
        store.migrate().await.expect("the migrations run on an empty database");
        let mut connection = PgConnection::connect(database.expose_secret()).await.unwrap();
        let uuid = Uuid::now_v7();
        let key = insert_run(&mut connection, uuid).await;
        Self {
            store,
            uuid,
            dag_folder: std::env::temp_dir(),
            endpoints: nowhere(),
            upstream: BTreeMap::new(),
            variables: json!({"ds": "2026-03-01", "run_id": "manual__2026-03-01T02:00:00+00:00", "params": {}}),
            processes: Processes::default(),
            key,
            connection,
            tasks: Vec::new(),
        }
    }

    /// The output that an upstream task left, for the attempts claimed from now on.
    pub fn finished(&mut self, task: &str, operator: &str, output: Value) {
        let Value::Object(output) = output else { panic!("an output is an object: {output}") };
        let task = task.parse().expect("a task id");
        self.upstream.insert(task, UpstreamOutput { operator: operator.to_owned(), output: output.into() });
    }

    /// Ends the run and its tasks in that state, and begins another of the same DAG.
    pub async fn next(&mut self, state: &str) {
        self.end(self.key, state).await;
        self.beside().await;
    }

    /// Begins another run of the same DAG; the one so far goes on, and its key is given back.
    pub async fn beside(&mut self) -> RunKey {
        let before = self.key;
        self.uuid = Uuid::now_v7();
        self.key = insert_run(&mut self.connection, self.uuid).await;
        before
    }

    /// Ends a run and its tasks in that state.
    pub async fn end(&mut self, run: RunKey, state: &str) {
        for ended in ["task_run SET lease_until = NULL, worker_id = NULL,", "run SET"] {
            let key = if ended.starts_with("run ") { "id" } else { "run_key" };
            let update = format!("UPDATE {ended} state = $1, finished_at = clock_timestamp() WHERE {key} = $2");
            let update = sqlx::query(sqlx::AssertSqlSafe(update)).bind(state).bind(run.0);
            update.execute(&mut self.connection).await.unwrap();
        }
    }

    /// Removes a run with all that was recorded of it, as retention does.
    pub async fn forget(&mut self, run: RunKey) {
        let delete = sqlx::query("DELETE FROM run WHERE id = $1").bind(run.0);
        delete.execute(&mut self.connection).await.unwrap();
    }

    /// Keeps every other connection from writing to the table until the lock is dropped; reading goes on.
    pub async fn hold(&mut self, table: &str) -> sqlx::Transaction<'_, sqlx::Postgres> {
        let mut transaction = self.connection.begin().await.unwrap();
        let lock = sqlx::AssertSqlSafe(format!("LOCK TABLE {table} IN SHARE MODE"));
        sqlx::query(lock).execute(&mut *transaction).await.unwrap();
        transaction
    }

    /// Claims the task as a worker would: a new fence each time, so that an earlier attempt's is stale.
    pub async fn claim(&mut self, task: &str) -> Attempt {
        let index = self.tasks.iter().position(|known| known == task).unwrap_or_else(|| {
            self.tasks.push(task.to_owned());
            self.tasks.len() - 1
        });
        let row = sqlx::query(
            "INSERT INTO task_run (run_key, task_index, dag_key, task_id, state, fence, worker_id, lease_until,
                                   upstream_unfinished, started_at)
             VALUES ($1, $2, (SELECT dag_key FROM run WHERE id = $1), $3, 'running', 1, (SELECT max(id) FROM worker), clock_timestamp() + interval '1 hour',
                     0, clock_timestamp())
             ON CONFLICT (run_key, task_index) DO UPDATE SET fence = task_run.fence + 1
             RETURNING fence, try_number",
        )
        .bind(self.key.0)
        .bind(i32::try_from(index).unwrap())
        .bind(task)
        .fetch_one(&mut self.connection)
        .await
        .unwrap();
        let (log, lines) = TaskLog::new();
        let key = AttemptKey {
            run_uuid: self.uuid,
            task_run: TaskRunKey { run: self.key, task: TaskIndex(u32::try_from(index).unwrap()) },
            try_number: row.get("try_number"),
            fence: row.get("fence"),
        };
        let context = TaskContext {
            attempt: key,
            dag_id: "pinterest_daily".parse().unwrap(),
            run_id: "manual__2026-03-01T02:00:00+00:00".parse().unwrap(),
            task_id: task.parse().unwrap(),
            logical_date: "2026-03-01T02:00:00Z".parse().unwrap(),
            dag: Arc::new(dags::dag("pinterest_daily: {tasks: {t: {operator: script}}}")),
            choice: Arc::default(),
            dag_folder: self.dag_folder.clone(),
            store: self.store.clone(),
            endpoints: Arc::new(self.endpoints.clone()),
            memory_limit: 512 * 1024 * 1024,
            processes: self.processes,
            outputs: Arc::new(
                self.upstream.iter().map(|(id, left)| (id.clone(), TaskOutput::from((*left.output).clone()))).collect(),
            ),
            upstream: self.upstream.clone(),
            map_index: None,
            output_limit: 64 << 20,
            templates: {
                let variables = self.variables.clone();
                Templates::new(move || TemplateScope::new(variables.clone()))
            },
            lookup: Lookup::new(
                self.store.clone(),
                self.endpoints.named.clone(),
                SecretKeys::default(),
                Masks::default(),
            ),
            cancel: CancellationToken::new(),
            timed_out: CancellationToken::new(),
            lost: CancellationToken::new(),
            log,
            progress: Arc::new(Progress::default()),
            deferring: Deferring::of_nobody(key),
        };
        Attempt { context, log: Log(lines) }
    }

    /// Claims the task and runs the operator with that configuration, checked first as the DAG file's would be.
    pub async fn run(&mut self, task: &str, operator: &str, config: Value) -> Result<Output, Failure> {
        let attempt = self.claim(task).await;
        run(&attempt.context, operator, config).await
    }
}

/// Runs the operator with that configuration, checked first as the DAG file's would be.
pub async fn run(context: &TaskContext, operator: &str, config: Value) -> Result<Output, Failure> {
    let registration = pinsched::operators::registration(operator).expect("the operator is registered");
    let problems = (registration.kind.check)(&config);
    assert!(problems.is_empty(), "{problems:?}");
    let operator = (registration.build)(config).expect("a checked configuration builds");
    operator.run(context).await
}

impl Log {
    /// The lines logged so far that were not taken yet.
    pub fn lines(&mut self) -> Vec<String> {
        std::iter::from_fn(|| self.0.next().now_or_never().flatten()).collect()
    }

    /// The next line, waiting for it.
    pub async fn next_line(&mut self) -> String {
        let deadline = std::time::Duration::from_secs(30);
        tokio::time::timeout(deadline, self.0.next()).await.expect("a line within 30 s").expect("the attempt goes on")
    }
}

async fn insert_run(connection: &mut PgConnection, uuid: Uuid) -> RunKey {
    sqlx::query("INSERT INTO worker (hostname, pid, started_at) VALUES ('test', 1, clock_timestamp())")
        .execute(&mut *connection)
        .await
        .unwrap();
    let row = sqlx::query(
        "WITH version AS (
             INSERT INTO dag_version (dag_id, content_hash, file, source, created_at)
             VALUES ('pinterest_daily', '', 'test.yaml', '', clock_timestamp())
             ON CONFLICT (dag_id, content_hash, file) DO UPDATE SET source = EXCLUDED.source
             RETURNING id
         ), dag AS (
             INSERT INTO dag (dag_id) VALUES ('pinterest_daily')
             ON CONFLICT (dag_id) DO UPDATE SET dag_id = EXCLUDED.dag_id
             RETURNING id
         ), before AS (
             SELECT coalesce(max(rerun) + 1, 0) AS runs FROM run
         )
         INSERT INTO run (uuid, dag_key, dag_id, run_id, dag_version_id, run_type, logical_date, rerun, data_interval_start,
                          data_interval_end, params, state, tasks_unfinished, queued_at, started_at)
         SELECT $1, dag.id, 'pinterest_daily', 'manual__2026-03-01T02:00:00+00:00' || repeat('~', before.runs), version.id,
                'manual', '2026-03-01T02:00:00Z', before.runs, '2026-02-28T02:00:00Z', '2026-03-01T02:00:00Z', '{}',
                'running', 1, clock_timestamp(), clock_timestamp()
         FROM version, dag, before
         RETURNING id",
    )
    .bind(uuid)
    .fetch_one(connection)
    .await
    .unwrap();
    RunKey(row.get("id"))
}

/// Endpoints at which nobody listens, for operators that need none or whose test sets its own.
pub fn nowhere() -> Endpoints {
    Endpoints {
        kafka: KafkaEndpoint { bootstrap_servers: "127.0.0.1:9".to_owned(), properties: BTreeMap::new() },
        s3: S3Endpoint {
            endpoint_url: Some("http://127.0.0.1:9".parse().unwrap()),
            region: Some("us-east-1".to_owned()),
            credentials: None,
            path_style: true,
            create_buckets: true,
            staging_bucket: "staging".to_owned(),
        },
        source_url: SecretString::from("postgres://127.0.0.1:9/nothing"),
        named: NamedSettings::default(),
    }
}
