# What is typed often. The gate is ./scripts/test: what it runs is what must hold.

default:
    @just --list

# everything that must hold before a change lands
ci:
    ./scripts/test

# format, lint and check, without servers
check:
    ./scripts/test --only fmt,sqlx,clippy

# the tests, or some of them: just test sink::
test *FILTER:
    ./scripts/test --only tests -- -- {{FILTER}}

# private servers until Ctrl-C, and the variables that name them
servers:
    ./scripts/test --serve

# describe the queries again after a change to SQL
sqlx:
    ./scripts/prepare-sqlx

# the pipeline, on an embedded stack
run *ARGUMENTS:
    cargo run --release -- run dags/daily.yaml {{ARGUMENTS}}
