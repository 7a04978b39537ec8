-- The posts, with what is missing as null: the source says it in words, never by NULL.
CREATE OR REPLACE TEMPORARY VIEW pin AS
SELECT
  CAST(index AS INT) AS ind,
  NULLIF(unique_id, '') AS unique_id,
  CASE WHEN title NOT IN ('', 'No Title Data Available') THEN title END AS title,
  CASE
    WHEN description NOT IN ('', 'No description available', 'No description available Story format') THEN description
  END AS description,
  -- `20k` is 20000 and `2M` is 2000000; whatever is not such a number is null.
  CASE
    WHEN regexp_like(follower_count, '^[0-9]+[kM]?$')
    THEN TRY_CAST(replace(replace(follower_count, 'k', '000'), 'M', '000000') AS INT)
  END AS follower_count,
  CASE WHEN poster_name NOT IN ('', 'User Info Error') THEN poster_name END AS poster_name,
  CASE WHEN tag_list NOT IN ('', 'N,o, ,T,a,g,s, ,A,v,a,i,l,a,b,l,e') THEN tag_list END AS tag_list,
  NULLIF(is_image_or_video, '') AS is_image_or_video,
  CASE WHEN image_src NOT IN ('', 'Image src error.') THEN image_src END AS image_src,
  replace(NULLIF(save_location, ''), 'Local save in ', '') AS save_location,
  NULLIF(category, '') AS category
FROM (
  -- Whole rows sent twice count once: a join would make k squared rows of k copies.
  SELECT DISTINCT
    index, unique_id, title, description, poster_name, follower_count, tag_list, is_image_or_video, image_src,
    downloaded, save_location, category
  FROM raw_pin
) AS sent
