//! Parquet objects: the records wait as JSON lines until the object is full and its columns' types are known.
//!
//! A column is boolean, a 64-bit integer (unsigned where one needs it), a 64-bit float or text by all of the object's
//! records. Integers beside floats become floats as long as each is the same as a float; any other mixture, integers of
//! more than 64 bits and what is nested become text that holds the JSON as it was written. So no number changes but a
//! fraction of more digits than a float has. Columns stand in the order in which they first appear, and may all be null.

use std::collections::HashMap;
use std::io::{self, BufRead, BufReader};
use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanBuilder, Float64Builder, Int64Builder, RecordBatch, StringBuilder, UInt64Builder};
use arrow::datatypes::{DataType, Field, Schema};
use indexmap::IndexMap;
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression as Codec, GzipLevel, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;
use serde_json::value::RawValue;
use serde_json::{Map, Number, Value};

use super::spool::{Body, Hashed, READ_BYTES};
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
    Number(Numbers),
    Text,
}

/// What the type of a column of numbers depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Numbers {
    has_negative: bool,
    has_fraction: bool,
    widest: Width,
}

/// What an integer takes at least.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Width {
    /// As many digits as a float has, too.
    Float,
    Signed,
    Unsigned,
    /// More than 64 bits.
    Beyond,
}

/// Up to this every integer is the same as a float.
const LARGEST_IN_FLOAT: u64 = 1 << 53;

impl Numbers {
    fn of(number: &Number) -> Self {
        let (has_negative, widest) = match (number.as_i64(), number.as_u64()) {
            (Some(signed), _) if signed.unsigned_abs() <= LARGEST_IN_FLOAT => (signed < 0, Width::Float),
            (Some(signed), _) => (signed < 0, Width::Signed),
            (None, Some(_)) => (false, Width::Unsigned),
            (None, None) => return Self { has_negative: false, has_fraction: true, widest: Width::Float },
        };
        Self { has_negative, has_fraction: false, widest }
    }

    fn and(self, other: Self) -> Self {
        Self {
            has_negative: self.has_negative || other.has_negative,
            has_fraction: self.has_fraction || other.has_fraction,
            widest: self.widest.max(other.widest),
        }
    }

    fn data_type(self) -> DataType {
        match (self.has_fraction, self.widest) {
            (true, Width::Float) => DataType::Float64,
            (false, Width::Float | Width::Signed) => DataType::Int64,
            (false, Width::Unsigned) if !self.has_negative => DataType::UInt64,
            _ => DataType::Utf8,
        }
    }
}

impl Kind {
    fn of(value: &Value) -> Self {
        match value {
            Value::Null => Self::Null,
            Value::Bool(_) => Self::Boolean,
            Value::Number(number) => Self::Number(Numbers::of(number)),
            Value::String(_) | Value::Array(_) | Value::Object(_) => Self::Text,
        }
    }

    fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Null, kind) | (kind, Self::Null) => kind,
            (Self::Number(a), Self::Number(b)) => Self::Number(a.and(b)),
            (a, b) if a == b => a,
            _ => Self::Text,
        }
    }

    fn data_type(self) -> DataType {
        match self {
            Self::Boolean => DataType::Boolean,
            Self::Number(numbers) => numbers.data_type(),
            Self::Null | Self::Text => DataType::Utf8,
        }
    }
}

/// The columns of an object that is being filled.
#[derive(Debug, Default)]
pub(super) struct Columns(IndexMap<String, Kind>);

impl Columns {
    /// Looks at a record: its line, and the fields in it.
    pub(super) fn add(&mut self, line: &[u8], fields: &Map<String, Value>) -> io::Result<()> {
        for (name, value) in fields {
            let mut kind = Kind::of(value);
            if value.as_f64().is_some_and(|float| value.is_f64() && float.abs() >= LARGEST_IN_FLOAT as f64)
                && is_whole(line, name)?
            {
                kind = Kind::Number(Numbers { has_negative: false, has_fraction: false, widest: Width::Beyond });
            }
            match self.0.get_mut(name) {
                Some(known) => *known = known.and(kind),
                None => {
                    self.0.insert(name.clone(), kind);
                }
            }
        }
        Ok(())
    }
}

/// Whether a number was written as an integer: serde makes a float of one that is too large for it.
fn is_whole(line: &[u8], name: &str) -> io::Result<bool> {
    let fields: Record = serde_json::from_slice(line)?;
    Ok(fields.get(name).is_some_and(|raw| !raw.get().contains(['.', 'e', 'E'])))
}

/// A record's values as they were written.
type Record = HashMap<String, Box<RawValue>>;

/// Turns the lines into Parquet.
pub(super) fn write(lines: &Body, columns: &Columns, compression: Compression, output: Hashed) -> io::Result<Hashed> {
    let fields: Vec<Field> = columns.0.iter().map(|(name, kind)| Field::new(name, kind.data_type(), true)).collect();
    let schema = Arc::new(Schema::new(fields));
    let properties = WriterProperties::builder()
        .set_compression(codec(compression)?)
        // No version in it: the bytes are the same after an upgrade.
        .set_created_by("pinsched".to_owned())
        .build();
    let mut writer = ArrowWriter::try_new(output, Arc::clone(&schema), Some(properties)).map_err(parquet_error)?;
    let mut lines = BufReader::with_capacity(READ_BYTES, lines.reader());
    loop {
        let records = batch(&mut lines)?;
        if records.is_empty() {
            return writer.into_inner().map_err(parquet_error);
        }
        let arrays = schema.fields().iter().map(|field| array(field.name(), field.data_type(), &records));
        let arrays = arrays.collect::<io::Result<_>>()?;
        let batch = RecordBatch::try_new(Arc::clone(&schema), arrays).map_err(io::Error::other)?;
        writer.write(&batch).map_err(parquet_error)?;
        if writer.in_progress_size() > ROW_GROUP_BYTES {
            writer.flush().map_err(parquet_error)?;
        }
    }
}

fn batch(lines: &mut impl BufRead) -> io::Result<Vec<Record>> {
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

fn array(name: &str, data_type: &DataType, records: &[Record]) -> io::Result<ArrayRef> {
    let values = records.iter().map(|record| record.get(name).map(|raw| raw.get()).filter(|raw| *raw != "null"));
    Ok(match data_type {
        DataType::Boolean => {
            let mut builder = BooleanBuilder::new();
            values.for_each(|value| builder.append_option(value.map(|raw| raw == "true")));
            Arc::new(builder.finish())
        }
        DataType::Int64 => {
            let mut builder = Int64Builder::new();
            values.for_each(|value| builder.append_option(value.and_then(|raw| raw.parse().ok())));
            Arc::new(builder.finish())
        }
        DataType::UInt64 => {
            let mut builder = UInt64Builder::new();
            values.for_each(|value| builder.append_option(value.and_then(|raw| raw.parse().ok())));
            Arc::new(builder.finish())
        }
        DataType::Float64 => {
            let mut builder = Float64Builder::new();
            values.for_each(|value| builder.append_option(value.and_then(|raw| raw.parse().ok())));
            Arc::new(builder.finish())
        }
        _ => {
            let mut builder = StringBuilder::new();
            for value in values {
                match value {
                    Some(text) if text.starts_with('"') => builder.append_value(serde_json::from_str::<String>(text)?),
                    Some(other) => builder.append_value(other),
                    None => builder.append_null(),
                }
            }
            Arc::new(builder.finish())
        }
    })
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
    use std::io::Write as _;

    use arrow::util::pretty::pretty_format_batches;
    use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

    use super::super::spool::{Scratch, Spool};
    use super::*;

    fn table(lines: &[&str]) -> String {
        let scratch = Arc::new(Scratch::default());
        let mut spool = Spool::new(Arc::clone(&scratch), 64);
        let mut columns = Columns::default();
        for line in lines {
            columns.add(line.as_bytes(), &serde_json::from_str(line).unwrap()).unwrap();
            writeln!(spool, "{line}").unwrap();
        }
        let output = write(&spool.finish().unwrap(), &columns, Compression::Zstd, Hashed::new(scratch, 64)).unwrap();
        let (body, _) = output.finish().unwrap();
        let reader = ParquetRecordBatchReaderBuilder::try_new(body.piece(0, usize::MAX / 2).unwrap()).unwrap();
        let schema: Vec<String> =
            reader.schema().fields().iter().map(|field| format!("{}:{}", field.name(), field.data_type())).collect();
        let batches: Vec<RecordBatch> = reader.build().unwrap().collect::<Result<_, _>>().unwrap();
        format!("{}\n{}", schema.join(" "), pretty_format_batches(&batches).unwrap())
    }

    #[test]
    fn columns_are_typed_by_all_records_in_order_of_appearance() {
        let lines = [
            r#"{"ind":1,"latitude":-88,"country":"Chad","mixed":1,"nested":{"a":[1]},"none":null,"flag":true}"#,
            r#"{"ind":2,"latitude":0.5,"country":null,"mixed":"x","nested":null,"none":null,"late":9007199254740993}"#,
        ];
        insta::assert_snapshot!(table(&lines), @r#"
        ind:Int64 latitude:Float64 country:Utf8 mixed:Utf8 nested:Utf8 none:Utf8 flag:Boolean late:Int64
        +-----+----------+---------+-------+-----------+------+------+------------------+
        | ind | latitude | country | mixed | nested    | none | flag | late             |
        +-----+----------+---------+-------+-----------+------+------+------------------+
        | 1   | -88.0    | Chad    | 1     | {"a":[1]} |      | true |                  |
        | 2   | 0.5      |         | x     |           |      |      | 9007199254740993 |
        +-----+----------+---------+-------+-----------+------+------+------------------+
        "#);
    }

    #[test]
    fn no_number_changes() {
        let lines = [
            r#"{"unsigned":18446744073709551615,"wide":-1,"beside":9007199254740993,"huge":123456789012345678901,"far":6.02e23}"#,
            r#"{"unsigned":0,"wide":18446744073709551615,"beside":1.50,"huge":"\u0041","far":2.2250738585072011e-308}"#,
        ];
        insta::assert_snapshot!(table(&lines), @r#"
        unsigned:UInt64 wide:Utf8 beside:Utf8 huge:Utf8 far:Float64
        +----------------------+----------------------+------------------+-----------------------+------------------------+
        | unsigned             | wide                 | beside           | huge                  | far                    |
        +----------------------+----------------------+------------------+-----------------------+------------------------+
        | 18446744073709551615 | -1                   | 9007199254740993 | 123456789012345678901 | 6.02e23                |
        | 0                    | 18446744073709551615 | 1.50             | A                     | 2.225073858507201e-308 |
        +----------------------+----------------------+------------------+-----------------------+------------------------+
        "#);
    }
}
