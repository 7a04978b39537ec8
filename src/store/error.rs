//! What can go wrong with the store, and whose fault it is.

use secrecy::SecretString;
use sqlx::migrate::MigrateError;

use crate::domain::ids::{AttemptKey, DagId, RunId, RunKey};
use crate::domain::plan::PlanError;
use crate::store::address;

/// An error of the store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// No connection. The address carries no password.
    #[error("could not connect to the database {address}")]
    Unreachable {
        /// `postgres://host:port/database`.
        address: String,
        /// What the driver said.
        #[source]
        source: sqlx::Error,
    },
    /// The URL has a parameter that no connection takes. What it is may be a part of a password.
    #[error(
        "the database's URL has a parameter that no connection takes (these are known: {known}); in a user's name or password, `/`, `?`, `#` and `@` are written `%2F`, `%3F`, `%23` and `%40`"
    )]
    Parameter {
        /// The parameters that there are, and which may have been meant.
        known: String,
    },
    /// No answer.
    #[error("the database did not answer for {} s", .after.as_secs())]
    Silent {
        /// How long it was waited for.
        after: std::time::Duration,
    },
    /// The schema could not be brought up to date.
    #[error("could not migrate the database")]
    Migrate(#[source] MigrateError),
    /// The schema was made by a build whose migrations were others, which no release's are.
    #[error(
        "the database has the tables of an unreleased build of pinsched (migration {migration} was another): give an empty database, or for the embedded one another --home"
    )]
    OtherBuild {
        /// The migration's version.
        migration: i64,
    },
    /// A later version has brought the schema further than this one knows it.
    #[error(
        "the database is of a later version of pinsched (it has migration {migration}, which this one does not know): use that version, or restore a backup from before"
    )]
    Newer {
        /// The migration's version.
        migration: i64,
    },
    /// A statement failed.
    #[error("could not {action}")]
    Query {
        /// What was attempted, as `claim tasks`.
        action: &'static str,
        /// What the driver said.
        #[source]
        source: sqlx::Error,
    },
    /// Somebody else holds the task by now: this attempt may write nothing any more.
    #[error("attempt {} of task {} lost its lease: {found}", .attempt.fence, .attempt.task_run.task.0)]
    Fenced {
        /// Who tried to write.
        attempt: AttemptKey,
        /// How the task run stands now.
        found: String,
    },
    /// What is stored is not what the attempt took it for, though it holds the task: another attempt reads it anew.
    #[error("could not move on {what}: {found}")]
    Stale {
        /// Of what, as `how far task 2 is in u.pin/0`.
        what: String,
        /// How it stands now.
        found: String,
    },
    /// The DAG has such a run already.
    #[error("dag `{dag_id}` has a run `{run_id}` already")]
    RunExists {
        /// The DAG.
        dag_id: DagId,
        /// The run's id.
        run_id: RunId,
    },
    /// A transaction pooler (PgBouncer in transaction mode, say) stands between: session locks do not hold there.
    #[error(
        "the database is behind a transaction pooler, which breaks session locks; give the server's own address, or a session pooler's"
    )]
    Pooler,
    /// What was decided does not fit what is stored.
    #[error("run {} holds what cannot be", .run.0)]
    Inconsistent {
        /// The run.
        run: RunKey,
        /// Why.
        #[source]
        source: PlanError,
    },
    /// Tasks of a run were not where they had just been seen, and that again and again; nothing was written.
    #[error("tasks of run {} are not in the states that were just read", .run.0)]
    Moved {
        /// The run, or one of those that were written together.
        run: RunKey,
    },
    /// A row that no version of pinsched writes.
    #[error("the database holds {what} `{value}`, which is none")]
    Corrupt {
        /// What it should be, as `a task state`.
        what: &'static str,
        /// What it is.
        value: String,
    },
}

impl StoreError {
    pub(crate) fn unreachable(url: &SecretString, source: sqlx::Error) -> Self {
        if is_pooled(&source) {
            return Self::Pooler;
        }
        Self::Unreachable { address: address::told(url), source }
    }

    pub(in crate::store) fn migrate(source: MigrateError) -> Self {
        match source {
            MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) if is_pooled(&error) => {
                Self::Pooler
            }
            MigrateError::VersionMismatch(migration) => Self::OtherBuild { migration },
            MigrateError::VersionMissing(migration) => Self::Newer { migration },
            source => Self::Migrate(source),
        }
    }

    /// For `map_err`: a statement failed while `action` was attempted.
    pub(in crate::store) fn query(action: &'static str) -> impl Fn(sqlx::Error) -> Self {
        move |source| if is_pooled(&source) { Self::Pooler } else { Self::Query { action, source } }
    }

    /// What a failed insert of a run means.
    pub(in crate::store) fn run_exists(source: sqlx::Error, dag_id: &DagId, run_id: &RunId) -> Self {
        let constraint = source.as_database_error().and_then(|error| error.constraint());
        match constraint {
            Some("run_dag_id_run_id_key" | "run_dag_id_logical_date_key") => {
                Self::RunExists { dag_id: dag_id.clone(), run_id: run_id.clone() }
            }
            _ => Self::Query { action: "create a run", source },
        }
    }

    /// Whether trying the same again later may help.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Silent { .. } | Self::Stale { .. } | Self::Moved { .. } => true,
            Self::Query { source, .. } => may_pass(source),
            Self::Migrate(_)
            | Self::OtherBuild { .. }
            | Self::Newer { .. }
            | Self::Fenced { .. }
            | Self::RunExists { .. }
            | Self::Parameter { .. }
            | Self::Pooler
            | Self::Inconsistent { .. }
            | Self::Corrupt { .. } => false,
        }
    }
}

/// Whether a prepared statement was not where it was prepared, or was there already: another server process answers than
/// before.
fn is_pooled(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(|error| error.code());
    matches!(code.as_deref(), Some("26000" | "42P05"))
}

/// The classes of SQLSTATE that pass by themselves: connection exceptions, invalid transaction state (a standby that was
/// just promoted), rollbacks, insufficient resources, locks, operator intervention, system errors.
const PASSING: [&str; 7] = ["08", "25", "40", "53", "55", "57", "58"];

fn may_pass(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Database(error) => {
            error.code().is_some_and(|code| PASSING.iter().any(|class| code.starts_with(class)))
        }
        sqlx::Error::Io(_)
        | sqlx::Error::Tls(_)
        | sqlx::Error::Protocol(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::PoolClosed
        | sqlx::Error::WorkerCrashed => true,
        _ => false,
    }
}
