//! The stack's Postgres: found, initialised, started as a child of this process, stopped with it.
//!
//! Its port is on loopback alone and its password random. The child dies with the thread that started it, so
//! [`Cluster::start`] is called on the process's main thread. Durable: fsync is on, and a new cluster is synced in
//! the background soon after it answers: a power cut within its first seconds may undo it, a kill cannot.

mod abandoned;
mod account;
mod binaries;
mod error;
mod leftover;

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process, set_parent_process_death_signal};
use sqlx::postgres::{PgConnectOptions, PgSslMode};
use sqlx::{ConnectOptions, Connection, PgConnection};
use tokio::process::Child;
use tokio::task::JoinSet;

pub use abandoned::{AbandonedData, abandoned_data};
pub(super) use binaries::client;
pub use error::PostgresError;

use super::error::HomeError;
use super::home::{Home, PostgresCredentials};
use account::Place;
use binaries::Binaries;

/// The database of pinsched's own state.
pub(super) const STATE_DATABASE: &str = "pinsched";
/// The database of the source tables.
pub(super) const SOURCE_DATABASE: &str = "pinterest_data";
/// Recovery after a kill reads back as much as was written since the last checkpoint; on a slow disk that takes long.
const READY_LIMIT: Duration = Duration::from_secs(120);
/// How often a starting server is asked.
const ASK: Duration = Duration::from_millis(10);
/// How long the last checkpoint may take.
const STOP_LIMIT: Duration = Duration::from_secs(20);
/// How long the server may take to leave everything as it is.
const ABANDON_LIMIT: Duration = Duration::from_secs(5);
/// Creating a database copies some megabytes.
const CREATE_LIMIT: Duration = Duration::from_secs(60);

/// A running server.
#[derive(Debug)]
pub(super) struct Postgres {
    child: Child,
    /// The sync of a new cluster, which nobody waits for.
    syncing: JoinSet<()>,
}

/// Where the programs are looked for.
#[derive(Debug, Clone, Default)]
pub(super) struct Search {
    /// The one place where they must be.
    pub(super) configured: Option<PathBuf>,
    /// Directories to look into, before those that distributions use.
    pub(super) path: Vec<PathBuf>,
}

/// A home's data that nobody runs on, and the programs for it.
#[derive(Debug)]
pub(super) struct Cluster {
    place: Place,
    binaries: Binaries,
    log: PathBuf,
    is_new: bool,
}

impl Cluster {
    /// Finds the home's data, ends whatever an earlier process left running on it, and makes it where there is none.
    pub(super) async fn open(
        home: &Home,
        credentials: &PostgresCredentials,
        search: &Search,
    ) -> Result<Self, PostgresError> {
        let place = Place::find(home)?;
        let version = data_version(&place.data)?;
        let data = version.map(|version| (place.data.as_path(), version));
        let binaries = binaries::find(search.configured.as_deref(), &search.path, data)?;
        place.must_reach(&binaries.directory)?;
        match version {
            Some(_) => leftover::settle(&place.data).await?,
            None => initialise(&place, &binaries, credentials).await?,
        }
        place.claim(home)?;
        Ok(Self { place, binaries, log: home.postgres_log(), is_new: version.is_none() })
    }

    /// Starts the server; it answers when this returns. May be tried again with another port.
    pub(super) async fn start(
        &mut self,
        home: &Home,
        credentials: &PostgresCredentials,
    ) -> Result<Postgres, PostgresError> {
        let log = home.open_log(&self.log)?;
        let start_of_log = log.metadata().map_or(0, |log| log.len());
        let child = spawn(&self.place, &self.binaries, credentials.port, log)?;
        let mut postgres = Postgres { child, syncing: JoinSet::new() };
        let mut connection = postgres.answer(credentials, &self.log, start_of_log).await?;
        for name in [STATE_DATABASE, SOURCE_DATABASE] {
            create_database(&mut connection, name).await?;
        }
        if std::mem::take(&mut self.is_new) {
            let data = File::open(&self.place.data).map_err(HomeError::io("open", &self.place.data))?;
            postgres.syncing.spawn(sync_later(data));
        }
        // The server notices by itself when a connection is gone.
        let _ = connection.close().await;
        Ok(postgres)
    }
}

impl Postgres {
    /// Waits until the server answers, or has ended.
    async fn answer(
        &mut self,
        credentials: &PostgresCredentials,
        log: &Path,
        start_of_log: u64,
    ) -> Result<PgConnection, PostgresError> {
        let options = options(credentials, "postgres");
        let began = crate::clock::monotonic();
        loop {
            if self.child.try_wait().is_ok_and(|status| status.is_some()) {
                return Err(ended(credentials.port, log, start_of_log));
            }
            match tokio::time::timeout(READY_LIMIT, options.connect()).await {
                Ok(Ok(connection)) => return Ok(connection),
                Ok(Err(source)) if began.elapsed() > READY_LIMIT => {
                    return Err(PostgresError::Silent { port: credentials.port, log: log.to_owned(), source });
                }
                _ => tokio::time::sleep(ASK).await,
            }
        }
    }

    /// Returns when the server has ended, which it should not by itself.
    pub(super) async fn ended(&mut self) -> std::io::Result<ExitStatus> {
        self.child.wait().await
    }

    /// Disconnects everyone and stops, with a checkpoint so that the next start is quick.
    pub(super) async fn stop(self) {
        self.end_by([(Signal::INT, STOP_LIMIT), (Signal::QUIT, STOP_LIMIT)]).await;
    }

    /// Ends at once, as by a kill, for when its directory is not where it was. It writes its control file by its whole
    /// path: a checkpoint would go into the data of whoever is there now.
    pub(super) async fn abandon(self) {
        self.end_by([(Signal::QUIT, ABANDON_LIMIT), (Signal::KILL, ABANDON_LIMIT)]).await;
    }

    async fn end_by(mut self, signals: [(Signal, Duration); 2]) {
        for (signal, patience) in signals {
            let pid = self.child.id().and_then(|id| Pid::from_raw(id.cast_signed()));
            let Some(pid) = pid else { return };
            // A child that ended in this instant is reaped by the wait below.
            let _ = kill_process(pid, signal);
            if tokio::time::timeout(patience, self.child.wait()).await.is_ok() {
                return;
            }
        }
        tracing::error!("the embedded PostgreSQL did not stop");
    }
}

/// How to connect to one of the server's databases.
fn options(credentials: &PostgresCredentials, database: &str) -> PgConnectOptions {
    PgConnectOptions::new_without_pgpass()
        .host("127.0.0.1")
        .port(credentials.port)
        .username(&credentials.user)
        .password(&credentials.password)
        .database(database)
        .ssl_mode(PgSslMode::Disable)
        .disable_statement_logging()
}

/// The URL of one of the server's databases. It says that there is no TLS, since PGSSLMODE decides where a URL says
/// nothing.
pub(super) fn url(credentials: &PostgresCredentials, database: &str) -> String {
    let PostgresCredentials { user, password, port } = credentials;
    format!("postgres://{user}:{password}@127.0.0.1:{port}/{database}?sslmode=disable")
}

/// The version that made the data; none when there is none.
fn data_version(data: &Path) -> Result<Option<u32>, HomeError> {
    let path = data.join("PG_VERSION");
    match fs::read_to_string(&path) {
        Ok(version) => Ok(version.trim().parse().ok()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(HomeError::Io { action: "read", path, source }),
    }
}

/// Makes a new cluster, whole or not at all.
async fn initialise(
    place: &Place,
    binaries: &Binaries,
    credentials: &PostgresCredentials,
) -> Result<(), PostgresError> {
    let building = place.prepare()?;
    let password_file = building.with_extension("password");
    let written = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&password_file);
    written
        .and_then(|mut file| file.write_all(credentials.password.as_bytes()))
        .map_err(HomeError::io("write", &password_file))?;
    place.give(&password_file)?;
    let mut made = initdb(place, binaries, credentials, &building, &password_file, "C.UTF-8").await;
    if matches!(&made, Err(PostgresError::Initialise { message, .. }) if message.contains("locale")) {
        let again = place.prepare()?;
        made = initdb(place, binaries, credentials, &again, &password_file, "C").await;
    }
    let _ = fs::remove_file(&password_file);
    made?;
    Ok(place.settle(&building)?)
}

async fn initdb(
    place: &Place,
    binaries: &Binaries,
    credentials: &PostgresCredentials,
    building: &Path,
    password_file: &Path,
    locale: &str,
) -> Result<(), PostgresError> {
    let mut command = Command::new(binaries.initdb());
    command
        .arg("--pgdata")
        .arg(building)
        .arg("--pwfile")
        .arg(password_file)
        .args(["--username", &credentials.user, "--auth", "scram-sha-256"])
        .args(["--encoding", "UTF8", "--locale", locale, "--no-sync", "--no-instructions"])
        .stdin(Stdio::null());
    place.run_as(&mut command);
    let output = tokio::process::Command::from(command).kill_on_drop(true).output().await;
    let output = output.map_err(|source| PostgresError::Run { program: binaries.initdb(), source })?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(PostgresError::Initialise { path: building.to_owned(), message: gravest(&said) })
}

/// Starts the server as a child that is asked to stop when the thread that started it dies.
fn spawn(place: &Place, binaries: &Binaries, port: u16, log: File) -> Result<Child, PostgresError> {
    /// Modest, since it shares a laptop with the pipeline; and nothing that only replicas need.
    const SETTINGS: &[&str] = &[
        "listen_addresses=127.0.0.1",
        "unix_socket_directories=",
        "cluster_name=pinsched",
        "max_connections=100",
        "shared_buffers=64MB",
        "max_wal_size=256MB",
        "wal_level=minimal",
        "max_wal_senders=0",
        "jit=off",
        "log_destination=stderr",
        "logging_collector=off",
        "log_checkpoints=off",
        "log_timezone=UTC",
        "timezone=UTC",
    ];
    let run = |source| PostgresError::Run { program: binaries.postgres(), source };
    let mut command = Command::new(binaries.postgres());
    command.arg("-D").arg(&place.data).arg("-c").arg(format!("port={port}"));
    for setting in SETTINGS {
        command.args(["-c", setting]);
    }
    let stdout = log.try_clone().map_err(run)?;
    command.stdin(Stdio::null()).stdout(stdout).stderr(log).process_group(0);
    place.run_as(&mut command);
    // SAFETY: between fork and exec only async-signal-safe calls are allowed; this is one system call.
    #[expect(unsafe_code, reason = "std has no safe way to ask for a signal at the parent's death")]
    unsafe {
        command.pre_exec(|| Ok(set_parent_process_death_signal(Some(Signal::INT))?));
    }
    tokio::process::Command::from(command).spawn().map_err(run)
}

/// What the server said before it ended, out of its log.
fn ended(port: u16, log: &Path, start_of_log: u64) -> PostgresError {
    let mut said = String::new();
    if let Ok(mut file) = File::open(log) {
        let _ = file.seek(SeekFrom::Start(start_of_log));
        let _ = file.read_to_string(&mut said);
    }
    if said.contains("could not bind") || said.contains("could not create any TCP/IP sockets") {
        return PostgresError::PortTaken { port };
    }
    PostgresError::Ended { message: gravest(&said), log: log.to_owned() }
}

/// The line that matters of what a program of Postgres's said, without the time before it.
fn gravest(said: &str) -> String {
    let of = |line: &str| {
        let grave = ["PANIC:", "FATAL:", "error:"].iter().find_map(|grade| Some(line.split_once(grade)?.1));
        grave.map(|message| message.trim().to_owned())
    };
    let last = || said.lines().next_back().unwrap_or("it said nothing").to_owned();
    said.lines().find_map(of).unwrap_or_else(last)
}

async fn create_database(connection: &mut PgConnection, name: &'static str) -> Result<(), PostgresError> {
    let create = async {
        let exists = sqlx::query_scalar::<_, bool>("SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)")
            .bind(name)
            .fetch_one(&mut *connection)
            .await?;
        if !exists {
            let statement = sqlx::AssertSqlSafe(format!("CREATE DATABASE {name}"));
            sqlx::raw_sql(statement).execute(&mut *connection).await?;
        }
        Ok(())
    };
    let created = tokio::time::timeout(CREATE_LIMIT, create).await;
    let created = created.unwrap_or_else(|late| Err(sqlx::Error::Io(late.into())));
    created.map_err(|source| PostgresError::Create { name, source })
}

/// initdb's thousand files are synced by one call, which need not hold up the first run.
async fn sync_later(data: File) {
    /// The call writes out the whole file system; started at once, it would make the source tables wait for it.
    const AFTER: Duration = Duration::from_secs(3);
    tokio::time::sleep(AFTER).await;
    let synced = tokio::task::spawn_blocking(move || rustix::fs::syncfs(&data)).await;
    if !matches!(synced, Ok(Ok(()))) {
        tracing::warn!(?synced, "could not sync the new database cluster");
    }
}
