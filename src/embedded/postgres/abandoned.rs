//! Databases that lie outside of their homes, since a server could not reach these, and whose homes are gone.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use super::super::error::HomeError;
use super::account::{ELSEWHERE, OWNER};
use super::leftover::processes;

/// A database without a home.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AbandonedData {
    /// The folder that holds it.
    pub path: PathBuf,
    /// Where its home was.
    pub home: PathBuf,
    /// How much it holds.
    pub bytes: u64,
}

/// Finds them. One whose server runs is not among them; one whose home was moved, and has not been used since, is.
///
/// # Errors
/// When the folder of such databases cannot be read; that there is none is no error.
pub fn abandoned_data() -> Result<Vec<AbandonedData>, HomeError> {
    abandoned_below(Path::new(ELSEWHERE))
}

fn abandoned_below(folder: &Path) -> Result<Vec<AbandonedData>, HomeError> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(HomeError::io("read", folder)(error)),
    };
    let mut found: Vec<AbandonedData> = entries.flatten().filter_map(|entry| abandoned(&entry.path())).collect();
    found.sort_by(|one, other| one.path.cmp(&other.path));
    Ok(found)
}

fn abandoned(path: &Path) -> Option<AbandonedData> {
    let data = path.join("postgres");
    // What says nothing of a home is not ours to judge.
    let home = PathBuf::from(OsString::from_vec(fs::read(data.join(OWNER)).ok()?));
    let is_used = home.join("postgres").canonicalize().is_ok_and(|its| data.canonicalize().is_ok_and(|own| own == its));
    if is_used || !processes(&data).is_empty() {
        return None;
    }
    Some(AbandonedData { path: path.to_owned(), home, bytes: size(path) })
}

/// Links are not followed.
fn size(path: &Path) -> u64 {
    let Ok(metadata) = fs::symlink_metadata(path) else { return 0 };
    if !metadata.is_dir() {
        return metadata.len();
    }
    fs::read_dir(path).into_iter().flatten().flatten().map(|entry| size(&entry.path())).sum()
}

impl AbandonedData {
    /// Deletes it.
    ///
    /// # Errors
    /// When something of it cannot be deleted.
    pub fn delete(&self) -> Result<(), HomeError> {
        fs::remove_dir_all(&self.path).map_err(HomeError::io("delete", &self.path))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_database_is_abandoned_once_its_home_does_not_lead_to_it() {
        let scratch = tempfile::tempdir().unwrap();
        let (elsewhere, homes) = (scratch.path().join("elsewhere"), scratch.path().join("homes"));
        let home = |name: &str| homes.join(name);
        for name in ["used", "gone", "another", "stranger"] {
            let data = elsewhere.join(name).join("postgres");
            fs::create_dir_all(&data).unwrap();
            fs::create_dir_all(home(name)).unwrap();
            if name != "stranger" {
                fs::write(data.join(OWNER), home(name).as_os_str().as_bytes()).unwrap();
            }
        }
        symlink(elsewhere.join("used/postgres"), home("used").join("postgres")).unwrap();
        fs::remove_dir_all(home("gone")).unwrap();
        fs::create_dir(home("another").join("postgres")).unwrap(); // made anew, with data of its own
        let found = abandoned_below(&elsewhere).unwrap();
        let paths: Vec<_> = found.iter().map(|one| one.path.file_name().unwrap().to_str().unwrap()).collect();
        assert_eq!(paths, ["another", "gone"]);
        assert!(found.iter().all(|one| one.bytes > 0 && one.home.starts_with(&homes)));
        found[1].delete().unwrap();
        assert!(!elsewhere.join("gone").exists() && elsewhere.join("another").exists());
        assert_eq!(abandoned_below(&scratch.path().join("nowhere")).unwrap(), []);
    }
}
