//! Producer state on disk, so that a start replays one segment's headers and not the whole log. A snapshot named `n` holds
//! what all batches below offset `n` left; a damaged one is passed over for an older one.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::producers::Producers;

const EXTENSION: &str = "producers";

fn path_of(dir: &Path, offset: i64) -> PathBuf {
    dir.join(format!("{offset:020}.{EXTENSION}"))
}

/// Writes the snapshot at `offset`. Not synced: a torn one is recognised by its checksum.
pub(crate) fn save(dir: &Path, offset: i64, producers: &Producers) -> io::Result<()> {
    let json = serde_json::to_vec(producers)?;
    let mut bytes = crc32c::crc32c(&json).to_be_bytes().to_vec();
    bytes.extend_from_slice(&json);
    fs::write(path_of(dir, offset), bytes)
}

/// The newest readable snapshot at or below `limit`, else the empty state before offset `start`.
pub(crate) fn load(dir: &Path, start: i64, limit: i64) -> io::Result<(i64, Producers)> {
    let mut offsets = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let stem = path.file_stem().and_then(|stem| stem.to_str()).and_then(|stem| stem.parse::<i64>().ok());
        if let (Some(offset), Some(EXTENSION)) = (stem, path.extension().and_then(|e| e.to_str())) {
            offsets.push(offset);
        }
    }
    offsets.sort_unstable();
    for offset in offsets.into_iter().rev().filter(|offset| *offset <= limit) {
        if let Some(producers) = read(&path_of(dir, offset)) {
            return Ok((offset, producers));
        }
    }
    Ok((start, Producers::default()))
}

/// Removes the snapshots above `low` and below `high`, neither included.
pub(crate) fn remove_between(dir: &Path, low: i64, high: i64) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let stem = path.file_stem().and_then(|stem| stem.to_str()).and_then(|stem| stem.parse::<i64>().ok());
        if path.extension().and_then(|e| e.to_str()) == Some(EXTENSION) && stem.is_some_and(|at| low < at && at < high)
        {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}

fn read(path: &Path) -> Option<Producers> {
    let bytes = fs::read(path).ok()?;
    let (crc, json) = bytes.split_at_checked(4)?;
    if crc32c::crc32c(json).to_be_bytes() != crc {
        return None;
    }
    serde_json::from_slice(json).ok()
}
