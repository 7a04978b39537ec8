//! Runs as they are stored: found by id or logical date, listed, taken over, cancelled.

use serde_json::{Map, Value};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::domain::Timestamp;
use crate::domain::ids::{DagId, RunId, RunKey};
use crate::domain::run_state::RunState;
use crate::domain::run_type::RunType;
use crate::store::{DagVersionId, LEASE, Store, StoreError, WorkerId, rows};

/// A run, as stored.
#[derive(Debug, Clone)]
pub struct Run {
    /// Its key in our tables.
    pub key: RunKey,
    /// Its identity towards the outside.
    pub uuid: Uuid,
    /// The DAG.
    pub dag_id: DagId,
    /// The version of the DAG's file that it was made from.
    pub version: DagVersionId,
    /// Its id within the DAG.
    pub run_id: RunId,
    /// What made it.
    pub run_type: RunType,
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
    /// What its trigger gave.
    pub conf: Map<String, Value>,
    /// What somebody wrote about it.
    pub note: Option<String>,
    /// Who asked for it: `schedule`, `run`, `cli`, `backfill`, a user, or a task as `dag.task`.
    pub triggered_by: String,
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
    /// Why it is cancelled, where it was not a person who asked.
    pub cancel_reason: Option<String>,
    /// The process that drives it.
    pub owner: Option<WorkerId>,
    /// The DAG file it was made from.
    pub file: String,
}

/// How many of a DAG's runs a pause holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RunsHeld {
    /// They have begun; their next tasks wait.
    pub begun: u64,
    /// They wait for their turn.
    pub waiting: u64,
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
    dag_version_id: i64,
    run_id: String,
    run_type: String,
    logical_date: Timestamp,
    rerun: i32,
    data_interval_start: Timestamp,
    data_interval_end: Timestamp,
    params: Value,
    conf: Value,
    note: Option<String>,
    triggered_by: String,
    state: String,
    queued_at: Timestamp,
    started_at: Option<Timestamp>,
    finished_at: Option<Timestamp>,
    cancel_requested_at: Option<Timestamp>,
    cancel_reason: Option<String>,
    owner_id: Option<i64>,
    file: String,
}

impl TryFrom<RunRow> for Run {
    type Error = StoreError;

    fn try_from(row: RunRow) -> Result<Self, StoreError> {
        let object = |what, value| match value {
            Value::Object(map) => Ok(map),
            other => Err(StoreError::Corrupt { what, value: other.to_string() }),
        };
        Ok(Self {
            key: RunKey(row.id),
            uuid: row.uuid,
            dag_id: rows::id("a DAG id", &row.dag_id)?,
            version: DagVersionId(row.dag_version_id),
            run_id: rows::id("a run id", &row.run_id)?,
            run_type: rows::run_type(&row.run_type)?,
            logical_date: row.logical_date,
            rerun: row.rerun,
            data_interval_start: row.data_interval_start,
            data_interval_end: row.data_interval_end,
            params: object("params", row.params)?,
            conf: object("a conf", row.conf)?,
            note: row.note,
            triggered_by: row.triggered_by,
            state: rows::run_state(&row.state)?,
            queued_at: row.queued_at,
            started_at: row.started_at,
            finished_at: row.finished_at,
            cancel_requested_at: row.cancel_requested_at,
            cancel_reason: row.cancel_reason,
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
            "SELECT r.id, r.uuid, r.dag_id, r.dag_version_id, r.run_id, r.run_type, r.logical_date, r.rerun,
                    r.data_interval_start, r.data_interval_end, r.params, r.conf, r.note, r.triggered_by, r.state, r.queued_at, r.started_at, r.finished_at,
                    r.cancel_requested_at, r.cancel_reason, r.owner_id, v.file
             FROM run AS r
             JOIN dag_version AS v ON v.id = r.dag_version_id " + $rest,
            $($argument),*
        )
    };
}

/// So many characters of a run's uuid name it, of its beginning or its end.
pub const SHORTEST_OF_UUID: usize = 6;

impl Store {
    /// The run with that key.
    pub async fn run(&self, key: RunKey) -> Result<Option<Run>, StoreError> {
        select_runs!("WHERE r.id = $1", key.0)
            .fetch_optional(&self.pool)
            .await
            .map_err(StoreError::query("read a run"))?
            .map(Run::try_from)
            .transpose()
    }

    /// The runs with these keys, in their order; those that are gone are left out.
    pub async fn runs_of(&self, keys: &[RunKey]) -> Result<Vec<Run>, StoreError> {
        let keys: Vec<i64> = keys.iter().map(|key| key.0).collect();
        select_runs!(
            "JOIN unnest($1::bigint[]) WITH ORDINALITY AS k (id, place) ON k.id = r.id ORDER BY k.place",
            &keys
        )
        .fetch_all(&self.pool)
        .await
        .map_err(StoreError::query("read runs"))?
        .into_iter()
        .map(Run::try_from)
        .collect()
    }

    /// The runs of a DAG whose logical dates lie between two instants, both included, oldest first, at most 10,000.
    pub async fn runs_between(
        &self,
        dag: &DagId,
        from: Option<Timestamp>,
        to: Option<Timestamp>,
    ) -> Result<Vec<Run>, StoreError> {
        select_runs!(
            "WHERE r.dag_id = $1 AND r.logical_date >= COALESCE($2, '-infinity'::timestamptz)
               AND r.logical_date <= COALESCE($3, 'infinity'::timestamptz)
             ORDER BY r.logical_date, r.rerun
             LIMIT 10000",
            dag.as_str(),
            from,
            to
        )
        .fetch_all(&self.pool)
        .await
        .map_err(StoreError::query("look for a DAG's runs"))?
        .into_iter()
        .map(Run::try_from)
        .collect()
    }

    /// The runs that a person may mean by `text`: a run id, a run's uuid, or 6 or more characters of its beginning or end; of
    /// one DAG where it is given. Those of that id, if there are any; else newest first, at most 10.
    pub async fn runs_named(&self, dag: Option<&str>, text: &str) -> Result<Vec<Run>, StoreError> {
        let mut found: Vec<Run> = select_runs!(
            "WHERE ($1::text IS NULL OR r.dag_id = $1)
               AND (r.run_id = $2
                    OR (length($2) >= 6 AND (starts_with(r.uuid::text, lower($2)) OR right(r.uuid::text, length($2)) = lower($2))))
             ORDER BY r.run_id = $2 DESC, r.id DESC
             LIMIT 10",
            dag,
            text
        )
        .fetch_all(&self.pool)
        .await
        .map_err(StoreError::query("look for a run"))?
        .into_iter()
        .map(Run::try_from)
        .collect::<Result<_, _>>()?;
        if found.iter().any(|run| run.run_id.as_str() == text) {
            found.retain(|run| run.run_id.as_str() == text);
        }
        Ok(found)
    }

    /// The run of a DAG that has that id.
    pub async fn run_of_dag(&self, dag: &DagId, run_id: &RunId) -> Result<Option<Run>, StoreError> {
        select_runs!("WHERE r.dag_id = $1 AND r.run_id = $2", dag.as_str(), run_id.as_str())
            .fetch_optional(&self.pool)
            .await
            .map_err(StoreError::query("look for a run"))?
            .map(Run::try_from)
            .transpose()
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

    /// A DAG's runs that have begun and are unfinished, latest logical date first, at most 100.
    pub async fn unfinished_runs(&self, dag: &DagId) -> Result<Vec<Run>, StoreError> {
        select_runs!(
            "WHERE r.dag_id = $1 AND r.state = 'running' ORDER BY r.logical_date DESC, r.id DESC LIMIT 100",
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

    /// How many of a DAG's runs a pause holds: those that have begun and no process of their own drives, and those that wait.
    pub async fn runs_held(&self, dag: &DagId) -> Result<RunsHeld, StoreError> {
        let row = sqlx::query!(
            r#"SELECT count(*) FILTER (WHERE r.state = 'running' AND r.owner_id IS NULL) AS "begun!",
                      count(*) FILTER (WHERE r.state = 'queued') AS "waiting!"
               FROM run AS r
               JOIN dag AS d ON d.id = r.dag_key
               WHERE d.dag_id = $1 AND r.state IN ('queued', 'running')"#,
            dag.as_str()
        )
        .fetch_one(&self.pool)
        .await
        .map_err(StoreError::query("count a DAG's unfinished runs"))?;
        Ok(RunsHeld { begun: row.begun.unsigned_abs(), waiting: row.waiting.unsigned_abs() })
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

    /// The process that drives a run: its owner, where that one shows its sign of life; of a run without an owner, a service
    /// that takes the tasks of every such run.
    pub async fn live_driver(&self, run: &Run) -> Result<Option<WorkerId>, StoreError> {
        match run.owner {
            _ if run.state.is_final() => Ok(None),
            Some(owner) if self.is_alive(owner).await? => Ok(Some(owner)),
            Some(_) => Ok(None),
            None => self.live_service().await,
        }
    }

    /// A worker that takes the tasks of every run that no process drives, where one lives.
    pub async fn live_service(&self) -> Result<Option<WorkerId>, StoreError> {
        sqlx::query_scalar!(
            "SELECT id FROM worker
             WHERE takes_any AND ended_at IS NULL AND seen_at > clock_timestamp() - make_interval(secs => $1)
             ORDER BY id DESC
             LIMIT 1",
            LEASE.as_secs_f64()
        )
        .fetch_optional(&self.pool)
        .await
        .map(|id| id.map(WorkerId))
        .map_err(StoreError::query("look for a service"))
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

    /// The unfinished runs that somebody wants cancelled and that no process drives as its own; at most 1,000.
    pub async fn runs_to_cancel(&self) -> Result<Vec<RunKey>, StoreError> {
        sqlx::query_scalar!(
            "SELECT id FROM run
             WHERE cancel_requested_at IS NOT NULL AND state IN ('queued', 'running') AND owner_id IS NULL
             ORDER BY id
             LIMIT 1000"
        )
        .fetch_all(&self.pool)
        .await
        .map(|keys| keys.into_iter().map(RunKey).collect())
        .map_err(StoreError::query("look for cancelled runs"))
    }

    /// Asks for the cancellation of the runs that take longer than their `dagrun_timeout`: of that one, or of all that no
    /// process drives as its own. Each is asked for once, with the reason; at most 1,000 in a turn. Says how many.
    pub async fn cancel_overdue(&self, of: Option<RunKey>, now: Timestamp) -> Result<u64, StoreError> {
        sqlx::query!(
            "UPDATE run
             SET cancel_requested_at = $2,
                 cancel_reason       = 'it ran longer than its dagrun_timeout of '
                     || CASE
                            WHEN seconds < 60 THEN seconds || ' s'
                            WHEN seconds < 3600 AND seconds % 60 = 0 THEN seconds / 60 || ' m'
                            WHEN seconds < 3600 THEN seconds || ' s'
                            ELSE seconds / 3600 || ' h ' || seconds % 3600 / 60 || ' m'
                        END,
                 version             = version + 1
             FROM (SELECT id, ceil(extract(epoch FROM timeout_limit))::bigint AS seconds
                   FROM run
                   WHERE timeout_at <= $2
                     AND state = 'running'
                     AND cancel_requested_at IS NULL
                     AND CASE WHEN $1::bigint IS NULL THEN owner_id IS NULL ELSE id = $1 END
                   ORDER BY id
                   LIMIT 1000
                   FOR NO KEY UPDATE) AS overdue
             WHERE run.id = overdue.id",
            of.map(|run| run.0),
            now,
        )
        .execute(&self.pool)
        .await
        .map(|done| done.rows_affected())
        .map_err(StoreError::query("look for runs that take too long"))
    }

    /// Fails an unfinished run that nobody can go on with, with its unfinished tasks: `words` say why. One that ended
    /// meanwhile stays as it is.
    pub async fn give_up_run(&self, key: RunKey, words: &str, now: Timestamp) -> Result<(), StoreError> {
        sqlx::query_file!("src/store/sql/give_up_run.sql", key.0, rows::text(words), now)
            .execute(&self.pool)
            .await
            .map_err(StoreError::query("give a run up"))?;
        Ok(())
    }

    /// Asks for a run's cancellation, once; whoever drives the run acts on it. Says when it was first asked, or `None`
    /// when the run is finished already.
    pub async fn request_cancel(&self, key: RunKey, now: Timestamp) -> Result<Option<Timestamp>, StoreError> {
        let failed = StoreError::query("ask for a run's cancellation");
        let mut connection = self.pool.acquire().await.map_err(&failed)?;
        Ok(cancel_runs(&mut connection, &[key.0], None, now).await?.first().map(|(_, at)| *at))
    }
}

/// Asks for the cancellation of those of these runs that are unfinished, each once; says which, and when it was first asked
/// for. `reason` says why, where it is not a person who asks.
pub(in crate::store) async fn cancel_runs(
    connection: &mut PgConnection,
    runs: &[i64],
    reason: Option<&str>,
    now: Timestamp,
) -> Result<Vec<(RunKey, Timestamp)>, StoreError> {
    let rows = sqlx::query!(
        r#"UPDATE run
           SET cancel_requested_at = COALESCE(cancel_requested_at, $2),
               cancel_reason       = COALESCE(cancel_reason, $3),
               version             = version + 1,
               -- One that waits for its turn has no task that would have to end first.
               state               = CASE WHEN state = 'queued' THEN 'failed' ELSE state END,
               finished_at         = CASE WHEN state = 'queued' THEN $2::timestamptz END
           WHERE id = ANY ($1) AND state IN ('queued', 'running')
           RETURNING id, cancel_requested_at AS "at!""#,
        runs,
        now,
        reason
    )
    .fetch_all(connection)
    .await
    .map_err(StoreError::query("ask for a run's cancellation"))?;
    Ok(rows.into_iter().map(|row| (RunKey(row.id), row.at)).collect())
}
