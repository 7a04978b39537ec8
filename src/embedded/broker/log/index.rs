//! The sparse index of one segment: where to begin looking for an offset or a time, and which transactions were aborted
//! in it. Held in memory; its file only saves a scan at the next start, so a missing, stale or damaged one is no loss.

use std::fs;
use std::path::Path;

use bytes::{Buf, BufMut};

use super::batch::BatchHeader;
use super::producers::Aborted;

const MAGIC: &[u8; 8] = b"pinsidx1";
const ENTRY_BYTES: usize = 16;
const ABORTED_BYTES: usize = 32;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Entry {
    relative_offset: u32,
    position: u32,
    /// The latest timestamp of everything before this position.
    latest_before: i64,
}

/// The sparse index of one segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SparseIndex {
    base_offset: i64,
    entries: Vec<Entry>,
    /// The latest timestamp of any record in the segment; -1 if there is none.
    pub(crate) latest: i64,
    /// Transactions whose abort marker is in this segment, in the order of the markers.
    pub(crate) aborted: Vec<Aborted>,
}

impl SparseIndex {
    pub(crate) fn new(base_offset: i64) -> Self {
        Self { base_offset, entries: Vec::new(), latest: -1, aborted: Vec::new() }
    }

    /// Takes note of a batch; they come in the order of their positions.
    pub(crate) fn note(&mut self, position: u64, header: &BatchHeader, interval: u64) {
        let due = self.entries.last().is_none_or(|last| position - u64::from(last.position) >= interval);
        let place = (u32::try_from(header.base_offset - self.base_offset), u32::try_from(position));
        if let (true, (Ok(relative_offset), Ok(position))) = (due, place) {
            self.entries.push(Entry { relative_offset, position, latest_before: self.latest });
        }
        if !header.is_control() {
            self.latest = self.latest.max(header.max_timestamp);
        }
    }

    /// A position at or before the batch that holds `offset`.
    pub(crate) fn position_of(&self, offset: i64) -> u64 {
        let after = self.entries.partition_point(|e| self.base_offset + i64::from(e.relative_offset) <= offset);
        self.position_before(after)
    }

    /// A position at or before the first batch with a record at or after `timestamp`.
    pub(crate) fn position_of_time(&self, timestamp: i64) -> u64 {
        self.position_before(self.entries.partition_point(|e| e.latest_before < timestamp))
    }

    fn position_before(&self, after: usize) -> u64 {
        after.checked_sub(1).map_or(0, |at| u64::from(self.entries[at].position))
    }

    /// Writes the index of a log of `log_bytes`. Not synced: a torn one is recognised by its checksum.
    pub(crate) fn save(&self, path: &Path, log_bytes: u64) -> std::io::Result<()> {
        let mut out = Vec::with_capacity(64 + self.entries.len() * ENTRY_BYTES + self.aborted.len() * ABORTED_BYTES);
        out.put_slice(MAGIC);
        out.put_u64(log_bytes);
        out.put_i64(self.latest);
        out.put_u32(self.entries.len() as u32);
        for entry in &self.entries {
            out.put_u32(entry.relative_offset);
            out.put_u32(entry.position);
            out.put_i64(entry.latest_before);
        }
        out.put_u32(self.aborted.len() as u32);
        for aborted in &self.aborted {
            out.put_i64(aborted.producer_id);
            out.put_i64(aborted.first_offset);
            out.put_i64(aborted.last_offset);
            out.put_i64(aborted.stable_offset);
        }
        out.put_u32(crc32c::crc32c(&out));
        fs::write(path, out)
    }

    /// Reads the index of a log of exactly `log_bytes`; nothing if the file is not that.
    pub(crate) fn load(path: &Path, base_offset: i64, log_bytes: u64) -> Option<Self> {
        let bytes = fs::read(path).ok()?;
        let (body, crc) = bytes.split_at_checked(bytes.len().checked_sub(4)?)?;
        if crc32c::crc32c(body).to_be_bytes() != crc {
            return None;
        }
        let mut body = body.strip_prefix(MAGIC)?;
        if body.try_get_u64().ok()? != log_bytes {
            return None;
        }
        let mut index = Self::new(base_offset);
        index.latest = body.try_get_i64().ok()?;
        for _ in 0..body.try_get_u32().ok()? {
            index.entries.push(Entry {
                relative_offset: body.try_get_u32().ok()?,
                position: body.try_get_u32().ok()?,
                latest_before: body.try_get_i64().ok()?,
            });
        }
        for _ in 0..body.try_get_u32().ok()? {
            index.aborted.push(Aborted {
                producer_id: body.try_get_i64().ok()?,
                first_offset: body.try_get_i64().ok()?,
                last_offset: body.try_get_i64().ok()?,
                stable_offset: body.try_get_i64().ok()?,
            });
        }
        Some(index)
    }
}

#[cfg(test)]
mod tests {
    use super::super::batch::{Outcome, marker};
    use super::*;

    fn sample() -> SparseIndex {
        let mut index = SparseIndex::new(1_000);
        let mut header = BatchHeader::parse(&marker(1, 0, Outcome::Abort, 0)).unwrap();
        header.attributes = 0;
        for n in 0..100 {
            header.base_offset = 1_000 + n;
            header.max_timestamp = if n == 50 { 9_999 } else { n };
            index.note(n as u64 * 100, &header, 1_000);
        }
        index.aborted.push(Aborted { producer_id: 1, first_offset: 2, last_offset: 3, stable_offset: 4 });
        index
    }

    #[test]
    fn it_points_at_or_before_what_is_sought() {
        let index = sample();
        assert_eq!(index.entries.len(), 10);
        assert_eq!(index.position_of(1_000), 0);
        assert_eq!(index.position_of(1_009), 0);
        assert_eq!(index.position_of(1_010), 1_000);
        assert_eq!(index.position_of(5_000), 9_000);
        assert_eq!(index.position_of_time(0), 0);
        assert_eq!(index.position_of_time(15), 1_000);
        assert_eq!(index.position_of_time(60), 5_000, "the record out of order hides what comes later");
    }

    #[test]
    fn only_the_very_index_of_the_log_is_loaded() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.index");
        let index = sample();
        assert_eq!(SparseIndex::load(&path, 1_000, 10_000), None);
        index.save(&path, 10_000).unwrap();
        assert_eq!(SparseIndex::load(&path, 1_000, 10_000), Some(index));
        assert_eq!(SparseIndex::load(&path, 1_000, 10_001), None);
        let whole = fs::read(&path).unwrap();
        for length in 0..whole.len() {
            fs::write(&path, &whole[..length]).unwrap();
            assert_eq!(SparseIndex::load(&path, 1_000, 10_000), None, "{length} bytes");
        }
    }
}
