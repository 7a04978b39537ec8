//! What must hold, told once more and naively: what holds of a run at every moment, and how its tasks must have ended.

use std::collections::{BTreeMap, BTreeSet};

use pinsched::domain::dag::{Dag, Task as DagTask};
use pinsched::domain::ids::{RunKey, TaskIndex};
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
    for (index, row) in &run.tasks {
        let task = run.described(*index);
        check_task(run, task, *index, row)
            .map_err(|wrong| format!("`{}` (task {}) of run {}: {wrong}", task.id, index.0, key.0))?;
    }
    let unfinished = run.tasks.values().filter(|task| !task.state.is_final()).count();
    must!(
        run.tasks_unfinished as usize == unfinished,
        "run {}: {} are unfinished, and it says {}",
        key.0,
        unfinished,
        run.tasks_unfinished
    );
    let failed = deciding(&run.dag).iter().filter(|index| is_failure(run.tasks[index].state)).count();
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

fn check_task(run: &Run, task: &DagTask, index: TaskIndex, row: &Task) -> Result<(), String> {
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
    check_instances(run, task, index, row)?;
    check_counts(run, task, index, row)?;
    check_attempts(task, row)
}

/// A mapped task goes on as long as one of its instances does, and has some only once it was expanded.
fn check_instances(run: &Run, task: &DagTask, index: TaskIndex, row: &Task) -> Result<(), String> {
    let own: Vec<&Task> = instances_of(run, index);
    let map_indexes: BTreeSet<u32> = own.iter().filter_map(|one| Some(one.instance_of?.1)).collect();
    must!(map_indexes.len() == own.len(), "two instances have one index");
    must!(own.is_empty() || task.mapping.is_some(), "it has instances, and is not mapped");
    let goes_on = own.iter().any(|one| !one.state.is_final());
    must!(row.state != TaskState::Mapped || goes_on, "it is mapped, and none of its instances goes on");
    let was_expanded = row.state == TaskState::Mapped || row.state.is_final();
    must!(own.is_empty() || was_expanded, "it is {}, and has instances", row.state);
    Ok(())
}

fn instances_of(run: &Run, index: TaskIndex) -> Vec<&Task> {
    run.tasks.values().filter(|task| task.instance_of.is_some_and(|(map_of, _)| map_of == index)).collect()
}

/// The end of an upstream, as rules look at it: its own, or in its place those of its instances.
#[derive(Clone)]
struct Seen {
    is_setup: bool,
    is_over: bool,
    states: Vec<TaskState>,
}

/// How the upstreams of a task may be seen. A mapped one that is over may have been ended by its instances, or by a word of
/// somebody's or a cancellation, which count as one.
fn seen(run: &Run, index: TaskIndex, rule: TriggerRule) -> Vec<Vec<Seen>> {
    let waits_for_one = matches!(rule, TriggerRule::OneDone | TriggerRule::OneFailed | TriggerRule::OneSuccess);
    let mut all = vec![Vec::new()];
    for upstream in run.dag.upstream(index).into_iter().filter_map(|index| run.dag.task(index)) {
        let (is_setup, own) = (upstream.is_setup, run.tasks[&upstream.index].state);
        let instances: Vec<TaskState> = instances_of(run, upstream.index).iter().map(|one| one.state).collect();
        let mut ways = vec![vec![own]];
        if own == TaskState::Mapped && waits_for_one {
            ways[0].extend(instances.iter().filter(|state| state.is_final()));
        } else if own.is_final() && !instances.is_empty() && instances.iter().all(|state| state.is_final()) {
            ways.push(instances);
        }
        let one = |states| Seen { is_setup, is_over: own.is_final(), states };
        all = all
            .into_iter()
            .flat_map(|before: Vec<Seen>| {
                ways.iter().map(move |states| before.iter().cloned().chain([one(states.clone())]).collect())
            })
            .collect();
    }
    all
}

fn states_of(seen: &[Seen]) -> Vec<(TaskState, bool)> {
    seen.iter().flat_map(|one| one.states.iter().map(|state| (*state, one.is_setup))).collect()
}

fn counts_of(seen: &[Seen]) -> [usize; 7] {
    let states = || seen.iter().filter(|one| one.is_over).flat_map(|one| &one.states);
    let ended = |wanted: TaskState| states().filter(|state| **state == wanted).count();
    let setups = |is: &dyn Fn(&Seen) -> bool| seen.iter().filter(|one| one.is_setup && one.is_over && is(one)).count();
    [
        seen.iter().filter(|one| !one.is_over).count(),
        ended(TaskState::Success),
        ended(TaskState::Failed),
        ended(TaskState::UpstreamFailed),
        ended(TaskState::Skipped),
        setups(&|one| one.states.contains(&TaskState::Success)),
        setups(&|one| one.states.iter().all(|state| *state == TaskState::Skipped)),
    ]
}

fn check_counts(run: &Run, task: &DagTask, index: TaskIndex, row: &Task) -> Result<(), String> {
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
    let told = told.map(|count| count as usize);
    let is_mapped = task.mapping.is_some() && row.instance_of.is_none();
    if is_mapped && row.state.is_final() {
        return Ok(()); // it counts nothing any more
    }
    if row.state == TaskState::Mapped {
        let own = instances_of(run, index).into_iter().map(|one| Seen {
            is_setup: false,
            is_over: one.state.is_final(),
            states: vec![one.state],
        });
        let recounted = counts_of(&own.collect::<Vec<_>>());
        must!(told == recounted, "its counts are {told:?}, and its instances are {recounted:?}");
        return Ok(());
    }
    let ways = seen(run, index, task.trigger_rule);
    let mut fitting = ways.iter().filter(|seen| counts_of(seen) == told).peekable();
    let recounted: Vec<[usize; 7]> = ways.iter().map(|seen| counts_of(seen)).collect();
    must!(fitting.peek().is_some(), "its counts are {told:?}, and its upstreams are {recounted:?}");
    if row.state == TaskState::None {
        let waits = fitting.any(|seen| !is_met(task.trigger_rule, &states_of(seen)));
        must!(waits, "it waits, and its upstreams {recounted:?} meet {:?}", task.trigger_rule);
    }
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
        let (dag, task) = (&db.runs[&key.run].dag, db.described(key));
        if let Some(pool) = &task.pool {
            *pools.entry(pool.clone()).or_insert(0) += i64::from(task.pool_slots);
        }
        if let Some(limit) = dag.settings.max_active_tasks {
            dags.entry(dag.id().to_string()).or_insert((0, limit)).0 += 1;
        }
        if let Some(limit) = task.max_active_tis_per_dag {
            tasks.entry((dag.id().to_string(), task.index)).or_insert((0, limit)).0 += 1;
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

/// How a task ends, and how those after it see that.
type End = (TaskState, Vec<TaskState>);

/// A task run that killed too many workers: of an instance with its index.
pub type Killed = BTreeSet<(TaskIndex, Option<u32>)>;

/// How each task of a run may end in which nobody took a hand, whatever crashed: by its fate, the ends of its upstreams,
/// and what skips it. `killed` are those that killed too many workers.
pub fn possible_ends(drawn: &Drawn, killed: &Killed) -> Vec<BTreeSet<TaskState>> {
    let mut ends: Vec<BTreeSet<End>> = Vec::new();
    for task in drawn.dag.tasks() {
        let upstream: Vec<TaskIndex> = drawn.dag.upstream(task.index);
        let mut possible = BTreeSet::new();
        for states in combinations(&drawn.dag, &upstream, &ends) {
            if is_met(task.trigger_rule, &states) {
                possible.insert(own_end(drawn, task, killed));
            } else {
                possible.extend(given_up(task.trigger_rule, &states).into_iter().map(|state| (state, vec![state])));
            }
        }
        for skipper in drawn.dag.tasks().iter().take(task.index.as_usize()) {
            let succeeds = &ends[skipper.index.as_usize()];
            let may_succeed = succeeds.iter().any(|(state, _)| *state == TaskState::Success);
            if !may_succeed || !is_skipped_by(drawn, task.index, skipper.index) {
                continue;
            }
            let starts_early = matches!(
                task.trigger_rule,
                TriggerRule::Always | TriggerRule::OneSuccess | TriggerRule::OneFailed | TriggerRule::OneDone
            );
            if succeeds.len() == 1 && upstream.contains(&skipper.index) && !starts_early {
                possible.retain(|(state, _)| *state == TaskState::UpstreamFailed); // it may have been given up before
            }
            possible.insert((TaskState::Skipped, vec![TaskState::Skipped]));
        }
        ends.push(possible);
    }
    ends.into_iter().map(|ends| ends.into_iter().map(|(state, _)| state).collect()).collect()
}

fn combinations(dag: &Dag, upstream: &[TaskIndex], ends: &[BTreeSet<End>]) -> Vec<Vec<(TaskState, bool)>> {
    let mut all = vec![Vec::new()];
    for index in upstream {
        let is_setup = dag.task(*index).expect("a task").is_setup;
        let ways = &ends[index.as_usize()];
        all = all
            .into_iter()
            .flat_map(|one: Vec<(TaskState, bool)>| {
                ways.iter().map(move |(_, states)| {
                    one.iter().copied().chain(states.iter().map(|state| (*state, is_setup))).collect()
                })
            })
            .collect();
    }
    all
}

/// The try that decides what becomes of a task that runs.
fn last_try(fates: &[Ending]) -> &Ending {
    let passes = |fate: &&Ending| !matches!(fate, Ending::Failed { retryable: true, .. });
    fates.iter().find(passes).unwrap_or_else(|| fates.last().expect("a task has a try"))
}

fn own_end(drawn: &Drawn, task: &DagTask, killed: &Killed) -> End {
    let of = |fates: &[Ending], map_index: Option<u32>| match last_try(fates) {
        _ if killed.contains(&(task.index, map_index)) => TaskState::Failed,
        Ending::Succeeded | Ending::Chose(_) => TaskState::Success,
        Ending::Skipped => TaskState::Skipped,
        Ending::Failed { .. } | Ending::Cancelled | Ending::Interrupted | Ending::Lost | Ending::Deferred => {
            TaskState::Failed
        }
        Ending::Expanded(_) => TaskState::Mapped,
    };
    let fates = &drawn.fates[task.index.as_usize()];
    let (own, Ending::Expanded(expansion)) = (of(fates, None), last_try(fates)) else {
        let own = of(fates, None);
        return (own, vec![own]);
    };
    if own != TaskState::Mapped {
        return (own, vec![own]);
    }
    let instance = |map_index| of(drawn.fates_of(task.index, Some((task.index, map_index))), Some(map_index));
    let instances: Vec<TaskState> = (0..expansion.count()).map(instance).collect();
    let whole = match () {
        () if instances.contains(&TaskState::Failed) => TaskState::Failed,
        () if instances.contains(&TaskState::Success) => TaskState::Success,
        () => TaskState::Skipped,
    };
    (whole, instances)
}

fn is_skipped_by(drawn: &Drawn, task: TaskIndex, skipper: TaskIndex) -> bool {
    let dag = &drawn.dag;
    let Ending::Chose(skips) = last_try(&drawn.fates[skipper.as_usize()]) else { return false };
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
    let row = &db.runs[&run];
    for &index in cleared {
        let (Some(task), Some(own)) = (row.dag.task(index), row.tasks.get(&index)) else { continue }; // an instance
        let ways = seen(row, index, task.trigger_rule);
        let states: Vec<_> = ways.iter().map(|seen| states_of(seen)).collect();
        let is_ready = matches!(own.state, TaskState::Queued | TaskState::Running);
        must!(
            !is_ready || states.iter().any(|states| is_met(task.trigger_rule, states)),
            "`{}` was cleared and is {}, with {states:?}",
            task.id,
            own.state
        );
    }
    Ok(())
}
