//! The store on a real Postgres: what is written whole, what is guarded, and what the schema itself refuses.

mod claims;
mod control;
mod knowledge;
mod records;
mod runs;
mod schema;
mod steps;
mod workers;

use std::collections::BTreeMap;

use pinsched::clock;
use pinsched::domain::ids::{AttemptKey, RunKey, TaskIndex};
use pinsched::domain::plan::Ending;
use pinsched::domain::task_output::TaskOutput;
use pinsched::domain::task_state::TaskState;
use pinsched::store::{Claim, ClaimOf, Claimed, EndedAttempt, RunBatch, SignOfLife, Step, Stepped, Stepper, Store};

use crate::dags::{House, Play};

async fn worker(house: &House) -> SignOfLife {
    house.store.register_worker("here", 1, clock::now()).await.unwrap()
}

/// Claims up to `slots` ready tasks of any run.
async fn claim(store: &Store, worker: &SignOfLife, slots: u32) -> Vec<Claimed> {
    let claim = Some(Claim { worker: worker.worker, slots, of: ClaimOf::AnyUnowned, looks: true });
    store.stepper().step(&Step { batches: Vec::new(), claim }, clock::now()).await.unwrap().claimed
}

/// Ends attempts of one run in one step.
async fn end(store: &Store, play: &Play, ended: Vec<EndedAttempt>) -> Stepped {
    end_by(&mut store.stepper(), play, ended).await
}

/// The same by a stepper that may know the run.
async fn end_by(stepper: &mut Stepper, play: &Play, ended: Vec<EndedAttempt>) -> Stepped {
    let batches = vec![RunBatch { run: play.run.key, dag: &play.dag, ended }];
    stepper.step(&Step { batches, claim: None }, clock::now()).await.unwrap()
}

fn succeeded(claimed: &Claimed) -> EndedAttempt {
    ended(claimed, Ending::Succeeded)
}

fn failed(claimed: &Claimed, retryable: bool) -> EndedAttempt {
    EndedAttempt {
        error: Some("exit status 1".to_owned()),
        ..ended(claimed, Ending::Failed { retryable, jitter: 0.0 })
    }
}

fn ended(claimed: &Claimed, ending: Ending) -> EndedAttempt {
    let output = (ending == Ending::Succeeded).then(|| TaskOutput::here(serde_json::json!({"fence": claimed.fence})));
    EndedAttempt { task: claimed.task_run.task, fence: claimed.fence, ending, output, error: None }
}

fn key(play: &Play, claimed: &Claimed) -> AttemptKey {
    AttemptKey {
        run_uuid: play.run.uuid,
        task_run: claimed.task_run,
        try_number: claimed.try_number,
        fence: claimed.fence,
    }
}

/// The state of each task, in the DAG's order.
async fn states(store: &Store, run: RunKey) -> Vec<TaskState> {
    store.task_runs(run).await.unwrap().into_iter().map(|task| task.state).collect()
}

/// The history leads by legal steps from nothing to what is stored, and no fence was claimed twice.
async fn assert_history_is_legal(store: &Store, run: RunKey) {
    let mut now: BTreeMap<TaskIndex, TaskState> = BTreeMap::new();
    let mut last_claim: BTreeMap<TaskIndex, i64> = BTreeMap::new();
    for step in store.transitions(run).await.unwrap() {
        let before = now.get(&step.task).copied().unwrap_or(TaskState::None);
        assert_eq!(before, step.from, "task {} had another state before {}", step.task.0, step.event);
        assert_eq!(before.next(step.event), Ok(step.to));
        if step.event.as_str() == "claimed" {
            let last = last_claim.insert(step.task, step.fence).unwrap_or(0);
            assert!(step.fence > last, "fence {} came after {last}", step.fence);
        }
        now.insert(step.task, step.to);
    }
    for task in store.task_runs(run).await.unwrap() {
        let told = now.get(&task.task).copied().unwrap_or(TaskState::None);
        assert_eq!(told, task.state, "the history of `{}` ends elsewhere", task.task_id);
        assert_eq!(last_claim.get(&task.task).copied().unwrap_or(0), task.fence);
    }
}
