//! Staged rows: what `emulate` leaves in object storage and `produce` reads from there.
//!
//! A manifest lists parts; a part is a zstd frame of lines; a line is one triple, `{"pin":{…},"geo":{…},"user":{…}}`.
//! Nothing here decides which of several attempts' files count: the store does.

use bytes::Bytes;
use indexmap::IndexMap;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::connect::s3::{PutOptions, S3, S3Error};
use crate::domain::outputs::StagedTable;
use crate::store::staging::Staged;

/// A part is closed at so many rows …
const PART_ROWS: u64 = 50_000;

/// … or at so many compressed bytes, whichever comes first: it is held in memory until it is put.
const PART_BYTES: usize = 8 << 20;

/// Fast: rows are read once, and soon.
const COMPRESSION_LEVEL: i32 = 1;

/// What was staged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Manifest {
    /// How many triples there are.
    pub(crate) rows: u64,
    /// How they were drawn.
    pub(crate) draw: String,
    /// The seed of the drawing.
    pub(crate) seed: u64,
    /// Each alias's table, in the order of a line's objects.
    pub(crate) tables: IndexMap<String, StagedTable>,
    /// The files, in order.
    pub(crate) parts: Vec<Part>,
}

/// One file of lines.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Part {
    /// Its key, in the manifest's bucket.
    pub(crate) key: String,
    /// How many lines it has.
    pub(crate) rows: u64,
    /// Its first line's number in the run, from 0.
    pub(crate) first_row: u64,
    /// Its size.
    pub(crate) bytes: u64,
    /// Its SHA-256, in hex.
    pub(crate) sha256: String,
}

/// Why staged rows could not be written or read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StagedError {
    #[error(transparent)]
    S3(#[from] S3Error),
    #[error("could not compress staged rows")]
    Compress(#[source] std::io::Error),
    #[error("the staged object `{key}` in bucket `{bucket}` is not the one that was staged: its SHA-256 differs")]
    Changed { bucket: String, key: String },
    #[error("the manifest `{key}` in bucket `{bucket}` cannot be read")]
    Manifest { bucket: String, key: String, source: serde_json::Error },
}

impl StagedError {
    /// What the reader can do about it, where that is known.
    pub(crate) fn help(&self) -> Option<String> {
        match self {
            Self::S3(error) => error.help(),
            Self::Compress(_) | Self::Changed { .. } | Self::Manifest { .. } => None,
        }
    }

    /// Whether trying the same again later may help.
    pub(crate) fn is_transient(&self) -> bool {
        match self {
            Self::S3(error) => error.is_transient(),
            Self::Compress(_) | Self::Changed { .. } | Self::Manifest { .. } => false,
        }
    }
}

impl Manifest {
    /// Reads the manifest that the store names.
    pub(crate) async fn read(s3: &S3, staged: &Staged) -> Result<Self, StagedError> {
        let body = s3.get(&staged.bucket, &staged.manifest).await?;
        if sha256(&body) != staged.sha256 {
            return Err(StagedError::Changed { bucket: staged.bucket.clone(), key: staged.manifest.clone() });
        }
        serde_json::from_slice(&body).map_err(|source| StagedError::Manifest {
            bucket: staged.bucket.clone(),
            key: staged.manifest.clone(),
            source,
        })
    }

    /// The size of all parts together.
    pub(crate) fn bytes(&self) -> u64 {
        self.parts.iter().map(|part| part.bytes).sum()
    }
}

/// Reads one part whole, as it lies there (compressed), and checks that it is what was staged.
pub(crate) async fn read_part(s3: &S3, bucket: &str, part: &Part) -> Result<Bytes, StagedError> {
    let body = s3.get(bucket, &part.key).await?;
    if sha256(&body) == part.sha256 {
        Ok(body)
    } else {
        Err(StagedError::Changed { bucket: bucket.to_owned(), key: part.key.clone() })
    }
}

/// Writes parts as they fill, then the manifest. Holds one compressed part in memory.
pub(crate) struct StageWriter {
    s3: S3,
    bucket: String,
    prefix: String,
    encoder: Encoder,
    part_rows: u64,
    rows: u64,
    parts: Vec<Part>,
}

type Encoder = zstd::stream::write::Encoder<'static, Vec<u8>>;

impl StageWriter {
    /// Writes under `prefix`, which ends in `/`.
    pub(crate) fn new(s3: S3, bucket: &str, prefix: String) -> Result<Self, StagedError> {
        let (bucket, encoder) = (bucket.to_owned(), encoder()?);
        Ok(Self { s3, bucket, prefix, encoder, part_rows: 0, rows: 0, parts: Vec::new() })
    }

    /// Adds a line, without its `\n`.
    pub(crate) async fn write(&mut self, line: &[u8]) -> Result<(), StagedError> {
        use std::io::Write as _;
        self.encoder.write_all(line).and_then(|()| self.encoder.write_all(b"\n")).map_err(StagedError::Compress)?;
        self.part_rows += 1;
        if self.part_rows >= PART_ROWS || self.encoder.get_ref().len() >= PART_BYTES {
            self.put_part().await?;
        }
        Ok(())
    }

    /// Puts what is left and the manifest.
    pub(crate) async fn finish(
        mut self,
        draw: String,
        seed: u64,
        tables: IndexMap<String, StagedTable>,
    ) -> Result<(Staged, Manifest), StagedError> {
        if self.part_rows > 0 {
            self.put_part().await?;
        }
        let manifest = Manifest { rows: self.rows, draw, seed, tables, parts: self.parts };
        let body = serde_json::to_vec(&manifest).expect("a manifest has text keys and finite numbers");
        let staged =
            Staged { bucket: self.bucket, manifest: format!("{}manifest.json", self.prefix), sha256: sha256(&body) };
        let options = PutOptions { content_type: "application/json", ..PutOptions::default() };
        self.s3.put(&staged.bucket, &staged.manifest, body.into(), options).await?;
        Ok((staged, manifest))
    }

    async fn put_part(&mut self) -> Result<(), StagedError> {
        let full = std::mem::replace(&mut self.encoder, encoder()?);
        let body = full.finish().map_err(StagedError::Compress)?;
        let part = Part {
            key: format!("{}part-{:05}.ndjson.zst", self.prefix, self.parts.len()),
            rows: self.part_rows,
            first_row: self.rows,
            bytes: body.len() as u64,
            sha256: sha256(&body),
        };
        let options = PutOptions { content_type: "application/zstd", ..PutOptions::default() };
        self.s3.put(&self.bucket, &part.key, body.into(), options).await?;
        self.rows += self.part_rows;
        self.part_rows = 0;
        self.parts.push(part);
        Ok(())
    }
}

fn encoder() -> Result<Encoder, StagedError> {
    Encoder::new(Vec::new(), COMPRESSION_LEVEL).map_err(StagedError::Compress)
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}
