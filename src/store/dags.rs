//! DAGs as a service knows them: registered from their files, paused, retired, and how far their schedules are done.

use serde_json::Value;

use crate::domain::Timestamp;
use crate::domain::dag::{Dag, Overlap};
use crate::domain::ids::{DagId, RunKey};
use crate::store::creation::{Turn, content_hash, insert_run};
use crate::store::runs::cancel_runs;
use crate::store::{DagVersionId, NewRun, Run, Store, StoreError, rows};

/// The key of a DAG in our own tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DagKey(pub i64);

/// A DAG of a file, to be registered.
pub struct DagRegistration<'a> {
    /// The DAG.
    pub dag: &'a Dag,
    /// Its file, absolute.
    pub file: &'a str,
    /// The file's text.
    pub source: &'a str,
    /// From where on its ticks count, where it is new or comes back.
    pub begins: Option<Timestamp>,
    /// Whether its ticks count anew when it comes back after its file was gone.
    pub begins_anew: bool,
}

/// How a DAG stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DagState {
    /// Its key.
    pub key: DagKey,
    /// Its id.
    pub dag_id: DagId,
    /// What its next run is made from; nothing where no service has registered it.
    pub version: Option<DagVersionId>,
    /// The file of that version.
    pub file: Option<String>,
    /// Whether it is paused.
    pub is_paused: bool,
    /// When its file went away.
    pub retired_at: Option<Timestamp>,
    /// Ticks up to here are over.
    pub scheduled_until: Option<Timestamp>,
    /// When its schedule is due next.
    pub next_tick: Option<Timestamp>,
}

/// A tick that is to become a run.
pub struct Tick<'a> {
    /// The DAG.
    pub dag: DagKey,
    /// What the run is made from.
    pub version: DagVersionId,
    /// The run.
    pub new: NewRun<'a>,
    /// Up to where ticks were over when this was decided.
    pub was_until: Option<Timestamp>,
    /// Up to where they are over with this one.
    pub until: Timestamp,
    /// The tick after it.
    pub next: Option<Timestamp>,
    /// What becomes of it while an earlier run is unfinished.
    pub overlap: Overlap,
}

/// What became of a tick.
#[derive(Debug)]
pub enum Fired {
    /// The run, and the runs whose cancellation was asked for because of it.
    Run(Box<Run>, Vec<RunKey>),
    /// An earlier run is unfinished, and the DAG says to skip then.
    Skipped,
    /// Another process was first, or the DAG was paused or retired meanwhile.
    Elsewhere,
}

struct DagRow {
    id: i64,
    dag_id: String,
    dag_version_id: Option<i64>,
    file: Option<String>,
    is_paused: bool,
    retired_at: Option<Timestamp>,
    scheduled_until: Option<Timestamp>,
    next_tick: Option<Timestamp>,
}

impl TryFrom<DagRow> for DagState {
    type Error = StoreError;

    fn try_from(row: DagRow) -> Result<Self, StoreError> {
        Ok(Self {
            key: DagKey(row.id),
            dag_id: rows::id("a DAG id", &row.dag_id)?,
            version: row.dag_version_id.map(DagVersionId),
            file: row.file,
            is_paused: row.is_paused,
            retired_at: row.retired_at,
            scheduled_until: row.scheduled_until,
            next_tick: row.next_tick,
        })
    }
}

/// The columns of a [`DagState`], for every query that reads one.
macro_rules! select_dags {
    ($rest:literal $(, $argument:expr)* $(,)?) => {
        sqlx::query_as!(
            DagRow,
            "SELECT d.id, d.dag_id, d.dag_version_id, v.file AS \"file?\", d.is_paused, d.retired_at, d.scheduled_until,
                    d.next_tick
             FROM dag AS d
             LEFT JOIN dag_version AS v ON v.id = d.dag_version_id " + $rest,
            $($argument),*
        )
    };
}

impl Store {
    /// Registers DAGs as their files have them now: each keeps that version, and one that is new begins.
    pub async fn register_dags(
        &self,
        registrations: &[DagRegistration<'_>],
        now: Timestamp,
    ) -> Result<Vec<DagState>, StoreError> {
        let settings = || registrations.iter().map(|one| &one.dag.settings);
        let ids: Vec<String> = settings().map(|settings| settings.id.to_string()).collect();
        let hashes: Vec<Vec<u8>> = registrations.iter().map(|one| content_hash(one.source)).collect();
        let files: Vec<String> = registrations.iter().map(|one| one.file.to_owned()).collect();
        let sources: Vec<String> = registrations.iter().map(|one| one.source.to_owned()).collect();
        let begins: Vec<Option<Timestamp>> = registrations.iter().map(|one| one.begins).collect();
        let anew: Vec<bool> = registrations.iter().map(|one| one.begins_anew).collect();
        let paused: Vec<bool> = settings().map(|settings| settings.paused_upon_creation).collect();
        let max_runs: Vec<i32> = settings().map(|settings| rows::stored(settings.max_active_runs)).collect();
        let max_tasks: Vec<Option<i32>> =
            settings().map(|settings| settings.max_active_tasks.map(rows::stored)).collect();
        loop {
            // By itself, and without a lock of what is there: who creates a run locks the DAG first, and then its version.
            sqlx::query!(
                "INSERT INTO dag_version (dag_id, content_hash, file, source, created_at)
                 SELECT dag_id, content_hash, file, source, $5
                 FROM unnest($1::text[], $2::bytea[], $3::text[], $4::text[]) AS given (dag_id, content_hash, file, source)
                 ORDER BY dag_id
                 ON CONFLICT ON CONSTRAINT dag_version_dag_id_content_hash_key DO NOTHING",
                &ids,
                &hashes,
                &files,
                &sources,
                now,
            )
            .execute(&self.pool)
            .await
            .map_err(StoreError::query("keep versions of DAGs"))?;
            let rows = sqlx::query_as!(
                DagRow,
                r#"WITH given AS MATERIALIZED (
                    SELECT * FROM unnest($1::text[], $2::bytea[], $3::text[], $4::timestamptz[], $5::bool[], $6::bool[],
                                         $7::int[], $8::int[])
                        AS given (dag_id, content_hash, file, begins, anew, paused, max_runs, max_tasks)
                ), version AS MATERIALIZED (
                    SELECT v.id, v.dag_id, v.file
                    FROM given AS g
                    JOIN dag_version AS v ON v.dag_id = g.dag_id AND v.content_hash = g.content_hash AND v.file = g.file
                    ORDER BY v.id
                    FOR KEY SHARE OF v -- retention deletes none of them before it is referred to
                ), registered AS (
                    INSERT INTO dag AS d (dag_id, dag_version_id, is_paused, scheduled_until, max_active_runs,
                                          max_active_tasks)
                    SELECT g.dag_id, v.id, g.paused, g.begins, g.max_runs, g.max_tasks
                    FROM given AS g
                    JOIN version AS v ON v.dag_id = g.dag_id
                    ORDER BY g.dag_id
                    ON CONFLICT ON CONSTRAINT dag_dag_id_key DO UPDATE SET
                        dag_version_id   = EXCLUDED.dag_version_id,
                        max_active_runs  = EXCLUDED.max_active_runs,
                        max_active_tasks = EXCLUDED.max_active_tasks,
                        -- One that nobody registered before, or whose file was gone, begins; another goes on where it was.
                        scheduled_until  = CASE
                            WHEN d.dag_version_id IS NULL THEN EXCLUDED.scheduled_until
                            WHEN d.retired_at IS NOT NULL AND d.dag_id IN (SELECT dag_id FROM given WHERE anew)
                                THEN EXCLUDED.scheduled_until
                            ELSE COALESCE(d.scheduled_until, EXCLUDED.scheduled_until) END,
                        retired_at       = NULL
                    RETURNING id, dag_id, dag_version_id, is_paused, retired_at, scheduled_until, next_tick
                )
                SELECT r.id AS "id!", r.dag_id AS "dag_id!", r.dag_version_id, v.file AS "file?", r.is_paused AS "is_paused!",
                       r.retired_at, r.scheduled_until, r.next_tick
                FROM registered AS r
                JOIN version AS v ON v.id = r.dag_version_id"#,
                &ids,
                &hashes,
                &files,
                &begins as &[Option<Timestamp>],
                &anew,
                &paused,
                &max_runs,
                &max_tasks as &[Option<i32>],
            )
            .fetch_all(&self.pool)
            .await
            .map_err(StoreError::query("register DAGs"))?;
            // Retention may have deleted an old version in between, which nothing referred to.
            if rows.len() >= ids.len() {
                return rows.into_iter().map(DagState::try_from).collect();
            }
        }
    }

    /// Retires DAGs whose files are gone: their schedules end, their history stays.
    pub async fn retire_dags(&self, dags: &[DagId], now: Timestamp) -> Result<(), StoreError> {
        let ids: Vec<String> = dags.iter().map(ToString::to_string).collect();
        sqlx::query!(
            "UPDATE dag SET retired_at = $2, next_tick = NULL WHERE dag_id = ANY ($1) AND retired_at IS NULL",
            &ids,
            now
        )
        .execute(&self.pool)
        .await
        .map_err(StoreError::query("retire DAGs"))?;
        Ok(())
    }

    /// Every DAG, by id, at most 100,000.
    pub async fn dag_states(&self) -> Result<Vec<DagState>, StoreError> {
        select_dags!("ORDER BY d.dag_id LIMIT 100000")
            .fetch_all(&self.pool)
            .await
            .map_err(StoreError::query("read the DAGs"))?
            .into_iter()
            .map(DagState::try_from)
            .collect()
    }

    /// One DAG.
    pub async fn dag_state(&self, dag: &DagId) -> Result<Option<DagState>, StoreError> {
        select_dags!("WHERE d.dag_id = $1", dag.as_str())
            .fetch_optional(&self.pool)
            .await
            .map_err(StoreError::query("read a DAG"))?
            .map(DagState::try_from)
            .transpose()
    }

    /// The text of the file that a version of a DAG was made from, with its path.
    pub async fn version_source(&self, version: DagVersionId) -> Result<crate::store::RunSource, StoreError> {
        sqlx::query_as!(crate::store::RunSource, "SELECT file, source FROM dag_version WHERE id = $1", version.0)
            .fetch_one(&self.pool)
            .await
            .map_err(StoreError::query("read a version of a DAG"))
    }

    /// Pauses a DAG, or lets it go on: then its ticks count from `begins` on where that is given, else from where they
    /// were. Says whether it was not so before; nothing where there is no such DAG.
    ///
    /// What runs ends; a paused DAG's waiting tasks wait on, and its runs do not begin.
    pub async fn pause_dag(&self, dag: &DagId, pause: Pause) -> Result<Option<bool>, StoreError> {
        let (is_paused, begins) = match pause {
            Pause::Pause => (true, None),
            Pause::GoOn { begins } => (false, begins),
        };
        let changed = sqlx::query_scalar!(
            r#"WITH before AS (
                SELECT id, is_paused FROM dag WHERE dag_id = $1 FOR NO KEY UPDATE
            ), changed AS (
                UPDATE dag SET is_paused = $2, scheduled_until = COALESCE($3, scheduled_until)
                FROM before
                WHERE dag.id = before.id AND before.is_paused <> $2
            ), told AS (
                -- Whoever knows these runs by heart looks anew.
                UPDATE run SET version = version + 1
                FROM before
                WHERE run.dag_key = before.id AND run.state IN ('queued', 'running') AND before.is_paused <> $2
            )
            SELECT is_paused <> $2 AS "changed!" FROM before"#,
            dag.as_str(),
            is_paused,
            begins,
        )
        .fetch_optional(&self.pool)
        .await
        .map_err(StoreError::query("pause a DAG"))?;
        Ok(changed)
    }

    /// Makes a tick a run, once, whoever tries: the DAG's ticks are over up to this one in the same transaction.
    ///
    /// # Errors
    /// [`StoreError::RunExists`] when the DAG has a run of that logical date already, which somebody made by hand.
    pub async fn fire(&self, tick: &Tick<'_>, now: Timestamp) -> Result<Fired, StoreError> {
        let failed = StoreError::query("make a tick a run");
        let mut transaction = self.pool.begin().await.map_err(&failed)?;
        let dag = sqlx::query!(
            r#"UPDATE dag SET scheduled_until = $3, next_tick = $4
               WHERE id = $1 AND scheduled_until IS NOT DISTINCT FROM $2 AND NOT is_paused AND retired_at IS NULL
               RETURNING max_active_runs"#,
            tick.dag.0,
            tick.was_until,
            tick.until,
            tick.next,
        )
        .fetch_optional(&mut *transaction)
        .await
        .map_err(&failed)?;
        let Some(dag) = dag else { return Ok(Fired::Elsewhere) };
        let unfinished = sqlx::query!(
            r#"SELECT id, state AS "state!" FROM run
               WHERE dag_key = $1 AND state IN ('queued', 'running') AND backfill_id IS NULL
               ORDER BY id"#,
            tick.dag.0
        )
        .fetch_all(&mut *transaction)
        .await
        .map_err(&failed)?;
        let mut cancelled = Vec::new();
        match tick.overlap {
            Overlap::Skip if !unfinished.is_empty() => {
                transaction.commit().await.map_err(&failed)?;
                return Ok(Fired::Skipped);
            }
            Overlap::CancelRunning if !unfinished.is_empty() => {
                let keys: Vec<i64> = unfinished.iter().map(|run| run.id).collect();
                let reason = Some("the next run was due (overlap: cancel_running)");
                let asked = cancel_runs(&mut transaction, &keys, reason, now).await?;
                cancelled.extend(asked.into_iter().map(|(run, _)| run));
            }
            Overlap::Queue | Overlap::Skip | Overlap::CancelRunning => {}
        }
        let active = unfinished.iter().filter(|run| run.state == "running").count();
        let begins = i32::try_from(active).is_ok_and(|active| active < dag.max_active_runs);
        let turn = if begins { Turn::Now } else { Turn::Later };
        let run = insert_run(&mut transaction, &tick.new, tick.dag.0, tick.version, turn, now).await?;
        transaction.commit().await.map_err(&failed)?;
        Ok(Fired::Run(Box::new(run), cancelled))
    }

    /// Notes that ticks are over up to there without a run, if they stood where they were; and when the next one is due.
    pub async fn pass_ticks(
        &self,
        dag: DagKey,
        was_until: Option<Timestamp>,
        until: Option<Timestamp>,
        next: Option<Timestamp>,
    ) -> Result<(), StoreError> {
        sqlx::query!(
            "UPDATE dag SET scheduled_until = $3, next_tick = $4
             WHERE id = $1 AND scheduled_until IS NOT DISTINCT FROM $2
               AND (scheduled_until, next_tick) IS DISTINCT FROM ($3, $4)",
            dag.0,
            was_until,
            until,
            next
        )
        .execute(&self.pool)
        .await
        .map_err(StoreError::query("note how far a schedule is"))?;
        Ok(())
    }

    /// Notes when schedules are due next, for people.
    pub async fn note_next_ticks(&self, ticks: &[(DagKey, Timestamp)]) -> Result<(), StoreError> {
        if ticks.is_empty() {
            return Ok(());
        }
        let keys: Vec<i64> = ticks.iter().map(|(key, _)| key.0).collect();
        let next: Vec<Timestamp> = ticks.iter().map(|(_, next)| *next).collect();
        sqlx::query!(
            "UPDATE dag SET next_tick = due.next_tick
             FROM unnest($1::bigint[], $2::timestamptz[]) AS due (id, next_tick)
             WHERE dag.id = due.id AND NOT dag.is_paused AND dag.retired_at IS NULL",
            &keys,
            &next
        )
        .execute(&self.pool)
        .await
        .map_err(StoreError::query("note when schedules are due"))?;
        Ok(())
    }

    /// The runs whose turn it may be, oldest logical date first within a DAG, in order within a backfill; at most 200.
    pub async fn runs_in_turn(&self) -> Result<Vec<Run>, StoreError> {
        let keys = sqlx::query_scalar!(
            r#"WITH ranked AS (
                SELECT r.id, r.dag_key, r.backfill_id,
                       row_number() OVER (PARTITION BY r.dag_key, r.backfill_id
                                          ORDER BY r.backfill_place, r.logical_date, r.id) AS place
                FROM run AS r
                WHERE r.state = 'queued' AND r.cancel_requested_at IS NULL
            )
            SELECT ranked.id
            FROM ranked
            JOIN dag AS d ON d.id = ranked.dag_key
            LEFT JOIN backfill AS b ON b.id = ranked.backfill_id
            WHERE NOT d.is_paused
              AND CASE WHEN b.id IS NULL
                THEN ranked.place <= d.max_active_runs - (
                    SELECT count(*) FROM run AS o
                    WHERE o.dag_key = ranked.dag_key AND o.state = 'running' AND o.backfill_id IS NULL
                      AND o.owner_id IS NULL)
                ELSE NOT b.is_paused AND ranked.place <= b.max_active_runs - (
                    SELECT count(*) FROM run AS o WHERE o.backfill_id = b.id AND o.state = 'running')
                END
            ORDER BY ranked.place, ranked.id
            LIMIT 200"#
        )
        .fetch_all(&self.pool)
        .await
        .map_err(StoreError::query("look for runs whose turn it is"))?;
        self.runs_of(&keys.into_iter().map(RunKey).collect::<Vec<_>>()).await
    }

    /// Whether the DAG has a run that is not over, backfills aside.
    pub async fn has_unfinished_run(&self, dag: DagKey) -> Result<bool, StoreError> {
        sqlx::query_scalar!(
            r#"SELECT EXISTS (
                SELECT 1 FROM run
                WHERE dag_key = $1 AND state IN ('queued', 'running') AND backfill_id IS NULL) AS "there!""#,
            dag.0
        )
        .fetch_one(&self.pool)
        .await
        .map_err(StoreError::query("look for unfinished runs"))
    }

    /// Notes what is wrong with DAG files: those given are broken so, those of `fixed` are right now, or gone.
    pub async fn note_import_errors(
        &self,
        broken: &[ImportError],
        fixed: &[String],
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let files: Vec<String> = broken.iter().map(|one| one.file.clone()).collect();
        let messages: Vec<String> = broken.iter().map(|one| rows::text(&one.message)).collect();
        let findings: Vec<Value> = broken.iter().map(|one| rows::json(&one.findings)).collect();
        sqlx::query!(
            "WITH fixed AS (
                DELETE FROM import_error WHERE file = ANY ($4) AND file <> ALL ($1)
            )
            INSERT INTO import_error (file, message, findings, seen_at)
            SELECT file, message, findings, $5 FROM unnest($1::text[], $2::text[], $3::jsonb[])
                AS broken (file, message, findings)
            ON CONFLICT (file) DO UPDATE
                SET message = EXCLUDED.message, findings = EXCLUDED.findings, seen_at = EXCLUDED.seen_at",
            &files,
            &messages,
            &findings,
            fixed,
            now
        )
        .execute(&self.pool)
        .await
        .map_err(StoreError::query("note what is wrong with DAG files"))?;
        Ok(())
    }

    /// What is wrong with DAG files, by file, at most 1,000.
    pub async fn import_errors(&self) -> Result<Vec<ImportError>, StoreError> {
        sqlx::query_as!(ImportError, "SELECT file, message, findings FROM import_error ORDER BY file LIMIT 1000")
            .fetch_all(&self.pool)
            .await
            .map_err(StoreError::query("read what is wrong with DAG files"))
    }
}

/// Pause, or go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pause {
    /// Nothing new begins.
    Pause,
    /// It goes on.
    GoOn {
        /// From where on ticks count, where not from where they were.
        begins: Option<Timestamp>,
    },
}

/// A DAG file that is broken.
#[derive(Debug, Clone, PartialEq)]
pub struct ImportError {
    /// The file, absolute.
    pub file: String,
    /// Its diagnostics as a person reads them.
    pub message: String,
    /// The same as a program does.
    pub findings: Value,
}
