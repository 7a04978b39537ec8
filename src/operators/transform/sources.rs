//! Which objects make up which raw table: from the task's `tables`, or from what the `sink` before it left.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::connect::s3::{ObjectSummary, S3};
use crate::engine::operator::{Failure, TaskContext};

use super::config::{Format, Input, TableSource, Transform};
use super::engine::{EngineError, Table};

/// What a `sink` says of what it wrote, as far as it matters here.
#[derive(Debug, Clone, Deserialize)]
struct Sunk {
    bucket: String,
    topics_dir: String,
    topics: BTreeMap<String, SunkTopic>,
}

#[derive(Debug, Clone, Deserialize)]
struct SunkTopic {
    partitions: BTreeMap<String, Range>,
}

/// Offsets of this run's records in a partition; the end is one past the last.
#[derive(Debug, Clone, Copy, Deserialize)]
struct Range {
    start: u64,
    end: u64,
}

/// Why the tables cannot be made.
#[derive(Debug, thiserror::Error)]
enum SourceError {
    #[error("{missing} is not given, and no `sink` before this task has an output to take it from")]
    NoSink { missing: &'static str },
    #[error("the output of `{task}` is not a sink's: {message}")]
    NotASink { task: String, message: String },
    #[error("table `{table}` has {first} and {second} objects under {origin}: say by `format` which are meant")]
    TwoFormats { table: String, origin: String, first: String, second: String },
    #[error("topics `{first}` and `{second}` would both be table `{table}`: name them under `tables`")]
    SameTable { table: String, first: String, second: String },
    #[error(
        "`input: run` reads what this run's sink wrote, and it wrote nothing to topic `{topic}` (its topics: {known})"
    )]
    NotSunk { topic: String, known: String },
}

/// The raw tables with their objects listed.
pub(super) async fn tables(transform: &Transform, context: &TaskContext, s3: &S3) -> Result<Vec<Table>, Failure> {
    let sunk = sunk(context).map_err(|error| Failure::fatal(&error))?;
    let named = named(transform, sunk.as_ref()).map_err(|error| Failure::fatal(&error))?;
    let no_sink = |missing| Failure::fatal(&SourceError::NoSink { missing });
    let bucket = transform.bucket.clone().or_else(|| sunk.as_ref().map(|sunk| sunk.bucket.clone()));
    let bucket = bucket.ok_or_else(|| no_sink("`bucket`"))?;
    let topics_dir = sunk.as_ref().map_or("topics", |sunk| sunk.topics_dir.as_str());
    let mut tables = Vec::with_capacity(named.len());
    for (name, source) in named {
        let prefix = match (&source.topic, &source.prefix) {
            // Confluent drops the folder's delimiter with the folder.
            (Some(topic), _) if topics_dir.is_empty() => format!("{topic}/"),
            (Some(topic), _) => format!("{topics_dir}/{topic}/"),
            (None, prefix) => prefix.clone().unwrap_or_default(),
        };
        let listed = s3.list(&bucket, &prefix).await.map_err(EngineError::from)?;
        let origin = format!("s3://{bucket}/{prefix}");
        let format = match source.format {
            Some(format) => format,
            None => format_of_all(&name, &origin, &listed).map_err(|error| Failure::fatal(&error))?,
        };
        let mut objects: Vec<ObjectSummary> =
            listed.into_iter().filter(|object| data_format(&object.key) == Some(format)).collect();
        if let (Input::Run, Some(topic)) = (transform.input, &source.topic) {
            let known = sunk.as_ref().ok_or_else(|| no_sink("what `input: run` reads"))?;
            let partitions = &known.topics.get(topic).ok_or_else(|| not_sunk(topic, known))?.partitions;
            objects.retain(|object| is_of_run(&object.key, topic, partitions));
        }
        let bytes: u64 = objects.iter().map(|object| object.size).sum();
        context.log.line(format!("table {name}: {} objects, {bytes} bytes under {origin}", objects.len()));
        let (bucket, columns) = (bucket.clone(), source.columns);
        tables.push(Table { name, bucket, origin, objects, format, columns });
    }
    Ok(tables)
}

/// The outputs of all sinks upstream as one; they share bucket and folder in every sensible DAG, and the first counts.
fn sunk(context: &TaskContext) -> Result<Option<Sunk>, SourceError> {
    let mut all: Option<Sunk> = None;
    for (task, upstream) in context.upstream.iter().filter(|(_, upstream)| upstream.operator == "sink") {
        let one = Sunk::deserialize(serde_json::Value::Object((*upstream.output).clone()))
            .map_err(|error| SourceError::NotASink { task: task.to_string(), message: error.to_string() })?;
        match &mut all {
            None => all = Some(one),
            Some(all) => all.topics.extend(one.topics),
        }
    }
    Ok(all)
}

/// The tables by name: as declared, or one for each topic that was sunk.
fn named(transform: &Transform, sunk: Option<&Sunk>) -> Result<Vec<(String, TableSource)>, SourceError> {
    if let Some(declared) = &transform.tables {
        return Ok(declared.iter().map(|(name, source)| (name.clone(), source.clone())).collect());
    }
    let sunk = sunk.ok_or(SourceError::NoSink { missing: "`tables`" })?;
    let mut tables: Vec<(String, TableSource)> = Vec::new();
    for topic in sunk.topics.keys() {
        let alias = topic.rsplit('.').next().unwrap_or(topic);
        let table = format!("raw_{}", super::safe_name(alias));
        if let Some((_, other)) = tables.iter().find(|(name, _)| *name == table) {
            let first = other.topic.clone().unwrap_or_default();
            return Err(SourceError::SameTable { table, first, second: topic.clone() });
        }
        let source = TableSource { topic: Some(topic.clone()), prefix: None, format: None, columns: BTreeMap::new() };
        tables.push((table, source));
    }
    Ok(tables)
}

fn not_sunk(topic: &str, sunk: &Sunk) -> Failure {
    let known: Vec<&str> = sunk.topics.keys().map(String::as_str).collect();
    Failure::fatal(&SourceError::NotSunk { topic: topic.to_owned(), known: known.join(", ") })
}

/// The format of a data object by its key; `None` for what is none, as the keys and headers that may lie beside it.
fn data_format(key: &str) -> Option<Format> {
    let name = key.rsplit('/').next().unwrap_or(key);
    if name.contains(".keys.") || name.contains(".headers.") {
        return None;
    }
    let ends_with = |ends: &[&str]| ends.iter().any(|end| name.ends_with(end));
    if ends_with(&[".json", ".json.gz", ".json.zst"]) {
        Some(Format::Json)
    } else if ends_with(&[".csv", ".csv.gz", ".csv.zst"]) {
        Some(Format::Csv)
    } else if name.ends_with(".parquet") {
        Some(Format::Parquet)
    } else {
        None
    }
}

/// The one format that all data objects have. To take one of two would leave the records of the other out unseen.
fn format_of_all(table: &str, origin: &str, objects: &[ObjectSummary]) -> Result<Format, SourceError> {
    let mut formats = objects.iter().filter_map(|object| data_format(&object.key));
    let first = formats.next().unwrap_or(Format::Json);
    match formats.find(|other| *other != first) {
        None => Ok(first),
        Some(other) => Err(SourceError::TwoFormats {
            table: table.to_owned(),
            origin: origin.to_owned(),
            first: format!("{first:?}").to_lowercase(),
            second: format!("{other:?}").to_lowercase(),
        }),
    }
}

/// Whether an object begins within the run's range: its name is `<topic>+<partition>+<offset of its first record>`.
fn is_of_run(key: &str, topic: &str, partitions: &BTreeMap<String, Range>) -> bool {
    let name = key.rsplit('/').next().unwrap_or(key);
    let Some((partition, rest)) =
        name.strip_prefix(topic).and_then(|rest| rest.strip_prefix('+')).and_then(|rest| rest.split_once('+'))
    else {
        return false;
    };
    let digits = rest.split(|c: char| !c.is_ascii_digit()).next().unwrap_or_default();
    let (Some(range), Ok(start)) = (partitions.get(partition), digits.parse::<u64>()) else { return false };
    (range.start..range.end).contains(&start)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_has_the_objects_that_begin_in_its_ranges() {
        let ranges = BTreeMap::from([("0".to_owned(), Range { start: 10, end: 20 })]);
        let is_of_run = |name: &str| is_of_run(&format!("topics/u.pin/partition=0/{name}"), "u.pin", &ranges);
        assert!(is_of_run("u.pin+0+0000000010.json"));
        assert!(is_of_run("u.pin+0+0000000019.json.gz"));
        assert!(!is_of_run("u.pin+0+0000000020.json"));
        assert!(!is_of_run("u.pin+1+0000000010.json"));
        assert!(!is_of_run("other.json"));
    }

    #[test]
    fn keys_and_headers_beside_the_data_are_no_data() {
        let key = "topics/u.pin/partition=0/u.pin+0+0000000000";
        assert_eq!(data_format(&format!("{key}.json.zst")), Some(Format::Json));
        assert_eq!(data_format(&format!("{key}.keys.json")), None);
        assert_eq!(data_format(&format!("{key}.snappy.parquet")), Some(Format::Parquet));
    }

    #[test]
    fn objects_of_two_formats_are_not_read_by_halves() {
        let objects = |names: [&str; 2]| names.map(|key| ObjectSummary { key: key.to_owned(), size: 1 });
        assert_eq!(format_of_all("t", "s3://b/", &objects(["a.parquet", "readme.txt"])).ok(), Some(Format::Parquet));
        let error = format_of_all("t", "s3://b/", &objects(["a.json", "b.parquet"])).unwrap_err();
        assert!(error.to_string().contains("json and parquet objects"), "{error}");
    }
}
