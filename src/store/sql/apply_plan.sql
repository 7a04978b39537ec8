-- Writes one run's plan in one statement: the run's row is locked, so are the tasks' rows.
WITH change AS (
    SELECT *
    FROM unnest($2::int[], $3::bool[], $4::text[], $5::text[], $6::text[], $7::timestamptz[], $8::int[], $9::int[],
                $10::int[], $11::int[], $12::int[], $13::int[], $14::int[], $15::int[], $16::int[], $17::text[])
        AS change (task_index, moved, event, from_state, to_state, ready_at, try_number, lost,
                   unfinished, success, failed, upstream_failed, skipped, setups_succeeded, setups_skipped, error)
), changed AS (
    UPDATE task_run AS t
    SET state                     = CASE WHEN c.moved THEN c.to_state ELSE t.state END,
        ready_at                  = CASE WHEN c.moved THEN c.ready_at ELSE t.ready_at END,
        worker_id                 = CASE WHEN c.moved THEN NULL ELSE t.worker_id END,
        lease_until               = CASE WHEN c.moved THEN NULL ELSE t.lease_until END,
        error                     = CASE WHEN c.moved THEN c.error ELSE t.error END,
        finished_at               = CASE WHEN c.moved AND c.to_state IN ('success', 'failed', 'upstream_failed', 'skipped')
                                         THEN $1::timestamptz ELSE t.finished_at END,
        try_number                = c.try_number,
        lost                      = c.lost,
        upstream_unfinished       = c.unfinished,
        upstream_success          = c.success,
        upstream_failed           = c.failed,
        upstream_upstream_failed  = c.upstream_failed,
        upstream_skipped          = c.skipped,
        upstream_setups_succeeded = c.setups_succeeded,
        upstream_setups_skipped   = c.setups_skipped
    FROM change AS c
    WHERE t.run_key = $18 AND t.task_index = c.task_index AND (t.state = c.from_state OR NOT c.moved)
    RETURNING t.task_index, t.fence
), history AS (
    INSERT INTO transition (run_key, task_index, fence, event, from_state, to_state, at)
    SELECT $18, c.task_index, changed.fence, c.event, c.from_state, c.to_state, $1
    FROM change AS c
    JOIN changed USING (task_index)
    WHERE c.moved
    ORDER BY c.task_index
), ended AS (
    UPDATE attempt AS a
    SET finished_at = $1, outcome = e.outcome, error = e.error
    FROM unnest($19::int[], $20::bigint[], $21::text[], $22::text[]) AS e (task_index, fence, outcome, error)
    WHERE a.run_key = $18 AND a.task_index = e.task_index AND a.fence = e.fence
), outputs AS (
    INSERT INTO task_output (run_key, task_index, output)
    SELECT $18, o.task_index, o.output
    FROM unnest($23::int[], $24::jsonb[]) AS o (task_index, output)
    ON CONFLICT (run_key, task_index) DO UPDATE SET output = EXCLUDED.output
), run_after AS (
    UPDATE run
    SET tasks_unfinished = tasks_unfinished - $25,
        leaves_failed    = leaves_failed + $26,
        state            = COALESCE($27, 'running'),
        started_at       = COALESCE(started_at, $1),
        finished_at      = CASE WHEN $27::text IS NOT NULL THEN $1::timestamptz END
    WHERE id = $18
)
SELECT count(*) AS "changed!" FROM changed
