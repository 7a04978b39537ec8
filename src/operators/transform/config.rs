//! The keys of a `transform` task, and what can be said of them before it runs.

use std::collections::BTreeMap;
use std::path::{Component, Path};

use datafusion::arrow::datatypes::{DataType, TimeUnit};
use indexmap::IndexMap;
use serde::Deserialize;

use crate::domain::byte_size::parse_byte_size;
use crate::domain::operator_kind::ConfigProblem;

/// Below this DataFusion cannot even hold the batches that it works on.
const LEAST_MEMORY_LIMIT: usize = 16 * 1000 * 1000;

/// The keys of a `transform` task.
#[derive(Debug, Clone, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("x-not-mapped" = "its objects are named by DAG, run and result, so that instances would overwrite each other"))]
pub(super) struct Transform {
    /// SQL files, relative to the DAG file's folder: one or several, `*` and `?` allowed in the file's name; or queries
    /// by name. Files run in order of their names. `CREATE VIEW` prepares, and a query gives a result that is named
    /// like its file.
    pub(super) sql: SqlSource,
    /// The raw tables. Without it: one per topic of the `sink` before it, `raw_pin` for `….pin`.
    #[serde(default)]
    pub(super) tables: Option<IndexMap<String, TableSource>>,
    /// The bucket with the objects. Default: the `sink`'s.
    #[serde(default)]
    pub(super) bucket: Option<String>,
    /// Which objects are read.
    #[serde(default)]
    pub(super) input: Input,
    /// Where the results go.
    #[serde(default)]
    pub(super) output: Output,
    /// How much memory the queries may take, as `512MB` or `2GiB`; beyond it they use files. Default: the setting
    /// `engine.memory_limit`.
    #[serde(default)]
    pub(super) memory_limit: Option<MemoryLimit>,
    /// What runs the SQL.
    #[serde(default)]
    #[expect(dead_code, reason = "there is one engine so far; the key is read so that a wrong one is refused")]
    pub(super) engine: EngineName,
}

/// Where the SQL is.
#[derive(Debug, Clone, Deserialize, schemars::JsonSchema)]
#[serde(untagged, expecting = "`sql` must be a file pattern, a list of them, or a map from names to queries")]
pub(super) enum SqlSource {
    /// A file, or a pattern of file names.
    Pattern(String),
    /// Several.
    Patterns(Vec<String>),
    /// Queries by name, in the order in which they are written.
    Queries(IndexMap<String, String>),
}

/// Where a raw table's records are.
#[derive(Debug, Clone, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct TableSource {
    /// A topic that was sunk to the bucket.
    #[serde(default)]
    pub(super) topic: Option<String>,
    /// Every object whose key begins with this.
    #[serde(default)]
    pub(super) prefix: Option<String>,
    /// The objects' format; those of other formats are left alone. Without it all must be of one.
    #[serde(default)]
    pub(super) format: Option<Format>,
    /// Types of columns; the others' are found out from the records.
    #[serde(default)]
    pub(super) columns: BTreeMap<String, ColumnType>,
}

/// What an object holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum Format {
    /// A JSON object a line: `.json`, `.json.gz`, `.json.zst`.
    Json,
    /// `.parquet`.
    Parquet,
    /// With a header line: `.csv`, `.csv.gz`, `.csv.zst`.
    Csv,
}

/// The type of a column, by its name in SQL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum ColumnType {
    /// Text.
    #[serde(alias = "string", alias = "varchar")]
    Text,
    /// 32 bits.
    #[serde(alias = "integer")]
    Int,
    /// 64 bits.
    #[serde(alias = "long")]
    Bigint,
    /// A floating point number of 64 bits.
    #[serde(alias = "float")]
    Double,
    /// True or false.
    #[serde(alias = "bool")]
    Boolean,
    /// An instant without a zone.
    Timestamp,
    /// A day.
    Date,
}

impl ColumnType {
    /// As Arrow has it.
    pub(super) fn data_type(self) -> DataType {
        match self {
            Self::Text => DataType::Utf8,
            Self::Int => DataType::Int32,
            Self::Bigint => DataType::Int64,
            Self::Double => DataType::Float64,
            Self::Boolean => DataType::Boolean,
            Self::Timestamp => DataType::Timestamp(TimeUnit::Microsecond, None),
            Self::Date => DataType::Date32,
        }
    }
}

/// Which of a topic's objects are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum Input {
    /// All that are there, of whatever run.
    #[default]
    All,
    /// Those that this run's `sink` wrote.
    Run,
}

/// Where results go.
#[derive(Debug, Clone, Default, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Output {
    /// The objects' format, or `none` for no objects.
    pub(super) format: OutputFormat,
    /// Their bucket. Default: the staging bucket of the settings.
    pub(super) bucket: Option<String>,
    /// What their keys begin with. Default: `results/<DAG id>/<run id>/`.
    pub(super) prefix: Option<String>,
    /// A database that gets a table for each result.
    pub(super) postgres: Option<PostgresOutput>,
}

/// The format of results.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum OutputFormat {
    /// Parquet, compressed by zstd.
    #[default]
    Parquet,
    /// CSV with a header line.
    Csv,
    /// A JSON object a line.
    Json,
    /// No objects: the preview and, when asked for, tables.
    None,
}

/// A database for the results. Tables are replaced, all of them at once.
#[derive(Debug, Clone, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct PostgresOutput {
    /// The name of a connection of the settings, or a `postgres://` URL.
    pub(super) connection: String,
    /// The schema; made when missing.
    #[serde(default = "public")]
    pub(super) schema: String,
}

fn public() -> String {
    "public".to_owned()
}

/// Names of engines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum EngineName {
    /// In this process.
    #[default]
    Datafusion,
}

/// Bytes, as a number or as `512MB`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, schemars::JsonSchema)]
#[serde(untagged, expecting = "a memory limit must be a number of bytes or text such as `512MB`")]
pub(super) enum MemoryLimit {
    /// Bytes.
    Bytes(u64),
    /// A number with a unit.
    Text(String),
}

impl MemoryLimit {
    /// In bytes; `None` when the text is no size.
    fn bytes(&self) -> Option<usize> {
        let bytes = match self {
            Self::Bytes(bytes) => *bytes,
            Self::Text(text) => parse_byte_size(text)?,
        };
        usize::try_from(bytes).ok()
    }
}

impl Transform {
    /// The limit in bytes: the task's own, or `otherwise`.
    pub(super) fn memory_limit_bytes(&self, otherwise: u64) -> usize {
        let own = self.memory_limit.as_ref().and_then(MemoryLimit::bytes);
        own.unwrap_or_else(|| usize::try_from(otherwise).unwrap_or(usize::MAX))
    }
}

/// What is wrong beyond the shape.
pub(super) fn problems(transform: &Transform) -> Vec<ConfigProblem> {
    let mut problems = Vec::new();
    match &transform.sql {
        SqlSource::Pattern(pattern) => problems.extend(pattern_problem(pattern, vec!["sql".to_owned()])),
        SqlSource::Patterns(patterns) => {
            if patterns.is_empty() {
                problems.push(ConfigProblem::at("sql", "the list of SQL files is empty"));
            }
            for (index, pattern) in patterns.iter().enumerate() {
                problems.extend(pattern_problem(pattern, vec!["sql".to_owned(), index.to_string()]));
            }
        }
        SqlSource::Queries(queries) => {
            if queries.is_empty() {
                problems.push(ConfigProblem::at("sql", "the map of queries is empty"));
            }
        }
    }
    for (name, source) in transform.tables.iter().flatten() {
        if source.topic.is_some() == source.prefix.is_some() {
            let message = format!("table `{name}` needs either a `topic` or a `prefix`");
            problems.push(ConfigProblem { path: vec!["tables".to_owned(), name.clone()], message, help: None });
        }
    }
    if let Some(limit) = &transform.memory_limit {
        match limit.bytes() {
            None => problems
                .push(ConfigProblem::at("memory_limit", "this is not a size").help("write it as `512MB` or `2GiB`")),
            Some(bytes) if bytes < LEAST_MEMORY_LIMIT => {
                problems.push(ConfigProblem::at("memory_limit", "less than 16MB is not enough for any query"));
            }
            Some(_) => {}
        }
    }
    if let Some(postgres) = &transform.output.postgres
        && let Some((scheme, _)) = postgres.connection.split_once("://")
        && !matches!(scheme, "postgres" | "postgresql")
    {
        let path = ["output", "postgres", "connection"].map(str::to_owned).to_vec();
        let message = format!("results go to Postgres, and this is a `{scheme}` URL");
        problems.push(ConfigProblem { path, message, help: None });
    }
    problems
}

fn pattern_problem(pattern: &str, path: Vec<String>) -> Option<ConfigProblem> {
    let problem = |message: &str| Some(ConfigProblem { path, message: message.to_owned(), help: None });
    let file = Path::new(pattern);
    if pattern.trim().is_empty() {
        return problem("the name of the SQL file is empty");
    }
    let has_wildcard = |part: &Component<'_>| part.as_os_str().to_string_lossy().contains(['*', '?']);
    if file.parent().is_some_and(|folders| folders.components().any(|part| has_wildcard(&part))) {
        return problem("`*` and `?` are allowed in the file's name, not in its folders");
    }
    None
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(config: &serde_json::Value) -> Vec<String> {
        crate::operators::config::check(config, problems).into_iter().map(|problem| problem.message).collect()
    }

    #[test]
    fn a_memory_limit_is_a_size_as_in_the_settings() {
        let bytes = |text: &str| MemoryLimit::Text(text.to_owned()).bytes();
        assert_eq!((bytes("512m"), bytes("512MB"), bytes("1.5GB")), (Some(512 << 20), Some(512_000_000), None));
        assert_eq!(MemoryLimit::Bytes(7).bytes(), Some(7));
    }

    #[test]
    fn mistakes_are_told_before_the_run() {
        assert!(check(&json!({"sql": "sql/pinterest/*.sql"})).is_empty());
        assert_eq!(check(&json!({"sql": "sql/*/a.sql"})).len(), 1);
        assert_eq!(
            check(&json!({"sql": 3})),
            ["`sql` must be a file pattern, a list of them, or a map from names to queries"]
        );
        assert_eq!(
            check(&json!({"sql": "a.sql", "tables": {"t": {}}})),
            ["table `t` needs either a `topic` or a `prefix`"]
        );
        assert_eq!(check(&json!({"sql": "a.sql", "memory_limit": "1MB"})).len(), 1);
        let mysql = json!({"sql": "a.sql", "output": {"postgres": {"connection": "mysql://h/d"}}});
        assert_eq!(check(&mysql), ["results go to Postgres, and this is a `mysql` URL"]);
    }
}
