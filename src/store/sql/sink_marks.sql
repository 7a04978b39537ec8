SELECT topic AS "topic!", partition AS "partition!", producer AS "producer!", sequence AS "sequence!"
FROM sink_mark
WHERE run_key = $1 AND task_index = $2
UNION ALL
SELECT mark.topic, mark.partition, mark.producer, mark.sequence
FROM sink_position AS position
JOIN sink_position_mark AS mark USING (dag_id, task_id, topic, partition)
WHERE position.run_key = $1 AND position.task_index = $2
