//! Pools and limits hold, whoever claims; what they keep back stands in nobody's way; and `why` says the same as the claim.

use std::collections::BTreeMap;

use pinsched::clock;
use pinsched::domain::dag::Dag;
use pinsched::domain::ids::TaskRunKey;
use pinsched::domain::plan::Ending;
use pinsched::domain::run_state::RunState;
use pinsched::domain::task_state::TaskState;
use pinsched::store::{Claim, ClaimOf, Claimed, EndedAttempt, NewRun, Run, RunBatch, SignOfLife, Step, Stepper, Store};

use super::Served;
use crate::dags::{House, dag, new_run};

async fn claim(stepper: &mut Stepper, worker: &SignOfLife, slots: u32) -> Vec<Claimed> {
    let claim = Some(Claim { worker: worker.worker, slots, of: ClaimOf::AnyUnowned, looks: true });
    stepper.step(&Step { batches: Vec::new(), claim }, clock::now()).await.unwrap().claimed
}

async fn worker(store: &Store) -> SignOfLife {
    store.register_worker("here", 1, clock::now()).await.unwrap()
}

fn fan(count: usize, keys: &str, dag_keys: &str) -> String {
    let tasks: String = (0..count).map(|n| format!("    t{n}: {{operator: script{keys}}}\n")).collect();
    format!("orders:\n  max_active_runs: 100\n{dag_keys}  tasks:\n{tasks}")
}

/// A run of each of two days, the earlier one first.
async fn two_days(house: &House, dag: &Dag, text: &str) -> Vec<Run> {
    let mut runs = Vec::new();
    for day in 1..=2 {
        let logical_date = format!("2026-03-0{day}T00:00:00Z").parse().unwrap();
        let new = NewRun { run_id: format!("manual__{day}").parse().unwrap(), logical_date, ..new_run(dag, text) };
        runs.push(house.store.create_run(&new, clock::now()).await.unwrap());
    }
    runs
}

#[tokio::test]
async fn pools_hold_under_many_claimers_at_once() {
    let house = House::open().await;
    house.store.set_pool("small", 7, None).await.unwrap();
    let play = house.play(&fan(60, ", pool: small, pool_slots: 2", "")).await;
    let mut claimers = tokio::task::JoinSet::new();
    for _ in 0..6 {
        let store = house.store.clone();
        claimers.spawn(async move {
            let worker = worker(&store).await;
            claim(&mut store.stepper(), &worker, 10).await.len()
        });
    }
    let claimed: usize = claimers.join_all().await.into_iter().sum();
    assert_eq!(claimed, 3, "three times two slots of seven");
    let running = house.store.task_runs(play.run.key).await.unwrap();
    assert_eq!(running.iter().filter(|task| task.state == TaskState::Running).count(), 3);
}

#[tokio::test]
async fn a_dags_limit_and_a_tasks_own_hold_over_all_of_its_runs() {
    let house = House::open().await;
    let text = "orders:
  max_active_runs: 100
  max_active_tasks: 4
  tasks:
    single: {operator: script, max_active_tis_per_dag: 1}
    one: {operator: script}
    two: {operator: script}";
    let checked = dag(text);
    for place in 0..5 {
        let (run_id, rerun) = (format!("manual__{place}").parse().unwrap(), place);
        let new = NewRun { run_id, rerun, ..new_run(&checked, text) };
        house.store.create_run(&new, clock::now()).await.unwrap();
    }
    let worker = worker(&house.store).await;
    let claimed = claim(&mut house.store.stepper(), &worker, 50).await;
    let singles = claimed.iter().filter(|claimed| claimed.task_run.task.0 == 0).count();
    assert_eq!((claimed.len(), singles), (4, 1));
}

/// PEERS: one big DAG starves the rest: 500 tasks that a pool keeps back, and two that are ready.
#[tokio::test]
async fn what_a_limit_keeps_back_stands_in_nobodys_way() {
    let house = House::open().await;
    house.store.set_pool("closed", 0, None).await.unwrap();
    house.play(&fan(500, ", pool: closed, priority_weight: 9", "")).await;
    let free = "other: {tasks: {a: {operator: script}, b: {operator: script}}}";
    let play = house.play(free).await;
    let worker = worker(&house.store).await;
    let claimed = claim(&mut house.store.stepper(), &worker, 4).await;
    assert_eq!(claimed.iter().map(|claimed| claimed.task_run.run).collect::<Vec<_>>(), [play.run.key; 2]);
}

/// PEERS: the same without limits: a DAG with a long queue and one with a short one have their shares.
#[tokio::test]
async fn each_dag_has_its_share_of_the_slots() {
    let house = House::open().await;
    house.play(&fan(200, "", "")).await;
    let play = house.play("other: {tasks: {a: {operator: script}, b: {operator: script}}}").await;
    let worker = worker(&house.store).await;
    let claimed = claim(&mut house.store.stepper(), &worker, 8).await;
    let others = claimed.iter().filter(|claimed| claimed.task_run.run == play.run.key).count();
    assert_eq!((claimed.len(), others), (8, 2));
}

#[tokio::test]
async fn a_task_that_depends_on_the_past_waits_for_the_run_before() {
    let house = House::open().await;
    let text = "orders:
  max_active_runs: 100
  tasks:
    one: {operator: script, depends_on_past: true}
    two: {operator: script, dependencies: [one], wait_for_downstream: true}
    three: {operator: script, dependencies: [two]}";
    let checked = dag(text);
    let runs = two_days(&house, &checked, text).await;
    let worker = worker(&house.store).await;
    let mut stepper = house.store.stepper();
    let mut seen: Vec<String> = Vec::new();
    loop {
        let claimed = claim(&mut stepper, &worker, 50).await;
        if claimed.is_empty() {
            break;
        }
        for claimed in claimed {
            let place = runs.iter().position(|run| run.key == claimed.task_run.run).unwrap();
            let name = checked.task(claimed.task_run.task).unwrap().id.to_string();
            let other = runs[place].key;
            seen.push(format!("{}.{name}", place + 1));
            let ended = EndedAttempt {
                task: claimed.task_run.task,
                fence: claimed.fence,
                ending: Ending::Succeeded,
                output: None,
                error: None,
            };
            let batches = vec![RunBatch { run: other, dag: &checked, ended: vec![ended] }];
            stepper.step(&Step { batches, claim: None }, clock::now()).await.unwrap();
        }
    }
    assert_eq!(seen, ["1.one", "1.two", "2.one", "1.three", "2.two", "2.three"]);
}

/// What `why` says of a task is what the claim does with it: a task is claimed exactly when no reason keeps it back.
#[tokio::test]
async fn why_and_the_claim_are_of_one_mind() {
    let house = House::open().await;
    house.store.set_pool("small", 3, None).await.unwrap();
    let text = "orders:
  max_active_tasks: 5
  tasks:
    a: {operator: script, pool: small, pool_slots: 2}
    b: {operator: script, pool: small, pool_slots: 2}
    c: {operator: script, pool: small, pool_slots: 4}
    d: {operator: script, depends_on_past: true}
    e: {operator: script}
    f: {operator: script, dependencies: [e]}";
    let checked = dag(text);
    let runs = two_days(&house, &checked, text).await;
    let worker = worker(&house.store).await;
    let mut stepper = house.store.stepper();
    for round in 0..12 {
        let mut free = BTreeMap::new();
        for run in &runs {
            for task in checked.tasks() {
                let key = TaskRunKey { run: run.key, task: task.index };
                let standing = house.store.standing(key).await.unwrap().unwrap();
                let kept = standing.limits.iter().any(|limit| limit.keeps_back()) || !standing.past_allows;
                free.insert(key, standing.state == TaskState::Queued && !kept);
            }
        }
        let claimed = claim(&mut stepper, &worker, 1).await;
        match claimed.as_slice() {
            [] => assert!(free.values().all(|free| !free), "round {round}: {free:?}"),
            [claimed] => assert!(free[&claimed.task_run], "round {round}: {claimed:?} of {free:?}"),
            more => panic!("one slot, and {more:?}"),
        }
    }
}

#[tokio::test]
async fn a_service_runs_what_its_limits_let_it_and_all_of_it_in_the_end() {
    let text = fan(20, ", pool: narrow, max_active_tis_per_dag: 3", "  max_active_tasks: 3\n");
    let served = Served::by_one(&[("orders.yaml", &text)]).await;
    served.house.store.set_pool("narrow", 2, None).await.unwrap();
    served.dag("orders", |state| state.version.is_some()).await;
    let run = served.trigger(&text, "1").await;
    assert_eq!(served.ended(&run).await, RunState::Success);
    served.stop().await;
}
