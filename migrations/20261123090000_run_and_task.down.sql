-- Takes back the scheduler's whole state: every run is lost.
DROP TABLE attempt_log, transition, task_output, attempt, task_run, run, worker, dag_version;
