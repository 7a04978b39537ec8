//! The keys of a `produce` task and what is wrong with them.

use serde::Deserialize;

use crate::domain::operator_kind::ConfigProblem;
use crate::operators::config::{Count, Scalar};

/// The keys of a `produce` task.
#[derive(Debug, Clone, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("x-not-mapped" = "sink and the account follow one sending"))]
pub(super) struct ProduceConfig {
    /// The topic of each table; `{{ table }}` is the table's short name, as `pin`.
    pub(super) topics: String,
    /// The task whose rows are sent; without it the `emulate` task upstream.
    #[serde(default)]
    pub(super) from: Option<String>,
    /// How many partitions a topic gets that has to be made.
    #[serde(default = "one")]
    pub(super) partitions: Count,
    /// How many replicas each partition gets of a topic that has to be made; without it as many as the broker likes.
    #[serde(default)]
    pub(super) replication: Option<Count>,
    /// How batches are compressed.
    #[serde(default)]
    pub(super) compression: Compression,
    /// Who must have a record before it counts as sent: `all` in-sync replicas, or the leader alone (`1`). Only with
    /// `all` is each row there exactly once.
    #[serde(default)]
    pub(super) acks: Acks,
    /// Whether records are sent in Kafka's transactions.
    #[serde(default)]
    pub(super) transactions: Transactions,
    /// How many rows go into a transaction.
    #[serde(default = "five_thousand")]
    pub(super) transaction_rows: Count,
}

fn one() -> Count {
    Count(1)
}

fn five_thousand() -> Count {
    Count(5_000)
}

/// How batches are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum Compression {
    /// Not at all.
    None,
    /// By gzip.
    Gzip,
    /// By Snappy.
    Snappy,
    /// By LZ4: fast.
    #[default]
    Lz4,
    /// By Zstandard; brokers know it from 2.1 on.
    Zstd,
}

impl Compression {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Gzip => "gzip",
            Self::Snappy => "snappy",
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
        }
    }
}

/// Who must have a record before it counts as sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Acks {
    #[default]
    All,
    Leader,
}

impl Acks {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Leader => "1",
        }
    }
}

impl<'de> Deserialize<'de> for Acks {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Scalar::deserialize(deserializer)?.into_text().as_str() {
            "all" | "-1" => Ok(Self::All),
            "1" => Ok(Self::Leader),
            "0" => Err(serde::de::Error::custom(
                "`acks` 0 would tell nobody which rows arrived, and the run's account asks for that; all and 1 do",
            )),
            other => Err(serde::de::Error::custom(format!("`acks` `{other}` is none; all and 1 are"))),
        }
    }
}

impl schemars::JsonSchema for Acks {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Acks".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "enum": ["all", -1, 1, "-1", "1"] })
    }
}

/// Whether records are sent in Kafka's transactions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum Transactions {
    /// Where the brokers have them.
    #[default]
    Auto,
    /// Or not at all.
    Required,
    /// Never: a retry may send records again, which `sink` drops.
    Off,
}

/// What is wrong with a configuration beyond its shape.
pub(super) fn problems(config: &ProduceConfig) -> Vec<ConfigProblem> {
    let mut problems = Vec::new();
    if config.topics.trim().is_empty() {
        problems.push(
            ConfigProblem::at("topics", "no topic is named").help("for instance \"{{ params.user_id }}.{{ table }}\""),
        );
    }
    let i32_max = u64::from(i32::MAX.unsigned_abs());
    if !(1..=i32_max).contains(&config.partitions.0) {
        problems.push(ConfigProblem::at("partitions", "a topic has at least one partition"));
    }
    if config.replication.is_some_and(|replication| !(1..=i32_max).contains(&replication.0)) {
        problems.push(ConfigProblem::at("replication", "a partition has at least one replica"));
    }
    if config.transaction_rows.0 == 0 {
        problems.push(ConfigProblem::at("transaction_rows", "a transaction has at least one row"));
    }
    if config.acks != Acks::All && config.transactions == Transactions::Required {
        problems.push(ConfigProblem::at("acks", "transactions need `acks: all`"));
    }
    problems
}

/// What Kafka allows a topic to be called.
pub(super) fn is_topic_name(name: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    (1..=249).contains(&name.len()) && name.chars().all(allowed) && name != "." && name != ".."
}
