-- The category with the most posts in each year from 2018 to 2022; all of them when several have as many.
SELECT post_year, category, category_count
FROM (
  SELECT
    post_year, category, category_count, RANK() OVER (PARTITION BY post_year ORDER BY category_count DESC) AS place
  FROM (
    SELECT EXTRACT(YEAR FROM geo.`timestamp`) AS post_year, pin.category, COUNT(*) AS category_count
    FROM pin
    JOIN geo ON pin.ind = geo.ind
    WHERE EXTRACT(YEAR FROM geo.`timestamp`) BETWEEN 2018 AND 2022
    GROUP BY EXTRACT(YEAR FROM geo.`timestamp`), pin.category
  ) AS counted
) AS ranked
WHERE place = 1
ORDER BY post_year, category NULLS LAST
