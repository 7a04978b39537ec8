//! What tasks leave (Airflow's XCom): how large it may be, where it goes when it is too large for a row, and how it is
//! fetched from there.
//!
//! A large output is one object, written before the step that records it and named by run, task and fence: an attempt that
//! is killed in between leaves an object that nobody refers to, which goes with its run.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde_json::Value;
use sha2::{Digest, Sha256};
use tokio::sync::{Mutex, OnceCell};

use crate::connect::S3Endpoint;
use crate::connect::s3::{PutOptions, S3, S3Error};
use crate::domain::byte_size::parse_byte_size;
use crate::domain::ids::{AttemptKey, RunKey};
use crate::domain::task_output::{INLINE_LIMIT, InstanceOutput, Listed, OUTPUT_LIMIT, Spilled, TaskOutput, json_size};
use crate::engine::operator::{Failure, Output, chain};
use crate::store::Store;

/// How long an output may take to come back: 64 MiB at 1 MB/s.
const FETCH_LIMIT: Duration = Duration::from_secs(60);

/// So many runs' outputs are looked up at once when they are deleted.
const DELETED_AT_ONCE: i64 = 100;

/// How large outputs may be, and where large ones go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutputLimits {
    /// What is larger does not go into a row (`outputs.inline_limit`).
    pub inline: u64,
    /// What is larger is refused (`outputs.limit`).
    pub most: u64,
    /// Where what is too large for a row goes (`outputs.spill_to`); without it that is refused.
    pub spill_to: Option<SpillPlace>,
}

impl Default for OutputLimits {
    fn default() -> Self {
        let bytes = |text| parse_byte_size(text).expect("the defaults are sizes");
        Self { inline: bytes(INLINE_LIMIT), most: bytes(OUTPUT_LIMIT), spill_to: None }
    }
}

/// A bucket, and what the names of objects in it start with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpillPlace {
    /// The bucket.
    pub bucket: String,
    /// The beginning of the names, without a slash at its end; may be empty.
    pub prefix: String,
}

/// The bucket and the rest of an `s3://` URL.
fn split(url: &str) -> Option<(&str, &str)> {
    let rest = url.strip_prefix("s3://")?;
    let (bucket, key) = rest.split_once('/').unwrap_or((rest, ""));
    (!bucket.is_empty()).then_some((bucket, key))
}

/// Why an output could not be kept or fetched.
#[derive(Debug, thiserror::Error)]
pub enum OutputError {
    /// It is larger than any may be.
    #[error(
        "the output is {bytes} bytes of JSON, and `outputs.limit` (PINSCHED_OUTPUTS_LIMIT) allows {limit}: write the data \
         to object storage in the task, and leave its URL"
    )]
    TooLarge {
        /// Its size.
        bytes: u64,
        /// What is allowed.
        limit: u64,
    },
    /// What the instances of a mapped task left is together larger than any output may be.
    #[error(
        "what the instances of the mapped task left is {bytes} bytes of JSON together, and `outputs.limit` \
         (PINSCHED_OUTPUTS_LIMIT) allows a task that reads it {limit}: let each instance write its data to object storage \
         and leave its URL, or raise the limit"
    )]
    ListTooLarge {
        /// Their size.
        bytes: u64,
        /// What is allowed.
        limit: u64,
    },
    /// It is too large for a row, and there is nowhere else.
    #[error(
        "the output is {bytes} bytes of JSON, `outputs.inline_limit` (PINSCHED_OUTPUTS_INLINE_LIMIT) allows {limit} in the \
         database, and there is no object storage for more: set `outputs.spill_to` (PINSCHED_OUTPUTS_SPILL_TO) to \
         s3://bucket/prefix, or raise the limit"
    )]
    NowhereToSpill {
        /// Its size.
        bytes: u64,
        /// What is allowed in a row.
        limit: u64,
    },
    /// Its place cannot be read.
    #[error("the output's place `{0}` is no s3:// URL")]
    BadPlace(String),
    /// The object store refused or did not answer.
    #[error("the output could not be {what} object storage")]
    Store {
        /// `put into`, `fetched from`, `looked for in` or `deleted from`.
        what: &'static str,
        /// Why.
        #[source]
        source: S3Error,
    },
    /// It took too long.
    #[error("the output at {url} did not come within {} s", FETCH_LIMIT.as_secs())]
    Slow {
        /// Where it is.
        url: String,
    },
    /// What is there is something else.
    #[error("the object at {url} is not the output that was put there")]
    Changed {
        /// Where it is.
        url: String,
    },
    /// pinsched's own state.
    #[error(transparent)]
    State(#[from] crate::store::StoreError),
}

impl From<OutputError> for Failure {
    fn from(error: OutputError) -> Self {
        match &error {
            OutputError::TooLarge { .. }
            | OutputError::ListTooLarge { .. }
            | OutputError::NowhereToSpill { .. }
            | OutputError::BadPlace(_)
            | OutputError::Changed { .. } => Self::fatal(&error),
            OutputError::Store { source, .. } if !source.is_transient() => Self::fatal(&error),
            OutputError::Store { .. } | OutputError::Slow { .. } | OutputError::State(_) => Self::retry(&error),
        }
    }
}

/// Keeps and fetches large outputs; its client is made when it is first needed.
#[derive(Debug)]
pub struct OutputStore {
    limits: OutputLimits,
    endpoint: S3Endpoint,
    client: OnceCell<S3>,
    /// Lists of instances' outputs are read one after the other: what one attempt has read, the next need not.
    reading: Mutex<()>,
}

impl OutputStore {
    /// Of that object store, within these limits.
    #[must_use]
    pub fn new(endpoint: S3Endpoint, limits: OutputLimits) -> Self {
        Self { limits, endpoint, client: OnceCell::new(), reading: Mutex::new(()) }
    }

    /// The largest output that there may be.
    #[must_use]
    pub fn most(&self) -> u64 {
        self.limits.most
    }

    async fn client(&self) -> &S3 {
        self.client.get_or_init(|| S3::connect(&self.endpoint)).await
    }

    /// An output that stays in its row, however large that gets within the limit for all: what follows from a decision
    /// is looked up there.
    ///
    /// # Errors
    /// When it is too large for any.
    pub fn keep_in_row(&self, output: Output) -> Result<TaskOutput, Failure> {
        let output = Value::Object(output);
        let (bytes, limit) = (json_size(&output), self.limits.most);
        if bytes > limit { Err(OutputError::TooLarge { bytes, limit }.into()) } else { Ok(TaskOutput::here(output)) }
    }

    /// An output as it is recorded: as it is, or where it was put.
    ///
    /// # Errors
    /// When it is too large, or cannot be put where it should go.
    pub async fn keep(&self, store: &Store, attempt: AttemptKey, output: Output) -> Result<TaskOutput, OutputError> {
        let output = Value::Object(output);
        let bytes = json_size(&output);
        let OutputLimits { inline, most, spill_to } = &self.limits;
        if bytes > *most {
            return Err(OutputError::TooLarge { bytes, limit: *most });
        }
        if bytes <= *inline {
            return Ok(TaskOutput::here(output));
        }
        let place = spill_to.as_ref().ok_or(OutputError::NowhereToSpill { bytes, limit: *inline })?;
        let body = Bytes::from(output.to_string());
        drop(output);
        let folder = [place.prefix.as_str(), &attempt.run_uuid.to_string()].join("/");
        let folder = folder.trim_start_matches('/');
        let key = format!("{folder}/{}/{}.json", attempt.task_run.task.0, attempt.fence);
        // What is deleted with the run is known before anything is there.
        store.note_spill(attempt.task_run.run, &format!("s3://{}/{folder}/", place.bucket)).await?;
        let sha256 = hex(&body);
        let failed = |source| OutputError::Store { what: "put into", source };
        let client = self.client().await;
        if self.endpoint.create_buckets {
            client.ensure_bucket(&place.bucket).await.map_err(failed)?;
        }
        let options = PutOptions { content_type: "application/json", ..PutOptions::default() };
        client.put(&place.bucket, &key, body, options).await.map_err(failed)?;
        Ok(TaskOutput::Spilled(Arc::new(Spilled { url: format!("s3://{}/{key}", place.bucket), bytes, sha256 })))
    }

    /// What the instances of a mapped task of a run left, unless it is too large together; what of it is in object storage
    /// is still to be fetched.
    ///
    /// # Errors
    /// When it is too large, or the database does not answer.
    pub async fn list(&self, store: &Store, run: RunKey, listed: &Listed) -> Result<TaskOutput, OutputError> {
        let _turn = self.reading.lock().await;
        if let Some(read) = listed.read.get() {
            return Ok(read.clone());
        }
        let (bytes, limit) = (store.size_of_outputs(run, listed.task).await?, self.limits.most);
        if bytes > limit {
            return Err(OutputError::ListTooLarge { bytes, limit });
        }
        let read = store.list_outputs(run, listed.task).await?;
        Ok(listed.read.get_or_init(|| read).clone())
    }

    /// The output itself, wherever it is.
    ///
    /// # Errors
    /// When it does not come, or is not what was put there.
    pub async fn fetch(&self, left: &TaskOutput) -> Result<TaskOutput, OutputError> {
        match left {
            TaskOutput::Here(_) | TaskOutput::Listed(_) => Ok(left.clone()),
            TaskOutput::Spilled(spilled) => self.fetch_one(spilled).await.map(TaskOutput::here),
            TaskOutput::Each(several) => {
                let mut all = Vec::with_capacity(several.len());
                for one in several.iter() {
                    let output = match &one.output {
                        TaskOutput::Spilled(spilled) => TaskOutput::here(self.fetch_one(spilled).await?),
                        output @ (TaskOutput::Here(_) | TaskOutput::Each(_) | TaskOutput::Listed(_)) => output.clone(),
                    };
                    all.push(InstanceOutput { map_index: one.map_index, output });
                }
                Ok(TaskOutput::each(all))
            }
        }
    }

    /// An output that was put aside.
    ///
    /// # Errors
    /// As [`Self::fetch`].
    pub async fn fetch_one(&self, spilled: &Spilled) -> Result<Value, OutputError> {
        let url = || spilled.url.clone();
        let (bucket, key) = split(&spilled.url).ok_or_else(|| OutputError::BadPlace(url()))?;
        let got = tokio::time::timeout(FETCH_LIMIT, async { self.client().await.get(bucket, key).await });
        let body = got
            .await
            .map_err(|_| OutputError::Slow { url: url() })?
            .map_err(|source| OutputError::Store { what: "fetched from", source })?;
        if hex(&body) != spilled.sha256 {
            return Err(OutputError::Changed { url: url() });
        }
        serde_json::from_slice(&body).map_err(|_| OutputError::Changed { url: url() })
    }

    /// Finds all that was put below a place that [`Store::spills_to_delete`] names, and deletes it where that is asked for:
    /// how many objects, and their sizes together. What was in a bucket that is gone went with it.
    async fn objects_below(&self, place: &str, fate: Fate) -> Result<(u64, u64), OutputError> {
        let (bucket, prefix) = split(place).ok_or_else(|| OutputError::BadPlace(place.to_owned()))?;
        let client = self.client().await;
        let (mut objects, mut bytes) = (0, 0);
        let found = async {
            for object in client.list(bucket, prefix).await? {
                if fate == Fate::Deleted {
                    client.delete(bucket, &object.key).await?;
                }
                objects += 1;
                bytes += object.size;
            }
            Ok(())
        };
        match found.await {
            Ok(()) | Err(S3Error::NoSuchBucket { .. }) => Ok((objects, bytes)),
            Err(source) => {
                let what = if fate == Fate::Deleted { "deleted from" } else { "looked for in" };
                Err(OutputError::Store { what, source })
            }
        }
    }
}

/// Large outputs of runs that are gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Unused {
    /// Of so many runs.
    pub runs: u64,
    /// So many objects.
    pub objects: u64,
    /// Their sizes together, in bytes.
    pub bytes: u64,
}

/// What becomes of large outputs of runs that are gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Told,
    Deleted,
}

/// Looks for the large outputs of runs that are gone.
///
/// # Errors
/// When the database or the object store does not answer.
pub async fn find_unused(store: &Store, outputs: &OutputStore) -> Result<Unused, OutputError> {
    go_through_unused(store, outputs, Fate::Told).await
}

/// Deletes the large outputs of runs that are gone; says what they were. What cannot be deleted keeps nothing else from it:
/// it is logged, and stays for the next time.
///
/// # Errors
/// When the database does not answer; else the last error of the object store.
pub async fn delete_unused(store: &Store, outputs: &OutputStore) -> Result<Unused, OutputError> {
    go_through_unused(store, outputs, Fate::Deleted).await
}

async fn go_through_unused(store: &Store, outputs: &OutputStore, fate: Fate) -> Result<Unused, OutputError> {
    let (mut unused, mut last, mut failed) = (Unused::default(), String::new(), None);
    loop {
        let places = store.spills_to_delete(&last, DELETED_AT_ONCE).await?;
        let Some(end) = places.last() else { return failed.map_or(Ok(unused), Err) };
        last.clone_from(end);
        for place in places {
            match outputs.objects_below(&place, fate).await {
                Ok((objects, bytes)) => {
                    if fate == Fate::Deleted {
                        store.forget_spill(&place).await?;
                    }
                    // A place is noted before anything is put there: there may never have been anything.
                    unused.runs += u64::from(objects > 0);
                    unused.objects += objects;
                    unused.bytes += bytes;
                }
                Err(error) => {
                    tracing::warn!(place, error = %chain(&error), "large outputs of a run that is gone are still there");
                    failed = Some(error);
                }
            }
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}
