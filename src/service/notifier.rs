//! Sends what the outbox has, for as long as a process works, and what is left of a run before a process ends.

use std::time::Duration;

use crate::clock;
use crate::domain::ids::RunKey;
use crate::engine::notices::Notifier;
use crate::engine::operator::chain;
use crate::engine::shutdown::Shutdown;

/// How often it is looked for what is due: a look at an index that holds little.
const LOOK: Duration = Duration::from_secs(1);

/// How often before a process ends, which people wait for.
const LAST_LOOK: Duration = Duration::from_millis(200);

/// So many batches are on their way at once: a receiver that does not answer holds one of them up.
const SENDERS: usize = 4;

/// Sends what is due, of one run or of all, until its future is dropped.
pub async fn follow(notifier: &Notifier, of: Option<RunKey>) -> std::convert::Infallible {
    loop {
        match notifier.send_due(of).await {
            Ok(0) => {}
            Ok(_) => continue,
            Err(error) => tracing::warn!(error = %chain(&error), "callbacks could not be sent; trying again"),
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Sends what is due of all runs until the process stops; what is being sent then is sent.
pub(super) async fn work(notifier: Notifier, shutdown: Shutdown) {
    futures::future::join_all((0..SENDERS).map(|_| send_until(&notifier, &shutdown))).await;
}

async fn send_until(notifier: &Notifier, shutdown: &Shutdown) {
    loop {
        let sent = match notifier.send_due(None).await {
            Ok(sent) => sent,
            Err(error) => {
                tracing::warn!(error = %chain(&error), "callbacks could not be sent; trying again");
                0
            }
        };
        let wait = if sent > 0 { Duration::ZERO } else { LOOK };
        tokio::select! {
            biased;
            () = shutdown.drained() => return,
            () = tokio::time::sleep(wait) => {}
        }
    }
}

/// Sends what happened in a run, for at most `limit`; whether all of it was sent or given up.
pub async fn finish(notifier: &Notifier, run: RunKey, limit: Duration) -> bool {
    let began = clock::monotonic();
    while began.elapsed() < limit {
        let sent = tokio::time::timeout(limit.saturating_sub(began.elapsed()), notifier.send_due(Some(run))).await;
        if matches!(sent, Ok(Ok(0)) | Ok(Err(_)) | Err(_)) {
            match notifier.has_more(run).await {
                Ok(false) => return true,
                Ok(true) | Err(_) => tokio::time::sleep(LAST_LOOK).await,
            }
        }
    }
    false
}
