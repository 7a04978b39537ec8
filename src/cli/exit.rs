//! The three exits, mapped in one place.

use std::process::ExitCode;

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// 0: done, or the answer is yes.
    Done,
    /// 1: the answer is no: an invalid DAG, a failed run.
    No,
    /// 2: it could not be tried: usage, settings, a database that is down.
    NotTried,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        match exit {
            Exit::Done => Self::SUCCESS,
            Exit::No => Self::from(1),
            Exit::NotTried => Self::from(2),
        }
    }
}
