//! Values of a source database as JSON, written straight into a buffer.
//!
//! Integers and floats are numbers (a FLOAT in its shortest form: 1.1, not 1.10000002), decimals are strings so that no
//! digit is lost, dates and times are ISO 8601 without a zone unless the type has one, MySQL's BOOLEAN is 0 or 1 (it
//! is a TINYINT), JSON columns are JSON (MariaDB's are text: it has no type of that name but a LONGTEXT).

use chrono::{DateTime, NaiveDate, NaiveDateTime, Utc};
use serde_json::value::RawValue;
use sqlx::mysql::{MySql, MySqlRow, MySqlTypeInfo};
use sqlx::postgres::{PgRow, PgTypeInfo, PgTypeKind};
use sqlx::types::JsonRawValue;
use sqlx::{Database, Decode, Row, Type, TypeInfo as _};

/// How a column's values become JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Integer,
    Unsigned,
    Float,
    Double,
    Boolean,
    Date,
    DateTime,
    Instant,
    Text,
    Json,
    /// The database makes text of it: decimals, times, UUIDs, enums.
    AsText,
}

impl Kind {
    /// By the names that sqlx gives to MySQL's types.
    pub(super) fn of_mysql(found: &MySqlTypeInfo) -> Option<Self> {
        Some(match found.name() {
            "BOOLEAN" | "TINYINT" | "SMALLINT" | "MEDIUMINT" | "INT" | "BIGINT" => Self::Integer,
            "TINYINT UNSIGNED" | "SMALLINT UNSIGNED" | "MEDIUMINT UNSIGNED" | "INT UNSIGNED" | "BIGINT UNSIGNED" => {
                Self::Unsigned
            }
            "FLOAT" => Self::Float,
            "DOUBLE" => Self::Double,
            "DATE" => Self::Date,
            "DATETIME" => Self::DateTime,
            "TIMESTAMP" => Self::Instant,
            "CHAR" | "VARCHAR" | "TINYTEXT" | "TEXT" | "MEDIUMTEXT" | "LONGTEXT" | "ENUM" | "SET" => Self::Text,
            "JSON" => Self::Json,
            "DECIMAL" | "TIME" | "YEAR" => Self::AsText,
            // Text whose collation compares bytes (`utf8mb4_bin`) carries the flag by which sqlx names types binary. What
            // is none has the collation `binary`, which no string is compatible with.
            "BINARY" | "VARBINARY" | "TINYBLOB" | "BLOB" | "MEDIUMBLOB" | "LONGBLOB"
                if <str as Type<MySql>>::compatible(found) =>
            {
                Self::Text
            }
            _ => return None,
        })
    }

    /// By the names that sqlx gives to Postgres's types.
    pub(super) fn of_postgres(found: &PgTypeInfo) -> Option<Self> {
        Some(match found.name() {
            "INT2" | "INT4" | "INT8" => Self::Integer,
            "FLOAT4" => Self::Float,
            "FLOAT8" => Self::Double,
            "BOOL" => Self::Boolean,
            "DATE" => Self::Date,
            "TIMESTAMP" => Self::DateTime,
            "TIMESTAMPTZ" => Self::Instant,
            "TEXT" | "VARCHAR" | "CHAR" | "NAME" => Self::Text,
            "JSON" | "JSONB" => Self::Json,
            "NUMERIC" | "TIME" | "TIMETZ" | "UUID" | "\"CHAR\"" | "INET" | "CIDR" | "MACADDR" | "citext" => {
                Self::AsText
            }
            _ if matches!(found.kind(), PgTypeKind::Enum(_)) => Self::AsText,
            _ => return None,
        })
    }
}

/// Writes the value at `position`; the text of an error completes "column … holds …".
pub(super) fn encode_mysql(row: &MySqlRow, position: usize, kind: Kind, out: &mut Vec<u8>) -> Result<(), String> {
    match kind {
        // Whatever its width, an integer is decoded as the widest.
        Kind::Integer => number(unchecked::<_, i64>(row, position)?, out),
        Kind::Boolean => json(&get::<_, bool>(row, position)?, out),
        Kind::Unsigned => number(unchecked::<_, u64>(row, position)?, out),
        Kind::Instant => instant(unchecked::<_, DateTime<Utc>>(row, position)?, out),
        Kind::Json => raw(unchecked::<_, String>(row, position)?.as_deref(), out),
        Kind::Text | Kind::AsText => json(&unchecked::<_, String>(row, position)?, out),
        Kind::Float => float(get::<_, f32>(row, position)?, out),
        Kind::Double => float(get::<_, f64>(row, position)?, out),
        Kind::Date => date(get(row, position)?, out),
        Kind::DateTime => date_time(get(row, position)?, out),
    }
}

/// Writes the value at `position`; the text of an error completes "column … holds …".
pub(super) fn encode_postgres(row: &PgRow, position: usize, kind: Kind, out: &mut Vec<u8>) -> Result<(), String> {
    match kind {
        Kind::Integer | Kind::Unsigned => number(postgres_integer(row, position)?, out),
        Kind::Boolean => json(&get::<_, bool>(row, position)?, out),
        Kind::Instant => instant(get::<_, DateTime<Utc>>(row, position)?, out),
        Kind::Json => raw(get::<_, &JsonRawValue>(row, position)?.map(JsonRawValue::get), out),
        Kind::Text | Kind::AsText => json(&get::<_, &str>(row, position)?, out),
        Kind::Float => float(get::<_, f32>(row, position)?, out),
        Kind::Double => float(get::<_, f64>(row, position)?, out),
        Kind::Date => date(get(row, position)?, out),
        Kind::DateTime => date_time(get(row, position)?, out),
    }
}

/// Postgres sends an integer at its own width.
fn postgres_integer(row: &PgRow, position: usize) -> Result<Option<i64>, String> {
    if let Ok(value) = row.try_get::<Option<i32>, _>(position) {
        return Ok(value.map(i64::from));
    }
    match row.try_get::<Option<i64>, _>(position) {
        Ok(value) => Ok(value),
        Err(_) => Ok(get::<_, i16>(row, position)?.map(i64::from)),
    }
}

fn get<'r, R, T>(row: &'r R, position: usize) -> Result<Option<T>, String>
where
    R: Row,
    usize: sqlx::ColumnIndex<R>,
    T: Decode<'r, R::Database> + Type<R::Database>,
{
    row.try_get(position).map_err(|error| unreadable(&error))
}

/// The same without asking whether the column's type is exactly the wanted one.
fn unchecked<'r, R, T>(row: &'r R, position: usize) -> Result<Option<T>, String>
where
    R: Row,
    usize: sqlx::ColumnIndex<R>,
    T: Decode<'r, R::Database>,
    R::Database: Database,
{
    row.try_get_unchecked(position).map_err(|error| unreadable(&error))
}

fn unreadable(error: &sqlx::Error) -> String {
    match error {
        sqlx::Error::ColumnDecode { source, .. } => format!("a value that cannot be read ({source})"),
        error => format!("a value that cannot be read ({error})"),
    }
}

fn json<T: serde::Serialize>(value: &T, out: &mut Vec<u8>) -> Result<(), String> {
    serde_json::to_writer(out, value).map_err(|error| format!("a value that JSON cannot ({error})"))
}

fn number<T: serde::Serialize>(value: Option<T>, out: &mut Vec<u8>) -> Result<(), String> {
    json(&value, out)
}

fn float<T: serde::Serialize + Into<f64> + Copy>(value: Option<T>, out: &mut Vec<u8>) -> Result<(), String> {
    match value {
        Some(value) if !value.into().is_finite() => Err(format!("{}, which JSON cannot", value.into())),
        value => json(&value, out),
    }
}

fn raw(value: Option<&str>, out: &mut Vec<u8>) -> Result<(), String> {
    let Some(text) = value else { return json(&value, out) };
    let value: &RawValue = serde_json::from_str(text).map_err(|error| format!("JSON that is none ({error})"))?;
    // A staged row is one line; a line break in JSON's text can only be blank between its tokens.
    out.extend(value.get().bytes().map(|byte| if matches!(byte, b'\n' | b'\r') { b' ' } else { byte }));
    Ok(())
}

fn date(value: Option<NaiveDate>, out: &mut Vec<u8>) -> Result<(), String> {
    json(&value.map(|date| date.to_string()), out)
}

fn date_time(value: Option<NaiveDateTime>, out: &mut Vec<u8>) -> Result<(), String> {
    json(&value.map(|at| at.format("%Y-%m-%dT%H:%M:%S%.f").to_string()), out)
}

fn instant(value: Option<DateTime<Utc>>, out: &mut Vec<u8>) -> Result<(), String> {
    json(&value.map(|at| at.format("%Y-%m-%dT%H:%M:%S%.fZ").to_string()), out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(write: impl Fn(&mut Vec<u8>) -> Result<(), String>) -> Result<String, String> {
        let mut out = Vec::new();
        write(&mut out).map(|()| String::from_utf8(out).unwrap())
    }

    #[test]
    fn floats_are_written_in_their_shortest_form() {
        assert_eq!(written(|out| float(Some(1.1_f32), out)), Ok("1.1".to_owned()));
        assert_eq!(written(|out| float(Some(-170.188_f32), out)), Ok("-170.188".to_owned()));
        assert_eq!(written(|out| float(Some(f64::NAN), out)), Err("NaN, which JSON cannot".to_owned()));
        assert_eq!(written(|out| float(None::<f32>, out)), Ok("null".to_owned()));
    }

    #[test]
    fn times_carry_a_fraction_only_where_there_is_one() {
        let at = NaiveDate::from_ymd_opt(2020, 8, 28).unwrap().and_hms_milli_opt(3, 52, 47, 0).unwrap();
        assert_eq!(written(|out| date_time(Some(at), out)), Ok("\"2020-08-28T03:52:47\"".to_owned()));
        assert_eq!(written(|out| instant(Some(at.and_utc()), out)), Ok("\"2020-08-28T03:52:47Z\"".to_owned()));
        let at = at + chrono::TimeDelta::milliseconds(120);
        assert_eq!(written(|out| date_time(Some(at), out)), Ok("\"2020-08-28T03:52:47.120\"".to_owned()));
    }

    #[test]
    fn json_columns_stay_json_on_one_line() {
        assert_eq!(written(|out| raw(Some("{\"b\": 1,\n \"a\": []}"), out)), Ok("{\"b\": 1,  \"a\": []}".to_owned()));
    }
}
