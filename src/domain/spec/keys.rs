//! The keys of a DAG and of a task. Each is listed once, here: reading, "did you mean" and the JSON Schema follow.

use schemars::JsonSchema;

use crate::domain::callbacks::Deadline;
use crate::domain::dag::{Catchup, DataIntervals, DstPolicy, Overlap, Schedule, WeightRule};
use crate::domain::diagnostic::{Code, Diagnostic};
use crate::domain::spec::Problems;
use crate::domain::spec::value::{
    CallbackList, Count, DateOrInstant, Dependencies, Expand, ExpandKwargs, FreeMapping, FromNode, Params, Positive,
    Seconds, Spanned, Tags, TaskGroups, Tasks, Zone,
};
use crate::domain::trigger_rule::TriggerRule;
use crate::domain::yaml::Entry;

/// A set of keys.
pub(in crate::domain) trait Keys {
    /// Takes from `defaults` what is not set here.
    fn fill_from(&mut self, defaults: &Self);
}

macro_rules! keys {
    ($(#[$about:meta])+ $name:ident { $($(#[$doc:meta])+ $key:ident $(or $alias:ident)? : $type:ty,)+ }) => {
        $(#[$about])+
        #[derive(Debug, Clone, Default, JsonSchema)]
        pub(in crate::domain) struct $name {
            $($(#[$doc])+ pub(in crate::domain) $key: Option<Spanned<$type>>,)+
        }

        impl $name {
            /// The names of the keys.
            pub(in crate::domain) const KEYS: &'static [&'static str] = &[$(stringify!($key),)+];

            /// Other names of keys, with the name that they stand for.
            pub(in crate::domain) const ALIASES: &'static [(&'static str, &'static str)] =
                &[$($((stringify!($alias), stringify!($key)),)?)+];

            /// Reads an entry if its key is one of these; whether it is.
            pub(in crate::domain) fn take(&mut self, entry: &Entry, problems: &mut Problems<'_>) -> bool {
                let typed = entry.key.text.as_str();
                $(
                    if typed == stringify!($key) $(|| typed == stringify!($alias))? {
                        read_key(&mut self.$key, entry, problems);
                        return true;
                    }
                )+
                false
            }
        }

        impl Keys for $name {
            fn fill_from(&mut self, defaults: &Self) {
                $(
                    if self.$key.is_none() {
                        self.$key.clone_from(&defaults.$key);
                    }
                )+
            }
        }
    };
}

fn read_key<T: FromNode>(place: &mut Option<Spanned<T>>, entry: &Entry, problems: &mut Problems<'_>) {
    if let Some(first) = place {
        let message = format!("`{}` is another name of a key that stands there already", entry.key.text);
        let problem =
            Diagnostic::error(Code::DuplicateKey, entry.key.span, message).related(first.key, "the other one");
        problems.add(problem);
        return;
    }
    let is_absent = entry.value.is_null() && !T::NULL_MEANS_SOMETHING;
    if !is_absent && let Some(value) = T::from_node(&entry.value, &entry.key.text, problems) {
        *place = Some(Spanned { value, span: entry.value.span, key: entry.key.span });
    }
}

keys! {
    /// A DAG: when it runs, and its tasks.
    DagKeys {
        /// The DAG's id once more, as MWAA Serverless wants it; the same as its key in the file.
        dag_id: String,
        /// One line about the DAG.
        description: String,
        /// Markdown about the DAG.
        doc_md: String,
        /// When it runs: cron (5 or 6 fields), `@daily` and the like, a date and time, a list of those, a duration such
        /// as `15m`, or `none`.
        schedule or schedule_interval: Schedule,
        /// The zone in which the schedule and dates are read, as `Europe/London`; UTC unless given.
        timezone: Zone,
        /// What a run is for: `trigger`, its own time (as in Airflow 3); `cron`, the time since the one before, whose date
        /// is then its logical date (as in Airflow 2).
        data_interval: DataIntervals,
        /// No run is for a time before this.
        start_date: DateOrInstant,
        /// No run is for a time after this.
        end_date: DateOrInstant,
        /// What becomes of runs that were missed: `none`, `latest`, `all`, or `{window: 3d, max: 10}`; `true` and
        /// `false` are read as `all` and `none`.
        catchup: Catchup,
        /// What becomes of a run that is due while an earlier one is unfinished: `queue`, `skip` or `cancel_running`.
        overlap: Overlap,
        /// What becomes of local times that a change of the clocks skips (`gap`) or repeats (`overlap`).
        dst: DstPolicy,
        /// How many runs may go on at once.
        max_active_runs: Positive,
        /// How many tasks may run at once, over all runs.
        max_active_tasks or concurrency: Positive,
        /// Whether the DAG is paused when it is first seen.
        is_paused_upon_creation: bool,
        /// A run that takes longer is cancelled, and fails.
        dagrun_timeout or dagrun_timeout_sec: Seconds,
        /// By when a run is to have ended: a duration from its beginning, or `{after: logical_date, within: 30m}`.
        deadline: Deadline,
        /// Who is told when a run has failed.
        on_failure: CallbackList,
        /// Who is told when a run has succeeded.
        on_success: CallbackList,
        /// Who is told when a run has not ended by its deadline.
        on_deadline: CallbackList,
        /// Who looks after it.
        owner: String,
        /// Words to find it by.
        tags: Tags,
        /// Parameters with their defaults; templates see them as `params`.
        params: Params,
        /// Keys that every task has unless it sets them itself.
        default_args: FreeMapping,
        /// The tasks: a mapping keyed by task id, or a list of tasks with `task_id`.
        tasks: Tasks,
        /// The task groups: a mapping keyed by name, or a list of groups with `group_name`.
        task_groups: TaskGroups,
    }
}

keys! {
    /// A task group.
    GroupKeys {
        /// The group's name, in the list form of `task_groups`.
        group_name: String,
        /// A line about the group.
        tooltip: String,
        /// The tasks and groups that all of the group waits for.
        dependencies: Dependencies,
        /// The group that this one is in.
        parent_group_name: String,
        /// Whether the group's name stands before the ids of what is in it, as it does unless this is false.
        prefix_group_id: bool,
        /// Keys that every task of the group has unless it sets them itself.
        default_args: FreeMapping,
    }
}

keys! {
    /// The keys that every task has; the others belong to its operator.
    TaskKeys {
        /// The task's id, in the list form of `tasks`.
        task_id: String,
        /// What the task does: an operator's name, or the path of an Airflow class that has an equivalent.
        operator: String,
        /// The tasks that this one waits for.
        dependencies: Dependencies,
        /// How often it is tried again after a failure.
        retries: Count,
        /// How long to wait before it is tried again.
        retry_delay or retry_delay_sec: Seconds,
        /// Whether each further wait is twice as long.
        retry_exponential_backoff: bool,
        /// The longest wait.
        max_retry_delay: Seconds,
        /// An attempt that takes longer is stopped and fails.
        execution_timeout or execution_timeout_secs: Seconds,
        /// How long after its first attempt began it is to have ended.
        deadline: Seconds,
        /// Who is told when it has failed for good.
        on_failure: CallbackList,
        /// Who is told when it has succeeded.
        on_success: CallbackList,
        /// Who is told when a try has failed and another one follows.
        on_retry: CallbackList,
        /// Who is told when it has not ended by its deadline.
        on_deadline: CallbackList,
        /// Which ends of the tasks before it let it run.
        trigger_rule: TriggerRule,
        /// The pool whose slots it takes.
        pool: String,
        /// How many slots of the pool it takes.
        pool_slots: Positive,
        /// Higher goes first when not all can run.
        priority_weight: i32,
        /// What counts beside a task's own weight: that of all that come after it (`downstream`), of all before it
        /// (`upstream`), or nothing (`absolute`).
        weight_rule: WeightRule,
        /// Whether it waits for its own success in the run before.
        depends_on_past: bool,
        /// Whether it waits for the tasks right after it in the run before.
        wait_for_downstream: bool,
        /// How many of it may run at once, over all runs.
        max_active_tis_per_dag: Positive,
        /// How many of it may run at once in one run: of a mapped task's instances.
        max_active_tis_per_dagrun: Positive,
        /// Keys of the operator with lists of values: the task has an instance for every combination of them.
        expand: Expand,
        /// A list of mappings from keys of the operator to values: the task has an instance for each.
        expand_kwargs: ExpandKwargs,
        /// A template that names an instance for people.
        map_index_template: String,
        /// Whether it prepares what other tasks use.
        setup or is_setup: bool,
        /// Whether it cleans up what setups prepared: it runs when all before it have ended and a setup has succeeded, and
        /// its failure does not fail the run.
        teardown or is_teardown: bool,
        /// The setups that a teardown cleans up after: it waits for them, and they become setups.
        setups: Dependencies,
        /// Whether a teardown's failure fails the run.
        on_failure_fail_dagrun: bool,
        /// The task group that it is in.
        task_group_name or parent_group_name: String,
        /// Markdown about the task.
        doc_md: String,
    }
}
