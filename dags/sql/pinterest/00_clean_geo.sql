-- Where and when each post was made.
CREATE OR REPLACE TEMPORARY VIEW geo AS
SELECT
  ind,
  country,
  array(latitude, longitude) AS coordinates,
  CAST(`timestamp` AS TIMESTAMP) AS `timestamp`
FROM (
  -- Whole rows sent twice count once: a join would make k squared rows of k copies.
  SELECT DISTINCT
    CAST(ind AS INT) AS ind,
    country,
    CAST(latitude AS DOUBLE) AS latitude,
    CAST(longitude AS DOUBLE) AS longitude,
    -- `2020-08-28T03:52:47` and `2020-08-28 03:52:47` are both sent, and mean the same row.
    replace(`timestamp`, 'T', ' ') AS `timestamp`
  FROM raw_geo
) AS sent
