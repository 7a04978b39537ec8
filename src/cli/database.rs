//! `pinsched db`: the schema, what is past keeping, backups.

use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::Context;
use chrono::TimeDelta;
use secrecy::{ExposeSecret, SecretString};
use serde::Serialize;
use tokio::process::Command;
use url::Url;

use crate::cli::exit::Exit;
use crate::cli::prompt;
use crate::cli::session::{Session, find_dag};
use crate::cli::table::Field;
use crate::cli::upkeep_arguments::{DbCleanArguments, DbCommand};
use crate::cli::words::{count, counted};
use crate::clock;
use crate::config::RetentionSettings;
use crate::domain::ids::DagId;
use crate::embedded::postgres_client;
use crate::service::{Retention, past_keeping, sweep};
use crate::store::retention::Beyond;
use crate::store::{Schema, Store};

pub(crate) async fn database(session: &Session, command: &DbCommand) -> anyhow::Result<Exit> {
    match command {
        DbCommand::Migrate => migrate(session).await,
        DbCommand::Check => check(session).await,
        DbCommand::Clean(arguments) => clean(session, arguments).await,
        DbCommand::Backup { file } => backup(session, file).await,
        DbCommand::Restore { file, force } => restore(session, file, *force).await,
    }
}

#[derive(Debug, Serialize)]
struct Migrated {
    from: Option<i64>,
    to: Option<i64>,
}

async fn migrate(session: &Session) -> anyhow::Result<Exit> {
    let (_held, url) = session.database().await?;
    let store = Store::connect(&url, 2).await?;
    let from = store.schema().await?.applied;
    store.migrate().await?;
    let report = Migrated { from, to: store.schema().await?.applied };
    session.printer.answer(&report, || match report.from == report.to {
        true => format!("the schema is at {} already\n", version(report.to)),
        false => format!("the schema went from {} to {}\n", version(report.from), version(report.to)),
    })?;
    Ok(Exit::Done)
}

fn version(of: Option<i64>) -> String {
    of.map_or_else(|| "none".to_owned(), |version| version.to_string())
}

#[derive(Debug, Serialize)]
struct Checked {
    schema: Option<i64>,
    schema_of_this_version: i64,
    server: Option<String>,
    bytes: Option<i64>,
    dags: Option<i64>,
    runs: Option<i64>,
    unfinished_runs: Option<i64>,
    processes: Option<i64>,
    problems: Vec<String>,
}

async fn check(session: &Session) -> anyhow::Result<Exit> {
    session.must_have_run()?;
    let (_held, url) = session.database().await?;
    let store = Store::connect(&url, 2).await?;
    let schema = store.schema().await?;
    let facts = if schema.is_current() { Some(store.facts().await?) } else { None };
    let mut problems: Vec<String> = outdated(schema).into_iter().collect();
    let invalid = facts.iter().flat_map(|facts| &facts.invalid_indexes);
    problems.extend(invalid.map(|index| format!("the index {index} is invalid: REINDEX INDEX {index}")));
    let report = Checked {
        schema: schema.applied,
        schema_of_this_version: schema.known,
        server: facts.as_ref().map(|facts| facts.server.clone()),
        bytes: facts.as_ref().map(|facts| facts.bytes),
        dags: facts.as_ref().map(|facts| facts.dags),
        runs: facts.as_ref().map(|facts| facts.runs),
        unfinished_runs: facts.as_ref().map(|facts| facts.unfinished),
        processes: facts.as_ref().map(|facts| facts.alive),
        problems,
    };
    session.printer.answer(&report, || {
        let mut text = format!("schema {}", version(report.schema));
        if let Some(facts) = &facts {
            text = format!(
                "PostgreSQL {}, {} bytes, {text}\n{}, {}, {} of them unfinished; {} at work",
                facts.server,
                number(facts.bytes),
                counted(facts.dags.unsigned_abs(), "DAG", "DAGs"),
                counted(facts.runs.unsigned_abs(), "run", "runs"),
                number(facts.unfinished),
                counted(facts.alive.unsigned_abs(), "process", "processes")
            );
        }
        text.push('\n');
        match report.problems.as_slice() {
            [] => text.push_str("nothing is wrong\n"),
            problems => text.extend(problems.iter().map(|problem| format!("wrong: {problem}\n"))),
        }
        text
    })?;
    Ok(if report.problems.is_empty() { Exit::Done } else { Exit::No })
}

fn number(number: i64) -> String {
    count(number.unsigned_abs())
}

fn outdated(schema: Schema) -> Option<String> {
    match schema.applied {
        _ if schema.is_current() => None,
        None => Some("it has no tables of pinsched's; `pinsched db migrate` makes them".to_owned()),
        Some(applied) if applied > schema.known => {
            Some(format!("it is of a later version of pinsched: this one knows the schema up to {}", schema.known))
        }
        Some(_) => Some(format!("its schema is older than this version's, {}: `pinsched db migrate`", schema.known)),
    }
}

#[derive(Debug, Serialize)]
struct OldRuns {
    dag_id: String,
    runs: u64,
}

#[derive(Debug, Serialize)]
struct Cleaned {
    dry_run: bool,
    past_keeping: Vec<OldRuns>,
    runs_deleted: u64,
    versions_deleted: u64,
    workers_deleted: u64,
}

/// Whether runs are deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Allowed {
    Yes,
    No,
    /// No, since there is no terminal at which somebody could say so.
    NobodyToAsk,
}

/// Asks the person at the terminal, after showing what goes.
fn ask(session: &Session, past: &[(DagId, u64)]) -> anyhow::Result<Allowed> {
    if !prompt::is_person() {
        return Ok(Allowed::NobodyToAsk);
    }
    for (dag, runs) in past {
        session.printer.say(&format!("{dag}: {}", counted(*runs, "run", "runs")));
    }
    let all = past.iter().map(|(_, runs)| runs).sum();
    let is_meant = prompt::confirm(session.printer, &format!("delete {} for good?", counted(all, "run", "runs")))?;
    Ok(if is_meant { Allowed::Yes } else { Allowed::No })
}

async fn clean(session: &Session, arguments: &DbCleanArguments) -> anyhow::Result<Exit> {
    let (_held, store) = session.connect_store().await?;
    let now = clock::now();
    let beyond = match arguments.older_than {
        Some(age) => {
            let age = TimeDelta::from_std(age).context("--older-than is too long")?;
            Beyond { ended_before: now.checked_sub_signed(age), newest: None }
        }
        None => {
            let RetentionSettings { days, runs_per_dag } = session.settings.retention;
            Retention { days, runs_per_dag }.beyond(now)
        }
    };
    let dags = match &arguments.dag {
        Some(dag) => vec![find_dag(&store, dag).await?],
        None => store.dag_states().await?,
    };
    let past = past_keeping(&store, &dags, beyond).await?;
    let allowed = match arguments {
        DbCleanArguments { dry_run: true, .. } => Allowed::No,
        DbCleanArguments { yes: true, .. } => Allowed::Yes,
        // Versions of DAG files that no run has, and processes long gone: nobody misses them.
        _ if past.is_empty() => Allowed::Yes,
        _ => ask(session, &past)?,
    };
    let swept = match allowed {
        Allowed::Yes => Some(sweep(&store, &dags, beyond, now, None).await?),
        Allowed::No | Allowed::NobodyToAsk => None,
    };
    let deleted = swept.unwrap_or_default();
    let report = Cleaned {
        dry_run: arguments.dry_run,
        past_keeping: past.into_iter().map(|(dag, runs)| OldRuns { dag_id: dag.to_string(), runs }).collect(),
        runs_deleted: deleted.runs,
        versions_deleted: deleted.versions,
        workers_deleted: deleted.workers,
    };
    session.printer.answer(&report, || {
        let mut table = session.printer.table(&["DAG", "RUNS PAST KEEPING"]);
        for old in &report.past_keeping {
            table.row(vec![Field::text(&old.dag_id), Field::number(count(old.runs))]);
        }
        let table = if report.past_keeping.is_empty() { String::new() } else { table.render() };
        match (&allowed, report.past_keeping.is_empty()) {
            (Allowed::No | Allowed::NobodyToAsk, false) => table,
            (_, true) => "no run is past keeping\n".to_owned(),
            (Allowed::Yes, false) => format!("{table}deleted {}\n", counted(report.runs_deleted, "run", "runs")),
        }
    })?;
    if allowed == Allowed::NobodyToAsk {
        session.printer.error("nothing was deleted: --yes deletes these runs where nobody can be asked");
        return Ok(Exit::No);
    }
    if deleted.elsewhere {
        session.printer.error("another process deletes what is old at this time: the rest is left to it");
        return Ok(Exit::No);
    }
    Ok(Exit::Done)
}

#[derive(Debug, Serialize)]
struct BackedUp {
    file: PathBuf,
    bytes: u64,
}

async fn backup(session: &Session, file: &Path) -> anyhow::Result<Exit> {
    anyhow::ensure!(!file.is_dir(), "could not write {}: that is a folder; name a file in it", file.display());
    session.must_have_run()?;
    let (_held, url) = session.database().await?;
    // As it is: who backs up before an upgrade does not want the schema of after it.
    let schema = Store::connect(&url, 1).await?.schema().await?;
    anyhow::ensure!(schema.applied.is_some(), "the database has no tables of pinsched's: there is nothing to back up");
    let mut beside = file.as_os_str().to_owned();
    beside.push(".part");
    let beside = PathBuf::from(beside);
    let mut dump = client(session, "pg_dump", &url)?;
    // It has logs, params and outputs as they are. pg_dump writes into the file that is there, whoever may read it.
    let _ = std::fs::remove_file(&beside); // a backup that was cut short
    std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&beside)
        .with_context(|| format!("could not write {}", beside.display()))?;
    dump.args(["--format=custom", "--no-owner", "--no-privileges", "--file"]).arg(&beside);
    let dumped = run(dump, "pg_dump").await.and_then(|()| {
        std::fs::rename(&beside, file).with_context(|| format!("could not move the backup to {}", file.display()))
    });
    if let Err(error) = dumped {
        if let Err(left) = std::fs::remove_file(&beside) {
            tracing::debug!(error = %left, "what pg_dump had written is left");
        }
        return Err(error);
    }
    let bytes = std::fs::metadata(file).with_context(|| format!("could not look at {}", file.display()))?.len();
    let report = BackedUp { file: file.to_owned(), bytes };
    session.printer.answer(&report, || format!("{} ({} bytes)\n", report.file.display(), count(report.bytes)))?;
    Ok(Exit::Done)
}

#[derive(Debug, Serialize)]
struct Restored {
    schema: Option<i64>,
    schema_of_this_version: i64,
}

async fn restore(session: &Session, file: &Path, force: bool) -> anyhow::Result<Exit> {
    anyhow::ensure!(file.is_file(), "there is no file {}", file.display());
    let (_held, url) = session.database().await?;
    let store = Store::connect(&url, 2).await?;
    let alive = store.workers_alive().await?;
    if alive > 0 {
        session.printer.error(&format!(
            "{} on this database (`pinsched serve`, `pinsched run`): stop {} before",
            counted(alive.unsigned_abs(), "process works", "processes work"),
            if alive == 1 { "it" } else { "them" }
        ));
        return Ok(Exit::No);
    }
    if !force && !store.is_empty().await? {
        session.printer.error("the database is not empty; --force puts what the backup has in place of what is there");
        return Ok(Exit::No);
    }
    let mut restoring = client(session, "pg_restore", &url)?;
    restoring.args(["--single-transaction", "--exit-on-error", "--no-owner", "--no-privileges"]);
    if force {
        restoring.args(["--clean", "--if-exists"]);
    }
    restoring.arg(std::path::absolute(file).with_context(|| format!("could not find {}", file.display()))?);
    run(restoring, "pg_restore").await?;
    let schema = store.schema().await?;
    let report = Restored { schema: schema.applied, schema_of_this_version: schema.known };
    session.printer.answer(&report, || {
        let more = outdated(schema).map(|said| format!("; {said}")).unwrap_or_default();
        format!("restored; the schema is at {}{more}\n", version(report.schema))
    })?;
    Ok(Exit::Done)
}

/// What libpq understands of a URL's query; sqlx's own parameters it would refuse.
const OF_LIBPQ: [&str; 9] =
    ["application_name", "host", "options", "port", "sslcert", "sslkey", "sslmode", "sslrootcert", "user"];

/// A client program of Postgres's, about to reach the database: its password is in its environment, where other users of the
/// machine do not see it, and not on its command line, where they do.
fn client(session: &Session, name: &str, url: &SecretString) -> anyhow::Result<Command> {
    let program = postgres_client(name, &session.settings).with_context(|| {
        format!(
            "there is no {name} on this machine: install PostgreSQL's client programs, of the server's version or later \
             (on Debian: apt-get install postgresql-client), or name their directory by PINSCHED_POSTGRES_BIN"
        )
    })?;
    let mut command = Command::new(program);
    let (address, password) = without_password(url).context("the database's URL cannot be read")?;
    command.arg("--no-password").arg("--dbname").arg(address);
    if let Some(password) = password {
        command.env("PGPASSWORD", password.expose_secret());
    }
    Ok(command)
}

fn without_password(url: &SecretString) -> Option<(String, Option<SecretString>)> {
    let mut url = Url::parse(url.expose_secret()).ok()?;
    let plain = |text: &str| percent_encoding::percent_decode_str(text).decode_utf8().map(|text| text.into_owned());
    let mut password = url.password().and_then(|password| plain(password).ok());
    if url.password().is_some() {
        url.set_password(None).ok()?; // which one without a host refuses
    }
    let mut kept = Vec::new();
    for (name, value) in url.query_pairs() {
        match name.as_ref() {
            "password" => password = Some(value.into_owned()),
            "ssl-mode" => kept.push(("sslmode".to_owned(), value.into_owned())),
            "ssl-root-cert" => kept.push(("sslrootcert".to_owned(), value.into_owned())),
            name if OF_LIBPQ.contains(&name) => kept.push((name.to_owned(), value.into_owned())),
            _ => {}
        }
    }
    url.set_query(None);
    if !kept.is_empty() {
        let query: Vec<String> = kept
            .iter()
            .map(|(name, value)| {
                // libpq reads `+` as it stands.
                let value = percent_encoding::utf8_percent_encode(value, percent_encoding::NON_ALPHANUMERIC);
                format!("{name}={value}")
            })
            .collect();
        url.set_query(Some(&query.join("&")));
    }
    Some((url.to_string(), password.map(SecretString::from)))
}

async fn run(mut command: Command, name: &str) -> anyhow::Result<()> {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
    let output = command.output().await.with_context(|| format!("could not start {name}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    anyhow::ensure!(output.status.success(), "{name} failed ({}): {}", output.status, said.trim());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(url: &str) -> (String, Option<String>) {
        let (address, password) = without_password(&SecretString::from(url)).unwrap();
        (address, password.map(|password| password.expose_secret().to_owned()))
    }

    #[test]
    fn a_password_is_not_in_the_address_that_others_see() {
        let (address, password) = parts("postgres://me:p%40ss@db.example:5433/pinsched?sslmode=require");
        assert_eq!(address, "postgres://me@db.example:5433/pinsched?sslmode=require");
        assert_eq!(password.as_deref(), Some("p@ss"));
        let (address, password) = parts("postgres://db/pinsched?user=me&password=secret&statement-cache-capacity=5");
        assert_eq!(address, "postgres://db/pinsched?user=me");
        assert_eq!(password.as_deref(), Some("secret"));
    }

    #[test]
    fn sockets_and_tls_are_told_to_libpq_in_its_own_words() {
        let (address, _) = parts("postgres:///pinsched?host=/var/run/postgresql&ssl-mode=verify-full");
        assert_eq!(address, "postgres:///pinsched?host=%2Fvar%2Frun%2Fpostgresql&sslmode=verify%2Dfull");
    }
}
