//! What can be typed: commands, flags, and the help that teaches them.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::cli::named_arguments::{ConnectionsCommand, SecretsCommand, VariablesCommand};
use crate::cli::service_arguments::{
    BackfillArguments, BackfillsCommand, ClearArguments, MarkArguments, PoolsCommand, ServeArguments, TriggerArguments,
};
use crate::cli::task_word::TaskWord;
use crate::cli::upkeep_arguments::{CleanArguments, DbCommand};
use crate::domain::ids::DagId;

/// Managed Airflow in one binary: YAML DAGs of emulate, produce, sink and transform tasks, every row exactly once.
#[derive(Debug, Parser)]
#[command(name = "pinsched", version, propagate_version = true, max_term_width = 110)]
#[command(after_help = "Examples:
  pinsched run dags/daily.yaml                    run a DAG now; what is not configured is started
  pinsched run dags/daily.yaml --param rows=11000 the same with another param
  pinsched validate dags                          check every DAG file of a folder
  pinsched runs                                   what ran, newest first
  pinsched show latest                            one run in full: tasks, reconciliation, results
  pinsched logs latest sink --follow              a task's log, live
  pinsched serve                                  run the DAGs of ./dags on schedule
  pinsched up                                     keep the embedded stack running and print its URLs

Exit codes: 0 done, 1 the answer is no (an invalid DAG, a failed run), 2 it could not be tried.")]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) everywhere: Everywhere,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Flags that every command takes.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "For every command")]
pub(crate) struct Everywhere {
    /// Where the embedded stack keeps its data [env: PINSCHED_HOME] [default: .pinsched]
    #[arg(long, global = true, value_name = "DIR")]
    pub(crate) home: Option<PathBuf>,
    /// The database of pinsched's own state; without it the embedded one [env: DATABASE_URL]
    #[arg(long, global = true, value_name = "URL")]
    pub(crate) database_url: Option<String>,
    /// Another settings file than ./pinsched.toml [env: PINSCHED_CONFIG]
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// How the answer looks: a table for people, or one JSON document for programs
    #[arg(long, short, global = true, value_enum, default_value_t = OutputFormat::Table)]
    #[arg(value_name = "table|json", hide_possible_values = true)]
    pub(crate) output: OutputFormat,
    /// Which log lines go to stderr, as `info` (of libraries warnings alone) or `pinsched=debug,sqlx=info`
    /// [env: PINSCHED_LOG, RUST_LOG]
    /// [default: warn]
    #[arg(long, global = true, value_name = "FILTER")]
    pub(crate) log: Option<String>,
    /// How log lines look [env: PINSCHED_LOG_FORMAT] [default: text]
    #[arg(long, global = true, value_name = "text|json")]
    pub(crate) log_format: Option<String>,
    /// A file that log lines go to in place of stderr, one for each day, in a folder that is there [env: PINSCHED_LOG_FILE]
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) log_file: Option<PathBuf>,
}

/// How the answer looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum OutputFormat {
    /// For people.
    Table,
    /// For programs: one JSON document.
    Json,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a DAG file now and wait for its end
    ///
    /// Without --logical-date it goes on with the DAG's latest unfinished run whose process is gone, or else starts one for
    /// now. With it, it runs that date once: an unfinished run goes on, a finished one is not repeated without --rerun.
    ///
    /// Ctrl-C once lets what runs end and starts nothing new; twice stops it, which counts as no try; a third time kills.
    /// Nothing is lost by either: the run can be resumed. Exit code 1 when the run failed.
    #[command(after_help = "Examples:
  pinsched run dags/daily.yaml
  pinsched run dags/daily.yaml --param rows=11000 --param user_id=abc
  pinsched run dags/daily.yaml --logical-date 2026-03-01          once for that day
  pinsched run dags/daily.yaml --logical-date 2026-03-01 --rerun  once more
  pinsched run dags/from_airflow.yaml --dag extract_hourly        one of several DAGs")]
    Run(RunArguments),
    /// Run the service: follow the DAG files, make runs on schedule, run their tasks
    ///
    /// Several may share one Postgres, all active: each tick becomes one run, each attempt is one worker's. A worker that
    /// is killed is taken over within two seconds. Ctrl-C or SIGTERM drains: nothing new begins, what runs may end; again,
    /// and what runs is handed back uncounted.
    #[command(after_help = "Examples:
  pinsched serve                               follow ./dags, on the embedded stack
  pinsched serve --dags /srv/dags              another folder
  pinsched serve --roles worker                tasks only, for a second machine on the same database
  pinsched serve --log-format json             logs for a collector")]
    Serve(ServeArguments),
    /// List the DAGs that services have registered, and the files that are broken
    Dags,
    /// Ask for a run of a DAG; any worker takes it
    ///
    /// It begins at once, or in its turn where the DAG's `max_active_runs` go on already or it is paused.
    #[command(after_help = "Examples:
  pinsched trigger pinterest_daily
  pinsched trigger pinterest_daily --param rows=11000 --note 'the big one'
  pinsched trigger pinterest_daily --conf '{\"rows\": 11000}' --wait")]
    Trigger(TriggerArguments),
    /// Pause a DAG: tasks that run end, their runs stop there, nothing new begins
    Pause {
        /// The DAG
        dag: DagId,
    },
    /// Let a paused DAG go on, and tell what runs because of it
    Unpause {
        /// The DAG
        dag: DagId,
        /// Only tell what would run
        #[arg(long)]
        dry_run: bool,
    },
    /// Make runs of the ticks of a stretch of the past
    ///
    /// They are ordinary runs, with a limit of their own on how many go on at once. Once it is made it can be paused and
    /// cancelled by `pinsched backfills`.
    #[command(after_help = "Examples:
  pinsched backfill pinterest_daily --from 2026-01-01 --to 2026-02-01 --dry-run
  pinsched backfill pinterest_daily --from 2026-01-01 --to 2026-02-01 --max-active 4
  pinsched backfill pinterest_daily --from 2026-01-01 --to 2026-02-01 --only failed --reverse")]
    Backfill(BackfillArguments),
    /// List backfills, or pause, resume or cancel one
    Backfills {
        #[command(subcommand)]
        command: Option<BackfillsCommand>,
    },
    /// Let tasks of a run run again, once their trigger rules are met
    ///
    /// One that runs is stopped and begins anew. A run that was over goes on. What a cleared task left is forgotten, and
    /// its retries count anew.
    #[command(after_help = "Examples:
  pinsched clear latest                            all of it
  pinsched clear latest sink --downstream          one task and all after it
  pinsched clear latest --only-failed --dry-run    what failed; only shown
  pinsched clear latest sink --future              the same task of all later runs, too")]
    Clear(ClearArguments),
    /// Take tasks for done, or for failed, whatever became of them
    ///
    /// What failed after them runs again. A task that runs is stopped.
    #[command(after_help = "Examples:
  pinsched mark latest sink --as success
  pinsched mark latest sink --as failed --dry-run")]
    Mark(MarkArguments),
    /// Let a run go on from any state: what did not succeed runs again
    Restart {
        /// Its run id, the end of its uuid (as `runs` shows it), or `latest`; of one DAG's runs `DAG@…`
        run: String,
        /// What succeeded, too
        #[arg(long)]
        all: bool,
        /// Only show what would change
        #[arg(long)]
        dry_run: bool,
    },
    /// List pools, or set or delete one
    ///
    /// A task that names a `pool` takes so many of its slots (`pool_slots`) while it runs. A pool that tasks name and nobody
    /// set has 128. `default_pool` bounds the tasks that name none, of runs that begin after it is set.
    #[command(after_help = "Examples:
  pinsched pools
  pinsched pools set warehouse 4 --description 'connections that the warehouse takes'
  pinsched pools delete warehouse")]
    Pools {
        #[command(subcommand)]
        command: Option<PoolsCommand>,
    },
    /// Say in words why a task does not run
    Why {
        /// Its run id, the end of its uuid (as `runs` shows it), or `latest`; of one DAG's runs `DAG@…`
        run: String,
        /// The task, or `TASK[N]` for an instance of a mapped one
        task: TaskWord,
    },
    /// Set the priority of a task of a run that has not begun
    Priority {
        /// Its run id, the end of its uuid (as `runs` shows it), or `latest`; of one DAG's runs `DAG@…`
        run: String,
        /// The task, or `TASK[N]` for an instance of a mapped one
        task: TaskWord,
        /// Higher goes first
        #[arg(allow_negative_numbers = true)]
        priority: i32,
    },
    /// Write down what is to be known about a run; an empty text removes it
    Note {
        /// Its run id, the end of its uuid (as `runs` shows it), or `latest`; of one DAG's runs `DAG@…`
        run: String,
        /// The text
        #[arg(allow_hyphen_values = true)]
        text: String,
    },
    /// Check DAG files: every mistake at once, with its place
    ///
    /// Nothing is run and nothing is started. Exit code 1 when something is wrong, 2 when there is nothing to check.
    #[command(after_help = "Examples:
  pinsched validate                          what is in ./dags
  pinsched validate dags/daily.yaml more/    files and folders
  pinsched validate --output json            a list, each with its code, place and help")]
    Validate {
        /// Files, or folders whose *.yaml and *.yml are checked
        #[arg(default_value = "dags")]
        paths: Vec<PathBuf>,
    },
    /// Draw a DAG
    #[command(after_help = "Examples:
  pinsched graph dags/daily.yaml
  pinsched graph dags/daily.yaml --format svg > daily.svg
  pinsched graph dags/daily.yaml --format dot | dot -Tpng > daily.png
  pinsched graph dags/daily.yaml --output json | jq '.dags[].edges'")]
    Graph(GraphArguments),
    /// Print when a DAG runs: the ticks of its schedule, and what the run of each is for
    ///
    /// Nothing is run and nothing is started. Dates without an offset are in the DAG's zone.
    #[command(after_help = "Examples:
  pinsched schedule dags/daily.yaml                                      the next 10 ticks
  pinsched schedule dags/daily.yaml --from 2026-10-24 --to 2026-10-27    when the clocks change
  pinsched schedule dags/from_airflow.yaml --dag extract_hourly --limit 3
  pinsched schedule dags/daily.yaml --output json | jq -r '.ticks[].run_after'")]
    Schedule(ScheduleArguments),
    /// Print the JSON Schema of DAG files, for editors
    #[command(after_help = "Example:
  pinsched schema > dag.schema.json
and as the first line of a DAG file, for the YAML language server:
  # yaml-language-server: $schema=../dag.schema.json")]
    Schema,
    /// List runs, newest first
    Runs {
        /// Of this DAG only
        #[arg(long, value_name = "ID")]
        dag: Option<DagId>,
        /// At most so many
        #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1000))]
        limit: u32,
    },
    /// Show a run: its tasks, the reconciliation, the results and where the objects are
    ///
    /// Instances of mapped tasks are counted, and listed where they failed.
    Show {
        /// Its run id, the end of its uuid (as `runs` shows it), or `latest`; of one DAG's runs `DAG@…`
        run: String,
        /// Only this task; of a mapped one all instances, or one as `TASK[N]`
        #[arg(long)]
        task: Option<TaskWord>,
    },
    /// Print a task's log
    #[command(after_help = "Examples:
  pinsched logs latest sink              the last attempt
  pinsched logs latest sink --attempt 1  the first one
  pinsched logs latest sink --follow     as it grows; waits for a task that has not begun")]
    Logs(LogsArguments),
    /// Ask for a run's cancellation and wait for its end; or stop one task of it
    ///
    /// What runs is stopped, what waits does not start, and the run ends as failed. Exit code 1 when it was finished
    /// already. With a task that one alone is stopped and fails, and the run goes on.
    Cancel {
        /// Its run id, the end of its uuid (as `runs` shows it), or `latest`; of one DAG's runs `DAG@…`
        run: String,
        /// Only this task of it, or `TASK[N]` for an instance of a mapped one
        task: Option<TaskWord>,
    },
    /// Go on with a run that was killed or stopped, from where it stood
    ///
    /// With the DAG file as it was when the run began. Exit code 1 when the run failed, or was finished already.
    Resume {
        /// Its run id, the end of its uuid (as `runs` shows it), or `latest`; of one DAG's runs `DAG@…`
        run: String,
    },
    /// Start the embedded stack, print its URLs, and keep it until Ctrl-C
    ///
    /// Of database, source, Kafka and S3 it starts what is not configured elsewhere. The URLs hold passwords: they are for
    /// your own clients.
    #[command(after_help = "Example:
  pinsched up --output json > urls.json &
  psql \"$(jq -r .database_url urls.json)\"")]
    Up,
    /// Stop the embedded stack, whoever uses it; its data stays
    Down,
    /// Connections: where other systems are, and how to get in
    ///
    /// A task finds one in AWS Secrets Manager, in the environment (PINSCHED_CONNECTION_ID, AIRFLOW_CONN_ID), in
    /// pinsched.toml or in the database, in this order. What the database keeps is sealed with PINSCHED_SECRET_KEY.
    Connections {
        #[command(subcommand)]
        command: ConnectionsCommand,
    },
    /// Variables: values that templates name, as `{{ var.value.bucket }}`
    ///
    /// A task finds one in AWS Secrets Manager, in the environment (PINSCHED_VARIABLE_NAME, AIRFLOW_VAR_NAME), in
    /// pinsched.toml or in the database, in this order. What the database keeps is sealed with PINSCHED_SECRET_KEY.
    Variables {
        #[command(subcommand)]
        command: VariablesCommand,
    },
    /// The keys that seal what the database keeps of connections and variables
    Secrets {
        #[command(subcommand)]
        command: SecretsCommand,
    },
    /// The database of pinsched's state: its schema, what is old, backups
    Db {
        #[command(subcommand)]
        command: DbCommand,
    },
    /// Delete drawn rows and large outputs in object storage whose runs are gone
    ///
    /// Runs go by `retention.days`, `retention.runs_per_dag` and `pinsched db clean`; what `emulate` staged for them stays, and
    /// outputs that were too large for the database stay until `pinsched serve` keeps house, once an hour.
    /// Where database and object storage are not both embedded nothing is deleted without --yes: the staging bucket must not
    /// be another pinsched's, too.
    Clean(CleanArguments),
    /// Show every setting, its value and where it came from
    ///
    /// A flag wins over the environment, which wins over pinsched.toml. Secrets are masked.
    Config,
    /// Print a completion script: `source <(pinsched completions bash)`
    #[command(after_help = "Examples:
  source <(pinsched completions bash)
  pinsched completions zsh > ~/.zfunc/_pinsched
  pinsched completions fish > ~/.config/fish/completions/pinsched.fish")]
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

#[derive(Debug, Args)]
pub(crate) struct RunArguments {
    /// The DAG file
    pub(crate) file: PathBuf,
    /// Which DAG, when the file has several
    #[arg(long, value_name = "ID")]
    pub(crate) dag: Option<DagId>,
    /// Set a param; may be repeated
    #[arg(long = "param", short, value_name = "KEY=VALUE", allow_hyphen_values = true)]
    pub(crate) params: Vec<String>,
    /// The run's logical date, as 2026-03-01 or 2026-03-01T02:00:00+01:00; in the DAG's zone when it names none
    /// [default: now]
    #[arg(long, value_name = "DATE")]
    pub(crate) logical_date: Option<String>,
    /// Start another run, for now, even if an earlier one is unfinished
    #[arg(long, conflicts_with = "logical_date")]
    pub(crate) new: bool,
    /// Run a logical date again that is finished
    #[arg(long, requires = "logical_date")]
    pub(crate) rerun: bool,
}

impl Command {
    /// Whether it stays, and tells what it does by its logs.
    pub(crate) fn talks_by_logs(&self) -> bool {
        matches!(self, Self::Serve(_))
    }
}

#[derive(Debug, Args)]
pub(crate) struct ScheduleArguments {
    /// The DAG file
    pub(crate) file: PathBuf,
    /// Which DAG, when the file has several
    #[arg(long, value_name = "ID")]
    pub(crate) dag: Option<DagId>,
    /// The first time that counts, as 2026-03-01 or 2026-03-01T02:00:00+01:00 [default: now]
    #[arg(long, value_name = "DATE")]
    pub(crate) from: Option<String>,
    /// The first time that does not count any more
    #[arg(long, value_name = "DATE")]
    pub(crate) to: Option<String>,
    /// At most so many [default: 10; 1000 with --to]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) limit: Option<u32>,
}

#[derive(Debug, Args)]
pub(crate) struct GraphArguments {
    /// The DAG file
    pub(crate) file: PathBuf,
    /// Which DAG, when the file has several
    #[arg(long, value_name = "ID")]
    pub(crate) dag: Option<DagId>,
    /// The form; with `--output json` it is nodes and edges [default: text]
    #[arg(long, value_enum)]
    pub(crate) format: Option<GraphFormat>,
}

/// The form of a drawing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum GraphFormat {
    /// For the terminal.
    Text,
    /// For Markdown.
    Mermaid,
    /// For Graphviz.
    Dot,
    /// A picture.
    Svg,
}

#[derive(Debug, Args)]
pub(crate) struct LogsArguments {
    /// Its run id, the end of its uuid (as `runs` shows it), or `latest`; of one DAG's runs `DAG@…`
    pub(crate) run: String,
    /// The task, or `TASK[N]` for an instance of a mapped one
    pub(crate) task: TaskWord,
    /// Which attempt, counted from 1 [default: the last one]
    #[arg(long, value_name = "N")]
    pub(crate) attempt: Option<u32>,
    /// Wait for more lines until the attempt ends
    #[arg(long, short)]
    pub(crate) follow: bool,
}
