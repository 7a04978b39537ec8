-- What is told of runs to who gathers traces and lineage: an outbox, as notification is. A row is written in the
-- transaction of the change that it tells of, and deleted once it was sent.
--
-- Whether anybody is told is a setting of processes: their sessions say so by `pinsched.exports`, which has `trace` or
-- `lineage` in it, or both with a comma. Where it has not, triggers cost a look at that.

CREATE DOMAIN export_kind AS text
    CONSTRAINT export_kind_check CHECK (VALUE IN ('trace', 'lineage'));

CREATE DOMAIN exported_end AS text
    CONSTRAINT exported_end_check CHECK (VALUE IN ('success', 'failed', 'cancelled'));

CREATE TABLE export (
    id          bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    run_key     bigint      NOT NULL REFERENCES run (id) ON DELETE CASCADE,
    kind        export_kind NOT NULL, -- a trace: of all of the run, at its end; of lineage each start and each end
    task_index  integer,              -- null: of the run as a whole
    fence       bigint,               -- which attempt of the task
    map_of      integer,              -- of an instance: the mapped task; the instance may be gone when it is told of
    is_end      boolean     NOT NULL,
    run_end     exported_end,         -- how the run ended that this tells of: it may have been cleared since
    happened_at timestamptz NOT NULL,
    due_at      timestamptz NOT NULL, -- not before this instant; moved on while it is being sent, and after a failure
    attempts    integer     NOT NULL DEFAULT 0,
    CONSTRAINT export_attempt_check CHECK ((task_index IS NULL) = (fence IS NULL)),
    CONSTRAINT export_map_check CHECK (map_of IS NULL OR task_index IS NOT NULL),
    CONSTRAINT export_run_end_check CHECK ((run_end IS NOT NULL) = (task_index IS NULL AND is_end))
);

CREATE INDEX export_due_idx ON export (kind, due_at, id);
CREATE INDEX export_run_idx ON export (run_key);

CREATE FUNCTION is_exported(what text) RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT COALESCE(position(what IN current_setting('pinsched.exports', true)) > 0, false)
$$;

CREATE FUNCTION export_run() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    at timestamptz := COALESCE(NEW.finished_at, NEW.started_at, clock_timestamp());
BEGIN
    INSERT INTO export (run_key, kind, is_end, run_end, happened_at, due_at)
    SELECT NEW.id, wanted.kind, NEW.finished_at IS NOT NULL,
           CASE WHEN NEW.finished_at IS NULL THEN NULL
                WHEN NEW.state <> 'success' AND NEW.cancel_requested_at IS NOT NULL THEN 'cancelled'
                ELSE NEW.state END,
           at, at
    FROM unnest(ARRAY['lineage', 'trace']) AS wanted (kind)
    WHERE is_exported(wanted.kind) AND (wanted.kind = 'lineage' OR NEW.finished_at IS NOT NULL);
    RETURN NULL;
END
$$;

CREATE TRIGGER run_begins_and_is_exported AFTER INSERT ON run FOR EACH ROW
    WHEN (NEW.state = 'running' AND current_setting('pinsched.exports', true) <> '')
    EXECUTE FUNCTION export_run();

CREATE TRIGGER run_is_exported AFTER UPDATE ON run FOR EACH ROW
    WHEN (OLD.state IS DISTINCT FROM NEW.state AND NEW.state <> 'queued' AND current_setting('pinsched.exports', true) <> '')
    EXECUTE FUNCTION export_run();

-- An attempt may end and the next one begin in one update.
CREATE FUNCTION export_attempt() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    was_on   boolean := OLD.state IN ('running', 'deferred');
    is_on    boolean := NEW.state IN ('running', 'deferred');
    is_other boolean := OLD.fence <> NEW.fence;
BEGIN
    IF was_on AND (is_other OR NOT is_on) THEN
        INSERT INTO export (run_key, kind, task_index, fence, map_of, is_end, happened_at, due_at)
        VALUES (NEW.run_key, 'lineage', NEW.task_index, OLD.fence, NEW.map_of, true, clock_timestamp(), clock_timestamp());
    END IF;
    IF is_on AND (is_other OR NOT was_on) THEN
        INSERT INTO export (run_key, kind, task_index, fence, map_of, is_end, happened_at, due_at)
        VALUES (NEW.run_key, 'lineage', NEW.task_index, NEW.fence, NEW.map_of, false, NEW.started_at, clock_timestamp());
    END IF;
    RETURN NULL;
END
$$;

CREATE TRIGGER task_run_is_exported AFTER UPDATE ON task_run FOR EACH ROW
    WHEN ((OLD.state IS DISTINCT FROM NEW.state OR OLD.fence <> NEW.fence)
          AND position('lineage' IN current_setting('pinsched.exports', true)) > 0)
    EXECUTE FUNCTION export_attempt();

-- An instance whose mapped task is cleared goes away while its attempt runs; one that goes with its run is told to nobody.
CREATE FUNCTION export_removal() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO export (run_key, kind, task_index, fence, map_of, is_end, happened_at, due_at)
    SELECT r.id, 'lineage', OLD.task_index, OLD.fence, OLD.map_of, true, clock_timestamp(), clock_timestamp()
    FROM run AS r
    WHERE r.id = OLD.run_key;
    RETURN NULL;
END
$$;

CREATE TRIGGER removed_task_run_is_exported AFTER DELETE ON task_run FOR EACH ROW
    WHEN (OLD.state IN ('running', 'deferred') AND position('lineage' IN current_setting('pinsched.exports', true)) > 0)
    EXECUTE FUNCTION export_removal();
