//! What a stepper knows of a run: its own row, and the tasks that it came across, at one version of the run.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use sqlx::PgConnection;

use crate::domain::dag::{Dag, Task};
use crate::domain::ids::{RunKey, TaskIndex};
use crate::domain::plan::{Plan, Snapshot, TaskSnapshot};
use crate::domain::task_state::TaskState;
use crate::domain::trigger_rule::UpstreamCounts;
use crate::store::steps::EndedAttempt;
use crate::store::{StoreError, rows};

/// A run at a version. Each step and each cancel request raises the version, so that what was read at one holds as long
/// as it stands; a claim does not: whether a queued task is still queued the database alone knows.
#[derive(Debug)]
pub(super) struct KnownRun {
    pub(super) version: i64,
    /// Whether what a step releases may be claimed by it: not of a paused DAG, and not past a limit of the default pool.
    pub(super) takes: bool,
    pub(super) snapshot: Snapshot,
    pub(super) fences: BTreeMap<TaskIndex, i64>,
}

/// A row of `task_run`, or, without an index, of its run.
#[derive(Debug)]
pub(super) struct TaskRow {
    pub(super) run_key: i64,
    pub(super) task_index: Option<i32>,
    pub(super) state: String,
    pub(super) fence: i64,
    pub(super) try_number: i32,
    pub(super) first_try: i32,
    pub(super) lost: i32,
    pub(super) clears: i32,
    pub(super) upstream_unfinished: i32,
    pub(super) upstream_success: i32,
    pub(super) upstream_failed: i32,
    pub(super) upstream_upstream_failed: i32,
    pub(super) upstream_skipped: i32,
    pub(super) upstream_setups_succeeded: i32,
    pub(super) upstream_setups_skipped: i32,
    pub(super) map_of: Option<i32>,
}

impl TaskRow {
    pub(super) fn index(&self) -> Option<TaskIndex> {
        self.task_index.map(|index| TaskIndex(index.cast_unsigned()))
    }
}

impl KnownRun {
    /// Reads these runs, and of each these tasks, up to `reach` of those after them, and, where its cancellation was asked
    /// for, all that are not final. Runs that are gone are left out.
    pub(super) async fn read(
        connection: &mut PgConnection,
        wanted: &[(RunKey, &Dag, BTreeSet<TaskIndex>)],
        reach: usize,
    ) -> Result<BTreeMap<RunKey, Self>, StoreError> {
        let keys: Vec<i64> = wanted.iter().map(|(run, ..)| run.0).collect();
        let rows = sqlx::query!(
            r#"SELECT r.id, r.version, r.cancel_requested_at IS NOT NULL AS "cancel_requested!", r.tasks_unfinished,
                      r.leaves_failed,
                      (r.owner_id IS NOT NULL OR NOT d.is_paused)
                        AND NOT EXISTS (SELECT 1 FROM pool WHERE name = 'default_pool') AS "takes!"
               FROM run AS r
               JOIN dag AS d ON d.id = r.dag_key
               WHERE r.id = ANY ($1)"#,
            &keys
        )
        .fetch_all(&mut *connection)
        .await
        .map_err(StoreError::query("read runs"))?;
        let mut runs = BTreeMap::new();
        for row in rows {
            let snapshot = Snapshot {
                cancel_requested: row.cancel_requested,
                tasks_unfinished: rows::count(row.tasks_unfinished)?,
                leaves_failed: rows::count(row.leaves_failed)?,
                tasks: BTreeMap::new(),
            };
            let (version, takes) = (row.version, row.takes);
            runs.insert(RunKey(row.id), Self { version, takes, snapshot, fences: BTreeMap::new() });
        }
        let mut tasks = Vec::new();
        for (run, dag, wanted) in wanted {
            let Some(known) = runs.get(run) else { continue };
            let mut wanted = known.ahead(dag, wanted, reach);
            if known.snapshot.cancel_requested {
                wanted.extend(unfinished(connection, *run).await?);
            }
            tasks.extend(wanted.into_iter().map(|task| (*run, task)));
        }
        let dags: BTreeMap<RunKey, &Dag> = wanted.iter().map(|(run, dag, _)| (*run, *dag)).collect();
        for row in read_tasks(connection, &tasks).await? {
            let run = RunKey(row.run_key);
            if let (Some(known), Some(dag), Some(index)) = (runs.get_mut(&run), dags.get(&run), row.index()) {
                known.learn(&row, dag.setups_upstream(index))?;
            }
        }
        Ok(runs)
    }

    /// Reads these tasks too. They may be newer than the rest, whose version is then refused when it is written.
    pub(super) async fn look_up(
        &mut self,
        connection: &mut PgConnection,
        run: RunKey,
        dag: &Dag,
        tasks: &BTreeSet<TaskIndex>,
    ) -> Result<(), StoreError> {
        let wanted: Vec<(RunKey, TaskIndex)> = tasks.iter().map(|index| (run, *index)).collect();
        let rows = read_tasks(connection, &wanted).await?;
        rows.iter().try_for_each(|row| match row.index() {
            Some(index) => self.learn(row, dag.setups_upstream(index)),
            None => Ok(()),
        })
    }

    /// Takes in a claimed row, unless it is of a task that was not come across, of a DAG that is not at hand: then it is
    /// read when it is needed.
    pub(super) fn learn_claim(&mut self, row: &TaskRow, dag: Option<&Dag>) -> Result<(), StoreError> {
        let Some(index) = row.index() else { return Ok(()) };
        let setups = match (dag, self.snapshot.tasks.get(&index)) {
            (_, Some(task)) => task.upstream.setups,
            (Some(dag), None) => dag.setups_upstream(index),
            (None, None) => return Ok(()),
        };
        self.learn(row, setups)
    }

    /// Takes in a row of `task_run`, so many of whose upstreams are setups.
    fn learn(&mut self, row: &TaskRow, setups: u32) -> Result<(), StoreError> {
        let Some(index) = row.index() else { return Ok(()) };
        let upstream = UpstreamCounts {
            unfinished: rows::count(row.upstream_unfinished)?,
            success: rows::count(row.upstream_success)?,
            failed: rows::count(row.upstream_failed)?,
            upstream_failed: rows::count(row.upstream_upstream_failed)?,
            skipped: rows::count(row.upstream_skipped)?,
            setups,
            setups_succeeded: rows::count(row.upstream_setups_succeeded)?,
            setups_skipped: rows::count(row.upstream_setups_skipped)?,
        };
        let state = rows::task_state(&row.state)?;
        let (try_number, first_try, lost) = (row.try_number, row.first_try, row.lost);
        let map_of = row.map_of.map(|parent| TaskIndex(parent.cast_unsigned()));
        let task = TaskSnapshot { state, upstream, try_number, first_try, lost, map_of };
        self.fences.insert(index, row.fence);
        self.snapshot.tasks.insert(index, task);
        Ok(())
    }

    /// What is `wanted`, and up to `reach` of the tasks after it that are not known yet.
    pub(super) fn ahead(&self, dag: &Dag, wanted: &BTreeSet<TaskIndex>, reach: usize) -> BTreeSet<TaskIndex> {
        let mut found = wanted.clone();
        let mut next: VecDeque<TaskIndex> = wanted.iter().copied().collect();
        while let Some(index) = next.pop_front().filter(|_| found.len() < wanted.len() + reach) {
            let unseen = |index: &TaskIndex| !self.knows(*index) && found.insert(*index);
            next.extend(dag.downstream(index).into_iter().filter(unseen));
        }
        found
    }

    pub(super) fn knows(&self, index: TaskIndex) -> bool {
        self.snapshot.tasks.contains_key(&index)
    }

    /// Whether the attempt holds its task.
    pub(super) fn holds(&self, ended: &EndedAttempt) -> bool {
        self.fences.get(&ended.task) == Some(&ended.fence)
            && self.snapshot.tasks.get(&ended.task).is_some_and(|task| task.state.is_held())
    }

    /// The task of the DAG that a known task run is one of: of an instance the mapped task.
    pub(super) fn described<'d>(&self, dag: &'d Dag, index: TaskIndex) -> Option<&'d Task> {
        let map_of = self.snapshot.tasks.get(&index).and_then(|task| task.map_of);
        dag.task(map_of.unwrap_or(index))
    }

    /// Takes in the instances that a mapped task has now, the first of them at `first`.
    pub(super) fn learn_instances(&mut self, map_of: TaskIndex, first: TaskIndex, count: u32) {
        let upstream = UpstreamCounts::default();
        let state = TaskState::Queued;
        let task = TaskSnapshot { state, upstream, try_number: 1, first_try: 1, lost: 0, map_of: Some(map_of) };
        for index in (first.0..first.0 + count).map(TaskIndex) {
            self.snapshot.tasks.insert(index, task);
            self.fences.insert(index, 0);
        }
    }

    /// Follows a plan that was written.
    pub(super) fn follow(&mut self, plan: &Plan) {
        self.version += 1;
        let unfinished = self.snapshot.tasks_unfinished + plan.added();
        self.snapshot.tasks_unfinished = unfinished.saturating_sub(plan.finished);
        self.snapshot.leaves_failed += plan.leaves_failed;
        for (index, counts) in &plan.counts {
            if let Some(task) = self.snapshot.tasks.get_mut(index) {
                task.upstream = *counts;
            }
        }
        for step in &plan.moves {
            if let Some(task) = self.snapshot.tasks.get_mut(&step.task) {
                (task.state, task.try_number, task.lost) = (step.to, step.try_number, step.lost);
            }
        }
    }
}

async fn read_tasks(connection: &mut PgConnection, wanted: &[(RunKey, TaskIndex)]) -> Result<Vec<TaskRow>, StoreError> {
    let runs: Vec<i64> = wanted.iter().map(|(run, _)| run.0).collect();
    let indexes: Vec<i32> = wanted.iter().map(|(_, index)| index.0.cast_signed()).collect();
    sqlx::query_as!(
        TaskRow,
        r#"SELECT t.run_key, t.task_index AS "task_index?", t.state AS "state!", t.fence, t.try_number, t.first_try, t.lost,
                  0 AS "clears!", t.upstream_unfinished, t.upstream_success, t.upstream_failed,
                  t.upstream_upstream_failed, t.upstream_skipped, t.upstream_setups_succeeded, t.upstream_setups_skipped,
                  t.map_of
           FROM unnest($1::bigint[], $2::int[]) AS wanted (run_key, task_index)
           JOIN task_run AS t ON t.run_key = wanted.run_key AND t.task_index = wanted.task_index"#,
        &runs,
        &indexes,
    )
    .fetch_all(connection)
    .await
    .map_err(StoreError::query("read tasks of runs"))
}

async fn unfinished(connection: &mut PgConnection, run: RunKey) -> Result<Vec<TaskIndex>, StoreError> {
    let rows = sqlx::query_scalar!(
        "SELECT task_index FROM task_run
         WHERE run_key = $1 AND state IN ('none', 'queued', 'running', 'deferred', 'mapped', 'up_for_retry')",
        run.0
    )
    .fetch_all(connection)
    .await
    .map_err(StoreError::query("read a run's unfinished tasks"))?;
    Ok(rows.into_iter().map(|index| TaskIndex(index.cast_unsigned())).collect())
}
