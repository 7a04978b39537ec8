-- The lower median (05 says how) among the posts of those who joined in each year from 2015 to 2020, by age group.
SELECT
  age_group,
  post_year,
  MAX(CASE WHEN 2 * place IN (known, known + 1) THEN follower_count END) AS median_follower_count
FROM (
  SELECT
    age_group,
    post_year,
    follower_count,
    ROW_NUMBER() OVER (PARTITION BY age_group, post_year ORDER BY follower_count NULLS LAST) AS place,
    COUNT(follower_count) OVER (PARTITION BY age_group, post_year) AS known
  FROM (
    SELECT users.age_group, EXTRACT(YEAR FROM users.date_joined) AS post_year, pin.follower_count
    FROM pin
    JOIN users ON pin.ind = users.ind
    WHERE users.age_group IS NOT NULL
  ) AS joined
  WHERE post_year BETWEEN 2015 AND 2020
) AS numbered
GROUP BY age_group, post_year
ORDER BY age_group, post_year
