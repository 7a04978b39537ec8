//! Where an object's bytes wait until they are all there: memory while they are few, then an unnamed temporary file.
//!
//! An object's metadata (count, last offset, digest) must be told to S3 before its first byte, so nothing can be sent
//! while records still arrive. Many objects may be open at once, so that they share one file, in which each has pieces.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt as _;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use sha2::{Digest, Sha256};

/// A temporary file that spools share; made when the first of them goes to disk, gone with the last who reads it.
#[derive(Debug, Default)]
pub(in crate::operators::sink) struct Scratch(Mutex<Option<(Arc<File>, u64)>>);

impl Scratch {
    /// Adds bytes at the end; answers with the file and where they lie in it.
    fn append(&self, bytes: &[u8]) -> io::Result<(Arc<File>, Piece)> {
        let mut made = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (file, end) = match made.take() {
            Some(made) => made,
            None => (Arc::new(tempfile::tempfile()?), 0),
        };
        let written = file.write_all_at(bytes, end);
        let piece = Piece { at: end, length: bytes.len() as u64 };
        *made = Some((Arc::clone(&file), end + piece.length));
        written.map(|()| (file, piece))
    }
}

/// Where bytes lie in a file.
#[derive(Debug, Clone, Copy)]
pub(in crate::operators::sink) struct Piece {
    at: u64,
    length: u64,
}

/// Bytes that are being written.
#[derive(Debug)]
pub(super) struct Spool {
    scratch: Arc<Scratch>,
    memory: Vec<u8>,
    limit: usize,
    on_disk: Option<(Arc<File>, Vec<Piece>)>,
}

impl Spool {
    /// A spool that goes to disk above `limit` bytes.
    pub(super) fn new(scratch: Arc<Scratch>, limit: usize) -> Self {
        Self { scratch, memory: Vec::new(), limit, on_disk: None }
    }

    /// Brings what it holds in memory to disk.
    pub(super) fn spill(&mut self) -> io::Result<()> {
        if self.memory.is_empty() {
            return Ok(());
        }
        let (file, piece) = self.scratch.append(&self.memory)?;
        self.on_disk.get_or_insert_with(|| (file, Vec::new())).1.push(piece);
        // Its room, too: of many spools each was the largest once.
        self.memory = Vec::new();
        Ok(())
    }

    /// What was written, to be read.
    pub(super) fn finish(mut self) -> io::Result<Body> {
        if self.on_disk.is_some() {
            self.spill()?;
        }
        Ok(match self.on_disk {
            None => Body::Memory(self.memory.into()),
            Some((file, pieces)) => Body::File { file, pieces: pieces.into() },
        })
    }
}

/// Bytes that are complete; clones share them.
#[derive(Debug, Clone)]
pub(in crate::operators::sink) enum Body {
    Memory(Bytes),
    File { file: Arc<File>, pieces: Arc<[Piece]> },
}

impl Body {
    pub(in crate::operators::sink) fn length(&self) -> u64 {
        match self {
            Self::Memory(bytes) => bytes.len() as u64,
            Self::File { pieces, .. } => pieces.iter().map(|piece| piece.length).sum(),
        }
    }

    /// How many bytes it holds in memory.
    pub(in crate::operators::sink) fn in_memory(&self) -> usize {
        match self {
            Self::Memory(bytes) => bytes.len(),
            Self::File { .. } => 0,
        }
    }

    /// At most `most` bytes from `at`. Reads the disk: for a thread that may block.
    pub(in crate::operators::sink) fn piece(&self, at: u64, most: usize) -> io::Result<Bytes> {
        match self {
            Self::Memory(bytes) => {
                let at = usize::try_from(at).map_or(bytes.len(), |at| at.min(bytes.len()));
                Ok(bytes.slice(at..bytes.len().min(at + most)))
            }
            Self::File { file, pieces } => {
                let rest = usize::try_from(self.length().saturating_sub(at)).unwrap_or(most);
                let mut read = vec![0; rest.min(most)];
                let (mut filled, mut skip) = (0, at);
                for piece in pieces.iter() {
                    let begin = skip.min(piece.length);
                    skip -= begin;
                    let here = usize::try_from(piece.length - begin).unwrap_or(most).min(read.len() - filled);
                    file.read_exact_at(&mut read[filled..filled + here], piece.at + begin)?;
                    filled += here;
                }
                Ok(read.into())
            }
        }
    }

    /// The SHA-256 of the bytes.
    pub(super) fn digest(&self) -> io::Result<[u8; 32]> {
        let (mut reader, mut buffer) = (self.reader(), vec![0; READ_BYTES]);
        let mut digest = Sha256::new();
        loop {
            match reader.read(&mut buffer)? {
                0 => return Ok(digest.finalize().into()),
                read => digest.update(&buffer[..read]),
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

/// So much of a body is read at a time.
pub(super) const READ_BYTES: usize = 128 * 1024;

struct BodyReader {
    body: Body,
    at: u64,
}

impl Read for BodyReader {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let piece = self.body.piece(self.at, into.len())?;
        into[..piece.len()].copy_from_slice(&piece);
        self.at += piece.len() as u64;
        Ok(piece.len())
    }
}

impl Write for Spool {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.memory.extend_from_slice(bytes);
        if self.memory.len() > self.limit {
            self.spill()?;
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
    pub(super) fn new(scratch: Arc<Scratch>, limit: usize) -> Self {
        Self { spool: Spool::new(scratch, limit), digest: Sha256::new() }
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
        let scratch = Arc::new(Scratch::default());
        let mut spools = [7, 10, 500].map(|limit| (Spool::new(Arc::clone(&scratch), limit), Vec::new()));
        for number in 0..1000_u32 {
            for (spool, expected) in &mut spools {
                spool.write_all(number.to_string().as_bytes()).unwrap();
                expected.extend_from_slice(number.to_string().as_bytes());
            }
        }
        for (spool, expected) in spools {
            assert!(spool.on_disk.is_some() && spool.memory.len() <= spool.limit);
            let body = spool.finish().unwrap();
            assert_eq!(body.length(), expected.len() as u64);
            for _ in 0..2 {
                assert_eq!(body.read_all().unwrap(), expected);
            }
            assert_eq!(body.digest().unwrap(), <[u8; 32]>::from(Sha256::digest(&expected)));
            for at in [0, 7, 11, 499] {
                assert_eq!(body.piece(at, 600).unwrap(), expected[usize::try_from(at).unwrap()..][..600]);
            }
            assert_eq!(body.piece(body.length() - 2, 5).unwrap(), expected[expected.len() - 2..]);
            assert!(body.piece(body.length(), 5).unwrap().is_empty());
        }
    }
}
