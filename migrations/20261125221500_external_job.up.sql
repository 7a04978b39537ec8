-- What a task asked of another system, so that a later attempt goes on with it instead of asking again.
-- A row is there before the other system is asked; its handle is what that one answered.

CREATE TABLE external_job (
    run_key    bigint      NOT NULL REFERENCES run (id) ON DELETE CASCADE,
    task_index integer     NOT NULL,
    try_number integer     NOT NULL, -- a counted retry asks anew
    token      text        NOT NULL, -- what the other system is to know the request again by
    handle     jsonb,
    begun_at   timestamptz NOT NULL,
    fence      bigint      NOT NULL, -- the attempt that wrote last
    PRIMARY KEY (run_key, task_index, try_number)
);
