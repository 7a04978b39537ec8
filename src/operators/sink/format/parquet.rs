//! Parquet objects: the records wait as JSON lines until the object is full and its columns' types are known.
//!
//! A column is boolean, 64-bit integer, 64-bit float or text by all of the object's records: integers beside floats
//! become floats; any other mixture, and what is nested, becomes text that holds the JSON. Columns stand in the order
//! in which they first appear, and may all be null.

use std::io::{self, BufRead, BufReader, Write};
use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanBuilder, Float64Builder, Int64Builder, RecordBatch, StringBuilder};
use arrow::datatypes::{DataType, Field, Schema};
use indexmap::IndexMap;
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression as Codec, GzipLevel, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;
use serde_json::{Map, Value};

use super::spool::{Hashed, Spool};
use crate::operators::sink::config::Compression;

/// So many rows are turned into columns at a time.
const BATCH_ROWS: usize = 4096;
/// Or so many bytes of JSON, for rows that are large.
const BATCH_BYTES: usize = 4 * 1024 * 1024;
/// A row group is written out when it takes so much memory.
const ROW_GROUP_BYTES: usize = 16 * 1024 * 1024;

/// What a column holds, so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Null,
    Boolean,
    Integer,
    Float,
    Text,
}

impl Kind {
    fn of(value: &Value) -> Self {
        match value {
            Value::Null => Self::Null,
            Value::Bool(_) => Self::Boolean,
            Value::Number(number) if number.is_i64() => Self::Integer,
            Value::Number(_) => Self::Float,
            Value::String(_) | Value::Array(_) | Value::Object(_) => Self::Text,
        }
    }

    fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Null, kind) | (kind, Self::Null) => kind,
            (a, b) if a == b => a,
            (Self::Integer, Self::Float) | (Self::Float, Self::Integer) => Self::Float,
            _ => Self::Text,
        }
    }

    fn data_type(self) -> DataType {
        match self {
            Self::Boolean => DataType::Boolean,
            Self::Integer => DataType::Int64,
            Self::Float => DataType::Float64,
            Self::Null | Self::Text => DataType::Utf8,
        }
    }
}

/// An object that is being filled.
pub(in crate::operators::sink) struct ParquetFile {
    lines: Spool,
    columns: IndexMap<String, Kind>,
    compression: Compression,
    memory: usize,
}

impl ParquetFile {
    pub(super) fn new(compression: Compression, memory: usize) -> Self {
        Self { lines: Spool::new(memory), columns: IndexMap::new(), compression, memory }
    }

    pub(super) fn append(&mut self, line: &[u8], fields: &Map<String, Value>) -> io::Result<()> {
        for (name, value) in fields {
            match self.columns.get_mut(name) {
                Some(kind) => *kind = kind.and(Kind::of(value)),
                None => {
                    self.columns.insert(name.clone(), Kind::of(value));
                }
            }
        }
        self.lines.write_all(line)
    }

    pub(super) fn finish(self) -> io::Result<Hashed> {
        let fields: Vec<Field> =
            self.columns.iter().map(|(name, kind)| Field::new(name, kind.data_type(), true)).collect();
        let schema = Arc::new(Schema::new(fields));
        let properties = WriterProperties::builder()
            .set_compression(codec(self.compression)?)
            // No version in it: the bytes are the same after an upgrade.
            .set_created_by("pinsched".to_owned())
            .build();
        let output = Hashed::new(self.memory);
        let mut writer = ArrowWriter::try_new(output, Arc::clone(&schema), Some(properties)).map_err(parquet_error)?;
        let mut lines = BufReader::new(self.lines.finish()?.reader());
        loop {
            let records = batch(&mut lines)?;
            if records.is_empty() {
                return writer.into_inner().map_err(parquet_error);
            }
            let arrays = self.columns.iter().map(|(name, kind)| array(name, *kind, &records)).collect();
            let batch = RecordBatch::try_new(Arc::clone(&schema), arrays).map_err(io::Error::other)?;
            writer.write(&batch).map_err(parquet_error)?;
            if writer.in_progress_size() > ROW_GROUP_BYTES {
                writer.flush().map_err(parquet_error)?;
            }
        }
    }
}

fn batch(lines: &mut impl BufRead) -> io::Result<Vec<Map<String, Value>>> {
    let (mut records, mut bytes, mut line) = (Vec::new(), 0, Vec::new());
    while records.len() < BATCH_ROWS && bytes < BATCH_BYTES {
        line.clear();
        bytes += lines.read_until(b'\n', &mut line)?;
        if line.is_empty() {
            break;
        }
        records.push(serde_json::from_slice(&line)?);
    }
    Ok(records)
}

fn array(name: &str, kind: Kind, records: &[Map<String, Value>]) -> ArrayRef {
    let values = records.iter().map(|record| record.get(name).filter(|value| !value.is_null()));
    match kind {
        Kind::Boolean => {
            let mut builder = BooleanBuilder::new();
            values.for_each(|value| builder.append_option(value.and_then(Value::as_bool)));
            Arc::new(builder.finish())
        }
        Kind::Integer => {
            let mut builder = Int64Builder::new();
            values.for_each(|value| builder.append_option(value.and_then(Value::as_i64)));
            Arc::new(builder.finish())
        }
        Kind::Float => {
            let mut builder = Float64Builder::new();
            values.for_each(|value| builder.append_option(value.and_then(Value::as_f64)));
            Arc::new(builder.finish())
        }
        Kind::Null | Kind::Text => {
            let mut builder = StringBuilder::new();
            values.for_each(|value| match value {
                Some(Value::String(text)) => builder.append_value(text),
                Some(other) => builder.append_value(other.to_string()),
                None => builder.append_null(),
            });
            Arc::new(builder.finish())
        }
    }
}

fn codec(compression: Compression) -> io::Result<Codec> {
    Ok(match compression {
        Compression::None => Codec::UNCOMPRESSED,
        Compression::Snappy => Codec::SNAPPY,
        Compression::Gzip => Codec::GZIP(GzipLevel::default()),
        Compression::Zstd => Codec::ZSTD(ZstdLevel::try_new(3).map_err(parquet_error)?),
    })
}

fn parquet_error(error: ParquetError) -> io::Error {
    match error {
        ParquetError::External(source) => match source.downcast::<io::Error>() {
            Ok(error) => *error,
            Err(source) => io::Error::other(source),
        },
        error => io::Error::other(error),
    }
}

#[cfg(test)]
mod tests {
    use arrow::util::pretty::pretty_format_batches;
    use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

    use super::*;

    #[test]
    fn columns_are_typed_by_all_records_in_order_of_appearance() {
        let mut file = ParquetFile::new(Compression::Zstd, 64);
        for line in [
            r#"{"ind":1,"latitude":-88,"country":"Chad","mixed":1,"nested":{"a":[1]},"none":null,"flag":true}"#,
            r#"{"ind":2,"latitude":0.5,"country":null,"mixed":"x","nested":null,"none":null,"late":9007199254740993}"#,
        ] {
            file.append(format!("{line}\n").as_bytes(), &serde_json::from_str(line).unwrap()).unwrap();
        }
        let (body, _) = file.finish().unwrap().finish().unwrap();
        let reader = ParquetRecordBatchReaderBuilder::try_new(body.piece(0, usize::MAX / 2).unwrap()).unwrap();
        let schema: Vec<String> =
            reader.schema().fields().iter().map(|field| format!("{}:{}", field.name(), field.data_type())).collect();
        let batches: Vec<RecordBatch> = reader.build().unwrap().collect::<Result<_, _>>().unwrap();
        insta::assert_snapshot!(
            format!("{}\n{}", schema.join(" "), pretty_format_batches(&batches).unwrap()),
            @r#"
        ind:Int64 latitude:Float64 country:Utf8 mixed:Utf8 nested:Utf8 none:Utf8 flag:Boolean late:Int64
        +-----+----------+---------+-------+-----------+------+------+------------------+
        | ind | latitude | country | mixed | nested    | none | flag | late             |
        +-----+----------+---------+-------+-----------+------+------+------------------+
        | 1   | -88.0    | Chad    | 1     | {"a":[1]} |      | true |                  |
        | 2   | 0.5      |         | x     |           |      |      | 9007199254740993 |
        +-----+----------+---------+-------+-----------+------+------+------------------+
        "#
        );
    }
}
