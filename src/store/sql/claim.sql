-- Takes up to $2 ready tasks for worker $1. MATERIALIZED: else Postgres may lock and update more rows than the limit.
WITH ready AS MATERIALIZED (
    SELECT t.run_key, t.task_index, t.state
    FROM task_run AS t
    JOIN run AS r ON r.id = t.run_key
    WHERE t.state IN ('queued', 'up_for_retry')
      AND t.ready_at <= $3
      AND ($4::bigint[] IS NULL OR t.run_key = ANY ($4))
      AND r.cancel_requested_at IS NULL
    ORDER BY t.priority DESC, t.ready_at, t.run_key, t.task_index -- the key last: equal times must not flap
    LIMIT $2
    FOR UPDATE OF t SKIP LOCKED
), claimed AS (
    UPDATE task_run AS t
    SET state       = 'running',
        fence       = t.fence + 1,
        worker_id   = $1,
        lease_until = clock_timestamp() + make_interval(secs => $5),
        ready_at    = NULL,
        started_at  = $3,
        error       = NULL
    FROM ready
    WHERE t.run_key = ready.run_key AND t.task_index = ready.task_index
    RETURNING t.run_key, t.task_index, t.fence, t.try_number, ready.state AS from_state
), history AS (
    INSERT INTO transition (run_key, task_index, fence, event, from_state, to_state, at)
    SELECT run_key, task_index, fence, 'claimed', from_state, 'running', $3
    FROM claimed
    ORDER BY run_key, task_index
), attempts AS (
    INSERT INTO attempt (run_key, task_index, fence, try_number, worker_id, started_at)
    SELECT run_key, task_index, fence, try_number, $1, $3
    FROM claimed
), begun AS (
    -- SKIP LOCKED: a claim waits for nothing; a run that is locked now is moved on by who locks it
    UPDATE run
    SET state = 'running', started_at = $3
    WHERE id IN (
        SELECT r.id
        FROM run AS r
        WHERE r.id IN (SELECT run_key FROM claimed) AND r.state = 'queued'
        ORDER BY r.id
        FOR UPDATE SKIP LOCKED)
)
SELECT run_key AS "run_key!", task_index AS "task_index!", fence AS "fence!", try_number AS "try_number!"
FROM claimed
ORDER BY run_key, task_index
