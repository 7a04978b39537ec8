//! What wins, what is refused, and that secrets stay out of sight.

use std::path::Path;

use secrecy::ExposeSecret;

use super::{ConfigError, Environment, Flags, Settings, key};
use crate::domain::connection::Connection;

fn load(toml: &str, environment: Environment, flags: &Flags) -> Result<Settings, ConfigError> {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("pinsched.toml"), toml).unwrap();
    Settings::load(flags, &environment, directory.path())
}

fn shown(settings: &Settings) -> String {
    let line =
        |entry: super::Entry| format!("{} = {} ({})", entry.name, entry.value.as_deref().unwrap_or("-"), entry.origin);
    settings.entries().into_iter().map(line).collect::<Vec<_>>().join("\n")
}

fn refused(toml: &str, environment: Environment) -> String {
    load(toml, environment, &Flags::default()).unwrap_err().to_string()
}

#[test]
fn a_flag_wins_over_the_environment_over_the_file_over_the_default() {
    let toml = r#"
        home = "from-file"
        [engine]
        parallelism = 2
        memory_limit = "1GiB"
        [s3]
        region = "eu-west-1"
        secret_access_key = "hush"
        [kafka]
        bootstrap_servers = "b-1.example:9092"
        [kafka.properties]
        "security.protocol" = "SASL_SSL"
        sasl.password = "hush"
        [connections]
        lake = "postgres://reader:hush@lake/db?sslmode=require"
    "#;
    let environment = Environment::from([
        ("PINSCHED_PARALLELISM", "4"),
        ("PINSCHED_HOME", "from-environment"),
        ("PINSCHED_S3_ACCESS_KEY_ID", "AKIA"),
        ("AWS_REGION", "us-east-1"),
        ("DATABASE_URL", "postgres://me:hush@db.example:5432/pinsched"),
        ("PINSCHED_KAFKA_SASL_USERNAME", "me"),
        ("PINSCHED_SOURCE_URL", ""),
    ]);
    let flags = Flags::default().with(&key::HOME, Some("from-flag")).with(&key::S3_ENDPOINT_URL, None::<String>);
    let settings = load(toml, environment, &flags).unwrap();
    let listing = shown(&settings);
    assert!(!listing.contains("hush"), "{listing}");
    insta::assert_snapshot!(listing, @"
    home = from-flag (flag)
    database.url = postgres://me:********@db.example:5432/pinsched (DATABASE_URL)
    postgres.bin = - (default)
    kafka.bootstrap_servers = b-1.example:9092 (pinsched.toml:10)
    s3.endpoint_url = - (embedded)
    s3.region = us-east-1 (AWS_REGION)
    s3.access_key_id = AKIA (PINSCHED_S3_ACCESS_KEY_ID)
    s3.secret_access_key = ******** (pinsched.toml:8)
    s3.path_style = - (default)
    s3.staging_bucket = pinsched-staging (default)
    source.url = - (embedded)
    secrets.key = - (default)
    secrets.aws.connections_prefix = - (default)
    secrets.aws.variables_prefix = - (default)
    secrets.aws.region = us-east-1 (AWS_REGION)
    secrets.aws.endpoint_url = - (default)
    engine.parallelism = 4 (PINSCHED_PARALLELISM)
    engine.memory_limit = 1GiB (pinsched.toml:5)
    engine.max_processes_per_task = 1024 (default)
    engine.max_map_length = 10000 (default)
    outputs.inline_limit = 256KiB (default)
    outputs.spill_to = - (default)
    outputs.limit = 64MiB (default)
    scheduler.dags = dags (default)
    scheduler.misfire_grace = 1h (default)
    service.listen = 127.0.0.1:8793 (default)
    retention.days = 90 (default)
    retention.runs_per_dag = 1000 (default)
    stack.linger = 10s (default)
    log.filter = warn (default)
    log.format = text (default)
    log.file = - (default)
    log.files = 7 (default)
    telemetry.otlp_endpoint = - (default)
    telemetry.otlp_traces_endpoint = - (default)
    telemetry.otlp_headers = - (default)
    telemetry.service_name = pinsched (default)
    telemetry.resource_attributes = - (default)
    telemetry.disabled = false (default)
    openlineage.url = - (default)
    openlineage.endpoint = api/v1/lineage (default)
    openlineage.api_key = - (default)
    openlineage.namespace = default (default)
    openlineage.disabled = false (default)
    kafka.properties.sasl.password = ******** (pinsched.toml:13)
    kafka.properties.sasl.username = me (PINSCHED_KAFKA_SASL_USERNAME)
    kafka.properties.security.protocol = SASL_SSL (pinsched.toml:12)
    connections.lake = postgres://reader:********@lake/db?sslmode=require (pinsched.toml:15)
    ");
    assert_eq!(settings.parallelism.get(), 4);
    assert_eq!(settings.memory_limit, 1 << 30);
    assert!(settings.home.is_absolute() && settings.home.ends_with("from-flag"));
    assert_eq!(settings.kafka.properties["sasl.password"].expose_secret(), "hush");
    assert!(settings.source_url.is_none(), "an empty variable is not set");
    assert!(!format!("{settings:?}").contains("hush"));
}

#[test]
fn every_unknown_key_is_told_with_its_line_and_what_was_meant() {
    let toml = "hoem = \"x\"\n[kafka]\nbootstrap_server = \"a:1\"\n[engine]\ncolour = 1\nparallelism = [1]\n[s3.x]\n";
    insta::assert_snapshot!(refused(toml, Environment::default()), @"
    pinsched.toml:1: unknown setting `hoem` (did you mean `home`?)
    pinsched.toml:3: unknown setting `kafka.bootstrap_server` (did you mean `kafka.bootstrap_servers`?)
    pinsched.toml:5: unknown setting `engine.colour`
    pinsched.toml:6: `engine.parallelism` takes a single value, and this is of type array
    pinsched.toml:7: unknown setting `s3.x`
    ");
}

#[test]
fn a_file_that_is_not_toml_is_told_with_its_line() {
    insta::assert_snapshot!(refused("home = \"x\"\n[kafka\n", Environment::default()), @"pinsched.toml:2: unclosed table, expected `]`");
    insta::assert_snapshot!(refused("database = \"postgres://x\"\n", Environment::default()), @"pinsched.toml:1: `database` is a section, not a value ([database])");
}

#[test]
fn every_wrong_value_is_told_with_its_origin_and_without_its_secret() {
    let environment = Environment::from([
        ("DATABASE_URL", "mysql://me:hush@db/pinsched"),
        ("PINSCHED_PARALLELISM", "0"),
        ("PINSCHED_MEMORY_LIMIT", "lots"),
        ("PINSCHED_S3_ACCESS_KEY_ID", "AKIA"),
    ]);
    let toml = "[kafka]\nbootstrap_servers = \"broker\"\n[source]\nurl = \"hush\"\n";
    let message = refused(toml, environment);
    assert!(!message.contains("hush"), "{message}");
    insta::assert_snapshot!(message, @"
    DATABASE_URL: `database.url` is `mysql://me:********@db/pinsched`, which is not a URL such as postgres://user:password@host:5432/database
    pinsched.toml:2: `kafka.bootstrap_servers` is `broker`, which is not host:port, comma separated
    PINSCHED_S3_ACCESS_KEY_ID: `s3.access_key_id` is set, and `s3.secret_access_key` is not (set PINSCHED_S3_SECRET_ACCESS_KEY)
    pinsched.toml:4: `source.url` is `********`, which is not a URL such as mysql://user:password@host:3306/database or postgres://…
    PINSCHED_PARALLELISM: `engine.parallelism` is `0`, which is not a whole number above 0
    PINSCHED_MEMORY_LIMIT: `engine.memory_limit` is `lots`, which is not a size such as 512MiB, 2GB or a number of bytes
    ");
}

#[test]
fn an_endpoint_that_is_no_url_is_shown_but_for_what_may_be_secret_in_it() {
    let told = |endpoint: &'static str| refused("", Environment::from([("AWS_ENDPOINT_URL", endpoint)]));
    insta::assert_snapshot!(told("minio:9000"), @"AWS_ENDPOINT_URL: `s3.endpoint_url` is `minio:9000`, which is not a URL such as http://127.0.0.1:9000");
    for (endpoint, shown) in [
        ("http//minio:9000", "http//minio:9000"),
        ("ftp://me:hush@minio/data", "ftp://********@minio/data"),
        ("http/me:hu?sh@minio?token=hush", "********@minio?********"),
        ("http:/me:hush//hush@minio", "********@minio"),
        ("http:///me:hush@x@?hush", "http://********@?********"),
    ] {
        let told = told(endpoint);
        assert!(told.contains(&format!("is `{shown}`, which is not")), "{told}");
    }
    let endpoint = Environment::from([("PINSCHED_S3_ENDPOINT_URL", "https://me:hush@minio/?token=hush")]);
    let listing = shown(&load("", endpoint, &Flags::default()).unwrap());
    assert!(listing.contains("s3.endpoint_url = https://********@minio/?******** (PINSCHED_S3"), "{listing}");
}

#[test]
fn a_slip_does_not_send_a_run_to_the_laptops_stack() {
    let environment = Environment::from([
        ("PINSCHED_KAFKA_BOOTSTRAP", "prod:9092"),
        ("PINSCHED_DATABASE_URL", "postgres://prod/pinsched"),
        ("PINSCHED_ENGINE_PARALLELISM", "4"),
        ("PINSCHED_PARALELLISM", "4"),
        ("PINSCHED_CONNECTIONS_LAKE", "postgres://lake/db"),
        ("PINSCHED_COLOUR", "red"),
    ]);
    insta::assert_snapshot!(refused("", environment), @"
    PINSCHED_COLOUR: there is no such setting
    PINSCHED_CONNECTIONS_LAKE: there is no such setting (did you mean PINSCHED_CONNECTION_<NAME>?)
    PINSCHED_DATABASE_URL: there is no such setting (did you mean DATABASE_URL?)
    PINSCHED_ENGINE_PARALLELISM: there is no such setting (did you mean PINSCHED_PARALLELISM?)
    PINSCHED_PARALELLISM: there is no such setting (did you mean PINSCHED_PARALLELISM?)
    PINSCHED_KAFKA_BOOTSTRAP: `kafka.properties.bootstrap` is set, and `kafka.bootstrap_servers` is not (set PINSCHED_KAFKA_BOOTSTRAP_SERVERS)
    ");
    let toml = "[kafka.properties]\n\"bootstrap.servers\" = \"prod:9092\"\n";
    insta::assert_snapshot!(refused(toml, Environment::default()), @"pinsched.toml:2: `kafka.properties.bootstrap.servers` is set, and `kafka.bootstrap_servers` is not (set PINSCHED_KAFKA_BOOTSTRAP_SERVERS)");
    let others = Environment::from([
        ("PINSCHED_TEST_KAFKA", "127.0.0.1:9092"),
        ("PINSCHED_CONFIG", ""),
        ("PINSCHED_PORT_5432_TCP_ADDR", "10.0.0.1"),
        ("PINSCHED_KAFKA_BOOTSTRAP_SERVERS", "prod:9092"),
        ("PINSCHED_KAFKA_SECURITY_PROTOCOL", "plaintext"),
        ("PINSCHED_CONNECTION_LAKE", "postgres://lake/db"),
        ("PINSCHED_MEMORY_LIMITS", ""),
    ]);
    load("", others, &Flags::default()).unwrap();
}

#[test]
fn a_place_for_outputs_is_a_bucket_with_a_prefix_or_none() {
    let place = |text: &str| {
        let environment = Environment::from([("PINSCHED_OUTPUTS_SPILL_TO", text)]);
        load("", environment, &Flags::default()).map(|settings| settings.outputs.spill_to.unwrap())
    };
    let pair = |bucket: &str, prefix: &str| (bucket.to_owned(), prefix.to_owned());
    assert_eq!(place("s3://lake/pinsched/outputs/").unwrap(), pair("lake", "pinsched/outputs"));
    assert_eq!(place("s3://lake").unwrap(), pair("lake", ""));
    for wrong in ["lake/outputs", "s3:///x"] {
        let words = place(wrong).unwrap_err().to_string();
        assert!(words.contains("a place such as s3://bucket/prefix"), "{words}");
    }
}

#[test]
fn a_named_file_must_be_there() {
    let flags = Flags::default().with_config(Some("absent.toml".into()));
    let error = Settings::load(&flags, &Environment::default(), Path::new("/")).unwrap_err();
    assert_eq!(error.to_string(), "could not read the configuration absent.toml");
}

#[test]
fn a_region_in_the_shell_alone_does_not_send_a_run_to_aws() {
    let of = |pairs| load("", pairs, &Flags::default()).unwrap().s3;
    assert!(!of(Environment::from([("AWS_REGION", "eu-west-1")])).configured);
    assert!(of(Environment::from([("PINSCHED_S3_REGION", "eu-west-1")])).configured);
    let other = of(Environment::from([("AWS_ENDPOINT_URL", "http://127.0.0.1:9000")]));
    assert!(other.configured && other.path_style);
}

#[test]
fn connections_and_variables_come_from_airflows_variables_and_tables_too() {
    let toml = r#"
        [connections]
        Lake = "postgres://file/db"
        "a.b" = "http://dotted"
        [connections.api]
        conn_type = "http"
        host = "https://api.example"
        port = 8443
        password = "hush"
        extra = { "X-Api-Version" = "2" }
        [variables]
        bucket = "landing"
        api_key = "hush"
        rows = 5
    "#;
    let environment = Environment::from([
        ("AIRFLOW_CONN_LAKE", "postgres://me:hush@airflow/db"),
        ("PINSCHED_CONNECTION_SEA", "mysql://ours/db"),
        ("AIRFLOW_CONN_SEA", "mysql://airflows/db"),
        ("AIRFLOW_CONN_TOLD", "https://told?api_token=hush&region=eu"),
        ("AIRFLOW_CONN_BROKEN", "hush"),
        ("AIRFLOW_VAR_ROWS", "7"),
        ("PINSCHED_SECRET_KEY", "hush"),
    ]);
    let settings = load(toml, environment, &Flags::default()).unwrap();
    let listing = shown(&settings);
    assert!(!listing.contains("hush"), "{listing}");
    let listed = listing.lines().filter(|line| line.starts_with("connections.") || line.starts_with("variables."));
    insta::assert_snapshot!(listed.collect::<Vec<_>>().join("\n"), @"
    connections.Lake = postgres://me:********@airflow/db (AIRFLOW_CONN_LAKE)
    connections.a.b = http://dotted/ (pinsched.toml:4)
    connections.api = ******** (pinsched.toml:5)
    connections.broken = ******** (AIRFLOW_CONN_BROKEN)
    connections.sea = mysql://ours/db (PINSCHED_CONNECTION_SEA)
    connections.told = https://told/?******** (AIRFLOW_CONN_TOLD)
    variables.api_key = ******** (pinsched.toml:13)
    variables.bucket = landing (pinsched.toml:12)
    variables.rows = 7 (AIRFLOW_VAR_ROWS)
    ");
    let api = Connection::parse("api", settings.connections["api"].expose_secret()).unwrap();
    assert_eq!(api.url().expose_secret(), "https://:hush@api.example:8443");
    assert_eq!(api.extra_fields()["X-Api-Version"], "2");
    let secrets: Vec<String> = settings.secrets().iter().map(|secret| secret.expose_secret().to_owned()).collect();
    assert_eq!(secrets, ["hush"; 6], "of four connections, one of them unreadable, a variable and the key");
}

#[test]
fn a_connection_that_cannot_be_read_is_told_without_it() {
    let toml = "[connections]\nlake = \"hush\"\n[connections.api]\nconn_type = \"http\"\npasword = \"hush\"\n";
    let environment = Environment::from([("PINSCHED_CONNECTION_SEA", "postgres://me:hu/sh@db")]);
    let message = refused(toml, environment);
    assert!(!message.contains("hush"), "{message}");
    insta::assert_snapshot!(message, @"
    pinsched.toml:3: `connections.api` cannot be used: no connection has a `pasword`; did you mean `password`?
    pinsched.toml:2: `connections.lake` cannot be used: it is neither a URI, as postgres://login:password@host:5432/database, nor a JSON object
    PINSCHED_CONNECTION_SEA: `connections.sea` cannot be used: the port of its URI cannot be read (special characters are written as %40 and the like)
    ");
}

#[test]
fn off_and_nothing_switch_off_what_has_a_bound() {
    let toml = "service.listen = \"[::1]:80\"\n[retention]\ndays = 0\nruns_per_dag = 7\n";
    let settings = load(toml, Environment::default(), &Flags::default()).unwrap();
    assert_eq!(settings.listen, Some("[::1]:80".parse().unwrap()));
    assert_eq!((settings.retention.days, settings.retention.runs_per_dag), (None, std::num::NonZeroU32::new(7)));
    let toml = "service.listen = \"off\"\n[retention]\nruns_per_dag = \"off\"\n";
    let settings = load(toml, Environment::default(), &Flags::default()).unwrap();
    assert!(settings.listen.is_none() && settings.retention.runs_per_dag.is_none());
    assert_eq!(settings.retention.days, std::num::NonZeroU32::new(90), "the default");
    let toml = "service.listen = 8793\n[retention]\ndays = -1\n";
    insta::assert_snapshot!(refused(toml, Environment::default()), @"
    pinsched.toml:1: `service.listen` is `8793`, which is not an address and a port such as 127.0.0.1:8793, or `off`
    pinsched.toml:3: `retention.days` is `-1`, which is not a whole number, or `off`
    ");
}

#[test]
fn the_variables_of_opentelemetry_and_openlineage_mean_what_their_own_clients_take_them_for() {
    let read = |environment| load("", environment, &Flags::default()).unwrap();
    let traces = |environment| read(environment).telemetry.traces_url.map(|url| url.to_string());
    let base = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318/");
    assert_eq!(traces(Environment::default()), None);
    assert_eq!(traces([base].into()).as_deref(), Some("http://collector:4318/v1/traces"));
    let full = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "https://elsewhere/traces");
    assert_eq!(traces([base, full].into()).as_deref(), Some("https://elsewhere/traces"));
    assert_eq!(traces([base, ("OTEL_SDK_DISABLED", "True")].into()), None);
    for (odd, warns) in [("1", true), ("yes", true), ("False", false), ("", false)] {
        let settings = read([base, ("OTEL_SDK_DISABLED", odd)].into());
        assert!(settings.telemetry.traces_url.is_some(), "{odd}");
        assert_eq!(settings.warnings.len(), usize::from(warns), "{odd}");
    }
    let settings = read([base, ("OTEL_SDK_DISABLED", "1")].into());
    assert_eq!(
        settings.warnings,
        [
            "OTEL_SDK_DISABLED is `1`, which counts as false: only `true` turns traces off (OpenTelemetry's specification)"
        ]
    );
    // A setting of ours is one or the other.
    let said = refused("telemetry.disabled = 1", Environment::default());
    assert!(said.contains("`telemetry.disabled` is `1`, which is not `true` or `false`"), "{said}");
    let resource = |environment| {
        let resource = read(environment).telemetry.resource;
        resource.into_iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>()
    };
    let attributes = ("OTEL_RESOURCE_ATTRIBUTES", "service.name=weak,team=data%20platform");
    assert_eq!(resource(Environment::default()), ["service.name=pinsched"]);
    assert_eq!(resource([attributes].into()), ["service.name=weak", "team=data platform"]);
    assert_eq!(resource([attributes, ("OTEL_SERVICE_NAME", "own")].into())[0], "service.name=own");
    let lineage = |environment| read(environment).openlineage.url.map(|url| url.to_string());
    let url = ("OPENLINEAGE_URL", "http://marquez:5000");
    assert_eq!(lineage([url].into()).as_deref(), Some("http://marquez:5000/api/v1/lineage"));
    assert_eq!(
        lineage([url, ("OPENLINEAGE_ENDPOINT", "events")].into()).as_deref(),
        Some("http://marquez:5000/events")
    );
    assert_eq!(lineage([url, ("OPENLINEAGE_DISABLED", "true")].into()), None);
    let said = refused("", Environment::from([("OTEL_EXPORTER_OTLP_HEADERS", "api-key:hush")]));
    assert!(said.contains("`name=value`, comma separated") && !said.contains("hush"), "{said}");
}

#[test]
fn a_setting_that_is_not_utf_8_does_not_count_as_unset() {
    use std::ffi::OsString;
    use std::os::unix::ffi::OsStringExt as _;
    let bad = || OsString::from_vec(b"postgres://bob:p\xff@db/x".to_vec());
    let names = ["DATABASE_URL", "AIRFLOW_CONN_WH", "PINSCHED_HOME", "LS_COLORS"];
    let environment = Environment::of(names.into_iter().map(|name| (OsString::from(name), bad())), None);
    insta::assert_snapshot!(refused("", environment), @"
    AIRFLOW_CONN_WH: its value is not UTF-8
    DATABASE_URL: its value is not UTF-8
    PINSCHED_HOME: its value is not UTF-8
    ");
}
