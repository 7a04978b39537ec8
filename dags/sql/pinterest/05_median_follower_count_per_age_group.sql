-- The lower median, as percentile_approx(follower_count, 0.5) gives it: with n values in order, the one at n/2 rounded
-- up. Posts without a follower count come last and are not counted.
SELECT age_group, MAX(CASE WHEN 2 * place IN (known, known + 1) THEN follower_count END) AS median_follower_count
FROM (
  SELECT
    users.age_group,
    pin.follower_count,
    ROW_NUMBER() OVER (PARTITION BY users.age_group ORDER BY pin.follower_count NULLS LAST) AS place,
    COUNT(pin.follower_count) OVER (PARTITION BY users.age_group) AS known
  FROM pin
  JOIN users ON pin.ind = users.ind
  WHERE users.age_group IS NOT NULL
) AS numbered
GROUP BY age_group
ORDER BY age_group
