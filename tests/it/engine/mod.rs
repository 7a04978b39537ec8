//! The engine on a real Postgres with scripted operators: whole runs, as text.

mod endings;
mod examples;
mod logs;
mod mapping;
mod outputs;
mod rules;
mod skips;
mod stops;
mod takeover;
mod teardowns;

use pinsched::domain::run_state::RunState;
use pinsched::engine::shutdown::Shutdown;
use pinsched::engine::{Driven, Engine};

use crate::dags::{House, Play};

/// Drives the run to its end and returns its picture.
async fn whole_run(text: &str) -> String {
    let house = House::open().await;
    let play = house.play(text).await;
    drive(&house, &play).await;
    house.picture(&play).await
}

/// Drives the run to its conclusion with an engine of its own.
pub(crate) async fn drive(house: &House, play: &Play) -> RunState {
    drive_with(&house.engine().await, house, play).await
}

async fn drive_with(engine: &Engine, house: &House, play: &Play) -> RunState {
    match engine.drive(house.running(play).await, &Shutdown::default()).await.expect("the engine goes on") {
        Driven::Concluded(state) => state,
        Driven::Stopped => panic!("nobody stopped it"),
    }
}
