-- Writes the plans of several runs and claims ready tasks, in one statement. A plan holds for the version of its run that
-- it was made at; a run that moved on meanwhile is left as it is. The runs' rows are locked first, by id: whatever is
-- written here of a run is written under its lock.
--
-- What stands between `queue {` and `} queue` is for the claim from the queue. `step_alone.sql` is this statement without it,
-- for when nothing is looked for there: a quarter of what the statement costs. A test holds the two together.
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
-- queue {
), waiting AS MATERIALIZED (
    -- The DAGs that have something in the queue: a probe of its index for each.
    WITH RECURSIVE ahead AS (
        (SELECT t.dag_key
         FROM task_run AS t
         WHERE t.state IN ('queued', 'up_for_retry') AND $36::bigint > 0
         ORDER BY t.dag_key
         LIMIT 1)
        UNION ALL
        SELECT (SELECT t.dag_key
                FROM task_run AS t
                WHERE t.state IN ('queued', 'up_for_retry') AND t.dag_key > ahead.dag_key
                ORDER BY t.dag_key
                LIMIT 1)
        FROM ahead
        WHERE ahead.dag_key IS NOT NULL)
    SELECT ahead.dag_key
    FROM ahead
    JOIN dag AS d ON d.id = ahead.dag_key AND ($35::bigint IS NOT NULL OR NOT d.is_paused)
), chosen AS MATERIALIZED (
    SELECT one.run_key, one.task_index, one.clears
    FROM waiting
    CROSS JOIN LATERAL (
        SELECT mine.*, row_number() OVER (ORDER BY priority DESC, ready_at, run_key, task_index) AS place
        FROM (
            SELECT t.run_key, t.task_index, t.priority, t.ready_at, r.clears
            FROM task_run AS t
            JOIN run AS r ON r.id = t.run_key
            WHERE t.dag_key = waiting.dag_key
              AND t.state IN ('queued', 'up_for_retry')
              AND t.ready_at <= $25
              AND NOT t.is_limited
              AND r.cancel_requested_at IS NULL
              AND CASE WHEN $35 IS NULL THEN r.owner_id IS NULL ELSE r.id = $35 END
            ORDER BY t.priority DESC, t.ready_at, t.run_key, t.task_index -- the key last: equal times must not flap
            LIMIT $36
        ) AS mine
    ) AS one
    ORDER BY one.priority DESC, one.place, one.ready_at, one.run_key, one.task_index -- a DAG's first before another's second
    LIMIT $36
), ready AS MATERIALIZED (
    -- MATERIALIZED: else Postgres may lock and update more rows than the limit.
    SELECT t.run_key, t.task_index, t.state, chosen.clears
    FROM task_run AS t
    JOIN chosen ON chosen.run_key = t.run_key AND chosen.task_index = t.task_index
    WHERE t.state IN ('queued', 'up_for_retry')
    FOR UPDATE OF t SKIP LOCKED
), claimed AS (
    UPDATE task_run AS t
    SET state       = 'running',
        fence       = t.fence + 1,
        worker_id   = $23,
        lease_until = clock_timestamp() + make_interval(secs => $24),
        ready_at    = NULL,
        started_at  = $25,
        error       = NULL
    FROM ready
    WHERE t.run_key = ready.run_key AND t.task_index = ready.task_index
    RETURNING t.run_key, t.task_index, t.fence, t.try_number, t.first_try, t.lost, t.upstream_unfinished, t.upstream_success,
              t.upstream_failed, t.upstream_upstream_failed, t.upstream_skipped, t.upstream_setups_succeeded,
              t.upstream_setups_skipped, t.map_of, ready.state AS from_state, ready.clears
-- } queue
), taken AS (
    SELECT run_key, task_index, fence, try_number, first_try, lost, -1 AS clears, upstream_unfinished, upstream_success,
           upstream_failed, upstream_upstream_failed, upstream_skipped, upstream_setups_succeeded,
           upstream_setups_skipped, map_of, to_state AS from_state
    FROM changed
    WHERE taken
    -- queue {
    UNION ALL
    SELECT run_key, task_index, fence, try_number, first_try, lost, clears, upstream_unfinished, upstream_success,
           upstream_failed, upstream_upstream_failed, upstream_skipped, upstream_setups_succeeded,
           upstream_setups_skipped, map_of, from_state
    FROM claimed
    -- } queue
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
-- queue {
UNION ALL
SELECT 0, NULL, 'limited', 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, NULL
WHERE $37 AND EXISTS (
    SELECT 1
    FROM task_run AS t
    WHERE t.is_limited AND t.state IN ('queued', 'up_for_retry') AND t.ready_at <= $25)
UNION ALL
SELECT 0, NULL, 'contended', 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, NULL
WHERE (SELECT count(*) FROM chosen) > (SELECT count(*) FROM ready)
-- } queue
