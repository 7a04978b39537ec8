-- The category with the most posts in each country; all of them when several have as many.
SELECT country, category, category_count
FROM (
  SELECT country, category, category_count, RANK() OVER (PARTITION BY country ORDER BY category_count DESC) AS place
  FROM (
    SELECT geo.country, pin.category, COUNT(*) AS category_count
    FROM pin
    JOIN geo ON pin.ind = geo.ind
    GROUP BY geo.country, pin.category
  ) AS counted
) AS ranked
WHERE place = 1
ORDER BY country NULLS LAST, category NULLS LAST
