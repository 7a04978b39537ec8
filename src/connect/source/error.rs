//! What can go wrong with a source database, and whether another attempt may help.

use std::time::Duration;

use sqlx::error::DatabaseError;

use crate::connect::sqlstate;

/// An error of a source database. Addresses carry no password.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The URL is none, or of a database that is not spoken here.
    #[error("the source's URL {0}")]
    Url(String),
    /// No connection.
    #[error("could not connect to the source {address}")]
    Unreachable {
        /// `mysql://host:port/database`.
        address: String,
        /// What the driver said.
        #[source]
        source: sqlx::Error,
    },
    /// The server knows us not, or not the database.
    #[error("the source {address} refused the connection")]
    Denied {
        /// `mysql://host:port/database`.
        address: String,
        /// What the server said.
        #[source]
        source: sqlx::Error,
    },
    /// A table that is not there.
    #[error("there is no table `{table}` in the source {address}")]
    NoTable {
        /// The table.
        table: String,
        /// Where it was looked for.
        address: String,
    },
    /// A column that is not there.
    #[error("table `{table}` has no column `{column}`; it has {found}")]
    NoColumn {
        /// The table.
        table: String,
        /// The column that was expected.
        column: String,
        /// The columns that it has.
        found: String,
    },
    /// A key that cannot be counted through.
    #[error("column `{column}` of table `{table}` is {found}; a key must be an integer")]
    KeyType {
        /// The table.
        table: String,
        /// The key.
        column: String,
        /// Its type.
        found: String,
    },
    /// A column whose values have no agreed form in JSON.
    #[error("column `{column}` of table `{table}` is {found}, which has no form in JSON; leave it out by a view")]
    ColumnType {
        /// The table.
        table: String,
        /// The column.
        column: String,
        /// Its type.
        found: String,
    },
    /// A value that JSON cannot hold, or that is not of its column's type.
    #[error("column `{column}` of table `{table}` holds {problem}")]
    Value {
        /// The table.
        table: String,
        /// The column.
        column: String,
        /// What it holds, as `NaN, which JSON cannot`.
        problem: String,
    },
    /// The same key twice in one table.
    #[error("table `{table}` has more than one row with `{key}` = {value}")]
    Duplicate {
        /// The table.
        table: String,
        /// Its key.
        key: String,
        /// The value that comes twice.
        value: i64,
    },
    /// A statement failed.
    #[error("could not {action} table `{table}` of the source")]
    Query {
        /// What was attempted, as `read rows of`.
        action: &'static str,
        /// The table.
        table: String,
        /// What the driver said.
        #[source]
        source: sqlx::Error,
    },
    /// A query of the user's own failed.
    #[error("the query failed at the source {address}")]
    Ask {
        /// `mysql://host:port/database`.
        address: String,
        /// What the driver said.
        #[source]
        source: sqlx::Error,
    },
    /// A query of the user's own had no answer in time.
    #[error("the source {address} did not answer the query within {} s", .limit.as_secs())]
    Silent {
        /// `mysql://host:port/database`.
        address: String,
        /// How long it was waited for.
        limit: Duration,
    },
    /// No answer in time.
    #[error("could not {action} table `{table}` of the source within {} s", .limit.as_secs())]
    TimedOut {
        /// What was attempted.
        action: &'static str,
        /// The table.
        table: String,
        /// How long it was waited for.
        limit: Duration,
    },
}

impl SourceError {
    /// Whether trying the same again later may help.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::TimedOut { .. } | Self::Silent { .. } => true,
            Self::Query { source, .. } | Self::Ask { source, .. } => sqlstate::may_pass(source),
            Self::Url(_)
            | Self::Denied { .. }
            | Self::NoTable { .. }
            | Self::NoColumn { .. }
            | Self::KeyType { .. }
            | Self::ColumnType { .. }
            | Self::Value { .. }
            | Self::Duplicate { .. } => false,
        }
    }

    pub(super) fn connecting(address: &str, source: sqlx::Error) -> Self {
        let address = address.to_owned();
        match source.as_database_error() {
            Some(error) if is_denial(error) => Self::Denied { address, source },
            _ if matches!(source, sqlx::Error::Configuration(_)) => Self::Denied { address, source },
            _ => Self::Unreachable { address, source },
        }
    }

    pub(super) fn query(action: &'static str, table: &str, address: &str, source: sqlx::Error) -> Self {
        let code = source.as_database_error().and_then(DatabaseError::code);
        match code.as_deref() {
            // Postgres: undefined_table, invalid_schema_name. MySQL: unknown table, unknown schema.
            Some("42P01" | "3F000" | "42S02") => Self::NoTable { table: table.to_owned(), address: address.to_owned() },
            _ => Self::Query { action, table: table.to_owned(), source },
        }
    }
}

/// SQLSTATE 28 is authorization, 3D000 and 42000 an unknown database or no right to it.
fn is_denial(error: &dyn DatabaseError) -> bool {
    error.code().is_some_and(|code| code.starts_with("28") || code == "3D000" || code == "42000" || code == "42501")
}
