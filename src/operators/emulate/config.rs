//! The keys of an `emulate` task and what is wrong with them.

use indexmap::IndexMap;
use serde::Deserialize;

use crate::domain::operator_kind::ConfigProblem;
use crate::operators::config::{Count, Scalar};

/// The keys of an `emulate` task.
#[derive(Debug, Clone, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("x-not-mapped" = "produce, sink and transform follow one drawing"))]
pub(super) struct EmulateConfig {
    /// The source database: the name of a connection, or a URL that begins with `mysql://` or `postgres://`. Without
    /// it the default source is drawn from, which on a laptop is the embedded one.
    #[serde(default)]
    pub(super) source: Option<String>,
    /// The tables that make up a row, by the short names that topics use. A row is one row of each, with the same key.
    #[serde(default = "pinterest_tables")]
    pub(super) tables: IndexMap<String, TableConfig>,
    /// How many rows to draw; without it all that there are. `replay` must be told.
    #[serde(default)]
    pub(super) rows: Option<Count>,
    /// Which rows are drawn.
    #[serde(default)]
    pub(super) draw: Draw,
    /// The seed of `sample` and `replay`. Without it each run has its own, the same at each of its attempts, and
    /// `replay` has the original's 100.
    #[serde(default)]
    pub(super) seed: Option<Count>,
    /// At most so many rows are drawn: `500/s`, `30/m`, or a number of rows a second.
    #[serde(default)]
    pub(super) rate: Option<Rate>,
    /// `original` sleeps 0 or 1 s before each row, as the original emulator did.
    #[serde(default)]
    pub(super) pace: Option<Pace>,
}

/// One table of a row.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct TableConfig {
    /// Its name in the source, with its schema where that is not the default one.
    pub(super) table: String,
    /// The column that tells its rows apart, an integer; rows with the same key belong together.
    pub(super) key: String,
    /// The columns that it must have, no more and no fewer. Without it any will do; the tables that are drawn from where a
    /// task names none have those of the original's.
    #[serde(default)]
    pub(super) columns: Option<Vec<String>>,
}

/// Which rows are drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum Draw {
    /// By chance, none twice, in the order of their keys.
    #[default]
    Sample,
    /// From the lowest key on.
    Sequential,
    /// The very rows that the original emulator draws, in its order: among the first 11,001, some of them twice.
    Replay,
}

impl Draw {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Sample => "sample",
            Self::Sequential => "sequential",
            Self::Replay => "replay",
        }
    }
}

/// How rows are spaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum Pace {
    /// Sleep 0 or 1 s before each.
    Original,
}

/// Rows per second.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Rate(pub(super) f64);

impl<'de> Deserialize<'de> for Rate {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Scalar::deserialize(deserializer)?.into_text();
        let (number, unit) = text.split_once('/').unwrap_or((&text, "s"));
        let seconds = match unit.trim() {
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => f64::NAN,
        };
        let rate = number.trim().parse::<f64>().unwrap_or(f64::NAN) / seconds;
        if rate.is_finite() && rate > 0.0 {
            Ok(Self(rate))
        } else {
            Err(serde::de::Error::custom(format!("rate `{text}` is none; `500/s`, `30/m` or a number above 0 is")))
        }
    }
}

impl schemars::JsonSchema for Rate {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Rate".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "description": "Rows per second as a number, or `500/s`, `30/m`, `100/h`.",
            "anyOf": [{ "type": "number", "exclusiveMinimum": 0 }, { "type": "string" }]
        })
    }
}

/// The original's tables: alias, name, and columns, of which the first is the key.
const PINTEREST_TABLES: [(&str, &str, &str); 3] = [
    (
        "pin",
        "pinterest_data",
        "index unique_id title description poster_name follower_count tag_list is_image_or_video image_src downloaded \
         save_location category",
    ),
    ("geo", "geolocation_data", "ind timestamp latitude longitude country"),
    ("user", "user_data", "ind first_name last_name age date_joined"),
];

fn pinterest_tables() -> IndexMap<String, TableConfig> {
    let tables = PINTEREST_TABLES.iter().map(|(alias, table, columns)| {
        let columns: Vec<String> = columns.split_whitespace().map(str::to_owned).collect();
        let (table, key) = ((*table).to_owned(), columns[0].clone());
        ((*alias).to_owned(), TableConfig { table, key, columns: Some(columns) })
    });
    tables.collect()
}

/// What is wrong with a configuration beyond its shape.
pub(super) fn problems(config: &EmulateConfig) -> Vec<ConfigProblem> {
    let mut problems = Vec::new();
    if config.tables.is_empty() {
        problems
            .push(ConfigProblem::at("tables", "no table is named").help("leave `tables` out for Pinterest's three"));
    }
    for (alias, table) in &config.tables {
        let at = |message: &str| ConfigProblem {
            path: vec!["tables".to_owned(), alias.clone()],
            message: message.to_owned(),
            help: None,
        };
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
        if alias.is_empty() || !alias.chars().all(plain) {
            problems.push(at("a table's short name has letters, digits, `_` and `-` only: topics are named by it"));
        }
        if table.table.is_empty() || table.key.is_empty() || table.table.contains('\0') || table.key.contains('\0') {
            problems.push(at("a table and its key must have names"));
        }
    }
    if config.rows == Some(Count(0)) {
        problems.push(ConfigProblem::at("rows", "no row would be drawn").help("leave `rows` out to draw all"));
    }
    if config.rows.is_none() && config.draw == Draw::Replay {
        problems.push(ConfigProblem::at("rows", "`draw: replay` goes on for ever; say how many rows to draw"));
    }
    if config.rate.is_some() && config.pace.is_some() {
        problems.push(ConfigProblem::at("pace", "`pace` and `rate` both space the rows; choose one"));
    }
    if let Some(source) = config.source.as_deref()
        && let Some((scheme, _)) = source.split_once("://")
        && !matches!(scheme, "mysql" | "mariadb" | "postgres" | "postgresql")
    {
        problems.push(
            ConfigProblem::at("source", format!("a source cannot be read from `{scheme}://`"))
                .help("mysql:// and postgres:// can, or name a connection"),
        );
    }
    problems
}
