-- The poster with the most followers in each country; all of them when several have as many.
SELECT country, poster_name, follower_count
FROM (
  SELECT
    country, poster_name, follower_count, RANK() OVER (PARTITION BY country ORDER BY follower_count DESC) AS place
  FROM (
    -- A poster has many posts, and one line here.
    SELECT geo.country, pin.poster_name, MAX(pin.follower_count) AS follower_count
    FROM pin
    JOIN geo ON pin.ind = geo.ind
    WHERE pin.follower_count IS NOT NULL
    GROUP BY geo.country, pin.poster_name
  ) AS posters
) AS ranked
WHERE place = 1
ORDER BY country NULLS LAST, poster_name NULLS LAST
