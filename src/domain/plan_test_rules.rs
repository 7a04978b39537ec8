//! What the tests of `plan` hold it to, told naively: the trigger rules in plain words, and which tasks decide a run.

use std::collections::BTreeSet;

use crate::domain::dag::Dag;
use crate::domain::ids::TaskIndex;
use crate::domain::task_state::TaskState;
use crate::domain::trigger_rule::{TriggerRule, UpstreamCounts};

/// An upstream of a task.
pub(super) struct Upstream {
    pub(super) state: TaskState,
    pub(super) is_setup: bool,
    /// The states of its instances, where it is a mapped task that goes on or was ended by them.
    pub(super) instances: Vec<TaskState>,
}

/// The states that a rule looks at, with whether each is a setup's: instances count in the place of their task once it is
/// over, and before that to a rule that waits for one.
pub(super) fn seen_by(rule: TriggerRule, upstream: &[Upstream]) -> Vec<(TaskState, bool)> {
    let looks_ahead = matches!(rule, TriggerRule::OneDone | TriggerRule::OneFailed | TriggerRule::OneSuccess);
    let mut seen = Vec::new();
    for one in upstream {
        let instances = one.instances.iter().map(|state| (*state, one.is_setup));
        match one.state.is_final() && !one.instances.is_empty() {
            true => seen.extend(instances),
            false => {
                seen.push((one.state, one.is_setup));
                seen.extend(instances.filter(|(state, _)| looks_ahead && state.is_final()));
            }
        }
    }
    seen
}

/// How the upstreams stand, counted anew.
pub(super) fn recounted(upstream: &[Upstream]) -> UpstreamCounts {
    let count = |is: &dyn Fn(&Upstream) -> bool| u32::try_from(upstream.iter().filter(|one| is(one)).count()).unwrap();
    let ended: Vec<TaskState> = seen_by(TriggerRule::AllDone, upstream).into_iter().map(|(state, _)| state).collect();
    let ended = |wanted| u32::try_from(ended.iter().filter(|state| **state == wanted).count()).unwrap();
    UpstreamCounts {
        unfinished: count(&|one| !one.state.is_final()),
        success: ended(TaskState::Success),
        failed: ended(TaskState::Failed),
        upstream_failed: ended(TaskState::UpstreamFailed),
        skipped: ended(TaskState::Skipped),
        setups: count(&|one| one.is_setup),
        setups_succeeded: count(&|one| {
            let is_over = one.is_setup && one.state.is_final();
            is_over && (one.state == TaskState::Success || one.instances.contains(&TaskState::Success))
        }),
        setups_skipped: count(&|one| one.is_setup && one.state == TaskState::Skipped),
    }
}

/// The tasks whose failure fails the run, in Airflow's words: teardowns count only if they say so, and are not seen where
/// they do not; if nothing is left, what has nothing after it counts.
pub(super) fn deciding(dag: &Dag) -> BTreeSet<TaskIndex> {
    let is_seen = |index: &TaskIndex| {
        let task = dag.task(*index).unwrap();
        !task.is_teardown || task.on_failure_fail_dagrun
    };
    let all: Vec<TaskIndex> = dag.tasks().iter().map(|task| task.index).collect();
    let seen = all.iter().filter(|index| is_seen(index) && !dag.downstream(**index).iter().any(is_seen));
    let deciding: BTreeSet<TaskIndex> = seen.copied().collect();
    if deciding.is_empty() {
        return all.into_iter().filter(|index| dag.downstream(*index).is_empty()).collect();
    }
    deciding
}

/// The rules in plain words, of the upstreams' states and whether each is a setup.
pub(super) fn is_met(rule: TriggerRule, upstream: &[(TaskState, bool)]) -> bool {
    let all = |test: fn(TaskState) -> bool| upstream.iter().all(|(state, _)| test(*state));
    let any = |test: fn(TaskState) -> bool| upstream.iter().any(|(state, _)| test(*state));
    let ended = all(TaskState::is_final);
    let success = |state: TaskState| state == TaskState::Success;
    let skipped = |state: TaskState| state == TaskState::Skipped;
    let setups = upstream.iter().filter(|(_, setup)| *setup).count();
    if upstream.is_empty() {
        return true;
    }
    match rule {
        TriggerRule::AllSuccess => all(success),
        TriggerRule::AllFailed => all(TaskState::is_failure),
        TriggerRule::AllDone => ended,
        TriggerRule::AllDoneMinOneSuccess => ended && !any(skipped) && any(success),
        TriggerRule::AllSkipped => all(skipped),
        TriggerRule::AllDoneSetupSuccess => {
            ended && (setups == 0 || upstream.iter().any(|(state, setup)| *setup && success(*state)))
        }
        TriggerRule::OneSuccess => any(success),
        TriggerRule::OneFailed => any(TaskState::is_failure),
        TriggerRule::OneDone => any(|state| matches!(state, TaskState::Success | TaskState::Failed)),
        TriggerRule::NoneFailed => ended && !any(TaskState::is_failure),
        TriggerRule::NoneFailedMinOneSuccess => ended && !any(TaskState::is_failure) && any(success),
        TriggerRule::NoneSkipped => ended && !any(skipped),
        TriggerRule::Always => true,
    }
}

/// Whether some way for the unfinished upstreams to end meets the rule.
pub(super) fn may_be_met(rule: TriggerRule, upstream: &mut Vec<(TaskState, bool)>, from: usize) -> bool {
    let Some(open) = (from..upstream.len()).find(|&place| !upstream[place].0.is_final()) else {
        return is_met(rule, upstream);
    };
    let before = upstream[open].0;
    let ends = [TaskState::Success, TaskState::Failed, TaskState::UpstreamFailed, TaskState::Skipped];
    let met = ends.into_iter().any(|end| {
        upstream[open].0 = end;
        may_be_met(rule, upstream, open + 1)
    });
    upstream[open].0 = before;
    met
}
