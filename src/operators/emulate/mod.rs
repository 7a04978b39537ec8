//! `emulate`: draws rows from a source database and stages them for `produce`.
//!
//! All tables are read under one snapshot and joined on the key, so that a row's parts belong together. Rows are read
//! by their keys in small pieces and written as they come: memory does not grow with the table or with the draw. A piece
//! has as many rows as the last one lets expect, and where they are larger than that it is read again in smaller ones.
//! The files lie under the attempt's fence; the store names the manifest that counts, once, and every later attempt
//! returns that one, whatever became of the source meanwhile.

mod config;
mod draw;
mod keys;
mod mersenne;
mod pacer;
mod piece;

use std::collections::VecDeque;
use std::time::Duration;

use async_trait::async_trait;
use indexmap::IndexMap;
use secrecy::SecretString;
use serde_json::Value;

use crate::clock;
use crate::connect::s3::S3;
use crate::connect::source::{KeySpace, Rows, Source, SourceError, SourceTable};
use crate::domain::diagnostic::listed;
use crate::domain::operator_kind::OperatorKind;
use crate::domain::outputs::{self, EmulateOutput, StagedRows, StagedTable};
use crate::engine::lookup::LookupError;
use crate::engine::operator::{Failure, Operator, Output, Registration, TaskContext, chain};
use crate::operators::config as shape;
use crate::operators::staged::{Manifest, StageWriter, StagedError};
use crate::store::StoreError;
use crate::store::staging::Staged;

use config::{Draw, EmulateConfig};
use draw::{REPLAY_ROWS, REPLAY_SEED, Replay, Selection};
use keys::Keys;
use pacer::Pacer;
use piece::Piece;

/// What the keys of all that is staged begin with; DAG, run and task follow.
pub(super) const STAGING: &str = "staging/";

pub(crate) const REGISTRATION: Registration = Registration { kind: &KIND, build };

static KIND: OperatorKind = OperatorKind {
    name: "emulate",
    class_paths: &[],
    about: "Draws rows from a source database and stages them for produce",
    schema: || schemars::schema_for!(EmulateConfig),
    check: |value| shape::check(value, config::problems),
    late_fields: &[],
    file_keys: &[],
};

fn build(config: Value) -> Result<Box<dyn Operator>, serde_json::Error> {
    Ok(Box::new(serde_json::from_value::<EmulateConfig>(config)?))
}

/// Why nothing could be drawn or staged.
#[derive(Debug, thiserror::Error)]
enum EmulateError {
    #[error(transparent)]
    Lookup(#[from] LookupError),
    #[error(transparent)]
    Source(#[from] SourceError),
    #[error(transparent)]
    Staged(#[from] StagedError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(
        "{wanted} rows were asked for, and table `{table}` has {there}: ask for fewer, or for `draw: replay`, which may draw \
         a row again"
    )]
    TooFew { wanted: u64, table: String, there: u64 },
    #[error("`draw: replay` draws among the first {REPLAY_ROWS} rows, and table `{table}` has {there}")]
    TooFewToReplay { table: String, there: u64 },
    #[error(
        "table `{table}` has no row with `{key}` = {value}, which `{first}` has: the tables do not belong together"
    )]
    Apart { table: String, key: String, value: i64, first: String },
    #[error("table `{table}` has fewer different keys than rows: `{key}` does not tell its rows apart")]
    KeysRunOut { table: String, key: String },
    #[error(
        "table `{table}` of {address} has other columns than expected: {difference}; say which tables to draw by `tables`, and \
         what they must have by their `columns`"
    )]
    Columns { table: String, address: String, difference: String },
}

impl From<EmulateError> for Failure {
    fn from(error: EmulateError) -> Self {
        let transient = match &error {
            EmulateError::Store(StoreError::Fenced { .. }) => return Self::Interrupted,
            EmulateError::Store(error) => error.is_transient(),
            EmulateError::Source(error) => error.is_transient(),
            EmulateError::Staged(error) => error.is_transient(),
            EmulateError::Lookup(error) => error.is_transient(),
            EmulateError::TooFew { .. }
            | EmulateError::TooFewToReplay { .. }
            | EmulateError::Apart { .. }
            | EmulateError::KeysRunOut { .. }
            | EmulateError::Columns { .. } => false,
        };
        let mut text = chain(&error);
        if let EmulateError::Staged(error) = &error
            && let Some(help) = error.help()
        {
            text = format!("{text}; {help}");
        }
        if transient { Self::Retry(text) } else { Self::Fatal(text) }
    }
}

/// How the columns that there are differ from those that there should be, whatever their order; `None` when they do not.
fn difference(expected: &[String], found: &[String]) -> Option<String> {
    let beyond = |these: &[String], those: &[String]| -> Vec<String> {
        these.iter().filter(|name| !those.contains(name)).cloned().collect()
    };
    let parts = [("no", beyond(expected, found)), ("also", beyond(found, expected))];
    let said: Vec<String> = parts
        .into_iter()
        .filter(|(_, names)| !names.is_empty())
        .map(|(how, names)| format!("{how} {}", listed(names.iter().map(String::as_str))))
        .collect();
    (!said.is_empty()).then(|| said.join(", "))
}

#[async_trait]
impl Operator for EmulateConfig {
    async fn run(&self, context: &TaskContext) -> Result<Output, Failure> {
        match context.cancel.run_until_cancelled(self.emulate(context)).await {
            Some(result) => Ok(result?),
            // What was put so far is nobody's: no manifest names it.
            None => Err(Failure::Interrupted),
        }
    }
}

impl EmulateConfig {
    async fn emulate(&self, context: &TaskContext) -> Result<Output, EmulateError> {
        let s3 = S3::connect(&context.endpoints.s3).await;
        if let Some(staged) = context.store.staged(context.attempt.task_run).await? {
            let manifest = Manifest::read(&s3, &staged).await?;
            context.log.line(format!("{} rows were staged by an earlier attempt: {}", manifest.rows, staged.manifest));
            context.progress.set_total(manifest.rows);
            context.progress.set(manifest.rows);
            return Ok(output(&staged, &manifest));
        }
        let bucket = &context.endpoints.s3.staging_bucket;
        s3.ensure_bucket(bucket).await.map_err(StagedError::from)?;
        let folder = format!("{STAGING}{}/{}/{}/", context.dag_id, context.attempt.run_uuid, context.task_id);
        let writer = StageWriter::new(s3.clone(), bucket, format!("{folder}fence={}/", context.attempt.fence))?;

        let mut source = Source::connect(&self.source_url(context).await?).await?;
        context.log.line(format!("drawing from {}", source.address()));
        let drawn = self.draw(&mut source, writer, context).await;
        source.close().await;
        let (staged, manifest) = drawn?;

        let winner = context.store.stage_if_first(context.attempt, &staged).await?;
        let manifest = if winner == staged { manifest } else { Manifest::read(&s3, &winner).await? };
        context.log.line(format!("staged {} rows in {} parts", manifest.rows, manifest.parts.len()));
        remove_losers(&s3, &folder, &winner, context).await;
        Ok(output(&winner, &manifest))
    }

    async fn source_url(&self, context: &TaskContext) -> Result<SecretString, EmulateError> {
        match self.source.as_deref() {
            None => Ok(context.endpoints.source_url.clone()),
            Some(url) if url.contains("://") => Ok(url.into()),
            Some(name) => Ok(context.lookup.connection(name).await?.url()),
        }
    }

    async fn draw(
        &self,
        source: &mut Source,
        mut writer: StageWriter,
        context: &TaskContext,
    ) -> Result<(Staged, Manifest), EmulateError> {
        let mut tables: IndexMap<&str, SourceTable> = IndexMap::new();
        for (alias, table) in &self.tables {
            let found = source.table(&table.table, &table.key).await?;
            if let Some(difference) = table.columns.as_deref().and_then(|expected| difference(expected, &found.columns))
            {
                return Err(EmulateError::Columns {
                    table: found.name,
                    address: source.address().to_string(),
                    difference,
                });
            }
            tables.insert(alias, found);
        }
        let Some(first) = tables.values().next().cloned() else { unreachable!("the check wants at least one table") };
        let space = source.key_space(&first).await?;
        let seed = match (self.seed, self.draw) {
            (Some(seed), _) => seed.0,
            (None, Draw::Replay) => REPLAY_SEED,
            (None, Draw::Sample | Draw::Sequential) => draw::seed_of(context.attempt.run_uuid),
        };
        let wanted = self.rows.map_or(space.count, |rows| rows.0);
        let mut drawn = self.keys(source, &first, space, wanted, seed).await?;
        let mut pacer = Pacer::new(self.rate, self.pace, seed, clock::monotonic());
        context.progress.set_total(wanted);

        let mut done = 0;
        let mut piece = Piece::default();
        while done < wanted {
            let keys = drawn.next(source, &first, pacer.largest_piece(piece.size() as u64).min(wanted - done)).await?;
            if keys.is_empty() {
                return Err(EmulateError::KeysRunOut { table: first.name, key: first.key });
            }
            let pause = pacer.pause(clock::monotonic(), done + keys.len() as u64, drawn.pause());
            if !pause.is_zero() {
                tokio::time::sleep(pause).await;
            }
            let mut left = &keys[..];
            while !left.is_empty() {
                let (now, later) = left.split_at(left.len().min(piece.size()));
                match read_lines(source, &tables, now).await? {
                    Read::TooMuch { rows } => piece.shrink(rows),
                    Read::Lines(lines) => {
                        for line in &lines {
                            writer.write(line).await?;
                        }
                        piece.read(now.len(), lines.iter().map(Vec::len).sum());
                        context.progress.add(now.len() as u64);
                        left = later;
                    }
                }
            }
            done += keys.len() as u64;
        }
        let tables = tables.into_iter().map(|(alias, table)| {
            (alias.to_owned(), StagedTable { table: table.name, key: table.key, columns: table.columns })
        });
        Ok(writer.finish(self.draw.as_str().to_owned(), seed, tables.collect()).await?)
    }

    async fn keys(
        &self,
        source: &mut Source,
        table: &SourceTable,
        space: KeySpace,
        wanted: u64,
        seed: u64,
    ) -> Result<Keys, EmulateError> {
        let there = space.count;
        let selection = match self.draw {
            Draw::Replay => {
                let keys = source.keys_after(table, None, REPLAY_ROWS).await?;
                if keys.len() < REPLAY_ROWS as usize {
                    return Err(EmulateError::TooFewToReplay { table: table.name.clone(), there });
                }
                return Ok(Keys::Replay { keys, replay: Replay::new(seed), pause: Duration::ZERO });
            }
            _ if wanted > there => return Err(EmulateError::TooFew { wanted, table: table.name.clone(), there }),
            Draw::Sample => Selection::sample(there, wanted, seed),
            Draw::Sequential => Selection::first(there, wanted),
        };
        Ok(Keys::Selected { selection, space, after: None, taken: VecDeque::new() })
    }
}

/// A piece's rows.
enum Read {
    /// As they are staged, in the order of the keys.
    Lines(Vec<Vec<u8>>),
    /// So many of one table were too large to be held at once.
    TooMuch { rows: usize },
}

/// Reads a piece's rows from all tables and joins them, in the order of `keys`.
async fn read_lines(
    source: &mut Source,
    tables: &IndexMap<&str, SourceTable>,
    keys: &[i64],
) -> Result<Read, EmulateError> {
    let mut ascending = keys.to_vec();
    ascending.sort_unstable();
    ascending.dedup();
    let first = tables.values().next().map_or("", |table| table.name.as_str());
    let mut lines: Vec<Vec<u8>> = vec![Vec::new(); keys.len()];
    for (alias, table) in tables {
        let rows = match source.rows(table, &ascending, piece::LARGEST_BYTES).await? {
            Rows::All(rows) => rows,
            Rows::TooMuch { read } => return Ok(Read::TooMuch { rows: read }),
        };
        for (line, key) in lines.iter_mut().zip(keys) {
            let row = rows.get(key).ok_or_else(|| EmulateError::Apart {
                table: table.name.clone(),
                key: table.key.clone(),
                value: *key,
                first: first.to_owned(),
            })?;
            // Aliases were checked to need no escaping.
            line.push(if line.is_empty() { b'{' } else { b',' });
            line.extend_from_slice(format!("\"{alias}\":").as_bytes());
            line.extend_from_slice(row);
        }
    }
    for line in &mut lines {
        line.push(b'}');
    }
    Ok(Read::Lines(lines))
}

/// Removes what other attempts of the task staged. They are not wrong, only in the way: a failure harms nobody.
async fn remove_losers(s3: &S3, folder: &str, winner: &Staged, context: &TaskContext) {
    let kept = winner.manifest.trim_end_matches("manifest.json");
    let removed = async {
        for object in s3.list(&winner.bucket, folder).await? {
            if !object.key.starts_with(kept) {
                s3.delete(&winner.bucket, &object.key).await?;
            }
        }
        Ok::<(), crate::connect::s3::S3Error>(())
    };
    if let Err(error) = removed.await {
        context.log.line(format!("what earlier attempts staged stays behind: {error}"));
    }
}

fn output(staged: &Staged, manifest: &Manifest) -> Output {
    outputs::written(&EmulateOutput {
        rows: manifest.rows,
        bytes: manifest.bytes(),
        draw: manifest.draw.clone(),
        seed: manifest.seed,
        tables: manifest.tables.clone(),
        staged: StagedRows {
            bucket: staged.bucket.clone(),
            manifest: staged.manifest.clone(),
            sha256: staged.sha256.clone(),
            parts: manifest.parts.len() as u64,
        },
    })
}
