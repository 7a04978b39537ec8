//! Housekeeping: what is old is deleted, a little at a time.
//!
//! A job of the cron scheduler's tells when, once an hour and at the start; the work is done here, so that a stop ends it
//! between two statements. Each service with the scheduler's role has the job, and one of them at a time does the work.
//!
//! What it costs: for each DAG a walk over an index of its finished runs, up to `retention.runs_per_dag` entries, and
//! transactions of at most 100 runs and some 2,000 tasks with a pause between, each a fraction of a second.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use chrono::TimeDelta;
use tokio_cron_scheduler::{Job, JobScheduler, JobSchedulerError};

use crate::clock;
use crate::domain::Timestamp;
use crate::domain::ids::DagId;
use crate::engine::bells::Bell;
use crate::engine::operator::chain;
use crate::engine::outputs::{OutputStore, Unused, delete_unused};
use crate::engine::shutdown::Shutdown;
use crate::service::metrics::Metrics;
use crate::store::retention::{Beyond, Deleted};
use crate::store::{DagState, Store, StoreError};

/// Each hour, away from the full ones that everybody's jobs run at.
const HOURLY: &str = "0 17 * * * *";

/// At most so many runs, versions or workers in a transaction.
const BATCH: u32 = 100;

/// The pause after a transaction that deleted something: others have the database, too.
const PAUSE: Duration = Duration::from_millis(100);

/// Versions and workers that nobody refers to go after a day: who has just made one is about to refer to it.
const UNUSED: TimeDelta = TimeDelta::days(1);

/// Which finished runs are kept; `None` is no bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Retention {
    /// Those that ended within so many days.
    pub days: Option<NonZeroU32>,
    /// So many of each DAG, the newest.
    pub runs_per_dag: Option<NonZeroU32>,
}

impl Retention {
    /// What is past keeping now.
    #[must_use]
    pub fn beyond(self, now: Timestamp) -> Beyond {
        let ended_before = self.days.and_then(|days| now.checked_sub_signed(TimeDelta::days(days.get().into())));
        Beyond { ended_before, newest: self.runs_per_dag.map(NonZeroU32::get) }
    }
}

/// What was deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Swept {
    /// Finished runs, with all that belonged to them.
    pub runs: u64,
    /// Versions of DAG files that no run was of any more.
    pub versions: u64,
    /// Workers that were gone.
    pub workers: u64,
    /// Whether it ended early, since another process deletes now.
    pub elsewhere: bool,
}

/// Deletes what is past keeping: finished runs of these DAGs, then what nothing refers to any more. What was deleted
/// before an error stays so.
///
/// # Errors
/// When the database does not answer.
pub async fn sweep(
    store: &Store,
    dags: &[DagState],
    beyond: Beyond,
    now: Timestamp,
    metrics: Option<&Metrics>,
) -> Result<Swept, StoreError> {
    let mut swept = Swept::default();
    if beyond != Beyond::default() {
        for dag in dags {
            while let Deleted::Rows(runs) =
                noted(&mut swept, store.delete_runs_past_keeping(dag.key, beyond, BATCH).await?)
                && runs > 0
            {
                swept.runs += runs;
                if let Some(metrics) = metrics {
                    metrics.deleted(runs);
                }
                tokio::time::sleep(PAUSE).await;
            }
            if swept.elsewhere {
                return Ok(swept);
            }
        }
    }
    let unused_since = now - UNUSED;
    while let Deleted::Rows(versions) = noted(&mut swept, store.delete_versions(unused_since, BATCH).await?)
        && versions > 0
    {
        swept.versions += versions;
        tokio::time::sleep(PAUSE).await;
    }
    while let Deleted::Rows(workers) = noted(&mut swept, store.delete_workers(unused_since, BATCH).await?)
        && workers > 0
    {
        swept.workers += workers;
        tokio::time::sleep(PAUSE).await;
    }
    Ok(swept)
}

fn noted(swept: &mut Swept, deleted: Deleted) -> Deleted {
    swept.elsewhere |= deleted == Deleted::Elsewhere;
    deleted
}

/// How many runs a sweep would delete of each DAG, where it would any.
///
/// # Errors
/// When the database does not answer.
pub async fn past_keeping(store: &Store, dags: &[DagState], beyond: Beyond) -> Result<Vec<(DagId, u64)>, StoreError> {
    let mut counts = Vec::new();
    for dag in dags {
        let count = match beyond == Beyond::default() {
            true => 0,
            false => store.count_runs_past_keeping(dag.key, beyond).await?,
        };
        if count > 0 {
            counts.push((dag.dag_id.clone(), count));
        }
    }
    Ok(counts)
}

/// Keeps house until the process stops.
///
/// # Errors
/// When the job cannot be set up.
pub(super) async fn keep_house(
    store: Store,
    outputs: Arc<OutputStore>,
    retention: Retention,
    metrics: Arc<Metrics>,
    shutdown: Shutdown,
) -> Result<(), JobSchedulerError> {
    let due = Bell::default();
    let mut clockwork = JobScheduler::new().await?;
    let ringing = due.clone();
    clockwork
        .add(Job::new_async(HOURLY, move |_, _| {
            let ringing = ringing.clone();
            Box::pin(async move { ringing.ring() })
        })?)
        .await?;
    clockwork.start().await?;
    due.ring(); // a service that never lives to see the hour deletes, too
    loop {
        let swept = async {
            due.rung().await;
            let dags = store.dag_states().await?;
            let now = clock::now();
            sweep(&store, &dags, retention.beyond(now), now, Some(&metrics)).await
        };
        let swept = tokio::select! {
            () = shutdown.drained() => break,
            swept = swept => swept,
        };
        match swept {
            Ok(Swept { runs: 0, versions: 0, workers: 0, .. }) => {}
            Ok(Swept { runs, versions, workers, .. }) => {
                tracing::info!(runs, versions, workers, "deleted what is past keeping");
            }
            Err(error) => {
                tracing::warn!(error = %chain(&error), "could not delete what is past keeping; trying again in an hour");
            }
        }
        let deleted = tokio::select! {
            () = shutdown.drained() => break,
            deleted = delete_unused(&store, &outputs) => deleted,
        };
        match deleted {
            Ok(Unused { objects: 0, .. }) => {}
            Ok(Unused { runs, objects, bytes }) => {
                tracing::info!(runs, objects, bytes, "deleted the large outputs of runs that are gone");
            }
            Err(error) => {
                tracing::warn!(error = %chain(&error), "could not delete large outputs; trying again in an hour");
            }
        }
    }
    clockwork.shutdown().await
}
