//! When DAGs run: Airflow's own answers, every zone's changes of the clocks, data intervals, and the command that prints
//! ticks.

mod airflow;
mod command;
mod intervals;
mod zones;

use pinsched::domain::Timestamp;

fn at(text: &str) -> Timestamp {
    text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
}
