-- Connections and variables that people keep in pinsched itself, sealed with keys that the database never sees: a dump
-- gives away the names alone.

CREATE TABLE connection (
    id         text        NOT NULL CONSTRAINT connection_pkey PRIMARY KEY,
    sealed     bytea       NOT NULL, -- Airflow's JSON form, by AES-256-GCM, bound to table and id
    updated_at timestamptz NOT NULL
);

CREATE TABLE variable (
    name       text        NOT NULL CONSTRAINT variable_pkey PRIMARY KEY,
    sealed     bytea       NOT NULL, -- its text, by AES-256-GCM, bound to table and name
    updated_at timestamptz NOT NULL
);
