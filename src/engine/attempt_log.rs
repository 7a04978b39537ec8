//! Collects an attempt's lines into chunks and writes them while the attempt runs: so that a log can be followed.

use std::time::Duration;

use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::Instant;

use crate::domain::ids::AttemptKey;
use crate::domain::masking::MaskedStream;
use crate::engine::worker::answered;
use crate::store::Store;

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
    store: Store,
    attempt: AttemptKey,
    mut lines: UnboundedReceiver<String>,
    mut masked: MaskedStream,
    ended: tokio_util::sync::CancellationToken,
) {
    let mut chunk = Chunk { store, attempt, seq: 0, body: String::new() };
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
            line = lines.recv() => {
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
        if !Box::pin(chunk.flush()).await && is_over {
            break;
        }
        due = (!chunk.body.is_empty()).then(|| Instant::now() + PATIENCE);
    }
    chunk.body.push_str(&masked.finish());
    let written = async {
        while !Box::pin(chunk.flush()).await {
            tokio::time::sleep(PATIENCE).await;
        }
    };
    if tokio::time::timeout(LAST_LIMIT, written).await.is_ok() {
        return;
    }
    tracing::error!(bytes = chunk.body.len(), "the end of a task's log is lost: the database did not take it");
}

struct Chunk {
    store: Store,
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
        match answered(self.store.append_log(self.attempt, self.seq, &self.body)).await {
            Ok(()) => {
                self.seq += 1;
                self.body.clear();
                true
            }
            Err(error) => {
                tracing::warn!(error = %crate::engine::operator::chain(&error), "a task's log could not be written");
                if self.body.len() > Self::KEPT {
                    self.body = "[lines were lost here: the database did not take them]\n".to_owned();
                }
                false
            }
        }
    }
}
