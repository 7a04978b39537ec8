//! NDJSON files of the scratch folder as a table.

use std::fs::File;
use std::io::BufReader;
use std::path::PathBuf;
use std::sync::Arc;

use datafusion::arrow::datatypes::SchemaRef;
use datafusion::arrow::error::ArrowError;
use datafusion::arrow::json::ReaderBuilder;
use datafusion::catalog::streaming::StreamingTable;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::streaming::PartitionStream;

/// A table whose records lie in these files; each is a partition.
pub(super) fn table(files: Vec<PathBuf>, schema: &SchemaRef) -> Result<StreamingTable> {
    let partition = |file| -> Arc<dyn PartitionStream> { Arc::new(Records { file, schema: Arc::clone(schema) }) };
    StreamingTable::try_new(Arc::clone(schema), files.into_iter().map(partition).collect())
}

#[derive(Debug)]
struct Records {
    file: PathBuf,
    schema: SchemaRef,
}

impl PartitionStream for Records {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, context: Arc<TaskContext>) -> SendableRecordBatchStream {
        let batches = self.read(context.session_config().batch_size());
        let batches: Box<dyn Iterator<Item = Result<_>> + Send> = match batches {
            Ok(batches) => Box::new(batches),
            Err(error) => Box::new(std::iter::once(Err(error))),
        };
        // Reading a local file blocks for the time of a copy from the page cache: these threads are there for that.
        let stream = futures::stream::iter(batches);
        Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&self.schema), stream))
    }
}

impl Records {
    fn read(
        &self,
        batch_size: usize,
    ) -> Result<impl Iterator<Item = Result<datafusion::arrow::array::RecordBatch>> + Send + use<>> {
        let file = BufReader::with_capacity(256 * 1024, File::open(&self.file)?);
        let reader = ReaderBuilder::new(Arc::clone(&self.schema))
            // A column that is a number here and text there is text: `12` reads as "12".
            .with_coerce_primitive(true)
            .with_batch_size(batch_size)
            .build(file)?;
        Ok(reader.map(|batch: Result<_, ArrowError>| batch.map_err(DataFusionError::from)))
    }
}
