-- `step.sql` without the claim from the queue.
WITH planned AS MATERIALIZED (
    SELECT r.id, p.finished, p.leaves_failed, p.conclusion
    FROM unnest($1::bigint[], $2::bigint[], $3::int[], $4::int[], $5::text[])
        AS p (run_key, version, finished, leaves_failed, conclusion)
    JOIN run AS r ON r.id = p.run_key AND r.version = p.version
    WHERE r.id = ANY ($1)
    ORDER BY r.id
    FOR NO KEY UPDATE OF r -- rows that refer to the run may be inserted meanwhile
), change AS MATERIALIZED (
    SELECT c.run_key, c.task_index, c.event, c.from_state, c.to_state, c.ready_at, c.try_number, c.lost, c.unfinished,
           c.success, c.failed, c.upstream_failed, c.skipped, c.setups_succeeded, c.setups_skipped, c.error, c.taken
    FROM unnest($6::bigint[], $7::int[], $8::text[], $9::text[], $10::text[], $11::timestamptz[], $12::int[],
                $13::int[], $14::int[], $15::int[], $16::int[], $17::int[], $18::int[], $19::int[], $20::int[],
                $21::text[], $22::bool[])
        AS c (run_key, task_index, event, from_state, to_state, ready_at, try_number, lost, unfinished, success, failed,
              upstream_failed, skipped, setups_succeeded, setups_skipped, error, taken)
    JOIN planned ON planned.id = c.run_key
), changed AS (
    -- Without an event only the counts change. What is ready at once and taken goes on to running in the same breath.
    UPDATE task_run AS t
    SET state                     = CASE WHEN c.event IS NULL THEN t.state WHEN c.taken THEN 'running' ELSE c.to_state END,
        fence                     = t.fence + c.taken::int,
        ready_at                  = CASE WHEN c.event IS NULL THEN t.ready_at WHEN NOT c.taken THEN c.ready_at END,
        worker_id                 = CASE WHEN c.event IS NULL OR c.to_state = 'deferred' THEN t.worker_id
                                         WHEN c.taken THEN $23::bigint END,
        lease_until               = CASE WHEN c.event IS NULL THEN t.lease_until
                                         WHEN c.taken THEN clock_timestamp() + make_interval(secs => $24) END,
        -- One that is cancelled before its next try has failed by its last one.
        error                     = CASE WHEN c.event IS NULL THEN t.error
                                         WHEN c.event = 'cancelled' THEN COALESCE(c.error, t.error)
                                         WHEN NOT c.taken THEN c.error END,
        started_at                = CASE WHEN c.taken THEN $25 ELSE t.started_at END,
        finished_at               = CASE WHEN c.event IS NULL THEN t.finished_at
                                         WHEN c.to_state IN ('success', 'failed', 'upstream_failed', 'skipped')
                                         THEN $25::timestamptz END,
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
    WHERE t.run_key = c.run_key AND t.task_index = c.task_index AND (c.event IS NULL OR t.state = c.from_state)
    RETURNING t.run_key, t.task_index, t.fence, t.try_number, t.first_try, t.lost, t.upstream_unfinished, t.upstream_success,
              t.upstream_failed, t.upstream_upstream_failed, t.upstream_skipped, t.upstream_setups_succeeded,
              t.upstream_setups_skipped, t.map_of, c.event, c.from_state, c.to_state, c.taken
), ended AS (
    UPDATE attempt AS a
    SET finished_at = $25, outcome = e.outcome, error = e.error
    FROM unnest($26::bigint[], $27::int[], $28::bigint[], $29::text[], $30::text[])
        AS e (run_key, task_index, fence, outcome, error)
    JOIN planned ON planned.id = e.run_key
    WHERE a.run_key = e.run_key AND a.task_index = e.task_index AND a.fence = e.fence
), outputs AS (
    INSERT INTO task_output (run_key, task_index, output, spilled)
    SELECT o.run_key, o.task_index, o.output, o.spilled
    FROM unnest($31::bigint[], $32::int[], $33::jsonb[], $34::jsonb[]) AS o (run_key, task_index, output, spilled)
    JOIN planned ON planned.id = o.run_key
    ON CONFLICT (run_key, task_index) DO UPDATE SET output = EXCLUDED.output, spilled = EXCLUDED.spilled
), moved AS (
    UPDATE run
    SET version          = run.version + 1,
        tasks_unfinished = run.tasks_unfinished - planned.finished,
        leaves_failed    = run.leaves_failed + planned.leaves_failed,
        state            = COALESCE(planned.conclusion, 'running'),
        started_at       = COALESCE(run.started_at, $25),
        finished_at      = CASE WHEN planned.conclusion IS NOT NULL THEN $25::timestamptz END
    FROM planned
    WHERE run.id = planned.id
), taken AS (
    SELECT run_key, task_index, fence, try_number, first_try, lost, -1 AS clears, upstream_unfinished, upstream_success,
           upstream_failed, upstream_upstream_failed, upstream_skipped, upstream_setups_succeeded,
           upstream_setups_skipped, map_of, to_state AS from_state
    FROM changed
    WHERE taken
), history AS (
    INSERT INTO transition (run_key, task_index, fence, event, from_state, to_state, at)
    SELECT run_key, task_index, fence, event, from_state, to_state, $25
    FROM (SELECT run_key, task_index, fence - taken::int AS fence, event, from_state, to_state, 0 AS place
          FROM changed
          WHERE event IS NOT NULL
          UNION ALL
          SELECT run_key, task_index, fence, 'claimed', from_state, 'running', 1
          FROM taken) AS happened
    ORDER BY place, run_key, task_index -- a task's claim comes after its release
), attempts AS (
    INSERT INTO attempt (run_key, task_index, fence, try_number, worker_id, started_at)
    SELECT run_key, task_index, fence, try_number, $23, $25
    FROM taken
)
-- One row for each run that was written, one for each claim, one where others were claiming the same tasks, and one where
-- tasks with limits of their own are in the queue.
SELECT id AS "run_key!", NULL::int AS "task_index?", '' AS "state!", 0::bigint AS "fence!", 0 AS "try_number!",
       0 AS "first_try!", 0 AS "lost!", 0 AS "clears!", 0 AS "upstream_unfinished!", 0 AS "upstream_success!", 0 AS "upstream_failed!",
       0 AS "upstream_upstream_failed!", 0 AS "upstream_skipped!", 0 AS "upstream_setups_succeeded!",
       0 AS "upstream_setups_skipped!", NULL::int AS "map_of?"
FROM planned
WHERE CASE WHEN (SELECT count(*) FROM changed) = (SELECT count(*) FROM change) THEN true ELSE refuse_step() END
UNION ALL
SELECT run_key, task_index, 'running', fence, try_number, first_try, lost, clears, upstream_unfinished, upstream_success, upstream_failed,
       upstream_upstream_failed, upstream_skipped, upstream_setups_succeeded, upstream_setups_skipped, map_of
FROM taken
