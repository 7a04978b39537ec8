//! The bytes of objects: JSON lines, plain or compressed, and Parquet. The same records give the same bytes.

mod parquet;
mod spool;

use std::io::{self, Write};

use flate2::write::GzEncoder;
use serde_json::{Map, Value};

use self::parquet::ParquetFile;
use self::spool::Hashed;
use super::config::{Compression, Format};
use super::naming::TOMBSTONES;

pub(super) use spool::Body;

/// What is in the file so far is held in memory up to this; above, on disk.
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

/// An object that is being filled.
pub(super) enum FileWriter {
    Plain(Box<Hashed>),
    Gzip(Box<GzEncoder<Hashed>>),
    Zstd(Box<zstd::Encoder<'static, Hashed>>),
    Parquet(Box<ParquetFile>),
}

impl FileWriter {
    /// An empty one that holds at most `memory` bytes outside of the disk.
    pub(super) fn new(encoding: Encoding, memory: usize) -> io::Result<Self> {
        let output = Hashed::new(memory);
        Ok(match (encoding.format, encoding.compression) {
            (Format::Parquet, compression) => Self::Parquet(Box::new(ParquetFile::new(compression, memory))),
            (Format::Json, Compression::None | Compression::Snappy) => Self::Plain(Box::new(output)),
            // No name and no time in the header: the bytes depend on the records alone.
            (Format::Json, Compression::Gzip) => {
                Self::Gzip(Box::new(GzEncoder::new(output, flate2::Compression::default())))
            }
            (Format::Json, Compression::Zstd) => Self::Zstd(Box::new(zstd::Encoder::new(output, 3)?)),
        })
    }

    /// Adds a record: compact JSON with a line's end, and for Parquet its fields.
    pub(super) fn append(&mut self, line: &[u8], fields: &Map<String, Value>) -> io::Result<()> {
        match self {
            Self::Plain(output) => output.write_all(line),
            Self::Gzip(encoder) => encoder.write_all(line),
            Self::Zstd(encoder) => encoder.write_all(line),
            Self::Parquet(file) => file.append(line, fields),
        }
    }

    /// Ends the object: its bytes and their SHA-256.
    pub(super) fn finish(self) -> io::Result<(Body, [u8; 32])> {
        match self {
            Self::Plain(output) => output.finish(),
            Self::Gzip(encoder) => encoder.finish()?.finish(),
            Self::Zstd(encoder) => encoder.finish()?.finish(),
            Self::Parquet(file) => file.finish()?.finish(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    fn written(compression: Compression, memory: usize) -> (Vec<u8>, [u8; 32]) {
        let mut file = FileWriter::new(Encoding { format: Format::Json, compression }, memory).unwrap();
        for number in 0..5000 {
            file.append(format!("{{\"ind\":{number}}}\n").as_bytes(), &Map::new()).unwrap();
        }
        let (body, digest) = file.finish().unwrap();
        (body.read_all().unwrap(), digest)
    }

    #[test]
    fn compressed_lines_are_the_plain_ones_and_the_same_each_time() {
        let (plain, _) = written(Compression::None, FILE_MEMORY);
        let (gzip, digest) = written(Compression::Gzip, FILE_MEMORY);
        assert_eq!((&gzip, digest), (&written(Compression::Gzip, 100).0, written(Compression::Gzip, 100).1));
        assert_eq!(&gzip[4..8], [0; 4], "no time in the header");
        let mut unzipped = Vec::new();
        flate2::read::GzDecoder::new(gzip.as_slice()).read_to_end(&mut unzipped).unwrap();
        assert_eq!(unzipped, plain);
        let (zstd, _) = written(Compression::Zstd, FILE_MEMORY);
        assert_eq!(zstd, written(Compression::Zstd, 100).0);
        assert_eq!(zstd::decode_all(zstd.as_slice()).unwrap(), plain);
    }
}
