//! The first rows of a result as JSON, for the run's output.

use std::collections::HashSet;

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::Schema;
use datafusion::arrow::error::ArrowError;
use datafusion::arrow::json::WriterBuilder;
use datafusion::arrow::json::writer::LineDelimited;
use serde_json::{Map, Value};

/// As many as a terminal shows below the tables of the other results.
const PREVIEW_ROWS: usize = 10;

/// Counts the rows that pass, and keeps the first.
#[derive(Debug)]
pub(super) struct Preview {
    pub(super) columns: Vec<String>,
    pub(super) rows: u64,
    pub(super) first: Vec<Vec<Value>>,
}

impl Preview {
    pub(super) fn new(schema: &Schema) -> Self {
        let columns = schema.fields().iter().map(|field| field.name().clone()).collect();
        Self { columns, rows: 0, first: Vec::new() }
    }

    /// The name of a column that comes twice.
    pub(super) fn repeated_column(&self) -> Option<&str> {
        let mut seen = HashSet::new();
        self.columns.iter().find(|name| !seen.insert(name.as_str())).map(String::as_str)
    }

    pub(super) fn add(&mut self, batch: &RecordBatch) -> Result<(), ArrowError> {
        self.rows += batch.num_rows() as u64;
        let wanted = PREVIEW_ROWS.saturating_sub(self.first.len()).min(batch.num_rows());
        if wanted == 0 {
            return Ok(());
        }
        let mut writer = WriterBuilder::new().with_explicit_nulls(true).build::<_, LineDelimited>(Vec::new());
        writer.write(&batch.slice(0, wanted))?;
        writer.finish()?;
        let rows = serde_json::Deserializer::from_slice(writer.get_ref()).into_iter::<Map<String, Value>>();
        for row in rows {
            let row = row.map_err(|error| ArrowError::JsonError(error.to_string()))?;
            self.first.push(self.columns.iter().map(|name| row.get(name).cloned().unwrap_or_default()).collect());
        }
        Ok(())
    }
}
