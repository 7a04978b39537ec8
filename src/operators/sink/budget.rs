//! How much memory the finished cuts of an attempt may take together, however many partitions it has.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The most that finished cuts hold, in units of [`UNIT`]: 128 MiB.
const UNITS: u32 = 128 * 1024;
/// What is counted in; a cut takes one at least.
const UNIT: usize = 1024;

/// The budget; clones share it.
#[derive(Debug, Clone)]
pub(super) struct Budget(Arc<Semaphore>);

/// A cut's part of the budget, given back when it is dropped.
#[derive(Debug)]
pub(super) struct Share {
    _permit: OwnedSemaphorePermit,
}

impl Budget {
    pub(super) fn new() -> Self {
        Self(Arc::new(Semaphore::new(UNITS as usize)))
    }

    /// Waits until there is room for `bytes`; what is more than all of it takes all.
    ///
    /// Whoever holds a share must be able to end without another one, or all wait for each other.
    pub(super) async fn take(&self, bytes: usize) -> Share {
        let units = u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(UNITS).clamp(1, UNITS);
        let permit = Arc::clone(&self.0).acquire_many_owned(units).await;
        Share { _permit: permit.expect("the semaphore is never closed") }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn no_more_is_given_than_there_is_and_the_largest_cut_gets_all() {
        let budget = Budget::new();
        let all = UNITS as usize * UNIT;
        let half = budget.take(all / 2).await;
        let other = budget.take(all / 2).await;
        assert!(budget.take(1).now_or_never().is_none());
        drop(half);
        assert!(budget.take(all).now_or_never().is_none());
        drop(other);
        assert!(budget.take(all * 10).now_or_never().is_some());
    }
}
