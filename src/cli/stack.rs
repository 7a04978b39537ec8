//! `pinsched stack`, hidden: the process that serves a home. Started by whoever needs the embedded stack first, and told
//! all it needs: settings that it read by itself could differ from those of who started it.

use std::ffi::OsString;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;

use crate::cli::exit::Exit;
use crate::config::{Environment, LogFormat, LogSettings, duration};
use crate::domain::masking::Masks;
use crate::embedded::{StackOptions, say, serve};
use crate::telemetry;

/// What `embedded` starts it with.
#[derive(Debug, Parser)]
#[command(name = "stack")]
struct StackArguments {
    #[arg(long)]
    home: PathBuf,
    #[arg(long, value_parser = duration)]
    linger: Duration,
    #[arg(long)]
    postgres_bin: Option<PathBuf>,
    #[arg(long)]
    log_filter: Option<String>,
    #[arg(long)]
    log_format: Option<LogFormat>,
}

/// Serves a home until nobody needs it, on the main thread and outside of any runtime. `arguments` begin with `stack`.
#[must_use]
pub fn run(arguments: Vec<OsString>) -> ExitCode {
    let arguments = match StackArguments::try_parse_from(arguments) {
        Ok(arguments) => arguments,
        Err(error) => return refuse(&error),
    };
    let environment = Environment::capture();
    let log = LogSettings {
        filter: arguments.log_filter,
        format: arguments.log_format.unwrap_or_default(),
        no_color: environment.no_color(),
        file: None,
        files: NonZeroUsize::MIN,
    };
    if let Err(error) = telemetry::init(&log, "info", Masks::default()) {
        return refuse(&error);
    }
    let served = serve(&StackOptions {
        home: arguments.home,
        postgres_bin: arguments.postgres_bin,
        search_path: environment.search_path(),
        linger: arguments.linger,
    });
    if served.is_ok() { Exit::Done.into() } else { Exit::NotTried.into() }
}

/// In the one line that whoever started it reads.
fn refuse(error: &dyn std::error::Error) -> ExitCode {
    say(error.to_string().lines().next().unwrap_or_default());
    Exit::NotTried.into()
}
