//! The home on disk: what lies where, who may write, and the passwords and ports that are chosen once.
//!
//! `postgres/`, `kafka/`, `s3/`: the data. `credentials.json`: passwords and ports, chosen once and kept.
//! `stack.json`: how to reach the process that serves the home; rewritten whenever a part became ready, gone when the
//! process ended cleanly. `stack.lock`: locked by that process for as long as it lives, so a file left behind by a kill
//! means nothing. `stack.log`, `postgres.log`: what they said, the last of it and, as `….log.1`, what was
//! before.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io::{self, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::component::Component;
use super::error::HomeError;

/// A folder that is there and may be written.
#[derive(Debug, Clone)]
pub struct Home {
    path: PathBuf,
}

/// The right to serve a home; the system takes it back when the process ends, however it ends.
#[derive(Debug)]
pub(super) struct Lock {
    file: File,
    path: PathBuf,
}

impl Lock {
    /// Whether the home is still where it was. One that was removed or moved, or made anew in its place, is no longer
    /// the one that this lock is for.
    pub(super) fn is_in_place(&self) -> bool {
        match (self.file.metadata(), fs::metadata(&self.path)) {
            (Ok(own), Ok(there)) => (own.dev(), own.ino()) == (there.dev(), there.ino()),
            (_, Err(error)) => !matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory),
            (Err(_), Ok(_)) => true,
        }
    }
}

/// Moves what a log has into the file beside it, once it is large. Those who write to it append, and go on in the empty
/// file; what they write between the two steps is lost, which a log of ours can bear.
fn bound(log: &Path) -> io::Result<()> {
    /// Enough to see the last days, little enough to open in an editor.
    const LARGE: u64 = 10 << 20;
    match fs::metadata(log) {
        Ok(metadata) if metadata.len() > LARGE => {
            fs::copy(log, log.with_extension("log.1"))?;
            OpenOptions::new().write(true).open(log)?.set_len(0)
        }
        _ => Ok(()),
    }
}

impl Home {
    /// Makes the folder where it is missing. As root it may be passed through by others, since Postgres refuses to run
    /// as root; what lies in it stays closed to them.
    pub fn open(path: &Path) -> Result<Self, HomeError> {
        if !path.is_dir() {
            DirBuilder::new()
                .recursive(true)
                .mode(0o755)
                .create(path)
                .map_err(HomeError::io("create the home", path))?;
            let mode = if rustix::process::geteuid().is_root() { 0o711 } else { 0o700 };
            fs::set_permissions(path, Permissions::from_mode(mode)).map_err(HomeError::io("protect", path))?;
            // Kept out of the version control of whoever calls `git add .` beside it.
            let ignore = path.join(".gitignore");
            fs::write(&ignore, "*\n").map_err(HomeError::io("write", &ignore))?;
        }
        let path = path.canonicalize().map_err(HomeError::io("open the home", path))?;
        Ok(Self { path })
    }

    /// The folder, absolute and without symbolic links.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where the stack's process writes its log.
    #[must_use]
    pub fn log(&self) -> PathBuf {
        self.path.join("stack.log")
    }

    pub(super) fn postgres_log(&self) -> PathBuf {
        self.path.join("postgres.log")
    }

    /// A folder for one server's data, closed to others.
    pub(super) fn folder(&self, name: &str) -> Result<PathBuf, HomeError> {
        let path = self.path.join(name);
        DirBuilder::new().recursive(true).mode(0o700).create(&path).map_err(HomeError::io("create", &path))?;
        Ok(path)
    }

    /// Takes the right to serve this home, or none where another process has it.
    pub(super) fn lock(&self) -> Result<Option<Lock>, HomeError> {
        let path = self.path.join("stack.lock");
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&path)
            .map_err(HomeError::io("open", &path))?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Lock { file, path })),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(source)) => Err(HomeError::Io { action: "lock", path, source }),
        }
    }

    /// Whether a process has that right now. Asking takes it for an instant, in which another would find it taken.
    pub(super) fn is_served(&self) -> Result<bool, HomeError> {
        Ok(self.lock()?.is_none())
    }

    /// Opens a log to append to, whatever is taken away from it meanwhile.
    pub(super) fn open_log(&self, path: &Path) -> Result<File, HomeError> {
        bound(path).map_err(HomeError::io("shorten", path))?;
        let opened = OpenOptions::new().create(true).mode(0o600).append(true).open(path);
        opened.map_err(HomeError::io("open", path))
    }

    /// Keeps the logs from growing without end.
    pub(super) fn bound_logs(&self) -> Result<(), HomeError> {
        let logs = [self.log(), self.postgres_log()];
        logs.iter().try_for_each(|log| bound(log).map_err(HomeError::io("shorten", log)))
    }

    /// The passwords and ports of this home, chosen at its first use.
    pub(super) fn credentials(&self) -> Result<Credentials, HomeError> {
        let path = self.path.join("credentials.json");
        if let Some(credentials) = read_json(&path)? {
            return Ok(credentials);
        }
        if self.path.join("postgres").symlink_metadata().is_ok() {
            return Err(HomeError::NoCredentials { path });
        }
        let credentials = Credentials {
            postgres: PostgresCredentials { user: "pinsched".into(), password: secret(), port: free_port()? },
            kafka: KafkaCredentials { username: "pinsched".into(), password: secret(), port: free_port()? },
            s3: S3Credentials { access_key_id: secret(), secret_access_key: secret(), port: free_port()? },
        };
        self.keep(&credentials)?;
        Ok(credentials)
    }

    pub(super) fn keep(&self, credentials: &Credentials) -> Result<(), HomeError> {
        write_json(&self.path.join("credentials.json"), credentials)
    }

    /// What the process that serves this home wrote down; it may be long gone.
    pub(super) fn stack_file(&self) -> Result<Option<StackFile>, HomeError> {
        match read_json(&self.path.join("stack.json")) {
            // Whether a process serves the home says its lock alone; a new one writes the file anew.
            Err(HomeError::Damaged { .. }) => Ok(None),
            read => read,
        }
    }

    /// Who serves this home, in words: what the process that has the lock wrote down, if it is so far.
    pub(super) fn holder(&self) -> String {
        match self.stack_file() {
            Ok(Some(StackFile { pid, host, version, .. })) => format!("process {pid} on {host} (pinsched {version})"),
            _ => "another process".to_owned(),
        }
    }

    pub(super) fn write_stack_file(&self, file: &StackFile) -> Result<(), HomeError> {
        write_json(&self.path.join("stack.json"), file)
    }

    pub(super) fn remove_stack_file(&self) -> Result<(), HomeError> {
        let path = self.path.join("stack.json");
        match fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(HomeError::Io { action: "remove", path, source })
            }
            _ => Ok(()),
        }
    }
}

/// Passwords and ports.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Credentials {
    pub(super) postgres: PostgresCredentials,
    pub(super) kafka: KafkaCredentials,
    pub(super) s3: S3Credentials,
}

#[derive(Clone, Serialize, Deserialize)]
pub(super) struct PostgresCredentials {
    pub(super) user: String,
    pub(super) password: String,
    pub(super) port: u16,
}

#[derive(Clone, Serialize, Deserialize)]
pub(super) struct KafkaCredentials {
    pub(super) username: String,
    pub(super) password: String,
    pub(super) port: u16,
}

#[derive(Clone, Serialize, Deserialize)]
pub(super) struct S3Credentials {
    pub(super) access_key_id: String,
    pub(super) secret_access_key: String,
    pub(super) port: u16,
}

/// How to reach the process that serves a home.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct StackFile {
    pub(super) pid: i32,
    /// The machine or the container in which that number means something.
    #[serde(default)]
    pub(super) host: String,
    pub(super) version: String,
    pub(super) control: String,
    pub(super) token: String,
    pub(super) urls: StackUrls,
}

/// Where the parts that are ready can be reached, with their passwords: for the user's own eyes and clients.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StackUrls {
    /// The database of pinsched's own state.
    pub database_url: Option<String>,
    /// `host:port` of the Kafka broker.
    pub kafka_bootstrap_servers: Option<String>,
    /// What a client of it must set, in librdkafka's names.
    #[serde(default)]
    pub kafka_properties: BTreeMap<String, String>,
    /// The object store.
    pub s3: Option<S3Urls>,
    /// The source database.
    pub source_url: Option<String>,
}

/// The embedded object store.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct S3Urls {
    /// Its URL; buckets are the first part of the path.
    pub endpoint_url: String,
    /// Its only access key.
    pub access_key_id: String,
    /// That key's secret.
    pub secret_access_key: String,
}

impl StackUrls {
    /// Whether both name the same place for this part.
    pub(super) fn agree(&self, other: &Self, component: Component) -> bool {
        match component {
            Component::Postgres => self.database_url == other.database_url,
            Component::Kafka => {
                self.kafka_bootstrap_servers == other.kafka_bootstrap_servers
                    && self.kafka_properties == other.kafka_properties
            }
            Component::S3 => self.s3 == other.s3,
            Component::Source => self.source_url == other.source_url,
        }
    }
}

impl std::fmt::Debug for StackUrls {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("StackUrls(with secrets)")
    }
}

impl std::fmt::Debug for S3Urls {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("S3Urls").field("endpoint_url", &self.endpoint_url).finish_non_exhaustive()
    }
}

/// The name of this machine, or of this container.
pub(super) fn host() -> String {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    if name.trim().is_empty() { "an unknown host".to_owned() } else { name.trim().to_owned() }
}

/// 128 bits of the operating system's randomness, in hexadecimal.
pub(super) fn secret() -> String {
    format!("{:032x}", rand::random::<u128>())
}

/// A port that nobody has now. Below the ports that the system lends to outgoing connections, so that it stays free
/// while the stack is down.
pub(super) fn free_port() -> Result<u16, HomeError> {
    const TRIES: usize = 50;
    let lucky = std::iter::repeat_with(|| rand::random_range(17_000..32_000)).take(TRIES).find(|port| is_free(*port));
    match lucky {
        Some(port) => Ok(port),
        None => TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .and_then(|listener| listener.local_addr())
            .map(|address| address.port())
            .map_err(HomeError::NoPort),
    }
}

/// Whether the port could be had just now.
pub(super) fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}

fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<Option<T>, HomeError> {
    match fs::read(path) {
        Ok(content) => serde_json::from_slice(&content)
            .map(Some)
            .map_err(|source| HomeError::Damaged { path: path.to_owned(), source }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(HomeError::Io { action: "read", path: path.to_owned(), source }),
    }
}

/// All of it or nothing, readable by its owner alone, on disk when this returns.
fn write_json(path: &Path, value: &impl Serialize) -> Result<(), HomeError> {
    let fresh = path.with_extension("json.new");
    let content =
        serde_json::to_vec_pretty(value).map_err(|source| HomeError::Damaged { path: path.to_owned(), source })?;
    let written = (|| {
        let mut file = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&fresh)?;
        file.write_all(&content)?;
        file.sync_all()?;
        fs::rename(&fresh, path)?;
        path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
    })();
    written.map_err(HomeError::io("write", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_that_has_grown_large_is_moved_aside_under_its_writer() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::open(&folder.path().join("home")).unwrap();
        let mut log = home.open_log(&home.log()).unwrap();
        log.write_all(&vec![b'x'; (10 << 20) + 1]).unwrap();
        home.bound_logs().unwrap();
        log.write_all(b"next\n").unwrap();
        home.bound_logs().unwrap();
        assert_eq!(fs::read_to_string(home.log()).unwrap(), "next\n");
        assert_eq!(fs::metadata(home.path().join("stack.log.1")).unwrap().len(), (10 << 20) + 1);
    }
}
