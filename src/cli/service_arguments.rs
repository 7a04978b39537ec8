//! What can be typed about the service and about runs in its hands.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use crate::cli::task_word::TaskWord;
use crate::domain::ids::{DagId, RunId};
use crate::service::Role;

#[derive(Debug, Args)]
pub(crate) struct ServeArguments {
    /// The folder of DAG files [env: PINSCHED_DAGS] [default: dags]
    #[arg(long, value_name = "DIR")]
    pub(crate) dags: Option<PathBuf>,
    /// What this process does, comma separated
    #[arg(long, value_name = "ROLES", value_delimiter = ',', default_value = "scheduler,worker")]
    pub(crate) roles: Vec<Role>,
    /// Where it answers about its health and its metrics, or `off` [env: PINSCHED_LISTEN] [default: 127.0.0.1:8793]
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub(crate) listen: Option<String>,
}

/// Which other runs of the DAG besides.
#[derive(Debug, Clone, Copy, Default, Args)]
pub(crate) struct Span {
    /// Also of all runs with a later logical date
    #[arg(long)]
    pub(crate) future: bool,
    /// Also of all runs with an earlier logical date
    #[arg(long)]
    pub(crate) past: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ClearArguments {
    /// Its run id, the end of its uuid (as `runs` shows it), or `latest`; of one DAG's runs `DAG@…`
    pub(crate) run: String,
    /// The tasks, or `TASK[N]` for an instance of a mapped one [default: all]
    pub(crate) tasks: Vec<TaskWord>,
    /// Also all that they wait for
    #[arg(long)]
    pub(crate) upstream: bool,
    /// Also all that waits for them
    #[arg(long)]
    pub(crate) downstream: bool,
    /// Of all these, those that failed
    #[arg(long)]
    pub(crate) only_failed: bool,
    #[command(flatten)]
    pub(crate) span: Span,
    /// Only show what would change
    #[arg(long)]
    pub(crate) dry_run: bool,
}

/// What tasks are taken for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum MarkAs {
    /// Done.
    Success,
    /// Failed.
    Failed,
}

#[derive(Debug, Args)]
pub(crate) struct MarkArguments {
    /// Its run id, the end of its uuid (as `runs` shows it), or `latest`; of one DAG's runs `DAG@…`
    pub(crate) run: String,
    /// The tasks, or `TASK[N]` for an instance of a mapped one
    #[arg(required = true)]
    pub(crate) tasks: Vec<TaskWord>,
    /// What they are taken for
    #[arg(long = "as", value_enum)]
    pub(crate) state: MarkAs,
    /// Also all that they wait for
    #[arg(long)]
    pub(crate) upstream: bool,
    /// Also all that waits for them
    #[arg(long)]
    pub(crate) downstream: bool,
    #[command(flatten)]
    pub(crate) span: Span,
    /// Only show what would change
    #[arg(long)]
    pub(crate) dry_run: bool,
}

/// Which ticks a backfill makes runs of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Only {
    /// Those that have no run.
    Missing,
    /// Those whose latest run failed.
    Failed,
    /// All, unless a run of theirs is unfinished.
    All,
}

#[derive(Debug, Args)]
pub(crate) struct BackfillArguments {
    /// The DAG
    pub(crate) dag: DagId,
    /// From this tick on, as 2026-01-01 or 2026-01-01T02:00:00+01:00
    #[arg(long, value_name = "DATE")]
    pub(crate) from: String,
    /// Up to this one, not included
    #[arg(long, value_name = "DATE")]
    pub(crate) to: String,
    /// Ticks without a run, those whose latest run failed, or all
    #[arg(long, value_enum, default_value_t = Only::Missing)]
    pub(crate) only: Only,
    /// Runs at once [default: the DAG's max_active_runs]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) max_active: Option<u32>,
    /// The latest first, where no task depends on the past
    #[arg(long)]
    pub(crate) reverse: bool,
    /// Set a param; may be repeated
    #[arg(long = "param", short, value_name = "KEY=VALUE", allow_hyphen_values = true)]
    pub(crate) params: Vec<String>,
    /// Only show the runs that would be made
    #[arg(long)]
    pub(crate) dry_run: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum PoolsCommand {
    /// Make a pool, or change how many slots it has
    Set {
        /// Its name
        name: String,
        /// How many slots; 0 closes it
        #[arg(allow_negative_numbers = true)]
        slots: u32,
        /// What it is for
        #[arg(long, value_name = "TEXT")]
        description: Option<String>,
    },
    /// Delete a pool
    Delete {
        /// Its name
        name: String,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum BackfillsCommand {
    /// Let no more of its runs begin
    Pause {
        /// The backfill
        id: i64,
    },
    /// Let its runs begin again
    Resume {
        /// The backfill
        id: i64,
    },
    /// Cancel it with all of its unfinished runs
    Cancel {
        /// The backfill
        id: i64,
    },
}

#[derive(Debug, Args)]
pub(crate) struct TriggerArguments {
    /// The DAG
    pub(crate) dag: DagId,
    /// Set a param; may be repeated
    #[arg(long = "param", short, value_name = "KEY=VALUE", allow_hyphen_values = true)]
    pub(crate) params: Vec<String>,
    /// What the run is given, as one JSON object: params by their names, and what templates read as `dag_run.conf`
    #[arg(long, value_name = "JSON")]
    pub(crate) conf: Option<String>,
    /// The run's logical date [default: now]
    #[arg(long, value_name = "DATE")]
    pub(crate) logical_date: Option<String>,
    /// The run's id: up to 250 letters, digits and any of `_ - . : + ~`, other than `latest` and with no `-` at its
    /// beginning [default: manual__ and the logical date]
    #[arg(long, value_name = "ID")]
    pub(crate) run_id: Option<RunId>,
    /// What is to be known about it
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub(crate) note: Option<String>,
    /// Wait for its end; exit code 1 when it failed
    #[arg(long)]
    pub(crate) wait: bool,
}
