INSERT INTO sink_cut (run_key, task_index, topic, partition, fence, start_offset, end_offset,
                      records, dead_lettered, duplicates, foreign_records, tombstones)
SELECT $1, $2, $3, $4, $5, cut.start_offset, cut.end_offset,
       cut.records, cut.dead_lettered, cut.duplicates, cut.foreign_records, cut.tombstones
FROM UNNEST($6::bigint[], $7::bigint[], $8::bigint[], $9::bigint[], $10::bigint[], $11::bigint[], $12::bigint[])
    AS cut (start_offset, end_offset, records, dead_lettered, duplicates, foreign_records, tombstones)
