//! Why the embedded Postgres did not start, in words that say what to do.

use std::io;
use std::path::PathBuf;

use super::super::error::HomeError;

/// The embedded Postgres cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PostgresError {
    /// A file or folder.
    #[error(transparent)]
    Home(#[from] HomeError),
    /// There are no server programs on this machine.
    #[error(
        "no PostgreSQL server programs found on this machine: install them (on Debian: apt-get install postgresql), \
         name their directory by PINSCHED_POSTGRES_BIN, or set DATABASE_URL to a server of your own"
    )]
    NotInstalled,
    /// The configured directory does not hold them.
    #[error("postgres.bin is {}, which has no initdb and postgres that can be run", directory.display())]
    NotThere {
        /// The directory.
        directory: PathBuf,
    },
    /// The data was made by another major version.
    #[error(
        "the data in {} was made by PostgreSQL {data}, and this machine has {found}: install version {data} \
         (on Debian: apt-get install postgresql-{data}) or name its programs by PINSCHED_POSTGRES_BIN; to start empty, \
         move the data away", path.display()
    )]
    Version {
        /// The data directory.
        path: PathBuf,
        /// The version that made it.
        data: u32,
        /// The versions that are here.
        found: String,
    },
    /// Started as root, and there is nobody else to run as.
    #[error("PostgreSQL refuses to run as root, and this machine has neither a user `postgres` nor a user `nobody`")]
    NoAccount,
    /// The user that the server runs as cannot reach something.
    #[error("PostgreSQL runs as user {user} here, which cannot reach {}", path.display())]
    Unreachable {
        /// The user.
        user: String,
        /// What it cannot reach.
        path: PathBuf,
    },
    /// Another user's data.
    #[error("{} belongs to user {owner}: start pinsched as that user or as root", path.display())]
    Foreign {
        /// The data directory.
        path: PathBuf,
        /// Its owner's number.
        owner: u32,
    },
    /// The data lies elsewhere, and is not there any more.
    #[error(
        "the data of this home is not where {} leads, {}: bring it back (a container needs a volume there as well), \
         or delete {} to start with nothing", link.display(), data.display(), home.display()
    )]
    Gone {
        /// What should lead to it.
        link: PathBuf,
        /// Where it should be.
        data: PathBuf,
        /// The home.
        home: PathBuf,
    },
    /// The home is a copy, and the link in it leads to the data of the original.
    #[error(
        "{}/postgres leads to {}, the data of {}, which this home is a copy of: delete the copy, or put a copy of \
         the data in the place of that link", home.display(), data.display(), owner.display()
    )]
    Copied {
        /// The home.
        home: PathBuf,
        /// The data.
        data: PathBuf,
        /// The home that it belongs to.
        owner: PathBuf,
    },
    /// A program could not be started.
    #[error("could not run {}", program.display())]
    Run {
        /// The program.
        program: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// initdb failed.
    #[error("could not create a database cluster in {}: {message}", path.display())]
    Initialise {
        /// The data directory.
        path: PathBuf,
        /// What initdb said.
        message: String,
    },
    /// Its port was taken in the last instant.
    #[error("port {port} is taken by another program")]
    PortTaken {
        /// The port.
        port: u16,
    },
    /// The server ended.
    #[error("PostgreSQL ended while it started: {message} (see {})", log.display())]
    Ended {
        /// What it said last.
        message: String,
        /// Where it says more.
        log: PathBuf,
    },
    /// A server that an earlier process left behind does not end.
    #[error("a PostgreSQL server of an earlier pinsched, process {pid}, still runs on {} and does not end", path.display())]
    Leftover {
        /// Its process.
        pid: i32,
        /// The data directory.
        path: PathBuf,
    },
    /// The server does not answer.
    #[error("PostgreSQL does not answer on port {port} (see {})", log.display())]
    Silent {
        /// The port.
        port: u16,
        /// Where it says more.
        log: PathBuf,
        /// What the last try said.
        source: sqlx::Error,
    },
    /// A database could not be made.
    #[error("could not create the database `{name}`")]
    Create {
        /// The database.
        name: &'static str,
        /// What the server said.
        source: sqlx::Error,
    },
}
