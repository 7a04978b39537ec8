//! How fast rows are drawn.

use std::time::{Duration, Instant};

use super::config::{Pace, Rate};
use super::draw::Replay;
use crate::clock;

/// Holds the drawing back to the rate that was asked for.
pub(super) enum Pacer {
    Free,
    Rate { per_second: f64, since: Instant },
    Original(Replay),
}

impl Pacer {
    pub(super) fn new(rate: Option<Rate>, pace: Option<Pace>, seed: u64) -> Self {
        match (rate, pace) {
            (Some(Rate(per_second)), _) => Self::Rate { per_second, since: clock::monotonic() },
            (None, Some(Pace::Original)) => Self::Original(Replay::new(seed)),
            (None, None) => Self::Free,
        }
    }

    /// So small that rows come evenly: about ten pieces a second.
    pub(super) fn largest_piece(&self, piece: u64) -> u64 {
        match self {
            Self::Free => piece,
            Self::Rate { per_second, .. } => piece.min(((per_second / 10.0) as u64).max(1)),
            Self::Original(_) => 1,
        }
    }

    /// Waits until `rows` may have been drawn; `pause` is the original's own, where it draws.
    pub(super) async fn wait(&mut self, rows: u64, pause: Option<Duration>) {
        let wait = match self {
            Self::Free => return,
            Self::Rate { per_second, since } => {
                Duration::from_secs_f64(rows as f64 / *per_second).saturating_sub(clock::monotonic() - *since)
            }
            Self::Original(replay) => pause.unwrap_or_else(|| Duration::from_secs(replay.next().0.into())),
        };
        tokio::time::sleep(wait).await;
    }
}
