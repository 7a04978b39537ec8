//! The lease protocol as a space of states, explored whole: two workers and one task, with every order in which claims,
//! renewals, ends, hangs, deaths, lost connections and takeovers may come. Tests alone.
//!
//! Time passes in steps of half a second, and clocks are ages that are no longer counted once they say all they can: so the
//! space is finite, and what holds in it holds for ever. The times are those of the code. Postgres's clock counts the
//! lease; each worker's own counts for how long it trusts a renewal, and may be slow by [`DRIFT`] in that time.
//!
//! A worker is taken here to be at its post, not in the middle of a step that the database keeps waiting: while it is, its
//! attempts still watch their leases, but it does not see that its sign of life is lost. What they write then their
//! fences keep out, as always.

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::Duration;

use crate::engine::holding::{LOST_STOP_LIMIT, TRUST};
use crate::engine::orphans::GRACE;
use crate::engine::worker::{CONFIRMATION, RENEWAL};
use crate::store::LEASE;

const STEP: Duration = Duration::from_millis(500);

/// By how much a worker's clock may fall behind Postgres's while it trusts one renewal: some 7 of 100.
const DRIFT: Duration = Duration::from_secs(1);

/// The times of the protocol, in steps.
#[derive(Debug, Clone, Copy)]
struct Times {
    lease: u8,
    trust: u8,
    stop: u8,
    grace: u8,
    confirmation: u8,
    renewal: u8,
    drift: u8,
}

impl Times {
    fn of_the_code() -> Self {
        let steps = |time: Duration| {
            let steps = time.as_millis().div_ceil(STEP.as_millis());
            u8::try_from(steps).expect("the times of the protocol are some seconds")
        };
        Self {
            lease: steps(LEASE),
            trust: steps(TRUST),
            stop: steps(LOST_STOP_LIMIT),
            grace: steps(GRACE),
            confirmation: steps(CONFIRMATION),
            renewal: steps(RENEWAL),
            drift: steps(DRIFT),
        }
    }
}

/// Who holds the task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Task {
    /// It is ready.
    Queued,
    /// That worker does, as it is registered now.
    Held(u8),
    /// A registration whose process is gone or has come back as another; by the process that it was, if that remembers.
    HeldByFormer(Option<u8>),
    /// It is over.
    Done,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Mode {
    Working,
    /// It does nothing, and its connection stands.
    Hung,
    Dead,
}

/// An attempt that executes. Its fence is told by whether claims came after its own. Of one that has lost its task, or was
/// told to stop, no times matter any more: they stand still, so that the space stays small.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Attempt {
    behind: u8,
    /// How long ago the renewal was that is trusted, by Postgres's clock; the worker's own may be slower.
    trusted_for: u8,
    /// For how long it has been told to stop.
    stopping: Option<u8>,
    /// Whether its worker hung meanwhile.
    has_hung: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Worker {
    mode: Mode,
    /// Whether Postgres holds its advisory lock.
    is_locked: bool,
    /// For how long it has not been, as far as the worker has not noticed.
    unlocked_for: u8,
    /// Whether it has noticed, and stops its attempts.
    is_abandoning: bool,
    attempt: Option<Attempt>,
    /// An end on its way to Postgres, by its fence.
    write: Option<u8>,
    /// For how long it has seen the task's holder without a sign of life.
    sees_orphan_for: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct State {
    task: Task,
    /// How old the lease is by Postgres's clock.
    lease_age: u8,
    workers: [Worker; 2],
}

/// Something that happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Tick,
    Claim { who: u8, is_answered: bool },
    Renew { who: u8, is_answered: bool },
    HandBack(u8),
    End(u8),
    Arrive(u8),
    Distrust(u8),
    Gone(u8),
    Hang(u8),
    Resume(u8),
    Die(u8),
    Unlock(u8),
    Restart(u8),
    CutOff(u8),
    Notice(u8),
    Reconnect(u8),
    TakeOver(u8),
}

impl State {
    fn first() -> Self {
        let worker = Worker {
            mode: Mode::Working,
            is_locked: true,
            unlocked_for: 0,
            is_abandoning: false,
            attempt: None,
            write: None,
            sees_orphan_for: 0,
        };
        Self { task: Task::Queued, lease_age: 0, workers: [worker; 2] }
    }

    fn is_held(&self) -> bool {
        matches!(self.task, Task::Held(_) | Task::HeldByFormer(_))
    }

    /// Whether who holds the task shows no sign of life.
    fn is_orphan(&self) -> bool {
        match self.task {
            Task::Held(holder) => !self.workers[usize::from(holder)].is_locked,
            Task::HeldByFormer(_) => true,
            Task::Queued | Task::Done => false,
        }
    }

    /// Whether something must happen before time goes on: what processes that are at their posts do in time.
    fn is_due(&self, times: Times) -> bool {
        self.workers.iter().filter(|worker| worker.mode == Mode::Working).any(|worker| {
            let current = worker.attempt.filter(|attempt| attempt.behind == 0);
            let stops = current.is_some_and(|attempt| match attempt.stopping {
                None => attempt.trusted_for >= times.trust + times.drift,
                Some(time) => time >= times.stop,
            });
            let notices = !worker.is_locked && !worker.is_abandoning && worker.unlocked_for >= times.confirmation;
            stops || notices
        })
    }

    /// Everything that may happen now.
    fn steps(&self, times: Times) -> Vec<Step> {
        let mut steps = Vec::new();
        if self.task == Task::Done {
            return steps;
        }
        for who in 0..2 {
            self.steps_of(who, times, &mut steps);
        }
        if !self.is_due(times) {
            steps.push(Step::Tick);
        }
        steps
    }

    fn steps_of(&self, who: u8, times: Times, steps: &mut Vec<Step>) {
        let worker = &self.workers[usize::from(who)];
        if worker.write.is_some() {
            steps.push(Step::Arrive(who)); // it is on its way, whatever became of who sent it
        }
        match worker.mode {
            Mode::Dead => steps.push(if worker.is_locked { Step::Unlock(who) } else { Step::Restart(who) }),
            Mode::Hung => {
                steps.push(Step::Resume(who));
                if worker.is_locked {
                    steps.push(Step::CutOff(who));
                }
            }
            Mode::Working => {
                steps.extend([Step::Hang(who), Step::Die(who)]);
                if worker.is_locked {
                    steps.push(Step::CutOff(who));
                } else if worker.is_abandoning && worker.attempt.is_none() {
                    steps.push(Step::Reconnect(who));
                } else if !worker.is_abandoning {
                    steps.push(Step::Notice(who));
                }
                if let Some(attempt) = worker.attempt {
                    steps.push(Step::End(who));
                    match attempt.stopping {
                        Some(_) => steps.push(Step::Gone(who)),
                        None if attempt.trusted_for >= times.trust => steps.push(Step::Distrust(who)),
                        None => {}
                    }
                }
                if !worker.is_abandoning {
                    self.dealings(who, times, steps);
                }
            }
        }
    }

    /// What a worker that is at its post does with the database.
    fn dealings(&self, who: u8, times: Times, steps: &mut Vec<Step>) {
        let worker = &self.workers[usize::from(who)];
        let is_free = worker.attempt.is_none() && worker.write.is_none();
        if self.task == Task::Queued && is_free {
            steps.extend([true, false].map(|is_answered| Step::Claim { who, is_answered }));
        }
        if self.task == Task::Held(who) && is_free {
            steps.push(Step::HandBack(who)); // it holds what it does not know of
        }
        let is_time = |attempt: Attempt| attempt.trusted_for > 0 && attempt.trusted_for.is_multiple_of(times.renewal);
        if worker.attempt.is_some_and(|attempt| attempt.behind > 0 || is_time(attempt)) && worker.write.is_none() {
            steps.extend([true, false].map(|is_answered| Step::Renew { who, is_answered }));
        }
        let is_another = self.is_held() && self.task != Task::Held(who);
        let is_own = self.task == Task::HeldByFormer(Some(who));
        let is_expired = self.lease_age > times.lease;
        if is_another && (is_expired || is_own || self.is_orphan() && worker.sees_orphan_for >= times.grace) {
            steps.push(Step::TakeOver(who));
        }
    }

    fn after(mut self, step: Step, times: Times) -> Self {
        match step {
            Step::Tick => self.tick(times),
            Step::Claim { who, is_answered } => self.claim(who, is_answered),
            Step::Renew { who, is_answered } => self.renew(who, is_answered),
            Step::HandBack(_) | Step::TakeOver(_) => self.task = Task::Queued,
            Step::End(who) => {
                let worker = self.of(who);
                worker.write = worker.attempt.take().map(|attempt| attempt.behind);
            }
            Step::Arrive(who) => {
                if self.of(who).write.take() == Some(0) && self.is_held() {
                    self.task = Task::Done;
                }
            }
            Step::Distrust(who) => self.tell_to_stop(who),
            Step::Gone(who) => self.of(who).attempt = None,
            Step::Hang(who) => {
                let worker = self.of(who);
                worker.mode = Mode::Hung;
                worker.sees_orphan_for = 0;
                if let Some(attempt) = &mut worker.attempt {
                    attempt.has_hung = true;
                }
            }
            Step::Resume(who) => self.of(who).mode = Mode::Working,
            Step::Die(who) => {
                let write = self.of(who).write;
                *self.of(who) = Worker { mode: Mode::Dead, write, ..Self::first().workers[0] };
            }
            Step::Unlock(who) => self.of(who).is_locked = false,
            Step::Restart(who) => {
                let write = self.of(who).write;
                *self.of(who) = Worker { write, ..Self::first().workers[0] };
                self.leave(who, None);
            }
            Step::CutOff(who) => {
                self.of(who).is_locked = false;
                self.of(who).unlocked_for = 0;
            }
            Step::Notice(who) => {
                self.of(who).is_abandoning = true;
                self.of(who).sees_orphan_for = 0;
                self.tell_to_stop(who);
            }
            Step::Reconnect(who) => {
                let write = self.of(who).write; // what had ended is written under its old fence
                *self.of(who) = Worker { write, ..Self::first().workers[0] };
                self.leave(who, Some(who));
            }
        }
        if !self.is_orphan() {
            self.workers.iter_mut().for_each(|worker| worker.sees_orphan_for = 0);
        }
        if !self.is_held() {
            self.lease_age = 0;
        }
        self.min(self.swapped())
    }

    /// The same with the workers' names changed: of two such states one is looked at.
    fn swapped(self) -> Self {
        let other = |who: u8| 1 - who;
        let task = match self.task {
            Task::Held(holder) => Task::Held(other(holder)),
            Task::HeldByFormer(holder) => Task::HeldByFormer(holder.map(other)),
            task @ (Task::Queued | Task::Done) => task,
        };
        let [first, second] = self.workers;
        Self { task, lease_age: self.lease_age, workers: [second, first] }
    }

    fn of(&mut self, who: u8) -> &mut Worker {
        &mut self.workers[usize::from(who)]
    }

    fn tell_to_stop(&mut self, who: u8) {
        if let Some(attempt) = &mut self.of(who).attempt {
            attempt.stopping = attempt.stopping.or(Some(0));
            attempt.trusted_for = 0;
        }
    }

    /// What that registration held is held by one that is over.
    fn leave(&mut self, who: u8, by: Option<u8>) {
        match self.task {
            Task::Held(holder) if holder == who => self.task = Task::HeldByFormer(by),
            Task::HeldByFormer(Some(holder)) if holder == who => self.task = Task::HeldByFormer(by),
            Task::Queued | Task::Held(_) | Task::HeldByFormer(_) | Task::Done => {}
        }
    }

    fn claim(&mut self, who: u8, is_answered: bool) {
        // The fence rises: whatever had the last one is one further behind.
        for worker in &mut self.workers {
            if let Some(attempt) = &mut worker.attempt {
                *attempt = Attempt { behind: 1, trusted_for: 0, stopping: Some(0), has_hung: false };
            }
            worker.write = worker.write.map(|_| 1);
        }
        self.task = Task::Held(who);
        self.lease_age = 0;
        // At the worst the last renewal is of this very moment: it is trusted the longest.
        let attempt = Attempt { behind: 0, trusted_for: 0, stopping: None, has_hung: false };
        self.of(who).attempt = is_answered.then_some(attempt);
    }

    fn renew(&mut self, who: u8, is_answered: bool) {
        let holds = self.task == Task::Held(who);
        if holds {
            self.lease_age = 0;
        }
        if !is_answered {
            return;
        }
        let is_mine = holds && self.of(who).attempt.is_some_and(|attempt| attempt.behind == 0);
        if !is_mine {
            self.tell_to_stop(who);
        } else if let Some(attempt) = &mut self.of(who).attempt {
            attempt.trusted_for = 0;
        }
    }

    fn tick(&mut self, times: Times) {
        if self.is_held() {
            self.lease_age = (self.lease_age + 1).min(times.lease + 1);
        }
        let is_orphan = self.is_orphan();
        for worker in &mut self.workers {
            if let Some(attempt) = &mut worker.attempt
                && attempt.behind == 0
            {
                if attempt.stopping.is_none() {
                    attempt.trusted_for = (attempt.trusted_for + 1).min(times.trust + times.drift);
                }
                if let Some(time) = &mut attempt.stopping
                    && worker.mode == Mode::Working
                {
                    *time = (*time + 1).min(times.stop);
                }
            }
            if worker.mode == Mode::Working && !worker.is_locked && !worker.is_abandoning {
                worker.unlocked_for = (worker.unlocked_for + 1).min(times.confirmation);
            }
            if worker.mode == Mode::Working && is_orphan && !worker.is_abandoning {
                worker.sees_orphan_for = (worker.sees_orphan_for + 1).min(times.grace);
            }
        }
    }

    /// What must hold of every state.
    fn wrong(&self) -> Option<&'static str> {
        let counts = |fence: Option<u8>| usize::from(self.is_held() && fence == Some(0));
        let accepted: usize = self
            .workers
            .iter()
            .map(|worker| counts(worker.attempt.map(|attempt| attempt.behind)) + counts(worker.write))
            .sum();
        (accepted > 1).then_some("two ends would be accepted")
    }

    /// What must hold where a task is taken over.
    fn wrong_at_takeover(&self, by: u8, times: Times) -> Option<&'static str> {
        let Task::Held(holder) = self.task else { return None };
        let worker = &self.workers[usize::from(holder)];
        let attempt = worker.attempt.filter(|_| holder != by && worker.mode == Mode::Working)?;
        if worker.is_locked && !attempt.has_hung {
            return Some("an attempt executes whose lease has ended");
        }
        let is_by_sign = self.lease_age <= times.lease;
        (is_by_sign && attempt.stopping.is_none() && !attempt.has_hung)
            .then_some("an attempt was not told to stop that lost its sign of life")
    }

    /// What happens next where nothing goes wrong any more; who hangs goes on hanging while another works.
    fn calmly(&self, times: Times) -> Step {
        let steps = self.steps(times);
        let first = |is: &dyn Fn(&Step) -> bool| steps.iter().copied().find(|step| is(step));
        let nobody_works = self.workers.iter().all(|worker| worker.mode != Mode::Working);
        first(&|step| matches!(step, Step::Arrive(_)))
            .or(first(&|step| matches!(step, Step::Notice(_) | Step::Distrust(_) | Step::Unlock(_))))
            .or(first(&|step| matches!(step, Step::Reconnect(_) | Step::TakeOver(_) | Step::HandBack(_))))
            .or(first(&|step| match step {
                // One that was told to stop does so as late as it may.
                Step::End(who) => {
                    self.workers[usize::from(*who)].attempt.is_some_and(|attempt| attempt.stopping.is_none())
                }
                Step::Gone(who) => {
                    let attempt = self.workers[usize::from(*who)].attempt;
                    attempt.is_some_and(|attempt| attempt.behind > 0 || attempt.stopping >= Some(times.stop))
                }
                _ => false,
            }))
            .or(first(&|step| matches!(step, Step::Claim { is_answered: true, .. })))
            .or(first(&|step| nobody_works && matches!(step, Step::Restart(_) | Step::Resume(_))))
            .or(first(&|step| matches!(step, Step::Tick)))
            .expect("time goes on, or something is due")
    }
}

/// What was found.
struct Explored {
    states: usize,
    steps: usize,
    /// What is wrong, with the way there.
    wrong: Option<String>,
    /// In how many steps of time the task is over from the worst state on, where nothing goes wrong any more.
    longest: usize,
}

fn explore(times: Times) -> Explored {
    let first = State::first();
    let mut came_by: HashMap<State, Option<(State, Step)>> = HashMap::from([(first, None)]);
    let mut ahead = VecDeque::from([first]);
    let mut explored = Explored { states: 0, steps: 0, wrong: None, longest: 0 };
    let way = |came_by: &HashMap<State, Option<(State, Step)>>, to: State| {
        let mut steps = Vec::new();
        let mut at = to;
        while let Some((before, step)) = came_by[&at] {
            steps.push(format!("{step:?}"));
            at = before;
        }
        steps.reverse();
        steps.join(", ")
    };
    while let Some(state) = ahead.pop_front() {
        for step in state.steps(times) {
            explored.steps += 1;
            let next = state.after(step, times);
            let at_takeover = match step {
                Step::TakeOver(by) => state.wrong_at_takeover(by, times),
                _ => None,
            };
            if let Some(wrong) = at_takeover.or(next.wrong()) {
                explored.wrong = Some(format!("{wrong}: {}, {step:?}", way(&came_by, state)));
                return explored;
            }
            if let std::collections::hash_map::Entry::Vacant(new) = came_by.entry(next) {
                new.insert(Some((state, step)));
                ahead.push_back(next);
            }
        }
    }
    explored.states = came_by.len();
    let mut known: HashMap<State, usize> = HashMap::new();
    for state in came_by.keys() {
        match time_to_the_end(*state, times, &mut known) {
            Some(time) => explored.longest = explored.longest.max(time),
            None => {
                explored.wrong = Some(format!("the task is never over: {}", way(&came_by, *state)));
                return explored;
            }
        }
    }
    explored
}

/// How long it takes from there to the end of the task, calmly; nothing where it goes round in circles.
fn time_to_the_end(from: State, times: Times, known: &mut HashMap<State, usize>) -> Option<usize> {
    let (mut passed, mut seen, mut at) = (Vec::new(), HashSet::new(), from);
    let mut time = loop {
        if at.task == Task::Done {
            break 0;
        }
        if let Some(time) = known.get(&at) {
            break *time;
        }
        if !seen.insert(at) {
            return None;
        }
        let step = at.calmly(times);
        passed.push((at, step));
        at = at.after(step, times);
    };
    for (state, step) in passed.into_iter().rev() {
        time += usize::from(matches!(step, Step::Tick));
        known.insert(state, time);
    }
    Some(time)
}

#[test]
fn no_two_ends_count_attempts_stop_in_time_and_every_task_is_over_in_the_end() {
    let times = Times::of_the_code();
    let explored = explore(times);
    said(&format!(
        "{} states, {} steps; the longest way to the end is {:?}",
        explored.states,
        explored.steps,
        STEP * u32::try_from(explored.longest).unwrap()
    ));
    assert_eq!(explored.wrong, None);
    assert!(explored.states > 10_000, "{} states are not all of it", explored.states);
    let longest = STEP * u32::try_from(explored.longest).unwrap();
    assert!(longest <= LEASE + GRACE + LOST_STOP_LIMIT, "it takes {longest:?} after the worst");
}

/// An exploration that finds nothing proves nothing: times that are not safe are found.
#[test]
fn times_that_are_not_safe_are_found() {
    let times = Times::of_the_code();
    let unsafe_times = [
        ("a renewal is trusted until the lease ends", Times { trust: times.lease - times.stop, ..times }),
        ("operators have all the time to stop", Times { stop: times.lease - times.trust + 1, ..times }),
        ("the lease is as short as the trust in it", Times { lease: times.trust, ..times }),
        ("nobody waits before a takeover", Times { grace: 0, ..times }),
        ("the sign of life is confirmed as seldom as others look", Times { confirmation: times.grace, ..times }),
    ];
    for (what, times) in unsafe_times {
        let wrong = explore(times).wrong.unwrap_or_else(|| panic!("{what}: nothing is wrong with {times:?}"));
        said(&format!("{what}: {wrong}"));
    }
}

#[expect(clippy::print_stderr, reason = "how large the space is, is for who runs the test")]
fn said(words: &str) {
    eprintln!("{words}");
}
