//! Attempts whose worker is gone: taken over once that is certain.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::store::Orphan;

/// How long a worker's sign of life must be missing: a worker that loses it stops its tasks within that time.
pub(super) const GRACE: Duration = Duration::from_secs(1);

/// The orphans seen so far, with when they were first seen.
#[derive(Debug, Default)]
pub(crate) struct Orphanage {
    since: HashMap<Orphan, Instant>,
}

impl Orphanage {
    /// Takes one look and returns those that are to be taken over: their lease has ended, or their worker's sign of
    /// life was missing for a second.
    pub(crate) fn look(&mut self, seen: Vec<Orphan>, now: Instant) -> Vec<Orphan> {
        self.since.retain(|orphan, _| seen.contains(orphan));
        let mut certain = Vec::new();
        for orphan in seen {
            let since = *self.since.entry(orphan).or_insert(now);
            if orphan.lease_expired || now.duration_since(since) >= GRACE {
                certain.push(orphan);
            }
        }
        certain
    }

    /// Whether some are watched: the next look should come soon.
    pub(crate) fn is_watching(&self) -> bool {
        !self.since.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::ids::{RunKey, TaskIndex, TaskRunKey};
    use crate::store::WorkerId;

    #[test]
    fn an_orphan_is_taken_after_a_second_without_a_sign_or_at_once_when_its_lease_ended() {
        let task_run = TaskRunKey { run: RunKey(7), task: TaskIndex(3) };
        let orphan = Orphan { task_run, fence: 2, worker: WorkerId(9), lease_expired: false };
        let start = crate::clock::monotonic();
        let mut orphanage = Orphanage::default();
        assert!(orphanage.look(vec![orphan], start).is_empty());
        assert!(orphanage.look(vec![], start + GRACE).is_empty(), "its worker was seen again");
        assert!(orphanage.look(vec![orphan], start + GRACE).is_empty());
        assert_eq!(orphanage.look(vec![orphan], start + GRACE * 2), [orphan]);
        let expired = Orphan { lease_expired: true, ..orphan };
        assert_eq!(Orphanage::default().look(vec![expired], start), [expired]);
    }
}
