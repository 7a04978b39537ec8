//! One simulated world: a database, processes with clocks of their own, people, and what goes wrong. A seed decides all of
//! it, so that one that fails can be replayed.

use std::collections::{BTreeMap, BTreeSet};

use chrono::TimeDelta;
use pinsched::domain::Timestamp;
use pinsched::domain::control::{self, Action, Reach, RunStates};
use pinsched::domain::ids::{RunKey, TaskIndex, TaskRunKey};
use pinsched::domain::task_state::{TaskEvent, TaskState};
use pinsched::store::{Claimed, WorkerId};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::database::{Database, Flaw, Worker, instant};
use super::drawing::{Drawn, chance, pick};
use super::rules;
use super::stepper::Progress;
use super::worker::{Live, Process};

/// A run that has not ended after so many events hangs.
const MOST_EVENTS: usize = 40_000;

/// What a seed came to.
#[derive(Debug, Default, Clone)]
pub struct Summary {
    pub events: usize,
    pub tasks: usize,
    /// Tasks that could end in one way only, and did.
    pub exact: usize,
    pub faults: BTreeMap<&'static str, usize>,
    /// How often each thing happened to a task.
    pub happened: BTreeMap<TaskEvent, usize>,
}

/// A world.
pub struct World<'t> {
    db: Database,
    random: StdRng,
    processes: Vec<Process>,
    drawn: Vec<Drawn>,
    /// By run: which DAG it is of.
    dag_of: BTreeMap<RunKey, usize>,
    /// By DAG: a task that kills its worker.
    deadly: Vec<Option<TaskIndex>>,
    /// When the locks of processes that are gone are freed.
    freed_at: Vec<(Timestamp, WorkerId)>,
    /// What the outside world saw: each attempt that began.
    witness: BTreeSet<(TaskRunKey, i64)>,
    faults_left: usize,
    has_people: bool,
    /// Runs in which somebody took a hand.
    touched: BTreeSet<RunKey>,
    next_worker: i64,
    summary: Summary,
    trace: Option<&'t mut Vec<String>>,
}

/// Simulates a seed to the end, or to what is wrong; the events go to `trace`, where they are wanted.
pub fn simulate(seed: u64, flaw: Option<Flaw>, trace: Option<&mut Vec<String>>) -> Result<Summary, String> {
    let mut world = World::new(seed, flaw, trace);
    world.live()?;
    Ok(world.summary)
}

impl<'t> World<'t> {
    fn new(seed: u64, flaw: Option<Flaw>, trace: Option<&'t mut Vec<String>>) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let mut db = Database::new(instant(), flaw);
        let dags = random.random_range(1..=2);
        let drawn: Vec<Drawn> = (0..dags).map(|at| Drawn::draw(&mut random, &format!("dag{at}"), 12)).collect();
        let mut dag_of = BTreeMap::new();
        let mut deadly = Vec::new();
        for (at, one) in drawn.iter().enumerate() {
            for _ in 0..random.random_range(1..=2) {
                let key = RunKey(i64::try_from(dag_of.len()).unwrap() + 1);
                db.create_run(key, &one.dag, instant());
                dag_of.insert(key, at);
            }
            let tasks = u32::try_from(one.dag.tasks().len()).unwrap();
            let kills = chance(&mut random, 5);
            deadly.push(kills.then(|| TaskIndex(random.random_range(0..tasks))));
        }
        let faults_left = if chance(&mut random, 15) { 0 } else { random.random_range(1..14) };
        let has_people = chance(&mut random, 40);
        let count = random.random_range(1..=3);
        let mut world = Self {
            db,
            random,
            processes: Vec::new(),
            drawn,
            dag_of,
            deadly,
            freed_at: Vec::new(),
            witness: BTreeSet::new(),
            faults_left,
            has_people,
            touched: BTreeSet::new(),
            next_worker: 1,
            summary: Summary::default(),
            trace,
        };
        for one in &world.drawn {
            if let Some(trace) = &mut world.trace {
                trace.push(one.text.clone());
            }
        }
        for _ in 0..count {
            let process = world.born(Vec::new());
            world.processes.push(process);
        }
        world
    }

    fn say(&mut self, words: impl FnOnce(&Self) -> String) {
        if self.trace.is_none() {
            return;
        }
        let line = format!("{:>9.3} s  {}", (self.db.clock - instant()).as_seconds_f64(), words(self));
        if let Some(trace) = &mut self.trace {
            trace.push(line);
        }
    }

    fn milliseconds(&mut self, range: std::ops::Range<i64>) -> TimeDelta {
        TimeDelta::milliseconds(self.random.random_range(range))
    }

    fn born(&mut self, former: Vec<WorkerId>) -> Process {
        let id = WorkerId(self.next_worker);
        self.next_worker += 1;
        self.db.workers.insert(id, Worker { is_locked: true, seen_at: self.db.clock });
        let mut process = Process::new(id, former, self.db.clock);
        process.clock_offset = self.milliseconds(-3000..3000);
        process
    }

    fn live(&mut self) -> Result<(), String> {
        self.check()?;
        while !self.is_quiet() {
            self.summary.events += 1;
            if self.summary.events > MOST_EVENTS {
                return Err(format!("it hangs: {}", self.unfinished()));
            }
            self.pass_time();
            let at = self.random.random_range(0..self.processes.len());
            if self.faults_left > 0 && chance(&mut self.random, 3) {
                self.fault(at)?;
            }
            self.act(at)?;
            self.help_stuck()?;
            self.check()?;
        }
        self.check_end()
    }

    fn is_quiet(&self) -> bool {
        let is_over = self.db.runs.values().all(|run| run.state.is_final());
        is_over && (self.faults_left == 0 || !self.has_people)
    }

    fn unfinished(&self) -> String {
        let open = self.db.task_keys().filter(|key| !self.db.task(*key).state.is_final());
        let words = open.map(|key| format!("run {} task {} is {}", key.run.0, key.task.0, self.db.task(key).state));
        words.collect::<Vec<_>>().join(", ")
    }

    /// Time goes on; where nothing is in anybody's hands, up to what waits for a time.
    fn pass_time(&mut self) {
        let passed = self.milliseconds(1..250);
        self.db.clock += passed;
        let is_idle = |process: &Process| {
            process.live.is_empty()
                && process.ended.is_empty()
                && process.stepping.is_none()
                && process.sweep.is_empty()
        };
        let is_held = self.db.task_keys().any(|key| self.db.task(key).state.is_held());
        if !is_held && self.processes.iter().all(is_idle) {
            let next = self.db.task_keys().filter_map(|key| self.db.task(key).ready_at).min();
            if let Some(wait) = next.map(|next| next - self.db.clock).filter(|wait| *wait > TimeDelta::seconds(2)) {
                self.db.clock += wait / 4;
            }
        }
        let now = self.db.clock;
        for (_, worker) in self.freed_at.extract_if(.., |(at, _)| *at <= now) {
            self.db.workers.get_mut(&worker).expect("it registered").is_locked = false;
        }
        if self.faults_left == 0 {
            self.processes.iter_mut().for_each(|process| process.clock_offset = TimeDelta::zero());
        }
    }

    /// One thing that a process does.
    fn act(&mut self, at: usize) -> Result<(), String> {
        let now = self.db.clock;
        let process = &mut self.processes[at];
        if !process.is_alive {
            if chance(&mut self.random, 20) {
                self.processes[at] = self.born(Vec::new());
                self.say(|world| format!("process {at} starts as worker {}", world.processes[at].id.0));
            }
            return Ok(());
        }
        if process.hangs_until.is_some_and(|until| until > now) {
            return Ok(());
        }
        process.hangs_until = None;
        if process.is_drained() {
            process.is_alive = false;
            let id = process.id;
            self.db.workers.get_mut(&id).expect("it registered").is_locked = false;
            self.say(|_| format!("process {at} has drained"));
            return Ok(());
        }
        if process.stepping.is_some() {
            return self.advance(at);
        }
        if process.trusts_nothing(now) && !process.live.is_empty() {
            self.distrust(at);
        }
        let process = &self.processes[at];
        let mut things = Vec::new();
        things.extend(process.is_renewal_due(now).then_some("renew"));
        things.extend(process.is_look_due(now).then_some("look"));
        things.extend(process.has_something_to_do().then_some("step"));
        let is_due = |live: &Live| live.ends_at <= now || live.defers_at.is_some_and(|at| at <= now);
        let due: Vec<TaskRunKey> = process.live.iter().filter(|(_, live)| is_due(live)).map(|(key, _)| *key).collect();
        things.extend((!due.is_empty()).then_some("end"));
        if things.is_empty() {
            return Ok(());
        }
        match pick(&mut self.random, &things) {
            "renew" => self.processes[at].renew(&mut self.db),
            "look" => self.processes[at].look_around(&self.db),
            "step" => self.processes[at].begin_step(&self.db),
            _ => {
                let key = pick(&mut self.random, &due);
                self.end_attempt(at, key);
            }
        }
        Ok(())
    }

    /// Its leases are old: its attempts stop, unless they are done just then.
    fn distrust(&mut self, at: usize) {
        let keys: Vec<TaskRunKey> = self.processes[at].live.keys().copied().collect();
        for key in keys {
            if chance(&mut self.random, 30) {
                self.end_attempt(at, key);
            }
        }
        self.processes[at].live.clear();
        self.say(|_| format!("process {at} trusts its leases no more"));
    }

    fn end_attempt(&mut self, at: usize, key: TaskRunKey) {
        let now = self.db.clock;
        let process = &mut self.processes[at];
        let live = process.live[&key].clone();
        if live.ends_at <= now || live.defers_at.is_none() {
            process.live.remove(&key);
            process.end(key, live.fence, live.ending.clone());
            self.say(|_| format!("process {at}: {} ends: {:?}", name(key, live.fence), live.ending));
        } else {
            process.live.get_mut(&key).expect("it is there").defers_at = None;
            if !live.is_deferred {
                process.end(key, live.fence, pinsched::domain::plan::Ending::Deferred);
                self.say(|_| format!("process {at}: {} waits for something outside", name(key, live.fence)));
            }
        }
    }

    /// The step that is under way goes on by one look at the database.
    fn advance(&mut self, at: usize) -> Result<(), String> {
        let process = &mut self.processes[at];
        let mut stepping = process.stepping.take().expect("it is under way");
        let writes = stepping.is_about_to_write();
        let progress = stepping.advance(&mut process.stepper, &mut self.db);
        if writes {
            self.say(|_| format!("process {at} writes"));
        }
        match progress {
            Progress::More => self.processes[at].stepping = Some(stepping),
            Progress::Refused => {
                *self.summary.faults.entry("others came between too often").or_default() += 1;
                self.processes[at].lose_step();
                self.say(|_| format!("process {at} gives a step up: others came between"));
            }
            Progress::Done(stepped) => {
                self.processes[at].finish_step(&stepping, &stepped);
                for (run, step) in &stepped.moves {
                    self.say(|_| {
                        format!(
                            "process {at}: run {} task {} {}: {} -> {}",
                            run.0, step.task.0, step.event, step.from, step.to
                        )
                    });
                }
                for (key, fence) in &stepped.stale {
                    self.say(|_| format!("process {at}: {} is stale", name(*key, *fence)));
                }
                for claimed in &stepped.claimed {
                    self.start(at, claimed)?;
                }
            }
        }
        Ok(())
    }

    fn start(&mut self, at: usize, claimed: &Claimed) -> Result<(), String> {
        let key = claimed.task_run;
        let Some(task) = self.db.find(key) else {
            return Ok(()); // an instance that was cleared away before its worker knew of the claim
        };
        let (first, instance_of) = (task.first_try, task.instance_of);
        if !self.processes[at].is_alive {
            return Ok(()); // what it started before has killed it
        }
        if !self.witness.insert((key, claimed.fence)) {
            return Err(format!("{} began twice", name(key, claimed.fence)));
        }
        let dag = self.dag_of[&key.run];
        let fates = self.drawn[dag].fates_of(key.task, instance_of);
        let tries = usize::try_from(claimed.try_number - first).unwrap_or(0);
        let ending = fates.get(tries).or(fates.last()).expect("a task has a try").clone();
        let defers = self.drawn[dag].defers(key.task, instance_of);
        let now = self.db.clock;
        let ends_at = now + self.milliseconds(0..6000);
        let defers_at = defers.then(|| now + (ends_at - now) / 2);
        let live = Live { fence: claimed.fence, defers_at, ends_at, ending, is_deferred: false };
        self.processes[at].live.insert(key, live);
        self.say(|_| format!("process {at}: {} begins, try {}", name(key, claimed.fence), claimed.try_number));
        if self.deadly[dag] == Some(key.task) {
            self.crash(at);
        }
        Ok(())
    }

    fn crash(&mut self, at: usize) {
        let wait = self.milliseconds(0..1500);
        let process = &mut self.processes[at];
        process.is_alive = false;
        process.stepping = None;
        process.live.clear();
        process.ended.clear();
        process.sweep.clear();
        self.freed_at.push((self.db.clock + wait, process.id));
        self.say(|_| format!("process {at} is killed"));
    }

    fn fault(&mut self, at: usize) -> Result<(), String> {
        self.faults_left -= 1;
        let process = &self.processes[at];
        let mut kinds = vec!["killed", "hung", "connection lost", "clock moved", "drained"];
        if process.stepping.as_ref().is_some_and(|stepping| stepping.awaits_answer()) {
            kinds = vec!["killed before the answer", "answer lost", "connection lost before the answer"];
        } else if process.stepping.is_some() {
            kinds.extend(["killed between plan and write", "hung between plan and write"]);
        }
        if self.has_people && chance(&mut self.random, 50) {
            kinds = vec!["cleared", "cleared", "marked", "cancelled"];
        }
        let kind = pick(&mut self.random, &kinds);
        let is_about_people = matches!(kind, "cleared" | "marked" | "cancelled");
        if !is_about_people && !process.is_alive {
            return Ok(());
        }
        *self.summary.faults.entry(kind).or_default() += 1;
        match kind {
            "killed" | "killed before the answer" | "killed between plan and write" => self.crash(at),
            "hung" | "hung between plan and write" => {
                let until = self.db.clock + self.milliseconds(500..40_000);
                self.processes[at].hangs_until = Some(until);
                self.say(|_| format!("process {at} hangs"));
            }
            "answer lost" => {
                self.processes[at].lose_step();
                self.say(|_| format!("process {at} has no answer to what it wrote"));
            }
            "connection lost" | "connection lost before the answer" => self.lose_connection(at),
            "clock moved" => {
                self.processes[at].clock_offset = self.milliseconds(-3_600_000..3_600_000);
                self.say(|world| {
                    format!("the clock of process {at} is {} s off", world.processes[at].clock_offset.num_seconds())
                });
            }
            "drained" => {
                let process = &mut self.processes[at];
                process.is_draining = true;
                if process.stepping.is_none() {
                    for (key, live) in std::mem::take(&mut process.live) {
                        process.end(key, live.fence, pinsched::domain::plan::Ending::Interrupted);
                    }
                }
                self.say(|_| format!("process {at} is told to stop"));
            }
            _ => self.take_a_hand(kind)?,
        }
        Ok(())
    }

    fn lose_connection(&mut self, at: usize) {
        self.say(|_| format!("process {at} loses the database"));
        let mut former = self.processes[at].former.clone();
        let was = self.processes[at].id;
        former.push(was);
        let ended = self.processes[at].abandon();
        let wait = self.milliseconds(0..1000);
        self.freed_at.push((self.db.clock + wait, was));
        let mut back = self.born(former);
        back.ended = ended;
        self.processes[at] = back;
    }

    /// A person does something to a run.
    fn take_a_hand(&mut self, kind: &str) -> Result<(), String> {
        let keys: Vec<RunKey> = self.db.runs.keys().copied().collect();
        let run = pick(&mut self.random, &keys);
        self.touched.insert(run);
        if kind == "cancelled" {
            self.say(|_| format!("run {} is to be cancelled", run.0));
            self.db.request_cancel(run);
            return Ok(());
        }
        let action = match kind {
            "cleared" => Action::Clear,
            _ => pick(&mut self.random, &[Action::MarkSuccess, Action::MarkFailed]),
        };
        let tasks: Vec<TaskIndex> = self.db.runs[&run].tasks.keys().copied().collect();
        let named = [pick(&mut self.random, &tasks)];
        let reach = Reach {
            upstream: chance(&mut self.random, 15),
            downstream: chance(&mut self.random, 70),
            only_failed: chance(&mut self.random, 20),
        };
        let row = &self.db.runs[&run];
        let (states, instances) = (row.states(), row.instances());
        let standing = RunStates { states: &states, instances: &instances };
        let selected = control::select(&row.dag, standing, &named, reach);
        self.say(|_| format!("run {}: {action:?} of task {} with {reach:?}", run.0, named[0].0));
        self.db.change_tasks(run, action, &named, reach, self.db.clock);
        if action == Action::Clear { rules::check_cleared(&self.db, run, &selected) } else { Ok(()) }
    }

    /// A task that waits for one of the run before that did not succeed and is over waits for a person.
    fn help_stuck(&mut self) -> Result<(), String> {
        if !self.summary.events.is_multiple_of(200) {
            return Ok(());
        }
        let waits = |key: &TaskRunKey| matches!(self.db.task(*key).state, TaskState::Queued | TaskState::UpForRetry);
        let waiting: Vec<TaskRunKey> = self.db.task_keys().filter(waits).collect();
        for key in waiting {
            for blocker in self.db.kept_back_by(key) {
                if self.db.runs[&blocker.run].state.is_final() {
                    self.say(|_| {
                        format!("somebody marks {} done, which run {} waits for", name(blocker, 0), key.run.0)
                    });
                    self.touched.insert(blocker.run);
                    let reach = Reach::default();
                    self.db.change_tasks(blocker.run, Action::MarkSuccess, &[blocker.task], reach, self.db.clock);
                    self.check()?;
                }
            }
        }
        Ok(())
    }

    fn check(&mut self) -> Result<(), String> {
        if let Some((key, fence)) = self.db.written_stale.first() {
            return Err(format!("the end of {} was written, though it had lost its task", name(*key, *fence)));
        }
        if self.db.dirty.is_empty() {
            return Ok(());
        }
        for run in std::mem::take(&mut self.db.dirty) {
            rules::check_run(&self.db, run)?;
        }
        rules::check_limits(&self.db)
    }

    /// What holds when all is over.
    fn check_end(&mut self) -> Result<(), String> {
        let rows = self.db.runs.iter().flat_map(|(run, row)| {
            let all = row.tasks.iter().chain(&row.removed);
            all.map(|(task, row)| (TaskRunKey { run: *run, task: *task }, row))
        });
        for (key, task) in rows {
            for told in &task.history {
                *self.summary.happened.entry(told.event).or_default() += 1;
            }
            let seen = self.witness.iter().filter(|(witnessed, _)| *witnessed == key);
            for (_, fence) in seen {
                if !task.attempts.iter().any(|attempt| attempt.fence == *fence) {
                    return Err(format!("{} began, and there is no such attempt", name(key, *fence)));
                }
            }
        }
        for (run, dag) in &self.dag_of {
            if self.touched.contains(run) {
                continue;
            }
            let row = &self.db.runs[run];
            let is_killed = |task: &&super::database::Task| task.lost >= pinsched::domain::plan::LOST_LIMIT;
            let killed = row.tasks.iter().filter(|(_, task)| is_killed(task));
            let killed: rules::Killed = killed
                .map(|(index, task)| {
                    task.instance_of.map_or((*index, None), |(map_of, map_index)| (map_of, Some(map_index)))
                })
                .collect();
            let possible = rules::possible_ends(&self.drawn[*dag], &killed);
            for (task, possible) in row.dag.tasks().iter().zip(possible) {
                let state = row.tasks[&task.index].state;
                self.summary.tasks += 1;
                self.summary.exact += usize::from(possible.len() == 1);
                if !possible.contains(&state) {
                    return Err(format!("`{}` of run {} is {state}, and may be {possible:?}", task.id, run.0));
                }
            }
        }
        Ok(())
    }
}

fn name(key: TaskRunKey, fence: i64) -> String {
    format!("run {} task {} fence {fence}", key.run.0, key.task.0)
}
