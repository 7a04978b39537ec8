//! The engine in process: DataFusion, on threads of its own.
//!
//! A query keeps cores busy for seconds; on the runtime that drives everything else it would hold up heartbeats and
//! other tasks. So all of it runs on a second runtime, shared by all transforms of the process and started by the first.
//!
//! Objects are read once, into files of the scratch folder ([`spool`]); each prepared view is computed once, into a
//! Parquet file, so that nine results do not clean the same records nine times and all see the same rows. Sorts,
//! groupings that outgrow the memory limit go to files as well; hash joins cannot, so a job that fails for want of
//! memory is computed again frugally: one partition, small batches, and merge joins, which can.

mod diagnose;
mod inference;
mod records;
mod spool;

use std::num::NonZero;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use async_trait::async_trait;
use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::config::Dialect;
use datafusion::dataframe::DataFrame;
use datafusion::datasource::TableProvider;
use datafusion::error::DataFusionError;
use datafusion::execution::memory_pool::FairSpillPool;
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::functions_nested::make_array::make_array_udf;
use datafusion::prelude::{ParquetReadOptions, SessionConfig, SessionContext};
use datafusion::sql::parser::{DFParserBuilder, Statement};
use datafusion::sql::sqlparser::ast::{self, ObjectName};
use datafusion::sql::sqlparser::dialect::DatabricksDialect;
use futures::StreamExt;
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;
use tokio::runtime::Runtime;
use tokio_util::task::AbortOnDropHandle;

use super::engine::{Engine, EngineError, Job, ResultSet, Script};
use super::preview::Preview;

/// Rows of a group in a Parquet file: what a reader, and our writer, hold in memory at once.
const ROW_GROUP: usize = 64 * 1024;

/// DataFusion, in process.
#[derive(Debug, Default)]
pub(super) struct DataFusion;

/// How much memory a query is planned to take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Plan {
    /// As much as is quickest: all cores, and joins by hash tables, of which the smaller side must fit.
    Fast,
    /// As little as possible.
    Frugal,
}

/// Rows that are worked on at once when memory is short.
const FRUGAL_BATCH: usize = 256;

#[async_trait]
impl Engine for DataFusion {
    fn name(&self) -> &'static str {
        "datafusion"
    }

    async fn compute(&self, job: Job) -> Result<Vec<ResultSet>, EngineError> {
        let path = job.scratch.clone();
        let runtime = runtime().map_err(|source| EngineError::Scratch { path, source })?;
        let work = AbortOnDropHandle::new(runtime.spawn(compute(job)));
        match work.await {
            Ok(results) => results,
            Err(stopped) if stopped.is_panic() => std::panic::resume_unwind(stopped.into_panic()),
            // Only dropping the handle aborts the work, and then nobody waits for it here.
            Err(stopped) => Err(EngineError::Compute { file: "the SQL".to_owned(), message: stopped.to_string() }),
        }
    }
}

/// The runtime for queries. Never shut down: aborted work ends at its next await, and threads end with the process.
fn runtime() -> std::io::Result<&'static Runtime> {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    if let Some(runtime) = RUNTIME.get() {
        return Ok(runtime);
    }
    let built = tokio::runtime::Builder::new_multi_thread()
        .thread_name("transform")
        .worker_threads(cores())
        .enable_all()
        .build()?;
    // Of two transforms that start at once one's runtime is dropped here, idle; `shutdown_background` because a
    // runtime must not be dropped on another's thread.
    if let Err(second) = RUNTIME.set(built) {
        second.shutdown_background();
    }
    Ok(RUNTIME.get().expect("it was set just now, by this or another thread"))
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(2, NonZero::get)
}

async fn compute(job: Job) -> Result<Vec<ResultSet>, EngineError> {
    let tables = spool::spool(&job).await?;
    match run_scripts(&job, &tables, Plan::Fast).await {
        Err(EngineError::Memory { file, .. }) => {
            job.log.line(format!("{file} needs more than memory_limit: starting again with a plan that takes less"));
            run_scripts(&job, &tables, Plan::Frugal).await
        }
        done => done,
    }
}

async fn run_scripts(
    job: &Job,
    tables: &[(String, Arc<dyn TableProvider>)],
    how: Plan,
) -> Result<Vec<ResultSet>, EngineError> {
    let context = session(job, how).map_err(|error| diagnose::compute("the SQL", &error, job))?;
    for (name, table) in tables {
        context
            .register_table(name.as_str(), Arc::clone(table))
            .map_err(|error| diagnose::compute(name, &error, job))?;
    }
    let mut results = Vec::new();
    for script in &job.scripts {
        for statement in parse(script)? {
            if let Some(result) = run_statement(&context, job, script, statement).await? {
                if results.iter().any(|other: &ResultSet| other.name == result.name) {
                    let message = "a file may have one query; put the second into a file of its own".to_owned();
                    return Err(EngineError::Sql { file: script.file.clone(), position: None, message });
                }
                let (name, rows) = (&result.name, result.rows);
                job.log.line(format!("result {name}: {rows} rows"));
                results.push(result);
            }
        }
    }
    Ok(results)
}

fn session(job: &Job, how: Plan) -> Result<SessionContext, DataFusionError> {
    let partitions = if how == Plan::Fast { cores() } else { 1 };
    let mut config = SessionConfig::new().with_target_partitions(partitions);
    if how == Plan::Frugal {
        config = config.with_batch_size(FRUGAL_BATCH);
    }
    let options = config.options_mut();
    // Spark's dialect, so that the same files run there: `array(…)` is a call, backticks quote names.
    options.sql_parser.dialect = Dialect::Databricks;
    options.sql_parser.collect_spans = true;
    options.optimizer.prefer_hash_join = how == Plan::Fast;
    // A sort reserves this much to merge what it spilled; the default of 10 MB would be most of a small limit.
    options.execution.sort_spill_reservation_bytes = job.memory_limit / 32;
    let runtime = RuntimeEnvBuilder::new()
        .with_memory_pool(Arc::new(FairSpillPool::new(job.memory_limit)))
        .with_temp_file_path(job.scratch.join("spill"))
        .build_arc()?;
    let context = SessionContext::new_with_config_rt(config, runtime);
    // DataFusion calls it `make_array`, Spark `array`.
    context.register_udf(make_array_udf().as_ref().clone().with_aliases(["array"]));
    Ok(context)
}

fn parse(script: &Script) -> Result<Vec<Statement>, EngineError> {
    DFParserBuilder::new(script.text.as_str())
        .with_dialect(&DatabricksDialect {})
        .build()
        .and_then(|mut parser| parser.parse_statements())
        .map(Vec::from)
        .map_err(|error| diagnose::sql(script, &error, &[]))
}

/// Runs `CREATE VIEW` into a file that the later scripts read, or a query into a result.
async fn run_statement(
    context: &SessionContext,
    job: &Job,
    script: &Script,
    statement: Statement,
) -> Result<Option<ResultSet>, EngineError> {
    let refuse = |message: String| EngineError::Sql { file: script.file.clone(), position: None, message };
    let Statement::Statement(statement) = statement else {
        return Err(refuse("only CREATE VIEW and queries are allowed here".to_owned()));
    };
    match *statement {
        ast::Statement::CreateView(view) => {
            if !view.columns.is_empty() {
                return Err(refuse(format!("name the columns of view {} in its SELECT", view.name)));
            }
            let name =
                table_name(&view.name).ok_or_else(|| refuse(format!("`{}` is no name for a view", view.name)))?;
            let file = job.scratch.join(format!("view-{}.parquet", super::safe_name(&name)));
            let query = ast::Statement::Query(view.query);
            evaluate(context, job, script, query, &file).await?;
            let path = file.to_string_lossy().into_owned();
            let registered = context.register_parquet(name.as_str(), path, ParquetReadOptions::default()).await;
            registered.map_err(|error| diagnose::compute(&script.file, &error, job))?;
            Ok(None)
        }
        query @ ast::Statement::Query(_) => {
            let file = job.scratch.join(format!("result-{}.parquet", super::safe_name(&script.name)));
            let preview = evaluate(context, job, script, query, &file).await?;
            let Preview { columns, rows, first, .. } = preview;
            Ok(Some(ResultSet { name: script.name.clone(), columns, rows, preview: first, file }))
        }
        other => {
            let words: Vec<String> = other.to_string().split_whitespace().take(2).map(str::to_owned).collect();
            Err(refuse(format!("only CREATE VIEW and queries are allowed here, not {}", words.join(" "))))
        }
    }
}

/// A name without a schema, folded to lower case unless it is quoted.
fn table_name(name: &ObjectName) -> Option<String> {
    match name.0.as_slice() {
        [part] => {
            let ident = part.as_ident()?;
            Some(if ident.quote_style.is_some() { ident.value.clone() } else { ident.value.to_lowercase() })
        }
        _ => None,
    }
}

/// Computes a query into a Parquet file, batch by batch.
async fn evaluate(
    context: &SessionContext,
    job: &Job,
    script: &Script,
    query: ast::Statement,
    file: &Path,
) -> Result<Preview, EngineError> {
    let state = context.state();
    let plan = state.statement_to_plan(Statement::Statement(Box::new(query))).await;
    let plan = plan.map_err(|error| diagnose::sql(script, &error, &tables_of(context)))?;
    let schema: SchemaRef = Arc::new(plan.schema().as_arrow().clone());
    let failed = |error: DataFusionError| diagnose::compute(&script.file, &error, job);
    let mut preview = Preview::new(&schema);
    if let Some(twice) = preview.repeated_column() {
        let message = format!("two columns of the result are named `{twice}`: give one another name with AS");
        return Err(EngineError::Sql { file: script.file.clone(), position: None, message });
    }
    let mut batches = DataFrame::new(state, plan).execute_stream().await.map_err(failed)?;
    let scratch = |source| EngineError::Scratch { path: file.to_owned(), source };
    let output = std::fs::File::create(file).map_err(scratch)?;
    // The plan's own schema may say less of nullability than the batches; theirs is what is written.
    let mut writer = ArrowWriter::try_new(output, batches.schema(), Some(properties()))
        .map_err(|error| failed(DataFusionError::from(error)))?;
    while let Some(batch) = batches.next().await {
        let batch: RecordBatch = batch.map_err(failed)?;
        writer.write(&batch).map_err(|error| failed(DataFusionError::from(error)))?;
        preview.add(&batch).map_err(|error| failed(DataFusionError::from(error)))?;
    }
    writer.close().map_err(|error| failed(DataFusionError::from(error)))?;
    Ok(preview)
}

fn properties() -> WriterProperties {
    WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::default()))
        .set_max_row_group_row_count(Some(ROW_GROUP))
        .build()
}

fn tables_of(context: &SessionContext) -> Vec<String> {
    let schema = context.catalog("datafusion").and_then(|catalog| catalog.schema("public"));
    let mut names = schema.map_or_else(Vec::new, |schema| schema.table_names());
    names.sort();
    names
}
