//! Which objects make up which raw table: from the task's `tables`, or from what the `sink` before it left.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::connect::s3::{ObjectSummary, S3};
use crate::domain::ids::TaskId;
use crate::engine::operator::{Failure, TaskContext};

use super::config::{Format, Input, TableSource, Transform};
use super::engine::{EngineError, Table};

/// What a `sink` says of what it wrote, as far as it matters here.
#[derive(Debug, Clone, Deserialize)]
struct Sunk {
    bucket: String,
    topics_dir: String,
    topics: BTreeMap<String, IgnoredAny>,
}

/// The sinks upstream, by their task ids.
type Sinks = BTreeMap<TaskId, Sunk>;

/// Where objects lie.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Place {
    bucket: String,
    prefix: String,
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
        "topic `{topic}` was sunk to s3://{first} and to s3://{second}: name the objects that are meant by `prefix` under \
         `tables`"
    )]
    TwoPlaces { topic: String, first: String, second: String },
    #[error("the sinks before this task write to the buckets {buckets}: say by `bucket` where those of {what} are")]
    SeveralBuckets { buckets: String, what: String },
    #[error(
        "`input: run` reads what this run's sink wrote, and it wrote nothing to topic `{topic}` (its topics: {known})"
    )]
    NotSunk { topic: String, known: String },
}

/// The raw tables with their objects listed.
pub(super) async fn tables(transform: &Transform, context: &TaskContext, s3: &S3) -> Result<Vec<Table>, Failure> {
    let sinks = sinks(context).map_err(|error| Failure::fatal(&error))?;
    let named = named(transform, &sinks).map_err(|error| Failure::fatal(&error))?;
    let mut tables = Vec::with_capacity(named.len());
    for (name, source) in named {
        let Place { bucket, prefix } = place(transform, &sinks, &source).map_err(|error| Failure::fatal(&error))?;
        let listed = s3.list(&bucket, &prefix).await.map_err(EngineError::from)?;
        let origin = format!("s3://{bucket}/{prefix}");
        let format = match source.format {
            Some(format) => format,
            None => format_of_all(&name, &origin, &listed).map_err(|error| Failure::fatal(&error))?,
        };
        let mut objects: Vec<ObjectSummary> =
            listed.into_iter().filter(|object| data_format(&object.key) == Some(format)).collect();
        if let (Input::Run, Some(topic)) = (transform.input, &source.topic) {
            let written = written(&sinks, context, topic).await?;
            objects.retain(|object| written.contains(&object.key));
        }
        let bytes: u64 = objects.iter().map(|object| object.size).sum();
        context.log.line(format!("table {name}: {} objects, {bytes} bytes under {origin}", objects.len()));
        tables.push(Table { name, bucket, origin, objects, format, columns: source.columns });
    }
    Ok(tables)
}

/// The outputs of all sinks upstream.
fn sinks(context: &TaskContext) -> Result<Sinks, SourceError> {
    let sinks = context.upstream.iter().filter(|(_, upstream)| upstream.operator == "sink");
    let read = sinks.map(|(task, upstream)| {
        let sunk = Sunk::deserialize(serde_json::Value::Object((*upstream.output).clone()))
            .map_err(|error| SourceError::NotASink { task: task.to_string(), message: error.to_string() })?;
        Ok((task.clone(), sunk))
    });
    read.collect()
}

/// The tables by name: as declared, or one for each topic that was sunk.
fn named(transform: &Transform, sinks: &Sinks) -> Result<Vec<(String, TableSource)>, SourceError> {
    if let Some(declared) = &transform.tables {
        return Ok(declared.iter().map(|(name, source)| (name.clone(), source.clone())).collect());
    }
    if sinks.is_empty() {
        return Err(SourceError::NoSink { missing: "`tables`" });
    }
    let mut tables: Vec<(String, TableSource)> = Vec::new();
    let topics: BTreeSet<&String> = sinks.values().flat_map(|sunk| sunk.topics.keys()).collect();
    for topic in topics {
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

/// Where a table's objects lie: a topic's where its sink put them; a topic that no sink before this task took lies where
/// all of them put theirs.
fn place(transform: &Transform, sinks: &Sinks, source: &TableSource) -> Result<Place, SourceError> {
    let Some(topic) = &source.topic else {
        let prefix = source.prefix.clone().unwrap_or_default();
        return Ok(Place { bucket: bucket(transform, sinks.values(), &prefix)?, prefix });
    };
    let of_topic: Vec<&Sunk> = sinks.values().filter(|sunk| sunk.topics.contains_key(topic)).collect();
    let candidates = if of_topic.is_empty() { sinks.values().collect() } else { of_topic };
    let mut places: Vec<Place> = Vec::new();
    for sunk in candidates {
        let place = Place {
            bucket: transform.bucket.clone().unwrap_or_else(|| sunk.bucket.clone()),
            prefix: topic_prefix(&sunk.topics_dir, topic),
        };
        if !places.contains(&place) {
            places.push(place);
        }
    }
    let mut places = places.into_iter();
    match (places.next(), places.next()) {
        (Some(place), None) => Ok(place),
        (Some(first), Some(second)) => {
            let shown = |place: Place| format!("{}/{}", place.bucket, place.prefix);
            Err(SourceError::TwoPlaces { topic: topic.clone(), first: shown(first), second: shown(second) })
        }
        (None, _) => {
            let bucket = transform.bucket.clone().ok_or(SourceError::NoSink { missing: "`bucket`" })?;
            Ok(Place { bucket, prefix: topic_prefix("topics", topic) })
        }
    }
}

fn bucket<'a>(transform: &Transform, sinks: impl Iterator<Item = &'a Sunk>, what: &str) -> Result<String, SourceError> {
    if let Some(bucket) = &transform.bucket {
        return Ok(bucket.clone());
    }
    let buckets: BTreeSet<&str> = sinks.map(|sunk| sunk.bucket.as_str()).collect();
    let mut all = buckets.iter();
    match (all.next(), all.next()) {
        (Some(one), None) => Ok((*one).to_owned()),
        (None, _) => Err(SourceError::NoSink { missing: "`bucket`" }),
        (Some(_), Some(_)) => {
            let buckets = buckets.into_iter().collect::<Vec<_>>().join(", ");
            Err(SourceError::SeveralBuckets { buckets, what: what.to_owned() })
        }
    }
}

/// Confluent drops the folder's delimiter with the folder.
fn topic_prefix(topics_dir: &str, topic: &str) -> String {
    if topics_dir.is_empty() { format!("{topic}/") } else { format!("{topics_dir}/{topic}/") }
}

/// The keys of what this run's sinks wrote of a topic. An object's name does not tell whose it is: ranges of runs that
/// produce at the same time overlap.
async fn written(sinks: &Sinks, context: &TaskContext, topic: &str) -> Result<HashSet<String>, Failure> {
    let of_topic: Vec<&TaskId> =
        sinks.iter().filter(|(_, sunk)| sunk.topics.contains_key(topic)).map(|(task, _)| task).collect();
    if of_topic.is_empty() {
        return Err(not_sunk(topic, sinks));
    }
    let run = context.attempt.task_run.run;
    let mut keys = HashSet::new();
    for task in of_topic {
        keys.extend(context.store.sunk_objects(run, task, topic).await.map_err(super::store_failure)?);
    }
    Ok(keys)
}

fn not_sunk(topic: &str, sinks: &Sinks) -> Failure {
    if sinks.is_empty() {
        return Failure::fatal(&SourceError::NoSink { missing: "what `input: run` reads" });
    }
    let known: BTreeSet<&str> = sinks.values().flat_map(|sunk| sunk.topics.keys()).map(String::as_str).collect();
    let known = known.into_iter().collect::<Vec<_>>().join(", ");
    Failure::fatal(&SourceError::NotSunk { topic: topic.to_owned(), known })
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

#[cfg(test)]
mod tests {
    use super::*;

    fn sunk(bucket: &str, topics_dir: &str, topics: &[&str]) -> Sunk {
        let topics = topics.iter().map(|topic| ((*topic).to_owned(), IgnoredAny)).collect();
        Sunk { bucket: bucket.to_owned(), topics_dir: topics_dir.to_owned(), topics }
    }

    fn shown(sinks: &[(&str, Sunk)], keys: serde_json::Value) -> Vec<String> {
        let sinks: Sinks = sinks.iter().map(|(task, sunk)| (task.parse().unwrap(), sunk.clone())).collect();
        let mut transform = serde_json::json!({"sql": "a.sql"});
        transform.as_object_mut().unwrap().extend(keys.as_object().unwrap().clone());
        let transform: Transform = serde_json::from_value(transform).unwrap();
        let named = match named(&transform, &sinks) {
            Ok(named) => named,
            Err(error) => return vec![error.to_string()],
        };
        let show = |(name, source)| match place(&transform, &sinks, &source) {
            Ok(Place { bucket, prefix }) => format!("{name}: {bucket}/{prefix}"),
            Err(error) => format!("{name}: {error}"),
        };
        named.into_iter().map(show).collect()
    }

    #[test]
    fn every_topic_lies_where_its_own_sink_put_it() {
        let two = [("a", sunk("pins", "topics", &["u.pin"])), ("b", sunk("places", "", &["u.geo"]))];
        assert_eq!(shown(&two, serde_json::json!({})), ["raw_geo: places/u.geo/", "raw_pin: pins/topics/u.pin/"]);
        assert_eq!(
            shown(&two, serde_json::json!({"tables": {"t": {"prefix": "x/"}, "old": {"topic": "u.old"}}})),
            [
                "t: the sinks before this task write to the buckets pins, places: say by `bucket` where those of x/ are",
                "old: topic `u.old` was sunk to s3://pins/topics/u.old/ and to s3://places/u.old/: name the objects that \
                 are meant by `prefix` under `tables`",
            ]
        );
        let same = [("a", sunk("pins", "topics", &["u.pin"])), ("b", sunk("pins", "topics", &["u.pin", "u.geo"]))];
        assert_eq!(
            shown(&same, serde_json::json!({"bucket": "copy"})),
            ["raw_geo: copy/topics/u.geo/", "raw_pin: copy/topics/u.pin/"]
        );
        let bare = shown(&[], serde_json::json!({"bucket": "b", "tables": {"t": {"topic": "u.pin"}}}));
        assert_eq!(bare, ["t: b/topics/u.pin/"]);
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
