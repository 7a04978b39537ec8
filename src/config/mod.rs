//! Settings: flag over environment over `pinsched.toml` over default. The only room that reads the environment.
//!
//! It says where each value came from, and decides nothing by it: what is not set comes from the embedded stack, and
//! that is `embedded`'s to arrange. An empty variable counts as not set. `pinsched.toml` is read from the working
//! directory, or from where `--config` or `PINSCHED_CONFIG` says.
//!
//! | key in `pinsched.toml`    | environment                                                        | default             |
//! |---------------------------|--------------------------------------------------------------------|---------------------|
//! | `home`                    | `PINSCHED_HOME`                                                    | `.pinsched`         |
//! | `database.url`            | `DATABASE_URL`                                                     | the embedded stack  |
//! | `postgres.bin`            | `PINSCHED_POSTGRES_BIN`                                            | searched for        |
//! | `kafka.bootstrap_servers` | `PINSCHED_KAFKA_BOOTSTRAP_SERVERS`                                 | the embedded stack  |
//! | `kafka.properties.<name>` | `PINSCHED_KAFKA_<NAME>`, dots as `_`                               |                     |
//! | `s3.endpoint_url`         | `PINSCHED_S3_ENDPOINT_URL`, `AWS_ENDPOINT_URL_S3`, `AWS_ENDPOINT_URL` | the embedded stack |
//! | `s3.region`               | `PINSCHED_S3_REGION`, `AWS_REGION`, `AWS_DEFAULT_REGION`           |                     |
//! | `s3.access_key_id`        | `PINSCHED_S3_ACCESS_KEY_ID`                                        | the SDK's own chain |
//! | `s3.secret_access_key`    | `PINSCHED_S3_SECRET_ACCESS_KEY`                                    | the SDK's own chain |
//! | `s3.path_style`           | `PINSCHED_S3_PATH_STYLE`                                           | with an endpoint    |
//! | `s3.staging_bucket`       | `PINSCHED_STAGING_BUCKET`                                          | `pinsched-staging`  |
//! | `source.url`              | `PINSCHED_SOURCE_URL`                                              | the embedded stack  |
//! | `connections.<name>`      | `PINSCHED_CONNECTION_<NAME>`, `AIRFLOW_CONN_<NAME>`                |                     |
//! | `variables.<name>`        | `PINSCHED_VARIABLE_<NAME>`, `AIRFLOW_VAR_<NAME>`                   |                     |
//! | `secrets.key`             | `PINSCHED_SECRET_KEY`                                              |                     |
//! | `secrets.aws.connections_prefix` | `PINSCHED_SECRETS_AWS_CONNECTIONS_PREFIX`                   | not looked there    |
//! | `secrets.aws.variables_prefix` | `PINSCHED_SECRETS_AWS_VARIABLES_PREFIX`                       | not looked there    |
//! | `secrets.aws.region`      | `PINSCHED_SECRETS_AWS_REGION`, `AWS_REGION`, `AWS_DEFAULT_REGION`  | the SDK's own chain |
//! | `secrets.aws.endpoint_url` | `PINSCHED_SECRETS_AWS_ENDPOINT_URL`, `AWS_ENDPOINT_URL_SECRETS_MANAGER` | AWS           |
//! | `engine.parallelism`      | `PINSCHED_PARALLELISM`                                             | `16`                |
//! | `engine.memory_limit`     | `PINSCHED_MEMORY_LIMIT`                                            | `512MiB`            |
//! | `engine.max_processes_per_task` | `PINSCHED_MAX_PROCESSES_PER_TASK` | `1024` |
//! | `engine.max_map_length`   | `PINSCHED_MAX_MAP_LENGTH`                                          | `10000`             |
//! | `outputs.inline_limit`    | `PINSCHED_OUTPUTS_INLINE_LIMIT`                                    | `256KiB`            |
//! | `outputs.spill_to`        | `PINSCHED_OUTPUTS_SPILL_TO`                                        | the embedded store  |
//! | `outputs.limit`           | `PINSCHED_OUTPUTS_LIMIT`                                           | `64MiB`             |
//! | `scheduler.dags`          | `PINSCHED_DAGS`                                                    | `dags`              |
//! | `scheduler.misfire_grace` | `PINSCHED_MISFIRE_GRACE`                                           | `1h`                |
//! | `service.listen`          | `PINSCHED_LISTEN`                                                  | `127.0.0.1:8793`    |
//! | `retention.days`          | `PINSCHED_RETENTION_DAYS`                                          | `90`                |
//! | `retention.runs_per_dag`  | `PINSCHED_RETENTION_RUNS_PER_DAG`                                  | `1000`              |
//! | `stack.linger`            | `PINSCHED_STACK_LINGER`                                            | `10s`               |
//! | `log.filter`              | `PINSCHED_LOG`, `RUST_LOG`                                         | `warn`              |
//! | `log.format`              | `PINSCHED_LOG_FORMAT`                                              | `text`              |
//! | `log.file` | `PINSCHED_LOG_FILE` |  |
//! | `log.files` | `PINSCHED_LOG_FILES` | `7` |
//! | `telemetry.otlp_endpoint` | `PINSCHED_OTLP_ENDPOINT`, `OTEL_EXPORTER_OTLP_ENDPOINT` |  |
//! | `telemetry.otlp_traces_endpoint` | `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT` |  |
//! | `telemetry.otlp_headers` | `PINSCHED_OTLP_HEADERS`, `OTEL_EXPORTER_OTLP_TRACES_HEADERS`, `OTEL_EXPORTER_OTLP_HEADERS` |  |
//! | `telemetry.service_name` | `OTEL_SERVICE_NAME` | `pinsched` |
//! | `telemetry.resource_attributes` | `OTEL_RESOURCE_ATTRIBUTES` |  |
//! | `telemetry.disabled` | `OTEL_SDK_DISABLED` | `false` |
//! | `openlineage.url` | `PINSCHED_OPENLINEAGE_URL`, `OPENLINEAGE_URL` |  |
//! | `openlineage.endpoint` | `OPENLINEAGE_ENDPOINT` | `api/v1/lineage` |
//! | `openlineage.api_key` | `OPENLINEAGE_API_KEY` |  |
//! | `openlineage.namespace` | `OPENLINEAGE_NAMESPACE` | `default` |
//! | `openlineage.disabled` | `OPENLINEAGE_DISABLED` | `false` |
//!
//! A connection is a URL, Airflow's JSON or a table of Airflow's fields (`conn_type`, `host`, `login`, …).
//!
//! `NO_COLOR` turns colours off. S3 counts as configured when its endpoint is given, or a region or a key by
//! `pinsched.toml`, a flag or a `PINSCHED_` variable: `AWS_REGION` alone, which many shells carry, does not send a
//! laptop's run to AWS. A `PINSCHED_` variable that is no setting is an error, and so is a property of Kafka's without
//! `kafka.bootstrap_servers`: a slip must not send a run to the laptop's stack in silence.

mod environment;
mod error;
mod file;
mod keys;
mod observed;
mod settings;
mod unknown;
mod values;

pub use environment::{Environment, not_for_the_stack};
pub use error::{ConfigError, Problem};
pub use keys::{KEYS, Key, Masking, key};
pub use observed::{OpenLineageSettings, TelemetrySettings};
pub use settings::{
    Flags, KafkaSettings, LogFormat, LogSettings, OutputSettings, RetentionSettings, S3Settings, SecretsSettings,
    Settings, duration, listen,
};
pub use values::{Entry, Origin};

#[cfg(test)]
mod tests;
