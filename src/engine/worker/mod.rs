//! The worker: one task that owns all that is in flight, of one run or of all that nobody drives as their own. It waits
//! for what may happen, then does one step: completions and claims together. While that commits, further completions gather: they are the next step's batch, and a
//! lone one is never held back.

mod starting;
mod watching;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep_until};

use crate::clock;
use crate::domain::Timestamp;
use crate::domain::ids::{RunKey, TaskIndex, TaskRunKey};
use crate::domain::plan::{Ending, Move};
use crate::domain::run_state::RunState;
use crate::domain::task_state::TaskState;
use crate::engine::EngineError;
use crate::engine::attempt::{Stop, StopHandle};
use crate::engine::attempt_log::LogBook;
use crate::engine::bells::{Bell, Bells};
use crate::engine::drive::{Driven, Engine};
use crate::engine::hand::{Hand, Unwritten};
use crate::engine::holding::{Holding, TRUST};
use crate::engine::operator::chain;
use crate::engine::orphans::Orphanage;
use crate::engine::running::RunningRun;
use crate::engine::shutdown::Shutdown;
use crate::engine::versions::Versions;
use crate::store::{Claim, ClaimOf, EndedAttempt, RunBatch, SignOfLife, Step, Stepper, StoreError, WorkerId};

/// The safety net: how often the worker looks for work, cancel requests and orphans that nothing told it of.
const POLL: Duration = Duration::from_secs(1);

/// The same while it may have something to take over.
const EAGER_POLL: Duration = Duration::from_millis(250);

/// Three renewals fit into the time for which one is trusted (`holding`): two may fail.
pub(super) const RENEWAL: Duration = Duration::from_secs(3);

/// How often the sign of life is confirmed: others take over after a second without it.
pub(super) const CONFIRMATION: Duration = Duration::from_millis(500);

/// How long the database may take to answer before its silence counts as an error.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);

const _: () = assert!(RENEWAL.as_secs() + ANSWER_LIMIT.as_secs() < TRUST.as_secs(), "one silence costs no lease");

/// The same for a step, whose statements are several.
const STEP_LIMIT: Duration = Duration::from_secs(10);

/// A worker that is busy with its own looks for others' tasks this often, whoever rang for them or did not.
const LOOK: Duration = Duration::from_millis(100);

/// The smallest portion of what there is to do that a step leaves a rest of.
const PORTION: usize = 16;

/// The wait after a step that failed for a reason that may pass.
const AGAIN: Duration = Duration::from_millis(250);

/// How long steps may go on failing while the sign of life stands: then the connections are made anew.
const TROUBLE_LIMIT: Duration = Duration::from_secs(30);

/// How long all attempts together may take to stop once their worker gives up: each is given less.
const ABANDON_LIMIT: Duration = Duration::from_secs(15);

/// What a worker works on.
#[derive(Clone)]
pub(super) enum Assignment {
    /// The one run that this process drives.
    Run(RunningRun),
    /// Every run that no process drives as its own.
    Any(Anything),
}

/// What is needed to work on any run.
#[derive(Clone)]
pub(super) struct Anything {
    /// The DAGs of runs.
    pub(super) versions: Arc<Versions>,
    /// How the other parts of the process say that there is something to do.
    pub(super) bells: Bells,
}

impl Assignment {
    fn claims(&self) -> ClaimOf {
        match self {
            Self::Run(run) => ClaimOf::Run(run.key),
            Self::Any(_) => ClaimOf::AnyUnowned,
        }
    }
}

/// A task with the fence under which it is held.
type Held = (TaskRunKey, i64);

/// An attempt in flight.
struct Live {
    fence: i64,
    stop: StopHandle,
    /// Whether it waits for something outside, and takes no slot.
    is_deferred: bool,
}

/// A worker.
pub(super) struct Worker<'a> {
    engine: &'a Engine,
    sign: SignOfLife,
    stepper: Stepper,
    /// Who this process was before it lost the database: what stands under these was stopped, and is its own.
    former: Vec<WorkerId>,
    assignment: Assignment,
    /// Whether somebody worked on this before, and may have left something.
    has_past: bool,
    holding: Holding,
    hand: Hand,
    attempts: JoinSet<(TaskRunKey, i64, Option<EndedAttempt>)>,
    live: HashMap<TaskRunKey, Live>,
    /// Attempts say here that they wait for something outside.
    deferring: (UnboundedSender<Held>, UnboundedReceiver<Held>),
    logs: LogBook,
    /// Writes what comes to `logs`, and ends with the worker.
    _bookkeeping: JoinSet<()>,
    orphanage: Orphanage,
    next_ready: Option<Instant>,
    wants_work: bool,
    /// Whether tasks may have come to the queue of which this worker's own steps do not know.
    wants_look: bool,
    looked_at: Instant,
    /// The end of the one run that it works on.
    concluded: Option<RunState>,
    stepped: bool,
    troubled_since: Option<Instant>,
}

impl<'a> Worker<'a> {
    pub(super) fn new(
        engine: &'a Engine,
        sign: SignOfLife,
        assignment: Assignment,
        was_anothers: bool,
        former: Vec<WorkerId>,
        unwritten: Unwritten,
    ) -> Self {
        let (logs, keeper) = LogBook::open(engine.store.clone());
        let mut bookkeeping = JoinSet::new();
        bookkeeping.spawn(keeper);
        let mut hand = Hand::with(unwritten);
        if let Assignment::Run(run) = &assignment {
            hand.take_in(run.clone(), clock::monotonic());
        }
        Self {
            engine,
            sign,
            stepper: engine.store.stepper(),
            has_past: was_anothers || !former.is_empty(),
            former,
            assignment,
            holding: Holding::new(clock::monotonic()),
            hand,
            attempts: JoinSet::new(),
            live: HashMap::new(),
            deferring: unbounded_channel(),
            logs,
            _bookkeeping: bookkeeping,
            orphanage: Orphanage::default(),
            next_ready: None,
            wants_work: true,
            wants_look: true,
            looked_at: Instant::now(),
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
        let (mut stopping, mut drained) = (false, false);
        let mut again_at: Option<Instant> = None;
        let bells = match &self.assignment {
            Assignment::Run(_) => None,
            Assignment::Any(any) => Some(any.bells.clone()),
        };
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
            if shutdown.is_draining() && self.live.is_empty() && self.hand.ended.is_empty() {
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
                Some((task_run, fence)) = self.deferring.1.recv() => self.defer(task_run, fence),
                () = shutdown.stopped(), if !stopping => {
                    stopping = true;
                    self.stop_all(Stop::Shutdown);
                }
                () = shutdown.drained(), if !drained => {
                    drained = true;
                    self.stop_deferred(); // what they wait for may take days: another process waits on
                }
                () = sleep_until(again_at.unwrap_or(next_ready)), if again_at.is_some() => {}
                () = sleep_until(next_ready), if self.next_ready.is_some() => {
                    self.next_ready = None;
                    self.look_for_work();
                }
                () = rung(bells.as_ref().map(Bells::work)) => self.look_for_work(),
                () = rung(bells.as_ref().map(Bells::look)) => {
                    // Tasks may have been cleared or marked: what runs of them is not held any more.
                    let looked = match answered(self.renew()).await {
                        Ok(()) => self.look_around().await,
                        Err(error) => Err(error.into()),
                    };
                    match looked {
                        Err(EngineError::Store(error)) => self.endure(error)?,
                        looked => looked?,
                    }
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
        match self.hand.ended.values().flatten().any(may_pass) {
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
        self.look_for_work();
        Ok(())
    }

    /// Something may be ready that this worker's own steps did not tell of.
    fn look_for_work(&mut self) {
        self.wants_work = true;
        self.wants_look = true;
    }

    /// Notes that an attempt waits for something outside.
    fn defer(&mut self, task_run: TaskRunKey, fence: i64) {
        if self.live.get(&task_run).is_some_and(|live| live.fence == fence && !live.is_deferred) {
            let (task, ending) = (task_run.task, Ending::Deferred);
            self.hand.end(task_run.run, EndedAttempt { task, fence, ending, output: None, error: None });
        }
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
                if let Some(ended) = ended {
                    self.hand.end(task_run.run, ended); // and not that it waits, where that is not written yet
                }
            }
            next = self.attempts.try_join_next();
        }
        self.wants_work = true;
    }

    /// One step: what ended is written, what is ready is claimed.
    async fn step(&mut self, draining: bool) -> Result<(), StoreError> {
        loop {
            let busy = self.live.values().filter(|live| !live.is_deferred).count();
            let free = self.engine.slots.saturating_sub(busy);
            let claims = self.wants_work && !draining && free > 0;
            if self.hand.is_idle() && !claims {
                return Ok(());
            }
            self.take_in(&self.hand.missing()).await?;
            let portion = self.portion();
            let slots = free.min(portion);
            let claim = claims.then(|| Claim {
                worker: self.sign.worker,
                slots: u32::try_from(slots).unwrap_or(u32::MAX),
                of: self.assignment.claims(),
                looks: self.wants_look || self.looked_at.elapsed() > LOOK,
            });
            let mut happened = self.hand.happened(portion);
            let batches: Vec<RunBatch<'_>> = happened
                .iter_mut()
                .map(|(run, dag, ended)| RunBatch { run: *run, dag, ended: std::mem::take(ended) })
                .collect();
            let now = clock::now();
            let step = Step { batches, claim };
            let begun = clock::monotonic();
            let stepped = self.stepper.step(&step, now).await?;
            self.engine.observer.stepped(begun.elapsed());
            self.hand.wrote(&step.batches);
            self.note_moves(&stepped.moves, &step.batches, claims, now);
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
                self.conclude(run, state);
            }
            let freed = self.note_deferrals(&step.batches);
            let is_full = claims && stepped.claimed.len() == slots; // there may be more: after these
            self.wants_work = freed || is_full;
            if step.claim.as_ref().is_some_and(|claim| claim.looks) {
                self.wants_look = false;
                self.looked_at = Instant::now();
            }
            self.start_all(&stepped.claimed).await?;
            if self.hand.ended.is_empty() && !(is_full && slots < free) {
                return Ok(());
            }
        }
    }

    /// How many ends, and how many claims, one step is of at the most: so that of many that end together the first ones'
    /// slots are taken again before the last ones are written. Each way of working then spreads by itself.
    fn portion(&self) -> usize {
        (self.engine.slots / 6).max(PORTION)
    }

    /// Tells what moved on, keeps what was left, and notes when something will be ready that was not claimed.
    fn note_moves(&mut self, moves: &[(RunKey, Move)], batches: &[RunBatch<'_>], claims: bool, now: Timestamp) {
        let ended =
            || batches.iter().flat_map(|batch| batch.ended.iter().map(|ended| ((batch.run, ended.task), ended)));
        let ended: HashMap<(RunKey, TaskIndex), &EndedAttempt> = ended().collect();
        for (run, step) in moves {
            let end = ended.get(&(*run, step.task));
            if step.to.is_final()
                && let Some(held) = self.hand.held_mut(*run, clock::monotonic())
            {
                let output = end.and_then(|end| end.output.clone()).filter(|_| step.to == TaskState::Success);
                // What instances left is read as one list, when somebody asks for it.
                if held.run.dag.task(step.task).is_some_and(|task| task.mapping.is_none()) {
                    held.outputs.note(step.task, output);
                }
            }
            // What was ready at once was within this step's own reach.
            if let Some(ready_at) = step.ready_at.filter(|at| !claims || *at > now) {
                self.wake_at(ready_at);
            }
            let error = end.and_then(|end| end.error.as_deref());
            if let Some(held) =
                self.hand.held(*run).filter(|_| matches!(step.to, TaskState::Failed | TaskState::UpForRetry))
            {
                let (facts, (task, map_index)) = (&held.run.facts, held.name_of(step.task));
                tracing::info!(
                    dag.id = %facts.dag_id, run.id = %facts.run_id, task.id = task, task.map_index = map_index,
                    state = %step.to, error,
                    "a task failed"
                );
            }
            self.engine.observer.task_moved(*run, step, error);
        }
    }

    /// Frees the slots of attempts of which it is written now that they wait, by this step or by one whose answer was lost;
    /// whether there are such.
    fn note_deferrals(&mut self, batches: &[RunBatch<'_>]) -> bool {
        let said = |batch: &RunBatch<'_>, ended: &EndedAttempt| {
            (TaskRunKey { run: batch.run, task: ended.task }, ended.fence, ended.ending == Ending::Deferred)
        };
        let all = batches.iter().flat_map(|batch| batch.ended.iter().map(move |ended| said(batch, ended)));
        let mut freed = false;
        for (task_run, fence, _) in all.filter(|(.., is_deferral)| *is_deferral) {
            if let Some(live) = self.live.get_mut(&task_run).filter(|live| live.fence == fence) {
                live.is_deferred = true;
                freed = true;
            }
        }
        freed
    }

    fn conclude(&mut self, run: RunKey, state: RunState) {
        if let Some(held) = self.hand.held(run) {
            let facts = &held.run.facts;
            tracing::info!(dag.id = %facts.dag_id, run.id = %facts.run_id, %state, "a run ended");
        }
        self.engine.observer.run_concluded(run, state);
        match &self.assignment {
            Assignment::Run(_) => self.concluded = Some(state),
            Assignment::Any(any) => {
                any.bells.turn().ring();
                self.hand.let_go(run);
                self.stepper.forget(run);
            }
        }
    }

    fn wake_at(&mut self, ready_at: crate::domain::Timestamp) {
        let wait = (ready_at - clock::now()).to_std().unwrap_or_default();
        let at = Instant::now() + wait;
        self.next_ready = Some(self.next_ready.map_or(at, |known| known.min(at)));
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
        for failure in self.hand.ended.values_mut().flatten().filter(|ended| may_pass(ended)) {
            failure.ending = Ending::Lost;
        }
        std::mem::take(&mut self.hand.ended)
    }
}

/// Waits for a bell, where there is one.
async fn rung(bell: Option<&Bell>) {
    match bell {
        Some(bell) => bell.rung().await,
        None => std::future::pending().await,
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

fn ticker(first: Duration, period: Duration) -> tokio::time::Interval {
    let mut ticker = interval_at(Instant::now() + first, period);
    ticker.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticker
}
