-- The country of the poster with the most followers of all; the first by name when several have as many.
SELECT geo.country, pin.follower_count
FROM pin
JOIN geo ON pin.ind = geo.ind
WHERE pin.follower_count IS NOT NULL
ORDER BY pin.follower_count DESC, geo.country NULLS LAST
LIMIT 1
