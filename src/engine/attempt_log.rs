//! Collects an attempt's lines into chunks and writes them while the attempt runs: so that a log can be followed. The chunks
//! of all attempts of a worker go to its [`LogBook`], which writes what comes together in one commit.

use std::mem;
use std::time::Duration;

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::domain::ids::AttemptKey;
use crate::domain::masking::MaskedStream;
use crate::engine::operator::chain;
use crate::engine::task_log::LogReader;
use crate::engine::worker::answered;
use crate::store::{LogChunk, Store};

/// A chunk is written when it is this long …
const CHUNK: usize = 64 * 1024;

/// … or this old: what a person who follows a log takes for at once.
const PATIENCE: Duration = Duration::from_millis(300);

/// How long lines are waited for after the operator returned: a thread of its may still hold the log.
const AFTERMATH: Duration = Duration::from_secs(2);

/// How long the last chunk is tried: its attempt waits for it. A batch of others may fail before its turn.
const LAST_LIMIT: Duration = Duration::from_secs(10);

/// Writes all lines until nobody is left who may say one, or `ended` is cancelled and 2 s have passed: what was said by then is
/// written whole. Secrets are masked; the beginning of what may be one waits for its rest, at the most until the end.
///
/// A chunk that cannot be written is tried again, with what came meanwhile, up to 4 MiB; then it is dropped and said so:
/// a task does not fail because of its log.
pub(crate) async fn write(
    book: LogBook,
    attempt: AttemptKey,
    mut lines: LogReader,
    mut masked: MaskedStream,
    ended: tokio_util::sync::CancellationToken,
) {
    let mut chunk = Chunk { book, attempt, seq: 0, body: String::new() };
    let deadline = async {
        ended.cancelled().await;
        tokio::time::sleep(AFTERMATH).await;
    };
    tokio::pin!(deadline);
    let mut due = None;
    let mut is_over = false;
    loop {
        let patience = async {
            match due {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            line = lines.next() => {
                let Some(line) = line else { break };
                chunk.body.push_str(&masked.push(&(line + "\n")));
                if chunk.body.len() < CHUNK {
                    due.get_or_insert_with(|| Instant::now() + PATIENCE);
                    continue;
                }
            }
            () = patience => {}
            () = &mut deadline, if !is_over => {
                // What was said until now is written, however much it is; what a thread that was left behind says is not.
                lines.close();
                is_over = true;
                continue;
            }
        }
        if !chunk.flush().await && is_over {
            break;
        }
        due = (!chunk.body.is_empty()).then(|| Instant::now() + PATIENCE);
    }
    chunk.body.push_str(&masked.finish());
    let written = async {
        while !chunk.flush().await {
            tokio::time::sleep(PATIENCE).await;
        }
    };
    if tokio::time::timeout(LAST_LIMIT, written).await.is_ok() {
        return;
    }
    tracing::error!("the end of a task's log is lost: the database did not take it");
}

struct Chunk {
    book: LogBook,
    attempt: AttemptKey,
    seq: i32,
    body: String,
}

impl Chunk {
    /// What is kept for another try at the most.
    const KEPT: usize = 4 * 1024 * 1024;

    /// Whether nothing waits to be written any more.
    async fn flush(&mut self) -> bool {
        if self.body.is_empty() {
            return true;
        }
        let body = mem::take(&mut self.body);
        match self.book.write(LogChunk { attempt: self.attempt, seq: self.seq, body }).await {
            Fate::Written => self.seq += 1,
            Fate::Refused => {} // its run is gone: nobody will read it
            Fate::Again(body) if body.len() > Self::KEPT => {
                self.body = "[lines were lost here: the database did not take them]\n".to_owned();
            }
            Fate::Again(body) => self.body = body,
        }
        self.body.is_empty()
    }
}

/// Takes the chunks of a worker's attempts. What comes while others are being written is the next batch, so that thousands who
/// talk at once cost few commits and one connection, and a lone one never waits for others.
#[derive(Clone)]
pub(crate) struct LogBook(UnboundedSender<Waiting>);

/// A chunk that waits to be written, and who waits for that.
struct Waiting {
    chunk: LogChunk,
    told: oneshot::Sender<Fate>,
}

/// What became of a chunk.
enum Fate {
    Written,
    /// It may be written another time: here it is.
    Again(String),
    /// The database will never take it.
    Refused,
}

/// What a batch has at the most, in bytes, but for its last chunk.
const BATCH: usize = 1024 * 1024;

impl LogBook {
    /// A book, and who writes what comes to it, until the book and its clones are gone.
    pub(crate) fn open(store: Store) -> (Self, impl Future<Output = ()>) {
        let (sender, receiver) = unbounded_channel();
        (Self(sender), keep(store, receiver))
    }

    async fn write(&self, chunk: LogChunk) -> Fate {
        let (told, hears) = oneshot::channel();
        match self.0.send(Waiting { chunk, told }) {
            Ok(()) => hears.await.unwrap_or(Fate::Refused), // the worker is gone, and its attempts are about to be
            Err(refused) => Fate::Again(refused.0.chunk.body),
        }
    }
}

async fn keep(store: Store, mut waiting: UnboundedReceiver<Waiting>) {
    while let Some(first) = waiting.recv().await {
        let mut bytes = first.chunk.body.len();
        let mut batch = vec![first];
        while bytes < BATCH
            && let Ok(next) = waiting.try_recv()
        {
            bytes += next.chunk.body.len();
            batch.push(next);
        }
        batch.retain(|one| !one.told.is_closed()); // who stopped waiting may have come again with more
        write_batch(&store, batch).await;
    }
}

/// Writes a batch. One that is refused, since its run is gone, is found by halves, and is not in the way of the others.
async fn write_batch(store: &Store, batch: Vec<Waiting>) {
    let mut parts = vec![batch];
    while let Some(mut part) = parts.pop() {
        let Some(first) = part.first() else { continue };
        let task_run = first.chunk.attempt.task_run;
        let chunks: Vec<&LogChunk> = part.iter().map(|one| &one.chunk).collect();
        let written = answered(store.append_logs(&chunks)).await;
        let is_refused = written.as_ref().is_err_and(|error| !error.is_transient());
        match written {
            Ok(()) => part.into_iter().for_each(|one| one.tell(|_| Fate::Written)),
            Err(_) if is_refused && part.len() > 1 => {
                let rest = part.split_off(part.len() / 2);
                parts.extend([rest, part]);
            }
            Err(error) => {
                tracing::warn!(
                    error = %chain(&error),
                    chunks = part.len(),
                    run.key = task_run.run.0,
                    task.index = task_run.task.0,
                    "a part of a task's log could not be written"
                );
                let fate = |body| if is_refused { Fate::Refused } else { Fate::Again(body) };
                part.into_iter().for_each(|one| one.tell(fate));
            }
        }
    }
}

impl Waiting {
    fn tell(self, fate: impl FnOnce(String) -> Fate) {
        let _ = self.told.send(fate(self.chunk.body)); // nobody may be left to hear it
    }
}
