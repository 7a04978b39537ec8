//! Attempts begin: a run is taken in hand, what its tasks left is looked up, and each claimed task has its attempt.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, OnceLock};

use futures::FutureExt;

use crate::clock;
use crate::domain::ids::{AttemptKey, RunKey, TaskId, TaskIndex, TaskRunKey};
use crate::domain::mapping::Instance;
use crate::domain::run_state::RunState;
use crate::domain::task_output::TaskOutput;
use crate::engine::attempt::{Attempt, Stop, StopHandle, panic_text};
use crate::engine::hand::Held;
use crate::engine::operator::{Deferring, Progress, Registration};
use crate::engine::running::RunningRun;
use crate::engine::worker::{Assignment, Live, Worker, failed};
use crate::store::{Claimed, StoreError};

impl Worker<'_> {
    /// Takes runs in hand, each with its DAG; one that is gone, or whose file this build cannot use, is let go.
    pub(super) async fn take_in(&mut self, runs: &[RunKey]) -> Result<(), StoreError> {
        let Assignment::Any(any) = &self.assignment else { return Ok(()) };
        if runs.is_empty() {
            return Ok(());
        }
        let any = any.clone();
        let stored = self.engine.store.runs_of(runs).await?;
        let there: BTreeSet<RunKey> = stored.iter().map(|run| run.key).collect();
        for gone in runs.iter().filter(|run| !there.contains(run)) {
            self.hand.let_go(*gone);
        }
        for run in stored {
            match any.versions.of_run(&self.engine.store, &run).await? {
                Ok(dag) => self.hand.take_in(RunningRun::new(&run, dag), clock::monotonic()),
                Err(error) => {
                    tracing::error!(dag.id = %run.dag_id, run.id = %run.run_id, "{error}");
                    self.engine.store.give_up_run(run.key, &error.to_string(), clock::now()).await?;
                    self.conclude(run.key, RunState::Failed);
                }
            }
        }
        Ok(())
    }

    /// Starts what was claimed. When the store does not answer nothing of it is started: the next renewal finds that
    /// this worker holds what it does not know of, and hands it back.
    pub(super) async fn start_all(&mut self, claimed: &[Claimed]) -> Result<(), StoreError> {
        let mut by_run: BTreeMap<RunKey, Vec<Claimed>> = BTreeMap::new();
        for claimed in claimed {
            by_run.entry(claimed.task_run.run).or_default().push(*claimed);
        }
        let new: Vec<RunKey> = by_run.keys().copied().filter(|run| !self.hand.has(*run)).collect();
        self.take_in(&new).await?;
        for (run, claimed) in by_run {
            let clears = claimed.iter().filter_map(|claimed| claimed.clears).max();
            let store = &self.engine.store;
            self.hand.note_clears(run, clears);
            let Some(held) = self.hand.held_mut(run, clock::monotonic()) else { continue };
            let dag = Arc::clone(&held.run.dag);
            let own = dag.tasks().len();
            let others = claimed.iter().map(|claimed| claimed.task_run.task).filter(|task| task.as_usize() >= own);
            let others: Vec<TaskIndex> = others.collect();
            let mut instances = match others.is_empty() {
                true => BTreeMap::new(),
                false => store.instances(run, &others).await?,
            };
            held.note_instances(&instances);
            let described = |task: TaskIndex| instances.get(&task).map_or(task, |(map_of, _)| *map_of);
            let ancestors: Vec<_> =
                claimed.iter().map(|claimed| dag.ancestors(described(claimed.task_run.task))).collect();
            let missing = held.outputs.missing(&ancestors);
            if !missing.is_empty() {
                held.outputs.learn(store.outputs(run, &dag, &missing).await?);
            }
            for (claimed, ancestors) in claimed.iter().zip(ancestors) {
                self.start(*claimed, instances.remove(&claimed.task_run.task), &ancestors);
            }
        }
        Ok(())
    }

    fn start(&mut self, claimed: Claimed, instance: Option<(TaskIndex, Instance)>, ancestors: &[TaskIndex]) {
        let TaskRunKey { run: run_key, task: index } = claimed.task_run;
        let Some(held) = self.hand.held(run_key) else { return };
        let key = AttemptKey {
            run_uuid: held.run.facts.run_uuid,
            task_run: claimed.task_run,
            try_number: claimed.try_number,
            fence: claimed.fence,
        };
        let described = instance.as_ref().map_or(index, |(map_of, _)| *map_of);
        let found = match held.run.dag.share_task(described) {
            Some(task) => self.registration(task.operator).map(|registration| (task, registration)),
            None => None,
        };
        let Some((task, registration)) = found else {
            if index.as_usize() >= held.run.dag.tasks().len() {
                return; // an instance that was cleared away meanwhile: the next renewal finds it gone
            }
            let words = "this version of pinsched does not have its operator";
            self.hand.end(run_key, failed(index, claimed.fence, words.to_owned(), None));
            return;
        };
        let stop = StopHandle::default();
        let progress = Arc::new(Progress::default());
        if let Some((map_of, instance)) = &instance {
            self.engine.observer.is_instance(run_key, index, *map_of, instance.map_index);
        }
        self.engine.observer.attempt_started(run_key, index, claimed.try_number, &progress);
        let attempt = Box::new(Attempt {
            key,
            task,
            instance: instance.map(|(_, instance)| instance),
            run: held.run.clone(),
            outputs: outputs_of(held, ancestors),
            registration,
            store: self.engine.store.clone(),
            logs: self.logs.clone(),
            endpoints: Arc::clone(&self.engine.endpoints),
            memory_limit: self.engine.memory_limit,
            processes: self.engine.processes,
            max_map_length: self.engine.max_map_length,
            output_store: Arc::clone(&self.engine.outputs),
            lookup: self.engine.lookup.clone(),
            progress,
            holding: self.holding.watch(),
            stop: stop.clone(),
            jitter: rand::random(),
            deferring: Deferring::new(self.deferring.0.clone(), claimed.task_run, claimed.fence),
            choice: Arc::default(),
            expansion: OnceLock::new(),
        });
        if let Some(old) = self.live.insert(claimed.task_run, Live { fence: claimed.fence, stop, is_deferred: false }) {
            old.stop.stop(Stop::LeaseLost); // it was taken from this worker, and came back before the next renewal
        }
        // The operator's own panics are caught inside; this is for what panics while it is dropped.
        let executed = AssertUnwindSafe(attempt.execute()).catch_unwind();
        self.attempts.spawn(executed.map(move |executed| {
            let ended = executed.unwrap_or_else(|panic| {
                let words = format!("the attempt panicked: {}", panic_text(panic.as_ref()));
                Some(failed(index, claimed.fence, words, Some(rand::random())))
            });
            (claimed.task_run, claimed.fence, ended)
        }));
    }

    fn registration(&self, operator: &str) -> Option<Registration> {
        self.engine.registrations.iter().find(|registration| registration.kind.name == operator).copied()
    }
}

/// What the tasks left, as the attempts after them see it.
fn outputs_of(held: &Held, tasks: &[TaskIndex]) -> BTreeMap<TaskId, (&'static str, TaskOutput)> {
    let outputs = tasks.iter().filter_map(|&index| {
        let (task, output) = (held.run.dag.task(index)?, held.outputs.of(index)?);
        Some((task.id.clone(), (task.operator, output)))
    });
    outputs.collect()
}
