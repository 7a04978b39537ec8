-- The category with the most posts in each age group; all of them when several have as many.
SELECT age_group, category, category_count
FROM (
  SELECT
    age_group, category, category_count, RANK() OVER (PARTITION BY age_group ORDER BY category_count DESC) AS place
  FROM (
    SELECT users.age_group, pin.category, COUNT(*) AS category_count
    FROM pin
    JOIN users ON pin.ind = users.ind
    WHERE users.age_group IS NOT NULL
    GROUP BY users.age_group, pin.category
  ) AS counted
) AS ranked
WHERE place = 1
ORDER BY age_group, category NULLS LAST
