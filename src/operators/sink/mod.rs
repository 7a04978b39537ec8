//! `sink`: Kafka topics to S3 objects, each record exactly once, named and filled as Confluent's S3 sink does.
//!
//! The first attempt settles a range of offsets per partition in Postgres; every attempt goes on after the last recorded
//! cut of it. A cut is recorded, under the attempt's fence, once its objects are durable; the objects' names and bytes
//! are a function of the records, so what an attempt wrote and did not record is written again, the same.
//!
//! Memory: at most [`PARTITIONS`] partitions are read at once; each holds what librdkafka reads ahead (16 MiB, or one
//! larger batch), 8 MiB of open files and as much of a cut that is ready to be handed over (what is more lies in temporary
//! files). All cuts that are on their way to S3 hold 128 MiB together ([`budget`]), so an attempt takes some 400 MiB at
//! most; with small cuts, no more than their own size.

mod budget;
mod config;
mod cutter;
mod dead_letter;
mod failure;
mod fit;
mod format;
mod kafka;
mod naming;
mod partitioner;
mod path_format;
mod plan;
mod reader;
mod report;
mod sorter;
mod topics;
mod uploader;

use std::pin::pin;
use std::sync::Arc;

use async_trait::async_trait;
use futures::StreamExt as _;
use futures::future::{Either, select};
use serde::de::Error as _;
use serde_json::Value;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use self::budget::Budget;
use self::config::{Checked, Records, SinkConfig};
use self::cutter::CutRules;
use self::failure::SinkError;
use self::fit::Fit;
use self::format::Encoding;
use self::partitioner::Partitioner;
use self::plan::Upstream;
use self::reader::Reading;
use self::sorter::{SortRules, Sorter};
use self::uploader::{Place, Uploader};
use crate::clock;
use crate::connect::kafka::{Cluster, blocking};
use crate::connect::s3::S3;
use crate::domain::operator_kind::OperatorKind;
use crate::domain::sinking::SinkProgress;
use crate::engine::operator::{Failure, Operator, Output, Registration, TaskContext};

/// So many partitions are read and written at once.
const PARTITIONS: usize = 8;
/// So many finished cuts of a partition wait for an upload to begin.
const CUTS_WAITING: usize = 2;

pub(crate) const REGISTRATION: Registration = Registration { kind: &KIND, build };

static KIND: OperatorKind = OperatorKind {
    name: "sink",
    class_paths: &[],
    about: "Writes Kafka topics to S3 objects, each record exactly once",
    schema: || schemars::schema_for!(SinkConfig),
    check: config::check,
    late_fields: &[],
    file_keys: &[],
};

fn build(config: Value) -> Result<Box<dyn Operator>, serde_json::Error> {
    let config: SinkConfig = serde_json::from_value(config)?;
    let checked = config.check().map_err(|problems| {
        let first = problems.first().map(|problem| format!("{}: {}", problem.path.join("."), problem.message));
        serde_json::Error::custom(first.unwrap_or_default())
    })?;
    Ok(Box::new(Sink { config, checked }))
}

struct Sink {
    config: SinkConfig,
    checked: Checked,
}

#[async_trait]
impl Operator for Sink {
    async fn run(&self, context: &TaskContext) -> Result<Output, Failure> {
        Ok(self.sink(context).await?)
    }
}

/// What all partitions of an attempt share.
struct Shared<'a> {
    context: &'a TaskContext,
    cluster: Cluster,
    s3: S3,
    place: Arc<Place>,
    upstream: Option<Upstream>,
    records: Records,
    budget: Budget,
    /// Cancelled with the attempt, and when a partition fails.
    stop: CancellationToken,
}

impl Shared<'_> {
    /// What this run produced, where that alone is sunk.
    fn own_produce(&self) -> Option<&Upstream> {
        self.upstream.as_ref().filter(|_| self.records == Records::Run)
    }
}

impl Sink {
    async fn sink(&self, context: &TaskContext) -> Result<Output, SinkError> {
        let mut upstream = Upstream::gather(&context.upstream)?;
        let records = plan::records(&self.config, upstream.as_ref());
        if records == Records::Run {
            upstream.as_mut().ok_or(SinkError::NoProduce)?.keep(&self.checked.patterns)?;
        }
        let shared = Shared {
            context,
            cluster: Cluster::new(&context.endpoints.kafka)?,
            s3: S3::connect(&context.endpoints.s3).await,
            place: Arc::new(Place {
                bucket: self.config.bucket.clone(),
                topics_dir: self.config.topics_dir.clone(),
                encoding: Encoding { format: self.config.format, compression: self.checked.compression },
                put: self.config.put,
            }),
            upstream,
            records,
            budget: Budget::new(),
            stop: context.cancel.child_token(),
        };
        let _stopped_in_the_end = shared.stop.clone().drop_guard();
        shared.s3.ensure_bucket(&self.config.bucket).await?;
        let standing = self.settle(&shared).await?;
        let produced = shared.own_produce().map_or(0, Upstream::produced);
        let sunk: i64 = standing.iter().map(|progress| progress.counts.records).sum();
        context.progress.set_total(produced);
        context.progress.set(sunk.cast_unsigned());
        if sunk > 0 {
            context.log.line(format!("goes on after {sunk} records that earlier attempts sank"));
        }

        let work = standing.into_iter().filter(|progress| progress.next < progress.range.end);
        let ended: Vec<Result<(), SinkError>> = futures::stream::iter(work)
            .map(|progress| self.sink_partition(&shared, progress))
            .buffer_unordered(PARTITIONS)
            .collect()
            .await;
        first_cause(ended)?;

        let done = context.store.sink_progress(context.attempt.task_run).await?;
        self.publish(&shared, &done).await;
        let output = report::output(&self.config, &done);
        if records == Records::Run {
            report::balance(context, &output)?;
        }
        Ok(output)
    }

    /// The ranges of this run, settled now if no attempt did before, and how far they are.
    async fn settle(&self, shared: &Shared<'_>) -> Result<Vec<SinkProgress>, SinkError> {
        let context = shared.context;
        let task_run = context.attempt.task_run;
        let standing = context.store.sink_progress(task_run).await?;
        if !standing.is_empty() {
            return Ok(standing);
        }
        let store = &context.store;
        if let Some(upstream) = shared.own_produce() {
            store.settle_sink_ranges_if_fenced(context.attempt, &upstream.ranges()).await?;
        } else {
            // Where all records are taken the ranges of two runs must not overlap, whatever their produces filled.
            let mut heads = kafka::heads(&shared.cluster, self.checked.patterns.clone(), &context.cancel).await?;
            if let Some(upstream) = &shared.upstream {
                upstream.include(&mut heads);
            }
            let whose = (&context.dag_id, &context.task_id);
            store.claim_sink_ranges_if_fenced(context.attempt, whose, &heads, clock::now()).await?;
        }
        Ok(store.sink_progress(task_run).await?)
    }

    /// Reads, writes and records one partition from where it stands to its range's end.
    async fn sink_partition(&self, shared: &Shared<'_>, progress: SinkProgress) -> Result<(), SinkError> {
        let context = shared.context;
        let of = progress.range.of.clone();
        let (sender, receiver) = mpsc::channel(CUTS_WAITING);
        let reading = Reading {
            cluster: shared.cluster.clone(),
            of: of.clone(),
            next: progress.next,
            end: progress.range.end,
            cancel: shared.stop.clone(),
            budget: shared.budget.clone(),
            log: context.log.clone(),
        };
        let rules = self.sort_rules(shared, &of.topic);
        let sorter = Sorter::new(rules, progress);
        let uploader = Uploader {
            s3: shared.s3.clone(),
            store: context.store.clone(),
            attempt: context.attempt,
            of,
            place: Arc::clone(&shared.place),
            cancel: shared.stop.clone(),
            progress: Arc::clone(&context.progress),
        };
        let read = blocking(move || reading.read(sorter, &sender));
        let read = async { stop_on_error(&shared.stop, read.await) };
        let written = async { stop_on_error(&shared.stop, uploader.run(receiver).await) };
        match select(pin!(read), pin!(written)).await {
            Either::Left((read, written)) => first_cause([written.await, read]),
            Either::Right((Ok(()), read)) => read.await,
            // The reader writes nothing outside, and ends as soon as librdkafka lets it: nobody waits for that.
            Either::Right((Err(error), _)) => Err(error),
        }
    }

    fn sort_rules(&self, shared: &Shared<'_>, topic: &str) -> SortRules {
        let upstream = shared.upstream.as_ref();
        let rotate_interval_ms = self.checked.rotate_interval_ms;
        let by_time = matches!(self.checked.partitioner, Partitioner::Time { .. });
        SortRules {
            encoding: shared.place.encoding,
            partitioner: self.checked.partitioner.clone(),
            cuts: CutRules {
                flush_size: self.config.flush_size,
                max_open_files: self.config.max_open_files,
                rotate_interval_ms,
                rotate_on_folder_change: rotate_interval_ms.is_some() && by_time,
            },
            tombstones: self.config.tombstones,
            records: shared.records,
            fit: Fit { largest: self.config.max_record_bytes, columns: plan::columns(&self.config, upstream, topic) },
            run: shared.context.attempt.run_uuid.to_string(),
        }
    }

    /// Tells Kafka's tools how far we are. For others to see only: nothing of ours reads it, so failing is no failure.
    async fn publish(&self, shared: &Shared<'_>, done: &[SinkProgress]) {
        let context = shared.context;
        let own = || format!("pinsched-{}-{}", context.dag_id, context.task_id);
        let group = self.config.group_id.clone().unwrap_or_else(own);
        if let Err(error) = kafka::publish_offsets(&shared.cluster, &group, done).await {
            context.log.line(format!("the offsets of consumer group `{group}` could not be published: {error}"));
        }
    }
}

/// A partition that fails ends the others.
fn stop_on_error(stop: &CancellationToken, result: Result<(), SinkError>) -> Result<(), SinkError> {
    if result.is_err() {
        stop.cancel();
    }
    result
}

/// The first error that is not merely the consequence of another one.
fn first_cause(results: impl IntoIterator<Item = Result<(), SinkError>>) -> Result<(), SinkError> {
    let mut interrupted = Ok(());
    for result in results {
        match result {
            Err(SinkError::Interrupted) => interrupted = Err(SinkError::Interrupted),
            other => other?,
        }
    }
    interrupted
}
