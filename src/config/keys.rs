//! The settings that there are. `mod.rs` has the same table for people; a test holds them together.

use crate::domain::masking::is_secret_name;

/// How a value is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Masking {
    /// As it is.
    Shown,
    /// A URL, without its password; what is no URL may be a secret by itself.
    UrlPassword,
    /// An address, URL or not, without what stands where URLs have user, password and query.
    Address,
    /// Not at all.
    Hidden,
}

/// One setting.
#[derive(Debug, PartialEq, Eq)]
pub struct Key {
    /// Its dotted name in `pinsched.toml`.
    pub name: &'static str,
    /// The environment's variables, the first that has a value wins.
    pub variables: &'static [&'static str],
    /// What it is when nobody sets it.
    pub default: Option<&'static str>,
    /// Whether the embedded stack stands in when nobody sets it.
    pub embedded: bool,
    /// How it is shown.
    pub masking: Masking,
    /// What it is, for people.
    pub about: &'static str,
}

const PLAIN: Key = Key { name: "", variables: &[], default: None, embedded: false, masking: Masking::Shown, about: "" };

/// Each setting by its name in Rust.
pub mod key {
    use super::{Key, Masking, PLAIN};
    use crate::domain::task_output::{INLINE_LIMIT, OUTPUT_LIMIT};

    /// Where the embedded stack keeps its data.
    pub const HOME: Key = Key {
        name: "home",
        variables: &["PINSCHED_HOME"],
        default: Some(".pinsched"),
        about: "where the embedded stack keeps its data",
        ..PLAIN
    };
    /// The database of pinsched's own state.
    pub const DATABASE_URL: Key = Key {
        name: "database.url",
        variables: &["DATABASE_URL"],
        embedded: true,
        masking: Masking::UrlPassword,
        about: "the Postgres database of pinsched's own state",
        ..PLAIN
    };
    /// Where Postgres's server programs are.
    pub const POSTGRES_BIN: Key = Key {
        name: "postgres.bin",
        variables: &["PINSCHED_POSTGRES_BIN"],
        about: "the directory of initdb and postgres, for the embedded stack",
        ..PLAIN
    };
    /// The Kafka cluster.
    pub const KAFKA_BOOTSTRAP_SERVERS: Key = Key {
        name: "kafka.bootstrap_servers",
        variables: &["PINSCHED_KAFKA_BOOTSTRAP_SERVERS"],
        embedded: true,
        about: "the Kafka cluster, host:port, comma separated",
        ..PLAIN
    };
    /// The object store, when it is not AWS.
    pub const S3_ENDPOINT_URL: Key = Key {
        name: "s3.endpoint_url",
        variables: &["PINSCHED_S3_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"],
        embedded: true,
        masking: Masking::Address,
        about: "the object store, when it is not AWS",
        ..PLAIN
    };
    /// The region to sign for.
    pub const S3_REGION: Key = Key {
        name: "s3.region",
        variables: &["PINSCHED_S3_REGION", "AWS_REGION", "AWS_DEFAULT_REGION"],
        about: "the object store's region",
        ..PLAIN
    };
    /// A static access key.
    pub const S3_ACCESS_KEY_ID: Key = Key {
        name: "s3.access_key_id",
        variables: &["PINSCHED_S3_ACCESS_KEY_ID"],
        about: "a static access key; without it the AWS SDK's own chain is used",
        ..PLAIN
    };
    /// The static access key's secret.
    pub const S3_SECRET_ACCESS_KEY: Key = Key {
        name: "s3.secret_access_key",
        variables: &["PINSCHED_S3_SECRET_ACCESS_KEY"],
        masking: Masking::Hidden,
        about: "the access key's secret",
        ..PLAIN
    };
    /// How a bucket is named in a URL.
    pub const S3_PATH_STYLE: Key = Key {
        name: "s3.path_style",
        variables: &["PINSCHED_S3_PATH_STYLE"],
        about: "http://host/bucket/key; true when an endpoint is given, else false",
        ..PLAIN
    };
    /// The bucket of drawn rows and of results that name no bucket.
    pub const S3_STAGING_BUCKET: Key = Key {
        name: "s3.staging_bucket",
        variables: &["PINSCHED_STAGING_BUCKET"],
        default: Some("pinsched-staging"),
        about: "the bucket of drawn rows, and of results that name no bucket",
        ..PLAIN
    };
    /// The default source database.
    pub const SOURCE_URL: Key = Key {
        name: "source.url",
        variables: &["PINSCHED_SOURCE_URL"],
        embedded: true,
        masking: Masking::UrlPassword,
        about: "the default source database, mysql:// or postgres://",
        ..PLAIN
    };
    /// The keys that seal what the database keeps of connections and variables.
    pub const SECRETS_KEY: Key = Key {
        name: "secrets.key",
        variables: &["PINSCHED_SECRET_KEY"],
        masking: Masking::Hidden,
        about: "the keys that seal connections and variables in the database, comma separated; the first one seals",
        ..PLAIN
    };
    /// Where connections are in AWS Secrets Manager.
    pub const SECRETS_AWS_CONNECTIONS_PREFIX: Key = Key {
        name: "secrets.aws.connections_prefix",
        variables: &["PINSCHED_SECRETS_AWS_CONNECTIONS_PREFIX"],
        about: "looks for connections in AWS Secrets Manager, below this, as `airflow/connections`",
        ..PLAIN
    };
    /// Where variables are in AWS Secrets Manager.
    pub const SECRETS_AWS_VARIABLES_PREFIX: Key = Key {
        name: "secrets.aws.variables_prefix",
        variables: &["PINSCHED_SECRETS_AWS_VARIABLES_PREFIX"],
        about: "looks for variables in AWS Secrets Manager, below this, as `airflow/variables`",
        ..PLAIN
    };
    /// The region of Secrets Manager.
    pub const SECRETS_AWS_REGION: Key = Key {
        name: "secrets.aws.region",
        variables: &["PINSCHED_SECRETS_AWS_REGION", "AWS_REGION", "AWS_DEFAULT_REGION"],
        about: "the region of Secrets Manager",
        ..PLAIN
    };
    /// Where Secrets Manager is, when it is not AWS.
    pub const SECRETS_AWS_ENDPOINT_URL: Key = Key {
        name: "secrets.aws.endpoint_url",
        variables: &["PINSCHED_SECRETS_AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_SECRETS_MANAGER"],
        masking: Masking::Address,
        about: "Secrets Manager, when it is not AWS",
        ..PLAIN
    };
    /// How many tasks run at once.
    pub const ENGINE_PARALLELISM: Key = Key {
        name: "engine.parallelism",
        variables: &["PINSCHED_PARALLELISM"],
        default: Some("16"),
        about: "how many tasks run at once",
        ..PLAIN
    };
    /// How much memory the transform may take before it spills.
    pub const ENGINE_MEMORY_LIMIT: Key = Key {
        name: "engine.memory_limit",
        variables: &["PINSCHED_MEMORY_LIMIT"],
        default: Some("512MiB"),
        about: "how much memory a transform takes before it spills to disk",
        ..PLAIN
    };
    /// How many processes a task may have.
    pub const ENGINE_MAX_PROCESSES: Key = Key {
        name: "engine.max_processes_per_task",
        variables: &["PINSCHED_MAX_PROCESSES_PER_TASK"],
        default: Some("1024"),
        about: "how many processes and threads a task of `bash` or `python` may have at once; `off` or 0: any number",
        ..PLAIN
    };
    /// How many instances a mapped task may have.
    pub const ENGINE_MAX_MAP_LENGTH: Key = Key {
        name: "engine.max_map_length",
        variables: &["PINSCHED_MAX_MAP_LENGTH"],
        default: Some("10000"),
        about: "how many instances a mapped task may have",
        ..PLAIN
    };
    /// The largest output that is kept in the database.
    pub const OUTPUTS_INLINE_LIMIT: Key = Key {
        name: "outputs.inline_limit",
        variables: &["PINSCHED_OUTPUTS_INLINE_LIMIT"],
        default: Some(INLINE_LIMIT),
        about: "the largest output of a task that is kept in the database; what is larger goes to `outputs.spill_to`",
        ..PLAIN
    };
    /// Where larger outputs go.
    pub const OUTPUTS_SPILL_TO: Key = Key {
        name: "outputs.spill_to",
        variables: &["PINSCHED_OUTPUTS_SPILL_TO"],
        about: "where large outputs go, as s3://bucket/prefix; without it they go to the embedded object store, if that is in use",
        ..PLAIN
    };
    /// The largest output at all.
    pub const OUTPUTS_LIMIT: Key = Key {
        name: "outputs.limit",
        variables: &["PINSCHED_OUTPUTS_LIMIT"],
        default: Some(OUTPUT_LIMIT),
        about: "the largest output of a task; a larger one fails it",
        ..PLAIN
    };
    /// Where the DAG files are.
    pub const SCHEDULER_DAGS: Key = Key {
        name: "scheduler.dags",
        variables: &["PINSCHED_DAGS"],
        default: Some("dags"),
        about: "the folder of DAG files that `serve` follows",
        ..PLAIN
    };
    /// How late a missed tick may run that nothing catches up with.
    pub const SCHEDULER_MISFIRE_GRACE: Key = Key {
        name: "scheduler.misfire_grace",
        variables: &["PINSCHED_MISFIRE_GRACE"],
        default: Some("1h"),
        about: "how late the last missed tick of a DAG without `catchup` may still run, after a stop of the service",
        ..PLAIN
    };
    /// Where the service answers about its health.
    pub const SERVICE_LISTEN: Key = Key {
        name: "service.listen",
        variables: &["PINSCHED_LISTEN"],
        default: Some("127.0.0.1:8793"),
        about: "where `serve` answers `/health`, `/health/live`, `/health/ready` and `/metrics`: address:port, or `off`",
        ..PLAIN
    };
    /// How long finished runs are kept.
    pub const RETENTION_DAYS: Key = Key {
        name: "retention.days",
        variables: &["PINSCHED_RETENTION_DAYS"],
        default: Some("90"),
        about: "for how many days finished runs are kept; `off` or 0: for ever",
        ..PLAIN
    };
    /// How many finished runs of a DAG are kept.
    pub const RETENTION_RUNS_PER_DAG: Key = Key {
        name: "retention.runs_per_dag",
        variables: &["PINSCHED_RETENTION_RUNS_PER_DAG"],
        default: Some("1000"),
        about: "how many finished runs of a DAG are kept, the newest; `off` or 0: all",
        ..PLAIN
    };
    /// How long the embedded stack outlives its last user.
    pub const STACK_LINGER: Key = Key {
        name: "stack.linger",
        variables: &["PINSCHED_STACK_LINGER"],
        default: Some("10s"),
        about: "how long the embedded stack outlives its last user",
        ..PLAIN
    };
    /// Which log lines are written.
    pub const LOG_FILTER: Key = Key {
        name: "log.filter",
        variables: &["PINSCHED_LOG", "RUST_LOG"],
        default: Some("warn"),
        about: "which log lines are written: a level (of libraries only warnings), or target=level, comma separated",
        ..PLAIN
    };
    /// How log lines look.
    pub const LOG_FORMAT: Key = Key {
        name: "log.format",
        variables: &["PINSCHED_LOG_FORMAT"],
        default: Some("text"),
        about: "how log lines look: text or json",
        ..PLAIN
    };
    /// Where log lines go.
    pub const LOG_FILE: Key = Key {
        name: "log.file",
        variables: &["PINSCHED_LOG_FILE"],
        about: "a file that log lines go to, in place of stderr; each day has one, with the date in its name",
        ..PLAIN
    };
    /// How many log files are kept.
    pub const LOG_FILES: Key = Key {
        name: "log.files",
        variables: &["PINSCHED_LOG_FILES"],
        default: Some("7"),
        about: "how many days' log files are kept",
        ..PLAIN
    };
    /// Where traces go.
    pub const TELEMETRY_OTLP_ENDPOINT: Key = Key {
        name: "telemetry.otlp_endpoint",
        variables: &["PINSCHED_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"],
        masking: Masking::Address,
        about: "where traces go by OTLP over HTTP, as `http://127.0.0.1:4318`; `/v1/traces` is added",
        ..PLAIN
    };
    /// Where traces go, in full.
    pub const TELEMETRY_OTLP_TRACES_ENDPOINT: Key = Key {
        name: "telemetry.otlp_traces_endpoint",
        variables: &["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"],
        masking: Masking::Address,
        about: "the same in full, with its path",
        ..PLAIN
    };
    /// What goes with traces.
    pub const TELEMETRY_OTLP_HEADERS: Key = Key {
        name: "telemetry.otlp_headers",
        variables: &["PINSCHED_OTLP_HEADERS", "OTEL_EXPORTER_OTLP_TRACES_HEADERS", "OTEL_EXPORTER_OTLP_HEADERS"],
        masking: Masking::Hidden,
        about: "headers that go with them, as `name=value`, comma separated",
        ..PLAIN
    };
    /// Whose traces they are.
    pub const TELEMETRY_SERVICE_NAME: Key = Key {
        name: "telemetry.service_name",
        variables: &["OTEL_SERVICE_NAME"],
        default: Some("pinsched"),
        about: "the `service.name` of traces",
        ..PLAIN
    };
    /// What else is told of whose traces they are.
    pub const TELEMETRY_RESOURCE_ATTRIBUTES: Key = Key {
        name: "telemetry.resource_attributes",
        variables: &["OTEL_RESOURCE_ATTRIBUTES"],
        about: "further attributes of their resource, as `name=value`, comma separated",
        ..PLAIN
    };
    /// Whether no traces are sent.
    pub const TELEMETRY_DISABLED: Key = Key {
        name: "telemetry.disabled",
        variables: &["OTEL_SDK_DISABLED"],
        default: Some("false"),
        about: "whether no traces are sent, whatever else is set",
        ..PLAIN
    };
    /// Where lineage goes.
    pub const OPENLINEAGE_URL: Key = Key {
        name: "openlineage.url",
        variables: &["PINSCHED_OPENLINEAGE_URL", "OPENLINEAGE_URL"],
        masking: Masking::Address,
        about: "where OpenLineage events go, as `http://127.0.0.1:5000`",
        ..PLAIN
    };
    /// The path there.
    pub const OPENLINEAGE_ENDPOINT: Key = Key {
        name: "openlineage.endpoint",
        variables: &["OPENLINEAGE_ENDPOINT"],
        default: Some("api/v1/lineage"),
        about: "the path there",
        ..PLAIN
    };
    /// What goes with lineage.
    pub const OPENLINEAGE_API_KEY: Key = Key {
        name: "openlineage.api_key",
        variables: &["OPENLINEAGE_API_KEY"],
        masking: Masking::Hidden,
        about: "the key that goes with them as a bearer token",
        ..PLAIN
    };
    /// Whose lineage it is.
    pub const OPENLINEAGE_NAMESPACE: Key = Key {
        name: "openlineage.namespace",
        variables: &["OPENLINEAGE_NAMESPACE"],
        default: Some("default"),
        about: "the namespace of jobs in them",
        ..PLAIN
    };
    /// Whether no lineage is sent.
    pub const OPENLINEAGE_DISABLED: Key = Key {
        name: "openlineage.disabled",
        variables: &["OPENLINEAGE_DISABLED"],
        default: Some("false"),
        about: "whether no events are sent, whatever else is set",
        ..PLAIN
    };
}

/// All settings, in the order in which they are shown.
pub const KEYS: &[Key] = &[
    key::HOME,
    key::DATABASE_URL,
    key::POSTGRES_BIN,
    key::KAFKA_BOOTSTRAP_SERVERS,
    key::S3_ENDPOINT_URL,
    key::S3_REGION,
    key::S3_ACCESS_KEY_ID,
    key::S3_SECRET_ACCESS_KEY,
    key::S3_PATH_STYLE,
    key::S3_STAGING_BUCKET,
    key::SOURCE_URL,
    key::SECRETS_KEY,
    key::SECRETS_AWS_CONNECTIONS_PREFIX,
    key::SECRETS_AWS_VARIABLES_PREFIX,
    key::SECRETS_AWS_REGION,
    key::SECRETS_AWS_ENDPOINT_URL,
    key::ENGINE_PARALLELISM,
    key::ENGINE_MEMORY_LIMIT,
    key::ENGINE_MAX_PROCESSES,
    key::ENGINE_MAX_MAP_LENGTH,
    key::OUTPUTS_INLINE_LIMIT,
    key::OUTPUTS_SPILL_TO,
    key::OUTPUTS_LIMIT,
    key::SCHEDULER_DAGS,
    key::SCHEDULER_MISFIRE_GRACE,
    key::SERVICE_LISTEN,
    key::RETENTION_DAYS,
    key::RETENTION_RUNS_PER_DAG,
    key::STACK_LINGER,
    key::LOG_FILTER,
    key::LOG_FORMAT,
    key::LOG_FILE,
    key::LOG_FILES,
    key::TELEMETRY_OTLP_ENDPOINT,
    key::TELEMETRY_OTLP_TRACES_ENDPOINT,
    key::TELEMETRY_OTLP_HEADERS,
    key::TELEMETRY_SERVICE_NAME,
    key::TELEMETRY_RESOURCE_ATTRIBUTES,
    key::TELEMETRY_DISABLED,
    key::OPENLINEAGE_URL,
    key::OPENLINEAGE_ENDPOINT,
    key::OPENLINEAGE_API_KEY,
    key::OPENLINEAGE_NAMESPACE,
    key::OPENLINEAGE_DISABLED,
];

/// A table of the user's own keys: librdkafka's properties, named connections.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Table {
    /// Its dotted name in `pinsched.toml`.
    pub(super) name: &'static str,
    /// What the environment's variables of its keys start with.
    pub(super) prefix: &'static str,
    /// What Airflow's variables of the same start with; pinsched's own win.
    pub(super) airflows: Option<&'static str>,
    /// What an underscore in a variable's name stands for in the key.
    pub(super) underscore: &'static str,
}

/// Properties handed to librdkafka as they are.
pub(super) const KAFKA_PROPERTIES: Table =
    Table { name: "kafka.properties", prefix: "PINSCHED_KAFKA_", airflows: None, underscore: "." };
/// Systems that a task may name.
pub(super) const CONNECTIONS: Table =
    Table { name: "connections", prefix: "PINSCHED_CONNECTION_", airflows: Some("AIRFLOW_CONN_"), underscore: "_" };
/// Values that templates may name.
pub(super) const VARIABLES: Table =
    Table { name: "variables", prefix: "PINSCHED_VARIABLE_", airflows: Some("AIRFLOW_VAR_"), underscore: "_" };
/// All tables.
pub(super) const TABLES: &[Table] = &[KAFKA_PROPERTIES, CONNECTIONS, VARIABLES];

/// How one entry of a table is shown.
pub(super) fn masking_of(table: &Table, entry: &str) -> Masking {
    /// What librdkafka's secret properties have in their names.
    const TELLTALE: [&str; 6] = ["password", "secret", "token", "key", "pem", "oauthbearer.config"];
    match table.name {
        "connections" => Masking::UrlPassword,
        "variables" if is_secret_name(entry) => Masking::Hidden,
        "variables" => Masking::Shown,
        _ if TELLTALE.iter().any(|part| entry.contains(part)) => Masking::Hidden,
        _ => Masking::Shown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_for_people_has_every_key() {
        let documented = include_str!("mod.rs");
        for key in KEYS {
            let row = documented.lines().find(|line| line.starts_with(&format!("//! | `{}`", key.name)));
            let row = row.unwrap_or_else(|| panic!("`{}` is not in the table of mod.rs", key.name));
            for variable in key.variables {
                assert!(row.contains(&format!("`{variable}`")), "`{variable}` is not in the row of `{}`", key.name);
            }
            if let Some(default) = key.default {
                assert!(row.contains(&format!("`{default}`")), "the default of `{}` is not in its row", key.name);
            }
            assert_eq!(row.contains("the embedded stack"), key.embedded, "`{}`", key.name);
        }
    }
}
