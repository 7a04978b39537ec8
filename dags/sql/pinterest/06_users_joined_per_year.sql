-- How many joined in each year from 2015 to 2020. Names are not unique: who a user is takes age and date as well.
SELECT post_year, COUNT(*) AS number_users_joined
FROM (
  SELECT DISTINCT EXTRACT(YEAR FROM users.date_joined) AS post_year, users.user_name, users.age, users.date_joined
  FROM pin
  JOIN users ON pin.ind = users.ind
  WHERE EXTRACT(YEAR FROM users.date_joined) BETWEEN 2015 AND 2020
) AS joined
GROUP BY post_year
ORDER BY post_year
