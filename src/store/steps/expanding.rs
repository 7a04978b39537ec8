//! Mapped tasks in a step: their instances come to be in the transaction of the step that expands them, and what fails by
//! its instances says which.
//!
//! A step without an expansion is one statement, as before; one with an expansion has a further statement for each.

use std::collections::{BTreeMap, BTreeSet};

use sqlx::{Connection, PgConnection};

use crate::domain::Timestamp;
use crate::domain::ids::{RunKey, TaskIndex};
use crate::domain::mapping::{self, Expansion};
use crate::domain::plan::Plan;
use crate::domain::task_state::TaskState;
use crate::store::steps::Planned;
use crate::store::steps::known::KnownRun;
use crate::store::steps::writing::{Writing, Written};
use crate::store::{StoreError, rows};

/// So many failed instances are named by their index.
const NAMED: usize = 10;

/// Writes the plans; of those that were written the mapped tasks get their instances, all in one transaction. Where those
/// begin is noted in the plans.
pub(super) async fn write(
    connection: &mut PgConnection,
    writing: &Writing<'_>,
    planned: &mut [Planned<'_>],
    now: Timestamp,
) -> Result<Option<Written>, StoreError> {
    if planned.iter().all(|planned| planned.plan.expansions.is_empty()) {
        return writing.write(connection).await;
    }
    let failed = StoreError::query("expand a mapped task");
    let mut transaction = connection.begin().await.map_err(&failed)?;
    let Some(written) = writing.write(&mut transaction).await? else { return Ok(None) };
    for planned in planned.iter_mut().filter(|planned| written.runs.contains(&planned.batch.run)) {
        let own = u32::try_from(planned.batch.dag.tasks().len()).unwrap_or(u32::MAX);
        for (map_of, expansion) in &planned.plan.expansions {
            let first = insert(&mut transaction, planned.batch.run, own, *map_of, expansion, now).await?;
            planned.instances.push((*map_of, first));
        }
    }
    transaction.commit().await.map_err(&failed)?;
    Ok(Some(written))
}

/// Inserts the instances of a mapped task, ready now, under indexes that no task of the run had before; says the first.
async fn insert(
    connection: &mut PgConnection,
    run: RunKey,
    own_tasks: u32,
    map_of: TaskIndex,
    expansion: &Expansion,
    now: Timestamp,
) -> Result<TaskIndex, StoreError> {
    let items: Vec<serde_json::Value> =
        expansion.items.iter().map(|item| rows::json(&serde_json::Value::Object(item.clone()))).collect();
    let labels: Vec<Option<String>> = expansion.labels.iter().map(|label| label.as_deref().map(rows::text)).collect();
    let first = sqlx::query_file_scalar!(
        "src/store/sql/insert_instances.sql",
        run.0,
        map_of.0.cast_signed(),
        rows::stored(own_tasks),
        &items,
        &labels as &[Option<String>],
        now,
    )
    .fetch_one(connection)
    .await
    .map_err(StoreError::query("insert the instances of a mapped task"))?;
    Ok(TaskIndex(first.cast_unsigned()))
}

/// Why each mapped task fails that does so by this plan through its instances: how many, and the first of them.
pub(super) async fn failures(
    connection: &mut PgConnection,
    run: RunKey,
    known: &KnownRun,
    plan: &Plan,
) -> Result<BTreeMap<TaskIndex, String>, StoreError> {
    let mut found = BTreeMap::new();
    for step in plan.moves.iter().filter(|step| step.from == TaskState::Mapped && step.to == TaskState::Failed) {
        let Some(counts) = plan.counts.get(&step.task).filter(|counts| counts.unfinished == 0) else { continue };
        let ends = |index: &TaskIndex| known.snapshot.tasks.get(index).and_then(|task| task.map_of) == Some(step.task);
        let now: Vec<i32> = plan
            .moves
            .iter()
            .filter(|other| other.to.is_failure() && ends(&other.task))
            .map(|other| other.task.0.cast_signed())
            .collect();
        let rows = sqlx::query_scalar!(
            r#"SELECT map_index AS "map_index!" FROM task_run
               WHERE run_key = $1 AND map_of = $2 AND (state IN ('failed', 'upstream_failed') OR task_index = ANY ($3))
               ORDER BY map_index
               LIMIT $4"#,
            run.0,
            step.task.0.cast_signed(),
            &now,
            i64::try_from(NAMED).unwrap_or(i64::MAX),
        )
        .fetch_all(&mut *connection)
        .await
        .map_err(StoreError::query("read which instances failed"))?;
        let first: BTreeSet<u32> = rows.into_iter().map(i32::cast_unsigned).collect();
        let first: Vec<u32> = first.into_iter().collect();
        let failed = counts.failed + counts.upstream_failed;
        let all = failed + counts.success + counts.skipped;
        found.insert(step.task, mapping::failures(failed, all, &first));
    }
    Ok(found)
}
