//! The typed settings that the rest is handed.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::num::{NonZeroU32, NonZeroUsize};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use url::Url;

use super::environment::Environment;
use super::error::{ConfigError, Problem};
use super::file;
use super::keys::{CONNECTIONS, KAFKA_PROPERTIES, Key, VARIABLES, key};
use super::observed::{self, OpenLineageSettings, TelemetrySettings};
use super::unknown::{unknown_variables, unreadable_variables};
use super::values::{Entry, Origin, Value, Values};
use crate::domain::byte_size::parse_byte_size;
use crate::domain::connection::Connection;
use crate::domain::duration::parse_duration;
use crate::domain::masking::{is_secret_name, secrets_in};

/// What the command line sets.
#[derive(Debug, Clone, Default)]
pub struct Flags {
    config: Option<PathBuf>,
    values: BTreeMap<&'static str, String>,
}

impl Flags {
    /// Reads this file, which must be there, in place of `pinsched.toml`, which need not.
    #[must_use]
    pub fn with_config(mut self, file: Option<PathBuf>) -> Self {
        self.config = file;
        self
    }

    /// Sets a key when the flag was given.
    #[must_use]
    pub fn with(mut self, key: &Key, value: Option<impl Into<String>>) -> Self {
        if let Some(value) = value {
            self.values.insert(key.name, value.into());
        }
        self
    }
}

/// Everything that is configured. What is `None` comes from the embedded stack, or is the outside system's own default.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where the embedded stack keeps its data.
    pub home: PathBuf,
    /// The database of pinsched's own state.
    pub database_url: Option<SecretString>,
    /// Where Postgres's server programs are.
    pub postgres_bin: Option<PathBuf>,
    /// The Kafka cluster.
    pub kafka: KafkaSettings,
    /// The object store.
    pub s3: S3Settings,
    /// The default source database.
    pub source_url: Option<SecretString>,
    /// Other systems, by name: each a URL or Airflow's JSON.
    pub connections: BTreeMap<String, SecretString>,
    /// Variables for templates, by name.
    pub variables: BTreeMap<String, SecretString>,
    /// Where else connections and variables come from.
    pub secrets: SecretsSettings,
    /// How many tasks run at once.
    pub parallelism: NonZeroUsize,
    /// How many bytes a transform takes before it spills.
    pub memory_limit: u64,
    /// How many processes and threads a task may have at once; `None`: any number.
    pub max_processes_per_task: Option<NonZeroU32>,
    /// How many instances a mapped task may have.
    pub max_map_length: u32,
    /// What tasks leave.
    pub outputs: OutputSettings,
    /// The folder of DAG files.
    pub dags: PathBuf,
    /// How late a missed tick may run that nothing catches up with.
    pub misfire_grace: Duration,
    /// Where the service answers about its health.
    pub listen: Option<SocketAddr>,
    /// What finished runs are kept.
    pub retention: RetentionSettings,
    /// How long the embedded stack outlives its last user.
    pub stack_linger: Duration,
    /// The logs.
    pub log: LogSettings,
    /// Traces.
    pub telemetry: TelemetrySettings,
    /// OpenLineage events.
    pub openlineage: OpenLineageSettings,
    /// Whether colours are off.
    pub no_color: bool,
    /// The directories in which programs are looked for.
    pub search_path: Vec<PathBuf>,
    /// What is odd about the settings, and hinders nobody.
    pub warnings: Vec<String>,
    values: Values,
}

/// What finished runs are kept; `None` is no bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetentionSettings {
    /// Those that ended within so many days.
    pub days: Option<NonZeroU32>,
    /// So many of each DAG, the newest.
    pub runs_per_dag: Option<NonZeroU32>,
}

/// What tasks leave.
#[derive(Debug, Clone)]
pub struct OutputSettings {
    /// What is larger is not kept in the database, in bytes.
    pub inline_limit: u64,
    /// What is larger is refused, in bytes.
    pub limit: u64,
    /// The bucket where it goes instead, and what its names start with there.
    pub spill_to: Option<(String, String)>,
}

/// The Kafka cluster.
#[derive(Debug, Clone)]
pub struct KafkaSettings {
    /// `host:port`, comma separated.
    pub bootstrap_servers: Option<String>,
    /// Properties handed to librdkafka as they are.
    pub properties: BTreeMap<String, SecretString>,
}

/// The object store.
#[derive(Debug, Clone)]
pub struct S3Settings {
    /// Whether the settings name an object store at all.
    pub configured: bool,
    /// Where it is, when it is not AWS.
    pub endpoint_url: Option<Url>,
    /// The region to sign for.
    pub region: Option<String>,
    /// A static access key and its secret.
    pub credentials: Option<(String, SecretString)>,
    /// How a bucket is named in a URL.
    pub path_style: bool,
    /// The bucket of drawn rows, and of results that name no bucket.
    pub staging_bucket: String,
}

/// Where connections and variables come from, beside the settings.
#[derive(Debug, Clone, Default)]
pub struct SecretsSettings {
    /// The keys of what is sealed in the database, comma separated; the first one seals.
    pub key: Option<SecretString>,
    /// What connections' names in Secrets Manager start with; none is looked for there without it.
    pub connections_prefix: Option<String>,
    /// The same for variables.
    pub variables_prefix: Option<String>,
    /// The region of Secrets Manager.
    pub region: Option<String>,
    /// Where Secrets Manager is, when it is not AWS.
    pub endpoint_url: Option<Url>,
}

/// The logs.
#[derive(Debug, Clone)]
pub struct LogSettings {
    /// Which lines are written; none leaves it to the command.
    pub filter: Option<String>,
    /// How they look.
    pub format: LogFormat,
    /// The file that they go to in place of stderr, with the date added to its name.
    pub file: Option<PathBuf>,
    /// How many days' files are kept.
    pub files: NonZeroUsize,
    /// Whether their colours are off.
    pub no_color: bool,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One object a line.
    Json,
}

impl LogFormat {
    /// Its name in settings.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Json => "json",
        }
    }
}

impl FromStr for LogFormat {
    type Err = &'static str;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        [Self::Text, Self::Json].into_iter().find(|format| format.as_str() == name).ok_or("`text` or `json`")
    }
}

impl Settings {
    /// Reads all sources. `directory` is where `pinsched.toml` is looked for and what relative paths start from.
    pub fn load(flags: &Flags, environment: &Environment, directory: &Path) -> Result<Self, ConfigError> {
        let file = read_file(flags, environment, directory)?;
        let values = Values::gather(file, environment, &flags.values);
        let mut problems = unknown_variables(environment);
        problems.extend(unreadable_variables(environment));
        let settings = assemble(&values, environment, directory, &mut problems);
        match settings {
            Some(settings) if problems.is_empty() => Ok(settings),
            _ => Err(ConfigError::Problems(problems)),
        }
    }

    /// What of the settings must not be seen anywhere: passwords of URLs, keys, connections' secrets, and variables with
    /// a secret's name.
    #[must_use]
    pub fn secrets(&self) -> Vec<SecretString> {
        let mut secrets: Vec<SecretString> = [&self.database_url, &self.source_url]
            .into_iter()
            .flatten()
            .chain(self.connections.values())
            .flat_map(|text| match Connection::parse("", text.expose_secret()) {
                Ok(connection) => connection.secrets(),
                Err(_) => vec![text.clone()],
            })
            .collect();
        secrets.extend(self.s3.credentials.iter().map(|(_, secret)| secret.clone()));
        secrets.extend(
            self.kafka.properties.iter().filter(|(name, _)| is_secret_name(name)).map(|(_, value)| value.clone()),
        );
        let keys = self.secrets.key.iter().flat_map(|keys| keys.expose_secret().split(','));
        secrets.extend(keys.map(|key| SecretString::from(key.trim())));
        secrets.extend(self.telemetry.headers.iter().map(|(_, value)| value.clone()));
        secrets.extend(self.openlineage.api_key.clone());
        for (name, value) in &self.variables {
            let text = value.expose_secret();
            secrets.extend(is_secret_name(name).then(|| value.clone()));
            secrets.extend(serde_json::from_str(text).iter().flat_map(|value| secrets_in(name, value)));
        }
        secrets
    }

    /// Where a connection or a variable of the settings came from, for people.
    #[must_use]
    pub fn origin_of(&self, table: &str, name: &str) -> Option<Origin> {
        self.values.origin(&format!("{table}.{name}"))
    }

    /// Every setting with its value, masked where it is secret, and where it came from.
    #[must_use]
    pub fn entries(&self) -> Vec<Entry> {
        self.values.entries()
    }
}

fn read_file(flags: &Flags, environment: &Environment, directory: &Path) -> Result<Vec<file::Typed>, ConfigError> {
    let named = flags.config.clone().or_else(|| environment.value("PINSCHED_CONFIG").map(PathBuf::from));
    let path = named.clone().unwrap_or_else(|| "pinsched.toml".into());
    match std::fs::read_to_string(directory.join(&path)) {
        Ok(content) => file::parse(&path, &content).map_err(ConfigError::Problems),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && named.is_none() => Ok(Vec::new()),
        Err(source) => Err(ConfigError::Read { path, source }),
    }
}

/// Parses every value, so that all problems are found; `None` only where there is at least one.
fn assemble(
    values: &Values,
    environment: &Environment,
    directory: &Path,
    problems: &mut Vec<Problem>,
) -> Option<Settings> {
    let home = home(values, directory, problems);
    let database_url = values.parse(&key::DATABASE_URL, problems, postgres_url);
    let postgres_bin = values.parse(&key::POSTGRES_BIN, problems, path);
    let kafka = kafka(values, problems);
    let s3 = s3(values, problems);
    let source_url = values.parse(&key::SOURCE_URL, problems, source_url);
    let secrets = secrets(values, problems);
    connections(values, problems);
    let parallelism = values.parse(&key::ENGINE_PARALLELISM, problems, count);
    let memory_limit = values.parse(&key::ENGINE_MEMORY_LIMIT, problems, bytes);
    let max_processes_per_task = values.parse(&key::ENGINE_MAX_PROCESSES, problems, bound);
    let max_map_length = values.parse(&key::ENGINE_MAX_MAP_LENGTH, problems, |text| {
        text.parse::<NonZeroU32>().map(NonZeroU32::get).map_err(|_| "a whole number above 0")
    });
    let inline_limit = values.parse(&key::OUTPUTS_INLINE_LIMIT, problems, bytes);
    let spill_to = values.parse(&key::OUTPUTS_SPILL_TO, problems, bucket_and_prefix);
    let limit = values.parse(&key::OUTPUTS_LIMIT, problems, bytes);
    let dags = values.parse(&key::SCHEDULER_DAGS, problems, path);
    let misfire_grace = values.parse(&key::SCHEDULER_MISFIRE_GRACE, problems, duration);
    let listen = values.parse(&key::SERVICE_LISTEN, problems, listen);
    let days = values.parse(&key::RETENTION_DAYS, problems, bound);
    let runs_per_dag = values.parse(&key::RETENTION_RUNS_PER_DAG, problems, bound);
    let stack_linger = values.parse(&key::STACK_LINGER, problems, duration);
    let log_format = values.parse(&key::LOG_FORMAT, problems, str::parse);
    let log_file = values.parse(&key::LOG_FILE, problems, path);
    let log_files = values.parse(&key::LOG_FILES, problems, count);
    let mut warnings = Vec::new();
    let telemetry = observed::telemetry(values, problems, &mut warnings);
    let openlineage = observed::openlineage(values, problems);
    Some(Settings {
        home: home?,
        database_url,
        postgres_bin: postgres_bin.map(|bin| directory.join(bin)),
        kafka,
        s3: s3?,
        source_url,
        connections: table(values, &CONNECTIONS),
        variables: table(values, &VARIABLES),
        secrets,
        parallelism: parallelism?,
        memory_limit: memory_limit?,
        max_processes_per_task: max_processes_per_task?,
        max_map_length: max_map_length?,
        outputs: OutputSettings { inline_limit: inline_limit?, limit: limit?, spill_to },
        dags: directory.join(dags?),
        misfire_grace: misfire_grace?,
        listen: listen?,
        retention: RetentionSettings { days: days?, runs_per_dag: runs_per_dag? },
        stack_linger: stack_linger?,
        log: LogSettings {
            filter: values.set(&key::LOG_FILTER).map(|value| value.text.expose_secret().to_owned()),
            format: log_format?,
            file: log_file.map(|file| directory.join(file)),
            files: log_files?,
            no_color: environment.no_color(),
        },
        telemetry: telemetry?,
        openlineage: openlineage?,
        no_color: environment.no_color(),
        search_path: environment.search_path(),
        warnings,
        values: values.clone(),
    })
}

fn home(values: &Values, directory: &Path, problems: &mut Vec<Problem>) -> Option<PathBuf> {
    let home = directory.join(values.parse(&key::HOME, problems, path)?);
    match std::path::absolute(&home) {
        Ok(home) => Some(home),
        Err(error) => {
            let origin = values.set(&key::HOME).map_or(Origin::Default, |value| value.origin.clone());
            let message = format!("`home` is relative to a working directory that cannot be told: {error}");
            let help = Some("was it deleted? go to one that is there, or give `home` as an absolute path".to_owned());
            problems.push(Problem { origin, message, help });
            None
        }
    }
}

/// Properties alone are a mistake: they belong to a cluster, and none is named.
fn kafka(values: &Values, problems: &mut Vec<Problem>) -> KafkaSettings {
    let servers = &key::KAFKA_BOOTSTRAP_SERVERS;
    if values.set(servers).is_none()
        && let Some((name, property)) = values.table(&KAFKA_PROPERTIES).next()
    {
        let message = format!("`{}.{name}` is set, and `{}` is not", KAFKA_PROPERTIES.name, servers.name);
        let help = servers.variables.first().map(|variable| format!("set {variable}"));
        problems.push(Problem { origin: property.origin.clone(), message, help });
    }
    KafkaSettings {
        bootstrap_servers: values.parse(servers, problems, bootstrap_servers),
        properties: table(values, &KAFKA_PROPERTIES),
    }
}

fn s3(values: &Values, problems: &mut Vec<Problem>) -> Option<S3Settings> {
    let endpoint_url = values.parse(&key::S3_ENDPOINT_URL, problems, http_url);
    let plain = |text: &str| Ok(text.to_owned());
    let region = values.parse(&key::S3_REGION, problems, plain);
    let path_style = values
        .parse(&key::S3_PATH_STYLE, problems, |text| text.parse::<bool>().map_err(|_| "`true` or `false`"))
        .unwrap_or(endpoint_url.is_some());
    let id = values.set(&key::S3_ACCESS_KEY_ID);
    let secret = values.set(&key::S3_SECRET_ACCESS_KEY);
    let credentials = match (id, secret) {
        (Some(id), Some(secret)) => Some((id.text.expose_secret().to_owned(), secret.text.clone())),
        (None, None) => None,
        (Some(lone), None) => lacking(lone, &key::S3_ACCESS_KEY_ID, &key::S3_SECRET_ACCESS_KEY, problems),
        (None, Some(lone)) => lacking(lone, &key::S3_SECRET_ACCESS_KEY, &key::S3_ACCESS_KEY_ID, problems),
    };
    let ours = |value: Option<&Value>| {
        value.is_some_and(|value| !matches!(&value.origin, Origin::Environment(name) if name.starts_with("AWS_")))
    };
    Some(S3Settings {
        configured: endpoint_url.is_some() || id.is_some() || ours(values.set(&key::S3_REGION)),
        endpoint_url,
        region,
        credentials,
        path_style,
        staging_bucket: values.parse(&key::S3_STAGING_BUCKET, problems, plain)?,
    })
}

fn secrets(values: &Values, problems: &mut Vec<Problem>) -> SecretsSettings {
    let text = |key: &Key| values.set(key).map(|value| value.text.expose_secret().to_owned());
    SecretsSettings {
        key: values.set(&key::SECRETS_KEY).map(|value| value.text.clone()),
        connections_prefix: text(&key::SECRETS_AWS_CONNECTIONS_PREFIX),
        variables_prefix: text(&key::SECRETS_AWS_VARIABLES_PREFIX),
        region: text(&key::SECRETS_AWS_REGION),
        endpoint_url: values.parse(&key::SECRETS_AWS_ENDPOINT_URL, problems, http_url),
    }
}

/// Every connection can be read: a slip in one shows when a command starts, not when a task needs it. What a shell carries
/// for Airflow may be of no use here, and is nobody's mistake until a task asks for it.
fn connections(values: &Values, problems: &mut Vec<Problem>) {
    let is_airflows = |value: &Value| matches!((&value.origin, CONNECTIONS.airflows), (Origin::Environment(name), Some(prefix)) if name.starts_with(prefix));
    for (name, value) in values.table(&CONNECTIONS).filter(|(_, value)| !is_airflows(value)) {
        if let Err(error) = Connection::parse(name, value.text.expose_secret()) {
            let message = format!("`{}.{name}` cannot be used: {error}", CONNECTIONS.name);
            problems.push(Problem { origin: value.origin.clone(), message, help: None });
        }
    }
}

fn lacking<T>(lone: &Value, set: &Key, lacks: &Key, problems: &mut Vec<Problem>) -> Option<T> {
    let message = format!("`{}` is set, and `{}` is not", set.name, lacks.name);
    let help = lacks.variables.first().map(|variable| format!("set {variable}"));
    problems.push(Problem { origin: lone.origin.clone(), message, help });
    None
}

fn table(values: &Values, table: &super::keys::Table) -> BTreeMap<String, SecretString> {
    values.table(table).map(|(name, value)| (name.to_owned(), value.text.clone())).collect()
}

fn path(text: &str) -> Result<PathBuf, &'static str> {
    if text.is_empty() { Err("a path") } else { Ok(PathBuf::from(text)) }
}

fn postgres_url(text: &str) -> Result<SecretString, &'static str> {
    url_of(text, &["postgres", "postgresql"]).ok_or("a URL such as postgres://user:password@host:5432/database")?;
    Ok(text.into())
}

fn source_url(text: &str) -> Result<SecretString, &'static str> {
    url_of(text, &["postgres", "postgresql", "mysql", "mariadb"])
        .ok_or("a URL such as mysql://user:password@host:3306/database or postgres://…")?;
    Ok(text.into())
}

pub(super) fn http_url(text: &str) -> Result<Url, &'static str> {
    url_of(text, &["http", "https"]).filter(Url::has_host).ok_or("a URL such as http://127.0.0.1:9000")
}

fn url_of(text: &str, schemes: &[&str]) -> Option<Url> {
    Url::parse(text).ok().filter(|url| schemes.contains(&url.scheme()))
}

fn bootstrap_servers(text: &str) -> Result<String, &'static str> {
    let is_address = |server: &str| {
        server.trim().rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok())
    };
    if text.split(',').all(is_address) { Ok(text.to_owned()) } else { Err("host:port, comma separated") }
}

/// Reads `127.0.0.1:8793`, or `off` for none; else tells what is expected.
pub fn listen(text: &str) -> Result<Option<SocketAddr>, &'static str> {
    match text {
        "off" => Ok(None),
        address => address.parse().map(Some).map_err(|_| "an address and a port such as 127.0.0.1:8793, or `off`"),
    }
}

fn count(text: &str) -> Result<NonZeroUsize, &'static str> {
    text.parse().map_err(|_| "a whole number above 0")
}

/// A number, of which 0 and `off` are none.
fn bound(text: &str) -> Result<Option<NonZeroU32>, &'static str> {
    match text {
        "off" => Ok(None),
        number => number.parse().map(NonZeroU32::new).map_err(|_| "a whole number, or `off`"),
    }
}

/// Reads `s3://bucket/prefix`.
fn bucket_and_prefix(text: &str) -> Result<(String, String), &'static str> {
    let rest = text.strip_prefix("s3://").ok_or("a place such as s3://bucket/prefix")?;
    let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    if bucket.is_empty() {
        return Err("a place such as s3://bucket/prefix");
    }
    Ok((bucket.to_owned(), prefix.trim_matches('/').to_owned()))
}

fn bytes(text: &str) -> Result<u64, &'static str> {
    parse_byte_size(text).ok_or("a size such as 512MiB, 2GB or a number of bytes")
}

/// Reads `10s`, `500ms`, `2m`, or a number of seconds; else tells what is expected.
pub fn duration(text: &str) -> Result<Duration, &'static str> {
    parse_duration(text).map_err(|_| "a duration such as 500ms, 10s, 2m or a number of seconds")
}
