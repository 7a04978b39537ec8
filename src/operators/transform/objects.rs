//! Results as objects: one for each, under a name that a repeated attempt writes again.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use datafusion::arrow::array::{ArrayRef, RecordBatch, StringArray};
use datafusion::arrow::csv;
use datafusion::arrow::datatypes::{DataType, Field, Schema};
use datafusion::arrow::json::WriterBuilder;
use datafusion::arrow::json::writer::LineDelimited;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use tokio::io::AsyncReadExt;

use crate::connect::s3::{PutOptions, S3, Upload};
use crate::engine::operator::{Failure, TaskContext};

use super::config::{Output, OutputFormat};
use super::engine::{EngineError, ResultSet};

/// How much of a file is read at a time.
const CHUNK: usize = 1024 * 1024;

/// Puts every result; answers with the addresses, in the order of the results.
pub(super) async fn publish(
    output: &Output,
    results: &[ResultSet],
    context: &TaskContext,
    s3: &S3,
) -> Result<Vec<Vec<String>>, Failure> {
    let Some(extension) = extension(output.format) else { return Ok(vec![Vec::new(); results.len()]) };
    let settings = &context.endpoints.s3;
    let bucket = output.bucket.as_deref().unwrap_or(&settings.staging_bucket);
    if settings.create_buckets {
        s3.ensure_bucket(bucket).await.map_err(EngineError::from)?;
    }
    let prefix = match &output.prefix {
        Some(prefix) => prefix.clone(),
        None => format!("results/{}/{}/", context.dag_id, context.run_id),
    };
    let mut addresses = Vec::with_capacity(results.len());
    for result in results {
        let key = format!("{prefix}{}.{extension}", result.name);
        put(output.format, result, s3, bucket, &key).await?;
        addresses.push(vec![format!("s3://{bucket}/{key}")]);
    }
    Ok(addresses)
}

fn extension(format: OutputFormat) -> Option<&'static str> {
    match format {
        OutputFormat::Parquet => Some("parquet"),
        OutputFormat::Csv => Some("csv"),
        OutputFormat::Json => Some("json"),
        OutputFormat::None => None,
    }
}

async fn put(format: OutputFormat, result: &ResultSet, s3: &S3, bucket: &str, key: &str) -> Result<(), EngineError> {
    let mut upload = s3.upload(bucket, key, PutOptions { content_type: content_type(format), ..PutOptions::default() });
    match send(format, result, &mut upload).await {
        Ok(()) => Ok(upload.finish().await.map(drop)?),
        Err(error) => {
            upload.abort().await;
            Err(error)
        }
    }
}

fn content_type(format: OutputFormat) -> &'static str {
    match format {
        OutputFormat::Csv => "text/csv; charset=utf-8",
        OutputFormat::Json => "application/x-ndjson",
        OutputFormat::Parquet | OutputFormat::None => "application/vnd.apache.parquet",
    }
}

async fn send(format: OutputFormat, result: &ResultSet, upload: &mut Upload) -> Result<(), EngineError> {
    let failed = |message: String| EngineError::Compute { file: result.name.clone(), message };
    match format {
        OutputFormat::Parquet | OutputFormat::None => send_file(&result.file, upload).await,
        OutputFormat::Csv => {
            let mut header = true;
            for batch in batches(&result.file)? {
                let batch = flat(&batch.map_err(|error| failed(error.to_string()))?).map_err(&failed)?;
                let mut writer = csv::WriterBuilder::new().with_header(header).build(Vec::new());
                writer.write(&batch).map_err(|error| failed(error.to_string()))?;
                upload.write(Bytes::from(writer.into_inner())).await?;
                header = false;
            }
            if header {
                let names = result.columns.join(",") + "\n";
                upload.write(Bytes::from(names)).await?;
            }
            Ok(())
        }
        OutputFormat::Json => {
            for batch in batches(&result.file)? {
                let batch = batch.map_err(|error| failed(error.to_string()))?;
                upload.write(Bytes::from(lines(&batch).map_err(&failed)?)).await?;
            }
            Ok(())
        }
    }
}

async fn send_file(path: &Path, upload: &mut Upload) -> Result<(), EngineError> {
    let scratch = |source| EngineError::Scratch { path: path.to_owned(), source };
    let mut file = tokio::fs::File::open(path).await.map_err(scratch)?;
    loop {
        let mut chunk = bytes::BytesMut::with_capacity(CHUNK);
        if file.read_buf(&mut chunk).await.map_err(scratch)? == 0 {
            return Ok(());
        }
        upload.write(chunk.freeze()).await?;
    }
}

/// The batches of a result's file.
pub(super) fn batches(
    path: &Path,
) -> Result<impl Iterator<Item = Result<RecordBatch, datafusion::arrow::error::ArrowError>> + use<>, EngineError> {
    let scratch = |source| EngineError::Scratch { path: path.to_owned(), source };
    let file = File::open(path).map_err(scratch)?;
    let unreadable = |error: parquet::errors::ParquetError| scratch(std::io::Error::other(error));
    ParquetRecordBatchReaderBuilder::try_new(file).map_err(unreadable)?.build().map_err(unreadable)
}

/// A JSON object a line.
fn lines(batch: &RecordBatch) -> Result<Vec<u8>, String> {
    let mut writer = WriterBuilder::new().with_explicit_nulls(true).build::<_, LineDelimited>(Vec::new());
    writer.write(batch).and_then(|()| writer.finish()).map_err(|error| error.to_string())?;
    Ok(writer.into_inner())
}

/// With lists and objects as JSON text, since CSV and tables have neither.
pub(super) fn flat(batch: &RecordBatch) -> Result<RecordBatch, String> {
    let mut fields = Vec::with_capacity(batch.num_columns());
    let mut columns: Vec<ArrayRef> = Vec::with_capacity(batch.num_columns());
    for (field, column) in batch.schema().fields().iter().zip(batch.columns()) {
        if field.data_type().is_nested() {
            fields.push(Field::new(field.name(), DataType::Utf8, true));
            columns.push(Arc::new(json_texts(column)?));
        } else {
            fields.push(field.as_ref().clone());
            columns.push(Arc::clone(column));
        }
    }
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).map_err(|error| error.to_string())
}

/// Each value of a column as JSON.
fn json_texts(column: &ArrayRef) -> Result<StringArray, String> {
    let schema = Schema::new(vec![Field::new("v", column.data_type().clone(), true)]);
    let batch = RecordBatch::try_new(Arc::new(schema), vec![Arc::clone(column)]).map_err(|error| error.to_string())?;
    let text = String::from_utf8(lines(&batch)?).map_err(|error| error.to_string())?;
    let value = |line: &str| line.strip_prefix(r#"{"v":"#).and_then(|rest| rest.strip_suffix('}')).map(str::to_owned);
    let values = text.lines().map(|line| value(line).filter(|value| value != "null"));
    Ok(values.collect())
}
