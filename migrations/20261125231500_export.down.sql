DROP TRIGGER task_run_is_exported ON task_run;
DROP TRIGGER run_is_exported ON run;
DROP TRIGGER run_begins_and_is_exported ON run;
DROP FUNCTION export_attempt();
DROP FUNCTION export_run();
DROP FUNCTION is_exported(text);
DROP TABLE export;
DROP DOMAIN export_kind;
