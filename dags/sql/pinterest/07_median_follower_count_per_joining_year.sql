-- The lower median (05 says how) among the posts of those who joined in each year from 2015 to 2020.
SELECT post_year, MAX(CASE WHEN 2 * place IN (known, known + 1) THEN follower_count END) AS median_follower_count
FROM (
  SELECT
    post_year,
    follower_count,
    ROW_NUMBER() OVER (PARTITION BY post_year ORDER BY follower_count NULLS LAST) AS place,
    COUNT(follower_count) OVER (PARTITION BY post_year) AS known
  FROM (
    SELECT EXTRACT(YEAR FROM users.date_joined) AS post_year, pin.follower_count
    FROM pin
    JOIN users ON pin.ind = users.ind
  ) AS joined
  WHERE post_year BETWEEN 2015 AND 2020
) AS numbered
GROUP BY post_year
ORDER BY post_year
