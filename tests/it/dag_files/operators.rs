//! Small operators for the language's own tests, so that its snapshots do not change when a real operator does.

use pinsched::domain::operator_kind::{ConfigProblem, LateField, OperatorKind};
use serde::Deserialize;
use serde_json::Value;

pub static CATALOG: &[&OperatorKind] = &[&BASH, &EMPTY, &EMULATE, &SINK, &BRANCH];

fn problems<T: for<'d> Deserialize<'d>>(config: &Value, rules: fn(T) -> Vec<ConfigProblem>) -> Vec<ConfigProblem> {
    match T::deserialize(config) {
        Ok(parsed) => rules(parsed),
        Err(error) => vec![ConfigProblem { path: Vec::new(), message: error.to_string(), help: None }],
    }
}

#[derive(Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "only its form is of interest")]
struct Bash {
    /// The command, as `bash -c` takes it.
    bash_command: String,
    /// Variables for its environment.
    env: Option<std::collections::BTreeMap<String, String>>,
    cwd: Option<String>,
}

static BASH: OperatorKind = OperatorKind {
    name: "bash",
    class_paths: &["airflow.providers.standard.operators.bash.BashOperator", "airflow.operators.bash.BashOperator"],
    about: "Runs a command",
    schema: || schemars::schema_for!(Bash),
    check: |config| problems::<Bash>(config, |_| Vec::new()),
    late_fields: &[],
    file_keys: &[],
};

#[derive(Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("x-not-mapped" = "what it skips comes after the task as a whole"))]
#[expect(dead_code, reason = "only its form is of interest")]
struct Branch {
    /// What to follow.
    #[schemars(extend("x-names-downstream" = true))]
    follow: Follow,
}

#[derive(Deserialize, schemars::JsonSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "only its form is of interest")]
enum Follow {
    One(String),
    Several(Vec<String>),
}

static BRANCH: OperatorKind = OperatorKind {
    name: "branch",
    class_paths: &[],
    about: "Chooses",
    schema: || schemars::schema_for!(Branch),
    check: |config| problems::<Branch>(config, |_| Vec::new()),
    late_fields: &[],
    file_keys: &[],
};

#[derive(Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
struct Empty {}

static EMPTY: OperatorKind = OperatorKind {
    name: "empty",
    class_paths: &["airflow.providers.standard.operators.empty.EmptyOperator"],
    about: "Does nothing",
    schema: || schemars::schema_for!(Empty),
    check: |config| problems::<Empty>(config, |_| Vec::new()),
    late_fields: &[],
    file_keys: &[],
};

#[derive(Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "only its form is of interest")]
struct Emulate {
    /// How many rows to draw.
    rows: u64,
    #[serde(default)]
    draw: Draw,
    tables: Option<Vec<String>>,
}

#[derive(Default, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Draw {
    #[default]
    Sample,
    Sequential,
    Replay,
}

static EMULATE: OperatorKind = OperatorKind {
    name: "emulate",
    class_paths: &[],
    about: "Draws rows",
    schema: || schemars::schema_for!(Emulate),
    check: |config| {
        problems::<Emulate>(config, |config| match config.rows {
            0 => vec![ConfigProblem::at("rows", "no rows at all").help("draw at least one")],
            _ => Vec::new(),
        })
    },
    late_fields: &[],
    file_keys: &[],
};

#[derive(Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "only its form is of interest")]
struct Sink {
    /// The topics to read.
    topics: String,
    bucket: Option<String>,
    flush_size: Option<u32>,
    partitioner: Option<Partitioner>,
}

#[derive(Deserialize, schemars::JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
#[expect(dead_code, reason = "only its form is of interest")]
enum Partitioner {
    Default,
    Time { path_format: String, zone: Option<String> },
}

static SINK: OperatorKind = OperatorKind {
    name: "sink",
    class_paths: &[],
    about: "Sinks topics",
    schema: || schemars::schema_for!(Sink),
    check: |config| problems::<Sink>(config, |_| Vec::new()),
    late_fields: &[LateField { key: "topics", variables: &["table"] }],
    file_keys: &[],
};
