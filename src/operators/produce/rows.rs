//! Staged rows as they are sent: read part by part, split into records without being parsed.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Cursor};
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use indexmap::IndexMap;
use serde_json::value::RawValue;

use crate::connect::kafka::blocking;
use crate::connect::s3::S3;
use crate::operators::staged::{Manifest, Part, StagedError, read_part};

/// A batch is closed at this size however few rows it has.
const BATCH_BYTES: usize = 16 << 20;

/// One staged row.
#[derive(Debug, Clone)]
pub(super) struct Row {
    /// Its number in the run, from 0.
    pub(super) sequence: u64,
    /// Its key as text.
    pub(super) key: String,
    line: Vec<u8>,
    values: Vec<Range<usize>>,
}

impl Row {
    /// The value of the table at a place in the manifest.
    pub(super) fn value(&self, table: usize) -> &[u8] {
        &self.line[self.values[table].clone()]
    }
}

/// Why staged rows cannot be sent.
#[derive(Debug, thiserror::Error)]
pub(super) enum RowsError {
    #[error(transparent)]
    Staged(#[from] StagedError),
    #[error("could not decompress `{key}`")]
    Decompress { key: String, source: std::io::Error },
    #[error("row {sequence} in `{key}` {problem}")]
    Malformed { key: String, sequence: u64, problem: String },
    #[error("`{key}` has {found} rows, and its manifest says {wanted}")]
    Short { key: String, found: u64, wanted: u64 },
}

/// Reads the rows of a manifest in batches.
pub(super) struct Rows {
    s3: S3,
    bucket: String,
    manifest: Arc<Manifest>,
    next_part: usize,
    next_row: u64,
    part: Option<OpenPart>,
}

struct OpenPart {
    part: Part,
    lines: BufReader<zstd::stream::read::Decoder<'static, BufReader<Cursor<Bytes>>>>,
    next_row: u64,
}

impl Rows {
    /// Starts at row `first`.
    pub(super) fn new(s3: S3, bucket: String, manifest: Arc<Manifest>, first: u64) -> Self {
        let next_part = manifest.parts.partition_point(|part| part.first_row + part.rows <= first);
        Self { s3, bucket, manifest, next_part, next_row: first, part: None }
    }

    /// The next rows, at most `limit`, of one part at a time; none at the end.
    pub(super) async fn next(&mut self, limit: usize) -> Result<Vec<Row>, RowsError> {
        while self.next_row < self.manifest.rows {
            if self.part.is_none() {
                let Some(part) = self.manifest.parts.get(self.next_part).cloned() else { break };
                let body = read_part(&self.s3, &self.bucket, &part).await?;
                self.part = Some(OpenPart::new(part, body)?);
                self.next_part += 1;
            }
            let Some(mut open) = self.part.take() else { break };
            let (first, tables) = (self.next_row, Arc::clone(&self.manifest));
            let (open, batch) = blocking(move || {
                let batch = open.batch(&tables, first, limit);
                (open, batch)
            })
            .await;
            let batch = batch?;
            self.next_row += batch.len() as u64;
            if self.next_row < open.part.first_row + open.part.rows {
                self.part = Some(open);
            }
            if !batch.is_empty() {
                return Ok(batch);
            }
        }
        Ok(Vec::new())
    }
}

impl OpenPart {
    fn new(part: Part, body: Bytes) -> Result<Self, RowsError> {
        match zstd::stream::read::Decoder::new(Cursor::new(body)) {
            Ok(decoder) => Ok(Self { next_row: part.first_row, lines: BufReader::new(decoder), part }),
            Err(source) => Err(RowsError::Decompress { key: part.key, source }),
        }
    }

    fn batch(&mut self, manifest: &Manifest, first: u64, limit: usize) -> Result<Vec<Row>, RowsError> {
        let (mut batch, mut bytes) = (Vec::new(), 0);
        let end = self.part.first_row + self.part.rows;
        while batch.len() < limit && bytes < BATCH_BYTES && self.next_row < end {
            let mut line = Vec::new();
            let read = self.lines.read_until(b'\n', &mut line);
            if read.map_err(|source| RowsError::Decompress { key: self.part.key.clone(), source })? == 0 {
                let (found, wanted) = (self.next_row - self.part.first_row, self.part.rows);
                return Err(RowsError::Short { key: self.part.key.clone(), found, wanted });
            }
            let sequence = self.next_row;
            self.next_row += 1;
            if sequence < first {
                continue;
            }
            bytes += line.len();
            let row = split(line, sequence, manifest).map_err(|problem| RowsError::Malformed {
                key: self.part.key.clone(),
                sequence,
                problem,
            })?;
            batch.push(row);
        }
        Ok(batch)
    }
}

/// Finds each table's object in a line, and the key in the first one.
fn split(line: Vec<u8>, sequence: u64, manifest: &Manifest) -> Result<Row, String> {
    let text = std::str::from_utf8(&line).map_err(|error| format!("is not UTF-8 ({error})"))?;
    let objects: IndexMap<&str, &RawValue> =
        serde_json::from_str(text).map_err(|error| format!("is not one JSON object ({error})"))?;
    let mut values = Vec::with_capacity(manifest.tables.len());
    let mut key = None;
    for (alias, table) in &manifest.tables {
        let object = objects.get(alias.as_str()).ok_or_else(|| format!("has no `{alias}`"))?.get();
        let start = object.as_ptr() as usize - text.as_ptr() as usize;
        values.push(start..start + object.len());
        if key.is_none() {
            let columns: HashMap<String, &RawValue> =
                serde_json::from_str(object).map_err(|error| format!("has a `{alias}` that is no object ({error})"))?;
            let column = columns.get(&table.key).ok_or_else(|| format!("has no `{}` in `{alias}`", table.key))?;
            key = Some(column.get().to_owned());
        }
    }
    Ok(Row { sequence, key: key.unwrap_or_default(), line, values })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::outputs::StagedTable;

    fn manifest() -> Manifest {
        let table = |name: &str, key: &str| StagedTable { table: name.into(), key: key.into(), columns: Vec::new() };
        let tables = [("pin".to_owned(), table("pins", "index")), ("geo".to_owned(), table("places", "ind"))];
        Manifest { rows: 1, draw: "sample".into(), seed: 1, tables: tables.into(), parts: Vec::new() }
    }

    #[test]
    fn a_line_is_split_as_it_was_typed() {
        let line = "{\"pin\":{\"index\":7,\"title\":\"a } \\\" ,\u{a0}😍\"},\"geo\":{\"ind\":7,\"latitude\":1.10}}\n";
        let row = split(line.as_bytes().to_vec(), 3, &manifest()).unwrap();
        assert_eq!((row.sequence, row.key.as_str()), (3, "7"));
        assert_eq!(std::str::from_utf8(row.value(0)).unwrap(), "{\"index\":7,\"title\":\"a } \\\" ,\u{a0}😍\"}");
        assert_eq!(row.value(1), b"{\"ind\":7,\"latitude\":1.10}");
    }

    #[test]
    fn a_line_without_a_table_or_a_key_is_refused_by_name() {
        let refused = |line: &str| split(line.as_bytes().to_vec(), 0, &manifest()).unwrap_err();
        assert_eq!(refused("{\"pin\":{\"index\":1}}"), "has no `geo`");
        assert_eq!(refused("{\"pin\":{},\"geo\":{}}"), "has no `index` in `pin`");
    }
}
