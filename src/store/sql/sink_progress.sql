SELECT range.topic, range.partition, range.start_offset, range.end_offset, range.next_offset,
       coalesce(position.ends, '{}') AS "ends!",
       cuts.records AS "records!", cuts.dead_lettered AS "dead_lettered!", cuts.duplicates AS "duplicates!",
       cuts.foreign_records AS "foreign_records!", cuts.tombstones AS "tombstones!",
       objects.objects AS "objects!", objects.bytes AS "bytes!"
FROM sink_range AS range
LEFT JOIN sink_position AS position USING (run_key, task_index, topic, partition)
CROSS JOIN LATERAL (
    SELECT coalesce(sum(cut.records), 0)::bigint         AS records,
           coalesce(sum(cut.dead_lettered), 0)::bigint   AS dead_lettered,
           coalesce(sum(cut.duplicates), 0)::bigint      AS duplicates,
           coalesce(sum(cut.foreign_records), 0)::bigint AS foreign_records,
           coalesce(sum(cut.tombstones), 0)::bigint      AS tombstones
    FROM sink_cut AS cut
    WHERE (cut.run_key, cut.task_index, cut.topic, cut.partition)
        = (range.run_key, range.task_index, range.topic, range.partition)
) AS cuts
CROSS JOIN LATERAL (
    SELECT count(*) AS objects, coalesce(sum(object.bytes), 0)::bigint AS bytes
    FROM sink_object AS object
    WHERE (object.run_key, object.task_index, object.topic, object.partition)
        = (range.run_key, range.task_index, range.topic, range.partition)
) AS objects
WHERE range.run_key = $1 AND range.task_index = $2
ORDER BY range.topic, range.partition
