//! Whom the server runs as, and where its data may lie so that this user can reach it.
//!
//! Postgres refuses to run as root. As root its programs run as the owner of the data or, for new data, as `postgres`
//! or `nobody`; a home that such a user cannot reach, as below `/root`, keeps its data under `/var/lib/pinsched`, with
//! a symbolic link where it would have been. Data that lies outside of its home says whose it is: a copy of the home has
//! the link as well, and two servers on one database would be the end of it.

use std::ffi::OsString;
use std::fs::{self, DirBuilder, Permissions};
use std::io::{self, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Gid, Uid};
use rustix::process::geteuid;
use sha2::{Digest, Sha256};

use super::super::error::HomeError;
use super::super::home::Home;
use super::error::PostgresError;

/// Where the data lies when its home cannot be reached.
pub(super) const ELSEWHERE: &str = "/var/lib/pinsched";
/// The file in data outside of its home that holds the path of that home.
pub(super) const OWNER: &str = "pinsched.home";

/// The user that Postgres's programs run as, when that is not the user of this process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Account {
    name: String,
    uid: u32,
    gid: u32,
}

/// A data directory, and whom it belongs to.
#[derive(Debug)]
pub(super) struct Place {
    /// The directory that holds the data, or will.
    pub(super) data: PathBuf,
    /// The user to run as, if it is another.
    pub(super) account: Option<Account>,
    /// Where a link to the data goes, if it lies elsewhere.
    link: Option<PathBuf>,
}

impl Place {
    /// Finds the data of this home, or where it shall be.
    pub(super) fn find(home: &Home) -> Result<Self, PostgresError> {
        let path = home.path().join("postgres");
        match path.canonicalize() {
            Ok(data) => Self::existing(home, data),
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(HomeError::io("open", path)(error).into()),
            Err(_) => match fs::read_link(&path) {
                // An empty database in its place would not know of the topics and objects that the home still has.
                Ok(data) => Err(PostgresError::Gone { link: path, data, home: home.path().to_owned() }),
                Err(_) => Self::fresh(home, path),
            },
        }
    }

    fn existing(home: &Home, data: PathBuf) -> Result<Self, PostgresError> {
        if let Some(owner) = other_owner(home, &data) {
            return Err(PostgresError::Copied { home: home.path().to_owned(), data, owner });
        }
        let owner = fs::metadata(&data).map_err(HomeError::io("open", &data))?;
        let me = geteuid();
        let account = if owner.uid() == me.as_raw() {
            None
        } else if me.is_root() {
            let name = accounts().into_iter().find(|account| account.uid == owner.uid());
            let name = name.map_or_else(|| owner.uid().to_string(), |account| account.name);
            Some(Account { name, uid: owner.uid(), gid: owner.gid() })
        } else {
            return Err(PostgresError::Foreign { path: data, owner: owner.uid() });
        };
        if let Some(account) = &account {
            account.must_reach(&data)?;
        }
        Ok(Self { data, account, link: None })
    }

    fn fresh(home: &Home, path: PathBuf) -> Result<Self, PostgresError> {
        if !geteuid().is_root() {
            return Ok(Self { data: path, account: None, link: None });
        }
        let all = accounts();
        let account = ["postgres", "nobody"].iter().find_map(|name| all.iter().find(|account| account.name == *name));
        let account = account.ok_or(PostgresError::NoAccount)?.clone();
        if account.reaches(home.path()) {
            return Ok(Self { data: path, account: Some(account), link: None });
        }
        // A home of the same name may have been deleted, or moved with its link: a new one never takes its data.
        let name = format!("{}-{:08x}", digest(home.path()), rand::random::<u32>());
        let data = Path::new(ELSEWHERE).join(name).join("postgres");
        tracing::info!(data = %data.display(), "user {} cannot reach {}", account.name, home.path().display());
        Ok(Self { data, account: Some(account), link: Some(path) })
    }

    /// Makes an empty directory beside the data's own, which becomes it by [`Place::settle`] once it is whole.
    pub(super) fn prepare(&self) -> Result<PathBuf, HomeError> {
        let parent = self.data.parent().unwrap_or(Path::new("/"));
        let mut builder = DirBuilder::new();
        builder.recursive(true).mode(0o711).create(parent).map_err(HomeError::io("create", parent))?;
        let building = self.data.with_extension("new");
        if building.exists() {
            // A kill came while initdb ran.
            fs::remove_dir_all(&building).map_err(HomeError::io("remove", &building))?;
        }
        DirBuilder::new().mode(0o700).create(&building).map_err(HomeError::io("create", &building))?;
        self.give(&building)?;
        Ok(building)
    }

    /// Gives a file or folder to the user that the server runs as.
    pub(super) fn give(&self, path: &Path) -> Result<(), HomeError> {
        let Some(account) = &self.account else { return Ok(()) };
        rustix::fs::chown(path, Some(Uid::from_raw(account.uid)), Some(Gid::from_raw(account.gid)))
            .map_err(|errno| HomeError::io("change the owner of", path)(errno.into()))
    }

    /// The directory that was prepared is whole: puts it in its place.
    pub(super) fn settle(&self, building: &Path) -> Result<(), HomeError> {
        fs::rename(building, &self.data).map_err(HomeError::io("create", &self.data))?;
        if let Some(link) = &self.link {
            let _ = fs::remove_file(link);
            symlink(&self.data, link).map_err(HomeError::io("create", link))?;
            let base = self.data.parent().unwrap_or(Path::new(ELSEWHERE));
            for folder in [Path::new(ELSEWHERE), base] {
                fs::set_permissions(folder, Permissions::from_mode(0o711)).map_err(HomeError::io("protect", folder))?;
            }
        }
        Ok(())
    }

    /// Writes down whose the data is, where it lies outside of its home. Called before a server is started on it.
    pub(super) fn claim(&self, home: &Home) -> Result<(), HomeError> {
        let data = self.data.canonicalize().map_err(HomeError::io("open", &self.data))?;
        if data.starts_with(home.path()) {
            return Ok(());
        }
        // By a rename: the folder is another user's, who might have put a link there for root to write through.
        let written = (|| {
            let mut file = tempfile::NamedTempFile::new_in(&data)?;
            file.write_all(home.path().as_os_str().as_bytes())?;
            file.persist(data.join(OWNER))?;
            Ok(())
        })();
        written.map_err(HomeError::io("write", data.join(OWNER)))
    }

    /// Lets a program run as the user, from a directory that everyone can be in, and speak the language in which its
    /// messages are looked through.
    pub(super) fn run_as(&self, command: &mut std::process::Command) {
        command.current_dir("/").env("LC_ALL", "C");
        if let Some(account) = &self.account {
            command.uid(account.uid).gid(account.gid);
        }
    }

    /// The programs must be within the user's reach too.
    pub(super) fn must_reach(&self, path: &Path) -> Result<(), PostgresError> {
        self.account.as_ref().map_or(Ok(()), |account| account.must_reach(path))
    }
}

impl Account {
    fn must_reach(&self, path: &Path) -> Result<(), PostgresError> {
        if self.reaches(path) {
            Ok(())
        } else {
            Err(PostgresError::Unreachable { user: self.name.clone(), path: path.to_owned() })
        }
    }

    /// Whether the user may pass every folder down to this one.
    fn reaches(&self, path: &Path) -> bool {
        path.ancestors().all(|folder| {
            fs::metadata(folder).is_ok_and(|folder| {
                let bit = if folder.uid() == self.uid {
                    0o100
                } else if folder.gid() == self.gid {
                    0o010
                } else {
                    0o001
                };
                folder.mode() & bit != 0
            })
        })
    }
}

/// The home that this data belongs to, if it is another than this one and still has it.
fn other_owner(home: &Home, data: &Path) -> Option<PathBuf> {
    if data.starts_with(home.path()) {
        return None;
    }
    let owner = PathBuf::from(OsString::from_vec(fs::read(data.join(OWNER)).ok()?));
    let still_has_it = || owner.join("postgres").canonicalize().is_ok_and(|its| its == data);
    (owner != home.path() && still_has_it()).then_some(owner)
}

/// The machine's own users.
fn accounts() -> Vec<Account> {
    let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
    passwd.lines().filter_map(account).collect()
}

/// One line of `/etc/passwd`.
fn account(line: &str) -> Option<Account> {
    let mut fields = line.split(':');
    let name = fields.next()?.to_owned();
    let (uid, gid) = (fields.nth(1)?.parse().ok()?, fields.next()?.parse().ok()?);
    Some(Account { name, uid, gid })
}

/// A short name for a path.
fn digest(path: &Path) -> String {
    let hash = Sha256::digest(path.as_os_str().as_encoded_bytes());
    hash.iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_passwd_is_an_account() {
        let expected = Account { name: "postgres".into(), uid: 101, gid: 104 };
        assert_eq!(
            account("postgres:x:101:104:PostgreSQL administrator,,,:/var/lib/postgresql:/bin/bash"),
            Some(expected)
        );
        assert_eq!(account("# a comment"), None);
    }
}
