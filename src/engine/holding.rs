//! For how long a worker may trust its leases, by its own monotonic clock: the leases themselves know only Postgres's.

use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::time::sleep_until;

use crate::clock;
use crate::store::LEASE;

/// How long an operator may take to stop once its lease is lost; then its future is dropped.
pub(super) const LOST_STOP_LIMIT: Duration = Duration::from_secs(3);

/// What is left between the last instant at which an attempt is gone and its lease's end, for clocks that do not run
/// alike.
const MARGIN: Duration = Duration::from_secs(2);

/// How long a renewal is trusted, from before it was asked for: an attempt that is told to stop then is gone before
/// others may take its task.
pub(super) const TRUST: Duration = LEASE.saturating_sub(LOST_STOP_LIMIT).saturating_sub(MARGIN);

/// A worker's trust in its leases. Attempts watch it for themselves, so that it ends in time whatever the worker waits for.
pub(super) struct Holding {
    until: watch::Sender<Instant>,
}

/// An attempt's view of it.
#[derive(Debug, Clone)]
pub(crate) struct HoldingWatch {
    until: watch::Receiver<Instant>,
}

impl Holding {
    /// Trust from `now` on: for a worker that holds nothing yet.
    pub(super) fn new(now: Instant) -> Self {
        Self { until: watch::Sender::new(now + TRUST) }
    }

    /// A renewal that was asked for at `began` succeeded.
    pub(super) fn renewed(&self, began: Instant) {
        self.until.send_replace(began + TRUST);
    }

    /// For one more attempt.
    pub(super) fn watch(&self) -> HoldingWatch {
        HoldingWatch { until: self.until.subscribe() }
    }
}

impl HoldingWatch {
    /// Waits until the leases may not be trusted any more.
    pub(super) async fn ended(&self) {
        loop {
            let until = *self.until.borrow();
            if until <= clock::monotonic() {
                return;
            }
            sleep_until(until.into()).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[tokio::test]
    async fn it_ends_before_the_lease_does_and_each_renewal_puts_it_off() {
        assert!(TRUST + LOST_STOP_LIMIT < LEASE);
        let now = clock::monotonic();
        let holding = Holding::new(now - TRUST);
        let watch = holding.watch();
        assert!(watch.ended().now_or_never().is_some(), "a renewal that is so old is not trusted");
        holding.renewed(now);
        assert!(watch.ended().now_or_never().is_none(), "a renewal puts the end off");
        holding.renewed(now - TRUST);
        drop(holding);
        assert!(watch.ended().now_or_never().is_some(), "a worker that is gone renews nothing");
    }
}
