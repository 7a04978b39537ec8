-- Runs, their tasks, attempts, outputs, logs and history: the scheduler's whole state.
-- Hot rows (task_run) are apart from history (attempt, transition, attempt_log), which is only appended to.

CREATE TABLE dag_version (
    id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    dag_id       text        NOT NULL,
    content_hash bytea       NOT NULL,
    file         text        NOT NULL, -- absolute: relative paths in tasks start at its folder
    source       text        NOT NULL,
    created_at   timestamptz NOT NULL,
    CONSTRAINT dag_version_dag_id_content_hash_key UNIQUE (dag_id, content_hash, file)
);

CREATE TABLE worker (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, -- also the key of its advisory lock, its sign of life
    hostname   text        NOT NULL,
    pid        integer     NOT NULL,
    started_at timestamptz NOT NULL,
    seen_at    timestamptz NOT NULL DEFAULT clock_timestamp(), -- when it last renewed its leases
    ended_at   timestamptz
);

CREATE TABLE run (
    id                  bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    uuid                uuid        NOT NULL CONSTRAINT run_uuid_key UNIQUE,
    dag_id              text        NOT NULL,
    run_id              text        NOT NULL,
    dag_version_id      bigint      NOT NULL REFERENCES dag_version (id),
    run_type            text        NOT NULL CONSTRAINT run_run_type_check CHECK (run_type IN ('manual', 'scheduled', 'backfill')),
    logical_date        timestamptz NOT NULL,
    rerun               integer     NOT NULL DEFAULT 0, -- 0 for the first run of a logical date, then 1, 2, …
    data_interval_start timestamptz NOT NULL,
    data_interval_end   timestamptz NOT NULL,
    params              jsonb       NOT NULL,
    state               text        NOT NULL CONSTRAINT run_state_check CHECK (state IN ('queued', 'running', 'success', 'failed')),
    tasks_unfinished    integer     NOT NULL CONSTRAINT run_tasks_unfinished_check CHECK (tasks_unfinished >= 0),
    leaves_failed       integer     NOT NULL DEFAULT 0,
    queued_at           timestamptz NOT NULL,
    started_at          timestamptz,
    finished_at         timestamptz,
    cancel_requested_at timestamptz,
    owner_id            bigint REFERENCES worker (id), -- the process that `pinsched run` drives it with; null: any worker
    CONSTRAINT run_dag_id_run_id_key UNIQUE (dag_id, run_id),
    CONSTRAINT run_dag_id_logical_date_key UNIQUE (dag_id, logical_date, rerun),
    CONSTRAINT run_finished_at_check CHECK ((finished_at IS NOT NULL) = (state IN ('success', 'failed')))
);

CREATE INDEX run_unfinished_idx ON run (dag_id, logical_date) WHERE state IN ('queued', 'running');

CREATE TABLE task_run (
    run_key                    bigint      NOT NULL REFERENCES run (id) ON DELETE CASCADE,
    task_index                 integer     NOT NULL,
    task_id                    text        NOT NULL,
    state                      text        NOT NULL CONSTRAINT task_run_state_check CHECK (state IN
        ('none', 'queued', 'running', 'up_for_retry', 'success', 'failed', 'upstream_failed', 'skipped')),
    try_number                 integer     NOT NULL DEFAULT 1 CONSTRAINT task_run_try_number_check CHECK (try_number >= 1),
    fence                      bigint      NOT NULL DEFAULT 0, -- rises on each claim, never reused
    lost                       integer     NOT NULL DEFAULT 0, -- how many workers died under it
    priority                   integer     NOT NULL DEFAULT 1,
    ready_at                   timestamptz,                    -- not before this instant; set while queued or up_for_retry
    worker_id                  bigint      REFERENCES worker (id),
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
    PRIMARY KEY (run_key, task_index),
    CONSTRAINT task_run_run_key_task_id_key UNIQUE (run_key, task_id),
    CONSTRAINT task_run_lease_check CHECK ((state = 'running') = (lease_until IS NOT NULL AND worker_id IS NOT NULL)),
    CONSTRAINT task_run_ready_at_check CHECK ((state IN ('queued', 'up_for_retry')) = (ready_at IS NOT NULL)),
    CONSTRAINT task_run_finished_at_check
        CHECK ((finished_at IS NOT NULL) = (state IN ('success', 'failed', 'upstream_failed', 'skipped')))
) WITH (fillfactor = 70); -- room for updates on the same page: a task is updated a handful of times

-- The queue: small however long the history is.
CREATE INDEX task_run_ready_idx ON task_run (priority DESC, ready_at, run_key, task_index)
    WHERE state IN ('queued', 'up_for_retry');
CREATE INDEX task_run_running_idx ON task_run (worker_id) WHERE state = 'running';

CREATE TABLE attempt (
    run_key     bigint      NOT NULL REFERENCES run (id) ON DELETE CASCADE,
    task_index  integer     NOT NULL,
    fence       bigint      NOT NULL,
    try_number  integer     NOT NULL,
    worker_id   bigint      NOT NULL,
    started_at  timestamptz NOT NULL,
    finished_at timestamptz,
    outcome     text CONSTRAINT attempt_outcome_check CHECK (outcome IN
        ('success', 'failed', 'interrupted', 'lost', 'cancelled')),
    error       text,
    PRIMARY KEY (run_key, task_index, fence),
    CONSTRAINT attempt_finished_at_check CHECK ((finished_at IS NULL) = (outcome IS NULL))
);

CREATE TABLE task_output (
    run_key    bigint NOT NULL REFERENCES run (id) ON DELETE CASCADE,
    task_index integer NOT NULL,
    output     jsonb  NOT NULL,
    PRIMARY KEY (run_key, task_index)
);

-- Append-only: what happened to each task, in order.
CREATE TABLE transition (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    run_key    bigint      NOT NULL,
    task_index integer     NOT NULL,
    fence      bigint      NOT NULL,
    event      text        NOT NULL CONSTRAINT transition_event_check CHECK (event IN
        ('released', 'claimed', 'succeeded', 'failed_for_now', 'failed_for_good', 'interrupted', 'lost',
         'lost_for_good', 'skipped', 'upstream_failed', 'cancelled')),
    from_state text        NOT NULL,
    to_state   text        NOT NULL,
    at         timestamptz NOT NULL
);

CREATE INDEX transition_run_key_idx ON transition (run_key, task_index, id);

-- An attempt's log in chunks of many lines, in order of seq.
CREATE TABLE attempt_log (
    run_key    bigint  NOT NULL REFERENCES run (id) ON DELETE CASCADE,
    task_index integer NOT NULL,
    fence      bigint  NOT NULL,
    seq        integer NOT NULL,
    body       text    NOT NULL,
    PRIMARY KEY (run_key, task_index, fence, seq)
);
