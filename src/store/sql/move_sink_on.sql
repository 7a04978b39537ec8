-- Where the range was claimed the DAG's sink moves on with its run, and keeps the marks for the runs to come.
WITH mark AS (
    SELECT producer, sequence
    FROM UNNEST($6::text[], $7::bigint[]) AS mark (producer, sequence)
), position AS (
    UPDATE sink_position
    SET next_offset = $5
    WHERE run_key = $1 AND task_index = $2 AND topic = $3 AND partition = $4
    RETURNING dag_id, task_id, topic, partition
), kept AS (
    INSERT INTO sink_position_mark (dag_id, task_id, topic, partition, producer, sequence, moved_at)
    SELECT position.dag_id, position.task_id, position.topic, position.partition, mark.producer, mark.sequence, $8
    FROM position
    CROSS JOIN mark
    ON CONFLICT (dag_id, task_id, topic, partition, producer)
    DO UPDATE SET sequence = EXCLUDED.sequence, moved_at = EXCLUDED.moved_at
)
INSERT INTO sink_mark (run_key, task_index, topic, partition, producer, sequence)
SELECT $1, $2, $3, $4, mark.producer, mark.sequence
FROM mark
WHERE NOT EXISTS (SELECT FROM position)
ON CONFLICT (run_key, task_index, topic, partition, producer) DO UPDATE SET sequence = EXCLUDED.sequence
