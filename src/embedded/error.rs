//! Why the stack, or the home it lives in, cannot be used.

use std::error::Error;
use std::io;
use std::path::PathBuf;

use super::component::Component;

/// The home cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum HomeError {
    /// A file or folder of it.
    #[error("could not {action} {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said: no space left, permission denied.
        source: io::Error,
    },
    /// A file that pinsched wrote is not what it wrote.
    #[error("could not read {}: it is damaged", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: serde_json::Error,
    },
    /// The data is there, and its passwords are not.
    #[error(
        "there is no {}, which has the passwords of the data beside it: put it back, or remove the folder to start anew",
        path.display()
    )]
    NoCredentials {
        /// The file that is missing.
        path: PathBuf,
    },
    /// A stranger has the port at which others wait for this part.
    #[error("port {port}, where the embedded {component} was reached so far, is taken by another program")]
    PortTaken {
        /// The part.
        component: Component,
        /// Its port.
        port: u16,
    },
    /// No port of the loopback interface is free.
    #[error("could not find a free port on 127.0.0.1")]
    NoPort(#[source] io::Error),
}

impl HomeError {
    pub(super) fn io(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { action, path, source }
    }
}

/// The stack cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StackError {
    /// Its home.
    #[error(transparent)]
    Home(#[from] HomeError),
    /// A process that cannot be asked serves this home: it hangs, or it is in another container.
    #[error(
        "the stack of {} is served by {holder}, which does not answer here (containers that share a home must share \
         their network as well)", home.display()
    )]
    Busy {
        /// The home.
        home: PathBuf,
        /// The process.
        holder: String,
    },
    /// The process that serves this home does not do what it was asked for; it may be of another version.
    #[error("the stack of {}, served by {holder}, refused: {said} (`pinsched down` stops it)", home.display())]
    Refused {
        /// The home.
        home: PathBuf,
        /// The process.
        holder: String,
        /// What it answered.
        said: String,
    },
    /// What is to be changed is in use.
    #[error("the stack of {} runs: `pinsched down` stops it", home.display())]
    InUse {
        /// The home.
        home: PathBuf,
    },
    /// The broker's directory.
    #[error(transparent)]
    Broker(#[from] super::broker::BrokerError),
    /// The process was not started.
    #[error("could not start the stack of {}", home.display())]
    Spawn {
        /// The home.
        home: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The process was started and ended before it listened.
    #[error("could not start the stack of {}: {message} (see {})", home.display(), log.display())]
    Died {
        /// The home.
        home: PathBuf,
        /// What it said last.
        message: String,
        /// Where it says more.
        log: PathBuf,
    },
    /// A part did not start.
    #[error("could not start the embedded {component} of {}: {message}", home.display())]
    Component {
        /// The part.
        component: Component,
        /// The home.
        home: PathBuf,
        /// Why not.
        message: String,
    },
    /// It took too long.
    #[error("the stack of {} did not answer within {seconds} s (see {})", home.display(), log.display())]
    Late {
        /// The home.
        home: PathBuf,
        /// How long was waited.
        seconds: u64,
        /// Where it says more.
        log: PathBuf,
    },
    /// Its control endpoint cannot be spoken to.
    #[error("could not ask the stack of {}", home.display())]
    Control {
        /// The home.
        home: PathBuf,
        /// Why not.
        source: reqwest::Error,
    },
    /// Somebody wanted its end.
    #[error("the stack of {} was stopped: {reason}", home.display())]
    Stopped {
        /// The home.
        home: PathBuf,
        /// Who or what.
        reason: String,
    },
    /// It was started again by somebody to whom other ports were as good.
    #[error("the stack of {} is back on other ports than this process knows", home.display())]
    Moved {
        /// The home.
        home: PathBuf,
    },
    /// The process's runtime or its endpoint.
    #[error("could not {action} for the stack")]
    Serve {
        /// What was tried.
        action: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

/// An error with its causes on one line, for those who get only text.
pub(super) fn told(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let message = error.to_string();
        if !text.contains(&message) {
            text = format!("{text}: {message}");
        }
        cause = error.source();
    }
    text
}
