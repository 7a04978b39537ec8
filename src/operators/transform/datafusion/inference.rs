//! Finds out the columns of JSON records, from every one of them: a type taken from the first thousand fails a job at
//! record 1,001.

use std::collections::BTreeMap;

use datafusion::arrow::datatypes::{DataType, Field, Fields, Schema};
use indexmap::IndexMap;
use serde_json::{Map, Value};

use crate::operators::transform::config::ColumnType;

/// The columns seen so far, in the order in which they came.
#[derive(Debug, Default)]
pub(super) struct Inference {
    columns: IndexMap<String, DataType>,
}

impl Inference {
    /// Looks at a record.
    pub(super) fn add(&mut self, record: &Map<String, Value>) -> Result<(), String> {
        record.iter().try_for_each(|(name, value)| self.merge(name, &kind_of(value).ok_or_else(|| mixed_list(name))?))
    }

    fn merge(&mut self, name: &str, found: &DataType) -> Result<(), String> {
        let Some(known) = self.columns.get_mut(name) else {
            self.columns.insert(name.to_owned(), found.clone());
            return Ok(());
        };
        if known != found {
            *known = merged(known, found).ok_or_else(|| {
                format!("column `{name}` is {} in some records and {} in others", words(known), words(found))
            })?;
        }
        Ok(())
    }

    /// Adds what another looked at.
    pub(super) fn absorb(&mut self, other: &Self) -> Result<(), String> {
        other.columns.iter().try_for_each(|(name, found)| self.merge(name, found))
    }

    /// The columns, those that are `declared` as declared. A column without any value is text.
    pub(super) fn schema(self, declared: &BTreeMap<String, ColumnType>) -> Schema {
        let mut columns = self.columns;
        for (name, column) in declared {
            columns.insert(name.clone(), column.data_type());
        }
        let fields: Vec<Field> =
            columns.into_iter().map(|(name, found)| Field::new(name, without_null(found), true)).collect();
        Schema::new(fields)
    }
}

/// The type of one value; `None` for a list whose items have nothing in common.
fn kind_of(value: &Value) -> Option<DataType> {
    Some(match value {
        Value::Null => DataType::Null,
        Value::Bool(_) => DataType::Boolean,
        Value::Number(number) if number.is_i64() => DataType::Int64,
        Value::Number(number) if number.is_u64() => DataType::UInt64,
        Value::Number(_) => DataType::Float64,
        Value::String(_) => DataType::Utf8,
        Value::Array(items) => {
            let item = items.iter().try_fold(DataType::Null, |known, item| merged(&known, &kind_of(item)?))?;
            DataType::List(Field::new_list_field(item, true).into())
        }
        // An object without fields is no type that a file could hold; the others say what is in it.
        Value::Object(fields) if fields.is_empty() => DataType::Null,
        Value::Object(fields) => {
            let field = |(name, value): (&String, &Value)| Some(Field::new(name, kind_of(value)?, true));
            DataType::Struct(fields.iter().map(field).collect::<Option<_>>()?)
        }
    })
}

fn mixed_list(name: &str) -> String {
    format!("column `{name}` has a list with plain values and lists or objects in it")
}

/// Holds what is signed and what is unsigned, 64 bits each, exactly.
const BOTH_SIGNS: DataType = DataType::Decimal128(20, 0);

/// What holds both: integers beside floats become floats, as everywhere in SQL, but unsigned ones that need all of their 64
/// bits do not, since they would change; other scalars that differ become text. `None` when one is a list or an object and the other is not.
fn merged(a: &DataType, b: &DataType) -> Option<DataType> {
    match (a, b) {
        (a, b) if a == b => Some(a.clone()),
        (DataType::Null, known) | (known, DataType::Null) => Some(known.clone()),
        (DataType::Int64, DataType::Float64) | (DataType::Float64, DataType::Int64) => Some(DataType::Float64),
        (DataType::Int64 | DataType::UInt64, &BOTH_SIGNS)
        | (&BOTH_SIGNS, DataType::Int64 | DataType::UInt64)
        | (DataType::Int64, DataType::UInt64)
        | (DataType::UInt64, DataType::Int64) => Some(BOTH_SIGNS),
        (DataType::List(a), DataType::List(b)) => {
            let item = merged(a.data_type(), b.data_type())?;
            Some(DataType::List(Field::new(a.name(), item, true).into()))
        }
        (DataType::Struct(a), DataType::Struct(b)) => merged_fields(a, b).map(DataType::Struct),
        (a, b) if is_scalar(a) && is_scalar(b) => Some(DataType::Utf8),
        _ => None,
    }
}

fn merged_fields(a: &Fields, b: &Fields) -> Option<Fields> {
    let mut all: IndexMap<&str, DataType> =
        a.iter().map(|field| (field.name().as_str(), field.data_type().clone())).collect();
    for field in b {
        let both = match all.get(field.name().as_str()) {
            Some(known) => merged(known, field.data_type())?,
            None => field.data_type().clone(),
        };
        all.insert(field.name(), both);
    }
    Some(all.into_iter().map(|(name, found)| Field::new(name, found, true)).collect())
}

fn is_scalar(found: &DataType) -> bool {
    use DataType as T;
    matches!(found, T::Boolean | T::Int64 | T::UInt64 | T::Decimal128(..) | T::Float64 | T::Utf8)
}

fn without_null(found: DataType) -> DataType {
    match found {
        DataType::Null => DataType::Utf8,
        DataType::List(item) => {
            let inner = without_null(item.data_type().clone());
            DataType::List(Field::new(item.name(), inner, true).into())
        }
        DataType::Struct(fields) => {
            let inner =
                |field: &std::sync::Arc<Field>| Field::new(field.name(), without_null(field.data_type().clone()), true);
            DataType::Struct(fields.iter().map(inner).collect())
        }
        other => other,
    }
}

fn words(found: &DataType) -> &'static str {
    match found {
        DataType::List(_) => "a list",
        DataType::Struct(_) => "an object",
        _ => "a plain value",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn schema(records: &[Value]) -> Result<Vec<(String, DataType)>, String> {
        let mut inference = Inference::default();
        for record in records {
            inference.add(record.as_object().unwrap())?;
        }
        let schema = inference.schema(&BTreeMap::from([("day".to_owned(), ColumnType::Date)]));
        Ok(schema.fields().iter().map(|field| (field.name().clone(), field.data_type().clone())).collect())
    }

    #[test]
    fn types_hold_every_record_in_whatever_order() {
        let mut records = vec![
            json!({"a": 1, "b": 2, "c": "9", "d": null, "day": "2020-01-01"}),
            json!({"a": 1.5, "b": "x", "c": "10", "d": null, "e": [null]}),
            json!({"a": null, "e": ["x"]}),
        ];
        for _ in 0..2 {
            let found: BTreeMap<String, DataType> = schema(&records).unwrap().into_iter().collect();
            assert_eq!(found["a"], DataType::Float64);
            assert_eq!(found["b"], DataType::Utf8);
            assert_eq!(found["c"], DataType::Utf8);
            assert_eq!(found["d"], DataType::Utf8);
            assert_eq!(found["day"], DataType::Date32);
            let DataType::List(item) = &found["e"] else { panic!("{found:?}") };
            assert_eq!(*item.data_type(), DataType::Utf8);
            records.reverse();
        }
    }

    #[test]
    fn unsigned_integers_keep_their_last_digit() {
        let mut records = vec![
            json!({"a": u64::MAX, "b": u64::MAX, "c": u64::MAX}),
            json!({"a": u64::MAX, "b": -1, "c": 0.5}),
            json!({"a": u64::MAX, "b": 2, "c": -1}),
        ];
        for _ in 0..2 {
            let found: BTreeMap<String, DataType> = schema(&records).unwrap().into_iter().collect();
            assert_eq!(found["a"], DataType::UInt64);
            assert_eq!(found["b"], DataType::Decimal128(20, 0));
            assert_eq!(found["c"], DataType::Utf8);
            records.reverse();
        }
    }

    #[test]
    fn a_list_is_no_plain_value() {
        let error = schema(&[json!({"a": [1]}), json!({"a": {"b": 1}})]).unwrap_err();
        assert_eq!(error, "column `a` is a list in some records and an object in others");
        let error = schema(&[json!({"a": [1, [2]]})]).unwrap_err();
        assert_eq!(error, "column `a` has a list with plain values and lists or objects in it");
    }
}
