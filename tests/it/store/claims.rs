//! Claims: exclusive, in order, and each under a fence of its own.

use std::collections::BTreeSet;

use pinsched::clock;
use pinsched::domain::task_state::TaskState;
use pinsched::store::{Claim, ClaimOf, EndedAttempt, RunBatch, Step};

use super::{assert_history_is_legal, claim, end, ended, failed, states, succeeded, worker};
use crate::dags::House;
use pinsched::domain::plan::Ending;

fn fan(tasks: usize) -> String {
    let tasks: Vec<String> = (0..tasks).map(|n| format!("    t{n}: {{operator: script}}")).collect();
    format!("orders:\n  tasks:\n{}", tasks.join("\n"))
}

#[tokio::test(flavor = "multi_thread")]
async fn many_claimers_at_once_get_each_task_once() {
    let house = House::open().await;
    let play = house.play(&fan(200)).await;
    let mut claimers = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let (store, worker) = (house.store.clone(), worker(&house).await);
        claimers.spawn(async move {
            let mut mine = Vec::new();
            loop {
                let claimed = claim(&store, &worker, 7).await;
                assert!(claimed.len() <= 7, "more than was asked for");
                if claimed.is_empty() {
                    return mine;
                }
                mine.extend(claimed);
            }
        });
    }
    let all: Vec<_> = claimers.join_all().await.into_iter().flatten().collect();
    let distinct: BTreeSet<_> = all.iter().map(|claimed| claimed.task_run).collect();
    assert_eq!((all.len(), distinct.len()), (200, 200));
    assert!(all.iter().all(|claimed| claimed.fence == 1 && claimed.try_number == 1));
    assert_history_is_legal(&house.store, play.run.key).await;
}

/// Claims hold tasks and want the run, completions hold the run and want tasks: they must not wait for each other.
#[tokio::test(flavor = "multi_thread")]
async fn claimers_and_completers_of_one_run_do_not_block_each_other() {
    let house = House::open().await;
    let mut text = fan(60);
    for n in 0..60 {
        let upstream = format!("t{}, t{}, t{}", n, (n + 7) % 60, (n + 13) % 60);
        text.push_str(&format!(
            "\n    early{n}: {{operator: script, dependencies: [{upstream}], trigger_rule: always}}\n    \
             late{n}: {{operator: script, dependencies: [early{n}, {upstream}], trigger_rule: one_success}}"
        ));
    }
    let play = std::sync::Arc::new(house.play(&text).await);
    let mut workers = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let (store, worker, play) = (house.store.clone(), worker(&house).await, std::sync::Arc::clone(&play));
        workers.spawn(async move {
            let mut done = 0;
            loop {
                let claimed = claim(&store, &worker, 3).await;
                for claimed in &claimed {
                    let stepped = end(&store, &play, vec![succeeded(claimed)]).await;
                    assert!(stepped.stale.is_empty());
                    done += 1;
                }
                if claimed.is_empty() && store.run(play.run.key).await.unwrap().unwrap().state.is_final() {
                    return done;
                }
            }
        });
    }
    let done: usize = workers.join_all().await.into_iter().sum();
    assert_eq!(done, 180);
    assert_history_is_legal(&house.store, play.run.key).await;
}

#[tokio::test]
async fn higher_priorities_go_first_and_then_who_was_ready_first() {
    let house = House::open().await;
    let play = house
        .play(
            "orders:
  tasks:
    plain: {operator: script}
    urgent: {operator: script, priority_weight: 9}
    late: {operator: script, priority_weight: -2}
    second: {operator: script}",
        )
        .await;
    let worker = worker(&house).await;
    let mut order = Vec::new();
    while let [claimed] = claim(&house.store, &worker, 1).await[..] {
        order.push(play.dag.task(claimed.task_run.task).unwrap().id.to_string());
    }
    assert_eq!(order, ["urgent", "plain", "second", "late"]);
}

#[tokio::test]
async fn a_failed_task_is_claimed_again_when_its_wait_is_over_and_not_before() {
    let house = House::open().await;
    let play = house.play("orders: {tasks: {flaky: {operator: script, retries: 1, retry_delay: 10m}}}").await;
    let worker = worker(&house).await;
    let claimed = claim(&house.store, &worker, 9).await;
    let stepped = end(&house.store, &play, vec![failed(&claimed[0], true)]).await;
    let ready_at = stepped.moves[0].1.ready_at.unwrap();
    let task = house.store.task_runs(play.run.key).await.unwrap().remove(0);
    assert_eq!((task.state, task.ready_at, task.try_number), (TaskState::UpForRetry, Some(ready_at), 2));
    let claim_at = async |now| {
        let claim = Some(Claim { worker: worker.worker, slots: 9, of: ClaimOf::Run(play.run.key), looks: true });
        house.store.stepper().step(&Step { batches: Vec::new(), claim }, now).await.unwrap().claimed
    };
    assert!(claim_at(ready_at - chrono::TimeDelta::microseconds(1)).await.is_empty());
    let again = claim_at(ready_at).await;
    assert_eq!((again[0].fence, again[0].try_number), (2, 2));
    end(&house.store, &play, vec![failed(&again[0], true)]).await;
    assert_eq!(states(&house.store, play.run.key).await, [TaskState::Failed]);
    assert_history_is_legal(&house.store, play.run.key).await;
}

#[tokio::test]
async fn a_claim_keeps_to_the_runs_that_it_names_and_to_those_that_are_not_cancelled() {
    let house = House::open().await;
    let play = house.play(&fan(2)).await;
    let other = house.play(&fan(2).replace("orders", "others")).await;
    let worker = worker(&house).await;
    let only = Claim { worker: worker.worker, slots: 9, of: ClaimOf::Run(other.run.key), looks: true };
    let step = Step { batches: Vec::new(), claim: Some(only) };
    let claimed = house.store.stepper().step(&step, clock::now()).await.unwrap().claimed;
    assert!(claimed.len() == 2 && claimed.iter().all(|claimed| claimed.task_run.run == other.run.key));
    house.store.request_cancel(play.run.key, clock::now()).await.unwrap();
    assert!(claim(&house.store, &worker, 9).await.is_empty());
}

#[tokio::test]
async fn what_a_step_releases_it_also_claims() {
    let house = House::open().await;
    let play = house
        .play("orders: {tasks: {first: {operator: script}, second: {operator: script, dependencies: [first]}}}")
        .await;
    let worker = worker(&house).await;
    let first = claim(&house.store, &worker, 9).await;
    let done = EndedAttempt { ..succeeded(&first[0]) };
    let batches = vec![RunBatch { run: play.run.key, dag: &play.dag, ended: vec![done] }];
    let claim = Some(Claim { worker: worker.worker, slots: 1, of: ClaimOf::Run(play.run.key), looks: true });
    let stepped = house.store.stepper().step(&Step { batches, claim }, clock::now()).await.unwrap();
    assert_eq!(stepped.claimed.len(), 1);
    assert_eq!(states(&house.store, play.run.key).await, [TaskState::Success, TaskState::Running]);
}

#[tokio::test]
async fn a_fence_is_never_used_again_whatever_became_of_its_attempt() {
    let house = House::open().await;
    let play = house.play("orders: {tasks: {only: {operator: script, retries: 9, retry_delay: 0}}}").await;
    let worker = worker(&house).await;
    let mut fences = Vec::new();
    for ending in
        [Ending::Interrupted, Ending::Lost, Ending::Failed { retryable: true, jitter: 0.0 }, Ending::Interrupted]
    {
        let claimed = claim(&house.store, &worker, 1).await;
        fences.push((claimed[0].fence, claimed[0].try_number));
        end(&house.store, &play, vec![ended(&claimed[0], ending)]).await;
    }
    assert_eq!(fences, [(1, 1), (2, 1), (3, 1), (4, 2)]);
    assert_history_is_legal(&house.store, play.run.key).await;
}
