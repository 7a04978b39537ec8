DROP TRIGGER run_notifies ON run;
DROP TRIGGER task_run_notifies ON task_run;
DROP FUNCTION notify_of_run, notify_of_task;
DROP TABLE notification;
DROP DOMAIN notification_event;
DROP INDEX run_timeout_idx;
ALTER TABLE task_run DROP COLUMN notifies, DROP COLUMN deadline;
ALTER TABLE run DROP COLUMN notifies, DROP COLUMN timeout_limit;
