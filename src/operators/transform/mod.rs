//! `transform`: SQL over sunk objects; results as objects, as Postgres tables, and as a preview in the output.
//!
//! The raw tables are the objects of the topics that the `sink` before it wrote (`raw_pin` for topic `….pin`), or what
//! `tables` declares. SQL files run in the order of their names: `CREATE VIEW` prepares a table for the files after it,
//! a query is a result and is named like its file. Nothing is published before every result is computed; then objects
//! are put under names made from DAG, run and result, and tables are replaced in one transaction, so that an attempt
//! that is repeated leaves the same behind.

mod config;
mod datafusion;
mod engine;
mod objects;
mod postgres;
mod preview;
mod scratch;
mod scripts;
mod sources;

use async_trait::async_trait;
use serde_json::{Map, Value, json};

use crate::connect::s3::S3;
use crate::domain::operator_kind::OperatorKind;
use crate::engine::operator::{Failure, Operator, Output, Registration, TaskContext};
use crate::operators::config as keys;
use crate::store::StoreError;

use config::Transform;
use datafusion::DataFusion;
use engine::{Engine, EngineError, Job, ResultSet};
use scratch::Scratch;

pub(crate) const REGISTRATION: Registration = Registration { kind: &KIND, build };

static KIND: OperatorKind = OperatorKind {
    name: "transform",
    class_paths: &[],
    about: "Runs SQL files over sunk objects, to objects and tables of results",
    schema: || schemars::schema_for!(Transform),
    check: |value| keys::check(value, config::problems),
    late_fields: &[],
    file_keys: &["sql"],
};

fn build(config: Value) -> Result<Box<dyn Operator>, serde_json::Error> {
    Ok(Box::new(serde_json::from_value::<Transform>(config)?))
}

#[async_trait]
impl Operator for Transform {
    async fn run(&self, context: &TaskContext) -> Result<Output, Failure> {
        tokio::select! {
            biased;
            () = context.cancel.cancelled() => Err(Failure::Interrupted),
            output = self.compute_and_publish(&DataFusion, context) => output,
        }
    }
}

impl Transform {
    async fn compute_and_publish(&self, engine: &dyn Engine, context: &TaskContext) -> Result<Output, Failure> {
        let scripts = scripts::load(&self.sql, context).await?;
        let s3 = S3::connect(&context.endpoints.s3).await;
        let tables = sources::tables(self, context, &s3).await?;
        let scratch = Scratch::create(&context.attempt).map_err(Failure::from)?;
        let job = Job {
            tables,
            scripts,
            s3: context.endpoints.s3.clone(),
            scratch: scratch.path().to_owned(),
            memory_limit: self.memory_limit_bytes(context.memory_limit),
            log: context.log.clone(),
            progress: std::sync::Arc::clone(&context.progress),
        };
        let results = engine.compute(job).await?;
        context.store.check_fence(context.attempt).await.map_err(store_failure)?;
        let objects = objects::publish(&self.output, &results, context, &s3).await?;
        let tables = match &self.output.postgres {
            Some(output) => postgres::publish(output, &results, context).await?,
            None => vec![None; results.len()],
        };
        let mut published = Map::new();
        for ((result, objects), table) in results.iter().zip(objects).zip(tables) {
            published.insert(result.name.clone(), described(result, objects, table));
        }
        let output = json!({"engine": engine.name(), "results": published});
        let Value::Object(output) = output else { return Ok(Output::new()) };
        Ok(output)
    }
}

fn described(result: &ResultSet, objects: Vec<String>, table: Option<String>) -> Value {
    let mut entry = json!({
        "rows": result.rows,
        "columns": result.columns,
        "preview": result.preview,
        "objects": objects,
    });
    if let Some(table) = table {
        entry["table"] = Value::from(table);
    }
    entry
}

/// Who lost the lease has no say any more; a database that does not answer may later.
fn store_failure(error: StoreError) -> Failure {
    match &error {
        StoreError::Fenced { .. } => Failure::Interrupted,
        error if error.is_transient() => Failure::retry(error),
        error => Failure::fatal(error),
    }
}

/// A message with advice on a line of its own.
fn with_help(message: String, help: Option<String>) -> String {
    match help {
        Some(help) => format!("{message}\n  help: {help}"),
        None => message,
    }
}

/// A name that is safe in file names and SQL: lower case letters, digits and `_`.
fn safe_name(name: &str) -> String {
    let safe = |c: char| if c.is_alphanumeric() || c == '_' { c.to_ascii_lowercase() } else { '_' };
    name.chars().map(safe).collect()
}
