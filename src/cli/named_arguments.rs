//! What can be typed about connections, variables and the keys that seal them.

use std::path::PathBuf;

use clap::{Args, Subcommand};

#[derive(Debug, Subcommand)]
pub(crate) enum ConnectionsCommand {
    /// List them: those of the settings and those of the database, without passwords
    List,
    /// Show one, wherever a task would find it
    Get {
        /// Its id
        id: String,
        /// Show its password and extra too
        #[arg(long)]
        reveal: bool,
    },
    /// Keep one in the database, sealed
    ///
    /// Without --type, stdin has the whole of it: a URI or Airflow's JSON. With --type the other flags say what it is, and
    /// stdin has the password where --password-stdin is given; a terminal is asked for it.
    #[command(after_help = "Examples:
  pinsched connections set lake < lake.uri       postgres://login:password@host:5432/database
  pinsched connections set lake --type postgres --host db --login etl
  pass show api | pinsched connections set api --type https --host api.example --login me --password-stdin")]
    Set(SetConnection),
    /// Remove one from the database. Exit code 1 when it has none of that id
    Delete {
        /// Its id
        id: String,
    },
    /// Try one: connects to postgres, mysql and mariadb, asks http(s), kafka and aws/s3. Exit code 1 when it does not work
    Test {
        /// Its id
        id: String,
    },
    /// Keep those of a file of Airflow's JSON (`airflow connections export`) in the database, sealed
    Import {
        /// The file; `-` is stdin
        file: PathBuf,
        /// Replace those that are there already
        #[arg(long)]
        overwrite: bool,
    },
    /// Write those of the database to a file in Airflow's JSON, with their passwords
    Export {
        /// The file, which only its owner may read; `-` is stdout
        file: PathBuf,
    },
}

#[derive(Debug, Args)]
pub(crate) struct SetConnection {
    /// Its id
    pub(crate) id: String,
    /// What kind of system it is: postgres, mysql, http, https, kafka, aws, …
    #[arg(long = "type", value_name = "TYPE")]
    pub(crate) conn_type: Option<String>,
    /// Its host
    #[arg(long, requires = "conn_type")]
    pub(crate) host: Option<String>,
    /// Its port
    #[arg(long, requires = "conn_type")]
    pub(crate) port: Option<u16>,
    /// Its database; for http the protocol, or a path
    #[arg(long, requires = "conn_type")]
    pub(crate) schema: Option<String>,
    /// Its user
    #[arg(long, requires = "conn_type")]
    pub(crate) login: Option<String>,
    /// What it is for
    #[arg(long, requires = "conn_type")]
    pub(crate) description: Option<String>,
    /// Further settings, a JSON object; secret ones are better given by stdin, in Airflow's JSON
    #[arg(long, requires = "conn_type", value_name = "JSON")]
    pub(crate) extra: Option<String>,
    /// Read the password from stdin
    #[arg(long, requires = "conn_type")]
    pub(crate) password_stdin: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum VariablesCommand {
    /// List them: those of the settings and those of the database; what has a secret's name is masked
    List,
    /// Print one's text, wherever a task would find it. What has a secret's name is masked without --reveal
    Get {
        /// Its name
        name: String,
        /// Print it even if it has a secret's name
        #[arg(long)]
        reveal: bool,
    },
    /// Keep one in the database, sealed; its text is read from stdin where it is not given
    Set {
        /// Its name
        name: String,
        /// Its text; a secret is better given by stdin, for command lines are seen by others
        #[arg(allow_hyphen_values = true)]
        value: Option<String>,
    },
    /// Remove one from the database. Exit code 1 when it has none of that name
    Delete {
        /// Its name
        name: String,
    },
    /// Keep those of a file of Airflow's JSON (`airflow variables export`) in the database, sealed
    Import {
        /// The file; `-` is stdin
        file: PathBuf,
        /// Replace those that are there already
        #[arg(long)]
        overwrite: bool,
    },
    /// Write those of the database to a file in Airflow's JSON, secrets and all
    Export {
        /// The file, which only its owner may read; `-` is stdout
        file: PathBuf,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum SecretsCommand {
    /// Print a new key for PINSCHED_SECRET_KEY
    Key,
    /// Seal everything in the database anew with the first key of PINSCHED_SECRET_KEY
    ///
    /// To change keys: put a new one before the old one, separated by a comma, rotate, and drop the old one.
    Rotate,
}
