//! The parts of the stack, each started when somebody needs it.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// One part of the stack.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Component {
    /// The Postgres server, with the database of pinsched's state.
    Postgres,
    /// The Kafka broker.
    Kafka,
    /// The S3 server.
    S3,
    /// The source tables, in a database of the Postgres server.
    Source,
}

impl Component {
    /// All parts, in the order in which they are shown.
    pub const ALL: [Self; 4] = [Self::Postgres, Self::Kafka, Self::S3, Self::Source];

    fn name(self) -> &'static str {
        match self {
            Self::Postgres => "postgres",
            Self::Kafka => "kafka",
            Self::S3 => "s3",
            Self::Source => "source",
        }
    }
}

impl fmt::Display for Component {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// There is no such part.
#[derive(Debug, thiserror::Error)]
#[error("the stack has no component `{0}`")]
pub struct UnknownComponent(String);

impl FromStr for Component {
    type Err = UnknownComponent;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|component| component.name() == name)
            .ok_or_else(|| UnknownComponent(name.to_owned()))
    }
}

/// How far a part is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "phase", rename_all = "snake_case")]
pub enum Phase {
    /// On its way.
    Starting,
    /// It answers.
    Ready,
    /// It did not start; the next who needs it tries again.
    Failed {
        /// Why not.
        message: String,
    },
}

/// Where a part may listen that is started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ports {
    /// Where it did the last time: somebody who knows that place waits for it.
    Kept,
    /// There as well, or elsewhere where a stranger has that port by now.
    Any,
}

/// The phase of each part that somebody needed.
pub(super) type Phases = BTreeMap<Component, Phase>;
