-- Claims ready tasks, those with limits of their own among them. Whoever claims so holds the lock of all such claims, so
-- that what is counted here as free stays free until it is taken.
--
-- What a limit keeps back is left out before any choice is made, so that it never stands in the way of others. Each round
-- claims at least the first of what is left; one that claims nothing has found all limits reached.
WITH RECURSIVE waiting AS (
    -- The DAGs that have something in the queue: a probe of its index for each.
    (SELECT t.dag_key FROM task_run AS t WHERE t.state IN ('queued', 'up_for_retry') ORDER BY t.dag_key LIMIT 1)
    UNION ALL
    SELECT (SELECT t.dag_key
            FROM task_run AS t
            WHERE t.state IN ('queued', 'up_for_retry') AND t.dag_key > waiting.dag_key
            ORDER BY t.dag_key
            LIMIT 1)
    FROM waiting
    WHERE waiting.dag_key IS NOT NULL
), pools AS MATERIALIZED (
    SELECT name, free FROM pool_free
), dags AS MATERIALIZED (
    SELECT w.dag_key, f.free
    FROM waiting AS w
    JOIN dag AS d ON d.id = w.dag_key AND ($3::bigint IS NOT NULL OR NOT d.is_paused)
    LEFT JOIN dag_free AS f ON f.dag_key = w.dag_key
    WHERE f.free IS NULL OR f.free > 0
), candidate AS MATERIALIZED (
    SELECT one.run_key, one.task_index, one.priority, one.ready_at, one.place, one.dag_key, one.task_id, one.pool,
           one.pool_slots, one.tis_free, one.run_tis_free, dags.free AS dag_free, one.pool_free, one.clears
    FROM dags
    CROSS JOIN LATERAL (
        SELECT ahead.*, row_number() OVER (ORDER BY priority DESC, ready_at, run_key, task_index) AS place
        FROM (
            SELECT t.run_key, t.task_index, t.priority, t.ready_at, t.dag_key, t.task_id, t.pool, t.pool_slots,
                   pools.free AS pool_free, tis.free AS tis_free, run_tis.free AS run_tis_free, r.clears
            FROM task_run AS t
            JOIN run AS r ON r.id = t.run_key
            LEFT JOIN pools ON pools.name = t.pool
            LEFT JOIN LATERAL (
                SELECT t.max_active_tis - count(*) AS free
                FROM task_run AS b
                WHERE t.max_active_tis IS NOT NULL AND b.dag_key = t.dag_key AND b.task_id = t.task_id
                  AND b.is_limited AND b.state = 'running'
            ) AS tis ON true
            LEFT JOIN LATERAL (
                SELECT t.max_active_tis_of_run - count(*) AS free
                FROM task_run AS b
                WHERE t.max_active_tis_of_run IS NOT NULL AND b.dag_key = t.dag_key AND b.run_key = t.run_key
                  AND b.task_id = t.task_id AND b.is_limited AND b.state = 'running'
            ) AS run_tis ON true
            WHERE t.dag_key = dags.dag_key
              AND t.state IN ('queued', 'up_for_retry')
              AND t.ready_at <= $4
              AND r.cancel_requested_at IS NULL
              AND CASE WHEN $3 IS NULL THEN r.owner_id IS NULL ELSE r.id = $3 END
              AND (t.pool IS NULL OR pools.free >= t.pool_slots)
              AND (tis.free IS NULL OR tis.free > 0)
              AND (run_tis.free IS NULL OR run_tis.free > 0)
              AND (t.waits_for_past IS NULL OR past_allows(t.run_key, t.waits_for_past))
            ORDER BY t.priority DESC, t.ready_at, t.run_key, t.task_index
            LIMIT $5
        ) AS ahead
    ) AS one
), within_task AS (
    SELECT c.*, row_number() OVER (PARTITION BY dag_key, task_id
                                   ORDER BY priority DESC, ready_at, run_key, task_index) AS of_task,
           row_number() OVER (PARTITION BY run_key, task_id
                              ORDER BY priority DESC, ready_at, run_key, task_index) AS of_run
    FROM candidate AS c
), within_dag AS (
    SELECT c.*, row_number() OVER (PARTITION BY dag_key ORDER BY priority DESC, ready_at, run_key, task_index) AS of_dag
    FROM within_task AS c
    WHERE (tis_free IS NULL OR of_task <= tis_free) AND (run_tis_free IS NULL OR of_run <= run_tis_free)
), within_pool AS (
    SELECT c.*, sum(pool_slots) OVER (PARTITION BY pool
                                      ORDER BY priority DESC, place, ready_at, run_key, task_index) AS of_pool
    FROM within_dag AS c
    WHERE dag_free IS NULL OR of_dag <= dag_free
), chosen AS MATERIALIZED (
    SELECT run_key, task_index, priority, place, ready_at, clears
    FROM within_pool
    WHERE pool IS NULL OR of_pool <= pool_free
    ORDER BY priority DESC, place, ready_at, run_key, task_index -- a DAG's first before another's second
    LIMIT $5
), ready AS MATERIALIZED (
    SELECT t.run_key, t.task_index, t.state, c.clears
    FROM task_run AS t
    JOIN chosen AS c ON c.run_key = t.run_key AND c.task_index = t.task_index
    WHERE t.state IN ('queued', 'up_for_retry')
    FOR UPDATE OF t SKIP LOCKED
), claimed AS (
    UPDATE task_run AS t
    SET state       = 'running',
        fence       = t.fence + 1,
        worker_id   = $1,
        lease_until = clock_timestamp() + make_interval(secs => $2),
        ready_at    = NULL,
        started_at  = $4,
        error       = NULL
    FROM ready
    WHERE t.run_key = ready.run_key AND t.task_index = ready.task_index
    RETURNING t.run_key, t.task_index, t.fence, t.try_number, t.first_try, t.lost, t.upstream_unfinished, t.upstream_success,
              t.upstream_failed, t.upstream_upstream_failed, t.upstream_skipped, t.upstream_setups_succeeded,
              t.upstream_setups_skipped, t.map_of, ready.state AS from_state, ready.clears
), history AS (
    INSERT INTO transition (run_key, task_index, fence, event, from_state, to_state, at)
    SELECT run_key, task_index, fence, 'claimed', from_state, 'running', $4
    FROM claimed
    ORDER BY run_key, task_index
), attempts AS (
    INSERT INTO attempt (run_key, task_index, fence, try_number, worker_id, started_at)
    SELECT run_key, task_index, fence, try_number, $1, $4
    FROM claimed
)
SELECT run_key AS "run_key!", task_index AS "task_index?", 'running' AS "state!", fence AS "fence!",
       try_number AS "try_number!", first_try AS "first_try!", lost AS "lost!", clears AS "clears!",
       upstream_unfinished AS "upstream_unfinished!",
       upstream_success AS "upstream_success!", upstream_failed AS "upstream_failed!",
       upstream_upstream_failed AS "upstream_upstream_failed!", upstream_skipped AS "upstream_skipped!",
       upstream_setups_succeeded AS "upstream_setups_succeeded!", upstream_setups_skipped AS "upstream_setups_skipped!", map_of
FROM claimed
