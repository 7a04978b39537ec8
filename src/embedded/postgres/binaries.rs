//! Finds Postgres's server programs: where the settings say, else wherever distributions put them, the newest first.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::error::PostgresError;

/// `initdb` and `postgres` of one version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Binaries {
    /// The directory that holds them.
    pub(super) directory: PathBuf,
    /// Their major version.
    pub(super) major: u32,
}

impl Binaries {
    pub(super) fn initdb(&self) -> PathBuf {
        self.directory.join("initdb")
    }

    pub(super) fn postgres(&self) -> PathBuf {
        self.directory.join("postgres")
    }

    /// The programs in this directory, if they run.
    fn at(directory: &Path) -> Option<Self> {
        let postgres = directory.join("postgres");
        if !directory.join("initdb").is_file() || !postgres.is_file() {
            return None;
        }
        let output = Command::new(postgres).arg("--version").output().ok()?;
        let major = major(&String::from_utf8_lossy(&output.stdout))?;
        Some(Self { directory: directory.to_owned(), major })
    }
}

/// The programs for data of version `data` (any, when there is none yet).
pub(super) fn find(
    configured: Option<&Path>,
    search_path: &[PathBuf],
    data: Option<(&Path, u32)>,
) -> Result<Binaries, PostgresError> {
    if let Some(directory) = configured {
        let binaries = Binaries::at(directory);
        let binaries = binaries.ok_or_else(|| PostgresError::NotThere { directory: directory.to_owned() })?;
        return choose(vec![binaries], data);
    }
    let mut seen = BTreeSet::new();
    let fits = |binaries: &Binaries| data.is_none_or(|(_, major)| binaries.major == major);
    let mut found = Vec::new();
    for directory in candidates(search_path) {
        let directory = directory.canonicalize().unwrap_or(directory);
        if let Some(binaries) = seen.insert(directory.clone()).then(|| Binaries::at(&directory)).flatten() {
            if fits(&binaries) {
                return Ok(binaries);
            }
            found.push(binaries);
        }
    }
    choose(found, data)
}

/// A client program of Postgres's (`pg_dump`, say), from where the servers' programs are looked for, too.
pub(in crate::embedded) fn client(name: &str, configured: Option<&Path>, search_path: &[PathBuf]) -> Option<PathBuf> {
    let directories = configured.map(Path::to_owned).into_iter().chain(candidates(search_path));
    directories.map(|directory| directory.join(name)).find(|program| program.is_file())
}

fn choose(found: Vec<Binaries>, data: Option<(&Path, u32)>) -> Result<Binaries, PostgresError> {
    let versions: Vec<String> = found.iter().map(|binaries| binaries.major.to_string()).collect();
    let fitting = found.into_iter().find(|binaries| data.is_none_or(|(_, major)| binaries.major == major));
    fitting.ok_or_else(|| match data {
        Some((path, data)) if !versions.is_empty() => {
            PostgresError::Version { path: path.to_owned(), data, found: versions.join(", ") }
        }
        _ => PostgresError::NotInstalled,
    })
}

/// Where the programs may be, best first. Asked for one by one: looking into a directory costs nothing, running costs.
fn candidates(search_path: &[PathBuf]) -> impl Iterator<Item = PathBuf> + use<'_> {
    let mut debian: Vec<(u32, PathBuf)> = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .filter_map(|entry| {
            let entry = entry.ok()?;
            Some((entry.file_name().to_str()?.parse().ok()?, entry.path().join("bin")))
        })
        .collect();
    debian.sort_by_key(|(major, _)| std::cmp::Reverse(*major));
    let asked = std::iter::once_with(|| {
        let output = Command::new("pg_config").arg("--bindir").output().ok()?;
        Some(PathBuf::from(String::from_utf8(output.stdout).ok()?.trim()))
    });
    search_path
        .iter()
        .cloned()
        .chain(debian.into_iter().map(|(_, directory)| directory))
        .chain(["/usr/local/pgsql/bin", "/usr/pgsql/bin"].map(PathBuf::from))
        .chain(asked.flatten())
}

/// `15` of `postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)`, `19` of `postgres (PostgreSQL) 19beta1`.
fn major(version: &str) -> Option<u32> {
    let number = version.split_once("(PostgreSQL)")?.1.trim_start();
    let digits = number.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(number.len());
    number[..digits].parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_major_version_is_read_from_what_the_program_says() {
        assert_eq!(major("postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)\n"), Some(15));
        assert_eq!(major("postgres (PostgreSQL) 18.6\n"), Some(18));
        assert_eq!(major("postgres (PostgreSQL) 19beta1\n"), Some(19));
        assert_eq!(major("command not found"), None);
    }

    #[test]
    fn a_directory_without_the_programs_is_named() {
        let error = find(Some(Path::new("/nonexistent")), &[], None).unwrap_err();
        assert_eq!(error.to_string(), "postgres.bin is /nonexistent, which has no initdb and postgres that can be run");
    }

    #[test]
    fn data_of_another_version_names_both() {
        let here = Binaries { directory: "/usr/lib/postgresql/15/bin".into(), major: 15 };
        let error = choose(vec![here], Some((Path::new("/home/me/.pinsched/postgres"), 14))).unwrap_err();
        insta::assert_snapshot!(error, @"the data in /home/me/.pinsched/postgres was made by PostgreSQL 14, and this machine has 15: install version 14 (on Debian: apt-get install postgresql-14) or name its programs by PINSCHED_POSTGRES_BIN; to start empty, move the data away");
    }
}
