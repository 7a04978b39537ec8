-- Only from a task that is over and did not succeed: one that runs, or may be retried, goes on by itself.
WITH owner AS MATERIALIZED (
    SELECT task.run_key, task.task_index
    FROM task_run AS task
    WHERE task.run_key = $1 AND task.task_id = $2 AND task.state IN ('failed', 'upstream_failed', 'skipped')
    FOR UPDATE
)
UPDATE sink_range AS range
SET end_offset = range.next_offset
FROM owner
WHERE range.run_key = owner.run_key
  AND range.task_index = owner.task_index
  AND range.topic = $3
  AND range.partition = $4
  AND range.end_offset = $5
RETURNING range.next_offset
