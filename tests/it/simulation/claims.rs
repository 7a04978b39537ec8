//! What a claim takes, in the model: the queues of several DAGs, the limits of pools, DAGs and tasks, and what the run before
//! keeps back.

use std::collections::BTreeMap;

use pinsched::domain::Timestamp;
use pinsched::domain::dag::Task as DagTask;
use pinsched::domain::ids::{RunKey, TaskRunKey};
use pinsched::domain::task_state::TaskState;
use pinsched::store::WorkerId;

use super::database::{ClaimedRow, Database, Flaw, Queue, Run, Wish};

impl Database {
    pub fn is_limited(&self, key: TaskRunKey) -> bool {
        self.runs[&key.run].dag.is_limited(self.described(key).index)
    }

    fn priority(&self, key: TaskRunKey) -> i32 {
        self.described(key).priority_weight
    }

    /// What is ready, by DAG, in the order in which a DAG's tasks go.
    fn queues(&self, now: Timestamp, is_candidate: impl Fn(TaskRunKey) -> bool) -> Vec<Vec<TaskRunKey>> {
        let mut queues: BTreeMap<String, Vec<TaskRunKey>> = BTreeMap::new();
        for key in self.task_keys() {
            let run = &self.runs[&key.run];
            if self.task(key).is_waiting(now) && !run.cancel_requested && is_candidate(key) {
                queues.entry(run.dag.id().to_string()).or_default().push(key);
            }
        }
        for queue in queues.values_mut() {
            queue.sort_by_key(|key| (-self.priority(*key), self.task(*key).ready_at, *key));
        }
        queues.into_values().collect()
    }

    /// The first `slots` of several DAGs' queues: by priority, a DAG's first before another's second.
    fn fairly(&self, queues: &[Vec<TaskRunKey>], slots: usize) -> Vec<TaskRunKey> {
        let mut all: Vec<_> = queues
            .iter()
            .flat_map(|queue| queue.iter().take(slots).enumerate())
            .map(|(place, key)| (-self.priority(*key), place, self.task(*key).ready_at, *key))
            .collect();
        all.sort_unstable();
        all.into_iter().take(slots).map(|(.., key)| key).collect()
    }

    pub fn choose(&self, wish: Option<Wish>, taken: usize, now: Timestamp) -> Vec<TaskRunKey> {
        let Some(wish) = wish.filter(|wish| wish.queue == Queue::Claimed) else { return Vec::new() };
        let queues = self.queues(now, |key| !self.is_limited(key));
        self.fairly(&queues, wish.slots.saturating_sub(taken))
    }

    /// `claim_limited.sql`, round after round, under the lock of such claims.
    pub fn claim_limited(&mut self, worker: WorkerId, mut slots: usize, now: Timestamp) -> (Vec<ClaimedRow>, bool) {
        let mut claims = Vec::new();
        while slots > 0 {
            let chosen = self.choose_limited(slots, now);
            if chosen.is_empty() {
                return (claims, true);
            }
            slots -= chosen.len();
            for key in chosen {
                let clears = self.runs[&key.run].clears;
                claims.push(self.claim(key, worker, Some(clears)));
            }
        }
        (claims, false)
    }

    fn choose_limited(&self, slots: usize, now: Timestamp) -> Vec<TaskRunKey> {
        let ignores = self.has(Flaw::LimitsNotCounted);
        let is_free = |free: Option<i64>, wanted: i64| ignores || free.is_none_or(|free| free >= wanted);
        let queues = self.queues(now, |key| {
            let task = self.described(key);
            is_free(self.pool_free(key), i64::from(task.pool_slots))
                && is_free(self.task_free(key), 1)
                && is_free(self.dag_free(key), 1)
                && self.past_allows(key)
        });
        let mut within: Vec<Vec<TaskRunKey>> = Vec::new();
        let mut places: BTreeMap<TaskRunKey, usize> = BTreeMap::new();
        for queue in queues {
            let (mut of_task, mut of_dag) = (BTreeMap::<String, i64>::new(), 0);
            let mut kept = Vec::new();
            for (place, key) in queue.into_iter().take(slots).enumerate() {
                places.insert(key, place);
                let id = self.described(key).id.to_string();
                let same = of_task.entry(id).or_default();
                *same += 1;
                if !is_free(self.task_free(key), *same) {
                    continue;
                }
                of_dag += 1;
                if is_free(self.dag_free(key), of_dag) {
                    kept.push(key);
                }
            }
            within.push(kept);
        }
        let mut all: Vec<_> = within
            .into_iter()
            .flatten()
            .map(|key| (-self.priority(key), places[&key], self.task(key).ready_at, key))
            .collect();
        all.sort_unstable();
        let mut of_pool = BTreeMap::<String, i64>::new();
        let fits = |key: &TaskRunKey| {
            let task = self.described(*key);
            let Some(pool) = &task.pool else { return true };
            let sum = of_pool.entry(pool.clone()).or_default();
            *sum += i64::from(task.pool_slots);
            is_free(self.pool_free(*key), *sum)
        };
        all.into_iter().map(|(.., key)| key).filter(fits).take(slots).collect()
    }

    fn running<'a>(&'a self, is_so: impl Fn(&DagTask, &Run) -> bool + 'a) -> impl Iterator<Item = i64> + 'a {
        self.task_keys().filter(|key| self.task(*key).state == TaskState::Running).filter_map(move |key| {
            let run = &self.runs[&key.run];
            let task = self.described(key);
            is_so(task, run).then_some(i64::from(task.pool_slots))
        })
    }

    fn pool_free(&self, key: TaskRunKey) -> Option<i64> {
        let pool = self.described(key).pool.clone()?;
        let slots = i64::from(self.pools[&pool]);
        Some(slots - self.running(|task, _| task.pool.as_deref() == Some(&pool)).sum::<i64>())
    }

    fn task_free(&self, key: TaskRunKey) -> Option<i64> {
        let this = &self.runs[&key.run].dag;
        let described = self.described(key);
        let limit = i64::from(described.max_active_tis_per_dag?);
        let running = self.running(|task, run| run.dag.id() == this.id() && task.index == described.index).count();
        Some(limit - i64::try_from(running).unwrap())
    }

    fn dag_free(&self, key: TaskRunKey) -> Option<i64> {
        let this = &self.runs[&key.run].dag;
        let limit = i64::from(this.settings.max_active_tasks?);
        Some(limit - i64::try_from(self.running(|_, run| run.dag.id() == this.id()).count()).unwrap())
    }

    /// What of the run before keeps that task back; empty where nothing does.
    pub fn kept_back_by(&self, key: TaskRunKey) -> Vec<TaskRunKey> {
        let this = &self.runs[&key.run];
        let Some(task) = this.dag.task(key.task) else { return Vec::new() }; // an instance waits for its task alone
        let before = this.place.checked_sub(1).filter(|_| task.depends_on_past);
        let Some(before) = before else { return Vec::new() };
        let is_before = |(_, run): &(&RunKey, &Run)| run.dag.id() == this.dag.id() && run.place == before;
        let (run, _) = self.runs.iter().find(is_before).expect("the run before");
        let after = this.dag.downstream(key.task).into_iter().filter(|_| task.wait_for_downstream);
        let waited = std::iter::once(key.task).chain(after).map(|task| TaskRunKey { run: *run, task });
        waited.filter(|key| !matches!(self.task(*key).state, TaskState::Success | TaskState::Skipped)).collect()
    }

    fn past_allows(&self, key: TaskRunKey) -> bool {
        self.kept_back_by(key).is_empty()
    }
}
