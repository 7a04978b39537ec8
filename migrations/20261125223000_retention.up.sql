-- What finished runs are kept: their retention walks them by when they ended, and what they refer to goes once none of
-- them is left.

CREATE INDEX run_finished_idx ON run (dag_key, finished_at, id) WHERE finished_at IS NOT NULL;
CREATE INDEX run_version_idx ON run (dag_version_id);
CREATE INDEX run_owner_idx ON run (owner_id) WHERE owner_id IS NOT NULL;

-- Finished runs of a DAG that ended before an instant, or are not among its newest ones, oldest first; either bound may be
-- null. Never the last one that ended, nor the last one by its date, nor one that an unfinished run comes right after:
-- its tasks may wait for those of the run before.
CREATE FUNCTION runs_past_keeping(of_dag bigint, ended_before timestamptz, newest bigint, at_most bigint)
RETURNS SETOF bigint LANGUAGE sql STABLE AS $$
    WITH bound AS (
        SELECT b.finished_at, b.id
        FROM run AS b
        WHERE b.dag_key = of_dag AND b.finished_at IS NOT NULL AND newest IS NOT NULL
        ORDER BY b.finished_at DESC, b.id DESC
        OFFSET COALESCE(newest, 0)
        LIMIT 1
    ), exempt AS (
        (SELECT k.id
         FROM run AS k
         WHERE k.dag_key = of_dag AND k.finished_at IS NOT NULL
         ORDER BY k.finished_at DESC, k.id DESC
         LIMIT 1)
        UNION ALL
        (SELECT k.id
         FROM run AS k
         WHERE k.dag_id = (SELECT d.dag_id FROM dag AS d WHERE d.id = of_dag) AND k.finished_at IS NOT NULL
         ORDER BY k.logical_date DESC, k.rerun DESC
         LIMIT 1)
        UNION ALL
        SELECT (SELECT k.id
                FROM run AS k
                WHERE k.dag_id = u.dag_id AND k.logical_date < u.logical_date
                ORDER BY k.logical_date DESC, k.rerun DESC
                LIMIT 1)
        FROM run AS u
        WHERE u.dag_key = of_dag AND u.state IN ('queued', 'running')
    )
    SELECT r.id
    FROM run AS r
    WHERE r.dag_key = of_dag
      AND r.finished_at IS NOT NULL
      AND r.finished_at <= GREATEST(ended_before, (SELECT bound.finished_at FROM bound)) -- for the index
      AND (r.finished_at < ended_before OR (r.finished_at, r.id) <= (SELECT bound.finished_at, bound.id FROM bound))
      AND NOT EXISTS (SELECT FROM exempt WHERE exempt.id = r.id)
    ORDER BY r.finished_at, r.id
    LIMIT at_most
$$;
