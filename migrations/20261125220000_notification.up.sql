-- What somebody is to be told of: an outbox. A row is written in the transaction of the change that it tells of, so that
-- nothing is told that did not happen, and nothing that happened goes untold; a process sends what is due and notes so.
--
-- Triggers write it, for states are changed in several places (a step, a person's word, a run that is given up). What
-- nobody is told of costs them a look at one empty column: their conditions are decided before any function is called.

ALTER TABLE run ADD COLUMN timeout_limit interval; -- how long it may take once it has begun
-- How many callbacks there are on failure, success, retry and deadline, in that order; null: none at all.
ALTER TABLE run ADD COLUMN notifies smallint[];
ALTER TABLE task_run ADD COLUMN notifies smallint[];
ALTER TABLE task_run ADD COLUMN deadline interval; -- from when its first attempt begins

CREATE INDEX run_timeout_idx ON run (timeout_at) WHERE timeout_at IS NOT NULL AND state = 'running';

CREATE DOMAIN notification_event AS text
    CONSTRAINT notification_event_check CHECK (VALUE IN ('failure', 'success', 'retry', 'deadline'));

CREATE TABLE notification (
    id          bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    uuid        uuid        NOT NULL DEFAULT gen_random_uuid(), -- by which a receiver knows it when it comes again
    run_key     bigint      NOT NULL REFERENCES run (id) ON DELETE CASCADE,
    task_index  integer,                       -- null: of the run as a whole
    event       notification_event NOT NULL,
    round       integer     NOT NULL,          -- a task's try; for a run how often tasks of it were cleared; of a deadline the first try
    place       integer     NOT NULL,          -- which of the event's callbacks in the DAG file, from 0
    happened_at timestamptz NOT NULL,          -- of a deadline: when it is missed
    reason      text,                          -- the error of that try, or why the run was cancelled
    due_at      timestamptz NOT NULL,          -- not before this instant; moved on while it is being sent, and after a failure
    attempts    integer     NOT NULL DEFAULT 0,
    sent_at     timestamptz,
    dropped_at  timestamptz,                   -- it will not be sent: the deadline was kept, or it was given up
    error       text,                          -- why it was not sent yet, or never
    CONSTRAINT notification_end_check CHECK (sent_at IS NULL OR dropped_at IS NULL)
);

CREATE UNIQUE INDEX notification_once_idx ON notification (run_key, COALESCE(task_index, -1), event, round, place);
CREATE INDEX notification_due_idx ON notification (due_at, id) WHERE sent_at IS NULL AND dropped_at IS NULL;

CREATE FUNCTION notify_of_task() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    what text := CASE NEW.state
        WHEN 'failed' THEN 'failure' WHEN 'success' THEN 'success' WHEN 'up_for_retry' THEN 'retry' WHEN 'running' THEN 'deadline' END;
    many integer := NEW.notifies[array_position(ARRAY['failure', 'success', 'retry', 'deadline'], what)];
    at   timestamptz := CASE NEW.state WHEN 'running' THEN NEW.started_at + NEW.deadline
                                       WHEN 'up_for_retry' THEN clock_timestamp()
                                       ELSE NEW.finished_at END;
BEGIN
    IF what IS NOT NULL AND at IS NOT NULL AND many > 0 THEN
        INSERT INTO notification (run_key, task_index, event, round, place, happened_at, due_at, reason)
        SELECT NEW.run_key, NEW.task_index, what, CASE what WHEN 'deadline' THEN NEW.first_try ELSE OLD.try_number END,
               place, at, at, NEW.error
        FROM generate_series(0, many - 1) AS place
        ON CONFLICT DO NOTHING;
    END IF;
    RETURN NULL;
END
$$;

CREATE TRIGGER task_run_notifies AFTER UPDATE ON task_run FOR EACH ROW
    -- What becomes of a mapped task its instances tell.
    WHEN (NEW.notifies IS NOT NULL AND OLD.state IS DISTINCT FROM NEW.state AND OLD.state <> 'mapped')
    EXECUTE FUNCTION notify_of_task();

CREATE FUNCTION notify_of_run() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO notification (run_key, event, round, place, happened_at, due_at, reason)
    SELECT NEW.id, CASE NEW.state WHEN 'failed' THEN 'failure' ELSE 'success' END, NEW.clears, place, NEW.finished_at,
           NEW.finished_at, COALESCE(NEW.cancel_reason, CASE WHEN NEW.cancel_requested_at IS NOT NULL THEN 'it was cancelled' END)
    FROM generate_series(0, NEW.notifies[CASE NEW.state WHEN 'failed' THEN 1 ELSE 2 END] - 1) AS place
    ON CONFLICT DO NOTHING;
    RETURN NULL;
END
$$;

CREATE TRIGGER run_notifies AFTER UPDATE ON run FOR EACH ROW
    WHEN (NEW.notifies IS NOT NULL AND OLD.state IS DISTINCT FROM NEW.state AND NEW.finished_at IS NOT NULL)
    EXECUTE FUNCTION notify_of_run();
