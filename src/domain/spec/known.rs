//! Keys of Airflow and dag-factory that pinsched knows and does not take: each says why, instead of "unknown key".

/// What becomes of a known key here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::domain) enum KeySupport {
    /// It would change what happens, and cannot: an error, with what to do instead.
    Unsupported(&'static str),
    /// It will come: an error until then.
    NotYet(&'static str),
    /// It makes no difference here: a warning.
    Ignored(&'static str),
    /// It makes no difference when it is off; an error otherwise.
    IgnoredWhenOff(&'static str),
}

use KeySupport::{Ignored, IgnoredWhenOff, NotYet, Unsupported};

/// What to do instead of a callback.
const NO_CALLBACKS: &str =
    "callbacks are Python; `on_failure`, `on_success`, `on_retry` and `on_deadline` tell a webhook, Slack or a mailbox";

/// What becomes of a key of Airflow's `DAG` here.
pub(in crate::domain) fn airflow_dag_key(key: &str) -> Option<KeySupport> {
    Some(match key {
        "default_view" | "orientation" => Ignored("it arranges Airflow's own pages"),
        "render_template_as_native_obj" => Ignored("a value that is one `{{ … }}` always keeps its type"),
        "auto_register" => Ignored("every DAG of a file that is given is there"),
        "dag_display_name" => Ignored("the DAG's id is shown"),
        "template_searchpath" => Unsupported("paths in a task start at the DAG file's folder"),
        "user_defined_macros" | "user_defined_filters" | "jinja_environment_kwargs" | "template_undefined" => {
            Unsupported("templates have Airflow's names and nothing that runs Python")
        }
        "timetable" => {
            Unsupported("use `schedule`: a list of crons, `timezone` and `dst` say most of what timetables do")
        }
        "access_control" => Unsupported("there are no roles per DAG"),
        "fail_fast" | "fail_stop" => IgnoredWhenOff("tasks that do not depend on a failed one go on"),
        "max_consecutive_failed_dag_runs" => IgnoredWhenOff("a DAG is paused by hand"),
        "max_active_tis_per_dagrun" => Unsupported("it is a key of tasks; for all tasks put it under `default_args`"),
        "dag_id_prefix" | "vars" => Unsupported("write the value where it is used, or use `params`"),
        _ => return callback(key),
    })
}

/// What becomes of a key of Airflow's `TaskGroup` here.
pub(in crate::domain) fn airflow_group_key(key: &str) -> Option<KeySupport> {
    Some(match key {
        "ui_color" | "ui_fgcolor" | "group_display_name" | "doc_md" => Ignored("it arranges Airflow's own pages"),
        "add_suffix_on_collision" => IgnoredWhenOff("two groups of one name are a mistake here"),
        "group_id" => Unsupported("a group's name is its key, or its `group_name`"),
        "expand" | "expand_kwargs" | "partial" => NotYet("map each task of the group, or write one group for each"),
        _ => return None,
    })
}

/// What becomes of a key of Airflow's `BaseOperator` here.
pub(in crate::domain) fn airflow_task_key(key: &str) -> Option<KeySupport> {
    Some(match key {
        "task_group" => Unsupported("a task's group is its `task_group_name`"),
        "setup_task" | "teardown_task" => Unsupported("a teardown names its `setups`"),
        "decorator" | "python_callable" | "python_callable_name" | "python_callable_file" => {
            Unsupported("the `python` operator runs a script, a module or a function as a process")
        }
        "email" | "email_on_failure" | "email_on_retry" => IgnoredWhenOff("`on_failure: {email: {to: …}}` sends mail"),
        "sla" | "sla_secs" => Unsupported("`deadline` with `on_deadline` tells of a task that takes too long"),
        "queue" | "executor" | "executor_config" | "run_as_user" | "resources" => {
            Unsupported("every worker takes every task")
        }
        "owner" => Ignored("the DAG's `owner` is shown"),
        "inlets" | "outlets" => Unsupported("assets are not known here"),
        "do_xcom_push" | "multiple_outputs" => Ignored("what a task leaves is always kept, by key"),
        "task_display_name" => Ignored("the task's id is shown"),
        "ignore_first_depends_on_past" => Ignored("a first run never waits for one before it"),
        "wait_for_past_depends_before_skipping" => IgnoredWhenOff("a skip does not wait"),
        "task_concurrency" => Unsupported("Airflow calls it `max_active_tis_per_dag` by now, and so does this"),
        "start_date" | "end_date" => Unsupported("set it on the DAG: tasks have none of their own"),
        "upstream" | "upstream_tasks" | "depends_on" | "needs" | "upstream_task_ids" => {
            Unsupported("the tasks that a task waits for are its `dependencies`")
        }
        "downstream" | "downstream_tasks" | "downstream_task_ids" => {
            Unsupported("write it the other way: the later task names this one in its `dependencies`")
        }
        "fs_conn_id" => Unsupported("a path starts at the DAG file's folder; an absolute one is taken as it is"),
        "params" => Unsupported("params belong to the DAG; every task's templates see them"),
        _ => return callback(key),
    })
}

/// A callback, of Airflow's DAGs or tasks. dag-factory names its function or its file by `…_name` and `…_file`.
fn callback(key: &str) -> Option<KeySupport> {
    const CALLBACKS: [&str; 6] = [
        "on_failure_callback",
        "on_success_callback",
        "on_retry_callback",
        "on_execute_callback",
        "on_skipped_callback",
        "sla_miss_callback",
    ];
    let callback = ["_name", "_file"].iter().find_map(|ending| key.strip_suffix(ending)).unwrap_or(key);
    CALLBACKS.contains(&callback).then_some(Unsupported(NO_CALLBACKS))
}
