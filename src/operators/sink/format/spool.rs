//! Where an object's bytes wait until they are all there: memory while they are few, then an unnamed temporary file.
//!
//! An object's metadata (count, last offset, digest) must be told to S3 before its first byte, so nothing can be sent
//! while records still arrive.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use bytes::Bytes;
use sha2::{Digest, Sha256};

/// Bytes that are being written.
#[derive(Debug)]
pub(super) struct Spool {
    memory: Vec<u8>,
    file: Option<File>,
    limit: usize,
    length: u64,
}

impl Spool {
    /// A spool that goes to disk above `limit` bytes.
    pub(super) fn new(limit: usize) -> Self {
        Self { memory: Vec::new(), file: None, limit, length: 0 }
    }

    /// What was written, to be read.
    pub(super) fn finish(self) -> io::Result<Body> {
        Ok(match self.file {
            None => Body::Memory(self.memory.into()),
            Some(mut file) => {
                file.write_all(&self.memory)?;
                Body::File { file: Arc::new(file), length: self.length }
            }
        })
    }
}

/// Bytes that are complete; clones share them.
#[derive(Debug, Clone)]
pub(in crate::operators::sink) enum Body {
    Memory(Bytes),
    File { file: Arc<File>, length: u64 },
}

impl Body {
    pub(in crate::operators::sink) fn length(&self) -> u64 {
        match self {
            Self::Memory(bytes) => bytes.len() as u64,
            Self::File { length, .. } => *length,
        }
    }

    /// At most `most` bytes from `at`. Reads the disk: for a thread that may block.
    pub(in crate::operators::sink) fn piece(&self, at: u64, most: usize) -> io::Result<Bytes> {
        match self {
            Self::Memory(bytes) => {
                let at = usize::try_from(at).map_or(bytes.len(), |at| at.min(bytes.len()));
                Ok(bytes.slice(at..bytes.len().min(at + most)))
            }
            Self::File { file, length } => {
                let rest = usize::try_from(length.saturating_sub(at)).unwrap_or(most);
                let mut piece = vec![0; rest.min(most)];
                file.read_exact_at(&mut piece, at)?;
                Ok(piece.into())
            }
        }
    }

    /// The bytes one after the other.
    pub(super) fn reader(&self) -> impl Read + use<> {
        BodyReader { body: self.clone(), at: 0 }
    }

    #[cfg(test)]
    pub(super) fn read_all(&self) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.reader().read_to_end(&mut bytes)?;
        Ok(bytes)
    }
}

struct BodyReader {
    body: Body,
    at: u64,
}

impl Read for BodyReader {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let read = match &self.body {
            Body::Memory(_) => {
                let piece = self.body.piece(self.at, into.len())?;
                into[..piece.len()].copy_from_slice(&piece);
                piece.len()
            }
            Body::File { file, .. } => file.read_at(into, self.at)?,
        };
        self.at += read as u64;
        Ok(read)
    }
}

impl Write for Spool {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.memory.extend_from_slice(bytes);
        self.length += bytes.len() as u64;
        if self.memory.len() > self.limit {
            if self.file.is_none() {
                self.file = Some(tempfile::tempfile()?);
                // From here on the memory is a buffer in front of the file.
                self.limit = self.limit.min(256 * 1024);
            }
            if let Some(file) = &mut self.file {
                file.write_all(&self.memory)?;
                self.memory.clear();
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A spool that knows the digest of what went into it.
pub(in crate::operators::sink) struct Hashed {
    spool: Spool,
    digest: Sha256,
}

impl Hashed {
    pub(super) fn new(limit: usize) -> Self {
        Self { spool: Spool::new(limit), digest: Sha256::new() }
    }

    pub(super) fn finish(self) -> io::Result<(Body, [u8; 32])> {
        Ok((self.spool.finish()?, self.digest.finalize().into()))
    }
}

impl Write for Hashed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.spool.write(bytes)?;
        self.digest.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.spool.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_went_to_disk_is_read_back_whole_and_twice() {
        let mut spool = Spool::new(10);
        let mut expected = Vec::new();
        for number in 0..1000_u32 {
            spool.write_all(number.to_string().as_bytes()).unwrap();
            expected.extend_from_slice(number.to_string().as_bytes());
        }
        assert!(spool.file.is_some());
        let body = spool.finish().unwrap();
        assert_eq!(body.length(), expected.len() as u64);
        for _ in 0..2 {
            assert_eq!(body.read_all().unwrap(), expected);
        }
        assert_eq!(body.piece(7, 5).unwrap(), expected[7..12]);
        assert_eq!(body.piece(body.length() - 2, 5).unwrap(), expected[expected.len() - 2..]);
    }
}
