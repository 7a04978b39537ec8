//! Opens a partition's directory as it was left, by a clean stop or by a crash at any point. The last segment is scanned
//! and its torn tail cut off. An older segment cannot be torn, and a tail behind which the log goes on is not torn, so
//! damage there is refused and never cut away.

use std::fs;
use std::io;
use std::path::Path;

use super::batch::{BatchHeader, HEADER_BYTES};
use super::cursor::{Cursor, Step, read_batch};
use super::partition_log::{LogLimits, PartitionLog, note_producer};
use super::segment::Segment;
use super::snapshot;
use crate::embedded::broker::error::BrokerError;

impl PartitionLog {
    /// Opens the log in `dir`, creating an empty one if there is none. Everything that was acknowledged is in it.
    pub(crate) fn open(dir: &Path, limits: LogLimits) -> Result<Self, BrokerError> {
        fs::create_dir_all(dir).map_err(BrokerError::io("create", dir))?;
        let mut bases = base_offsets(dir)?;
        if bases.is_empty() {
            bases.push(0);
        }
        let mut opened = Vec::with_capacity(bases.len());
        for base in &bases {
            opened.push(Segment::open(dir, *base).map_err(BrokerError::io("open a segment in", dir))?);
        }
        // The one that was written to last; an empty one behind it has just been begun, or never was.
        let tail = opened.iter().rposition(|segment| segment.size > 0).unwrap_or(0);
        let mut segments: Vec<Segment> = Vec::with_capacity(opened.len());
        let mut first_rebuilt = None;
        let mut next_offset = bases[0];
        for (n, mut segment) in opened.into_iter().enumerate() {
            let base = segment.base_offset;
            if base != next_offset {
                if segment.size == 0 && base < next_offset {
                    // The change of segments failed half-way, and the one before was written to again.
                    segment.remove().map_err(BrokerError::io("remove an empty segment in", dir))?;
                    continue;
                }
                let reason = format!("the segment before it ends at offset {next_offset}");
                return Err(BrokerError::Corrupt { path: segment.path().to_owned(), reason });
            }
            next_offset = if segment.load_index() {
                end_of(&segment)?
            } else {
                first_rebuilt.get_or_insert(base);
                rebuild(&mut segment, limits, n >= tail)?
            };
            segments.push(segment);
        }
        let mut log = Self { dir: dir.to_owned(), limits, segments, next_offset, producers: Default::default() };
        log.replay_producers(first_rebuilt)?;
        log.active().file.sync_all().map_err(BrokerError::io("sync a segment in", dir))?;
        fs::File::open(dir).and_then(|d| d.sync_all()).map_err(BrokerError::io("sync", dir))?;
        Ok(log)
    }

    /// Rebuilds producer state from the best snapshot on. A segment whose index was rebuilt has lost its list of
    /// aborted transactions, so the replay begins no later than there.
    fn replay_producers(&mut self, first_rebuilt: Option<i64>) -> Result<(), BrokerError> {
        let dir = self.dir.clone();
        let fail = || BrokerError::io("replay", &dir);
        // What they speak of was cut off.
        snapshot::remove_between(&dir, self.next_offset, i64::MAX).map_err(fail())?;
        let limit = first_rebuilt.unwrap_or(self.next_offset);
        let (from, mut producers) = snapshot::load(&dir, self.start_offset(), limit).map_err(fail())?;
        let first = self.segments.partition_point(|s| s.base_offset <= from).saturating_sub(1);
        for segment in &mut self.segments[first..] {
            let mut cursor = Cursor::new(segment.slice(segment.index.position_of(from)));
            while let Step::Batch { position, header } = cursor.step().map_err(fail())? {
                if header.base_offset < from || !header.is_idempotent() {
                    continue;
                }
                let bytes = match header.is_control() {
                    true => read_batch(&segment.file, position, header.size).map_err(fail())?,
                    false => Vec::new(),
                };
                let known = segment.index.aborted.last().map_or(-1, |a| a.last_offset);
                if let Some(aborted) = note_producer(&mut producers, &header, &bytes)
                    && aborted.last_offset > known
                {
                    segment.index.aborted.push(aborted);
                }
            }
        }
        producers.shrink(self.limits.max_producers);
        self.producers = producers;
        Ok(())
    }
}

fn base_offsets(dir: &Path) -> Result<Vec<i64>, BrokerError> {
    let mut bases = Vec::new();
    for entry in fs::read_dir(dir).map_err(BrokerError::io("list", dir))? {
        let path = entry.map_err(BrokerError::io("list", dir))?.path();
        let stem = path.file_stem().and_then(|stem| stem.to_str()).and_then(|stem| stem.parse::<i64>().ok());
        if let (Some(base), Some("log")) = (stem, path.extension().and_then(|e| e.to_str())) {
            bases.push(base);
        }
    }
    bases.sort_unstable();
    Ok(bases)
}

/// The offset after the last batch of a segment whose index can be trusted.
fn end_of(segment: &Segment) -> Result<i64, BrokerError> {
    let mut cursor = Cursor::new(segment.slice(segment.index.position_of(i64::MAX)));
    let mut end = segment.base_offset;
    loop {
        match cursor.step().map_err(BrokerError::io("read", segment.path()))? {
            Step::Batch { header, .. } => end = header.next_offset(),
            Step::End => return Ok(end),
            Step::Broken { position, reason } => {
                let reason = format!("at byte {position}: {reason}");
                return Err(BrokerError::Corrupt { path: segment.path().to_owned(), reason });
            }
        }
    }
}

/// Reads every batch, checks it and indexes it. In the last segment whatever follows the last whole batch is cut off.
fn rebuild(segment: &mut Segment, limits: LogLimits, is_tail: bool) -> Result<i64, BrokerError> {
    let path = segment.path().to_owned();
    let mut cursor = Cursor::new(segment.slice(0));
    let mut end = segment.base_offset;
    let (position, reason) = loop {
        match cursor.step().map_err(BrokerError::io("read", &path))? {
            Step::End => return Ok(end),
            Step::Broken { position, reason } => break (position, reason.to_string()),
            Step::Batch { position, header } => {
                let bytes = read_batch(&segment.file, position, header.size).map_err(BrokerError::io("read", &path))?;
                if let Err(reason) = BatchHeader::verify(&bytes) {
                    break (position, reason.to_string());
                }
                if header.base_offset != end {
                    break (position, format!("offset {} where {end} belongs", header.base_offset));
                }
                segment.index.note(position, &header, limits.index_interval_bytes);
                end = header.next_offset();
            }
        }
    };
    let corrupt = |reason| BrokerError::Corrupt { path: path.clone(), reason };
    if !is_tail {
        return Err(corrupt(format!("at byte {position}: {reason}")));
    }
    if let Some(later) = batch_after(segment, position, end).map_err(BrokerError::io("read", &path))? {
        return Err(corrupt(format!("at byte {position}: {reason}, and records follow at byte {later}")));
    }
    let cut_bytes = segment.size - position;
    tracing::warn!(path = %path.display(), offset = end, cut_bytes, reason, "cut off a torn tail that was never acknowledged");
    segment.truncate(position).map_err(BrokerError::io("truncate", &path))?;
    Ok(end)
}

/// How much is looked through at once.
const SCAN_BYTES: usize = 1 << 20;

/// Where a whole batch that continues the log begins behind a broken one. A crash tears the end of a file and nothing
/// before it, so such a batch says that the broken one was damaged later, and may have been acknowledged.
fn batch_after(segment: &Segment, broken: u64, next_offset: i64) -> io::Result<Option<u64>> {
    let mut from = broken + 1;
    while from + HEADER_BYTES as u64 <= segment.size {
        let window = read_batch(&segment.file, from, SCAN_BYTES.min((segment.size - from) as usize))?;
        let places = window.len() - HEADER_BYTES + 1;
        for at in 0..places {
            let Ok(header) = BatchHeader::parse(&window[at..]) else { continue };
            let position = from + at as u64;
            if header.base_offset < next_offset || header.size as u64 > segment.size - position {
                continue;
            }
            if BatchHeader::verify(&read_batch(&segment.file, position, header.size)?).is_ok() {
                return Ok(Some(position));
            }
        }
        from += places as u64;
    }
    Ok(None)
}
