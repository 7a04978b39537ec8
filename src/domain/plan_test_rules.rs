//! What the tests of `plan` hold it to, told naively: the trigger rules in plain words, and which tasks decide a run.

use std::collections::BTreeSet;

use crate::domain::dag::Dag;
use crate::domain::ids::TaskIndex;
use crate::domain::task_state::TaskState;
use crate::domain::trigger_rule::TriggerRule;

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
