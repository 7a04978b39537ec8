//! Task runs, their attempts and outputs, as people and successors read them.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::domain::Timestamp;
use crate::domain::dag::Dag;
use crate::domain::ids::{RunKey, TaskId, TaskIndex, TaskRunKey};
use crate::domain::mapping::{Instance, TaskName};
use crate::domain::task_output::{InstanceOutput, Spilled, TaskOutput};
use crate::domain::task_state::{AttemptOutcome, TaskState};
use crate::store::{Store, StoreError, WorkerId, rows};

/// A task run, as stored.
#[derive(Debug, Clone)]
pub struct TaskRun {
    /// Its place in the DAG.
    pub task: TaskIndex,
    /// Its id.
    pub task_id: TaskId,
    /// Where it stands.
    pub state: TaskState,
    /// Its current try.
    pub try_number: i32,
    /// How often it was claimed; 0 for never.
    pub fence: i64,
    /// How many workers died under it.
    pub lost: i32,
    /// Not to be claimed before this instant.
    pub ready_at: Option<Timestamp>,
    /// When its latest attempt began.
    pub started_at: Option<Timestamp>,
    /// When it became final.
    pub finished_at: Option<Timestamp>,
    /// When its latest attempt ended, where one has begun since it was last cleared: what is said of a task later, by a
    /// mark or a cancellation, makes that attempt no longer.
    pub attempt_finished_at: Option<Timestamp>,
    /// Why its latest attempt failed.
    pub error: Option<String>,
    /// Who holds it.
    pub worker: Option<WorkerId>,
    /// What it left, where that is in the database.
    pub output: Option<Map<String, Value>>,
    /// Where what it left is instead.
    pub spilled: Option<Spilled>,
    /// Of an instance: the mapped task.
    pub map_of: Option<TaskIndex>,
    /// Of an instance: which it is, from 0.
    pub map_index: Option<u32>,
    /// Of an instance: what it is called.
    pub label: Option<String>,
}

impl TaskRun {
    /// Its name: `each`, and of an instance `each[3]`.
    #[must_use]
    pub fn name(&self) -> TaskName {
        TaskName { task: self.task_id.clone(), map_index: self.map_index }
    }
}

/// An attempt, as stored.
#[derive(Debug, Clone)]
pub struct AttemptRecord {
    /// Its fence.
    pub fence: i64,
    /// The try that it belongs to.
    pub try_number: i32,
    /// When it began.
    pub started_at: Timestamp,
    /// When it ended.
    pub finished_at: Option<Timestamp>,
    /// How it ended.
    pub outcome: Option<AttemptOutcome>,
    /// Why it failed.
    pub error: Option<String>,
}

/// Where a task run is and how it stands, without what it left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TaskPlace {
    /// Its place in the run.
    pub task: TaskIndex,
    /// Where it stands.
    pub state: TaskState,
}

/// An instance of a mapped task, and how it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InstancePlace {
    /// The mapped task.
    pub map_of: TaskIndex,
    /// Which instance, from 0.
    pub map_index: u32,
    /// Where it stands.
    pub state: TaskState,
}

impl Store {
    /// The task run of that name; nothing where the run has none (yet).
    pub async fn task_row(&self, run: RunKey, name: &TaskName) -> Result<Option<TaskPlace>, StoreError> {
        let row = sqlx::query!(
            "SELECT task_index, state FROM task_run
             WHERE run_key = $1 AND task_id = $2 AND map_index IS NOT DISTINCT FROM $3",
            run.0,
            name.task.as_str(),
            name.map_index.map(u32::cast_signed)
        )
        .fetch_optional(&self.pool)
        .await
        .map_err(StoreError::query("look for a task of a run"))?;
        row.map(|row| {
            Ok(TaskPlace { task: TaskIndex(row.task_index.cast_unsigned()), state: rows::task_state(&row.state)? })
        })
        .transpose()
    }

    /// The instances of these mapped tasks of a run, by task and `map_index`.
    pub async fn instance_states(&self, run: RunKey, tasks: &[TaskIndex]) -> Result<Vec<InstancePlace>, StoreError> {
        let tasks: Vec<i32> = tasks.iter().map(|task| task.0.cast_signed()).collect();
        let rows = sqlx::query!(
            r#"SELECT map_of AS "map_of!", map_index AS "map_index!", state
               FROM task_run
               WHERE run_key = $1 AND map_of = ANY ($2)
               ORDER BY map_of, map_index"#,
            run.0,
            &tasks
        )
        .fetch_all(&self.pool)
        .await
        .map_err(StoreError::query("read how instances of mapped tasks stand"))?;
        rows.into_iter()
            .map(|row| {
                Ok(InstancePlace {
                    map_of: TaskIndex(row.map_of.cast_unsigned()),
                    map_index: row.map_index.cast_unsigned(),
                    state: rows::task_state(&row.state)?,
                })
            })
            .collect()
    }

    /// A run's tasks with their outputs, in the DAG's order, and after these the instances of mapped tasks by index.
    pub async fn task_runs(&self, run: RunKey) -> Result<Vec<TaskRun>, StoreError> {
        let rows = sqlx::query!(
            r#"SELECT t.task_index, t.task_id, t.state, t.try_number, t.fence, t.lost, t.ready_at, t.started_at,
                      t.finished_at, t.error, t.worker_id, t.map_of, t.map_index, m.label AS "label?",
                      o.output AS "output?", o.spilled AS "spilled?", a.finished_at AS "attempt_finished_at?"
               FROM task_run AS t
               LEFT JOIN task_output AS o ON o.run_key = t.run_key AND o.task_index = t.task_index
               LEFT JOIN map_item AS m ON m.run_key = t.run_key AND m.task_index = t.task_index
               LEFT JOIN attempt AS a
                   ON a.run_key = t.run_key AND a.task_index = t.task_index AND a.fence = t.fence AND t.started_at IS NOT NULL
               WHERE t.run_key = $1
               ORDER BY t.task_index"#,
            run.0
        )
        .fetch_all(&self.pool)
        .await
        .map_err(StoreError::query("read a run's tasks"))?;
        rows.into_iter()
            .map(|row| {
                let left = rows::left(row.output, row.spilled)?;
                Ok(TaskRun {
                    task: TaskIndex(row.task_index.cast_unsigned()),
                    task_id: rows::id("a task id", &row.task_id)?,
                    state: rows::task_state(&row.state)?,
                    try_number: row.try_number,
                    fence: row.fence,
                    lost: row.lost,
                    ready_at: row.ready_at,
                    started_at: row.started_at,
                    finished_at: row.finished_at,
                    attempt_finished_at: row.attempt_finished_at,
                    error: row.error,
                    worker: row.worker_id.map(WorkerId),
                    output: left.as_ref().and_then(TaskOutput::object).cloned(),
                    spilled: match left {
                        Some(TaskOutput::Spilled(spilled)) => Some((*spilled).clone()),
                        _ => None,
                    },
                    map_of: row.map_of.map(|index| TaskIndex(index.cast_unsigned())),
                    map_index: row.map_index.map(i32::cast_unsigned),
                    label: row.label,
                })
            })
            .collect()
    }

    /// Those of a run's tasks that have ended, each with the output that it left, if it left one; of a mapped task a list
    /// that [`Self::list_outputs`] reads.
    pub async fn outputs(
        &self,
        run: RunKey,
        dag: &Dag,
        tasks: &[TaskIndex],
    ) -> Result<BTreeMap<TaskIndex, Option<TaskOutput>>, StoreError> {
        let is_mapped = |index: &TaskIndex| dag.task(*index).is_some_and(|task| task.mapping.is_some());
        let mapped: Vec<TaskIndex> = tasks.iter().copied().filter(is_mapped).collect();
        let tasks: Vec<i32> = tasks.iter().map(|task| task.0.cast_signed()).collect();
        let rows = sqlx::query!(
            r#"SELECT t.task_index, o.output AS "output?", o.spilled AS "spilled?"
               FROM task_run AS t
               LEFT JOIN task_output AS o ON o.run_key = t.run_key AND o.task_index = t.task_index
               WHERE t.run_key = $1 AND t.task_index = ANY ($2) AND t.finished_at IS NOT NULL
               ORDER BY t.task_index"#,
            run.0,
            &tasks
        )
        .fetch_all(&self.pool)
        .await
        .map_err(StoreError::query("read a run's outputs"))?;
        let mut left = BTreeMap::new();
        for row in rows {
            let index = TaskIndex(row.task_index.cast_unsigned());
            let output = match mapped.contains(&index) {
                true => Some(TaskOutput::listed(index)),
                false => rows::left(row.output, row.spilled)?,
            };
            left.insert(index, output);
        }
        Ok(left)
    }

    /// How many bytes of JSON the list is that [`Self::list_outputs`] reads, with what of it is in object storage.
    pub async fn size_of_outputs(&self, run: RunKey, task: TaskIndex) -> Result<u64, StoreError> {
        let bytes = sqlx::query_scalar!(
            r#"SELECT COALESCE(sum(COALESCE((o.spilled ->> 'bytes')::bigint, octet_length(o.output::text))), 0)::bigint
                   AS "bytes!"
               FROM task_run AS t
               JOIN task_output AS o ON o.run_key = t.run_key AND o.task_index = t.task_index
               WHERE t.run_key = $1 AND t.map_of = $2 AND t.state = 'success'"#,
            run.0,
            task.0.cast_signed()
        )
        .fetch_one(&self.pool)
        .await
        .map_err(StoreError::query("add up the outputs of a mapped task"))?;
        Ok(bytes.cast_unsigned())
    }

    /// What the instances of a mapped task left, by `map_index`, without those that were skipped or failed.
    pub async fn list_outputs(&self, run: RunKey, task: TaskIndex) -> Result<TaskOutput, StoreError> {
        let rows = sqlx::query!(
            r#"SELECT t.map_index AS "map_index!", o.output AS "output?", o.spilled AS "spilled?"
               FROM task_run AS t
               JOIN task_output AS o ON o.run_key = t.run_key AND o.task_index = t.task_index
               WHERE t.run_key = $1 AND t.map_of = $2 AND t.state = 'success'
               ORDER BY t.map_index"#,
            run.0,
            task.0.cast_signed()
        )
        .fetch_all(&self.pool)
        .await
        .map_err(StoreError::query("read the outputs of a mapped task"))?;
        let outputs = rows.into_iter().map(|row| {
            let output = rows::left(row.output, row.spilled)?;
            Ok(output.map(|output| InstanceOutput { map_index: row.map_index.cast_unsigned(), output }))
        });
        Ok(TaskOutput::each(outputs.filter_map(Result::transpose).collect::<Result<_, StoreError>>()?))
    }

    /// Which instances these task runs are, each with its mapped task; those that are none, or are gone, are left out.
    pub async fn instances(
        &self,
        run: RunKey,
        tasks: &[TaskIndex],
    ) -> Result<BTreeMap<TaskIndex, (TaskIndex, Instance)>, StoreError> {
        let tasks: Vec<i32> = tasks.iter().map(|task| task.0.cast_signed()).collect();
        let rows = sqlx::query!(
            r#"SELECT t.task_index, t.map_of AS "map_of!", t.map_index AS "map_index!", m.item
               FROM task_run AS t
               JOIN map_item AS m ON m.run_key = t.run_key AND m.task_index = t.task_index
               WHERE t.run_key = $1 AND t.task_index = ANY ($2)"#, // that of an instance alone has an item
            run.0,
            &tasks
        )
        .fetch_all(&self.pool)
        .await
        .map_err(StoreError::query("read instances of a mapped task"))?;
        rows.into_iter()
            .map(|row| {
                let instance = Instance { map_index: row.map_index.cast_unsigned(), item: object(row.item)? };
                Ok((TaskIndex(row.task_index.cast_unsigned()), (TaskIndex(row.map_of.cast_unsigned()), instance)))
            })
            .collect()
    }

    /// When the first attempt of a task run began, of those since it was last cleared; nothing before there is one.
    pub async fn first_attempt_at(&self, task_run: TaskRunKey) -> Result<Option<Timestamp>, StoreError> {
        sqlx::query_scalar!(
            "SELECT min(a.started_at)
             FROM attempt AS a
             JOIN task_run AS t ON t.run_key = a.run_key AND t.task_index = a.task_index AND t.first_try <= a.try_number
             WHERE a.run_key = $1 AND a.task_index = $2",
            task_run.run.0,
            task_run.task.0.cast_signed(),
        )
        .fetch_one(&self.pool)
        .await
        .map_err(StoreError::query("read when a task began"))
    }

    /// How those of a run's tasks stand that have these ids; a run that waits for its turn has none yet.
    pub async fn states_of_tasks(
        &self,
        run: RunKey,
        tasks: &[TaskId],
    ) -> Result<BTreeMap<TaskId, TaskState>, StoreError> {
        let ids: Vec<String> = tasks.iter().map(ToString::to_string).collect();
        let rows = sqlx::query!(
            "SELECT task_id, state FROM task_run WHERE run_key = $1 AND task_id = ANY ($2) AND map_of IS NULL",
            run.0,
            &ids
        )
        .fetch_all(&self.pool)
        .await
        .map_err(StoreError::query("read how tasks stand"))?;
        rows.into_iter().map(|row| Ok((rows::id("a task id", &row.task_id)?, rows::task_state(&row.state)?))).collect()
    }

    /// A task run's attempts, oldest first, at most 1,000.
    pub async fn attempts(&self, run: RunKey, task: TaskIndex) -> Result<Vec<AttemptRecord>, StoreError> {
        sqlx::query_as!(
            AttemptRow,
            "SELECT fence, try_number, started_at, finished_at, outcome, error
             FROM attempt
             WHERE run_key = $1 AND task_index = $2
             ORDER BY fence
             LIMIT 1000",
            run.0,
            task.0.cast_signed()
        )
        .fetch_all(&self.pool)
        .await
        .map_err(StoreError::query("read a task's attempts"))?
        .into_iter()
        .map(AttemptRecord::try_from)
        .collect()
    }
}

/// An attempt as the database has it.
pub(in crate::store) struct AttemptRow {
    pub(in crate::store) fence: i64,
    pub(in crate::store) try_number: i32,
    pub(in crate::store) started_at: Timestamp,
    pub(in crate::store) finished_at: Option<Timestamp>,
    pub(in crate::store) outcome: Option<String>,
    pub(in crate::store) error: Option<String>,
}

impl TryFrom<AttemptRow> for AttemptRecord {
    type Error = StoreError;

    fn try_from(row: AttemptRow) -> Result<Self, StoreError> {
        let AttemptRow { fence, try_number, started_at, finished_at, outcome, error } = row;
        let outcome = outcome.as_deref().map(rows::attempt_outcome).transpose()?;
        Ok(Self { fence, try_number, started_at, finished_at, outcome, error })
    }
}

fn object(value: Value) -> Result<Map<String, Value>, StoreError> {
    match value {
        Value::Object(map) => Ok(map),
        other => Err(StoreError::Corrupt { what: "an instance of a mapped task", value: other.to_string() }),
    }
}
