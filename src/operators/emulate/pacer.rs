//! How fast rows are drawn.

use std::time::{Duration, Instant};

use super::config::{Pace, Rate};
use super::draw::Replay;

/// Holds the drawing back to the rate that was asked for.
pub(super) enum Pacer {
    Free,
    Rate { per_second: f64, since: Instant },
    Original(Replay),
}

impl Pacer {
    pub(super) fn new(rate: Option<Rate>, pace: Option<Pace>, seed: u64, now: Instant) -> Self {
        match (rate, pace) {
            (Some(Rate(per_second)), _) => Self::Rate { per_second, since: now },
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

    /// How long to wait until `rows` may have been drawn; `pause` is the original's own, where it draws.
    pub(super) fn pause(&mut self, now: Instant, rows: u64, pause: Option<Duration>) -> Duration {
        match self {
            Self::Free => Duration::ZERO,
            Self::Rate { per_second, since } => {
                Duration::from_secs_f64(rows as f64 / *per_second).saturating_sub(now - *since)
            }
            Self::Original(replay) => pause.unwrap_or_else(|| Duration::from_secs(replay.next().0.into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    #[test]
    fn a_rate_spaces_the_rows() {
        let begun = clock::monotonic();
        let ms = Duration::from_millis;
        let mut pacer = Pacer::new(Some(Rate(50.0)), None, 1, begun);
        assert_eq!((pacer.largest_piece(100), pacer.largest_piece(3)), (5, 3));
        // (ms since the beginning, rows, ms to wait)
        for (at, rows, wait) in [(0, 5, 100), (30, 5, 70), (100, 10, 100), (900, 50, 100), (1500, 50, 0)] {
            assert_eq!(pacer.pause(begun + ms(at), rows, None), ms(wait), "{rows} rows after {at} ms");
        }
        let mut slow = Pacer::new(Some(Rate(0.5)), None, 1, begun);
        assert_eq!((slow.largest_piece(100), slow.pause(begun, 1, None)), (1, ms(2000)));
    }

    #[test]
    fn without_a_rate_only_the_original_pauses() {
        let now = clock::monotonic();
        assert_eq!(Pacer::new(None, None, 1, now).pause(now, 1_000_000, None), Duration::ZERO);
        let mut original = Pacer::new(None, Some(Pace::Original), 100, now);
        assert_eq!(original.largest_piece(100), 1);
        // python3: random.seed(100); [(random.randrange(0, 2), random.randint(0, 11000)) for _ in range(6)]
        let pauses: Vec<u64> = (0..6).map(|_| original.pause(now, 1, None).as_secs()).collect();
        assert_eq!(pauses, [0, 1, 1, 1, 0, 0]);
        assert_eq!(original.pause(now, 1, Some(Duration::from_secs(7))), Duration::from_secs(7));
    }
}
