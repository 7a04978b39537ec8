//! Walks the batches of one segment file, and reads a run of whole ones. Works on a file handle and two positions, so no
//! lock is needed while it reads: what lies below the end of a log is never changed.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use bytes::Bytes;

use super::batch::{BatchError, BatchHeader, HEADER_BYTES};

/// Headers of small batches are read many at once.
const WINDOW_BYTES: u64 = 16 << 10;

/// A stretch of a segment file.
#[derive(Debug, Clone)]
pub(crate) struct Slice {
    pub(crate) file: Arc<File>,
    /// Where a batch begins.
    pub(crate) position: u64,
    /// Where the last whole batch ends.
    pub(crate) end: u64,
}

/// What lies at a position.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Step {
    /// A batch whose header is sane and which ends within the slice.
    Batch { position: u64, header: BatchHeader },
    /// The end of the slice.
    End,
    /// Something that is no whole batch.
    Broken { position: u64, reason: BatchError },
}

/// Walks batch by batch.
pub(crate) struct Cursor {
    slice: Slice,
    window: Vec<u8>,
    window_at: u64,
}

impl Cursor {
    pub(crate) fn new(slice: Slice) -> Self {
        Self { slice, window: Vec::new(), window_at: 0 }
    }

    /// The next batch by its header alone; its checksum is not looked at.
    pub(crate) fn step(&mut self) -> io::Result<Step> {
        let position = self.slice.position;
        let left = self.slice.end.saturating_sub(position);
        if left == 0 {
            return Ok(Step::End);
        }
        if left < HEADER_BYTES as u64 {
            let reason = BatchError::Length { expected: HEADER_BYTES, found: left as usize };
            return Ok(Step::Broken { position, reason });
        }
        let header = match BatchHeader::parse(self.header_bytes(position, left)?) {
            Ok(header) => header,
            Err(reason) => return Ok(Step::Broken { position, reason }),
        };
        if header.size as u64 > left {
            let reason = BatchError::Length { expected: header.size, found: left as usize };
            return Ok(Step::Broken { position, reason });
        }
        self.slice.position += header.size as u64;
        Ok(Step::Batch { position, header })
    }

    fn header_bytes(&mut self, position: u64, left: u64) -> io::Result<&[u8]> {
        let held = self.window_at..self.window_at + self.window.len() as u64;
        if !(held.contains(&position) && held.end >= position + HEADER_BYTES as u64) {
            self.window.resize(left.min(WINDOW_BYTES) as usize, 0);
            self.slice.file.read_exact_at(&mut self.window, position)?;
            self.window_at = position;
        }
        let from = (position - self.window_at) as usize;
        Ok(&self.window[from..from + HEADER_BYTES])
    }
}

/// Reads exactly one batch.
pub(crate) fn read_batch(file: &File, position: u64, size: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; size];
    file.read_exact_at(&mut bytes, position)?;
    Ok(bytes)
}

/// How much of a slice a reader wants.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Want {
    /// The batch holding this offset comes first.
    pub(crate) from: i64,
    /// Batches from this offset on are left out.
    pub(crate) until: i64,
    /// At most this many bytes...
    pub(crate) max_bytes: usize,
    /// ...unless the first batch alone is larger and at least one is wanted.
    pub(crate) at_least_one: bool,
}

/// A run of whole batches and the offset after the last of them.
#[derive(Debug, Clone)]
pub(crate) struct Run {
    pub(crate) bytes: Bytes,
    pub(crate) next_offset: i64,
}

/// Reads whole batches, beginning with the one that holds `want.from`. Empty if the slice has none to give.
pub(crate) fn read_run(slice: &Slice, want: Want) -> io::Result<Run> {
    let nothing = Run { bytes: Bytes::new(), next_offset: want.from };
    let mut cursor = Cursor::new(slice.clone());
    let (start, first) = loop {
        match cursor.step()? {
            Step::Batch { position, header } if header.last_offset() >= want.from => break (position, header),
            Step::Batch { .. } => {}
            Step::End => return Ok(nothing),
            Step::Broken { reason, .. } => return Err(io::Error::new(io::ErrorKind::InvalidData, reason)),
        }
    };
    if first.base_offset >= want.until || (first.size > want.max_bytes && !want.at_least_one) {
        return Ok(nothing);
    }
    let budget = want.max_bytes.max(first.size) as u64;
    let mut bytes = vec![0; budget.min(slice.end - start) as usize];
    slice.file.read_exact_at(&mut bytes, start)?;
    let mut whole = 0;
    let mut next_offset = want.from;
    while let Ok(header) = BatchHeader::parse(&bytes[whole..]) {
        if header.base_offset >= want.until || whole + header.size > bytes.len() {
            break;
        }
        whole += header.size;
        next_offset = header.next_offset();
    }
    bytes.truncate(whole);
    Ok(Run { bytes: bytes.into(), next_offset })
}
