//! When tasks of a run began and ended, as their users see it: a mapped task goes from its first instance to its last.

use std::collections::BTreeMap;

use crate::domain::Timestamp;
use crate::domain::ids::TaskIndex;
use crate::domain::task_state::TaskState;
use crate::store::{TaskRun, WorkerId};

/// From when to when a task went on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Times {
    /// When it began.
    pub(crate) from: Option<Timestamp>,
    /// When it ended.
    pub(crate) to: Option<Timestamp>,
    /// Whether it goes on in somebody's hands.
    goes_on: bool,
}

impl Times {
    /// Those of each of a run's task runs, which that process drives.
    pub(crate) fn of_all(tasks: &[TaskRun], driver: Option<WorkerId>) -> BTreeMap<TaskIndex, Self> {
        let mut all: BTreeMap<TaskIndex, Self> = BTreeMap::new();
        for task in tasks {
            let goes_on = task.state == TaskState::Running && driver.is_some();
            all.insert(task.task, Self { from: task.started_at, to: task.attempt_finished_at, goes_on });
        }
        let mut mapped: BTreeMap<TaskIndex, Self> = BTreeMap::new();
        for (map_of, own) in tasks.iter().filter_map(|task| Some((task.map_of?, all.get(&task.task)?))) {
            let whole = mapped.entry(map_of).or_default();
            whole.from = whole.from.into_iter().chain(own.from).min();
            whole.to = whole.to.max(own.to);
            whole.goes_on |= own.goes_on;
        }
        for task in tasks {
            if let Some(whole) = mapped.get(&task.task) {
                // One that still waits for some of its instances has not ended with those that did.
                let to = whole.to.filter(|_| task.state.is_final());
                all.insert(task.task, Self { to, ..*whole });
            }
        }
        all
    }

    /// How long it took, or has taken until now. A task whose process is gone does not take longer and longer.
    pub(crate) fn duration_ms(self, now: Timestamp) -> Option<i64> {
        duration_ms(self.from, self.to.or(self.goes_on.then_some(now)))
    }
}

/// From one instant to another.
pub(crate) fn duration_ms(from: Option<Timestamp>, to: Option<Timestamp>) -> Option<i64> {
    Some((to? - from?).num_milliseconds())
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;

    use super::*;

    fn at(second: i64) -> Option<Timestamp> {
        DateTime::from_timestamp(1_772_330_400 + second, 0)
    }

    fn task(index: u32, state: TaskState, from: Option<i64>, to: Option<i64>, map_of: Option<u32>) -> TaskRun {
        TaskRun {
            task: TaskIndex(index),
            task_id: "each".parse().unwrap(),
            state,
            try_number: 1,
            fence: 1,
            lost: 0,
            ready_at: None,
            started_at: from.and_then(at),
            finished_at: None,
            attempt_finished_at: to.and_then(at),
            error: None,
            worker: None,
            output: None,
            spilled: None,
            map_of: map_of.map(TaskIndex),
            map_index: map_of.map(|_| index),
            label: None,
        }
    }

    #[test]
    fn a_mapped_task_goes_from_its_first_instance_to_its_last() {
        let now = at(80).unwrap();
        let times = |state, last| {
            let expansion = task(0, state, Some(0), Some(1), None);
            let alone = task(1, TaskState::Success, Some(3), Some(4), None);
            let instances = [
                task(2, TaskState::Success, Some(12), Some(13), Some(0)),
                task(3, TaskState::Failed, Some(10), Some(40), Some(0)),
                last,
            ];
            Times::of_all(&[vec![expansion, alone], instances.to_vec()].concat(), Some(WorkerId(1)))
        };
        let over = times(TaskState::Failed, task(4, TaskState::Success, Some(20), Some(25), Some(0)));
        assert_eq!((over[&TaskIndex(0)].from, over[&TaskIndex(0)].to), (at(10), at(40)));
        assert_eq!(over[&TaskIndex(0)].duration_ms(now), Some(30_000));
        assert_eq!(over[&TaskIndex(1)].duration_ms(now), Some(1_000), "another task's times are its own");
        let waits = times(TaskState::Mapped, task(4, TaskState::UpForRetry, Some(20), Some(25), Some(0)));
        assert_eq!((waits[&TaskIndex(0)].from, waits[&TaskIndex(0)].to), (at(10), None));
        assert_eq!(waits[&TaskIndex(0)].duration_ms(now), None, "nobody works on it");
        let runs = times(TaskState::Mapped, task(4, TaskState::Running, Some(20), None, Some(0)));
        assert_eq!(runs[&TaskIndex(0)].duration_ms(now), Some(70_000), "it goes on");
    }

    #[test]
    fn a_mapped_task_that_made_no_instances_has_the_times_of_its_expansion() {
        let times = Times::of_all(&[task(0, TaskState::Skipped, Some(5), Some(6), None)], None);
        assert_eq!(times[&TaskIndex(0)].duration_ms(at(80).unwrap()), Some(1_000));
    }
}
