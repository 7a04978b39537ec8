//! From finished files to durable objects to recorded cuts, in the order of the offsets.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::{FuturesOrdered, StreamExt as _};
use futures::{FutureExt as _, TryStreamExt as _};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::config::Put;
use super::dead_letter::DeadLetter;
use super::failure::SinkError;
use super::format::{Body, Encoding};
use super::naming::ObjectName;
use super::sorter::{FinishedCut, FinishedFile, Item};
use crate::clock;
use crate::connect::kafka::blocking;
use crate::connect::s3::{ObjectHead, PART_SIZE, Precondition, PutOptions, S3, S3Error, conflict_wait};
use crate::domain::ids::AttemptKey;
use crate::domain::sinking::{SinkCut, SinkObject, TopicPartition};
use crate::engine::operator::Progress;
use crate::store::Store;

/// So many cuts of a partition are on their way to S3 at once: with small objects the time of a put is all waiting.
const UPLOADS: usize = 8;
/// So many dead letters at once.
const LETTERS: usize = 8;
/// So many cuts are recorded together: with `flush_size: 1` a transaction each would cost more than the object.
const CUTS_RECORDED: usize = 64;
/// How long uploads that are told to stop may take for that: one that is aborted has less, and the whole attempt not much
/// more.
const GIVE_UP_LIMIT: Duration = Duration::from_secs(8);
/// How often an object that met a concurrent put is written again.
const CONFLICT_ATTEMPTS: u32 = 5;

/// Writes one partition's objects.
pub(super) struct Uploader {
    pub(super) s3: S3,
    pub(super) store: Store,
    pub(super) attempt: AttemptKey,
    pub(super) of: TopicPartition,
    pub(super) place: Arc<Place>,
    pub(super) cancel: CancellationToken,
    pub(super) progress: Arc<Progress>,
}

/// Where objects go, and how.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) bucket: String,
    pub(super) topics_dir: String,
    pub(super) encoding: Encoding,
    pub(super) put: Put,
}

impl Uploader {
    /// Takes items until there are no more; a cut is recorded once it and all before it are durable.
    pub(super) async fn run(&self, items: mpsc::Receiver<Item>) -> Result<(), SinkError> {
        let mut uploads = FuturesOrdered::new();
        let written = self.write(items, &mut uploads).await;
        if written.is_err() {
            // What has begun in parts is given up by its own future, which therefore must not be dropped at once.
            self.cancel.cancel();
            let given_up = uploads.for_each(|_| std::future::ready(()));
            if tokio::time::timeout(GIVE_UP_LIMIT, given_up).await.is_err() {
                tracing::warn!("unfinished uploads stay until the bucket's lifecycle rule clears them");
            }
        }
        written
    }

    async fn write<'a>(
        &'a self,
        mut items: mpsc::Receiver<Item>,
        uploads: &mut FuturesOrdered<BoxFuture<'a, Result<SinkCut, SinkError>>>,
    ) -> Result<(), SinkError> {
        let mut is_open = true;
        while is_open || !uploads.is_empty() {
            tokio::select! {
                biased;
                () = self.cancel.cancelled() => return Err(SinkError::Interrupted),
                Some(cut) = uploads.next(), if !uploads.is_empty() => {
                    let mut cuts: Vec<SinkCut> = vec![cut?];
                    while cuts.len() < CUTS_RECORDED && let Some(Some(cut)) = uploads.next().now_or_never() {
                        cuts.push(cut?);
                    }
                    self.record(&cuts).await?;
                }
                item = items.recv(), if is_open && uploads.len() < UPLOADS => match item {
                    Some(Item::Letters(letters)) => self.write_letters(letters).await?,
                    Some(Item::Cut(cut)) => uploads.push_back(self.write_cut(cut).boxed()),
                    None => is_open = false,
                },
            }
        }
        Ok(())
    }

    async fn record(&self, cuts: &[SinkCut]) -> Result<(), SinkError> {
        self.store.record_sink_cuts_if_fenced(self.attempt, &self.of, cuts, clock::now()).await?;
        let records: i64 = cuts.iter().map(|cut| cut.counts.records).sum();
        self.progress.add(records.cast_unsigned());
        Ok(())
    }

    async fn write_letters(&self, letters: Vec<DeadLetter>) -> Result<(), SinkError> {
        let puts = futures::stream::iter(letters).map(|letter| async move {
            let options = PutOptions { content_type: "application/json", ..PutOptions::default() };
            self.s3.put(&self.place.bucket, &letter.object_key(), letter.body(), options).await
        });
        let written = puts.buffer_unordered(LETTERS).try_collect::<()>();
        tokio::select! {
            biased;
            () = self.cancel.cancelled() => Err(SinkError::Interrupted),
            written = written => Ok(written?),
        }
    }

    async fn write_cut(&self, cut: FinishedCut) -> Result<SinkCut, SinkError> {
        let mut objects = Vec::with_capacity(cut.files.len());
        for file in cut.files {
            objects.push(self.write_file(file).await?);
        }
        Ok(SinkCut { start: cut.start, end: cut.end, counts: cut.counts, objects, marks: cut.marks })
    }

    async fn write_file(&self, file: FinishedFile) -> Result<SinkObject, SinkError> {
        let FinishedFile { folder, start, last, records, sha256, body } = file;
        let encoding = self.place.encoding.of_folder(&folder);
        let name = ObjectName {
            topics_dir: &self.place.topics_dir,
            topic: &self.of.topic,
            folder: &folder,
            partition: self.of.partition,
            start,
            extension: &self.place.encoding.extension_in(&folder),
        };
        let key = name.key();
        let bytes = body.length();
        let options = PutOptions {
            content_type: encoding.content_type(),
            metadata: metadata(start, last, records, &sha256, self.attempt),
            precondition: match self.place.put {
                Put::Overwrite => Precondition::Overwrite,
                Put::Create => Precondition::CreateOnly,
            },
        };
        let mut attempt = 1;
        loop {
            match self.put(&key, &body, &options).await {
                Ok(()) => break,
                Err(SinkError::S3(S3Error::Conflict { .. })) if attempt < CONFLICT_ATTEMPTS => {
                    tokio::time::sleep(conflict_wait(attempt)).await;
                    attempt += 1;
                }
                // Ours, when the answer to the put was lost or an attempt died before it recorded the cut.
                Err(SinkError::S3(S3Error::AlreadyExists { .. })) => {
                    self.compare(&key, bytes, &options.metadata).await?;
                    break;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(SinkObject { key, start, last, records, bytes: bytes.cast_signed(), sha256 })
    }

    /// Sends the bytes part by part, so that no more than a part of a large object is in memory.
    async fn put(&self, key: &str, body: &Body, options: &PutOptions) -> Result<(), SinkError> {
        let mut upload = self.s3.upload(&self.place.bucket, key, options.clone());
        if body.length() > PART_SIZE as u64 {
            upload.begin().await?;
        }
        let poured = async {
            let mut at = 0;
            while at < body.length() {
                let source = body.clone();
                let piece = blocking(move || source.piece(at, PART_SIZE)).await.map_err(SinkError::Spool)?;
                at += piece.len() as u64;
                upload.write(piece).await?;
            }
            Ok(())
        };
        let poured = tokio::select! {
            biased;
            () = self.cancel.cancelled() => Err(SinkError::Interrupted),
            poured = poured => poured,
        };
        match poured {
            Ok(()) => Ok(upload.finish().await?),
            Err(error) => {
                upload.abort().await;
                Err(error)
            }
        }
    }

    async fn compare(&self, key: &str, bytes: u64, ours: &BTreeMap<String, String>) -> Result<(), SinkError> {
        let head = self.s3.head(&self.place.bucket, key).await?;
        match difference(head.as_ref(), bytes, ours) {
            None => Ok(()),
            Some(difference) => {
                Err(SinkError::Different { bucket: self.place.bucket.clone(), key: key.to_owned(), difference })
            }
        }
    }
}

const START: &str = "start-offset";
const END: &str = "end-offset";
const COUNT: &str = "record-count";
const DIGEST: &str = "sha256";
const RUN: &str = "run";

/// What an object says of itself. Both offsets are inclusive, as in Confluent's tags.
fn metadata(start: i64, last: i64, records: i64, sha256: &[u8; 32], attempt: AttemptKey) -> BTreeMap<String, String> {
    let digest: String = sha256.iter().map(|byte| format!("{byte:02x}")).collect();
    let entries = [
        (START, start.to_string()),
        (END, last.to_string()),
        (COUNT, records.to_string()),
        (DIGEST, digest),
        (RUN, attempt.run_uuid.to_string()),
    ];
    entries.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// How an object that is there differs from ours: in size, range, count or digest. Whose run wrote it does not matter.
fn difference(head: Option<&ObjectHead>, bytes: u64, ours: &BTreeMap<String, String>) -> Option<String> {
    let Some(head) = head else { return Some("it vanished while it was compared".to_owned()) };
    if head.size != bytes {
        return Some(format!("it has {} bytes, ours {bytes}", head.size));
    }
    [START, END, COUNT, DIGEST].into_iter().find_map(|name| {
        let (theirs, ours) = (head.metadata.get(name), ours.get(name)?);
        let shown = theirs.map_or("none", String::as_str);
        (theirs != Some(ours)).then(|| format!("its {name} is {shown}, ours {ours}"))
    })
}
