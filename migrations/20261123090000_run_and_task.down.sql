-- Takes back the scheduler's whole state: every run is lost.
DROP VIEW pool_free, dag_free;
DROP TABLE import_error, attempt_log, transition, map_item, spill_place, task_output, attempt, task_run, run, backfill, worker, pool, dag, dag_version;
DROP FUNCTION delete_what_runs_left, refuse_step, past_allows;
DROP DOMAIN run_state, run_type, task_state, task_event, attempt_outcome;
