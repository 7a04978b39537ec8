//! Where objects begin and end: Confluent's rotation, as a pure machine over the records of one partition.
//!
//! Whether a record opens new objects depends on the records since the last cut alone. So whoever starts again at a cut
//! (a retry, another worker) cuts the same, whatever the batches in which records arrive.

use std::collections::BTreeSet;

/// When to cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct CutRules {
    /// After so many records, over all open files.
    pub(super) flush_size: u64,
    /// Before a record that would open one more file than this.
    pub(super) max_open_files: usize,
    /// Before a record that is so many milliseconds younger than the first since the last cut.
    pub(super) rotate_interval_ms: Option<i64>,
    /// Before a record of another folder than the one before it; with `rotate_interval_ms` alone, as Confluent's
    /// time-based partitioner does.
    pub(super) rotate_on_folder_change: bool,
}

/// Where to cut around a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Cuts {
    /// The open files end before it; it goes into new ones.
    pub(super) before: bool,
    /// The open files end with it.
    pub(super) after: bool,
}

/// The machine. One per partition; a new one stands at a cut.
#[derive(Debug)]
pub(super) struct Cutter {
    rules: CutRules,
    records: u64,
    first_timestamp: i64,
    folder: String,
    open: BTreeSet<String>,
}

impl Cutter {
    pub(super) fn new(rules: CutRules) -> Self {
        Self { rules, records: 0, first_timestamp: 0, folder: String::new(), open: BTreeSet::new() }
    }

    /// Takes note of a record that goes into `folder`.
    pub(super) fn add(&mut self, timestamp: i64, folder: &str) -> Cuts {
        let before = self.records > 0 && (self.is_too_old(timestamp, folder) || self.is_too_wide(folder));
        if before {
            self.cut();
        }
        if self.records == 0 {
            self.first_timestamp = timestamp;
        }
        self.records += 1;
        if self.folder != folder || self.open.is_empty() {
            folder.clone_into(&mut self.folder);
            self.open.insert(folder.to_owned());
        }
        let after = self.records >= self.rules.flush_size;
        if after {
            self.cut();
        }
        Cuts { before, after }
    }

    /// Starts afresh, as after a cut.
    pub(super) fn cut(&mut self) {
        *self = Self::new(self.rules);
    }

    fn is_too_old(&self, timestamp: i64, folder: &str) -> bool {
        self.rules.rotate_interval_ms.is_some_and(|interval| {
            timestamp.saturating_sub(self.first_timestamp) >= interval
                || (self.rules.rotate_on_folder_change && self.folder != folder)
        })
    }

    fn is_too_wide(&self, folder: &str) -> bool {
        self.open.len() >= self.rules.max_open_files && !self.open.contains(folder)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    type Record = (i64, String);

    /// The cuts as positions: one at `n` lies before record `n`.
    fn positions(rules: CutRules, records: &[Record], from: usize) -> Vec<usize> {
        let mut cutter = Cutter::new(rules);
        let mut cuts = Vec::new();
        for (index, (timestamp, folder)) in records.iter().enumerate().skip(from) {
            let around = cutter.add(*timestamp, folder);
            cuts.extend(around.before.then_some(index));
            cuts.extend(around.after.then_some(index + 1));
        }
        cuts
    }

    fn rules(flush_size: u64, rotate_interval_ms: Option<i64>) -> CutRules {
        let rotate_on_folder_change = rotate_interval_ms.is_some();
        CutRules { flush_size, max_open_files: 64, rotate_interval_ms, rotate_on_folder_change }
    }

    fn records(shape: &[(i64, &str)]) -> Vec<Record> {
        shape.iter().map(|(timestamp, folder)| (*timestamp, (*folder).to_owned())).collect()
    }

    #[test]
    fn counts_over_all_open_files_and_includes_the_record_that_fills_them() {
        let mixed = records(&[(0, "a"), (0, "b"), (0, "a"), (0, "c"), (0, "a")]);
        assert_eq!(positions(rules(2, None), &mixed, 0), [2, 4]);
        assert_eq!(positions(rules(1, None), &mixed, 0), [1, 2, 3, 4, 5]);
    }

    #[test]
    fn the_record_that_is_too_young_opens_the_next_files_and_is_their_base() {
        let timed = records(&[(100, "a"), (159, "a"), (160, "a"), (219, "a"), (220, "a")]);
        assert_eq!(positions(rules(100, Some(60)), &timed, 0), [2, 4]);
    }

    #[test]
    fn a_change_of_hour_cuts_with_an_interval_and_does_not_without() {
        let late = records(&[(0, "hour=1"), (1, "hour=2"), (2, "hour=1")]);
        assert_eq!(positions(rules(100, Some(60)), &late, 0), [1, 2]);
        assert_eq!(positions(rules(100, None), &late, 0), [] as [usize; 0]);
    }

    #[test]
    fn more_folders_than_may_be_open_cut() {
        let wide: Vec<Record> = (0..100).map(|n| (0, format!("f={n}"))).collect();
        assert_eq!(positions(rules(1000, None), &wide, 0), [64]);
    }

    proptest! {
        #[test]
        fn whoever_starts_again_at_a_cut_cuts_the_same(
            shape in prop::collection::vec((0_i64..500, 0_u8..90), 1..300),
            flush_size in 1_u64..50,
            interval in prop::option::of(1_i64..200),
        ) {
            let records: Vec<Record> = shape.into_iter().map(|(time, folder)| (time, folder.to_string())).collect();
            let rules = rules(flush_size, interval);
            let whole = positions(rules, &records, 0);
            for (done, &cut) in whole.iter().enumerate() {
                prop_assert_eq!(&positions(rules, &records, cut), &whole[done + 1..]);
            }
        }

        #[test]
        fn no_object_holds_more_than_flush_size(
            folders in prop::collection::vec(0_u8..4, 1..300), flush_size in 1_u64..50,
        ) {
            let records: Vec<Record> = folders.into_iter().map(|folder| (0, folder.to_string())).collect();
            let mut last = 0;
            for cut in positions(rules(flush_size, None), &records, 0) {
                prop_assert_eq!((cut - last) as u64, flush_size);
                last = cut;
            }
        }
    }
}
