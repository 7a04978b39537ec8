//! The worker: one task that owns all that is in flight. It waits for what may happen, then does one step: completions
//! and claims together. While that commits, further completions gather: they are the next step's batch, and a
//! lone one is never held back.

use std::collections::{BTreeMap, HashMap};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep_until};

use crate::clock;
use crate::domain::ids::{AttemptKey, TaskId, TaskIndex, TaskRunKey};
use crate::domain::plan::Ending;
use crate::domain::run_state::RunState;
use crate::domain::task_state::TaskState;
use crate::engine::EngineError;
use crate::engine::attempt::{Attempt, Stop, StopHandle, panic_text};
use crate::engine::drive::{Driven, Engine};
use crate::engine::holding::{Holding, TRUST};
use crate::engine::operator::{Output, Progress, Registration, UpstreamOutput, chain};
use crate::engine::orphans::Orphanage;
use crate::engine::running::{KnownOutputs, RunningRun};
use crate::engine::shutdown::Shutdown;
use crate::store::{Claim, Claimed, EndedAttempt, RunBatch, SignOfLife, Step, Stepper, StoreError, WorkerId};

/// The safety net: how often the worker looks for work, cancel requests and orphans that nothing told it of.
const POLL: Duration = Duration::from_secs(1);

/// The same while it may have something to take over.
const EAGER_POLL: Duration = Duration::from_millis(250);

/// Three renewals fit into the time for which one is trusted (`holding`): two may fail.
const RENEWAL: Duration = Duration::from_secs(3);

/// How often the sign of life is confirmed: others take over after a second without it.
const CONFIRMATION: Duration = Duration::from_millis(500);

/// How long the database may take to answer before its silence counts as an error.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);

const _: () = assert!(RENEWAL.as_secs() + ANSWER_LIMIT.as_secs() < TRUST.as_secs(), "one silence costs no lease");

/// The same for a step, whose statements are several.
const STEP_LIMIT: Duration = Duration::from_secs(10);

/// The wait after a step that failed for a reason that may pass.
const AGAIN: Duration = Duration::from_millis(250);

/// How long steps may go on failing while the sign of life stands: then the connections are made anew.
const TROUBLE_LIMIT: Duration = Duration::from_secs(30);

/// How long all attempts together may take to stop once their worker gives up: each is given less.
const ABANDON_LIMIT: Duration = Duration::from_secs(15);

/// Ends of attempts that a worker could not write before it lost the database; their fences say what still counts.
pub(super) type Unwritten = Vec<EndedAttempt>;

/// An attempt in flight.
struct Live {
    fence: i64,
    stop: StopHandle,
}

/// A worker on one run.
pub(super) struct Worker<'a> {
    engine: &'a Engine,
    sign: SignOfLife,
    stepper: Stepper,
    /// Who this process was before it lost the database: what stands under these was stopped, and is its own.
    former: Vec<WorkerId>,
    run: RunningRun,
    /// Whether somebody drove the run before this worker, and may have left something.
    has_past: bool,
    holding: Holding,
    outputs: KnownOutputs,
    attempts: JoinSet<(TaskRunKey, i64, Option<EndedAttempt>)>,
    live: HashMap<TaskRunKey, Live>,
    ended: Vec<EndedAttempt>,
    orphanage: Orphanage,
    next_ready: Option<Instant>,
    wants_work: bool,
    sweep: bool,
    concluded: Option<RunState>,
    stepped: bool,
    troubled_since: Option<Instant>,
}

impl<'a> Worker<'a> {
    pub(super) fn new(
        engine: &'a Engine,
        sign: SignOfLife,
        run: RunningRun,
        was_anothers: bool,
        former: Vec<WorkerId>,
        unwritten: Unwritten,
    ) -> Self {
        Self {
            engine,
            sign,
            stepper: engine.store.stepper(),
            has_past: was_anothers || !former.is_empty(),
            former,
            run,
            holding: Holding::new(clock::monotonic()),
            outputs: KnownOutputs::default(),
            attempts: JoinSet::new(),
            live: HashMap::new(),
            ended: unwritten,
            orphanage: Orphanage::default(),
            next_ready: None,
            wants_work: true,
            sweep: false,
            concluded: None,
            stepped: false,
            troubled_since: None,
        }
    }

    pub(super) fn id(&self) -> WorkerId {
        self.sign.worker
    }

    /// Whether the database took a step of this worker's.
    pub(super) fn has_stepped(&self) -> bool {
        self.stepped
    }

    /// Gives the sign of life back; it ends with the connection in any case.
    pub(super) async fn end(self) {
        if let Err(error) = answered(self.sign.end(clock::now())).await {
            tracing::debug!(error = %chain(&error), "the worker's end could not be written");
        }
    }

    /// Works until the run concludes or `shutdown` says to stop. A step that fails for a reason that may pass is tried
    /// again, while the attempts go on; only a lost sign of life, or trouble that lasts, ends the worker.
    pub(super) async fn work(&mut self, shutdown: &Shutdown) -> Result<Driven, EngineError> {
        let mut eager_left = if self.has_past { 8_u32 } else { 0 }; // two seconds, to find what a killed process left
        let mut poll = if self.has_past { ticker(Duration::ZERO, EAGER_POLL) } else { ticker(POLL, POLL) };
        let mut renewal = ticker(RENEWAL, RENEWAL);
        let mut confirmation = ticker(CONFIRMATION, CONFIRMATION);
        let mut stopping = false;
        let mut again_at: Option<Instant> = None;
        loop {
            if again_at.is_none_or(|at| at <= Instant::now()) {
                self.confirm_before_failures().await?;
                let silent = StoreError::Silent { after: STEP_LIMIT };
                let step = tokio::time::timeout(STEP_LIMIT, self.step(shutdown.is_draining()));
                again_at = match step.await.unwrap_or(Err(silent)) {
                    Ok(()) => {
                        self.stepped = true;
                        self.troubled_since = None;
                        None
                    }
                    Err(error) => {
                        self.endure(error)?;
                        Some(Instant::now() + AGAIN)
                    }
                };
            }
            if let Some(state) = self.concluded {
                return Ok(Driven::Concluded(state));
            }
            if shutdown.is_draining() && self.live.is_empty() && self.ended.is_empty() {
                return Ok(Driven::Stopped);
            }
            let next_ready = self.next_ready.unwrap_or_else(|| Instant::now() + POLL);
            tokio::select! {
                biased; // what keeps the leases comes first, however many attempts end
                _ = confirmation.tick() => self.sign.confirm().await?,
                _ = renewal.tick() => {
                    if let Err(error) = answered(self.renew()).await {
                        self.endure(error)?;
                    }
                }
                Some(joined) = self.attempts.join_next() => self.gather(joined),
                () = shutdown.stopped(), if !stopping => {
                    stopping = true;
                    self.stop_all(Stop::Shutdown);
                }
                () = shutdown.drained(), if !shutdown.is_draining() => {}
                () = sleep_until(again_at.unwrap_or(next_ready)), if again_at.is_some() => {}
                () = sleep_until(next_ready), if self.next_ready.is_some() => {
                    self.next_ready = None;
                    self.wants_work = true;
                }
                _ = poll.tick() => {
                    match self.look_around().await {
                        Err(EngineError::Store(error)) => self.endure(error)?,
                        looked => looked?,
                    }
                    if eager_left > 0 && !self.orphanage.is_watching() {
                        eager_left -= 1;
                        if eager_left == 0 {
                            poll = ticker(POLL, POLL);
                        }
                    }
                }
            }
        }
    }

    /// Whatever took the database away may have taken what an attempt needed as well: a failure counts only while the
    /// sign of life stands.
    async fn confirm_before_failures(&mut self) -> Result<(), StoreError> {
        match self.ended.iter().any(may_pass) {
            true => self.sign.confirm().await,
            false => Ok(()),
        }
    }

    /// Lets an error pass that may pass by itself, until no step has succeeded for a while.
    fn endure(&mut self, error: StoreError) -> Result<(), StoreError> {
        let now = Instant::now();
        let since = *self.troubled_since.get_or_insert(now);
        if !error.is_transient() || now.duration_since(since) > TROUBLE_LIMIT {
            return Err(error);
        }
        tracing::warn!(error = %chain(&error), "the database refused a step of the engine; trying again");
        self.wants_work = true;
        Ok(())
    }

    /// Notes that an attempt ended, and all others that did by now.
    fn gather(&mut self, joined: Result<(TaskRunKey, i64, Option<EndedAttempt>), JoinError>) {
        let mut next = Some(joined);
        while let Some(joined) = next {
            // A panic inside of an attempt is caught there; what is left is an aborted one, which has nothing to say.
            if let Ok((task_run, fence, ended)) = joined {
                if self.live.get(&task_run).is_some_and(|live| live.fence == fence) {
                    self.live.remove(&task_run);
                }
                self.ended.extend(ended);
            }
            next = self.attempts.try_join_next();
        }
        self.wants_work = true;
    }

    /// One step: what ended is written, what is ready is claimed.
    async fn step(&mut self, draining: bool) -> Result<(), StoreError> {
        loop {
            let free = self.engine.slots.saturating_sub(self.live.len());
            let claims = self.wants_work && !draining && free > 0;
            if self.ended.is_empty() && !self.sweep && !claims {
                return Ok(());
            }
            let ended = self.ended.clone(); // kept until it is written: a step that fails is done again
            let written = ended.len();
            let claim = claims.then(|| Claim {
                worker: self.sign.worker,
                slots: u32::try_from(free).unwrap_or(u32::MAX),
                runs: vec![self.run.key],
            });
            let has_batch = !ended.is_empty() || self.sweep;
            let errors: BTreeMap<_, _> =
                ended.iter().filter_map(|ended| Some((ended.task, ended.error.clone()?))).collect();
            let mut left: BTreeMap<_, _> = ended.iter().map(|ended| (ended.task, ended.output.clone())).collect();
            let dag = Arc::clone(&self.run.dag);
            let batches = if has_batch { vec![RunBatch { run: self.run.key, dag: &dag, ended }] } else { Vec::new() };
            let now = clock::now();
            let stepped = self.stepper.step(&Step { batches, claim }, now).await?;
            self.ended.drain(..written);
            self.sweep = false;
            for (run, step) in &stepped.moves {
                if step.to.is_final() {
                    let output = left.remove(&step.task).flatten().filter(|_| step.to == TaskState::Success);
                    self.outputs.note(step.task, output.and_then(as_object));
                }
                // What was ready at once was within this step's own reach.
                if let Some(ready_at) = step.ready_at.filter(|at| !claims || *at > now) {
                    self.wake_at(ready_at);
                }
                self.engine.observer.task_moved(*run, step, errors.get(&step.task).map(String::as_str));
            }
            for (task_run, fence) in stepped.stale {
                tracing::warn!(
                    run.key = task_run.run.0,
                    task.index = task_run.task.0,
                    fence,
                    "an attempt ended after it had lost its lease: its end is not written"
                );
                self.forget(task_run);
            }
            for task_run in stepped.ended_before {
                self.forget(task_run);
            }
            for (run, state) in stepped.concluded {
                self.engine.observer.run_concluded(run, state);
                self.concluded = Some(state);
            }
            self.wants_work = claims && stepped.claimed.len() == free; // there may be more: after these
            self.start_all(&stepped.claimed).await?;
            if self.ended.is_empty() {
                return Ok(());
            }
        }
    }

    fn wake_at(&mut self, ready_at: crate::domain::Timestamp) {
        let wait = (ready_at - clock::now()).to_std().unwrap_or_default();
        let at = Instant::now() + wait;
        self.next_ready = Some(self.next_ready.map_or(at, |known| known.min(at)));
    }

    /// Starts what was claimed. When the store does not answer nothing of it is started: the next renewal finds that
    /// this worker holds what it does not know of, and hands it back.
    async fn start_all(&mut self, claimed: &[Claimed]) -> Result<(), StoreError> {
        let ancestors: Vec<_> = claimed.iter().map(|claimed| self.run.dag.ancestors(claimed.task_run.task)).collect();
        let missing = self.outputs.missing(&ancestors);
        if !missing.is_empty() {
            self.outputs.learn(self.engine.store.outputs(self.run.key, &missing).await?);
        }
        for (claimed, ancestors) in claimed.iter().zip(ancestors) {
            self.start(*claimed, &ancestors);
        }
        Ok(())
    }

    fn start(&mut self, claimed: Claimed, ancestors: &[TaskIndex]) {
        let key = AttemptKey {
            run_uuid: self.run.facts.run_uuid,
            task_run: claimed.task_run,
            try_number: claimed.try_number,
            fence: claimed.fence,
        };
        let index = claimed.task_run.task;
        let found = match self.run.dag.task(index) {
            Some(task) => self.registration(task.operator).map(|registration| (task.clone(), registration)),
            None => None,
        };
        let Some((task, registration)) = found else {
            let words = "this version of pinsched does not have its operator";
            self.ended.push(failed(index, claimed.fence, words.to_owned(), None));
            return;
        };
        let stop = StopHandle::default();
        let progress = Arc::new(Progress::default());
        self.engine.observer.attempt_started(self.run.key, index, claimed.try_number, &progress);
        let attempt = Attempt {
            key,
            task,
            run: self.run.clone(),
            outputs: self.outputs_of(ancestors),
            registration,
            store: self.engine.store.clone(),
            endpoints: Arc::clone(&self.engine.endpoints),
            memory_limit: self.engine.memory_limit,
            lookup: self.engine.lookup.clone(),
            progress,
            holding: self.holding.watch(),
            stop: stop.clone(),
            jitter: rand::random(),
        };
        if let Some(old) = self.live.insert(claimed.task_run, Live { fence: claimed.fence, stop }) {
            old.stop.stop(Stop::LeaseLost); // it was taken from this worker, and came back before the next renewal
        }
        self.attempts.spawn(async move {
            // The operator's own panics are caught inside; this is for what panics while it is dropped.
            let ended = AssertUnwindSafe(attempt.execute()).catch_unwind().await.unwrap_or_else(|panic| {
                let words = format!("the attempt panicked: {}", panic_text(panic.as_ref()));
                Some(failed(index, claimed.fence, words, Some(rand::random())))
            });
            (claimed.task_run, claimed.fence, ended)
        });
    }

    fn registration(&self, operator: &str) -> Option<Registration> {
        self.engine.registrations.iter().find(|registration| registration.kind.name == operator).copied()
    }

    fn outputs_of(&self, tasks: &[TaskIndex]) -> BTreeMap<TaskId, UpstreamOutput> {
        let outputs = tasks.iter().filter_map(|&index| {
            let (task, output) = (self.run.dag.task(index)?, self.outputs.of(index)?);
            Some((task.id.clone(), UpstreamOutput { operator: task.operator.to_owned(), output }))
        });
        outputs.collect()
    }

    /// Renews the leases, stops what was taken from this worker, and hands back what it holds without knowing of it (the
    /// answer to a claim may have been lost).
    async fn renew(&mut self) -> Result<(), StoreError> {
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
    async fn look_around(&mut self) -> Result<(), EngineError> {
        self.wants_work = true;
        let run = answered(self.engine.store.run(self.run.key)).await?.ok_or(EngineError::RunGone)?;
        if run.state.is_final() {
            self.concluded = Some(run.state);
            return Ok(());
        }
        if let Some(owner) = run.owner.filter(|owner| *owner != self.sign.worker) {
            return Err(self.engine.driven_by(owner).await?); // this process was taken for dead
        }
        if run.cancel_requested_at.is_some() {
            self.stop_all(Stop::Cancelled);
            self.sweep = true;
        }
        let seen = answered(self.engine.store.orphans(self.run.key, &self.former)).await?;
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
        Ok(())
    }

    /// Ends an attempt that nobody runs, unless its end waits to be written already.
    fn hand_back(&mut self, task_run: TaskRunKey, fence: i64, ending: Ending) {
        if self.ended.iter().any(|ended| ended.task == task_run.task && ended.fence == fence) {
            return;
        }
        let error = (ending == Ending::Lost).then(|| "its worker died".to_owned());
        self.ended.push(EndedAttempt { task: task_run.task, fence, ending, output: None, error });
    }

    /// An attempt's end was not written by this step: whoever watches need not wait for it.
    fn forget(&self, task_run: TaskRunKey) {
        if !self.live.contains_key(&task_run) {
            self.engine.observer.attempt_gone(task_run.run, task_run.task);
        }
    }

    fn stop_all(&self, reason: Stop) {
        for live in self.live.values() {
            live.stop.stop(reason);
        }
    }

    /// Stops everything without writing anything: somebody else may hold the tasks by now. Returns what ended before
    /// that, for the fences to judge once the database is back; failures that may pass as lost, since what failed them may
    /// be that the database went: they cost no try, but end all the same if it goes with them again and again.
    pub(super) async fn abandon(&mut self) -> Unwritten {
        self.stop_all(Stop::LeaseLost);
        let all_ended = async {
            while let Some(joined) = self.attempts.join_next().await {
                self.gather(joined);
            }
        };
        if tokio::time::timeout(ABANDON_LIMIT, all_ended).await.is_err() {
            self.attempts.abort_all();
        }
        for failure in self.ended.iter_mut().filter(|ended| may_pass(ended)) {
            failure.ending = Ending::Lost;
        }
        std::mem::take(&mut self.ended)
    }
}

/// Takes silence for an error that may pass.
pub(super) async fn answered<T>(call: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
    let silent = StoreError::Silent { after: ANSWER_LIMIT };
    tokio::time::timeout(ANSWER_LIMIT, call).await.unwrap_or(Err(silent))
}

fn failed(task: TaskIndex, fence: i64, words: String, jitter: Option<f64>) -> EndedAttempt {
    let ending = Ending::Failed { retryable: jitter.is_some(), jitter: jitter.unwrap_or_default() };
    EndedAttempt { task, fence, ending, output: None, error: Some(words) }
}

/// Whether another try may end otherwise.
fn may_pass(ended: &EndedAttempt) -> bool {
    matches!(ended.ending, Ending::Failed { retryable: true, .. })
}

fn as_object(value: serde_json::Value) -> Option<Output> {
    match value {
        serde_json::Value::Object(object) => Some(object),
        _ => None,
    }
}

fn ticker(first: Duration, period: Duration) -> tokio::time::Interval {
    let mut ticker = interval_at(Instant::now() + first, period);
    ticker.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticker
}
