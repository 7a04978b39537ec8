//! The append-only history of what happened to tasks.

use crate::domain::Timestamp;
use crate::domain::ids::{RunKey, TaskIndex};
use crate::domain::task_state::{TaskEvent, TaskState};
use crate::store::{Store, StoreError, rows};

/// One step of one task, as it was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transition {
    /// The task.
    pub task: TaskIndex,
    /// The fence of the attempt at that time.
    pub fence: i64,
    /// What happened.
    pub event: TaskEvent,
    /// The state before.
    pub from: TaskState,
    /// The state after.
    pub to: TaskState,
    /// When.
    pub at: Timestamp,
}

impl Store {
    /// A run's history in the order in which it was written, at most 100,000 steps.
    pub async fn transitions(&self, run: RunKey) -> Result<Vec<Transition>, StoreError> {
        let rows = sqlx::query!(
            "SELECT task_index, fence, event, from_state, to_state, at
             FROM transition
             WHERE run_key = $1
             ORDER BY id
             LIMIT 100000",
            run.0
        )
        .fetch_all(&self.pool)
        .await
        .map_err(StoreError::query("read a run's history"))?;
        rows.into_iter()
            .map(|row| {
                Ok(Transition {
                    task: TaskIndex(row.task_index.cast_unsigned()),
                    fence: row.fence,
                    event: rows::task_event(&row.event)?,
                    from: rows::task_state(&row.from_state)?,
                    to: rows::task_state(&row.to_state)?,
                    at: row.at,
                })
            })
            .collect()
    }
}
