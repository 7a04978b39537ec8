//! The model is held to the real store: the same operations on both, and after each of them the same states, fences,
//! counters, attempts and answers.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use chrono::TimeDelta;
use pinsched::domain::Timestamp;
use pinsched::domain::control::{Action, Reach};
use pinsched::domain::ids::{RunKey, TaskIndex, TaskRunKey};
use pinsched::domain::plan::Ending;
use pinsched::store::{
    Claim, ClaimOf, EndedAttempt, Mode, NewRun, Request, RunBatch, SignOfLife, Step, Stepped, Stepper, WorkerId,
};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use sqlx::{AssertSqlSafe, Executor, Row};

use super::database::{Database, Worker, instant};
use super::drawing::{Drawn, POOLS, chance, pick};
use super::stepper::{self, Batch, Stepping, step_alone};
use crate::dags::{House, new_run};
use crate::services;

/// A worker in both worlds.
struct Pair {
    sign: SignOfLife,
    real: Stepper,
    model: stepper::Stepper,
    /// What it has claimed, and what it has said of that before: it may say so again.
    held: Vec<(TaskRunKey, i64, i32)>,
    said: Vec<(RunKey, EndedAttempt)>,
}

/// Both worlds.
struct Both<'a> {
    house: &'a mut House,
    db: Database,
    drawn: Vec<Drawn>,
    dag_of: BTreeMap<RunKey, usize>,
    now: Timestamp,
    workers: Vec<Pair>,
    done: Vec<String>,
}

#[tokio::test]
async fn the_store_does_what_its_model_says() {
    let mut house = House::open().await;
    for (pool, slots) in POOLS {
        house.store.set_pool(pool, slots, None).await.unwrap();
    }
    let mut steps = 0;
    for seed in services::seeds(5_000..5_030) {
        steps += compared(&mut house, seed).await;
    }
    assert!(steps > 500 || services::seed().is_some(), "only {steps} operations were compared");
}

async fn compared(house: &mut House, seed: u64) -> usize {
    let mut random = StdRng::seed_from_u64(seed);
    let mut both = Both::begin(house, seed, &mut random).await;
    for _ in 0..3 {
        let pair = both.register().await;
        both.workers.push(pair);
    }
    both.compare(seed).await;
    for _ in 0..60 {
        both.now += TimeDelta::milliseconds(random.random_range(1..3_000));
        both.operate(&mut random).await;
        both.compare(seed).await;
    }
    // What is left is cancelled, for the next seed's sake.
    let runs: Vec<RunKey> = both.db.runs.keys().copied().collect();
    for run in runs {
        both.cancel(run).await;
    }
    both.take_over(0).await;
    for place in [0, 1, 2, 0] {
        both.step(&mut random, place, true).await;
        both.compare(seed).await;
    }
    let held: Vec<TaskRunKey> = both.db.task_keys().filter(|key| !both.db.task(*key).state.is_final()).collect();
    assert!(held.is_empty(), "seed {seed}: {held:?} are left");
    both.done.len()
}

impl<'a> Both<'a> {
    async fn begin(house: &'a mut House, seed: u64, random: &mut StdRng) -> Self {
        let now = instant();
        let mut both = Self {
            house,
            db: Database::new(now, None),
            drawn: Vec::new(),
            dag_of: BTreeMap::new(),
            now,
            workers: Vec::new(),
            done: Vec::new(),
        };
        for at in 0..random.random_range(1..=2) {
            let drawn = Drawn::draw(random, &format!("s{seed}_{at}"), 10);
            for place in 0..random.random_range(1..=2) {
                let logical_date = now + TimeDelta::days(place);
                let run_id = format!("manual__{place}").parse().unwrap();
                let new = NewRun { run_id, logical_date, ..new_run(&drawn.dag, &drawn.text) };
                let run = both.house.store.create_run(&new, now).await.unwrap();
                both.db.create_run(run.key, &drawn.dag, now);
                both.dag_of.insert(run.key, at);
            }
            both.drawn.push(drawn);
        }
        both
    }

    async fn register(&mut self) -> Pair {
        let sign = self.house.store.register_worker("here", 1, self.now).await.unwrap();
        self.db.workers.insert(sign.worker, Worker { is_locked: true, seen_at: self.db.clock });
        let (real, model) = (self.house.store.stepper(), stepper::Stepper::default());
        Pair { sign, real, model, held: Vec::new(), said: Vec::new() }
    }

    async fn operate(&mut self, random: &mut StdRng) {
        let place = random.random_range(0..self.workers.len());
        let runs: Vec<RunKey> = self.db.runs.keys().copied().collect();
        let run = pick(random, &runs);
        match random.random_range(0..100) {
            0..70 => self.step(random, place, false).await,
            70..74 => self.kill(place).await,
            74..79 => self.take_over(place).await,
            79..83 => self.expire(place).await,
            83..86 => {
                self.done.push(format!("worker {place} knows nothing any more"));
                self.workers[place].real = self.house.store.stepper();
                self.workers[place].model = stepper::Stepper::default();
            }
            86..88 => self.cancel(run).await,
            88..93 => self.renew(place).await,
            _ => self.take_a_hand(random, run).await,
        }
    }

    /// Some of what the worker holds ends, some of it twice, and it claims.
    async fn step(&mut self, random: &mut StdRng, place: usize, all: bool) {
        let mut batches: BTreeMap<RunKey, Vec<EndedAttempt>> = BTreeMap::new();
        for (key, fence, tries) in std::mem::take(&mut self.workers[place].held) {
            if !all && chance(random, 40) {
                self.workers[place].held.push((key, fence, tries));
                continue;
            }
            let drawn = &self.drawn[self.dag_of[&key.run]];
            let found = self.db.find(key);
            // Of an instance that was cleared away its worker may say anything.
            let is_gone = found.is_none() && drawn.dag.task(key.task).is_none();
            let instance_of = found.and_then(|task| task.instance_of);
            let fates = if is_gone { &[Ending::Succeeded][..] } else { drawn.fates_of(key.task, instance_of) };
            let fate = fates.get(usize::try_from(tries).unwrap_or(0)).or(fates.last()).unwrap().clone();
            let is_running = found.is_some_and(|task| task.state == pinsched::domain::task_state::TaskState::Running);
            let expands = instance_of.is_none() && drawn.dag.task(key.task).is_some_and(|task| task.mapping.is_some());
            let ending = match random.random_range(0..20) {
                _ if all => Ending::Cancelled,
                0 => Ending::Interrupted,
                1 => Ending::Lost,
                2 if is_running && !expands => {
                    self.workers[place].held.push((key, fence, tries));
                    Ending::Deferred
                }
                _ => fate,
            };
            let ended = EndedAttempt { task: key.task, fence, ending, output: None, error: None };
            if ended.ending != Ending::Deferred {
                self.workers[place].said.push((key.run, ended.clone()));
            }
            batches.entry(key.run).or_default().push(ended);
        }
        if let Some((run, ended)) = self.workers[place].said.first().cloned().filter(|_| chance(random, 15)) {
            let batch = batches.entry(run).or_default();
            if batch.iter().all(|other| other.task != ended.task) {
                batch.push(ended); // it was said before
            }
        }
        let sweeps: Vec<RunKey> =
            self.db.runs.iter().filter(|(_, run)| run.cancel_requested).map(|(run, _)| *run).collect();
        for run in sweeps {
            batches.entry(run).or_default();
        }
        let slots = if all { 0 } else { random.random_range(0..5) };
        let looks = random.random_bool(0.5);
        let batches = batches.into_iter().map(|(run, ended)| Batch { run, ended }).collect();
        self.step_both(place, batches, slots, looks).await;
    }

    async fn step_both(&mut self, place: usize, batches: Vec<Batch>, slots: u32, looks: bool) {
        let look = if looks { "looks, " } else { "" };
        self.done.push(format!("worker {place} {look}claims {slots} and says {batches:?}"));
        let dags: Vec<_> = batches.iter().map(|batch| Arc::clone(&self.drawn[self.dag_of[&batch.run]].dag)).collect();
        let of_run = |(batch, dag): (&Batch, &'_ Arc<pinsched::domain::dag::Dag>)| {
            (batch.run, Arc::clone(dag), batch.ended.clone())
        };
        let parts: Vec<_> = batches.iter().zip(&dags).map(of_run).collect();
        let real_batches =
            parts.iter().map(|(run, dag, ended)| RunBatch { run: *run, dag, ended: ended.clone() }).collect();
        let pair = &mut self.workers[place];
        let worker = pair.sign.worker;
        let claim = (slots > 0).then_some(Claim { worker, slots, of: ClaimOf::AnyUnowned, looks });
        let real = pair.real.step(&Step { batches: real_batches, claim }, self.now).await.unwrap();
        let stepping = Stepping::new(batches, worker, slots as usize, looks, self.now);
        let model = step_alone(&mut pair.model, &mut self.db, stepping);
        assert_eq!(told(&real), told(&model), "{}", self.done.join("\n"));
        for claimed in &real.claimed {
            let tries = claimed.try_number - self.db.task(claimed.task_run).first_try;
            pair.held.push((claimed.task_run, claimed.fence, tries));
        }
    }

    /// The worker dies, Postgres notices, and another takes its place.
    async fn kill(&mut self, place: usize) {
        let new = self.register().await;
        let dead = std::mem::replace(&mut self.workers[place], new).sign;
        let id = dead.worker;
        self.done.push(format!("worker {place} is killed"));
        drop(dead);
        let noticed = async {
            let mut look = tokio::time::interval(Duration::from_millis(10));
            while self.house.store.is_alive(id).await.unwrap() {
                look.tick().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), noticed).await.expect("Postgres notices within 30 s");
        self.db.workers.get_mut(&id).unwrap().is_locked = false;
    }

    /// Both name the same orphans, and the worker hands them back.
    async fn take_over(&mut self, place: usize) {
        let real = self.house.store.orphans(ClaimOf::AnyUnowned, &[]).await.unwrap();
        let real: Vec<_> = real.iter().map(|one| (one.task_run, one.fence, one.worker, one.lease_expired)).collect();
        assert_eq!(real, self.db.orphans(&[]), "{}", self.done.join("\n"));
        let mut batches: BTreeMap<RunKey, Vec<EndedAttempt>> = BTreeMap::new();
        for (key, fence, ..) in real {
            let ended = EndedAttempt { task: key.task, fence, ending: Ending::Lost, output: None, error: None };
            batches.entry(key.run).or_default().push(ended);
        }
        let batches = batches.into_iter().map(|(run, ended)| Batch { run, ended }).collect();
        self.step_both(place, batches, 1, true).await;
    }

    /// The worker's leases end, and whoever looks says so; it goes on all the same, as one that hung.
    async fn expire(&mut self, place: usize) {
        let worker = self.workers[place].sign.worker;
        self.done.push(format!("the leases of worker {place} end"));
        let past = "UPDATE task_run SET lease_until = clock_timestamp() - interval '1 ms' WHERE state = 'running' AND worker_id";
        self.house.execute(&format!("{past} = {}", worker.0)).await;
        let keys: Vec<TaskRunKey> =
            self.db.task_keys().filter(|key| self.db.task(*key).worker == Some(worker)).collect();
        for key in keys {
            let task = self.db.runs.get_mut(&key.run).unwrap().tasks.get_mut(&key.task).unwrap();
            task.lease_until = task.lease_until.map(|_| self.db.clock - TimeDelta::milliseconds(1));
        }
        self.take_over((place + 1) % self.workers.len()).await;
    }

    async fn renew(&mut self, place: usize) {
        self.done.push(format!("worker {place} renews its leases"));
        let worker = self.workers[place].sign.worker;
        let mut real = self.house.store.renew_leases(worker).await.unwrap();
        real.sort_unstable();
        assert_eq!(real, self.db.renew(worker), "{}", self.done.join("\n"));
    }

    async fn cancel(&mut self, run: RunKey) {
        self.done.push(format!("run {} is to be cancelled", run.0));
        self.house.store.request_cancel(run, self.now).await.unwrap();
        self.db.request_cancel(run);
    }

    async fn take_a_hand(&mut self, random: &mut StdRng, run: RunKey) {
        let action = pick(random, &[Action::Clear, Action::Clear, Action::MarkSuccess, Action::MarkFailed]);
        let dag = Arc::clone(&self.drawn[self.dag_of[&run]].dag);
        let all: Vec<TaskIndex> = self.db.runs[&run].tasks.keys().copied().collect();
        let tasks = [pick(random, &all)];
        let reach =
            Reach { upstream: chance(random, 20), downstream: chance(random, 60), only_failed: chance(random, 20) };
        self.done.push(format!("run {}: {action:?} of {tasks:?} with {reach:?}", run.0));
        let request = Request { action, tasks: &tasks, reach, words: "by a test" };
        self.house.store.change_tasks(run, &dag, request, Mode::Do, self.now).await.unwrap();
        self.db.change_tasks(run, action, &tasks, reach, self.now);
    }

    async fn compare(&mut self, seed: u64) {
        for run in self.db.runs.keys().copied().collect::<Vec<_>>() {
            let (real, model) = (self.real_picture(run).await, model_picture(&self.db, run));
            assert_eq!(
                real,
                model,
                "seed {seed}, after:\n{}\n{}",
                self.done.join("\n"),
                self.drawn[self.dag_of[&run]].text
            );
        }
    }

    async fn real_picture(&mut self, run: RunKey) -> Vec<String> {
        let query = format!(
            "SELECT concat_ws(' ', 'run', version, state, tasks_unfinished, leaves_failed, clears,
                              cancel_requested_at IS NOT NULL) AS line
             FROM run WHERE id = {run}
             UNION ALL
             (SELECT concat_ws(' ', task_index, state, 'fence', fence, 'try', try_number, first_try, 'lost', lost,
                               'worker', COALESCE(worker_id, 0), 'ready',
                               COALESCE((extract(epoch FROM ready_at) * 1000000)::bigint, 0), 'counts',
                               upstream_unfinished, upstream_success, upstream_failed, upstream_upstream_failed,
                               upstream_skipped, upstream_setups_succeeded, upstream_setups_skipped,
                               (SELECT string_agg(concat_ws(' ', fence, event, from_state, to_state), ',' ORDER BY id)
                                FROM transition AS h WHERE h.run_key = t.run_key AND h.task_index = t.task_index),
                               (SELECT string_agg(concat_ws(' ', fence, try_number, COALESCE(outcome, 'open')), ','
                                                  ORDER BY fence)
                                FROM attempt AS a WHERE a.run_key = t.run_key AND a.task_index = t.task_index))
              FROM task_run AS t WHERE run_key = {run} ORDER BY task_index)",
            run = run.0
        );
        let rows = self.house.sql.fetch_all(AssertSqlSafe(query)).await.unwrap();
        rows.iter().map(|row| row.get::<String, _>(0)).collect()
    }
}

fn model_picture(db: &Database, key: RunKey) -> Vec<String> {
    let run = &db.runs[&key];
    let flag = if run.cancel_requested { "t" } else { "f" };
    let first = format!(
        "run {} {} {} {} {} {flag}",
        run.version, run.state, run.tasks_unfinished, run.leaves_failed, run.clears
    );
    let tasks = run.tasks.iter().map(|(index, task)| {
        let place = index.0;
        let counts = task.upstream;
        let history =
            task.history.iter().map(|told| format!("{} {} {} {}", told.fence, told.event, told.from, told.to));
        let attempts = task.attempts.iter().map(|attempt| {
            format!(
                "{} {} {}",
                attempt.fence,
                attempt.try_number,
                attempt.outcome.map_or("open", |outcome| outcome.as_str())
            )
        });
        let (history, attempts) = (history.collect::<Vec<_>>().join(","), attempts.collect::<Vec<_>>().join(","));
        let parts: Vec<String> = [
            format!(
                "{place} {} fence {} try {} {} lost {}",
                task.state, task.fence, task.try_number, task.first_try, task.lost
            ),
            format!("worker {}", task.worker.unwrap_or(WorkerId(0)).0),
            format!("ready {}", task.ready_at.map_or(0, |at| at.timestamp_micros())),
            format!(
                "counts {} {} {} {} {} {} {}",
                counts.unfinished,
                counts.success,
                counts.failed,
                counts.upstream_failed,
                counts.skipped,
                counts.setups_succeeded,
                counts.setups_skipped
            ),
            history,
            attempts,
        ]
        .into_iter()
        .filter(|part| !part.is_empty())
        .collect();
        parts.join(" ")
    });
    std::iter::once(first).chain(tasks).collect()
}

/// What a step said, in a form that can be compared: the order within a kind is nobody's promise.
fn told(stepped: &Stepped) -> BTreeMap<&'static str, BTreeSet<String>> {
    let set = |words: Vec<String>| words.into_iter().collect();
    BTreeMap::from([
        ("claimed", set(stepped.claimed.iter().map(|one| format!("{one:?}")).collect())),
        ("moves", set(stepped.moves.iter().map(|one| format!("{one:?}")).collect())),
        ("concluded", set(stepped.concluded.iter().map(|one| format!("{one:?}")).collect())),
        ("stale", set(stepped.stale.iter().map(|one| format!("{one:?}")).collect())),
        ("ended before", set(stepped.ended_before.iter().map(|one| format!("{one:?}")).collect())),
    ])
}
