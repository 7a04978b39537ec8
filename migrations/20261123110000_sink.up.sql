-- What a sink must not forget: the offsets that a run's sink took on, and how far it is, cut by cut.
-- A retry reads the same range and goes on after the last cut, so it names and fills the same objects.

CREATE TABLE sink_range (
    run_key      bigint  NOT NULL REFERENCES run (id) ON DELETE CASCADE,
    task_index   integer NOT NULL,
    topic        text    NOT NULL,
    partition    integer NOT NULL,
    start_offset bigint  NOT NULL,
    end_offset   bigint  NOT NULL, -- exclusive
    next_offset  bigint  NOT NULL, -- all below it is in durable objects (or counted as left out)
    fence        bigint  NOT NULL, -- the attempt that settled it
    PRIMARY KEY (run_key, task_index, topic, partition),
    CONSTRAINT sink_range_offsets_check
        CHECK (start_offset >= 0 AND start_offset <= next_offset AND next_offset <= end_offset)
);

-- A cut: consecutive offsets whose records went into objects that were finished together.
CREATE TABLE sink_cut (
    run_key         bigint  NOT NULL,
    task_index      integer NOT NULL,
    topic           text    NOT NULL,
    partition       integer NOT NULL,
    start_offset    bigint  NOT NULL,
    end_offset      bigint  NOT NULL, -- exclusive
    fence           bigint  NOT NULL,
    records         bigint  NOT NULL, -- in the objects
    dead_lettered   bigint  NOT NULL,
    duplicates      bigint  NOT NULL, -- replayed sequences, dropped
    foreign_records bigint  NOT NULL, -- of other runs or of nobody, left to them
    tombstones      bigint  NOT NULL, -- skipped
    PRIMARY KEY (run_key, task_index, topic, partition, start_offset),
    CONSTRAINT sink_cut_offsets_check CHECK (start_offset <= end_offset),
    CONSTRAINT sink_cut_range_fkey FOREIGN KEY (run_key, task_index, topic, partition)
        REFERENCES sink_range (run_key, task_index, topic, partition) ON DELETE CASCADE
);

CREATE TABLE sink_object (
    run_key      bigint  NOT NULL,
    task_index   integer NOT NULL,
    topic        text    NOT NULL,
    partition    integer NOT NULL,
    cut_offset   bigint  NOT NULL,
    key          text    NOT NULL,
    start_offset bigint  NOT NULL, -- of its first record
    last_offset  bigint  NOT NULL, -- of its last record
    records      bigint  NOT NULL,
    bytes        bigint  NOT NULL,
    sha256       bytea   NOT NULL CONSTRAINT sink_object_sha256_check CHECK (length(sha256) = 32),
    PRIMARY KEY (run_key, task_index, topic, partition, cut_offset, key),
    CONSTRAINT sink_object_cut_fkey FOREIGN KEY (run_key, task_index, topic, partition, cut_offset)
        REFERENCES sink_cut (run_key, task_index, topic, partition, start_offset) ON DELETE CASCADE
);

-- The highest sequence sunk of each producing task: a record at or below it is a replay. For ranges that no position has.
CREATE TABLE sink_mark (
    run_key    bigint  NOT NULL,
    task_index integer NOT NULL,
    topic      text    NOT NULL,
    partition  integer NOT NULL,
    producer   text    NOT NULL,
    sequence   bigint  NOT NULL,
    PRIMARY KEY (run_key, task_index, topic, partition, producer),
    CONSTRAINT sink_mark_range_fkey FOREIGN KEY (run_key, task_index, topic, partition)
        REFERENCES sink_range (run_key, task_index, topic, partition) ON DELETE CASCADE
);

-- How far the sinks are that take all records of a topic, whosever they are; outlives the history of runs. One run at a
-- time holds a partition: the next one goes on from here, once all up to the last end is sunk or that run's task is over.
CREATE TABLE sink_position (
    dag_id      text     NOT NULL,
    task_id     text     NOT NULL,
    topic       text     NOT NULL,
    partition   integer  NOT NULL,
    next_offset bigint   NOT NULL CONSTRAINT sink_position_next_offset_check CHECK (next_offset >= 0),
    ends        bigint[] NOT NULL, -- where runs' ranges ended: objects end there, whichever run comes to write them
    run_key     bigint   NOT NULL, -- who took what lies before the last end; no reference, since runs are dropped
    task_index  integer  NOT NULL,
    PRIMARY KEY (dag_id, task_id, topic, partition)
);

CREATE INDEX sink_position_run_idx ON sink_position (run_key, task_index);

-- The marks below a position. They stay with it, since a replay may come to the next run.
CREATE TABLE sink_position_mark (
    dag_id    text        NOT NULL,
    task_id   text        NOT NULL,
    topic     text        NOT NULL,
    partition integer     NOT NULL,
    producer  text        NOT NULL,
    sequence  bigint      NOT NULL,
    moved_at  timestamptz NOT NULL, -- the last time; old ones are forgotten
    PRIMARY KEY (dag_id, task_id, topic, partition, producer),
    CONSTRAINT sink_position_mark_position_fkey FOREIGN KEY (dag_id, task_id, topic, partition)
        REFERENCES sink_position (dag_id, task_id, topic, partition) ON DELETE CASCADE
);
