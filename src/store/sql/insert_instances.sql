-- Inserts the instances of a mapped task, in the transaction that moved it on and holds the run's row. Their indexes are
-- above all that tasks of the run ever had: attempts and logs of instances that were cleared away keep theirs.
WITH counted AS (
    UPDATE run
    SET indexes_used     = GREATEST(indexes_used, $3) + cardinality($4::jsonb[]),
        tasks_unfinished = tasks_unfinished + cardinality($4::jsonb[])
    WHERE id = $1
    RETURNING indexes_used - cardinality($4::jsonb[]) AS first
), item AS MATERIALIZED (
    SELECT counted.first + place::int - 1 AS task_index, place::int - 1 AS map_index, item, label
    FROM counted
    CROSS JOIN unnest($4::jsonb[], $5::text[]) WITH ORDINALITY AS u (item, label, place)
), instances AS (
    INSERT INTO task_run (run_key, task_index, dag_key, task_id, state, upstream_unfinished, priority, is_limited, pool,
                          pool_slots, max_active_tis, max_active_tis_of_run, ready_at, notifies, deadline, map_of, map_index)
    SELECT t.run_key, item.task_index, t.dag_key, t.task_id, 'queued', 0, t.priority, t.is_limited, t.pool, t.pool_slots,
           t.max_active_tis, t.max_active_tis_of_run, $6::timestamptz, t.notifies, t.deadline, t.task_index, item.map_index
    FROM task_run AS t
    CROSS JOIN item
    WHERE t.run_key = $1 AND t.task_index = $2
    ORDER BY item.task_index
), items AS (
    INSERT INTO map_item (run_key, task_index, item, label)
    SELECT $1, task_index, item, label
    FROM item
), history AS (
    INSERT INTO transition (run_key, task_index, fence, event, from_state, to_state, at)
    SELECT $1, task_index, 0, 'released', 'none', 'queued', $6
    FROM item
    ORDER BY task_index
)
SELECT first AS "first!"
FROM counted
