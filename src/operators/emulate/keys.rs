//! The keys that are drawn, piece by piece.

use std::collections::VecDeque;
use std::time::Duration;

use super::draw::{Replay, Selection};
use crate::connect::source::{KeySpace, Source, SourceError, SourceTable};

/// So many keys are looked at between two yields to other tasks.
const KEY_PAGE: u32 = 10_000;

/// Keys in the order in which they are drawn.
pub(super) enum Keys {
    /// In key order, each at most once.
    Selected { selection: Selection, space: KeySpace, after: Option<i64>, taken: VecDeque<i64> },
    /// As the original drew them: the keys by rank.
    Replay { keys: Vec<i64>, replay: Replay, pause: Duration },
}

impl Keys {
    /// The next keys, at most `limit`; none when there are no more.
    pub(super) async fn next(
        &mut self,
        source: &mut Source,
        table: &SourceTable,
        limit: u64,
    ) -> Result<Vec<i64>, SourceError> {
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        match self {
            Self::Replay { keys, replay, pause } => Ok((0..limit)
                .map(|_| {
                    let (seconds, rank) = replay.next();
                    *pause = Duration::from_secs(seconds.into());
                    keys[rank as usize]
                })
                .collect()),
            Self::Selected { selection, space, after, taken } => {
                while taken.len() < limit && !selection.is_done() {
                    // Without gaps the keys need not be read to be known.
                    let page: Vec<i64> = if space.is_dense() {
                        let from = after.map_or(space.lowest, |after| after.saturating_add(1));
                        let to = from.saturating_add(KEY_PAGE.into()).min(space.highest.saturating_add(1));
                        tokio::task::yield_now().await;
                        (from..to).collect()
                    } else {
                        source.keys_after(table, *after, KEY_PAGE).await?
                    };
                    let Some(&last) = page.last() else { break };
                    *after = Some(last);
                    taken.extend(page.into_iter().filter(|_| selection.takes_next()));
                }
                Ok(taken.drain(..limit.min(taken.len())).collect())
            }
        }
    }

    /// How long the original would have slept before the last key drawn.
    pub(super) fn pause(&self) -> Option<Duration> {
        match self {
            Self::Replay { pause, .. } => Some(*pause),
            Self::Selected { .. } => None,
        }
    }
}
