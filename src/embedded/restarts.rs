//! How often a part that ended by itself is started again, and when that is of no more use. Pure: time is an argument.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use super::component::Component;

/// In a row. What passes, as a kill or a full disk that is cleared, passes sooner; what does not is told.
pub(super) const LIMIT: u32 = 5;
/// The wait before the second start; the first is made at once, each further wait is twice as long.
pub(super) const PAUSE: Duration = Duration::from_millis(250);
/// Who has lasted for so long has failed for a new reason.
pub(super) const STEADY: Duration = Duration::from_secs(60);

/// The parts that have failed.
#[derive(Debug, Default)]
pub(super) struct Restarts {
    parts: BTreeMap<Component, Part>,
}

#[derive(Debug, Default)]
struct Part {
    /// In a row.
    failures: u32,
    /// Since when it answers; none while it is being started again.
    ready_at: Option<Instant>,
}

impl Restarts {
    /// Takes note that a part answers.
    pub(super) fn ready(&mut self, component: Component, now: Instant) {
        self.parts.entry(component).or_default().ready_at = Some(now);
    }

    /// Whether a start of this part is one of those that are made again.
    pub(super) fn is_restart(&self, component: Component) -> bool {
        self.parts.get(&component).is_some_and(|part| part.failures > 0 && part.ready_at.is_none())
    }

    /// Takes note that a part has ended, or was started again in vain: how long to wait before the next start, or none
    /// when it was the last.
    pub(super) fn failed(&mut self, component: Component, now: Instant) -> Option<Duration> {
        let part = self.parts.entry(component).or_default();
        if part.ready_at.take().is_some_and(|at| now.duration_since(at) > STEADY) {
            part.failures = 0;
        }
        part.failures += 1;
        match part.failures {
            1 => Some(Duration::ZERO),
            failures if failures <= LIMIT => Some(PAUSE * 2_u32.pow(failures - 2)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_in_a_row_are_counted_and_a_part_that_lasts_begins_anew() {
        let mut restarts = Restarts::default();
        let mut now = Instant::now();
        restarts.ready(Component::Postgres, now);
        assert!(!restarts.is_restart(Component::Postgres));
        let mut waits = Vec::new();
        while let Some(wait) = restarts.failed(Component::Postgres, now) {
            assert!(restarts.is_restart(Component::Postgres) && !restarts.is_restart(Component::Kafka));
            waits.push(wait.as_millis());
            // That it answers for a moment is no recovery.
            restarts.ready(Component::Postgres, now);
            now += Duration::from_secs(1);
        }
        assert_eq!(waits, [0, 250, 500, 1000, 2000]);
        restarts.ready(Component::Postgres, now);
        let later = now + STEADY + Duration::from_secs(1);
        assert_eq!(restarts.failed(Component::Postgres, later), Some(Duration::ZERO));
    }
}
