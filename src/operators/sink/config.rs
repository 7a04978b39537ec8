//! The sink's keys in a DAG file, and the pure check that turns them into what it works with.

use std::collections::BTreeMap;

use chrono::TimeDelta;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

use super::partitioner::{FieldPath, Partitioner};
use super::path_format::PathFormat;
use super::topics::TopicPattern;
use crate::domain::duration::parse_duration;
use crate::domain::operator_kind::ConfigProblem;

/// Writes the records of Kafka topics to S3 objects, each exactly once, named and filled as Confluent's S3 sink does.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("x-not-mapped" = "a topic is sunk by one task at a time"))]
pub(super) struct SinkConfig {
    /// The topics: names with `*` and `?`, or regular expressions that begin with `^`; one or a list.
    pub(super) topics: OneOrMany,
    /// The bucket. It must exist.
    pub(super) bucket: String,
    /// The first folder of every object; empty for none.
    #[serde(default = "topics_dir")]
    pub(super) topics_dir: String,
    /// How many records of a partition go into an object at most.
    #[serde(default = "flush_size")]
    #[schemars(range(min = 1))]
    pub(super) flush_size: u64,
    /// How many objects of a partition are filled at once at most, over all folders; one more ends them all. (Confluent's
    /// `partitioner.max.open.files`.)
    #[serde(default = "max_open_files")]
    #[schemars(range(min = 1))]
    pub(super) max_open_files: usize,
    /// An object takes records of at most this span of time, by the records' own times.
    #[serde(default)]
    pub(super) rotate_interval: Option<Span>,
    /// How records are spread over folders.
    #[serde(default)]
    pub(super) partitioner: PartitionerConfig,
    /// What objects hold.
    #[serde(default)]
    pub(super) format: Format,
    /// How objects are compressed: `none` unless said otherwise, `snappy` with Parquet.
    #[serde(default)]
    pub(super) compression: Option<Compression>,
    /// What becomes of records without a value.
    #[serde(default)]
    pub(super) tombstones: Tombstones,
    /// Whose records are sunk: those of this `run`, which is the default after a `produce`, or `all`.
    #[serde(default)]
    pub(super) records: Option<Records>,
    /// Whether an object that is there already is replaced, or compared (the store must know `If-None-Match`).
    #[serde(default)]
    pub(super) put: Put,
    /// A larger record becomes a dead letter.
    #[serde(default = "max_record_bytes")]
    #[schemars(range(min = 1))]
    pub(super) max_record_bytes: usize,
    /// The columns that the records of a topic must have, by the topic's last part (`pin` of `0e35b2767ae1.pin`) or its
    /// whole name. Without it those that `produce` names.
    #[serde(default)]
    pub(super) columns: BTreeMap<String, Vec<String>>,
    /// The consumer group in whose name offsets are published; `pinsched-<dag>-<task>` unless said otherwise.
    #[serde(default)]
    pub(super) group_id: Option<String>,
}

/// One text or a list of them.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(untagged)]
pub(super) enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

impl OneOrMany {
    pub(super) fn as_slice(&self) -> &[String] {
        match self {
            Self::One(one) => std::slice::from_ref(one),
            Self::Many(many) => many,
        }
    }
}

/// A span of time: seconds, or `500ms`, `30s`, `5m`, `2h`, `1d`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(untagged)]
pub(super) enum Span {
    Seconds(u32),
    Text(String),
}

impl Span {
    fn milliseconds(&self) -> Option<i64> {
        match self {
            Self::Seconds(seconds) => Some(i64::from(*seconds) * 1000),
            Self::Text(text) => i64::try_from(parse_duration(text).ok()?.as_millis()).ok(),
        }
    }
}

/// How records are spread over folders.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct PartitionerConfig {
    /// `default`: `partition=<n>`; `time`: by `path_format`; `hourly`, `daily`: Confluent's forms of it; `field`: by value.
    #[serde(default, rename = "type")]
    pub(super) kind: PartitionerKind,
    /// Joda-Time letters, text in single quotes: `'year'=YYYY/'month'=MM/'day'=dd/'hour'=HH`.
    #[serde(default)]
    pub(super) path_format: Option<String>,
    /// The time zone of the folders' names, as `Europe/London`; UTC unless said otherwise.
    #[serde(default)]
    pub(super) timezone: Option<String>,
    /// The length of time of one folder; an hour unless said otherwise.
    #[serde(default)]
    pub(super) partition_duration: Option<Span>,
    /// The field that holds the time; without it Kafka's timestamp of the record.
    #[serde(default)]
    pub(super) timestamp_field: Option<String>,
    /// The field, or fields, whose values name the folders; dots lead into objects.
    #[serde(default)]
    pub(super) field: Option<OneOrMany>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum PartitionerKind {
    #[default]
    Default,
    Time,
    Hourly,
    Daily,
    Field,
}

/// What objects hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum Format {
    /// One compact JSON record a line.
    #[default]
    Json,
    /// Parquet, columns typed by the object's own records.
    Parquet,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum Compression {
    None,
    Gzip,
    Zstd,
    /// Parquet alone.
    Snappy,
}

/// What becomes of records without a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum Tombstones {
    /// They are counted and left out.
    #[default]
    Skip,
    /// They fail the task.
    Fail,
    /// Their keys are written, as JSON, below `tombstone/`.
    Write,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum Records {
    /// Those that this run's `produce` stamped.
    Run,
    /// All in the range.
    All,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum Put {
    /// Replaces it: the bytes are the same.
    #[default]
    Overwrite,
    /// Succeeds when the object is ours, byte for byte; fails when it is another.
    Create,
}

fn topics_dir() -> String {
    "topics".to_owned()
}

fn flush_size() -> u64 {
    10_000
}

/// As many as `flush_size` can fill unless it is raised: objects are named as Confluent's, which has no limit. Those that
/// are open share memory and one file, so that many cost little.
fn max_open_files() -> usize {
    10_000
}

/// Twice the most that brokers of MSK take.
fn max_record_bytes() -> usize {
    16 * 1024 * 1024
}

/// What the configuration means.
#[derive(Debug, Clone)]
pub(super) struct Checked {
    pub(super) patterns: Vec<TopicPattern>,
    pub(super) partitioner: Partitioner,
    pub(super) rotate_interval_ms: Option<i64>,
    pub(super) compression: Compression,
}

const HOURLY: &str = "'year'=YYYY/'month'=MM/'day'=dd/'hour'=HH";
const DAILY: &str = "'year'=YYYY/'month'=MM/'day'=dd";

impl SinkConfig {
    /// Reads what the values mean, or says everything that is wrong with them.
    pub(super) fn check(&self) -> Result<Checked, Vec<ConfigProblem>> {
        let mut problems = Vec::new();
        let patterns = self.check_topics(&mut problems);
        self.check_names(&mut problems);
        let rotate_interval_ms =
            self.rotate_interval.as_ref().and_then(|span| positive(span, &["rotate_interval"], &mut problems));
        let compression = self.check_compression(&mut problems);
        let partitioner = self.partitioner.check(&mut problems);
        match partitioner {
            Some(partitioner) if problems.is_empty() => {
                Ok(Checked { patterns, partitioner, rotate_interval_ms, compression })
            }
            _ => Err(problems),
        }
    }

    fn check_topics(&self, problems: &mut Vec<ConfigProblem>) -> Vec<TopicPattern> {
        let texts = self.topics.as_slice();
        if texts.is_empty() {
            problems.push(ConfigProblem::at("topics", "it names no topic"));
        }
        let mut patterns = Vec::new();
        for text in texts {
            match TopicPattern::parse(text) {
                _ if text.trim().is_empty() => problems.push(ConfigProblem::at("topics", "a topic has no name")),
                Ok(pattern) => patterns.push(pattern),
                Err(wrong) => {
                    problems.push(ConfigProblem::at("topics", format!("`{text}` is no regular expression: {wrong}")));
                }
            }
        }
        patterns
    }

    fn check_names(&self, problems: &mut Vec<ConfigProblem>) {
        let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '.');
        if !(3..=63).contains(&self.bucket.len()) || !self.bucket.chars().all(allowed) {
            let message = format!("`{}` is no bucket name", self.bucket);
            let help = "a bucket's name has 3 to 63 lower case letters, digits, `-` and `.`";
            problems.push(ConfigProblem::at("bucket", message).help(help));
        }
        let unfit = |part: &str| part.is_empty() || part == "." || part == "..";
        if !self.topics_dir.is_empty() && self.topics_dir.split('/').any(unfit) {
            let message = format!("`{}` is no folder", self.topics_dir);
            problems.push(ConfigProblem::at("topics_dir", message).help("give it without a `/` at either end"));
        }
        for (key, zero) in [
            ("flush_size", self.flush_size == 0),
            ("max_open_files", self.max_open_files == 0),
            ("max_record_bytes", self.max_record_bytes == 0),
        ] {
            if zero {
                problems.push(ConfigProblem::at(key, "it must be 1 at least"));
            }
        }
    }

    fn check_compression(&self, problems: &mut Vec<ConfigProblem>) -> Compression {
        match (self.format, self.compression) {
            (Format::Json, Some(Compression::Snappy)) => {
                let problem = ConfigProblem::at("compression", "`snappy` is for Parquet alone");
                problems.push(problem.help("use `gzip`, `zstd` or `none` with JSON"));
                Compression::None
            }
            (Format::Json, None) => Compression::None,
            (Format::Parquet, None) => Compression::Snappy,
            (_, Some(compression)) => compression,
        }
    }
}

impl PartitionerConfig {
    fn check(&self, problems: &mut Vec<ConfigProblem>) -> Option<Partitioner> {
        let by_time = matches!(self.kind, PartitionerKind::Time | PartitionerKind::Hourly | PartitionerKind::Daily);
        let own_format = self.kind == PartitionerKind::Time;
        let misplaced = [
            ("path_format", self.path_format.is_some() && !own_format, "time"),
            ("partition_duration", self.partition_duration.is_some() && !own_format, "time"),
            ("timezone", self.timezone.is_some() && !by_time, "time, hourly or daily"),
            ("timestamp_field", self.timestamp_field.is_some() && !by_time, "time, hourly or daily"),
            ("field", self.field.is_some() && self.kind != PartitionerKind::Field, "field"),
        ];
        for (key, _, kinds) in misplaced.iter().filter(|(_, misplaced, _)| *misplaced) {
            problems.push(nested(key, format!("it is for a partitioner of `type: {kinds}` alone")));
        }
        match self.kind {
            PartitionerKind::Default => Some(Partitioner::Default),
            PartitionerKind::Field => self.check_fields(problems),
            PartitionerKind::Hourly => self.check_time(HOURLY, 3_600_000, problems),
            PartitionerKind::Daily => self.check_time(DAILY, 86_400_000, problems),
            PartitionerKind::Time => {
                let path = ["partitioner", "partition_duration"];
                let duration = self.partition_duration.as_ref().map(|span| positive(span, &path, problems));
                self.check_time(
                    self.path_format.as_deref().unwrap_or(HOURLY),
                    duration.flatten().unwrap_or(3_600_000),
                    problems,
                )
            }
        }
    }

    fn check_fields(&self, problems: &mut Vec<ConfigProblem>) -> Option<Partitioner> {
        let names = self.field.as_ref().map_or(&[][..], OneOrMany::as_slice);
        if names.is_empty() || names.iter().any(|name| name.is_empty() || name.contains('/')) {
            problems.push(nested("field", "a field partitioner needs the field to file records by".to_owned()));
            return None;
        }
        Some(Partitioner::Field(names.iter().map(|name| FieldPath(name.clone())).collect()))
    }

    fn check_time(&self, format: &str, duration_ms: i64, problems: &mut Vec<ConfigProblem>) -> Option<Partitioner> {
        let zone_name = self.timezone.as_deref().unwrap_or("UTC");
        let zone = zone_name.parse();
        if zone.is_err() {
            let problem = nested("timezone", format!("`{zone_name}` is no time zone"));
            problems.push(problem.help("use a name of the IANA database, as `Europe/London`"));
        }
        let format = PathFormat::parse(format).map_err(|wrong| problems.push(nested("path_format", wrong)));
        let field = self.timestamp_field.clone().map(FieldPath);
        let duration = TimeDelta::milliseconds(duration_ms);
        Some(Partitioner::Time { format: format.ok()?, zone: zone.ok()?, duration, field })
    }
}

fn positive(span: &Span, path: &[&str], problems: &mut Vec<ConfigProblem>) -> Option<i64> {
    let milliseconds = span.milliseconds().filter(|milliseconds| *milliseconds > 0);
    if milliseconds.is_none() {
        let path = path.iter().map(|key| (*key).to_owned()).collect();
        let help = Some("give seconds, or `500ms`, `30s`, `5m`, `2h`, `1d`".to_owned());
        problems.push(ConfigProblem { path, message: "it is no span of time".to_owned(), help });
    }
    milliseconds
}

fn nested(key: &str, message: String) -> ConfigProblem {
    ConfigProblem { path: vec!["partitioner".to_owned(), key.to_owned()], message, help: None }
}

/// The kind's check: what does not deserialise, else what does not fit together.
pub(super) fn check(config: &Value) -> Vec<ConfigProblem> {
    crate::operators::config::check::<SinkConfig>(config, |config| config.check().err().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn problems(extra: Value) -> Vec<String> {
        let mut config = json!({"topics": "u.*", "bucket": "user-bucket"});
        let fields = config.as_object_mut().unwrap();
        fields.extend(extra.as_object().unwrap().clone());
        check(&config).into_iter().map(|problem| format!("{}: {}", problem.path.join("."), problem.message)).collect()
    }

    #[test]
    fn the_least_configuration_is_confluents_default() {
        assert_eq!(problems(json!({})), [] as [&str; 0]);
        let config: SinkConfig = serde_json::from_value(json!({"topics": ["u.*"], "bucket": "user-bucket"})).unwrap();
        assert_eq!((config.topics_dir.as_str(), config.flush_size), ("topics", 10_000));
        assert_eq!(config.check().unwrap().compression, Compression::None);
    }

    #[test]
    fn all_that_is_wrong_is_said_at_once() {
        let wrong = problems(json!({
            "topics": ["^(u", ""], "bucket": "My_Bucket", "topics_dir": "/topics", "flush_size": 0,
            "max_open_files": 0, "rotate_interval": "soon", "compression": "snappy",
            "partitioner": {"type": "time", "path_format": "year=YYYY", "timezone": "Mars/Olympus", "field": "x"},
        }));
        insta::assert_snapshot!(wrong.join("\n"), @r"
        topics: `^(u` is no regular expression: unclosed group
        topics: a topic has no name
        bucket: `My_Bucket` is no bucket name
        topics_dir: `/topics` is no folder
        flush_size: it must be 1 at least
        max_open_files: it must be 1 at least
        rotate_interval: it is no span of time
        compression: `snappy` is for Parquet alone
        partitioner.field: it is for a partitioner of `type: field` alone
        partitioner.timezone: `Mars/Olympus` is no time zone
        partitioner.path_format: `r` means nothing in a path format (text goes into single quotes)
        ");
    }

    #[test]
    fn unknown_keys_and_values_are_named() {
        assert!(problems(json!({"flushsize": 1}))[0].contains("unknown field `flushsize`"));
        assert!(problems(json!({"format": "avro"}))[0].contains("unknown variant `avro`"));
        assert!(problems(json!({"partitioner": {"type": "field"}}))[0].contains("partitioner.field"));
    }

    #[test]
    fn spans() {
        let milliseconds = |span: Value| serde_json::from_value::<Span>(span).unwrap().milliseconds();
        assert_eq!(milliseconds(json!(90)), Some(90_000));
        assert_eq!(milliseconds(json!("500ms")), Some(500));
        assert_eq!(milliseconds(json!("2 h")), Some(7_200_000));
        assert_eq!(milliseconds(json!("1h30m")), Some(5_400_000));
        assert_eq!(milliseconds(json!("2 moons")), None);
    }
}
