//! Who watches a worker at work, as the terminal does. Watching changes nothing.

use std::sync::Arc;
use std::time::Duration;

use crate::domain::ids::{RunKey, TaskIndex};
use crate::domain::plan::Move;
use crate::domain::run_state::RunState;
use crate::engine::operator::Progress;

/// Is told what happens, in order, on the worker's own task: it must not block.
pub trait Observer: Send + Sync {
    /// An attempt begins; `progress` lives as long as it does.
    fn attempt_started(&self, run: RunKey, task: TaskIndex, try_number: i32, progress: &Arc<Progress>) {
        let _ = (run, task, try_number, progress);
    }

    /// A task run, of which more will be told, is that instance of a mapped task.
    fn is_instance(&self, run: RunKey, task: TaskIndex, map_of: TaskIndex, map_index: u32) {
        let _ = (run, task, map_of, map_index);
    }

    /// A task moved on, durably; `error` says why, where it failed.
    fn task_moved(&self, run: RunKey, step: &Move, error: Option<&str>) {
        let _ = (run, step, error);
    }

    /// An attempt ended without a move of its task's: it had lost its lease, or its end was written before and the answer
    /// was lost.
    fn attempt_gone(&self, run: RunKey, task: TaskIndex) {
        let _ = (run, task);
    }

    /// A run ended, durably.
    fn run_concluded(&self, run: RunKey, state: RunState) {
        let _ = (run, state);
    }

    /// A step was written, which took so long.
    fn stepped(&self, took: Duration) {
        let _ = took;
    }

    /// The worker has looked around, as it does each second: it lives, and the database answers.
    fn looked_around(&self) {}

    /// The worker lost the database and tries to reach it again.
    fn database_lost(&self, error: &str) {
        let _ = error;
    }
}

/// Nobody watches.
pub struct Nobody;

impl Observer for Nobody {}
