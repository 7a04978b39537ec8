//! Sends what the outboxes have (callbacks, and what is told of runs to who gathers traces and lineage), for as long as a process works, and what is left of a run before a process ends.

use std::time::Duration;

use tokio::sync::watch;

use crate::domain::ids::RunKey;
use crate::engine::exports::Exporter;
use crate::engine::notices::Notifier;
use crate::engine::operator::chain;
use crate::engine::shutdown::Shutdown;
use crate::store::StoreError;

/// How often it is looked for what is due: a look at an index that holds little.
const LOOK: Duration = Duration::from_secs(1);

/// How often before a process ends, which people wait for.
const LAST_LOOK: Duration = Duration::from_millis(200);

/// So many batches are on their way at once: a receiver that does not answer holds one of them up.
const SENDERS: usize = 4;

/// What is sent from.
pub trait Outbox: Sync {
    /// What is in it, for people.
    const WHAT: &'static str;

    /// Sends what is due, of one run or of all; says how many were due.
    fn send_due(&self, of: Option<RunKey>) -> impl Future<Output = Result<usize, StoreError>> + Send;

    /// Whether something of a run that happened is still to be told.
    fn has_more(&self, run: RunKey) -> impl Future<Output = Result<bool, StoreError>> + Send;
}

impl Outbox for Notifier {
    const WHAT: &'static str = "callbacks";

    async fn send_due(&self, of: Option<RunKey>) -> Result<usize, StoreError> {
        self.send_due(of).await
    }

    async fn has_more(&self, run: RunKey) -> Result<bool, StoreError> {
        self.has_more(run).await
    }
}

impl Outbox for Exporter {
    const WHAT: &'static str = "traces and lineage";

    async fn send_due(&self, of: Option<RunKey>) -> Result<usize, StoreError> {
        self.send_due(of).await
    }

    async fn has_more(&self, run: RunKey) -> Result<bool, StoreError> {
        self.has_more(run).await
    }
}

/// Sends what happens in one run while it goes on, and once it is over what is left, for as long as `last` then says; whether
/// all of it was sent or given up. What is being sent when the run ends is sent: half a message would be told again later.
pub async fn tell<O: Outbox>(outbox: &O, run: RunKey, last: watch::Receiver<Option<Duration>>) -> bool {
    let give_up = async {
        let limit = last.clone().wait_for(Option::is_some).await.ok().and_then(|limit| *limit);
        tokio::time::sleep(limit.unwrap_or_default()).await;
    };
    let all_sent = async {
        let mut last = last.clone();
        loop {
            match outbox.send_due(Some(run)).await {
                Ok(0) => {}
                Ok(_) => continue,
                Err(error) => tracing::warn!(error = %chain(&error), "{} could not be sent; trying again", O::WHAT),
            }
            if last.borrow().is_none() {
                tokio::select! {
                    () = tokio::time::sleep(LOOK) => {}
                    _ = last.changed() => {}
                }
            } else if matches!(outbox.has_more(run).await, Ok(false)) {
                return;
            } else {
                tokio::time::sleep(LAST_LOOK).await;
            }
        }
    };
    tokio::select! {
        biased;
        () = all_sent => true,
        () = give_up => false,
    }
}

/// Sends what is due of all runs until the process stops; what is being sent then is sent.
pub(super) async fn work(outbox: impl Outbox, shutdown: Shutdown) {
    futures::future::join_all((0..SENDERS).map(|_| send_until(&outbox, &shutdown))).await;
}

async fn send_until<O: Outbox>(outbox: &O, shutdown: &Shutdown) {
    loop {
        let sent = match outbox.send_due(None).await {
            Ok(sent) => sent,
            Err(error) => {
                tracing::warn!(error = %chain(&error), "{} could not be sent; trying again", O::WHAT);
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
