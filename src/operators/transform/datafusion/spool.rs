//! Brings the objects of the raw tables into the scratch folder, each read once.
//!
//! JSON records are checked line by line on the way, so that a line that is none is named with its object; they end up
//! in a few files however many objects there were (a sink that writes an object a record makes tens of thousands).

use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Cursor, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use datafusion::arrow::datatypes::{Field, Schema, SchemaRef};
use datafusion::datasource::TableProvider;
use datafusion::datasource::empty::EmptyTable;
use datafusion::error::DataFusionError;
use datafusion::prelude::{CsvReadOptions, ParquetReadOptions, SessionContext};
use futures::{StreamExt, TryStreamExt};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt};

use crate::connect::s3::{ObjectSummary, S3, S3Error};
use crate::operators::transform::config::Format;
use crate::operators::transform::engine::{EngineError, Job, Table};

use super::inference::Inference;
use super::records;

/// How many objects of a table are on their way at once; also into how many files its records go.
const PARALLEL: usize = 8;

/// A larger object goes through a file on its way rather than through memory.
const IN_MEMORY: u64 = 8 * 1024 * 1024;

/// The tables by name, ready to be registered.
pub(super) async fn spool(job: &Job) -> Result<Vec<(String, Arc<dyn TableProvider>)>, EngineError> {
    let s3 = S3::connect(&job.s3).await;
    let mut tables: Vec<(String, Arc<dyn TableProvider>)> = Vec::with_capacity(job.tables.len());
    for table in &job.tables {
        let folder = job.scratch.join(format!("raw-{}", crate::operators::transform::safe_name(&table.name)));
        std::fs::create_dir_all(&folder).map_err(scratch(&folder))?;
        let provider = match (table.objects.is_empty(), table.format) {
            (true, _) => empty(table)?,
            (false, Format::Json) => json(job, &s3, table, &folder).await?,
            (false, Format::Parquet | Format::Csv) => files(job, &s3, table, &folder).await?,
        };
        tables.push((table.name.clone(), provider));
    }
    Ok(tables)
}

fn scratch(path: &Path) -> impl Fn(io::Error) -> EngineError + use<'_> {
    move |source| EngineError::Scratch { path: path.to_owned(), source }
}

/// A table without records has the columns that were declared; without any it is a mistake worth a word.
fn empty(table: &Table) -> Result<Arc<dyn TableProvider>, EngineError> {
    if table.columns.is_empty() {
        return Err(EngineError::Empty { table: table.name.clone(), origin: table.origin.clone() });
    }
    let fields: Vec<Field> =
        table.columns.iter().map(|(name, column)| Field::new(name, column.data_type(), true)).collect();
    Ok(Arc::new(EmptyTable::new(Arc::new(Schema::new(fields)))))
}

async fn json(job: &Job, s3: &S3, table: &Table, folder: &Path) -> Result<Arc<dyn TableProvider>, EngineError> {
    let workers = PARALLEL.min(table.objects.len());
    let mut spooling = Vec::with_capacity(workers);
    for worker in 0..workers {
        let spooler = Spooler::create(job, table, folder.join(format!("{worker}.ndjson")))?;
        let share: Vec<&ObjectSummary> = table.objects.iter().skip(worker).step_by(workers).collect();
        spooling.push(spool_share(s3, table, share, spooler, folder));
    }
    let spooled: Vec<(PathBuf, Inference)> =
        futures::stream::iter(spooling).buffer_unordered(PARALLEL).try_collect().await?;
    let mut all = Inference::default();
    let mut files = Vec::with_capacity(spooled.len());
    for (file, inference) in spooled {
        files.push(file);
        all.absorb(&inference).map_err(|message| disagree(table, message))?;
    }
    let schema: SchemaRef = Arc::new(all.schema(&table.columns));
    if schema.fields().is_empty() {
        return empty(table);
    }
    let provider = records::table(files, &schema).map_err(|error| disagree(table, error.to_string()))?;
    Ok(Arc::new(provider))
}

/// Spools some of a table's objects into one file.
async fn spool_share(
    s3: &S3,
    table: &Table,
    objects: Vec<&ObjectSummary>,
    mut spooler: Spooler,
    folder: &Path,
) -> Result<(PathBuf, Inference), EngineError> {
    for object in objects {
        let input = fetch(s3, table, object, folder).await?;
        // Off the threads that wait for the network, which would starve the other downloads.
        let work = tokio::task::spawn_blocking(move || spooler.copy(input));
        spooler = work.await.expect("copying records does not panic")?;
    }
    spooler.finish()
}

fn disagree(table: &Table, message: String) -> EngineError {
    EngineError::Object { table: table.name.clone(), object: table.origin.clone(), message }
}

/// What an object holds is not what its name says.
fn unreadable(table: &str, object: &str, error: &io::Error) -> EngineError {
    EngineError::Object { table: table.to_owned(), object: object.to_owned(), message: error.to_string() }
}

/// An object on this machine, decompressed as it is read.
struct Fetched {
    name: String,
    reader: Box<dyn BufRead + Send>,
}

async fn fetch(s3: &S3, table: &Table, object: &ObjectSummary, folder: &Path) -> Result<Fetched, EngineError> {
    let name = format!("s3://{}/{}", table.bucket, object.key);
    let raw: Box<dyn BufRead + Send> = if object.size <= IN_MEMORY {
        Box::new(Cursor::new(s3.get(&table.bucket, &object.key).await?))
    } else {
        let path = folder.join(format!("{}.part", uuid::Uuid::new_v4()));
        download(s3, table, object, &path).await?;
        let file = File::open(&path).map_err(scratch(&path))?;
        // The name goes now, the content with the last reader.
        std::fs::remove_file(&path).map_err(scratch(&path))?;
        Box::new(BufReader::new(file))
    };
    let reader = decompressed(raw, &object.key).map_err(|error| unreadable(&table.name, &name, &error))?;
    Ok(Fetched { name, reader })
}

async fn download(s3: &S3, table: &Table, object: &ObjectSummary, path: &Path) -> Result<(), EngineError> {
    let mut body = s3.get_stream(&table.bucket, &object.key).await?;
    let mut file = tokio::fs::File::create(path).await.map_err(scratch(path))?;
    loop {
        let read = body.fill_buf().await;
        let chunk = read.map_err(|error| S3Error::broken_body(&table.bucket, &object.key, &error))?;
        if chunk.is_empty() {
            break;
        }
        let length = chunk.len();
        file.write_all(chunk).await.map_err(scratch(path))?;
        body.consume(length);
    }
    file.flush().await.map_err(scratch(path))
}

fn decompressed(raw: Box<dyn BufRead + Send>, key: &str) -> io::Result<Box<dyn BufRead + Send>> {
    Ok(if key.ends_with(".gz") {
        Box::new(BufReader::new(flate2::bufread::MultiGzDecoder::new(raw)))
    } else if key.ends_with(".zst") {
        Box::new(BufReader::new(zstd::stream::read::Decoder::with_buffer(raw)?))
    } else {
        raw
    })
}

/// Copies records into one file and looks at them.
struct Spooler {
    path: PathBuf,
    file: BufWriter<File>,
    inference: Inference,
    table: String,
    progress: Arc<crate::engine::operator::Progress>,
}

impl Spooler {
    fn create(job: &Job, table: &Table, path: PathBuf) -> Result<Self, EngineError> {
        let file = BufWriter::new(File::create(&path).map_err(scratch(&path))?);
        let (table, progress) = (table.name.clone(), Arc::clone(&job.progress));
        Ok(Self { path, file, inference: Inference::default(), table, progress })
    }

    fn copy(mut self, input: Fetched) -> Result<Self, EngineError> {
        let Fetched { name, mut reader } = input;
        let mut line = Vec::new();
        let mut rows = 0;
        for number in 1.. {
            line.clear();
            let read = reader.read_until(b'\n', &mut line);
            if read.map_err(|error| unreadable(&self.table, &name, &error))? == 0 {
                break;
            }
            let record = line.trim_ascii();
            if record.is_empty() {
                continue;
            }
            self.add(record).map_err(|problem| problem.at(&name, number, &self.path))?;
            rows += 1;
        }
        self.progress.add(rows);
        Ok(self)
    }

    fn add(&mut self, record: &[u8]) -> Result<(), Problem> {
        let value: Value = serde_json::from_slice(record).map_err(|error| Problem::Record(not_json(&error)))?;
        let Value::Object(fields) = value else {
            return Err(Problem::Record("it is JSON, but no object".to_owned()));
        };
        self.inference.add(&fields).map_err(Problem::Record)?;
        self.file.write_all(record).and_then(|()| self.file.write_all(b"\n")).map_err(Problem::Disk)
    }

    fn finish(mut self) -> Result<(PathBuf, Inference), EngineError> {
        self.file.flush().map_err(scratch(&self.path))?;
        Ok((self.path, self.inference))
    }
}

/// Serde's words without its line, which would be that of the record rather than of the object.
fn not_json(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let words = text.rsplit_once(" at line ").map_or(text.as_str(), |(words, _)| words);
    format!("it is not JSON: {words} at column {}", error.column())
}

/// What is wrong with a record, before it is known where it is.
enum Problem {
    Record(String),
    Disk(io::Error),
}

impl Problem {
    fn at(self, object: &str, line: u64, path: &Path) -> EngineError {
        match self {
            Self::Record(message) => EngineError::Record { object: object.to_owned(), line, message },
            Self::Disk(source) => EngineError::Scratch { path: path.to_owned(), source },
        }
    }
}

/// Parquet and CSV: an object a file, read by DataFusion's own readers.
async fn files(job: &Job, s3: &S3, table: &Table, folder: &Path) -> Result<Arc<dyn TableProvider>, EngineError> {
    let extension = if table.format == Format::Csv { "csv" } else { "parquet" };
    let mut copies = Vec::with_capacity(table.objects.len());
    for (index, object) in table.objects.iter().enumerate() {
        copies.push(copy_object(s3, table, object, folder, folder.join(format!("{index:08}.{extension}"))));
    }
    futures::stream::iter(copies).buffer_unordered(PARALLEL).try_collect::<Vec<()>>().await?;
    let context = SessionContext::new();
    let path = format!("{}/", folder.display());
    let frame = match table.format {
        Format::Csv => {
            let records = usize::MAX;
            context.read_csv(path, CsvReadOptions::new().schema_infer_max_records(records)).await
        }
        Format::Parquet | Format::Json => context.read_parquet(path, ParquetReadOptions::default()).await,
    };
    let frame =
        frame.and_then(|frame| declared(frame, table)).map_err(|error| disagree(table, error.strip_backtrace()))?;
    job.log.line(format!("table {}: columns {}", table.name, frame.schema().field_names().join(", ")));
    Ok(frame.into_view())
}

async fn copy_object(
    s3: &S3,
    table: &Table,
    object: &ObjectSummary,
    folder: &Path,
    path: PathBuf,
) -> Result<(), EngineError> {
    let Fetched { name, mut reader } = fetch(s3, table, object, folder).await?;
    let table = table.name.clone();
    let work = tokio::task::spawn_blocking(move || -> Result<(), EngineError> {
        let mut file = File::create(&path).map_err(scratch(&path))?;
        loop {
            let chunk = reader.fill_buf().map_err(|error| unreadable(&table, &name, &error))?;
            if chunk.is_empty() {
                return Ok(());
            }
            file.write_all(chunk).map_err(scratch(&path))?;
            let length = chunk.len();
            reader.consume(length);
        }
    });
    work.await.expect("copying an object does not panic")
}

/// The declared types by casts, in place of those of the files.
fn declared(
    frame: datafusion::dataframe::DataFrame,
    table: &Table,
) -> Result<datafusion::dataframe::DataFrame, DataFusionError> {
    let columns = frame.schema().fields().iter().map(|field| {
        let column = datafusion::logical_expr::col(datafusion::common::Column::from_name(field.name()));
        match table.columns.get(field.name()) {
            Some(wanted) => datafusion::logical_expr::cast(column, wanted.data_type()).alias(field.name()),
            None => column,
        }
    });
    let columns: Vec<_> = columns.collect();
    frame.select(columns)
}
