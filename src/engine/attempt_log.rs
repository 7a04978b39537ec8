//! Collects an attempt's lines into chunks and writes them while the attempt runs: so that a log can be followed. The chunks
//! of all attempts of a worker go to its [`LogBook`], which writes what comes together in one commit.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Semaphore, oneshot};
use tokio::time::Instant;

use crate::domain::ids::AttemptKey;
use crate::domain::masking::MaskedStream;
use crate::engine::operator::{LogReader, chain};
use crate::engine::worker::answered;
use crate::store::{LogChunk, Store};

/// A chunk is written when it is this long …
const CHUNK: usize = 64 * 1024;

/// … or this old: what a person who follows a log takes for at once.
const PATIENCE: Duration = Duration::from_millis(300);

/// How long lines are waited for after the operator returned: a thread of its may still hold the log.
const AFTERMATH: Duration = Duration::from_secs(2);

/// How long the last chunk is tried: its attempt waits for it.
const LAST_LIMIT: Duration = Duration::from_secs(5);

/// Writes all lines until every sender is gone, or `ended` is cancelled and 2 s have passed: what was said by then is written
/// whole. Secrets are masked; the beginning of what may be one waits for its rest, at the most until the end.
///
/// A chunk that cannot be written is tried again, with what came meanwhile, up to 4 MiB; then it is dropped and said so:
/// a task does not fail because of its log.
pub(crate) async fn write(
    book: Arc<LogBook>,
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
    tracing::error!(bytes = chunk.body.len(), "the end of a task's log is lost: the database did not take it");
}

struct Chunk {
    book: Arc<LogBook>,
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
        let (attempt, seq, body) = (self.attempt, self.seq, self.body.clone());
        let is_written = self.book.write(LogChunk { attempt, seq, body }).await;
        if is_written {
            self.seq += 1;
            self.body.clear();
        } else if self.body.len() > Self::KEPT {
            self.body = "[lines were lost here: the database did not take them]\n".to_owned();
        }
        is_written
    }
}

/// Writes the logs of a worker's attempts: what comes while others are being written is the next batch, so that thousands
/// who talk at once cost few commits and few connections, and a lone one never waits for others.
pub(crate) struct LogBook {
    store: Store,
    waiting: Mutex<Vec<Waiting>>,
    turns: Semaphore,
}

/// A chunk that waits to be written, and who waits for that.
struct Waiting {
    chunk: LogChunk,
    told: oneshot::Sender<bool>,
}

impl LogBook {
    /// How many batches are written at once.
    const TURNS: usize = 2;

    /// What a batch has at the most, in bytes, but for its last chunk.
    const BATCH: usize = 1024 * 1024;

    /// The book of those logs that are kept there.
    pub(crate) fn new(store: Store) -> Self {
        Self { store, waiting: Mutex::default(), turns: Semaphore::new(Self::TURNS) }
    }

    /// Whether the chunk was written. Whoever waits may write for others; if that one goes away half way, those others are
    /// told that nothing was written, and come again.
    async fn write(&self, chunk: LogChunk) -> bool {
        let (told, mut hears) = oneshot::channel();
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).push(Waiting { chunk, told });
        loop {
            tokio::select! {
                biased;
                heard = &mut hears => return heard.unwrap_or(false),
                turn = self.turns.acquire() => {
                    let _turn = turn.expect("nobody closes it");
                    let batch = self.batch();
                    if batch.is_empty() {
                        break; // somebody else writes it just now
                    }
                    // Boxed, since thousands may wait here who never write.
                    Box::pin(self.write_batch(batch)).await;
                }
            }
        }
        hears.await.unwrap_or(false)
    }

    /// Takes what waits longest. Those who stopped to wait are left out.
    fn batch(&self) -> Vec<Waiting> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.retain(|one| !one.told.is_closed());
        let mut bytes = 0;
        let mut fits = |one: &&Waiting| {
            let before = bytes;
            bytes += one.chunk.body.len();
            before < Self::BATCH
        };
        let count = waiting.iter().take_while(|one| fits(one)).count();
        waiting.drain(..count).collect()
    }

    async fn write_batch(&self, batch: Vec<Waiting>) {
        let (chunks, told): (Vec<_>, Vec<_>) = batch.into_iter().map(|one| (one.chunk, one.told)).unzip();
        let written = answered(self.store.append_logs(&chunks)).await;
        // One that is refused, since its run is gone, must not be in the way of the others.
        let one_by_one = chunks.len() > 1 && written.as_ref().is_err_and(|error| !error.is_transient());
        if let Err(error) = &written {
            tracing::warn!(error = %chain(error), chunks = chunks.len(), "logs of tasks could not be written");
        }
        for (chunk, told) in chunks.into_iter().zip(told) {
            let is_written = match one_by_one {
                true => answered(self.store.append_logs(&[chunk])).await.is_ok(),
                false => written.is_ok(),
            };
            let _ = told.send(is_written); // nobody may be left to hear it
        }
    }
}
