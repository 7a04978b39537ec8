-- Fails a run that nobody can go on with, and all of its tasks that are not over. Attempts that still run show fences that
-- are not held any more.
WITH given_up AS (
    UPDATE run
    SET state = 'failed', finished_at = $3, tasks_unfinished = 0, version = version + 1
    WHERE id = $1 AND state IN ('queued', 'running')
    RETURNING id
), before AS MATERIALIZED (
    SELECT t.run_key, t.task_index, t.state, t.fence
    FROM task_run AS t
    JOIN given_up ON given_up.id = t.run_key
    WHERE t.state NOT IN ('success', 'failed', 'upstream_failed', 'skipped')
    FOR UPDATE OF t
), ended AS (
    UPDATE attempt AS a
    SET finished_at = $3, outcome = 'cancelled', error = $2
    FROM before
    WHERE a.run_key = before.run_key AND a.task_index = before.task_index AND a.finished_at IS NULL
), history AS (
    INSERT INTO transition (run_key, task_index, fence, event, from_state, to_state, at)
    SELECT run_key, task_index, fence, 'cancelled', state, 'failed', $3
    FROM before
    ORDER BY task_index
)
UPDATE task_run AS t
SET state = 'failed', finished_at = $3, error = $2, ready_at = NULL, worker_id = NULL, lease_until = NULL
FROM before
WHERE t.run_key = before.run_key AND t.task_index = before.task_index
