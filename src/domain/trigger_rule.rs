//! When a task may run, given how its upstreams ended: every trigger rule of Airflow 3.

use serde::{Deserialize, Serialize};

use crate::domain::task_state::TaskState;

/// Airflow's trigger rules, by their names in a DAG file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TriggerRule {
    /// All upstreams succeeded.
    #[default]
    AllSuccess,
    /// All upstreams failed or are `upstream_failed`.
    AllFailed,
    /// All upstreams ended, however.
    AllDone,
    /// All upstreams ended, none was skipped, and one of them succeeded.
    AllDoneMinOneSuccess,
    /// All upstreams ended, and one of those that are setups succeeded (or there is none).
    AllDoneSetupSuccess,
    /// All upstreams were skipped.
    AllSkipped,
    /// One upstream succeeded; does not wait for the others.
    OneSuccess,
    /// One upstream failed; does not wait for the others.
    OneFailed,
    /// One upstream succeeded or failed; does not wait for the others.
    OneDone,
    /// All upstreams ended, none failed (skips are fine).
    NoneFailed,
    /// All upstreams ended, none failed, and one succeeded.
    NoneFailedMinOneSuccess,
    /// All upstreams ended, none was skipped.
    NoneSkipped,
    /// At once, whatever the upstreams do.
    Always,
}

/// How the upstreams of a task stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct UpstreamCounts {
    /// Not final yet.
    pub unfinished: u32,
    /// Ended in success.
    pub success: u32,
    /// Ended in failed.
    pub failed: u32,
    /// Ended in `upstream_failed`.
    pub upstream_failed: u32,
    /// Ended in skipped.
    pub skipped: u32,
    /// How many of all upstreams are setups.
    pub setups: u32,
    /// How many of the setups ended in success.
    pub setups_succeeded: u32,
    /// How many of the setups were skipped.
    pub setups_skipped: u32,
}

/// What an upstream is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// It prepares what others use.
    Setup,
    /// Anything else.
    Work,
}

impl UpstreamCounts {
    /// Counts one more upstream as ended that was a mapped task: each of its instances counts, as in Airflow. As a setup it is
    /// one, which succeeded if one of its instances did.
    pub fn count_instances(&mut self, instances: Self, role: Role) {
        self.unfinished = self.unfinished.saturating_sub(1);
        self.success += instances.success;
        self.failed += instances.failed;
        self.upstream_failed += instances.upstream_failed;
        self.skipped += instances.skipped;
        if role == Role::Setup {
            let others = instances.success + instances.failed + instances.upstream_failed;
            self.setups_succeeded += u32::from(instances.success > 0);
            self.setups_skipped += u32::from(others == 0);
        }
    }

    /// The same with how the instances of a mapped upstream stand that goes on: what rules see that do not wait for its end.
    #[must_use]
    pub fn with_ended_of(self, instances: Self) -> Self {
        Self {
            success: self.success + instances.success,
            failed: self.failed + instances.failed,
            upstream_failed: self.upstream_failed + instances.upstream_failed,
            ..self
        }
    }

    /// Counts one more upstream as ended in `state`.
    pub fn count(&mut self, state: TaskState, role: Role) {
        self.unfinished = self.unfinished.saturating_sub(1);
        let setup = u32::from(role == Role::Setup);
        match state {
            TaskState::Success => {
                self.success += 1;
                self.setups_succeeded += setup;
            }
            TaskState::Failed => self.failed += 1,
            TaskState::UpstreamFailed => self.upstream_failed += 1,
            TaskState::Skipped => {
                self.skipped += 1;
                self.setups_skipped += setup;
            }
            TaskState::None
            | TaskState::Queued
            | TaskState::Running
            | TaskState::Deferred
            | TaskState::Mapped
            | TaskState::UpForRetry => self.unfinished += 1,
        }
    }
}

/// What the rule says of a task that has not run yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Not decided yet.
    Wait,
    /// The rule is met.
    Run,
    /// The rule cannot be met, and nothing failed that should be shown.
    Skip,
    /// The rule cannot be met because of a failure upstream.
    UpstreamFailed,
}

impl TriggerRule {
    /// Every rule.
    pub const ALL: [Self; 13] = [
        Self::AllSuccess,
        Self::AllFailed,
        Self::AllDone,
        Self::AllDoneMinOneSuccess,
        Self::AllDoneSetupSuccess,
        Self::AllSkipped,
        Self::OneSuccess,
        Self::OneFailed,
        Self::OneDone,
        Self::NoneFailed,
        Self::NoneFailedMinOneSuccess,
        Self::NoneSkipped,
        Self::Always,
    ];

    /// Its name in a DAG file.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::AllSuccess => "all_success",
            Self::AllFailed => "all_failed",
            Self::AllDone => "all_done",
            Self::AllDoneMinOneSuccess => "all_done_min_one_success",
            Self::AllDoneSetupSuccess => "all_done_setup_success",
            Self::AllSkipped => "all_skipped",
            Self::OneSuccess => "one_success",
            Self::OneFailed => "one_failed",
            Self::OneDone => "one_done",
            Self::NoneFailed => "none_failed",
            Self::NoneFailedMinOneSuccess => "none_failed_min_one_success",
            Self::NoneSkipped => "none_skipped",
            Self::Always => "always",
        }
    }

    /// Whether one upstream's end is enough for it: then it looks at the instances of a mapped task that goes on.
    #[must_use]
    pub fn waits_for_one(self) -> bool {
        match self {
            Self::OneSuccess | Self::OneFailed | Self::OneDone => true,
            Self::AllSuccess
            | Self::AllFailed
            | Self::AllDone
            | Self::AllDoneMinOneSuccess
            | Self::AllDoneSetupSuccess
            | Self::AllSkipped
            | Self::NoneFailed
            | Self::NoneFailedMinOneSuccess
            | Self::NoneSkipped
            | Self::Always => false,
        }
    }

    /// Decides from the upstreams' counts, as Airflow 3 does: as early as the answer cannot change any more.
    #[must_use]
    pub fn verdict(self, counts: UpstreamCounts) -> Verdict {
        let failures = counts.failed + counts.upstream_failed;
        let ended = counts.success + failures + counts.skipped;
        let done = counts.unfinished == 0;
        let when = |condition: bool, verdict: Verdict| condition.then_some(verdict);
        let met = |condition: bool| if condition { Verdict::Run } else { Verdict::Wait };
        match self {
            Self::Always => Verdict::Run,
            _ if ended == 0 && done => Verdict::Run, // a root: every rule runs it
            Self::AllSuccess => when(failures > 0, Verdict::UpstreamFailed)
                .or(when(counts.skipped > 0, Verdict::Skip))
                .unwrap_or(met(done)),
            Self::AllFailed => when(counts.success + counts.skipped > 0, Verdict::Skip).unwrap_or(met(done)),
            Self::AllDone => met(done),
            // To this rule a skipped upstream is not done, so it can never be met.
            Self::AllDoneMinOneSuccess => when(counts.skipped > 0, Verdict::Skip)
                .or(when(done && counts.success == 0, Verdict::UpstreamFailed))
                .unwrap_or(met(done)),
            Self::AllDoneSetupSuccess => {
                let has_setups = done && counts.setups > 0;
                when(has_setups && counts.setups_skipped == counts.setups, Verdict::Skip)
                    .or(when(has_setups && counts.setups_succeeded == 0, Verdict::UpstreamFailed))
                    .unwrap_or(met(done))
            }
            Self::AllSkipped => when(counts.success + failures > 0, Verdict::Skip).unwrap_or(met(done)),
            Self::OneSuccess => when(counts.success > 0, Verdict::Run)
                .or(when(done && failures == 0, Verdict::Skip))
                .or(when(done, Verdict::UpstreamFailed))
                .unwrap_or(Verdict::Wait),
            Self::OneFailed => when(failures > 0, Verdict::Run).or(when(done, Verdict::Skip)).unwrap_or(Verdict::Wait),
            Self::OneDone => when(counts.success + counts.failed > 0, Verdict::Run)
                .or(when(done, Verdict::Skip))
                .unwrap_or(Verdict::Wait),
            Self::NoneFailed => when(failures > 0, Verdict::UpstreamFailed).unwrap_or(met(done)),
            Self::NoneFailedMinOneSuccess => when(failures > 0, Verdict::UpstreamFailed)
                .or(when(done && counts.success == 0, Verdict::Skip))
                .unwrap_or(met(done)),
            Self::NoneSkipped => when(counts.skipped > 0, Verdict::Skip).unwrap_or(met(done)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Verdict::{Run, Skip, UpstreamFailed, Wait};

    fn counts(unfinished: u32, success: u32, failed: u32, skipped: u32) -> UpstreamCounts {
        UpstreamCounts { unfinished, success, failed, skipped, ..UpstreamCounts::default() }
    }

    #[test]
    fn each_rule_decides_as_airflow_does() {
        use TriggerRule as R;
        // (unfinished, success, failed, skipped) of the upstreams -> the verdict
        let table = [
            (
                R::AllSuccess,
                [((1, 1, 0, 0), Wait), ((0, 2, 0, 0), Run), ((1, 0, 1, 0), UpstreamFailed), ((1, 0, 0, 1), Skip)],
            ),
            (R::AllFailed, [((1, 0, 1, 0), Wait), ((0, 0, 2, 0), Run), ((1, 1, 0, 0), Skip), ((1, 0, 0, 1), Skip)]),
            (R::AllDone, [((1, 1, 0, 0), Wait), ((0, 0, 2, 0), Run), ((0, 1, 0, 1), Run), ((0, 0, 0, 2), Run)]),
            (
                R::AllDoneMinOneSuccess,
                [((1, 1, 0, 0), Wait), ((0, 1, 1, 0), Run), ((0, 0, 2, 0), UpstreamFailed), ((1, 1, 0, 1), Skip)],
            ),
            (R::AllSkipped, [((1, 0, 0, 1), Wait), ((0, 0, 0, 2), Run), ((1, 1, 0, 0), Skip), ((1, 0, 1, 0), Skip)]),
            (
                R::OneSuccess,
                [((1, 1, 0, 0), Run), ((1, 0, 1, 0), Wait), ((0, 0, 1, 1), UpstreamFailed), ((0, 0, 0, 2), Skip)],
            ),
            (R::OneFailed, [((1, 0, 1, 0), Run), ((1, 1, 0, 0), Wait), ((0, 2, 0, 0), Skip), ((0, 0, 0, 2), Skip)]),
            (R::OneDone, [((1, 0, 1, 0), Run), ((1, 1, 0, 0), Run), ((1, 0, 0, 1), Wait), ((0, 0, 0, 2), Skip)]),
            (
                R::NoneFailed,
                [((1, 1, 0, 0), Wait), ((0, 1, 0, 1), Run), ((1, 0, 1, 0), UpstreamFailed), ((0, 0, 0, 2), Run)],
            ),
            (
                R::NoneFailedMinOneSuccess,
                [((1, 1, 0, 0), Wait), ((0, 1, 0, 1), Run), ((1, 0, 1, 0), UpstreamFailed), ((0, 0, 0, 2), Skip)],
            ),
            (R::NoneSkipped, [((1, 1, 0, 0), Wait), ((0, 1, 1, 0), Run), ((1, 0, 0, 1), Skip), ((0, 0, 2, 0), Run)]),
            (R::Always, [((2, 0, 0, 0), Run), ((0, 0, 2, 0), Run), ((1, 0, 0, 1), Run), ((0, 2, 0, 0), Run)]),
        ];
        for (rule, cases) in table {
            for ((unfinished, success, failed, skipped), expected) in cases {
                let counts = counts(unfinished, success, failed, skipped);
                assert_eq!(rule.verdict(counts), expected, "{rule:?} with {counts:?}");
            }
        }
    }

    #[test]
    fn a_teardown_needs_one_of_its_setups_whatever_became_of_the_rest() {
        let teardown = |endings: &[(TaskState, Role)]| {
            let upstreams = u32::try_from(endings.len()).unwrap();
            let setups = endings.iter().filter(|(_, role)| *role == Role::Setup).count();
            let setups = u32::try_from(setups).unwrap();
            let mut counts = UpstreamCounts { unfinished: upstreams + 1, setups, ..UpstreamCounts::default() };
            endings.iter().for_each(|(state, role)| counts.count(*state, *role));
            assert_eq!(TriggerRule::AllDoneSetupSuccess.verdict(counts), Wait, "one is not done");
            counts.count(TaskState::Success, Role::Work);
            TriggerRule::AllDoneSetupSuccess.verdict(counts)
        };
        let setup = |state| (state, Role::Setup);
        let failed_work = (TaskState::Failed, Role::Work);
        assert_eq!(teardown(&[setup(TaskState::Success), failed_work]), Run);
        assert_eq!(teardown(&[setup(TaskState::Success), setup(TaskState::Failed)]), Run);
        assert_eq!(teardown(&[setup(TaskState::Skipped), failed_work]), Skip, "no setup ran: there is nothing to undo");
        assert_eq!(teardown(&[setup(TaskState::Skipped), setup(TaskState::Failed)]), UpstreamFailed);
        assert_eq!(teardown(&[failed_work]), Run, "there are no setups");
    }

    #[test]
    fn the_instances_of_a_mapped_upstream_count_one_by_one_and_as_one_setup() {
        let mapped = |success, failed, skipped, role| {
            let instances = counts(0, success, failed, skipped);
            let mut seen = UpstreamCounts { setups: u32::from(role == Role::Setup), ..counts(1, 0, 0, 0) };
            seen.count_instances(instances, role);
            seen
        };
        let work = |success, failed, skipped| mapped(success, failed, skipped, Role::Work);
        assert_eq!(TriggerRule::AllSuccess.verdict(work(2, 0, 1)), Skip, "one of its instances was skipped");
        assert_eq!(TriggerRule::NoneSkipped.verdict(work(2, 0, 1)), Skip);
        assert_eq!(TriggerRule::NoneFailed.verdict(work(2, 0, 1)), Run);
        assert_eq!(TriggerRule::AllFailed.verdict(work(1, 1, 0)), Skip, "one of its instances did not fail");
        assert_eq!(TriggerRule::AllFailed.verdict(work(0, 2, 0)), Run);
        assert_eq!(TriggerRule::AllDoneMinOneSuccess.verdict(work(1, 1, 0)), Run);
        let teardown = |success, failed, skipped| {
            TriggerRule::AllDoneSetupSuccess.verdict(mapped(success, failed, skipped, Role::Setup))
        };
        assert_eq!(teardown(1, 1, 1), Run, "there is something to undo");
        assert_eq!(teardown(0, 1, 1), UpstreamFailed);
        assert_eq!(teardown(0, 0, 2), Skip);
    }

    #[test]
    fn what_waits_for_one_sees_instances_before_their_task_is_over() {
        let goes_on = counts(1, 0, 0, 0);
        assert_eq!(TriggerRule::OneFailed.verdict(goes_on.with_ended_of(counts(3, 5, 1, 0))), Run);
        assert_eq!(TriggerRule::OneFailed.verdict(goes_on.with_ended_of(counts(3, 5, 0, 1))), Wait);
        assert_eq!(TriggerRule::OneSuccess.verdict(goes_on.with_ended_of(counts(3, 0, 5, 1))), Wait);
        assert_eq!(TriggerRule::OneDone.verdict(goes_on.with_ended_of(counts(3, 0, 1, 0))), Run);
    }

    #[test]
    fn rules_have_the_names_of_dag_files() {
        for rule in TriggerRule::ALL {
            assert_eq!(serde_json::to_value(rule).unwrap(), rule.as_str());
        }
    }

    #[test]
    fn a_root_runs_under_every_rule() {
        for rule in [TriggerRule::AllFailed, TriggerRule::OneFailed, TriggerRule::OneSuccess, TriggerRule::NoneSkipped]
        {
            assert_eq!(rule.verdict(UpstreamCounts::default()), Run);
        }
    }
}
