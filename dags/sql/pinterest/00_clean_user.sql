-- Who posted. Age groups have inclusive bounds; under 18 is in none.
CREATE OR REPLACE TEMPORARY VIEW users AS
SELECT
  ind,
  first_name || ' ' || last_name AS user_name,
  age,
  CASE
    WHEN age BETWEEN 18 AND 24 THEN '18-24'
    WHEN age BETWEEN 25 AND 35 THEN '25-35'
    WHEN age BETWEEN 36 AND 50 THEN '36-50'
    WHEN age > 50 THEN '+50'
  END AS age_group,
  CAST(date_joined AS TIMESTAMP) AS date_joined
FROM (
  -- Whole rows sent twice count once: a join would make k squared rows of k copies.
  SELECT DISTINCT
    CAST(ind AS INT) AS ind,
    first_name,
    last_name,
    CAST(age AS INT) AS age,
    replace(date_joined, 'T', ' ') AS date_joined
  FROM raw_user
) AS sent
