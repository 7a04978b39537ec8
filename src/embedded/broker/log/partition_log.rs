//! The log of one partition as a value: its segments, its end, its producers. Every method is blocking and wants the
//! owner's lock; reads hand out slices that are read after the lock is released.

use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use super::batch::{BatchHeader, marker_outcome};
use super::cursor::{Cursor, Slice, Step, read_batch};
use super::producers::{Aborted, Producers};
use super::records::{Found, first_at_or_after};
use super::segment::Segment;
use super::snapshot;
use crate::embedded::broker::group_commit::Disk;

/// Sizes that shape a log.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LogLimits {
    pub(crate) segment_bytes: u64,
    pub(crate) index_interval_bytes: u64,
    pub(crate) max_producers: usize,
}

/// Why a batch was not appended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AppendError {
    /// Nothing has changed; the next batch may succeed.
    #[error("could not write a batch")]
    NotWritten(#[from] io::Error),
    /// What was appended before may be lost, and the log must take nothing more.
    #[error("could not sync a segment that is full")]
    NotSynced(#[source] io::Error),
}

/// Index positions are 32-bit; a segment with one batch too many must still fit.
const LARGEST_SEGMENT: u64 = 2 << 30;

/// The log of one partition. There is always at least one segment; the last one is written to.
#[derive(Debug)]
pub(crate) struct PartitionLog {
    pub(super) dir: PathBuf,
    pub(super) limits: LogLimits,
    pub(super) segments: Vec<Segment>,
    pub(super) next_offset: i64,
    pub(super) producers: Producers,
}

impl PartitionLog {
    /// Appends a verified batch and tells its header with the offset it got. Not durable before [`Self::unsynced`] is
    /// synced. After an error nothing was appended.
    pub(crate) fn append(
        &mut self,
        header: &BatchHeader,
        bytes: &[u8],
        disk: &dyn Disk,
    ) -> Result<BatchHeader, AppendError> {
        let header = header.at(self.next_offset);
        self.roll_if_full(&header, disk)?;
        let interval = self.limits.index_interval_bytes;
        self.active_mut().append(&header, bytes, interval)?;
        self.next_offset = header.next_offset();
        if let Some(aborted) = note_producer(&mut self.producers, &header, bytes) {
            self.active_mut().index.aborted.push(aborted);
        }
        self.producers.shrink(self.limits.max_producers);
        Ok(header)
    }

    /// Begins a new segment when the batch would overfill this one. The old one is made durable first, so that only
    /// the last segment can ever be torn.
    fn roll_if_full(&mut self, header: &BatchHeader, disk: &dyn Disk) -> Result<(), AppendError> {
        let active = self.active();
        let span = header.last_offset() - active.base_offset;
        let full = active.size + header.size as u64 > self.limits.segment_bytes.min(LARGEST_SEGMENT);
        if active.size == 0 || !(full || span > i64::from(u32::MAX)) {
            return Ok(());
        }
        disk.sync(&active.file).map_err(AppendError::NotSynced)?;
        active.save_index()?;
        snapshot::save(&self.dir, self.next_offset, &self.producers)?;
        // Opened before the segment is made: this may fail for want of file handles.
        let dir = File::open(&self.dir)?;
        let fresh = Segment::open(&self.dir, self.next_offset)?;
        dir.sync_all().map_err(AppendError::NotSynced)?;
        self.segments.push(fresh);
        Ok(())
    }

    /// The file to sync for everything appended so far to be durable, and the offset after it.
    pub(crate) fn unsynced(&self) -> (Arc<File>, i64) {
        (Arc::clone(&self.active().file), self.next_offset)
    }

    /// Saves what makes the next start quick.
    pub(crate) fn close(&self) -> io::Result<()> {
        self.active().file.sync_data()?;
        self.active().save_index()?;
        snapshot::save(&self.dir, self.next_offset, &self.producers)?;
        // Those of earlier stops; one per segment is kept, in case a later one is damaged.
        snapshot::remove_between(&self.dir, self.active().base_offset, self.next_offset)
    }

    pub(crate) fn start_offset(&self) -> i64 {
        self.segments[0].base_offset
    }

    pub(crate) fn next_offset(&self) -> i64 {
        self.next_offset
    }

    pub(crate) fn producers(&self) -> &Producers {
        &self.producers
    }

    /// Where to read from for `offset`, which must be in the log; the slice ends with its segment.
    pub(crate) fn slice_at(&self, offset: i64) -> Option<Slice> {
        let at = self.segments.partition_point(|s| s.base_offset <= offset).checked_sub(1)?;
        let segment = &self.segments[at];
        Some(segment.slice(segment.index.position_of(offset)))
    }

    /// About how many bytes lie between an offset and the end of the log; at most an index interval too many.
    pub(crate) fn bytes_from(&self, offset: i64) -> u64 {
        let Some(at) = self.segments.partition_point(|s| s.base_offset <= offset).checked_sub(1) else { return 0 };
        if offset >= self.next_offset {
            return 0;
        }
        let later: u64 = self.segments[at + 1..].iter().map(|s| s.size).sum();
        later + self.segments[at].size - self.segments[at].index.position_of(offset)
    }

    /// Slices that hold every record at or after `timestamp`, each to be searched in turn.
    pub(crate) fn slices_since(&self, timestamp: i64) -> Vec<Slice> {
        let late = self.segments.iter().filter(|s| s.index.latest >= timestamp);
        late.map(|s| s.slice(s.index.position_of_time(timestamp))).collect()
    }

    /// The aborted transactions with records between the two offsets.
    pub(crate) fn aborted_between(&self, from: i64, until: i64) -> Vec<Aborted> {
        let first = self.segments.partition_point(|s| s.base_offset <= from).saturating_sub(1);
        let mut found = Vec::new();
        for aborted in self.segments[first..].iter().flat_map(|s| &s.index.aborted) {
            if aborted.last_offset >= from && aborted.first_offset < until {
                found.push(*aborted);
            }
            if aborted.stable_offset >= until {
                break;
            }
        }
        found
    }

    pub(super) fn active(&self) -> &Segment {
        self.segments.last().expect("a log always has a segment")
    }

    fn active_mut(&mut self) -> &mut Segment {
        self.segments.last_mut().expect("a log always has a segment")
    }
}

/// Feeds one appended or replayed batch to the producer state. Tells the transaction it aborted, if any.
pub(super) fn note_producer(producers: &mut Producers, header: &BatchHeader, bytes: &[u8]) -> Option<Aborted> {
    if !header.is_idempotent() {
        return None;
    }
    if !header.is_control() {
        producers.appended(header);
        return None;
    }
    marker_outcome(bytes).and_then(|outcome| producers.ended(header, outcome))
}

/// The first record at or after `timestamp` and below offset `until`.
pub(crate) fn find_time(slices: &[Slice], timestamp: i64, until: i64) -> io::Result<Option<Found>> {
    for slice in slices {
        let mut cursor = Cursor::new(slice.clone());
        while let Step::Batch { position, header } = cursor.step()? {
            if header.base_offset >= until {
                return Ok(None);
            }
            if header.is_control() || header.max_timestamp < timestamp {
                continue;
            }
            let batch = read_batch(&slice.file, position, header.size)?;
            let found = first_at_or_after(&header, &batch, timestamp);
            return Ok((found.offset < until).then_some(found));
        }
    }
    Ok(None)
}
