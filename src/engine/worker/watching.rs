//! The worker watches: its leases, what it holds, and what others left or asked for.

use std::collections::BTreeSet;

use crate::clock;
use crate::domain::ids::{RunKey, TaskRunKey};
use crate::domain::plan::Ending;
use crate::engine::EngineError;
use crate::engine::attempt::Stop;
use crate::engine::worker::{Worker, answered};
use crate::store::{ClaimOf, EndedAttempt, StoreError};

impl Worker<'_> {
    /// Renews the leases, stops what was taken from this worker, and hands back what it holds without knowing of it (the
    /// answer to a claim may have been lost).
    pub(super) async fn renew(&mut self) -> Result<(), StoreError> {
        let began = clock::monotonic();
        let held = self.engine.store.renew_leases(self.sign.worker).await?;
        self.holding.renewed(began);
        for (task_run, live) in &self.live {
            if !held.contains(&(*task_run, live.fence)) {
                live.stop.stop(Stop::LeaseLost);
            }
        }
        for (task_run, fence) in held {
            if self.live.get(&task_run).is_none_or(|live| live.fence != fence) {
                self.hand_back(task_run, fence, Ending::Interrupted);
            }
        }
        Ok(())
    }

    /// The slow poll: cancel requests, orphans, and work that became ready without anybody saying so.
    pub(super) async fn look_around(&mut self) -> Result<(), EngineError> {
        self.look_for_work();
        let of = self.assignment.claims();
        match of {
            ClaimOf::Run(run) => {
                if !self.look_at_own(run).await? {
                    return Ok(());
                }
            }
            ClaimOf::AnyUnowned => self.look_at_all().await?,
        }
        let seen = answered(self.engine.store.orphans(of, &self.former)).await?;
        let mut seen: Vec<_> = seen.into_iter().filter(|orphan| orphan.worker != self.sign.worker).collect();
        for orphan in &seen {
            if let Some(live) = self.live.get(&orphan.task_run).filter(|live| live.fence != orphan.fence) {
                live.stop.stop(Stop::LeaseLost); // before the task is taken over, perhaps by this worker
            }
        }
        let own: Vec<_> = seen.extract_if(.., |orphan| self.former.contains(&orphan.worker)).collect();
        for orphan in own {
            self.hand_back(orphan.task_run, orphan.fence, Ending::Interrupted);
        }
        for orphan in self.orphanage.look(seen, clock::monotonic()) {
            self.hand_back(orphan.task_run, orphan.fence, Ending::Lost);
        }
        self.engine.observer.looked_around();
        Ok(())
    }

    /// Looks at the one run; whether it still goes on.
    async fn look_at_own(&mut self, key: RunKey) -> Result<bool, EngineError> {
        answered(self.engine.store.cancel_overdue(Some(key), clock::now())).await?;
        let run = answered(self.engine.store.run(key)).await?.ok_or(EngineError::RunGone)?;
        if run.state.is_final() {
            self.concluded = Some(run.state);
            return Ok(false);
        }
        if let Some(owner) = run.owner.filter(|owner| *owner != self.sign.worker) {
            return Err(self.engine.driven_by(owner).await?); // this process was taken for dead
        }
        if run.cancel_requested_at.is_some() {
            self.stop_run(key, Stop::Cancelled);
            self.hand.sweep.insert(key);
        }
        Ok(true)
    }

    /// Looks for runs that somebody wants cancelled, that take too long or whose process is gone, and forgets what it has
    /// nothing to do with.
    async fn look_at_all(&mut self) -> Result<(), EngineError> {
        answered(self.engine.store.cancel_overdue(None, clock::now())).await?;
        for run in answered(self.engine.store.runs_to_cancel()).await? {
            self.stop_run(run, Stop::Cancelled);
            self.hand.sweep.insert(run);
        }
        for run in answered(self.engine.store.adopt_runs()).await? {
            tracing::info!(run.key = run.0, "the process that drove a run is gone: the run goes on here");
        }
        let live: BTreeSet<RunKey> = self.live.keys().map(|task_run| task_run.run).collect();
        for run in self.hand.forget_idle(clock::monotonic(), |run| live.contains(&run)) {
            self.stepper.forget(run);
        }
        Ok(())
    }

    /// Ends an attempt that nobody runs, unless its end waits to be written already.
    pub(super) fn hand_back(&mut self, task_run: TaskRunKey, fence: i64, ending: Ending) {
        let waiting = self.hand.ended.get(&task_run.run).into_iter().flatten();
        if waiting.into_iter().any(|ended| ended.task == task_run.task && ended.fence == fence) {
            return;
        }
        let error = (ending == Ending::Lost).then(|| "its worker died".to_owned());
        let ended = EndedAttempt { task: task_run.task, fence, ending, output: None, error };
        self.hand.end(task_run.run, ended);
    }

    /// An attempt's end was not written by this step: whoever watches need not wait for it.
    pub(super) fn forget(&self, task_run: TaskRunKey) {
        if !self.live.contains_key(&task_run) {
            self.engine.observer.attempt_gone(task_run.run, task_run.task);
        }
    }

    pub(super) fn stop_run(&self, run: RunKey, reason: Stop) {
        for (_, live) in self.live.iter().filter(|(task_run, _)| task_run.run == run) {
            live.stop.stop(reason);
        }
    }

    pub(super) fn stop_deferred(&self) {
        for live in self.live.values().filter(|live| live.is_deferred) {
            live.stop.stop(Stop::Shutdown);
        }
    }

    pub(super) fn stop_all(&self, reason: Stop) {
        for live in self.live.values() {
            live.stop.stop(reason);
        }
    }
}
