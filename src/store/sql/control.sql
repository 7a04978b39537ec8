-- Writes what a person did to tasks of a run: under the run's lock, to rows that were locked as they were read. An attempt
-- that went on is ended here; the next claim's fence is higher than its own.
WITH change AS MATERIALIZED (
    SELECT * FROM unnest($2::int[], $3::text[], $4::text[], $5::text[], $6::text[], $7::bool[], $8::int[], $9::int[],
                         $10::int[], $11::int[], $12::int[], $13::int[], $14::int[])
        AS c (task_index, first_event, second_event, from_state, to_state, runs_anew, unfinished, success, failed,
              upstream_failed, skipped, setups_succeeded, setups_skipped)
), moved AS MATERIALIZED (
    SELECT c.*, t.fence, t.try_number, t.state
    FROM change AS c
    JOIN task_run AS t ON t.run_key = $1 AND t.task_index = c.task_index
    WHERE c.first_event IS NOT NULL
), ended AS (
    UPDATE attempt AS a
    SET finished_at = $15, outcome = 'cancelled', error = $16
    FROM moved
    WHERE a.run_key = $1 AND a.task_index = moved.task_index AND a.fence = moved.fence AND a.finished_at IS NULL
), forgotten AS (
    DELETE FROM task_output AS o
    USING moved
    WHERE o.run_key = $1 AND o.task_index = moved.task_index AND moved.runs_anew
), history AS (
    INSERT INTO transition (run_key, task_index, fence, event, from_state, to_state, at)
    SELECT $1, task_index, fence, event, from_state, to_state, $15
    FROM (
        SELECT task_index, fence, first_event AS event, from_state,
               CASE WHEN second_event IS NULL THEN to_state ELSE 'none' END AS to_state, 0 AS place
        FROM moved
        UNION ALL
        SELECT task_index, fence, second_event, 'none', to_state, 1 FROM moved WHERE second_event IS NOT NULL
    ) AS happened
    ORDER BY place, task_index
)
UPDATE task_run AS t
SET state                     = CASE WHEN c.first_event IS NULL THEN t.state ELSE c.to_state END,
    -- A try that had begun is over; those that follow count anew.
    try_number                = CASE WHEN c.runs_anew AND t.started_at IS NOT NULL THEN t.try_number + 1 ELSE t.try_number END,
    first_try                 = CASE WHEN c.runs_anew AND t.started_at IS NOT NULL THEN t.try_number + 1 ELSE t.first_try END,
    lost                      = CASE WHEN c.runs_anew THEN 0 ELSE t.lost END,
    ready_at                  = CASE WHEN c.first_event IS NULL THEN t.ready_at WHEN c.to_state = 'queued' THEN $15::timestamptz END,
    worker_id                 = CASE WHEN c.first_event IS NULL THEN t.worker_id END,
    lease_until               = CASE WHEN c.first_event IS NULL THEN t.lease_until END,
    started_at                = CASE WHEN c.runs_anew THEN NULL ELSE t.started_at END,
    finished_at               = CASE WHEN c.first_event IS NULL THEN t.finished_at
                                     WHEN c.to_state IN ('success', 'failed', 'upstream_failed', 'skipped')
                                     THEN $15::timestamptz END,
    error                     = CASE WHEN c.first_event IS NULL THEN t.error WHEN c.to_state = 'failed' THEN $16 END,
    upstream_unfinished       = c.unfinished,
    upstream_success          = c.success,
    upstream_failed           = c.failed,
    upstream_upstream_failed  = c.upstream_failed,
    upstream_skipped          = c.skipped,
    upstream_setups_succeeded = c.setups_succeeded,
    upstream_setups_skipped   = c.setups_skipped
FROM change AS c
WHERE t.run_key = $1 AND t.task_index = c.task_index
