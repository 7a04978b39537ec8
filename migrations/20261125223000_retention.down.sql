DROP FUNCTION runs_past_keeping(bigint, timestamptz, bigint, bigint);
DROP INDEX run_owner_idx;
DROP INDEX run_version_idx;
DROP INDEX run_finished_idx;
