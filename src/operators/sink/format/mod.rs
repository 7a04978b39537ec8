//! The bytes of objects: JSON lines, plain or compressed, and Parquet. The same records give the same bytes.

mod parquet;
mod spool;

use std::io::{self, BufReader, Write};
use std::sync::Arc;

use flate2::write::GzEncoder;
use serde_json::{Map, Value};

use self::parquet::Columns;
use self::spool::{Hashed, READ_BYTES, Spool};
use super::config::{Compression, Format};
use super::naming::TOMBSTONES;

pub(super) use spool::{Body, Scratch};

/// So many bytes of a partition's open files are held in memory, and so many of those of a cut; what is above, on disk.
pub(super) const FILE_MEMORY: usize = 8 * 1024 * 1024;

/// How objects are written.
#[derive(Debug, Clone, Copy)]
pub(super) struct Encoding {
    pub(super) format: Format,
    pub(super) compression: Compression,
}

impl Encoding {
    /// The end of an object's name: Confluent puts Parquet's codec before the format, and JSON's after it.
    fn extension(self) -> &'static str {
        match (self.format, self.compression) {
            (Format::Json, Compression::Gzip) => ".json.gz",
            (Format::Json, Compression::Zstd) => ".json.zst",
            (Format::Json, Compression::None | Compression::Snappy) => ".json",
            (Format::Parquet, Compression::None) => ".parquet",
            (Format::Parquet, Compression::Gzip) => ".gz.parquet",
            (Format::Parquet, Compression::Zstd) => ".zstd.parquet",
            (Format::Parquet, Compression::Snappy) => ".snappy.parquet",
        }
    }

    /// How the files of a folder are written: keys of tombstones are JSON whatever the values are.
    pub(super) fn of_folder(self, folder: &str) -> Self {
        match (folder == TOMBSTONES, self.compression) {
            (false, _) => self,
            (true, Compression::Snappy) => Self { format: Format::Json, compression: Compression::None },
            (true, compression) => Self { format: Format::Json, compression },
        }
    }

    /// The end of an object's name in a folder.
    pub(super) fn extension_in(self, folder: &str) -> String {
        let keys = if folder == TOMBSTONES { ".keys" } else { "" };
        format!("{keys}{}", self.of_folder(folder).extension())
    }

    /// The object's `Content-Type`.
    pub(super) fn content_type(self) -> &'static str {
        match (self.format, self.compression) {
            (Format::Parquet, _) => "application/vnd.apache.parquet",
            (Format::Json, Compression::Gzip) => "application/gzip",
            (Format::Json, Compression::Zstd) => "application/zstd",
            (Format::Json, Compression::None | Compression::Snappy) => "application/json",
        }
    }
}

/// An object that is being filled: its lines wait until it is full, so that one that is open costs no more than they do.
pub(super) struct FileWriter {
    encoding: Encoding,
    scratch: Arc<Scratch>,
    lines: Spool,
    columns: Columns,
}

impl FileWriter {
    /// An empty one, whose bytes go to `scratch` when they are to leave memory.
    pub(super) fn new(encoding: Encoding, scratch: Arc<Scratch>) -> Self {
        // The sorter knows when all the open files together are too much for memory.
        let lines = Spool::new(Arc::clone(&scratch), usize::MAX);
        Self { encoding, scratch, lines, columns: Columns::default() }
    }

    /// Adds a record: compact JSON with a line's end, and for Parquet its fields.
    pub(super) fn append(&mut self, line: &[u8], fields: &Map<String, Value>) -> io::Result<()> {
        if self.encoding.format == Format::Parquet {
            self.columns.add(line, fields)?;
        }
        self.lines.write_all(line)
    }

    /// Brings what it holds in memory to disk.
    pub(super) fn spill(&mut self) -> io::Result<()> {
        self.lines.spill()
    }

    /// Ends the object: its bytes, at most `memory` of them outside of the disk, and their SHA-256.
    pub(super) fn finish(self, memory: usize) -> io::Result<(Body, [u8; 32])> {
        let lines = self.lines.finish()?;
        let output = Hashed::new(self.scratch, memory);
        match (self.encoding.format, self.encoding.compression) {
            (Format::Parquet, compression) => parquet::write(&lines, &self.columns, compression, output)?.finish(),
            (Format::Json, Compression::None | Compression::Snappy) => {
                let digest = lines.digest()?;
                Ok((lines, digest))
            }
            // No name and no time in the header: the bytes depend on the records alone.
            (Format::Json, Compression::Gzip) => {
                pour(&lines, GzEncoder::new(output, flate2::Compression::default()))?.finish()?.finish()
            }
            (Format::Json, Compression::Zstd) => pour(&lines, zstd::Encoder::new(output, 3)?)?.finish()?.finish(),
        }
    }
}

fn pour<W: Write>(lines: &Body, mut encoder: W) -> io::Result<W> {
    // In steps of one size: a compressor's bytes may depend on those in which it is fed.
    let mut lines = BufReader::with_capacity(READ_BYTES, lines.reader());
    io::copy(&mut lines, &mut encoder)?;
    Ok(encoder)
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    fn written(compression: Compression, memory: usize) -> (Vec<u8>, [u8; 32]) {
        let encoding = Encoding { format: Format::Json, compression };
        let mut file = FileWriter::new(encoding, Arc::new(Scratch::default()));
        for number in 0..50_000 {
            file.append(format!("{{\"ind\":{number}}}\n").as_bytes(), &Map::new()).unwrap();
            if number % memory == 0 {
                file.spill().unwrap();
            }
        }
        let (body, digest) = file.finish(memory).unwrap();
        (body.read_all().unwrap(), digest)
    }

    #[test]
    fn compressed_lines_are_the_plain_ones_and_the_same_each_time() {
        let (plain, _) = written(Compression::None, FILE_MEMORY);
        let (gzip, digest) = written(Compression::Gzip, FILE_MEMORY);
        assert_eq!((&gzip, digest), (&written(Compression::Gzip, 1000).0, written(Compression::Gzip, 1000).1));
        assert_eq!(&gzip[4..8], [0; 4], "no time in the header");
        let mut unzipped = Vec::new();
        flate2::read::GzDecoder::new(gzip.as_slice()).read_to_end(&mut unzipped).unwrap();
        assert_eq!(unzipped, plain);
        let (zstd, _) = written(Compression::Zstd, FILE_MEMORY);
        assert_eq!(zstd, written(Compression::Zstd, 1000).0);
        assert_eq!(zstd::decode_all(zstd.as_slice()).unwrap(), plain);
    }
}
