//! Names and keys as types: parsed once at the edge, then passed on as what they are.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Airflow's own limit for the ids of DAGs, tasks and runs.
pub(in crate::domain) const LONGEST_ID: usize = 250;

/// A name that is not one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// Nothing was given.
    #[error("{what} must not be empty")]
    Empty {
        /// Which kind of name.
        what: &'static str,
    },
    /// More than 250 characters.
    #[error("{what} `{start}…` has {length} characters; at most {LONGEST_ID} are allowed")]
    TooLong {
        /// Which kind of name.
        what: &'static str,
        /// Its first characters.
        start: String,
        /// How many it has.
        length: usize,
    },
    /// A character outside of letters, digits and `_ - .` (and, for runs, `: + ~`).
    #[error("{what} `{id}` has `{character}` in it; {allowed} are allowed")]
    Character {
        /// Which kind of name.
        what: &'static str,
        /// The whole of it.
        id: String,
        /// The first character that names do not have.
        character: char,
        /// Those that they have.
        allowed: &'static str,
    },
    /// A name that commands would take for something else.
    #[error("{what} cannot be `{id}`: {why}; choose another")]
    Taken {
        /// Which kind of name.
        what: &'static str,
        /// The whole of it.
        id: String,
        /// What it means to commands.
        why: &'static str,
    },
}

/// What commands take for the latest run, of a DAG or of all.
pub const LATEST: &str = "latest";

/// What a run's id may not be, so that a command that is given it means that run.
fn nameable(id: String) -> Result<String, IdError> {
    let why = match id.as_str() {
        LATEST => "it stands for the latest run where commands name one",
        text if text.starts_with('-') => "commands would take it for a flag, for the `-` that it begins with",
        _ => return Ok(id),
    };
    Err(IdError::Taken { what: "a run id", id, why })
}

fn any(id: String) -> Result<String, IdError> {
    Ok(id)
}

fn validated(what: &'static str, text: &str, extra: &str) -> Result<String, IdError> {
    let length = text.chars().count();
    if length == 0 {
        return Err(IdError::Empty { what });
    }
    if length > LONGEST_ID {
        return Err(IdError::TooLong { what, start: text.chars().take(20).collect(), length });
    }
    let allowed = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-' | '.') || extra.contains(c);
    match text.chars().find(|&c| !allowed(c)) {
        Some(character) => {
            let allowed = match extra {
                RUNS_TOO => "letters, digits, `_`, `-`, `.`, `:`, `+` and `~`",
                _ => "letters, digits, `_`, `-` and `.`",
            };
            Err(IdError::Character { what, id: text.to_owned(), character, allowed })
        }
        None => Ok(text.to_owned()),
    }
}

/// What the ids of runs have besides: times are in them.
const RUNS_TOO: &str = ":+~";

macro_rules! name {
    ($(#[$doc:meta])* $type:ident, $what:literal, $extra:expr, $rule:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
        #[serde(transparent)]
        pub struct $type(String);

        impl $type {
            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $type {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                validated($what, text, $extra).and_then($rule).map(Self)
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

name! {
    /// The id of a DAG: letters of any script, digits, `_`, `-`, `.`; 1 to 250 characters.
    DagId, "a DAG id", "", any
}
name! {
    /// The id of a task within its DAG; the same characters as a [`DagId`].
    TaskId, "a task id", "", any
}
name! {
    /// The id of a run within its DAG, as Airflow forms it: `manual__2026-03-01T02:00:00+00:00`. Letters of any script, digits,
    /// `_`, `-`, `.`, `:`, `+`, `~`; 1 to 250 characters; neither `latest` nor with a `-` at its beginning.
    RunId, "a run id", RUNS_TOO, nameable
}

/// The key of a run in our own tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RunKey(pub i64);

/// The place of a task in its DAG's list of tasks; with a [`RunKey`] the key of a task run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TaskIndex(pub u32);

impl TaskIndex {
    /// The same as a position in a slice.
    #[must_use]
    pub fn as_usize(self) -> usize {
        self.0 as usize
    }
}

/// One task of one run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TaskRunKey {
    /// The run.
    pub run: RunKey,
    /// The task in it.
    pub task: TaskIndex,
}

/// One execution of one task by one worker. Every write about the task, to Postgres or to the outside, shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct AttemptKey {
    /// The run's identity towards the outside: in object names, transactional ids, record headers.
    pub run_uuid: Uuid,
    /// The task run.
    pub task_run: TaskRunKey,
    /// Rises with each counted retry or clear, from 1; part of every outside idempotency key.
    pub try_number: i32,
    /// Rises with each claim and is never reused: a later holder has a higher one.
    pub fence: i64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_take_airflows_characters_and_name_the_first_wrong_one() {
        assert_eq!("pinterest_daily-2.x".parse::<DagId>().map(|id| id.to_string()), Ok("pinterest_daily-2.x".into()));
        assert!("manual__2026-03-01T02:00:00+00:00".parse::<RunId>().is_ok());
        assert_eq!(
            "a b".parse::<TaskId>().unwrap_err().to_string(),
            "a task id `a b` has ` ` in it; letters, digits, `_`, `-` and `.` are allowed"
        );
        assert_eq!("".parse::<TaskId>().unwrap_err().to_string(), "a task id must not be empty");
        assert!("x".repeat(251).parse::<DagId>().is_err());
    }

    #[test]
    fn the_ids_of_runs_have_more_characters_and_mean_nothing_else_to_commands() {
        let refused = |text: &str| text.parse::<RunId>().unwrap_err().to_string();
        assert_eq!(
            refused("DAG@a"),
            "a run id `DAG@a` has `@` in it; letters, digits, `_`, `-`, `.`, `:`, `+` and `~` are allowed"
        );
        assert_eq!(
            refused("latest"),
            "a run id cannot be `latest`: it stands for the latest run where commands name one; choose another"
        );
        assert!(refused("-1").starts_with("a run id cannot be `-1`: commands would take it for a flag"));
        assert!(refused(&"x".repeat(251)).ends_with("has 251 characters; at most 250 are allowed"));
        for fine in ["latest_1", "Latest", "0197-a", "é:+~"] {
            assert!(fine.parse::<RunId>().is_ok(), "{fine}");
        }
        assert!("latest".parse::<TaskId>().is_ok());
    }
}
