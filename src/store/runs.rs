//! Runs: created whole, found by id or logical date, listed.

use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::domain::Timestamp;
use crate::domain::dag::Dag;
use crate::domain::ids::{DagId, RunId, RunKey};
use crate::domain::plan;
use crate::domain::run_state::RunState;
use crate::store::{Store, StoreError, WorkerId, rows};

/// What a new run is made from.
pub struct NewRun<'a> {
    /// The checked DAG.
    pub dag: &'a Dag,
    /// The file that it was read from, absolute.
    pub file: &'a str,
    /// The file's text: the run keeps it, whatever becomes of the file.
    pub source: &'a str,
    /// The run's id.
    pub run_id: RunId,
    /// Which it is of its logical date: 0, then 1, 2, … for reruns.
    pub rerun: i32,
    /// The logical date.
    pub logical_date: Timestamp,
    /// The data interval's start, included.
    pub data_interval_start: Timestamp,
    /// The data interval's end, not included.
    pub data_interval_end: Timestamp,
    /// The params, defaults and overrides merged.
    pub params: Map<String, Value>,
    /// The process that drives it, where one does.
    pub owner: Option<WorkerId>,
}

/// A run, as stored.
#[derive(Debug, Clone)]
pub struct Run {
    /// Its key in our tables.
    pub key: RunKey,
    /// Its identity towards the outside.
    pub uuid: Uuid,
    /// The DAG.
    pub dag_id: DagId,
    /// Its id within the DAG.
    pub run_id: RunId,
    /// The logical date.
    pub logical_date: Timestamp,
    /// Which it is of its logical date.
    pub rerun: i32,
    /// The data interval's start.
    pub data_interval_start: Timestamp,
    /// The data interval's end.
    pub data_interval_end: Timestamp,
    /// The params it runs with.
    pub params: Map<String, Value>,
    /// Where it stands.
    pub state: RunState,
    /// When it was created.
    pub queued_at: Timestamp,
    /// When its first task was claimed.
    pub started_at: Option<Timestamp>,
    /// When its last task ended.
    pub finished_at: Option<Timestamp>,
    /// When somebody asked to cancel it.
    pub cancel_requested_at: Option<Timestamp>,
    /// The process that drives it.
    pub owner: Option<WorkerId>,
    /// The DAG file it was made from.
    pub file: String,
}

/// The DAG file that a run was made from, as it was then.
pub struct RunSource {
    /// Its path, absolute.
    pub file: String,
    /// Its text.
    pub source: String,
}

struct RunRow {
    id: i64,
    uuid: Uuid,
    dag_id: String,
    run_id: String,
    logical_date: Timestamp,
    rerun: i32,
    data_interval_start: Timestamp,
    data_interval_end: Timestamp,
    params: Value,
    state: String,
    queued_at: Timestamp,
    started_at: Option<Timestamp>,
    finished_at: Option<Timestamp>,
    cancel_requested_at: Option<Timestamp>,
    owner_id: Option<i64>,
    file: String,
}

impl TryFrom<RunRow> for Run {
    type Error = StoreError;

    fn try_from(row: RunRow) -> Result<Self, StoreError> {
        let Value::Object(params) = row.params else {
            return Err(StoreError::Corrupt { what: "params", value: row.params.to_string() });
        };
        Ok(Self {
            key: RunKey(row.id),
            uuid: row.uuid,
            dag_id: rows::id("a DAG id", &row.dag_id)?,
            run_id: rows::id("a run id", &row.run_id)?,
            logical_date: row.logical_date,
            rerun: row.rerun,
            data_interval_start: row.data_interval_start,
            data_interval_end: row.data_interval_end,
            params,
            state: rows::run_state(&row.state)?,
            queued_at: row.queued_at,
            started_at: row.started_at,
            finished_at: row.finished_at,
            cancel_requested_at: row.cancel_requested_at,
            owner: row.owner_id.map(WorkerId),
            file: row.file,
        })
    }
}

/// The columns of a [`Run`], for every query that reads one.
macro_rules! select_runs {
    ($rest:literal $(, $argument:expr)* $(,)?) => {
        sqlx::query_as!(
            RunRow,
            "SELECT r.id, r.uuid, r.dag_id, r.run_id, r.logical_date, r.rerun, r.data_interval_start,
                    r.data_interval_end, r.params, r.state, r.queued_at, r.started_at, r.finished_at,
                    r.cancel_requested_at, r.owner_id, v.file
             FROM run AS r
             JOIN dag_version AS v ON v.id = r.dag_version_id " + $rest,
            $($argument),*
        )
    };
}

impl Store {
    /// Creates a run with all of its task runs in one transaction: it is there whole or not at all.
    ///
    /// # Errors
    /// [`StoreError::RunExists`] when the DAG has a run with that id or that logical date and rerun already.
    pub async fn create_run(&self, new: &NewRun<'_>, now: Timestamp) -> Result<Run, StoreError> {
        let failed = StoreError::query("create a run");
        let dag_id = new.dag.id().as_str();
        let mut transaction = self.pool.begin().await.map_err(&failed)?;
        let version = sqlx::query_scalar!(
            "INSERT INTO dag_version (dag_id, content_hash, file, source, created_at)
             VALUES ($1, $2, $3, $4, $5)
             ON CONFLICT ON CONSTRAINT dag_version_dag_id_content_hash_key
                DO UPDATE SET file = EXCLUDED.file -- changes nothing; returns the row that is there
             RETURNING id",
            dag_id,
            Sha256::digest(new.source.as_bytes()).to_vec(),
            new.file,
            new.source,
            now,
        )
        .fetch_one(&mut *transaction)
        .await
        .map_err(&failed)?;
        let uuid = Uuid::now_v7();
        let key = sqlx::query_scalar!(
            "INSERT INTO run (uuid, dag_id, run_id, dag_version_id, run_type, logical_date, rerun, data_interval_start,
                              data_interval_end, params, state, tasks_unfinished, queued_at, owner_id)
             VALUES ($1, $2, $3, $4, 'manual', $5, $6, $7, $8, $9, 'queued', $10, $11, $12)
             RETURNING id",
            uuid,
            dag_id,
            new.run_id.as_str(),
            version,
            new.logical_date,
            new.rerun,
            new.data_interval_start,
            new.data_interval_end,
            Value::Object(new.params.clone()),
            i32::try_from(new.dag.tasks().len()).unwrap_or(i32::MAX),
            now,
            new.owner.map(|owner| owner.0),
        )
        .fetch_one(&mut *transaction)
        .await
        .map_err(|source| StoreError::run_exists(source, new.dag.id(), &new.run_id))?;
        insert_task_runs(&mut transaction, new.dag, key, now).await?;
        transaction.commit().await.map_err(&failed)?;
        Ok(Run {
            key: RunKey(key),
            uuid,
            dag_id: new.dag.id().clone(),
            run_id: new.run_id.clone(),
            logical_date: new.logical_date,
            rerun: new.rerun,
            data_interval_start: new.data_interval_start,
            data_interval_end: new.data_interval_end,
            params: new.params.clone(),
            state: RunState::Queued,
            queued_at: now,
            started_at: None,
            finished_at: None,
            cancel_requested_at: None,
            owner: new.owner,
            file: new.file.to_owned(),
        })
    }

    /// The run with that key.
    pub async fn run(&self, key: RunKey) -> Result<Option<Run>, StoreError> {
        select_runs!("WHERE r.id = $1", key.0)
            .fetch_optional(&self.pool)
            .await
            .map_err(StoreError::query("read a run"))?
            .map(Run::try_from)
            .transpose()
    }

    /// The runs that a person may mean by `text`: a run id, a run's uuid or its first 8 or more characters. Newest
    /// first, at most 10.
    pub async fn runs_named(&self, text: &str) -> Result<Vec<Run>, StoreError> {
        select_runs!(
            "WHERE r.run_id = $1 OR (length($1) >= 8 AND starts_with(r.uuid::text, lower($1))) ORDER BY r.id DESC LIMIT 10",
            text
        )
        .fetch_all(&self.pool)
        .await
        .map_err(StoreError::query("look for a run"))?
        .into_iter()
        .map(Run::try_from)
        .collect()
    }

    /// The latest run (by rerun) of a DAG's logical date.
    pub async fn run_of_logical_date(&self, dag: &DagId, date: Timestamp) -> Result<Option<Run>, StoreError> {
        select_runs!("WHERE r.dag_id = $1 AND r.logical_date = $2 ORDER BY r.rerun DESC LIMIT 1", dag.as_str(), date)
            .fetch_optional(&self.pool)
            .await
            .map_err(StoreError::query("look for a run"))?
            .map(Run::try_from)
            .transpose()
    }

    /// A DAG's unfinished runs, latest logical date first, at most 100.
    pub async fn unfinished_runs(&self, dag: &DagId) -> Result<Vec<Run>, StoreError> {
        select_runs!(
            "WHERE r.dag_id = $1 AND r.state IN ('queued', 'running') ORDER BY r.logical_date DESC, r.id DESC LIMIT 100",
            dag.as_str()
        )
        .fetch_all(&self.pool)
        .await
        .map_err(StoreError::query("look for unfinished runs"))?
        .into_iter()
        .map(Run::try_from)
        .collect()
    }

    /// Runs, newest first; of one DAG when it is given; at most `limit`.
    pub async fn list_runs(&self, dag: Option<&DagId>, limit: u32) -> Result<Vec<Run>, StoreError> {
        select_runs!(
            "WHERE ($1::text IS NULL OR r.dag_id = $1) ORDER BY r.id DESC LIMIT $2",
            dag.map(DagId::as_str),
            i64::from(limit)
        )
        .fetch_all(&self.pool)
        .await
        .map_err(StoreError::query("list runs"))?
        .into_iter()
        .map(Run::try_from)
        .collect()
    }

    /// The ids of the DAGs that have runs, in order, at most 1,000.
    pub async fn dags_with_runs(&self) -> Result<Vec<DagId>, StoreError> {
        sqlx::query_scalar!("SELECT DISTINCT dag_id FROM run ORDER BY dag_id LIMIT 1000")
            .fetch_all(&self.pool)
            .await
            .map_err(StoreError::query("list the DAGs that have runs"))?
            .iter()
            .map(|id| rows::id("a DAG id", id))
            .collect()
    }

    /// The process that drives a run: its owner, where that one shows its sign of life.
    pub async fn live_driver(&self, run: &Run) -> Result<Option<WorkerId>, StoreError> {
        match run.owner {
            Some(owner) if !run.state.is_final() && self.is_alive(owner).await? => Ok(Some(owner)),
            _ => Ok(None),
        }
    }

    /// The DAG file of a run, as it was when the run was created.
    pub async fn run_source(&self, key: RunKey) -> Result<RunSource, StoreError> {
        sqlx::query_as!(
            RunSource,
            "SELECT v.file, v.source
             FROM run AS r
             JOIN dag_version AS v ON v.id = r.dag_version_id
             WHERE r.id = $1",
            key.0
        )
        .fetch_one(&self.pool)
        .await
        .map_err(StoreError::query("read a run's DAG file"))
    }

    /// Makes `owner` the process that drives the run, if the one that did (`previous`) still stands there. Says whether
    /// it did: of two that try at once, one does.
    pub async fn take_over_run_if(
        &self,
        key: RunKey,
        previous: Option<WorkerId>,
        owner: WorkerId,
    ) -> Result<bool, StoreError> {
        let done = sqlx::query!(
            "UPDATE run SET owner_id = $3 WHERE id = $1 AND owner_id IS NOT DISTINCT FROM $2",
            key.0,
            previous.map(|id| id.0),
            owner.0
        )
        .execute(&self.pool)
        .await
        .map_err(StoreError::query("take a run over"))?;
        Ok(done.rows_affected() == 1)
    }

    /// Asks for a run's cancellation, once; whoever drives the run acts on it. Says when it was first asked, or `None`
    /// when the run is finished already.
    pub async fn request_cancel(&self, key: RunKey, now: Timestamp) -> Result<Option<Timestamp>, StoreError> {
        let failed = StoreError::query("ask for a run's cancellation");
        let at = sqlx::query_scalar!(
            "UPDATE run SET cancel_requested_at = COALESCE(cancel_requested_at, $2), version = version + 1
             WHERE id = $1 AND state IN ('queued', 'running')
             RETURNING cancel_requested_at",
            key.0,
            now
        )
        .fetch_optional(&self.pool)
        .await
        .map_err(&failed)?
        .flatten();
        Ok(at)
    }
}

async fn insert_task_runs(
    transaction: &mut sqlx::PgConnection,
    dag: &Dag,
    run: i64,
    now: Timestamp,
) -> Result<(), StoreError> {
    let first = plan::begin(dag);
    let indexes: Vec<i32> = dag.tasks().iter().map(|task| task.index.0.cast_signed()).collect();
    let ids: Vec<String> = dag.tasks().iter().map(|task| task.id.to_string()).collect();
    let states: Vec<String> = first.iter().map(|(state, _)| state.as_str().to_owned()).collect();
    let unfinished: Vec<i32> = first.iter().map(|(_, counts)| rows::stored(counts.unfinished)).collect();
    let priorities: Vec<i32> = dag.tasks().iter().map(|task| task.priority_weight).collect();
    sqlx::query!(
        "WITH task AS (
            SELECT * FROM unnest($2::int[], $3::text[], $4::text[], $5::int[], $6::int[])
                AS task (task_index, task_id, state, upstream_unfinished, priority)
        ), history AS (
            INSERT INTO transition (run_key, task_index, fence, event, from_state, to_state, at)
            SELECT $1, task_index, 0, 'released', 'none', state, $7 FROM task WHERE state = 'queued' ORDER BY task_index
        )
        INSERT INTO task_run (run_key, task_index, task_id, state, upstream_unfinished, priority, ready_at)
        SELECT $1, task_index, task_id, state, upstream_unfinished, priority,
               CASE WHEN state = 'queued' THEN $7::timestamptz END
        FROM task
        ORDER BY task_index",
        run,
        &indexes,
        &ids,
        &states,
        &unfinished,
        &priorities,
        now,
    )
    .execute(transaction)
    .await
    .map_err(StoreError::query("create a run's tasks"))?;
    Ok(())
}
