//! What must hold, told once more and naively: what holds of a run at every moment, and how its tasks must have ended.

use std::collections::{BTreeMap, BTreeSet};

use pinsched::domain::dag::{Dag, Task as DagTask};
use pinsched::domain::ids::{RunKey, TaskIndex, TaskRunKey};
use pinsched::domain::plan::{Ending, LOST_LIMIT, Skips};
use pinsched::domain::run_state::RunState;
use pinsched::domain::task_state::{AttemptOutcome, TaskEvent, TaskState};
use pinsched::domain::trigger_rule::TriggerRule;

use super::database::{Database, Run, Task};
use super::drawing::Drawn;

/// Says what is wrong.
macro_rules! must {
    ($holds:expr, $($words:tt)+) => {
        if !$holds {
            return Err(format!($($words)+));
        }
    };
}

/// What holds of a run and its tasks at every moment.
pub fn check_run(db: &Database, key: RunKey) -> Result<(), String> {
    let run = &db.runs[&key];
    for task in run.dag.tasks() {
        let row = &run.tasks[task.index.as_usize()];
        check_task(run, task, row).map_err(|wrong| format!("`{}` of run {}: {wrong}", task.id, key.0))?;
    }
    let unfinished = run.tasks.iter().filter(|task| !task.state.is_final()).count();
    must!(
        run.tasks_unfinished as usize == unfinished,
        "run {}: {} are unfinished, and it says {}",
        key.0,
        unfinished,
        run.tasks_unfinished
    );
    let failed = deciding(&run.dag).iter().filter(|index| is_failure(run.tasks[index.as_usize()].state)).count();
    must!(
        run.leaves_failed as usize == failed,
        "run {}: {failed} leaves failed, and it says {}",
        key.0,
        run.leaves_failed
    );
    let expected = match (unfinished, failed, run.cancel_requested) {
        (0, 0, false) => RunState::Success,
        (0, ..) => RunState::Failed,
        _ => RunState::Running,
    };
    must!(run.state == expected, "run {} is {}, and should be {expected}", key.0, run.state);
    Ok(())
}

fn check_task(run: &Run, task: &DagTask, row: &Task) -> Result<(), String> {
    let (mut state, mut fence) = (TaskState::None, 0);
    for told in &row.history {
        must!(told.from == state, "{} came from {}, and it was {state}", told.event, told.from);
        must!(state.next(told.event) == Ok(told.to), "{} led from {state} to {}", told.event, told.to);
        if told.event == TaskEvent::Claimed {
            must!(told.fence > fence, "fence {} was claimed after {fence}", told.fence);
            fence = told.fence;
        }
        must!(told.fence == fence, "{} was told under fence {}, which is {fence}", told.event, told.fence);
        state = told.to;
    }
    must!(row.state == state, "its history ends at {state}, and it is {}", row.state);
    must!(row.fence == fence, "its fence is {}, and {fence} was claimed last", row.fence);
    must!(
        (row.state == TaskState::Running) == row.lease_until.is_some(),
        "{} with lease {:?}",
        row.state,
        row.lease_until
    );
    must!(row.state.is_held() == row.worker.is_some(), "{} in the hands of {:?}", row.state, row.worker);
    let waits = matches!(row.state, TaskState::Queued | TaskState::UpForRetry);
    must!(waits == row.ready_at.is_some(), "{} and ready at {:?}", row.state, row.ready_at);
    check_counts(run, task, row)?;
    check_attempts(task, row)?;
    if row.state == TaskState::None {
        let states = upstream_states(run, task.index);
        must!(!is_met(task.trigger_rule, &states), "it waits, and {states:?} meet {:?}", task.trigger_rule);
    }
    Ok(())
}

fn check_counts(run: &Run, task: &DagTask, row: &Task) -> Result<(), String> {
    let states = upstream_states(run, task.index);
    let count =
        |is: &dyn Fn(TaskState, bool) -> bool| states.iter().filter(|(state, setup)| is(*state, *setup)).count();
    let counts = row.upstream;
    let told = [
        counts.unfinished,
        counts.success,
        counts.failed,
        counts.upstream_failed,
        counts.skipped,
        counts.setups_succeeded,
        counts.setups_skipped,
    ];
    let recounted = [
        count(&|state, _| !state.is_final()),
        count(&|state, _| state == TaskState::Success),
        count(&|state, _| state == TaskState::Failed),
        count(&|state, _| state == TaskState::UpstreamFailed),
        count(&|state, _| state == TaskState::Skipped),
        count(&|state, setup| setup && state == TaskState::Success),
        count(&|state, setup| setup && state == TaskState::Skipped),
    ];
    must!(
        told.map(|count| count as usize) == recounted,
        "its counts are {told:?}, and its upstreams are {recounted:?}"
    );
    Ok(())
}

fn check_attempts(task: &DagTask, row: &Task) -> Result<(), String> {
    let fences: BTreeSet<i64> = row.attempts.iter().map(|attempt| attempt.fence).collect();
    must!(fences.len() == row.attempts.len(), "two attempts have one fence");
    let open: Vec<i64> = row.attempts.iter().filter(|attempt| attempt.outcome.is_none()).map(|at| at.fence).collect();
    let held: Vec<i64> = row.state.is_held().then_some(row.fence).into_iter().collect();
    must!(open == held, "it is {}, and the attempts {open:?} have no end", row.state);
    let is_current = |try_number: i32| try_number >= row.first_try;
    let succeeded =
        row.attempts.iter().filter(|at| at.outcome == Some(AttemptOutcome::Success) && is_current(at.try_number));
    let succeeded = succeeded.count();
    let last = row.history.last().map(|told| told.event);
    must!(succeeded <= 1, "{succeeded} of its attempts succeeded");
    must!(last != Some(TaskEvent::Succeeded) || succeeded == 1, "it succeeded, and none of its attempts did");
    let counted = row.try_number - row.first_try;
    let retries = i32::try_from(task.retry.retries).unwrap();
    must!((0..=retries).contains(&counted), "try {} of those from {}", row.try_number, row.first_try);
    let since_clear = row.history.iter().rposition(|told| told.event == TaskEvent::Cleared).map_or(0, |at| at + 1);
    let lost = row.history[since_clear..]
        .iter()
        // A task that only waited is not blamed.
        .filter(|told| {
            matches!(told.event, TaskEvent::Lost | TaskEvent::LostForGood) && told.from == TaskState::Running
        })
        .count();
    must!(usize::try_from(row.lost) == Ok(lost), "it was lost {lost} times, and says {}", row.lost);
    must!(row.lost < LOST_LIMIT || row.state.is_final(), "it was lost {lost} times, and goes on");
    Ok(())
}

/// No limit is overrun.
pub fn check_limits(db: &Database) -> Result<(), String> {
    let (mut pools, mut dags, mut tasks) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
    for key in db.task_keys().filter(|key| db.task(*key).state == TaskState::Running) {
        let dag = &db.runs[&key.run].dag;
        let task = dag.task(key.task).expect("a task");
        if let Some(pool) = &task.pool {
            *pools.entry(pool.clone()).or_insert(0) += i64::from(task.pool_slots);
        }
        if let Some(limit) = dag.settings.max_active_tasks {
            dags.entry(dag.id().to_string()).or_insert((0, limit)).0 += 1;
        }
        if let Some(limit) = task.max_active_tis_per_dag {
            tasks.entry((dag.id().to_string(), key.task)).or_insert((0, limit)).0 += 1;
        }
    }
    for (pool, taken) in pools {
        must!(taken <= i64::from(db.pools[&pool]), "{taken} slots of pool `{pool}` are taken");
    }
    for (count, limit) in dags.into_values().chain(tasks.into_values()) {
        must!(count <= limit, "{count} run where {limit} may");
    }
    Ok(())
}

fn is_failure(state: TaskState) -> bool {
    matches!(state, TaskState::Failed | TaskState::UpstreamFailed)
}

fn upstream_states(run: &Run, index: TaskIndex) -> Vec<(TaskState, bool)> {
    let upstream = run.dag.upstream(index).into_iter().filter_map(|index| run.dag.task(index));
    upstream.map(|task| (run.tasks[task.index.as_usize()].state, task.is_setup)).collect()
}

/// The tasks whose failure fails the run: the last ones, where teardowns are seen only if they say that they count; if none
/// is seen, the last ones.
fn deciding(dag: &Dag) -> Vec<TaskIndex> {
    let is_seen =
        |index: &TaskIndex| dag.task(*index).is_some_and(|task| !task.is_teardown || task.on_failure_fail_dagrun);
    let all = || dag.tasks().iter().map(|task| task.index);
    let last: Vec<TaskIndex> =
        all().filter(is_seen).filter(|index| !dag.downstream(*index).iter().any(is_seen)).collect();
    if last.is_empty() { all().filter(|index| dag.downstream(*index).is_empty()).collect() } else { last }
}

/// The rules in plain words, of the upstreams' states and whether each is a setup.
fn is_met(rule: TriggerRule, upstream: &[(TaskState, bool)]) -> bool {
    use TaskState::{Failed, Skipped, Success};
    let all = |is: &dyn Fn(TaskState) -> bool| upstream.iter().all(|(state, _)| is(*state));
    let any = |is: &dyn Fn(TaskState) -> bool| upstream.iter().any(|(state, _)| is(*state));
    let over = all(&TaskState::is_final);
    let (some_success, some_failure, some_skip) =
        (any(&|state| state == Success), any(&is_failure), any(&|state| state == Skipped));
    if upstream.is_empty() {
        return true;
    }
    match rule {
        TriggerRule::Always => true,
        TriggerRule::AllSuccess => all(&|state| state == Success),
        TriggerRule::AllFailed => all(&is_failure),
        TriggerRule::AllSkipped => all(&|state| state == Skipped),
        TriggerRule::AllDone => over,
        TriggerRule::AllDoneMinOneSuccess => over && some_success && !some_skip,
        TriggerRule::AllDoneSetupSuccess => {
            let mut setups = upstream.iter().filter(|(_, setup)| *setup).peekable();
            over && (setups.peek().is_none() || setups.any(|(state, _)| *state == Success))
        }
        TriggerRule::OneSuccess => some_success,
        TriggerRule::OneFailed => some_failure,
        TriggerRule::OneDone => any(&|state| matches!(state, Success | Failed)),
        TriggerRule::NoneFailed => over && !some_failure,
        TriggerRule::NoneFailedMinOneSuccess => over && !some_failure && some_success,
        TriggerRule::NoneSkipped => over && !some_skip,
    }
}

/// How a task may end whose rule these upstreams, all of them over, do not meet: where both a skip and a failure rule it
/// out, whichever came first.
fn given_up(rule: TriggerRule, upstream: &[(TaskState, bool)]) -> Vec<TaskState> {
    use TaskState::{Skipped, UpstreamFailed};
    let some_failure = upstream.iter().any(|(state, _)| is_failure(*state));
    let some_skip = upstream.iter().any(|(state, _)| *state == Skipped);
    let either = |failed: bool| vec![if failed { UpstreamFailed } else { Skipped }];
    match rule {
        TriggerRule::AllSuccess if some_failure && some_skip => vec![Skipped, UpstreamFailed],
        TriggerRule::AllSuccess | TriggerRule::OneSuccess | TriggerRule::NoneFailed => either(some_failure),
        TriggerRule::NoneFailedMinOneSuccess => either(some_failure),
        TriggerRule::AllDoneMinOneSuccess => either(!some_skip),
        TriggerRule::AllDoneSetupSuccess => either(upstream.iter().any(|(state, setup)| *setup && *state != Skipped)),
        TriggerRule::AllFailed
        | TriggerRule::AllSkipped
        | TriggerRule::OneFailed
        | TriggerRule::OneDone
        | TriggerRule::NoneSkipped => vec![Skipped],
        TriggerRule::AllDone | TriggerRule::Always => Vec::new(),
    }
}

/// How each task of a run may end in which nobody took a hand, whatever crashed: by its fate, the ends of its upstreams,
/// and what skips it. `killed` are those that killed too many workers.
pub fn possible_ends(drawn: &Drawn, killed: &BTreeSet<TaskIndex>) -> Vec<BTreeSet<TaskState>> {
    let mut ends: Vec<BTreeSet<TaskState>> = Vec::new();
    for task in drawn.dag.tasks() {
        let upstream: Vec<TaskIndex> = drawn.dag.upstream(task.index);
        let mut possible = BTreeSet::new();
        for states in combinations(&drawn.dag, &upstream, &ends) {
            if is_met(task.trigger_rule, &states) {
                possible.insert(own_end(drawn, task, killed));
            } else {
                possible.extend(given_up(task.trigger_rule, &states));
            }
        }
        for skipper in drawn.dag.tasks().iter().take(task.index.as_usize()) {
            let succeeds = &ends[skipper.index.as_usize()];
            if !succeeds.contains(&TaskState::Success) || !is_skipped_by(drawn, task.index, skipper.index) {
                continue;
            }
            let starts_early = matches!(
                task.trigger_rule,
                TriggerRule::Always | TriggerRule::OneSuccess | TriggerRule::OneFailed | TriggerRule::OneDone
            );
            if succeeds.len() == 1 && upstream.contains(&skipper.index) && !starts_early {
                possible.retain(|state| *state == TaskState::UpstreamFailed); // it may have been given up before
            }
            possible.insert(TaskState::Skipped);
        }
        ends.push(possible);
    }
    ends
}

fn combinations(dag: &Dag, upstream: &[TaskIndex], ends: &[BTreeSet<TaskState>]) -> Vec<Vec<(TaskState, bool)>> {
    let mut all = vec![Vec::new()];
    for index in upstream {
        let is_setup = dag.task(*index).expect("a task").is_setup;
        let states = &ends[index.as_usize()];
        all = all
            .into_iter()
            .flat_map(|one: Vec<(TaskState, bool)>| {
                states.iter().map(move |state| one.iter().copied().chain([(*state, is_setup)]).collect())
            })
            .collect();
    }
    all
}

/// The try that decides what becomes of a task that runs.
fn last_try<'a>(drawn: &'a Drawn, task: &DagTask) -> &'a Ending {
    let fates = &drawn.fates[task.index.as_usize()];
    let passes = |fate: &&Ending| !matches!(fate, Ending::Failed { retryable: true, .. });
    fates.iter().find(passes).unwrap_or_else(|| fates.last().expect("a task has a try"))
}

fn own_end(drawn: &Drawn, task: &DagTask, killed: &BTreeSet<TaskIndex>) -> TaskState {
    match last_try(drawn, task) {
        _ if killed.contains(&task.index) => TaskState::Failed,
        Ending::Succeeded | Ending::Chose(_) => TaskState::Success,
        Ending::Skipped => TaskState::Skipped,
        Ending::Failed { .. } | Ending::Cancelled | Ending::Interrupted | Ending::Lost | Ending::Deferred => {
            TaskState::Failed
        }
        Ending::Expanded(_) => unreachable!("none of the drawn tasks is mapped"),
    }
}

fn is_skipped_by(drawn: &Drawn, task: TaskIndex, skipper: TaskIndex) -> bool {
    let dag = &drawn.dag;
    let Ending::Chose(skips) = last_try(drawn, dag.task(skipper).expect("a task")) else { return false };
    let is_next = dag.upstream(task).contains(&skipper);
    let comes_after = |earlier: TaskIndex| dag.ancestors(task).contains(&earlier);
    let is_teardown = dag.task(task).expect("a task").is_teardown;
    match skips {
        Skips::Next => is_next && !is_teardown,
        Skips::Downstream => comes_after(skipper) && !is_teardown,
        Skips::AllBut(chosen) => is_next && !chosen.iter().any(|one| *one == task || comes_after(*one)),
    }
}

/// What a person's word leaves of the tasks that were meant: each that waits and whose rule is met is ready, and none is
/// ready whose rule is not met by what its upstreams are now.
pub fn check_cleared(db: &Database, run: RunKey, cleared: &BTreeSet<TaskIndex>) -> Result<(), String> {
    for &index in cleared {
        let row = &db.runs[&run];
        let (task, state) = (row.dag.task(index).expect("a task"), db.task(TaskRunKey { run, task: index }).state);
        let states = upstream_states(row, index);
        let is_ready = matches!(state, TaskState::Queued | TaskState::Running);
        must!(
            !is_ready || is_met(task.trigger_rule, &states),
            "`{}` was cleared and is {state}, with {states:?}",
            task.id
        );
    }
    Ok(())
}
