//! Records that are old, deleted as Kafka's own retention does: by whole segments, from the beginning of a partition on.
//! The last segment stays. Nothing may have the directory open meanwhile.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::error::BrokerError;
use super::log::segment::log_path;

/// What is old.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Expired {
    /// Partitions that have such segments.
    pub partitions: u64,
    /// So many segments.
    pub segments: u64,
    /// How much they hold.
    pub bytes: u64,
}

/// What is to be done about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expiry {
    /// Only to tell.
    Tell,
    /// To delete it.
    Delete,
}

/// Finds the segments below a broker's directory that were last written to before that, and deletes them if asked to. A
/// partition begins with its first segment that stays: whoever wants an earlier record is told that it is not there.
pub(in crate::embedded) fn expire(data: &Path, before: SystemTime, what: Expiry) -> Result<Expired, BrokerError> {
    let mut all = Expired::default();
    for topic in folders(&data.join("topics"))? {
        for partition in folders(&topic)? {
            let old = old_segments(&partition, before).map_err(BrokerError::io("list", &partition))?;
            all.partitions += u64::from(!old.is_empty());
            for (base, bytes) in old {
                all.segments += 1;
                all.bytes += bytes;
                if what == Expiry::Delete {
                    remove(&partition, base).map_err(BrokerError::io("delete a segment in", &partition))?;
                }
            }
        }
    }
    Ok(all)
}

/// The oldest first: one that is deleted leaves no gap, whenever this is cut short.
fn old_segments(partition: &Path, before: SystemTime) -> io::Result<Vec<(i64, u64)>> {
    let mut segments = Vec::new();
    for entry in fs::read_dir(partition)? {
        let path = entry?.path();
        let is_log = path.extension().is_some_and(|extension| extension == "log");
        let base = path.file_stem().and_then(|stem| stem.to_str()?.parse::<i64>().ok()).filter(|_| is_log);
        if let Some(base) = base {
            let metadata = fs::metadata(&path)?;
            segments.push((base, metadata.len(), metadata.modified()?));
        }
    }
    segments.sort_unstable_by_key(|(base, ..)| *base);
    // The one that is written to stays, also where an empty one has just been begun behind it.
    let last = segments.iter().rposition(|(_, bytes, _)| *bytes > 0).unwrap_or(0);
    let old = segments.into_iter().take(last).take_while(|(_, _, written)| *written < before);
    Ok(old.map(|(base, bytes, _)| (base, bytes)).collect())
}

/// The log is removed last: what lies beside it means nothing without it.
fn remove(partition: &Path, base: i64) -> io::Result<()> {
    let log = log_path(partition, base);
    for beside in ["index", "producers"] {
        match fs::remove_file(log.with_extension(beside)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
    }
    fs::remove_file(log)
}

fn folders(path: &Path) -> Result<Vec<PathBuf>, BrokerError> {
    let entries = match fs::read_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(BrokerError::io("list", path))?,
    };
    let mut folders: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).filter(|path| path.is_dir()).collect();
    folders.sort();
    Ok(folders)
}
