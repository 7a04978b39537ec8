-- Takes back the scheduler's whole state: every run is lost.
DROP TABLE attempt_log, transition, task_output, attempt, task_run, run, worker, dag_version;
DROP FUNCTION delete_what_runs_left, refuse_step;
DROP DOMAIN run_state, run_type, task_state, task_event, attempt_outcome;
