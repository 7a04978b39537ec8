//! How runs come to be: with the version of their DAG's file, in their turn, whole.
//!
//! A run that has begun has all of its task runs; one that waits for its turn has none yet, so that the queue holds only
//! what may run. Turns are given under the lock of the DAG's row: of several processes that try, the limit holds.

use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::domain::Timestamp;
use crate::domain::dag::Dag;
use crate::domain::ids::{DagId, RunId, RunKey};
use crate::domain::plan;
use crate::domain::run_state::RunState;
use crate::domain::run_type::RunType;
use crate::store::notices::{self, Watched};
use crate::store::{Run, Store, StoreError, WorkerId, rows};

/// Airflow's size of its default pool: what a pool has that tasks name and nobody made.
const SLOTS_OF_AN_UNMADE_POOL: i32 = 128;

/// The key of a stored version of a DAG.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DagVersionId(pub i64);

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
    /// What makes it.
    pub run_type: RunType,
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
    /// What its trigger gave, as it was given.
    pub conf: Map<String, Value>,
    /// What somebody wrote about it.
    pub note: Option<&'a str>,
    /// Who asks for it.
    pub triggered_by: &'a str,
    /// When it begins.
    pub begin: Begin,
}

/// When a new run begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Begin {
    /// At once, driven by that process alone.
    DrivenBy(WorkerId),
    /// Once its DAG is not paused and fewer of its runs go on than may: at once, where that is now. Any worker may take
    /// its tasks.
    InTurn,
}

/// A DAG's row, locked.
struct DagRow {
    id: i64,
    is_paused: bool,
    max_active_runs: i32,
}

/// Whether a new run begins at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::store) enum Turn {
    /// It does.
    Now,
    /// It waits.
    Later,
    /// It does while fewer of its DAG's runs go on than this, which is asked under the lock of the DAG's row.
    Below(i32),
}

impl Store {
    /// Creates a run: with all of its task runs if it begins, in one transaction. It is there whole or not at all.
    ///
    /// # Errors
    /// [`StoreError::RunExists`] when the DAG has a run with that id or that logical date and rerun already.
    pub async fn create_run(&self, new: &NewRun<'_>, now: Timestamp) -> Result<Run, StoreError> {
        let failed = StoreError::query("create a run");
        let mut transaction = self.pool.begin().await.map_err(&failed)?;
        let (version, dag) = lock_with_version(&mut transaction, new, now).await?;
        let turn = match new.begin {
            Begin::DrivenBy(_) => Turn::Now,
            Begin::InTurn if dag.is_paused => Turn::Later,
            Begin::InTurn => Turn::Below(dag.max_active_runs),
        };
        let run = insert_run(&mut transaction, new, dag.id, version, turn, now).await?;
        transaction.commit().await.map_err(&failed)?;
        Ok(run)
    }

    /// Lets a run begin whose turn it may be: says whether it did. The DAG is as the run's version says.
    ///
    /// It begins if it still waits, neither its DAG nor its backfill is paused, and fewer runs go on than may: of its
    /// backfill, for one of those.
    pub async fn begin_run_if_its_turn(&self, run: &Run, dag: &Dag, now: Timestamp) -> Result<bool, StoreError> {
        let failed = StoreError::query("let a run begin");
        let mut transaction = self.pool.begin().await.map_err(&failed)?;
        let row = lock_dag(&mut transaction, dag).await?;
        let begun = sqlx::query_scalar!(
            "UPDATE run AS r
             SET state = 'running', started_at = $3, timeout_at = $3::timestamptz + r.timeout_limit, tasks_unfinished = $4, version = r.version + 1
             WHERE r.id = $1
               AND r.state = 'queued'
               AND r.cancel_requested_at IS NULL
               AND NOT $5
               AND CASE WHEN r.backfill_id IS NULL
                   THEN $6 > (
                        SELECT count(*) FROM run AS o
                        WHERE o.dag_key = $2 AND o.state = 'running' AND o.backfill_id IS NULL AND o.owner_id IS NULL)
                   ELSE (
                        SELECT NOT b.is_paused AND b.max_active_runs > (
                            SELECT count(*) FROM run AS o WHERE o.backfill_id = b.id AND o.state = 'running')
                        FROM backfill AS b
                        WHERE b.id = r.backfill_id)
                   END
             RETURNING r.id",
            run.key.0,
            row.id,
            now,
            rows::stored(u32::try_from(dag.tasks().len()).unwrap_or(u32::MAX)),
            row.is_paused,
            i64::from(row.max_active_runs),
        )
        .fetch_optional(&mut *transaction)
        .await
        .map_err(&failed)?;
        if begun.is_some() {
            insert_task_runs(&mut transaction, dag, row.id, run.key.0, now).await?;
            notices::expect_deadline(&mut transaction, dag, Watched::Begun, run.key.0, now).await?;
        }
        transaction.commit().await.map_err(&failed)?;
        Ok(begun.is_some())
    }
}

/// What a text is known by among the versions of its DAG: its SHA-256.
pub(in crate::store) fn content_hash(source: &str) -> Vec<u8> {
    Sha256::digest(source.as_bytes()).to_vec()
}

/// Keeps a file's text as a version of the DAG, once.
pub(in crate::store) async fn keep_version(
    connection: &mut PgConnection,
    dag_id: &DagId,
    file: &str,
    source: &str,
    now: Timestamp,
) -> Result<DagVersionId, StoreError> {
    let failed = StoreError::query("keep a version of a DAG");
    let hash = content_hash(source);
    loop {
        // Locked so that retention cannot delete it before it is referred to; who refers to it locks it no more than that.
        let kept = sqlx::query_scalar!(
            "SELECT id FROM dag_version WHERE dag_id = $1 AND content_hash = $2 AND file = $3 FOR KEY SHARE",
            dag_id.as_str(),
            &hash,
            file
        )
        .fetch_optional(&mut *connection)
        .await
        .map_err(&failed)?;
        if let Some(id) = kept {
            return Ok(DagVersionId(id));
        }
        // Without an update of the row that another process made meanwhile: its lock, and then the DAG's, would be taken
        // in the other order than by who refers to the version under the DAG's lock.
        sqlx::query!(
            "INSERT INTO dag_version (dag_id, content_hash, file, source, created_at)
             VALUES ($1, $2, $3, $4, $5)
             ON CONFLICT ON CONSTRAINT dag_version_dag_id_content_hash_key DO NOTHING",
            dag_id.as_str(),
            &hash,
            file,
            source,
            now,
        )
        .execute(&mut *connection)
        .await
        .map_err(&failed)?;
    }
}

/// Keeps a new run's file as a version, and locks its DAG's row until the transaction's end: one question where both are
/// known. The version's row is locked before the DAG's, as everywhere.
async fn lock_with_version(
    connection: &mut PgConnection,
    new: &NewRun<'_>,
    now: Timestamp,
) -> Result<(DagVersionId, DagRow), StoreError> {
    let known = sqlx::query!(
        r#"WITH version AS MATERIALIZED (
               SELECT id FROM dag_version WHERE dag_id = $1 AND content_hash = $2 AND file = $3 FOR KEY SHARE)
           SELECT d.id, d.is_paused, d.max_active_runs, version.id AS version
           FROM version
           JOIN dag AS d ON d.dag_id = $1
           FOR NO KEY UPDATE OF d"#,
        new.dag.id().as_str(),
        &content_hash(new.source),
        new.file
    )
    .fetch_optional(&mut *connection)
    .await
    .map_err(StoreError::query("lock a DAG"))?;
    if let Some(row) = known {
        let dag = DagRow { id: row.id, is_paused: row.is_paused, max_active_runs: row.max_active_runs };
        return Ok((DagVersionId(row.version), dag));
    }
    let version = keep_version(connection, new.dag.id(), new.file, new.source, now).await?;
    Ok((version, lock_dag(connection, new.dag).await?))
}

/// Locks the DAG's row until the transaction's end; makes it for a DAG that is seen for the first time.
async fn lock_dag(connection: &mut PgConnection, dag: &Dag) -> Result<DagRow, StoreError> {
    let failed = StoreError::query("lock a DAG");
    loop {
        let row = sqlx::query_as!(
            DagRow,
            "SELECT id, is_paused, max_active_runs FROM dag WHERE dag_id = $1 FOR NO KEY UPDATE",
            dag.id().as_str()
        )
        .fetch_optional(&mut *connection)
        .await
        .map_err(&failed)?;
        if let Some(row) = row {
            return Ok(row);
        }
        sqlx::query!(
            "INSERT INTO dag (dag_id, max_active_runs, max_active_tasks)
             VALUES ($1, $2, $3)
             ON CONFLICT ON CONSTRAINT dag_dag_id_key DO NOTHING",
            dag.id().as_str(),
            rows::stored(dag.settings.max_active_runs),
            dag.settings.max_active_tasks.map(rows::stored),
        )
        .execute(&mut *connection)
        .await
        .map_err(&failed)?;
    }
}

/// Inserts the run, and its tasks where it begins.
pub(in crate::store) async fn insert_run(
    transaction: &mut PgConnection,
    new: &NewRun<'_>,
    dag_key: i64,
    version: DagVersionId,
    turn: Turn,
    now: Timestamp,
) -> Result<Run, StoreError> {
    let uuid = Uuid::now_v7();
    let below = match turn {
        Turn::Now => None,
        Turn::Later => Some(0),
        Turn::Below(limit) => Some(limit),
    };
    let owner = match new.begin {
        Begin::DrivenBy(owner) => Some(owner),
        Begin::InTurn => None,
    };
    let made = sqlx::query!(
        r#"INSERT INTO run (uuid, dag_key, dag_id, run_id, dag_version_id, run_type, logical_date, rerun,
                            data_interval_start, data_interval_end, params, conf, note, triggered_by, state,
                            tasks_unfinished, queued_at, started_at, owner_id, timeout_limit, timeout_at, notifies)
           SELECT $1, $2, $3, $4, $5, $6::text, $7, $8, $9, $10, $11, $12, $13, $14,
                  CASE WHEN begins THEN 'running' ELSE 'queued' END, $15, $16, CASE WHEN begins THEN $16::timestamptz END,
                  $17, make_interval(secs => $18),
                  CASE WHEN begins THEN $16::timestamptz + make_interval(secs => $18) END, $19
           FROM (SELECT $20::int IS NULL OR $20 > 0 AND $20 > (
                     SELECT count(*) FROM run AS o
                     WHERE o.dag_key = $2 AND o.state = 'running' AND o.backfill_id IS NULL AND o.owner_id IS NULL)
                     AS begins) AS turn
           RETURNING id, state = 'running' AS "begins!""#,
        uuid,
        dag_key,
        new.dag.id().as_str(),
        new.run_id.as_str(),
        version.0,
        new.run_type.as_str(),
        new.logical_date,
        new.rerun,
        new.data_interval_start,
        new.data_interval_end,
        rows::json(&Value::Object(new.params.clone())),
        rows::json(&Value::Object(new.conf.clone())),
        new.note.map(rows::text),
        new.triggered_by,
        rows::stored(u32::try_from(new.dag.tasks().len()).unwrap_or(u32::MAX)),
        now,
        owner.map(|owner| owner.0),
        new.dag.settings.dagrun_timeout.map(|limit| limit.as_secs_f64()),
        notices::counts(&new.dag.settings.callbacks) as Option<Vec<i16>>,
        below,
    )
    .fetch_one(&mut *transaction)
    .await
    .map_err(|source| StoreError::run_exists(source, new.dag.id(), &new.run_id))?;
    let key = made.id;
    notices::expect_deadline(transaction, new.dag, Watched::Queued { logical_date: new.logical_date }, key, now)
        .await?;
    if made.begins {
        insert_task_runs(transaction, new.dag, dag_key, key, now).await?;
        notices::expect_deadline(transaction, new.dag, Watched::Begun, key, now).await?;
    }
    Ok(Run {
        key: RunKey(key),
        uuid,
        dag_id: new.dag.id().clone(),
        version,
        run_id: new.run_id.clone(),
        run_type: new.run_type,
        logical_date: new.logical_date,
        rerun: new.rerun,
        data_interval_start: new.data_interval_start,
        data_interval_end: new.data_interval_end,
        params: new.params.clone(),
        conf: new.conf.clone(),
        note: new.note.map(ToOwned::to_owned),
        triggered_by: new.triggered_by.to_owned(),
        state: if made.begins { RunState::Running } else { RunState::Queued },
        queued_at: now,
        started_at: made.begins.then_some(now),
        finished_at: None,
        cancel_requested_at: None,
        cancel_reason: None,
        owner,
        file: new.file.to_owned(),
    })
}

/// The limits of a run's tasks, a column each.
#[derive(Default)]
struct Limits {
    are_limited: Vec<bool>,
    pools: Vec<Option<String>>,
    pool_slots: Vec<i32>,
    max_active_tis: Vec<Option<i32>>,
    max_active_tis_of_run: Vec<Option<i32>>,
    /// Task ids with commas between them: Postgres has no arrays of arrays of different lengths.
    past: Vec<Option<String>>,
}

impl Limits {
    fn of(dag: &Dag) -> Self {
        let mut limits = Self::default();
        for task in dag.tasks() {
            limits.are_limited.push(dag.is_limited(task.index));
            limits.pools.push(task.pool.clone());
            limits.pool_slots.push(rows::stored(task.pool_slots));
            limits.max_active_tis.push(task.max_active_tis_per_dag.map(rows::stored));
            limits.max_active_tis_of_run.push(task.max_active_tis_per_dagrun.map(rows::stored));
            limits.past.push(task.depends_on_past.then(|| {
                let after = dag.downstream(task.index).into_iter().filter(|_| task.wait_for_downstream);
                let ids = after.filter_map(|index| dag.task(index)).map(|task| task.id.as_str());
                std::iter::once(task.id.as_str()).chain(ids).collect::<Vec<_>>().join(",")
            }));
        }
        limits
    }
}

async fn insert_task_runs(
    transaction: &mut PgConnection,
    dag: &Dag,
    dag_key: i64,
    run: i64,
    now: Timestamp,
) -> Result<(), StoreError> {
    let first = plan::begin(dag);
    let limits = Limits::of(dag);
    let indexes: Vec<i32> = dag.tasks().iter().map(|task| task.index.0.cast_signed()).collect();
    let ids: Vec<String> = dag.tasks().iter().map(|task| task.id.to_string()).collect();
    let states: Vec<String> = first.iter().map(|(state, _)| state.as_str().to_owned()).collect();
    let unfinished: Vec<i32> = first.iter().map(|(_, counts)| rows::stored(counts.unfinished)).collect();
    let priorities: Vec<i32> = dag.tasks().iter().map(|task| task.priority_weight).collect();
    sqlx::query!(
        "WITH task AS (
            SELECT * FROM unnest($2::int[], $3::text[], $4::text[], $5::int[], $6::int[], $9::bool[], $10::text[],
                                 $11::int[], $12::int[], $13::text[], $15::int[])
                AS task (task_index, task_id, state, upstream_unfinished, priority, is_limited, pool, pool_slots,
                         max_active_tis, past, max_active_tis_of_run)
        ), default_pool AS (
            SELECT name FROM pool WHERE name = 'default_pool'
        ), unmade AS (
            INSERT INTO pool (name, slots)
            SELECT DISTINCT pool, $14::int FROM task WHERE pool IS NOT NULL
            ON CONFLICT (name) DO NOTHING
        ), history AS (
            INSERT INTO transition (run_key, task_index, fence, event, from_state, to_state, at)
            SELECT $1, task_index, 0, 'released', 'none', state, $7 FROM task WHERE state = 'queued' ORDER BY task_index
        )
        INSERT INTO task_run (run_key, task_index, dag_key, task_id, state, upstream_unfinished, priority, is_limited,
                              pool, pool_slots, max_active_tis, max_active_tis_of_run, waits_for_past, ready_at)
        SELECT $1, task_index, $8, task_id, state, upstream_unfinished, priority,
               is_limited OR EXISTS (SELECT 1 FROM default_pool), COALESCE(pool, (SELECT name FROM default_pool)),
               pool_slots, max_active_tis, max_active_tis_of_run, string_to_array(past, ','), CASE WHEN state = 'queued' THEN $7::timestamptz END
        FROM task
        ORDER BY task_index",
        run,
        &indexes,
        &ids,
        &states,
        &unfinished,
        &priorities,
        now,
        dag_key,
        &limits.are_limited,
        &limits.pools as &[Option<String>],
        &limits.pool_slots,
        &limits.max_active_tis as &[Option<i32>],
        &limits.past as &[Option<String>],
        SLOTS_OF_AN_UNMADE_POOL,
        &limits.max_active_tis_of_run as &[Option<i32>],
    )
    .execute(&mut *transaction)
    .await
    .map_err(StoreError::query("create a run's tasks"))?;
    notices::watch_tasks(transaction, dag, run).await
}
