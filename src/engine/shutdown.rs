//! How a process stops: written once, used by all that runs.
//!
//! First signal: nothing new is claimed, what runs may end ([`Shutdown::drain`]). Second signal: what runs is told to
//! stop and is handed back uncounted ([`Shutdown::stop`]). A third ends the process where it stands; nothing is lost by
//! it, since recovery is the same as after `kill -9`.

use tokio_util::sync::CancellationToken;

/// The two steps of stopping, shared by clones.
#[derive(Debug, Clone, Default)]
pub struct Shutdown {
    draining: CancellationToken,
    stopping: CancellationToken,
}

impl Shutdown {
    /// Nothing new from now on.
    pub fn drain(&self) {
        self.draining.cancel();
    }

    /// What runs stops, too.
    pub fn stop(&self) {
        self.draining.cancel();
        self.stopping.cancel();
    }

    /// One step further: drain first, then stop. Says which it was.
    pub fn next(&self) -> ShutdownStep {
        if self.draining.is_cancelled() {
            self.stop();
            ShutdownStep::Stop
        } else {
            self.drain();
            ShutdownStep::Drain
        }
    }

    /// Whether nothing new is to begin.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.draining.is_cancelled()
    }

    /// Waits for the first step.
    pub async fn drained(&self) {
        self.draining.cancelled().await;
    }

    /// Waits for the second step.
    pub async fn stopped(&self) {
        self.stopping.cancelled().await;
    }
}

/// Which step of stopping was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ShutdownStep {
    /// Nothing new; what runs may end.
    Drain,
    /// What runs stops.
    Stop,
}
