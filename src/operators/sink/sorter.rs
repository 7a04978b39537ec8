//! What becomes of each record of a partition: sunk, dead letter, or left out and counted. Pure but for the files that
//! it fills.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use rdkafka::message::{BorrowedHeaders, Headers};
use serde_json::{Map, Value};

use super::budget::Share;
use super::config::{Format, Records, Tombstones};
use super::cutter::{CutRules, Cutter};
use super::dead_letter::DeadLetter;
use super::failure::SinkError;
use super::fit::{Fit, append_compact};
use super::format::{Body, Encoding, FILE_MEMORY, FileWriter, Scratch};
use super::naming::TOMBSTONES;
use super::partitioner::{Partitioner, RecordFacts};
use crate::connect::s3::PART_SIZE;
use crate::domain::record_headers;
use crate::domain::sinking::{SinkCounts, SinkProgress, TopicPartition};

/// The most that the put of an object that lies on disk holds of it: the part that is sent, and the next.
const PARTS_AT_ONCE: usize = 2 * PART_SIZE;
/// So many bytes of dead letters wait for a cut at most.
const LETTERS_MEMORY: usize = 4 * 1024 * 1024;

/// A record as Kafka gave it.
pub(super) struct Decided<'a> {
    pub(super) offset: i64,
    pub(super) timestamp: i64,
    pub(super) key: Option<&'a [u8]>,
    pub(super) value: Option<&'a [u8]>,
    pub(super) headers: Option<&'a BorrowedHeaders>,
}

/// What is handed on to be written, in order.
pub(super) enum Item {
    /// Dead letters of the cut that comes next.
    Letters(Vec<DeadLetter>),
    Cut(FinishedCut),
}

/// Offsets that are decided, and the files that hold their records.
pub(super) struct FinishedCut {
    pub(super) start: i64,
    /// Exclusive.
    pub(super) end: i64,
    pub(super) counts: SinkCounts,
    pub(super) marks: BTreeMap<String, i64>,
    pub(super) files: Vec<FinishedFile>,
    /// Its share of the attempt's memory, from when it is handed over until its objects are durable.
    pub(super) memory: Option<Share>,
}

impl FinishedCut {
    /// How many bytes it takes until its objects are durable; they are put one after the other, part by part.
    pub(super) fn weight(&self) -> usize {
        let in_memory: usize = self.files.iter().map(|file| file.body.in_memory()).sum();
        let on_disk = self.files.iter().filter(|file| file.body.in_memory() == 0).map(|file| file.body.length()).max();
        in_memory + usize::try_from(on_disk.unwrap_or(0)).map_or(PARTS_AT_ONCE, |bytes| bytes.min(PARTS_AT_ONCE))
    }
}

/// An object's bytes and what there is to say of them.
pub(super) struct FinishedFile {
    pub(super) folder: String,
    pub(super) start: i64,
    pub(super) last: i64,
    pub(super) records: i64,
    pub(super) sha256: [u8; 32],
    pub(super) body: Body,
}

/// What the configuration and the upstream say of one topic.
#[derive(Debug, Clone)]
pub(super) struct SortRules {
    pub(super) encoding: Encoding,
    pub(super) partitioner: Partitioner,
    pub(super) cuts: CutRules,
    pub(super) tombstones: Tombstones,
    pub(super) records: Records,
    pub(super) fit: Fit,
    /// This run, as its records' headers name it.
    pub(super) run: String,
}

struct OpenFile {
    writer: FileWriter,
    start: i64,
    last: i64,
    records: i64,
}

/// The state of one partition between two records.
pub(super) struct Sorter {
    rules: SortRules,
    of: TopicPartition,
    cutter: Cutter,
    open: BTreeMap<String, OpenFile>,
    /// Where the open files go when they are too much for memory, and how much of it they take together.
    scratch: Arc<Scratch>,
    in_memory: usize,
    cut_start: i64,
    /// Offsets at which objects end whatever the cutter says, the next one first.
    ends: VecDeque<i64>,
    counts: SinkCounts,
    /// As they were at the last cut.
    marks: BTreeMap<String, i64>,
    /// Those that moved since.
    moved: BTreeMap<String, i64>,
    letters: Vec<DeadLetter>,
    /// The record at hand: its line, and its fields where they are needed.
    line: Vec<u8>,
    fields: Map<String, Value>,
}

/// What a record is to the sink, before it goes anywhere.
enum Verdict {
    Sink { folder: String, timestamp: i64 },
    Dead(String),
    Skip,
}

impl Sorter {
    /// Stands where the partition stands, which is at a cut.
    pub(super) fn new(rules: SortRules, progress: SinkProgress) -> Self {
        Self {
            cutter: Cutter::new(rules.cuts),
            rules,
            of: progress.range.of,
            open: BTreeMap::new(),
            scratch: Arc::default(),
            in_memory: 0,
            cut_start: progress.next,
            ends: progress.ends.into(),
            counts: SinkCounts::default(),
            marks: progress.marks,
            moved: BTreeMap::new(),
            letters: Vec::new(),
            line: Vec::new(),
            fields: Map::new(),
        }
    }

    /// Decides a record; returns what is complete by that.
    pub(super) fn sort(&mut self, record: &Decided<'_>) -> Result<Vec<Item>, SinkError> {
        let mut items = Vec::new();
        self.cut_at_ends(record.offset, &mut items)?;
        let stamp = Stamp::read(record.headers);
        if self.rules.records == Records::Run && stamp.run.as_deref() != Some(self.rules.run.as_str()) {
            self.counts.foreign += 1;
            return Ok(items);
        }
        let producer = stamp.producer();
        if let Some((producer, sequence)) = &producer
            && self.moved.get(producer).or_else(|| self.marks.get(producer)).is_some_and(|mark| sequence <= mark)
        {
            self.counts.duplicates += 1;
            return Ok(items);
        }
        match self.judge(record)? {
            Verdict::Skip => self.counts.tombstones += 1,
            Verdict::Dead(reason) => self.bury(record, reason),
            Verdict::Sink { folder, timestamp } => {
                let cuts = self.cutter.add(timestamp, &folder);
                if cuts.before {
                    self.cut(record.offset, &mut items)?;
                }
                self.append(record.offset, folder).map_err(SinkError::Spool)?;
                self.mark(producer);
                if cuts.after {
                    self.cut(record.offset + 1, &mut items)?;
                }
                return Ok(items);
            }
        }
        self.mark(producer);
        let waiting: usize = self.letters.iter().map(DeadLetter::size).sum();
        if waiting > LETTERS_MEMORY {
            items.push(Item::Letters(std::mem::take(&mut self.letters)));
        }
        Ok(items)
    }

    /// Ends the last, short files: the range goes no further.
    pub(super) fn finish(mut self, end: i64) -> Result<Vec<Item>, SinkError> {
        let mut items = Vec::new();
        self.ends.push_back(end);
        self.cut_at_ends(end, &mut items)?;
        Ok(items)
    }

    /// Cuts at the ends that are set up to `offset`, as whoever first had them for the end of its range did.
    fn cut_at_ends(&mut self, offset: i64, items: &mut Vec<Item>) -> Result<(), SinkError> {
        while let Some(end) = self.ends.pop_front_if(|end| *end <= offset) {
            if end > self.cut_start {
                self.cutter.cut();
                self.cut(end, items)?;
            }
        }
        Ok(())
    }

    fn mark(&mut self, producer: Option<(String, i64)>) {
        self.moved.extend(producer);
    }

    fn bury(&mut self, record: &Decided<'_>, reason: String) {
        self.counts.dead_lettered += 1;
        self.letters.push(DeadLetter::new(&self.of, record, reason));
    }

    /// Where the record goes; its line is ready when it is to be sunk.
    fn judge(&mut self, record: &Decided<'_>) -> Result<Verdict, SinkError> {
        self.line.clear();
        let Some(value) = record.value else { return self.judge_tombstone(record) };
        let text = match self.rules.fit.check(value) {
            Ok(text) => text,
            Err(reason) => return Ok(Verdict::Dead(reason)),
        };
        append_compact(text, &mut self.line);
        self.line.push(b'\n');
        self.fields.clear();
        if self.rules.partitioner.reads_fields() || self.rules.encoding.format == Format::Parquet {
            match serde_json::from_str(text) {
                Ok(fields) => self.fields = fields,
                // It is an object, or it would not fit; yet JSON sets no bounds to what may be in it.
                Err(error) => return Ok(Verdict::Dead(format!("it cannot be taken apart: {error}"))),
            }
            if self.fields.is_empty() {
                return Ok(Verdict::Dead("it has no columns".to_owned()));
            }
        }
        let partition = self.of.partition;
        let facts = RecordFacts { partition, timestamp: record.timestamp, fields: &self.fields };
        let partitioner = &self.rules.partitioner;
        let placed = partitioner
            .timestamp(&facts)
            .and_then(|timestamp| Ok(Verdict::Sink { folder: partitioner.folder(&facts, timestamp)?, timestamp }));
        Ok(placed.unwrap_or_else(Verdict::Dead))
    }

    fn judge_tombstone(&mut self, record: &Decided<'_>) -> Result<Verdict, SinkError> {
        match self.rules.tombstones {
            Tombstones::Skip => Ok(Verdict::Skip),
            Tombstones::Fail => {
                let TopicPartition { topic, partition } = self.of.clone();
                Err(SinkError::Tombstone { topic, partition, offset: record.offset })
            }
            Tombstones::Write => {
                let Some(key) = record.key else {
                    return Ok(Verdict::Dead("it has neither value nor key".to_owned()));
                };
                let Ok(key) = std::str::from_utf8(key) else {
                    return Ok(Verdict::Dead("it has no value, and its key is not UTF-8".to_owned()));
                };
                self.line.extend_from_slice(Value::from(key).to_string().as_bytes());
                self.line.push(b'\n');
                Ok(Verdict::Sink { folder: TOMBSTONES.to_owned(), timestamp: record.timestamp })
            }
        }
    }

    fn append(&mut self, offset: i64, folder: String) -> std::io::Result<()> {
        let file = match self.open.entry(folder) {
            std::collections::btree_map::Entry::Occupied(entry) => entry.into_mut(),
            std::collections::btree_map::Entry::Vacant(entry) => {
                let encoding = self.rules.encoding.of_folder(entry.key());
                let writer = FileWriter::new(encoding, Arc::clone(&self.scratch));
                entry.insert(OpenFile { writer, start: offset, last: offset, records: 0 })
            }
        };
        file.writer.append(&self.line, &self.fields)?;
        file.last = offset;
        file.records += 1;
        self.counts.records += 1;
        self.in_memory += self.line.len();
        if self.in_memory > FILE_MEMORY {
            self.open.values_mut().try_for_each(|file| file.writer.spill())?;
            self.in_memory = 0;
        }
        Ok(())
    }

    /// Closes what is open: all before offset `end` is decided.
    fn cut(&mut self, end: i64, items: &mut Vec<Item>) -> Result<(), SinkError> {
        let mut files = Vec::with_capacity(self.open.len());
        let memory = FILE_MEMORY / self.open.len().max(1);
        (self.scratch, self.in_memory) = (Arc::default(), 0);
        for (folder, file) in std::mem::take(&mut self.open) {
            let (body, sha256) = file.writer.finish(memory).map_err(SinkError::Spool)?;
            self.counts.objects += 1;
            self.counts.bytes += body.length().cast_signed();
            files.push(FinishedFile {
                folder,
                start: file.start,
                last: file.last,
                records: file.records,
                sha256,
                body,
            });
        }
        if !self.letters.is_empty() {
            items.push(Item::Letters(std::mem::take(&mut self.letters)));
        }
        let start = std::mem::replace(&mut self.cut_start, end);
        let (counts, marks) = (std::mem::take(&mut self.counts), std::mem::take(&mut self.moved));
        self.marks.extend(marks.clone());
        items.push(Item::Cut(FinishedCut { start, end, counts, marks, files, memory: None }));
        Ok(())
    }
}

/// What `produce` stamped on a record.
#[derive(Debug, Default)]
struct Stamp {
    run: Option<String>,
    task: Option<String>,
    sequence: Option<i64>,
}

impl Stamp {
    fn read(headers: Option<&BorrowedHeaders>) -> Self {
        let mut stamp = Self::default();
        for header in headers.into_iter().flat_map(Headers::iter) {
            let text = header.value.and_then(|value| std::str::from_utf8(value).ok());
            match header.key {
                record_headers::RUN => stamp.run = text.map(str::to_owned),
                record_headers::TASK => stamp.task = text.map(str::to_owned),
                record_headers::SEQUENCE => stamp.sequence = text.and_then(|text| text.parse().ok()),
                _ => {}
            }
        }
        stamp
    }

    /// Whose sequence this is: each producing task of each run has one.
    fn producer(self) -> Option<(String, i64)> {
        Some((format!("{}/{}", self.run?, self.task.unwrap_or_default()), self.sequence?))
    }
}
