//! What computes results from objects by SQL. DataFusion in process is one engine; Spark can be another: nothing else
//! in the operator knows which it is.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use serde_json::Value;

use crate::connect::S3Endpoint;
use crate::connect::s3::{ObjectSummary, S3Error};
use crate::engine::operator::{Failure, Progress};
use crate::engine::task_log::TaskLog;

use super::config::{ColumnType, Format};

/// An engine. It reads objects and writes files of its scratch folder, nothing else: publishing results is not its
/// work, so it may be stopped (its future dropped) and started anew at any time.
#[async_trait]
pub(super) trait Engine: Send + Sync {
    /// As `datafusion`.
    fn name(&self) -> &'static str;

    /// Runs the scripts in order; one result set for each that ends in a query.
    async fn compute(&self, job: Job) -> Result<Vec<ResultSet>, EngineError>;
}

/// What an engine is asked to do.
#[derive(Clone)]
pub(super) struct Job {
    pub(super) tables: Vec<Table>,
    pub(super) scripts: Vec<Script>,
    pub(super) s3: S3Endpoint,
    /// An empty folder of the attempt's own, removed after it.
    pub(super) scratch: PathBuf,
    /// In bytes; what needs more goes to files of the scratch folder.
    pub(super) memory_limit: usize,
    pub(super) log: TaskLog,
    pub(super) progress: Arc<Progress>,
}

/// A raw table: the records of some objects.
#[derive(Debug, Clone)]
pub(super) struct Table {
    pub(super) name: String,
    pub(super) bucket: String,
    /// Where its objects were looked for, for messages: `s3://bucket/prefix`.
    pub(super) origin: String,
    pub(super) objects: Vec<ObjectSummary>,
    pub(super) format: Format,
    /// Types that are declared rather than found out.
    pub(super) columns: BTreeMap<String, ColumnType>,
}

/// An SQL file, rendered.
#[derive(Debug, Clone)]
pub(super) struct Script {
    /// The result's name: the file's without its extension.
    pub(super) name: String,
    /// The file as the DAG names it, for messages.
    pub(super) file: String,
    pub(super) text: String,
}

/// A result, in a Parquet file of the scratch folder.
#[derive(Debug, Clone)]
pub(super) struct ResultSet {
    pub(super) name: String,
    pub(super) columns: Vec<String>,
    pub(super) rows: u64,
    /// The first rows, a value for each column.
    pub(super) preview: Vec<Vec<Value>>,
    pub(super) file: PathBuf,
}

/// Why there are no results.
#[derive(Debug, thiserror::Error)]
pub(super) enum EngineError {
    /// The SQL does not parse, or names what is not there.
    #[error("{file}{}: {message}", position.map_or_else(String::new, |(line, column)| format!(":{line}:{column}")))]
    Sql { file: String, position: Option<(u64, u64)>, message: String },
    /// A query failed on the data.
    #[error("could not compute {file}: {message}")]
    Compute { file: String, message: String },
    /// A record that is none.
    #[error("could not read {object}, line {line}: {message}")]
    Record { object: String, line: u64, message: String },
    /// An object that is not what its name says, or objects that do not agree with each other.
    #[error("could not read {object} for table `{table}`: {message}")]
    Object { table: String, object: String, message: String },
    /// There is nothing to make a table of.
    #[error("table `{table}` has no columns: there are no records under {origin} and its `columns` are not declared")]
    Empty { table: String, origin: String },
    /// It does not fit, spilling included.
    #[error("{file} needs more than `memory_limit` ({limit_mb} MB), even with what can be in files: {message}")]
    Memory { file: String, limit_mb: usize, message: String },
    /// The object store.
    #[error(transparent)]
    S3(#[from] S3Error),
    /// The scratch folder.
    #[error("could not use the scratch folder `{}`", .path.display())]
    Scratch { path: PathBuf, source: std::io::Error },
}

impl From<EngineError> for Failure {
    fn from(error: EngineError) -> Self {
        match &error {
            EngineError::S3(s3) if !s3.is_transient() => Self::Fatal(super::with_help(error.to_string(), s3.help())),
            // A full disk may be emptied, so the scratch folder deserves another try.
            EngineError::S3(_) | EngineError::Scratch { .. } => Self::retry(&error),
            EngineError::Sql { .. }
            | EngineError::Compute { .. }
            | EngineError::Record { .. }
            | EngineError::Object { .. }
            | EngineError::Empty { .. }
            | EngineError::Memory { .. } => Self::fatal(&error),
        }
    }
}
