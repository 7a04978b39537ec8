//! What can go wrong when the broker is started or stopped. Errors of single requests are answered on the wire as
//! Kafka error codes and never become a `BrokerError`.

use std::io;
use std::path::{Path, PathBuf};

/// Why the broker could not start, or could not close its files.
#[derive(Debug, thiserror::Error)]
pub enum BrokerError {
    /// The data directory could not be read or written: the machine's fault, worth another attempt after a repair.
    #[error("could not {action} `{}`", path.display())]
    Io {
        /// What was attempted, as an infinitive.
        action: &'static str,
        /// What it was attempted on.
        path: PathBuf,
        /// What the operating system said.
        #[source]
        source: io::Error,
    },
    /// Another broker has this data directory open: the caller's fault.
    #[error("another broker is using `{}`", path.display())]
    Locked {
        /// The data directory.
        path: PathBuf,
    },
    /// The listener's address is taken or not ours: the caller's fault.
    #[error("could not listen on {address}")]
    Listen {
        /// The address asked for.
        address: std::net::SocketAddr,
        /// What the operating system said.
        #[source]
        source: io::Error,
    },
    /// The embedded broker speaks to this machine only: the caller's fault.
    #[error("the embedded broker listens on a loopback address only, not on {address}")]
    NotLoopback {
        /// The address asked for.
        address: std::net::SocketAddr,
    },
    /// A file that was complete when it was acknowledged is no longer what was written: a human should look.
    #[error("`{}` is damaged: {reason}", path.display())]
    Corrupt {
        /// The damaged file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

impl BrokerError {
    /// A closure for `map_err` that names the attempt and its object.
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> BrokerError {
        let path = path.to_owned();
        move |source| BrokerError::Io { action, path, source }
    }
}
