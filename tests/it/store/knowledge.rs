//! What a stepper knows of a run may be old: then nothing is written of it, and it looks again.

use std::sync::Arc;
use std::time::Duration;

use pinsched::clock;
use pinsched::domain::plan::Ending;
use pinsched::domain::run_state::RunState;
use pinsched::domain::task_state::TaskState;
use pinsched::store::{Claim, ClaimOf, EndedAttempt, RunBatch, SignOfLife, Step, Stepped, Stepper};
use secrecy::ExposeSecret;
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection, Row};

use super::{assert_history_is_legal, claim, end_by as end, ended, failed, states, succeeded, worker};
use crate::dags::{House, Play};

/// Ends attempts and claims up to `slots` tasks of the run in one step.
async fn go_on(
    stepper: &mut Stepper,
    play: &Play,
    ended: Vec<EndedAttempt>,
    worker: &SignOfLife,
    slots: u32,
) -> Stepped {
    let batches = if ended.is_empty() { vec![] } else { vec![RunBatch { run: play.run.key, dag: &play.dag, ended }] };
    let claim = Some(Claim { worker: worker.worker, slots, of: ClaimOf::Run(play.run.key), looks: true });
    stepper.step(&Step { batches, claim }, clock::now()).await.unwrap()
}

/// The tasks that one slot takes, each when the one before is over.
async fn order_of_three(house: &House, play: &Play) -> Vec<String> {
    let worker = worker(house).await;
    let mut stepper = house.store.stepper();
    let (mut order, mut done) = (Vec::new(), Vec::new());
    for _ in 0..3 {
        let claimed = go_on(&mut stepper, play, done, &worker, 1).await.claimed;
        order.push(play.dag.task(claimed[0].task_run.task).unwrap().id.to_string());
        done = vec![succeeded(&claimed[0])];
    }
    order
}

#[tokio::test]
async fn a_run_that_another_moved_on_is_planned_anew() {
    let house = House::open().await;
    let play = house
        .play(
            "orders:
  tasks:
    a: {operator: script}
    b: {operator: script}
    c: {operator: script}
    d: {operator: script}
    all: {operator: script, dependencies: [a, b, c, d]}",
        )
        .await;
    let worker = worker(&house).await;
    let claimed = claim(&house.store, &worker, 4).await;
    let (mut one, mut other) = (house.store.stepper(), house.store.stepper());
    end(&mut one, &play, vec![succeeded(&claimed[0])]).await;
    end(&mut other, &play, vec![succeeded(&claimed[1])]).await;
    end(&mut one, &play, vec![succeeded(&claimed[2])]).await;
    let last = end(&mut other, &play, vec![succeeded(&claimed[3])]).await;
    assert_eq!(last.moves.len(), 2, "the last one releases what waited for all four");
    assert_eq!(states(&house.store, play.run.key).await.pop(), Some(TaskState::Queued));
    assert_history_is_legal(&house.store, play.run.key).await;
}

#[tokio::test]
async fn a_cancel_request_reaches_a_stepper_that_knows_the_run() {
    let house = House::open().await;
    let play = house
        .play("orders: {tasks: {first: {operator: script}, flaky: {operator: script, retries: 5}, last: {operator: script, dependencies: [first, flaky]}}}")
        .await;
    let worker = worker(&house).await;
    let claimed = claim(&house.store, &worker, 2).await;
    let mut stepper = house.store.stepper();
    end(&mut stepper, &play, vec![succeeded(&claimed[0])]).await;
    house.store.request_cancel(play.run.key, clock::now()).await.unwrap();
    let last = end(&mut stepper, &play, vec![failed(&claimed[1], true)]).await;
    assert_eq!(last.concluded, [(play.run.key, RunState::Failed)], "no other try, and nothing waits any more");
    assert_history_is_legal(&house.store, play.run.key).await;
}

#[tokio::test]
async fn what_is_claimed_past_the_queue_has_the_same_history() {
    let mut house = House::open().await;
    let play = house
        .play("orders: {tasks: {first: {operator: script}, second: {operator: script, dependencies: [first]}}}")
        .await;
    let worker = worker(&house).await;
    let mut stepper = house.store.stepper();
    let first = go_on(&mut stepper, &play, vec![], &worker, 9).await.claimed;
    let second = go_on(&mut stepper, &play, vec![succeeded(&first[0])], &worker, 9).await.claimed;
    assert_eq!((second.len(), second[0].fence), (1, 1));
    let query = "SELECT task_index, fence, event, from_state, to_state FROM transition ORDER BY id";
    let rows = house.sql.fetch_all(query).await.unwrap();
    let history: Vec<String> = rows
        .iter()
        .map(|row| {
            let words = ["event", "from_state", "to_state"].map(|column| row.get::<String, _>(column));
            format!("{} {} {}", row.get::<i32, _>("task_index"), row.get::<i64, _>("fence"), words.join(" "))
        })
        .collect();
    assert_eq!(
        history,
        [
            "0 0 released none queued",
            "0 1 claimed queued running",
            "0 1 succeeded running success",
            "1 0 released none queued",
            "1 1 claimed queued running",
        ]
    );
    let attempts = house.sql.fetch_all("SELECT task_index FROM attempt WHERE started_at IS NOT NULL").await.unwrap();
    assert_eq!(attempts.len(), 2);
    go_on(&mut stepper, &play, vec![succeeded(&second[0])], &worker, 9).await;
    assert_history_is_legal(&house.store, play.run.key).await;
}

#[tokio::test]
async fn what_a_step_releases_waits_behind_what_waits_with_a_higher_priority() {
    let house = House::open().await;
    let play = house
        .play(
            "orders:
  tasks:
    first: {operator: script, priority_weight: 9}
    waiting: {operator: script, priority_weight: 5}
    after: {operator: script, priority_weight: 1, dependencies: [first]}",
        )
        .await;
    assert_eq!(order_of_three(&house, &play).await, ["first", "waiting", "after"]);
}

/// With two slots the queue is seen to be empty, and then filled by a step that claims nothing.
#[tokio::test]
async fn what_a_step_without_a_claim_releases_is_not_passed_by_the_next_one() {
    let house = House::open().await;
    let play = house
        .play(
            "orders:
  tasks:
    a: {operator: script}
    b: {operator: script}
    urgent: {operator: script, dependencies: [a], priority_weight: 9}
    later: {operator: script, dependencies: [b]}",
        )
        .await;
    let worker = worker(&house).await;
    let mut stepper = house.store.stepper();
    let claimed = go_on(&mut stepper, &play, vec![], &worker, 3).await.claimed;
    end(&mut stepper, &play, vec![succeeded(&claimed[0])]).await;
    let next = go_on(&mut stepper, &play, vec![succeeded(&claimed[1])], &worker, 1).await.claimed;
    assert_eq!(next[0].task_run.task, play.task("urgent"));
}

/// A task that is queued when its last upstream ends is changed by the step that is to claim it.
#[tokio::test]
async fn a_queued_task_whose_counts_a_step_changes_is_claimed_by_it() {
    let house = House::open().await;
    let play = house
        .play(
            "orders:
  tasks:
    a: {operator: script, priority_weight: 9}
    b: {operator: script, priority_weight: 9}
    either: {operator: script, dependencies: [a, b], trigger_rule: one_success}",
        )
        .await;
    let worker = worker(&house).await;
    let mut stepper = house.store.stepper();
    let a = go_on(&mut stepper, &play, vec![], &worker, 1).await.claimed;
    let b = go_on(&mut stepper, &play, vec![succeeded(&a[0])], &worker, 1).await.claimed;
    assert_eq!(b[0].task_run.task, play.task("b"), "it has the higher priority");
    let either = go_on(&mut stepper, &play, vec![succeeded(&b[0])], &worker, 1).await.claimed;
    assert_eq!(either.len(), 1, "it would wait for the next poll");
    assert_history_is_legal(&house.store, play.run.key).await;
}

/// Of two that are ready a stepper with one slot claims each in its turn, though each end releases another.
#[tokio::test]
async fn a_retry_is_not_starved_by_a_chain_that_goes_on() {
    let house = House::open().await;
    let play = house
        .play(
            "orders:
  tasks:
    flaky: {operator: script, retries: 9, retry_delay: 0, priority_weight: 9}
    a: {operator: script}
    b: {operator: script, dependencies: [a]}
    c: {operator: script, dependencies: [b]}",
        )
        .await;
    let worker = worker(&house).await;
    let mut stepper = house.store.stepper();
    let flaky = go_on(&mut stepper, &play, vec![], &worker, 1).await.claimed;
    let mut others = go_on(&mut stepper, &play, vec![], &worker, 1).await.claimed;
    end(&mut stepper, &play, vec![failed(&flaky[0], true)]).await; // its wait is over at once
    let mut turns = 0;
    while others[0].task_run != flaky[0].task_run {
        others = go_on(&mut stepper, &play, vec![succeeded(&others[0])], &worker, 1).await.claimed;
        turns += 1;
    }
    assert!(turns <= 2, "the retry waited for {turns} turns");
}

/// A task is claimed while a sweep that saw it queued waits for its row.
#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_is_claimed_under_a_sweep_is_left_to_its_worker() {
    let mut house = House::open().await;
    let play = Arc::new(house.play("orders: {tasks: {a: {operator: script}, b: {operator: script}}}").await);
    let worker = worker(&house).await;
    let mut claiming = PgConnection::connect(house.url.expose_secret()).await.unwrap();
    let mut claim = claiming.begin().await.unwrap();
    let update = format!(
        "UPDATE task_run SET state = 'running', fence = 1, ready_at = NULL, worker_id = {}, \
                             lease_until = clock_timestamp() + interval '1 hour' \
         WHERE task_index = 0",
        worker.worker.0
    );
    claim.execute(AssertSqlSafe(update)).await.unwrap();
    house.store.request_cancel(play.run.key, clock::now()).await.unwrap();
    let mut sweep = tokio::task::JoinSet::new();
    let (store, swept_play) = (house.store.clone(), Arc::clone(&play));
    sweep.spawn(async move { end(&mut store.stepper(), &swept_play, vec![]).await });
    let waits =
        "SELECT count(*) > 0 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
    let blocked = async {
        while !house.sql.fetch_one(waits).await.unwrap().get::<bool, _>(0) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), blocked).await.expect("the sweep waits for the claim");
    claim.commit().await.unwrap();
    let swept = sweep.join_next().await.unwrap().unwrap();
    assert_eq!(swept.moves.len(), 1, "only what was still queued");
    assert_eq!(states(&house.store, play.run.key).await, [TaskState::Running, TaskState::Failed]);
}

#[tokio::test(flavor = "multi_thread")]
async fn three_workers_on_one_run_take_each_task_once_and_conclude_it_once() {
    let house = House::open().await;
    let mut text = "orders:\n  tasks:".to_owned();
    for n in 0..90 {
        // Layers of nine: each task waits for three of the layer before.
        let parents: Vec<String> = if n < 9 {
            vec![]
        } else {
            [0, 1, 4].iter().map(|step| format!("t{}", (n / 9 - 1) * 9 + (n + step) % 9)).collect()
        };
        text.push_str(&format!("\n    t{n}: {{operator: script, dependencies: [{}]}}", parents.join(", ")));
    }
    let play = Arc::new(house.play(&text).await);
    let mut workers = tokio::task::JoinSet::new();
    for _ in 0..3 {
        let (sign, store, play) = (worker(&house).await, house.store.clone(), Arc::clone(&play));
        workers.spawn(async move {
            let mut stepper = store.stepper();
            let (mut done, mut ended_by_me, mut concluded) = (Vec::new(), 0, 0);
            loop {
                let stepped = go_on(&mut stepper, &play, std::mem::take(&mut done), &sign, 2).await;
                assert!(stepped.stale.is_empty() && stepped.ended_before.is_empty(), "{stepped:?}");
                concluded += stepped.concluded.len();
                done = stepped.claimed.iter().map(|claimed| ended(claimed, Ending::Succeeded)).collect();
                ended_by_me += done.len();
                if done.is_empty() && store.run(play.run.key).await.unwrap().unwrap().state.is_final() {
                    return (ended_by_me, concluded);
                }
            }
        });
    }
    let all = workers.join_all().await;
    let (tasks, concluded) = all.iter().fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
    assert_eq!((tasks, concluded), (90, 1), "{all:?}");
    assert!(states(&house.store, play.run.key).await.iter().all(|state| *state == TaskState::Success));
    assert_history_is_legal(&house.store, play.run.key).await;
}

/// A step that takes the last slot has seen that tasks with limits wait: what the next one releases does not pass them.
#[tokio::test]
async fn what_a_step_releases_does_not_pass_what_waits_with_limits_of_its_own() {
    let house = House::open().await;
    house.store.set_pool("roomy", 9, None).await.unwrap();
    let play = house
        .play(
            "orders:
  tasks:
    first: {operator: script, weight_rule: absolute, priority_weight: 9}
    waiting: {operator: script, weight_rule: absolute, priority_weight: 5, pool: roomy}
    after: {operator: script, weight_rule: absolute, priority_weight: 1, dependencies: [first]}",
        )
        .await;
    assert_eq!(order_of_three(&house, &play).await, ["first", "waiting", "after"]);
}

#[tokio::test]
async fn the_queue_is_looked_at_where_something_was_left_in_it_or_somebody_says_so() {
    let house = House::open().await;
    let play =
        house.play("orders: {tasks: {a: {operator: script}, b: {operator: script}, c: {operator: script}}}").await;
    let worker = worker(&house).await;
    let mut stepper = house.store.stepper();
    let mut step = async |ended: Vec<EndedAttempt>, slots, looks| {
        let batches =
            if ended.is_empty() { vec![] } else { vec![RunBatch { run: play.run.key, dag: &play.dag, ended }] };
        let claim = Some(Claim { worker: worker.worker, slots, of: ClaimOf::AnyUnowned, looks });
        stepper.step(&Step { batches, claim }, clock::now()).await.unwrap().claimed
    };
    let first = step(vec![], 1, true).await;
    let second = step(vec![succeeded(&first[0])], 1, false).await;
    assert_eq!(second.len(), 1, "a full claim may have left some");
    let third = step(vec![], 5, false).await;
    assert_eq!(third.len(), 1);
    let other = house.play("others: {tasks: {x: {operator: script}}}").await;
    assert!(
        step(vec![succeeded(&second[0])], 5, false).await.is_empty(),
        "nothing was left, and nobody said that some came"
    );
    let told = step(vec![succeeded(&third[0])], 5, true).await;
    assert_eq!(told.iter().map(|claimed| claimed.task_run.run).collect::<Vec<_>>(), [other.run.key]);
}
