//! What can be typed about the database as a whole, and about what is left behind.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};

use crate::domain::duration::parse_duration;
use crate::domain::ids::DagId;

/// How old something is. A negative one is taken for a value, so that it is told that there is none, and not for a flag.
fn age(text: &str) -> Result<Duration, String> {
    parse_duration(text).map_err(|error| format!("{error}; an age is written as 30d, 12h or 90m"))
}

#[derive(Debug, Subcommand)]
pub(crate) enum DbCommand {
    /// Bring the schema up to this version of pinsched
    ///
    /// Every command does so by itself; this is for whoever upgrades step by step.
    Migrate,
    /// Look whether the database is as this version of pinsched needs it, and changes nothing
    ///
    /// Exit code 1 when it is not, 2 when it cannot be reached.
    Check,
    /// Delete finished runs that are past keeping, now
    ///
    /// By `retention.days` and `retention.runs_per_dag`, as `pinsched serve` does each hour, or by --older-than alone. The
    /// last run of a DAG stays, and so does what an unfinished run may wait for. It shows what goes and asks first; where
    /// nobody can be asked it deletes nothing without --yes.
    #[command(after_help = "Examples:
  pinsched db clean --dry-run
  pinsched db clean --older-than 30d --dag pinterest_daily
  pinsched db clean --yes                                      from cron")]
    Clean(DbCleanArguments),
    /// Write all of the database into a file, by pg_dump
    #[command(after_help = "Example:
  pinsched db backup /var/backups/pinsched.dump")]
    Backup {
        /// The file, which only its owner may read; one that is there is replaced once the new one is whole
        file: PathBuf,
    },
    /// Fill an empty database from such a file, by pg_restore
    ///
    /// All of it or nothing. Refused while a process works on the database.
    Restore {
        /// The file
        file: PathBuf,
        /// Also where the database is not empty: what the file has takes the place of what is there
        #[arg(long)]
        force: bool,
    },
}

#[derive(Debug, Args)]
pub(crate) struct DbCleanArguments {
    /// Runs that ended longer ago, as 30d or 12h, in place of what the settings say
    #[arg(long, value_name = "DURATION", value_parser = age, allow_hyphen_values = true)]
    pub(crate) older_than: Option<Duration>,
    /// Of this DAG only
    #[arg(long, value_name = "ID")]
    pub(crate) dag: Option<DagId>,
    /// Only tell how many
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Delete without asking
    #[arg(long, conflicts_with = "dry_run")]
    pub(crate) yes: bool,
}

#[derive(Debug, Args)]
pub(crate) struct CleanArguments {
    /// Only tell how much
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// In place of that, databases of embedded stacks whose homes are gone; none is deleted without --yes
    ///
    /// Where a server of Postgres's cannot reach a home, as below /root, its database lies under /var/lib/pinsched, and
    /// stays there when the home is deleted. One whose home was moved is listed as well until that is used again.
    #[arg(long)]
    pub(crate) old_homes: bool,
    /// In place of that, records of the embedded broker that are older, as 30d: whole segments, with the stack stopped; none
    /// is deleted without --yes
    ///
    /// As when Kafka's own retention has deleted them: a sink that had not come to them fails, and never jumps.
    #[arg(long, value_name = "DURATION", value_parser = age, allow_hyphen_values = true, conflicts_with = "old_homes")]
    pub(crate) old_records: Option<Duration>,
    /// Delete: the staging bucket is this pinsched's alone, and what is listed is not missed
    #[arg(long)]
    pub(crate) yes: bool,
}
