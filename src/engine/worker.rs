//! The worker: one task that owns all that is in flight. It waits for what may happen, then does one step: completions
//! and claims in one transaction. While that commits, further completions gather: they are the next step's batch, and a
//! lone one is never held back.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

use crate::clock;
use crate::connect::Endpoints;
use crate::domain::ids::{AttemptKey, TaskId, TaskIndex, TaskRunKey};
use crate::domain::plan::Ending;
use crate::domain::run_state::RunState;
use crate::domain::task_state::TaskState;
use crate::engine::EngineError;
use crate::engine::attempt::{Attempt, Stop, StopHandle};
use crate::engine::observer::Observer;
use crate::engine::operator::{Progress, Registration, UpstreamOutput};
use crate::engine::orphans::Orphanage;
use crate::engine::running::{KnownOutputs, RunningRun};
use crate::engine::shutdown::Shutdown;
use crate::store::{Claim, Claimed, EndedAttempt, RunBatch, SignOfLife, Step, Store, StoreError};

/// The safety net: how often the worker looks for work, cancel requests and orphans that nothing told it of.
const POLL: Duration = Duration::from_secs(1);

/// The same while it may have something to take over.
const EAGER_POLL: Duration = Duration::from_millis(250);

/// A third of a lease: two renewals may fail.
const RENEWAL: Duration = Duration::from_secs(5);

/// How often the sign of life is confirmed: others take over after a second without it.
const CONFIRMATION: Duration = Duration::from_millis(500);

/// How long a database that went away is waited for.
const RECONNECT_LIMIT: Duration = Duration::from_secs(300);

/// How long a killed process's connection may still seem open.
pub const KILLED_LINGERS: Duration = Duration::from_secs(3);

/// How long the database may take to answer: within a lease, so that a worker that hears nothing stops its attempts
/// before others may take them.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// How long attempts may take to stop once their worker lost its lease or was told to stop.
const STOP_LIMIT: Duration = Duration::from_secs(15);

/// What a worker works with; cheap to clone.
#[derive(Clone)]
pub struct Engine {
    /// pinsched's state.
    pub store: Store,
    /// The operators.
    pub registrations: &'static [Registration],
    /// The outside systems.
    pub endpoints: Arc<Endpoints>,
    /// Who watches.
    pub observer: Arc<dyn Observer>,
    /// How many attempts run at once.
    pub slots: usize,
    /// How many bytes a task may hold that can spill to disk instead.
    pub memory_limit: u64,
}

/// How driving a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Driven {
    /// The run ended.
    Concluded(RunState),
    /// It was told to stop first: the run is unfinished, its attempts were handed back uncounted.
    Stopped,
}

impl Engine {
    /// Registers as a worker and works on `run` until it concludes or `shutdown` says to stop.
    ///
    /// What another process left of it is taken over: attempts whose worker shows no sign of life for a second, or whose
    /// lease has ended.
    ///
    /// # Errors
    /// [`EngineError::Driven`] when another live process drives it; [`EngineError::DatabaseGone`] when the database
    /// stays away. The run stays as it is, to be resumed.
    pub async fn drive(&self, run: RunningRun, shutdown: &Shutdown) -> Result<Driven, EngineError> {
        let mut run = run;
        let mut sign = answered(self.store.register_worker(&hostname(), std::process::id(), clock::now())).await?;
        self.take_over(&mut run, &sign).await?;
        loop {
            let mut worker = Worker::new(self, sign, run.clone());
            let lost = match worker.work(shutdown).await {
                Ok(driven) => {
                    worker.sign.end(clock::now()).await.ok(); // it ends with the connection in any case
                    return Ok(driven);
                }
                Err(lost) if lost.is_transient() => lost,
                Err(fatal) => {
                    worker.abandon().await;
                    return Err(fatal.into());
                }
            };
            self.observer.database_lost(&crate::engine::operator::chain(&lost));
            worker.abandon().await;
            drop(worker); // and with it the old sign of life, if it still stands
            sign = self.come_back(&mut run, lost, shutdown).await?;
        }
    }

    async fn take_over(&self, run: &mut RunningRun, sign: &SignOfLife) -> Result<(), EngineError> {
        let begun = clock::monotonic();
        while let Some(owner) = run.owner
            && self.store.is_alive(owner).await?
        {
            // A process that was just killed still shows its sign of life until Postgres notices.
            if begun.elapsed() > KILLED_LINGERS {
                let (hostname, pid) = self.store.worker_place(owner).await?.unwrap_or_default();
                return Err(EngineError::Driven { hostname, pid });
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        if self.store.take_over_run_if(run.key, run.owner, sign.worker).await? {
            run.owner = Some(sign.worker);
            return Ok(());
        }
        let owner = self.store.run(run.key).await?.and_then(|run| run.owner);
        match owner {
            Some(owner) => {
                let (hostname, pid) = self.store.worker_place(owner).await?.unwrap_or_default();
                Err(EngineError::Driven { hostname, pid })
            }
            None => Ok(()),
        }
    }

    /// Registers anew and takes the run over from what this worker was before.
    async fn come_back(
        &self,
        run: &mut RunningRun,
        lost: StoreError,
        shutdown: &Shutdown,
    ) -> Result<SignOfLife, EngineError> {
        let begun = clock::monotonic();
        let mut wait = Duration::from_millis(100);
        let mut last = lost;
        while begun.elapsed() < RECONNECT_LIMIT {
            tokio::select! {
                () = shutdown.stopped() => break,
                () = tokio::time::sleep(wait) => {}
            }
            let back = async {
                let sign = answered(self.store.register_worker(&hostname(), std::process::id(), clock::now())).await?;
                self.take_over(run, &sign).await?;
                Ok(sign)
            };
            match back.await {
                Err(EngineError::Store(error)) if error.is_transient() => last = error,
                done => return done,
            }
            wait = (wait * 2).min(Duration::from_secs(5));
        }
        Err(EngineError::DatabaseGone { after: begun.elapsed(), source: last })
    }
}

fn hostname() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    name.trim().to_owned()
}

/// An attempt in flight.
struct Live {
    fence: i64,
    stop: StopHandle,
}

struct Worker<'a> {
    engine: &'a Engine,
    sign: SignOfLife,
    run: RunningRun,
    outputs: KnownOutputs,
    attempts: JoinSet<(TaskRunKey, i64, Option<EndedAttempt>)>,
    live: HashMap<TaskRunKey, Live>,
    ended: Vec<EndedAttempt>,
    orphanage: Orphanage,
    next_ready: Option<Instant>,
    wants_work: bool,
    sweep: bool,
    concluded: Option<RunState>,
}

impl<'a> Worker<'a> {
    fn new(engine: &'a Engine, sign: SignOfLife, run: RunningRun) -> Self {
        Self {
            engine,
            sign,
            run,
            outputs: KnownOutputs::default(),
            attempts: JoinSet::new(),
            live: HashMap::new(),
            ended: Vec::new(),
            orphanage: Orphanage::default(),
            next_ready: None,
            wants_work: true,
            sweep: false,
            concluded: None,
        }
    }

    async fn work(&mut self, shutdown: &Shutdown) -> Result<Driven, StoreError> {
        let mut poll = ticker(EAGER_POLL);
        let mut eager_left = 8_u32; // two seconds: long enough to find what a killed process left
        let mut renewal = ticker(RENEWAL);
        let mut confirmation = ticker(CONFIRMATION);
        let mut stopping = false;
        loop {
            answered(self.step(shutdown.is_draining())).await?;
            if let Some(state) = self.concluded {
                return Ok(Driven::Concluded(state));
            }
            if shutdown.is_draining() && self.live.is_empty() {
                return Ok(Driven::Stopped);
            }
            let next_ready = self.next_ready.unwrap_or_else(|| Instant::now() + POLL);
            tokio::select! {
                biased; // what keeps the leases comes first, however many attempts end
                _ = confirmation.tick() => self.sign.confirm().await?,
                _ = renewal.tick() => answered(self.renew()).await?,
                Some(joined) = self.attempts.join_next() => self.gather(joined),
                () = shutdown.stopped(), if !stopping => {
                    stopping = true;
                    self.stop_all(Stop::Shutdown);
                }
                () = shutdown.drained(), if !shutdown.is_draining() => {}
                () = sleep_until(next_ready), if self.next_ready.is_some() => {
                    self.next_ready = None;
                    self.wants_work = true;
                }
                _ = poll.tick() => {
                    answered(self.look_around()).await?;
                    if eager_left > 0 && !self.orphanage.is_watching() {
                        eager_left -= 1;
                        if eager_left == 0 {
                            poll = ticker(POLL);
                        }
                    }
                }
            }
        }
    }

    /// Notes that an attempt ended, and all others that did by now.
    fn gather(&mut self, joined: Result<(TaskRunKey, i64, Option<EndedAttempt>), tokio::task::JoinError>) {
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
            let ended = std::mem::take(&mut self.ended);
            let claim = claims.then(|| Claim {
                worker: self.sign.worker,
                slots: u32::try_from(free).unwrap_or(u32::MAX),
                runs: Some(vec![self.run.key]),
            });
            let has_batch = !ended.is_empty() || std::mem::take(&mut self.sweep);
            let errors: BTreeMap<_, _> =
                ended.iter().filter_map(|ended| Some((ended.task, ended.error.clone()?))).collect();
            let mut left: BTreeMap<_, _> = ended.iter().map(|ended| (ended.task, ended.output.clone())).collect();
            let dag = Arc::clone(&self.run.dag);
            let batches = if has_batch { vec![RunBatch { run: self.run.key, dag: &dag, ended }] } else { Vec::new() };
            let now = clock::now();
            let stepped = self.engine.store.step(&Step { batches, claim }, now).await?;
            for (run, step) in &stepped.moves {
                if step.to == TaskState::Success {
                    let output = left.remove(&step.task).flatten().and_then(as_object);
                    self.outputs.note(step.task, output);
                }
                // What was ready at once was within this step's own reach.
                if let Some(ready_at) = step.ready_at.filter(|at| !claims || *at > now) {
                    self.wake_at(ready_at);
                }
                self.engine.observer.task_moved(*run, step, errors.get(&step.task).map(String::as_str));
            }
            for (run, state) in stepped.concluded {
                self.engine.observer.run_concluded(run, state);
                self.concluded = Some(state);
            }
            self.wants_work = claims && stepped.claimed.len() == free; // there may be more: after these
            for claimed in stepped.claimed {
                self.start(claimed).await?;
            }
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

    async fn start(&mut self, claimed: Claimed) -> Result<(), StoreError> {
        let key = AttemptKey {
            run_uuid: self.run.facts.run_uuid,
            task_run: claimed.task_run,
            try_number: claimed.try_number,
            fence: claimed.fence,
        };
        let task = claimed.task_run.task;
        let upstream = self.run.dag.upstream(task);
        if self.outputs.is_missing(&upstream) {
            let stored = self.engine.store.outputs(self.run.key).await?;
            self.outputs.replace(stored);
        }
        let registration = self.run.dag.task(task).and_then(|task| self.registration(task.operator));
        let Some(registration) = registration else {
            self.ended.push(EndedAttempt {
                task,
                fence: claimed.fence,
                ending: Ending::Failed { retryable: false, jitter: 0.0 },
                output: None,
                error: Some("this version of pinsched does not have its operator".to_owned()),
            });
            return Ok(());
        };
        let stop = StopHandle::default();
        let progress = Arc::new(Progress::default());
        self.engine.observer.attempt_started(self.run.key, task, claimed.try_number, &progress);
        let attempt = Attempt {
            key,
            run: self.run.clone(),
            outputs: self.outputs_for(task),
            registration,
            store: self.engine.store.clone(),
            endpoints: Arc::clone(&self.engine.endpoints),
            memory_limit: self.engine.memory_limit,
            progress,
            stop: stop.clone(),
            jitter: rand::random(),
        };
        if let Some(old) = self.live.insert(claimed.task_run, Live { fence: claimed.fence, stop }) {
            old.stop.stop(Stop::LeaseLost); // it was taken from this worker, and came back before the next renewal
        }
        self.attempts.spawn(async move { (claimed.task_run, claimed.fence, attempt.execute().await) });
        Ok(())
    }

    fn registration(&self, operator: &str) -> Option<Registration> {
        self.engine.registrations.iter().find(|registration| registration.kind.name == operator).copied()
    }

    fn outputs_for(&self, task: TaskIndex) -> BTreeMap<TaskId, UpstreamOutput> {
        let ancestors = self.run.ancestors(task).into_iter();
        ancestors
            .filter_map(|index| {
                let upstream = self.run.dag.task(index)?;
                let output = self.outputs.of(index)?.clone();
                Some((upstream.id.clone(), UpstreamOutput { operator: upstream.operator.to_owned(), output }))
            })
            .collect()
    }

    /// Renews the leases, stops what was taken from this worker, and hands back what it holds without knowing of it (the
    /// answer to a claim may have been lost).
    async fn renew(&mut self) -> Result<(), StoreError> {
        let held = self.engine.store.renew_leases(self.sign.worker).await?;
        for (task_run, live) in &self.live {
            if !held.contains(&(*task_run, live.fence)) {
                live.stop.stop(Stop::LeaseLost);
            }
        }
        for (task_run, fence) in held {
            if self.live.get(&task_run).is_none_or(|live| live.fence != fence) {
                self.ended.push(handed_back(task_run, fence, Ending::Interrupted));
            }
        }
        Ok(())
    }

    /// The slow poll: cancel requests, orphans, and work that became ready without anybody saying so.
    async fn look_around(&mut self) -> Result<(), StoreError> {
        self.wants_work = true;
        let Some(run) = self.engine.store.run(self.run.key).await? else {
            self.stop_all(Stop::Cancelled);
            return Ok(());
        };
        if run.state.is_final() {
            self.concluded = Some(run.state);
        }
        if run.cancel_requested_at.is_some() {
            self.stop_all(Stop::Cancelled);
            self.sweep = true;
        }
        let seen: Vec<_> = self
            .engine
            .store
            .orphans(self.run.key)
            .await?
            .into_iter()
            .filter(|orphan| orphan.worker != self.sign.worker)
            .collect();
        for orphan in &seen {
            if let Some(live) = self.live.get(&orphan.task_run).filter(|live| live.fence != orphan.fence) {
                live.stop.stop(Stop::LeaseLost); // before the task is taken over, perhaps by this worker
            }
        }
        for orphan in self.orphanage.look(seen, clock::monotonic()) {
            self.ended.push(handed_back(orphan.task_run, orphan.fence, Ending::Lost));
        }
        Ok(())
    }

    fn stop_all(&self, reason: Stop) {
        for live in self.live.values() {
            live.stop.stop(reason);
        }
    }

    /// Stops everything without writing anything: somebody else may hold the tasks by now.
    async fn abandon(&mut self) {
        self.stop_all(Stop::LeaseLost);
        let all_ended = async { while self.attempts.join_next().await.is_some() {} };
        if tokio::time::timeout(STOP_LIMIT, all_ended).await.is_err() {
            self.attempts.abort_all();
        }
    }
}

/// Takes silence for a lost connection.
async fn answered<T>(call: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
    let silent = StoreError::Silent { after: ANSWER_LIMIT };
    tokio::time::timeout(ANSWER_LIMIT, call).await.unwrap_or(Err(silent))
}

fn handed_back(task_run: TaskRunKey, fence: i64, ending: Ending) -> EndedAttempt {
    let error = (ending == Ending::Lost).then(|| "its worker died".to_owned());
    EndedAttempt { task: task_run.task, fence, ending, output: None, error }
}

fn as_object(value: serde_json::Value) -> Option<crate::engine::operator::Output> {
    match value {
        serde_json::Value::Object(object) => Some(object),
        _ => None,
    }
}

fn ticker(period: Duration) -> tokio::time::Interval {
    let mut ticker = interval(period);
    ticker.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticker
}
