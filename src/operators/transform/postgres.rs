//! Results as Postgres tables: all of them replaced in one transaction, so that a reader sees the old or the new ones.

use std::fmt::Write as _;
use std::time::Duration;

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::{DataType, Field, SchemaRef};
use datafusion::arrow::util::display::{ArrayFormatter, FormatOptions};
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions};
use secrecy::{ExposeSecret, SecretString};
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};

use crate::connect::copy::Escaped;
use crate::connect::sqlstate;
use crate::engine::lookup::LookupError;
use crate::engine::operator::{Failure, TaskContext};

use super::config::PostgresOutput;
use super::engine::ResultSet;
use super::objects;

/// Postgres cuts longer names, which would make two of them one.
const LONGEST_NAME: usize = 63;

/// How long to wait for the database to take a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// How long one statement may wait for the locks of others, and run.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(300);

/// How long the server's word on a statement is waited for: longer than it may run, so that the server ends it where it
/// still can. A server that is gone without a word ends nothing.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(330);

/// How long a goodbye may take.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// Why the results are not in the database.
#[derive(Debug, thiserror::Error)]
enum PublishError {
    #[error(transparent)]
    Lookup(#[from] LookupError),
    #[error("connection `{name}` is not a postgres:// URL")]
    NotPostgres { name: String },
    #[error("results `{first}` and `{second}` would both be table `{table}`")]
    SameTable { table: String, first: String, second: String },
    #[error("result `{result}` has a name that is too long for a table: {LONGEST_NAME} bytes is Postgres's limit")]
    LongName { result: String },
    #[error("could not connect to the database of `{name}` within {} s", CONNECT_TIMEOUT.as_secs())]
    NoAnswer { name: String },
    #[error("could not {action} in the database of `{name}`")]
    Database { action: String, name: String, source: sqlx::Error },
    #[error("could not {action} in the database of `{name}`: no answer within {} s", .limit.as_secs())]
    TimedOut { action: String, name: String, limit: Duration },
    #[error("could not read result `{result}` back: {message}")]
    Result { result: String, message: String },
}

impl From<PublishError> for Failure {
    fn from(error: PublishError) -> Self {
        let passes = match &error {
            PublishError::Database { source, .. } => sqlstate::may_pass(source),
            PublishError::NoAnswer { .. } | PublishError::TimedOut { .. } => true,
            PublishError::Lookup(error) => error.is_transient(),
            PublishError::NotPostgres { .. }
            | PublishError::SameTable { .. }
            | PublishError::LongName { .. }
            | PublishError::Result { .. } => false,
        };
        if passes { Self::retry(&error) } else { Self::fatal(&error) }
    }
}

/// Replaces a table for each result; answers with their names, `schema.table`.
pub(super) async fn publish(
    output: &PostgresOutput,
    results: &[ResultSet],
    context: &TaskContext,
) -> Result<Vec<Option<String>>, Failure> {
    let url = url(output, context).await?;
    let tables = table_names(results)?;
    let name = shown(output);
    let connect = tokio::time::timeout(CONNECT_TIMEOUT, PgConnection::connect(url.expose_secret()));
    let mut connection = match connect.await {
        Ok(connection) => connection.map_err(|source| database("connect", name, source))?,
        Err(_) => return Err(PublishError::NoAnswer { name: name.to_owned() }.into()),
    };
    replace_all(&mut connection, output, results, &tables).await?;
    // The transaction is committed: what a failing goodbye would say changes nothing.
    let _ = tokio::time::timeout(CLOSE_TIMEOUT, connection.close()).await;
    Ok(tables.iter().map(|table| Some(format!("{}.{table}", output.schema))).collect())
}

/// The name of a connection for messages: never a URL, which may hold a password.
fn shown(output: &PostgresOutput) -> &str {
    if output.connection.contains("://") { "output.postgres" } else { &output.connection }
}

fn database(action: impl Into<String>, name: &str, source: sqlx::Error) -> PublishError {
    PublishError::Database { action: action.into(), name: name.to_owned(), source }
}

async fn url(output: &PostgresOutput, context: &TaskContext) -> Result<SecretString, PublishError> {
    let url = if output.connection.contains("://") {
        SecretString::from(output.connection.clone())
    } else {
        context.lookup.connection(&output.connection).await?.url()
    };
    let scheme = url.expose_secret().split("://").next().unwrap_or_default();
    if !matches!(scheme, "postgres" | "postgresql") {
        return Err(PublishError::NotPostgres { name: shown(output).to_owned() });
    }
    Ok(url)
}

/// A table's name is the result's without the number that orders its file: `3a_top_users` is `top_users`.
fn table_names(results: &[ResultSet]) -> Result<Vec<String>, PublishError> {
    let mut tables: Vec<String> = Vec::with_capacity(results.len());
    for result in results {
        let table = super::safe_name(without_number(&result.name));
        if table.len() > LONGEST_NAME {
            return Err(PublishError::LongName { result: result.name.clone() });
        }
        if let Some(other) = tables.iter().position(|other| *other == table) {
            let (first, second) = (results[other].name.clone(), result.name.clone());
            return Err(PublishError::SameTable { table, first, second });
        }
        tables.push(table);
    }
    Ok(tables)
}

/// Without `01_` or `03a_` in front, unless nothing would be left.
fn without_number(name: &str) -> &str {
    let Some((number, rest)) = name.split_once('_') else { return name };
    let digits = number.trim_end_matches(|c: char| c.is_ascii_lowercase());
    let is_number =
        !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()) && number.len() - digits.len() <= 1;
    if is_number && !rest.is_empty() { rest } else { name }
}

/// The database as errors name it, and how long it is waited for.
#[derive(Debug, Clone, Copy)]
struct Database<'a> {
    name: &'a str,
    limit: Duration,
}

impl Database<'_> {
    /// Waits for an answer, but not for ever.
    async fn answer<T>(
        self,
        action: impl Into<String>,
        call: impl Future<Output = Result<T, sqlx::Error>>,
    ) -> Result<T, PublishError> {
        match tokio::time::timeout(self.limit, call).await {
            Ok(answer) => answer.map_err(|source| database(action, self.name, source)),
            Err(_) => {
                let (action, name) = (action.into(), self.name.to_owned());
                Err(PublishError::TimedOut { action, name, limit: self.limit })
            }
        }
    }
}

async fn replace_all(
    connection: &mut PgConnection,
    output: &PostgresOutput,
    results: &[ResultSet],
    tables: &[String],
) -> Result<(), PublishError> {
    let database = Database { name: shown(output), limit: ANSWER_TIMEOUT };
    let mut transaction = database.answer("begin", connection.begin()).await?;
    let timeout = AssertSqlSafe(format!("SET LOCAL statement_timeout = {}", STATEMENT_TIMEOUT.as_millis()));
    database.answer("set a timeout", transaction.execute(timeout)).await?;
    // Two tasks that replace the same tables wait for each other here rather than at half of their tables.
    let lock = sqlx::query("SELECT pg_advisory_xact_lock(hashtextextended('pinsched results ' || $1, 0))");
    database.answer("lock the results", lock.bind(&output.schema).execute(&mut *transaction)).await?;
    let exists = sqlx::query("SELECT 1 FROM pg_catalog.pg_namespace WHERE nspname = $1").bind(&output.schema);
    // `CREATE SCHEMA IF NOT EXISTS` asks for the right to create even when there is nothing to do.
    if database.answer("look for the schema", exists.fetch_optional(&mut *transaction)).await?.is_none() {
        let create = AssertSqlSafe(format!("CREATE SCHEMA {}", quoted(&output.schema)));
        database.answer(format!("create schema `{}`", output.schema), transaction.execute(create)).await?;
    }
    for (result, table) in results.iter().zip(tables) {
        let target = format!("{}.{}", quoted(&output.schema), quoted(table));
        replace(&mut transaction, database, result, &target).await?;
    }
    database.answer("commit the results", transaction.commit()).await
}

async fn replace(
    connection: &mut PgConnection,
    database: Database<'_>,
    result: &ResultSet,
    target: &str,
) -> Result<(), PublishError> {
    let unreadable = |message: String| PublishError::Result { result: result.name.clone(), message };
    let schema = schema(result).map_err(&unreadable)?;
    let columns: Vec<String> = schema.fields().iter().map(|field| column(field)).collect();
    let statements =
        [format!("DROP TABLE IF EXISTS {target}"), format!("CREATE TABLE {target} ({})", columns.join(", "))];
    for statement in statements {
        database.answer(format!("replace table {target}"), connection.execute(AssertSqlSafe(statement))).await?;
    }
    let fill = || format!("fill table {target}");
    let copy = format!("COPY {target} FROM STDIN");
    let mut sink = database.answer(fill(), connection.copy_in_raw(&copy)).await?;
    for batch in objects::batches(&result.file).map_err(|error| unreadable(error.to_string()))? {
        let rows = batch.map_err(|error| error.to_string()).and_then(|batch| copy_text(&batch));
        let rows = rows.map_err(&unreadable)?;
        database.answer(fill(), sink.send(rows.into_bytes())).await?;
    }
    database.answer(fill(), sink.finish()).await?;
    Ok(())
}

fn schema(result: &ResultSet) -> Result<SchemaRef, String> {
    let file = std::fs::File::open(&result.file).map_err(|error| error.to_string())?;
    let metadata = ArrowReaderMetadata::load(&file, ArrowReaderOptions::new()).map_err(|error| error.to_string())?;
    Ok(metadata.schema().clone())
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

fn column(field: &Field) -> String {
    let kind = match field.data_type() {
        DataType::Boolean => "boolean".to_owned(),
        DataType::Int8 | DataType::Int16 | DataType::UInt8 => "smallint".to_owned(),
        DataType::Int32 | DataType::UInt16 => "integer".to_owned(),
        DataType::Int64 | DataType::UInt32 => "bigint".to_owned(),
        DataType::UInt64 => "numeric(20)".to_owned(),
        DataType::Float16 | DataType::Float32 => "real".to_owned(),
        DataType::Float64 => "double precision".to_owned(),
        DataType::Decimal128(precision, scale) | DataType::Decimal256(precision, scale) => {
            format!("numeric({precision}, {scale})")
        }
        DataType::Date32 | DataType::Date64 => "date".to_owned(),
        DataType::Timestamp(_, None) => "timestamp".to_owned(),
        DataType::Timestamp(_, Some(_)) => "timestamptz".to_owned(),
        nested if nested.is_nested() => "jsonb".to_owned(),
        _ => "text".to_owned(),
    };
    format!("{} {kind}", quoted(field.name()))
}

/// The rows in COPY's text format.
fn copy_text(batch: &RecordBatch) -> Result<String, String> {
    let batch = objects::flat(batch)?;
    let options = FormatOptions::default().with_display_error(false);
    let columns: Result<Vec<ArrayFormatter<'_>>, _> =
        batch.columns().iter().map(|column| ArrayFormatter::try_new(column.as_ref(), &options)).collect();
    let columns = columns.map_err(|error| error.to_string())?;
    let mut text = String::new();
    let mut value = String::new();
    for row in 0..batch.num_rows() {
        for (index, formatter) in columns.iter().enumerate() {
            if index > 0 {
                text.push('\t');
            }
            if batch.column(index).is_null(row) {
                text.push_str("\\N");
                continue;
            }
            value.clear();
            write!(value, "{}", formatter.value(row)).map_err(|error| error.to_string())?;
            write!(text, "{}", Escaped(&value)).map_err(|error| error.to_string())?;
        }
        text.push('\n');
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_named_without_the_number_of_their_file() {
        assert_eq!(without_number("01_most_popular"), "most_popular");
        assert_eq!(without_number("03a_top"), "top");
        assert_eq!(without_number("top_10"), "top_10");
        assert_eq!(without_number("a_top"), "a_top");
        assert_eq!(without_number("1_"), "1_");
    }

    #[test]
    fn names_cannot_break_out() {
        assert_eq!(quoted("a\"b"), "\"a\"\"b\"");
    }

    #[tokio::test]
    async fn a_database_that_never_answers_is_tried_again_later() {
        let database = Database { name: "results", limit: Duration::ZERO };
        let silent = database.answer::<()>("commit the results", std::future::pending()).await.unwrap_err();
        let message = "could not commit the results in the database of `results`: no answer within 0 s";
        assert_eq!(Failure::from(silent), Failure::Retry(message.to_owned()));
    }
}
