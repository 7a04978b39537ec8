//! One segment file and its index. The file only ever grows, except when a failed write is cut off again.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::batch::{BatchHeader, STAMP_BYTES};
use super::cursor::Slice;
use super::index::SparseIndex;

/// The file of the segment that begins at `base_offset`.
pub(crate) fn log_path(dir: &Path, base_offset: i64) -> PathBuf {
    dir.join(format!("{base_offset:020}.log"))
}

/// One segment.
#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) base_offset: i64,
    pub(crate) file: Arc<File>,
    /// Whole batches end here; bytes after it, if any, are not part of the log.
    pub(crate) size: u64,
    pub(crate) index: SparseIndex,
    path: PathBuf,
}

impl Segment {
    /// Opens or creates the file. The index is empty until it is loaded or rebuilt.
    pub(crate) fn open(dir: &Path, base_offset: i64) -> io::Result<Self> {
        let path = log_path(dir, base_offset);
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path)?;
        let size = file.metadata()?.len();
        Ok(Self { base_offset, file: Arc::new(file), size, index: SparseIndex::new(base_offset), path })
    }

    /// Writes a batch at its offset to the end. After an error the segment is as before, as far as the disk allows.
    pub(crate) fn append(&mut self, header: &BatchHeader, bytes: &[u8], interval: u64) -> io::Result<()> {
        let written = self
            .file
            .write_all_at(&header.stamp(header.base_offset), self.size)
            .and_then(|()| self.file.write_all_at(&bytes[STAMP_BYTES..], self.size + STAMP_BYTES as u64));
        if let Err(error) = written {
            self.file.set_len(self.size)?;
            return Err(error);
        }
        self.index.note(self.size, header, interval);
        self.size += bytes.len() as u64;
        Ok(())
    }

    /// Cuts the file off at `size`, durably. A saved index goes first: it would be taken for the right one as soon as the
    /// file has its old size again.
    pub(crate) fn truncate(&mut self, size: u64) -> io::Result<()> {
        remove_if_there(&self.index_path())?;
        self.file.set_len(size)?;
        self.file.sync_all()?;
        self.size = size;
        Ok(())
    }

    /// Removes the file and its index.
    pub(crate) fn remove(self) -> io::Result<()> {
        remove_if_there(&self.index_path())?;
        fs::remove_file(&self.path)
    }

    fn index_path(&self) -> PathBuf {
        self.path.with_extension("index")
    }

    /// From `position` to the end of the last batch.
    pub(crate) fn slice(&self, position: u64) -> Slice {
        Slice { file: Arc::clone(&self.file), position, end: self.size }
    }

    /// Saves the index beside the log.
    pub(crate) fn save_index(&self) -> io::Result<()> {
        self.index.save(&self.index_path(), self.size)
    }

    /// Loads the index if its file is the one of this very log.
    pub(crate) fn load_index(&mut self) -> bool {
        let loaded = SparseIndex::load(&self.index_path(), self.base_offset, self.size);
        let found = loaded.is_some();
        if let Some(index) = loaded {
            self.index = index;
        }
        found
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
