INSERT INTO sink_object (run_key, task_index, topic, partition, cut_offset, key,
                         start_offset, last_offset, records, bytes, sha256)
SELECT $1, $2, $3, $4, object.cut_offset, object.key,
       object.start_offset, object.last_offset, object.records, object.bytes, object.sha256
FROM UNNEST($5::bigint[], $6::text[], $7::bigint[], $8::bigint[], $9::bigint[], $10::bigint[], $11::bytea[])
    AS object (cut_offset, key, start_offset, last_offset, records, bytes, sha256)
