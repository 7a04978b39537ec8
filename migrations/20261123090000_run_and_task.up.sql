-- Runs, their tasks, attempts, outputs, logs and history: the scheduler's whole state.
-- Hot rows (task_run) are apart from history (attempt, transition, attempt_log), which is only appended to.
--
-- The words for states are domains and not checks of their tables: a table's checks are read and prepared anew for each
-- statement that writes to it, a domain's once a session. And what a step of the engine writes of a run whose row it
-- holds (attempt, task_output, transition) refers to the run without a foreign key, which would look it up for each row;
-- when a run is deleted a trigger deletes these.

CREATE DOMAIN run_state AS text
    CONSTRAINT run_state_check CHECK (VALUE IN ('queued', 'running', 'success', 'failed'));
CREATE DOMAIN run_type AS text
    CONSTRAINT run_type_check CHECK (VALUE IN ('manual', 'scheduled', 'backfill', 'operator_triggered'));
CREATE DOMAIN task_state AS text
    CONSTRAINT task_state_check CHECK (VALUE IN
        ('none', 'queued', 'running', 'deferred', 'mapped', 'up_for_retry', 'success', 'failed', 'upstream_failed', 'skipped'));
CREATE DOMAIN task_event AS text
    CONSTRAINT task_event_check CHECK (VALUE IN
        ('released', 'claimed', 'deferred', 'expanded', 'succeeded', 'failed_for_now', 'failed_for_good', 'interrupted', 'lost',
         'lost_for_good', 'skipped', 'skipped_itself', 'upstream_failed', 'cancelled', 'cleared', 'marked_success', 'marked_failed',
         'reopened'));
CREATE DOMAIN attempt_outcome AS text
    CONSTRAINT attempt_outcome_check CHECK (VALUE IN ('success', 'failed', 'interrupted', 'lost', 'cancelled', 'skipped'));

CREATE TABLE dag_version (
    id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    dag_id       text        NOT NULL,
    content_hash bytea       NOT NULL,
    file         text        NOT NULL, -- absolute: relative paths in tasks start at its folder
    source       text        NOT NULL,
    created_at   timestamptz NOT NULL,
    CONSTRAINT dag_version_dag_id_content_hash_key UNIQUE (dag_id, content_hash, file)
);

-- A DAG, once a run or a file of it was seen. What schedules it is its file's last good version; without one it runs
-- only by hand. Its row is also the lock under which its runs begin.
CREATE TABLE dag (
    id              bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    dag_id          text        NOT NULL CONSTRAINT dag_dag_id_key UNIQUE,
    dag_version_id  bigint      REFERENCES dag_version (id), -- what the next run is made from; null: no service knows it
    is_paused       boolean     NOT NULL DEFAULT false,
    retired_at      timestamptz,          -- when its file went away
    scheduled_until timestamptz,          -- ticks up to here were dealt with, this instant included
    next_tick       timestamptz,          -- when the schedule is due next, for people
    max_active_runs  integer    NOT NULL DEFAULT 16 CONSTRAINT dag_max_active_runs_check CHECK (max_active_runs > 0),
    max_active_tasks integer    CONSTRAINT dag_max_active_tasks_check CHECK (max_active_tasks > 0)
);

-- A pool's tasks take its slots while they run. One that a task names and nobody made has 128, as Airflow's default pool.
CREATE TABLE pool (
    name        text    PRIMARY KEY,
    slots       integer NOT NULL CONSTRAINT pool_slots_check CHECK (slots >= 0),
    description text
);

-- Runs over a stretch of the past, with a limit of their own.
CREATE TABLE backfill (
    id              bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    dag_key         bigint      NOT NULL REFERENCES dag (id),
    from_date       timestamptz NOT NULL,
    to_date         timestamptz NOT NULL,
    max_active_runs integer     NOT NULL CONSTRAINT backfill_max_active_runs_check CHECK (max_active_runs > 0),
    is_paused       boolean     NOT NULL DEFAULT false,
    created_at      timestamptz NOT NULL,
    cancelled_at    timestamptz
);

-- DAG files that are broken; the last good version of their DAGs goes on.
CREATE TABLE import_error (
    file     text        PRIMARY KEY,
    message  text        NOT NULL, -- as a person reads it: the diagnostics with their places underlined
    findings jsonb       NOT NULL, -- as a program does
    seen_at  timestamptz NOT NULL
);

CREATE TABLE worker (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, -- also the key of its advisory lock, its sign of life
    hostname   text        NOT NULL,
    pid        integer     NOT NULL,
    started_at timestamptz NOT NULL,
    seen_at    timestamptz NOT NULL DEFAULT clock_timestamp(), -- when it last renewed its leases
    ended_at   timestamptz,
    takes_any  boolean     NOT NULL DEFAULT false -- whether it takes tasks of every run that nobody drives as their own
);

CREATE TABLE run (
    id                  bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    uuid                uuid        NOT NULL CONSTRAINT run_uuid_key UNIQUE,
    dag_key             bigint      NOT NULL REFERENCES dag (id),
    dag_id              text        NOT NULL,
    run_id              text        NOT NULL,
    dag_version_id      bigint      NOT NULL REFERENCES dag_version (id),
    run_type            run_type    NOT NULL,
    logical_date        timestamptz NOT NULL,
    rerun               integer     NOT NULL DEFAULT 0, -- 0 for the first run of a logical date, then 1, 2, …
    data_interval_start timestamptz NOT NULL,
    data_interval_end   timestamptz NOT NULL,
    params              jsonb       NOT NULL,
    conf                jsonb       NOT NULL DEFAULT '{}', -- what its trigger gave
    note                text,
    triggered_by        text        NOT NULL DEFAULT 'run', -- schedule, cli, run, backfill, or a task as dag.task
    backfill_id         bigint      REFERENCES backfill (id),
    backfill_place      integer,    -- its turn within the backfill
    state               run_state   NOT NULL, -- queued: it waits for its turn, and has no tasks yet
    version             bigint      NOT NULL DEFAULT 0, -- rises with each step and each request about the run
    tasks_unfinished    integer     NOT NULL CONSTRAINT run_tasks_unfinished_check CHECK (tasks_unfinished >= 0),
    leaves_failed       integer     NOT NULL DEFAULT 0,
    queued_at           timestamptz NOT NULL,
    started_at          timestamptz,
    finished_at         timestamptz,
    cancel_requested_at timestamptz,
    cancel_reason       text,        -- where it was not a person who asked
    timeout_at          timestamptz, -- when it is cancelled for taking too long
    clears              integer     NOT NULL DEFAULT 0, -- how often tasks of it were cleared
    indexes_used        integer     NOT NULL DEFAULT 0, -- once instances of mapped tasks came: task indexes below it are never given again
    owner_id            bigint REFERENCES worker (id), -- the process that `pinsched run` drives it with; null: any worker
    CONSTRAINT run_dag_id_run_id_key UNIQUE (dag_id, run_id),
    CONSTRAINT run_dag_id_logical_date_key UNIQUE (dag_id, logical_date, rerun),
    CONSTRAINT run_finished_at_check CHECK ((finished_at IS NOT NULL) = (state IN ('success', 'failed')))
);

CREATE INDEX run_unfinished_idx ON run (dag_key, logical_date) WHERE state IN ('queued', 'running');
CREATE INDEX run_cancelled_idx ON run (id) WHERE cancel_requested_at IS NOT NULL AND state IN ('queued', 'running');
CREATE INDEX run_backfill_idx ON run (backfill_id, backfill_place) WHERE backfill_id IS NOT NULL;

CREATE TABLE task_run (
    run_key                    bigint      NOT NULL REFERENCES run (id) ON DELETE CASCADE,
    task_index                 integer     NOT NULL,
    dag_key                    bigint      NOT NULL,               -- no reference, as in attempt
    task_id                    text        NOT NULL,
    state                      task_state  NOT NULL,
    try_number                 integer     NOT NULL DEFAULT 1 CONSTRAINT task_run_try_number_check CHECK (try_number >= 1),
    first_try                  integer     NOT NULL DEFAULT 1, -- of those that count against its retries: a clear begins anew
    fence                      bigint      NOT NULL DEFAULT 0, -- rises on each claim, never reused
    lost                       integer     NOT NULL DEFAULT 0, -- how many workers died under it
    priority                   integer     NOT NULL DEFAULT 1,
    is_limited                 boolean     NOT NULL DEFAULT false, -- whether more than a worker's slots must be free for it
    pool                       text,
    pool_slots                 integer     NOT NULL DEFAULT 1,
    max_active_tis             integer,                            -- of this task at once, over all runs of the DAG
    max_active_tis_of_run      integer,                            -- the same within its run
    waits_for_past             text[],                             -- tasks that must have succeeded in the run before
    ready_at                   timestamptz,                    -- not before this instant; set while queued or up_for_retry
    worker_id                  bigint,                         -- no reference, as in attempt
    lease_until                timestamptz,                    -- written and compared with clock_timestamp() alone
    upstream_unfinished        integer     NOT NULL CONSTRAINT task_run_upstream_unfinished_check CHECK (upstream_unfinished >= 0),
    upstream_success           integer     NOT NULL DEFAULT 0,
    upstream_failed            integer     NOT NULL DEFAULT 0,
    upstream_upstream_failed   integer     NOT NULL DEFAULT 0,
    upstream_skipped           integer     NOT NULL DEFAULT 0,
    upstream_setups_succeeded  integer     NOT NULL DEFAULT 0,
    upstream_setups_skipped    integer     NOT NULL DEFAULT 0,
    started_at                 timestamptz,
    finished_at                timestamptz,
    error                      text,
    map_of                     integer,                        -- of an instance: the index of the mapped task
    map_index                  integer,                        -- and which instance it is, from 0
    PRIMARY KEY (run_key, task_index),
    CONSTRAINT task_run_map_check CHECK ((map_of IS NULL) = (map_index IS NULL)),
    CONSTRAINT task_run_lease_check CHECK ((state = 'running') = (lease_until IS NOT NULL)),
    CONSTRAINT task_run_worker_check CHECK ((state IN ('running', 'deferred')) = (worker_id IS NOT NULL)),
    CONSTRAINT task_run_ready_at_check CHECK ((state IN ('queued', 'up_for_retry')) = (ready_at IS NOT NULL)),
    CONSTRAINT task_run_finished_at_check
        CHECK ((finished_at IS NOT NULL) = (state IN ('success', 'failed', 'upstream_failed', 'skipped')))
) WITH (fillfactor = 70); -- room for updates on the same page: a task is updated a handful of times

-- The queue: small however long the history is. By DAG, so that each has its share.
CREATE INDEX task_run_ready_idx ON task_run (dag_key, priority DESC, ready_at, run_key, task_index)
    WHERE state IN ('queued', 'up_for_retry');
CREATE INDEX task_run_limited_idx ON task_run (dag_key, pool) WHERE is_limited AND state IN ('queued', 'up_for_retry');
CREATE INDEX task_run_running_idx ON task_run (worker_id) WHERE state IN ('running', 'deferred');
CREATE UNIQUE INDEX task_run_map_idx ON task_run (run_key, map_of, map_index) WHERE map_of IS NOT NULL;
CREATE INDEX task_run_busy_idx ON task_run (dag_key, pool) WHERE state = 'running' AND is_limited;

CREATE TABLE attempt (
    run_key     bigint      NOT NULL,
    task_index  integer     NOT NULL,
    fence       bigint      NOT NULL,
    try_number  integer     NOT NULL,
    worker_id   bigint      NOT NULL,
    started_at  timestamptz NOT NULL,
    finished_at timestamptz,
    outcome     attempt_outcome,
    error       text,
    PRIMARY KEY (run_key, task_index, fence),
    CONSTRAINT attempt_finished_at_check CHECK ((finished_at IS NULL) = (outcome IS NULL))
);

-- What a task left, here or, where it is too large for a row, in object storage.
CREATE TABLE task_output (
    run_key    bigint NOT NULL,
    task_index integer NOT NULL,
    output     jsonb,
    spilled    jsonb, -- where it is instead: url, bytes, sha256
    PRIMARY KEY (run_key, task_index),
    CONSTRAINT task_output_place_check CHECK ((output IS NULL) <> (spilled IS NULL))
);

-- Where in object storage outputs of a run are; without its run, what is there is to be deleted.
CREATE TABLE spill_place (
    place   text   PRIMARY KEY,
    run_key bigint
);
CREATE INDEX spill_place_run_idx ON spill_place (run_key);

-- What each instance of a mapped task has for itself, as the task's expansion found it.
CREATE TABLE map_item (
    run_key    bigint  NOT NULL,
    task_index integer NOT NULL,
    item       jsonb   NOT NULL,
    label      text,
    PRIMARY KEY (run_key, task_index)
);

-- Append-only: what happened to each task, in order.
CREATE TABLE transition (
    id         bigint      GENERATED ALWAYS AS IDENTITY,
    run_key    bigint      NOT NULL,
    task_index integer     NOT NULL,
    fence      bigint      NOT NULL,
    event      task_event  NOT NULL,
    from_state task_state  NOT NULL,
    to_state   task_state  NOT NULL,
    at         timestamptz NOT NULL,
    PRIMARY KEY (run_key, task_index, id)
);

-- An attempt's log in chunks of many lines, in order of seq.
CREATE TABLE attempt_log (
    run_key    bigint  NOT NULL REFERENCES run (id) ON DELETE CASCADE,
    task_index integer NOT NULL,
    fence      bigint  NOT NULL,
    seq        integer NOT NULL,
    body       text    NOT NULL,
    PRIMARY KEY (run_key, task_index, fence, seq)
);

-- Undoes a step whose plan does not fit: a task is not in the state that it was seen in.
CREATE FUNCTION refuse_step() RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'a task is not in the state that its plan moves it from' USING ERRCODE = 'serialization_failure';
END
$$;

CREATE FUNCTION delete_what_runs_left() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM attempt WHERE run_key IN (SELECT id FROM deleted);
    DELETE FROM task_output WHERE run_key IN (SELECT id FROM deleted);
    DELETE FROM map_item WHERE run_key IN (SELECT id FROM deleted);
    UPDATE spill_place SET run_key = NULL WHERE run_key IN (SELECT id FROM deleted);
    DELETE FROM transition WHERE run_key IN (SELECT id FROM deleted);
    RETURN NULL;
END
$$;

CREATE TRIGGER run_deleted AFTER DELETE ON run REFERENCING OLD TABLE AS deleted
    FOR EACH STATEMENT EXECUTE FUNCTION delete_what_runs_left();

-- What is free of each limit, for the claim, and for who asks why a task does not run.
CREATE VIEW pool_free AS
SELECT p.name, p.slots, p.slots - COALESCE(sum(t.pool_slots), 0) AS free
FROM pool AS p
LEFT JOIN task_run AS t ON t.pool = p.name AND t.is_limited AND t.state = 'running'
GROUP BY p.name;

CREATE VIEW dag_free AS
SELECT d.id AS dag_key, d.max_active_tasks, d.max_active_tasks - count(t.run_key) AS free
FROM dag AS d
LEFT JOIN task_run AS t ON t.dag_key = d.id AND t.is_limited AND t.state = 'running'
WHERE d.max_active_tasks IS NOT NULL
GROUP BY d.id;

-- Whether the run before lets a task of this run begin: each of these tasks succeeded there, or was skipped. The first run
-- of a DAG has none before it.
CREATE FUNCTION past_allows(of_run bigint, tasks text[]) RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT NOT EXISTS (
        SELECT 1
        FROM task_run AS t
        WHERE t.run_key = (
                SELECT before.id
                FROM run AS this
                JOIN run AS before ON before.dag_id = this.dag_id AND before.logical_date < this.logical_date
                WHERE this.id = of_run
                ORDER BY before.logical_date DESC, before.rerun DESC
                LIMIT 1)
          AND t.task_id = ANY (tasks)
          AND t.map_of IS NULL
          AND t.state NOT IN ('success', 'skipped'))
$$;
