-- What must not be lost between the source and Kafka: which staged files won, and where a run's records stand in its
-- topics. Written under the attempt's fence; the first writer of a start or a manifest wins, whoever comes later.

CREATE TABLE staging (
    run_key    bigint  NOT NULL REFERENCES run (id) ON DELETE CASCADE,
    task_index integer NOT NULL,
    fence      bigint  NOT NULL, -- the attempt whose files these are
    bucket     text    NOT NULL,
    manifest   text    NOT NULL, -- the manifest's key; it lists the files
    sha256     text    NOT NULL, -- of the manifest, in hex
    PRIMARY KEY (run_key, task_index)
);

CREATE TABLE production (
    run_key       bigint  NOT NULL REFERENCES run (id) ON DELETE CASCADE,
    task_index    integer NOT NULL,
    transactional boolean NOT NULL,
    begun         boolean NOT NULL DEFAULT false, -- from here on the progress must be found in Kafka, or something is lost
    rows_done     bigint  NOT NULL DEFAULT 0 CONSTRAINT production_rows_done_check CHECK (rows_done >= 0),
    PRIMARY KEY (run_key, task_index),
    -- With transactions Kafka alone knows the progress: it moves with the records.
    CONSTRAINT production_progress_check CHECK (NOT transactional OR rows_done = 0)
);

CREATE TABLE production_topic (
    run_key       bigint  NOT NULL,
    task_index    integer NOT NULL,
    topic         text    NOT NULL,
    dead_lettered bigint  NOT NULL CONSTRAINT production_topic_dead_lettered_check CHECK (dead_lettered >= 0),
    PRIMARY KEY (run_key, task_index, topic),
    CONSTRAINT production_topic_production_fkey
        FOREIGN KEY (run_key, task_index) REFERENCES production ON DELETE CASCADE
);

CREATE TABLE production_range (
    run_key      bigint  NOT NULL,
    task_index   integer NOT NULL,
    topic        text    NOT NULL,
    partition    integer NOT NULL,
    start_offset bigint  NOT NULL,
    end_offset   bigint, -- exclusive; known when all rows are sent
    PRIMARY KEY (run_key, task_index, topic, partition),
    CONSTRAINT production_range_production_fkey
        FOREIGN KEY (run_key, task_index) REFERENCES production ON DELETE CASCADE,
    CONSTRAINT production_range_order_check CHECK (end_offset >= start_offset)
);
