//! The durable log of one partition: record batches as they came, in segment files with a sparse index. Knows files and
//! batches; knows nothing of requests, topics' names or groups.

pub(crate) mod batch;
pub(crate) mod cursor;
pub(crate) mod index;
pub(crate) mod partition;
pub(crate) mod partition_log;
pub(crate) mod producers;
pub(crate) mod records;
pub(crate) mod recovery;
pub(crate) mod segment;
pub(crate) mod snapshot;
