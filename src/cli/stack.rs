//! `pinsched stack`, hidden: the process that serves a home. Started by whoever needs the embedded stack first.

use std::ffi::OsString;
use std::process::ExitCode;

use crate::config::{Environment, Flags, Settings, key};
use crate::embedded::{StackError, StackOptions, say, serve};
use crate::telemetry;

/// Serves the home that the settings name. Called on the main thread, outside any runtime.
pub fn serve_home(settings: &Settings) -> Result<(), StackError> {
    serve(&StackOptions {
        home: settings.home.clone(),
        postgres_bin: settings.postgres_bin.clone(),
        search_path: settings.search_path.clone(),
        linger: settings.stack_linger,
    })
}

/// Reads the arguments that `embedded` starts it with: `stack --home H --linger 10s [--postgres-bin D]`.
#[must_use]
pub fn run(arguments: Vec<OsString>) -> ExitCode {
    let mut arguments = arguments.into_iter().filter_map(|argument| argument.into_string().ok());
    if arguments.next().as_deref() != Some("stack") {
        return ExitCode::from(2);
    }
    let mut flags = Flags::default();
    while let Some(name) = arguments.next() {
        flags = match name.as_str() {
            "--home" => flags.with(&key::HOME, arguments.next()),
            "--linger" => flags.with(&key::STACK_LINGER, arguments.next()),
            "--postgres-bin" => flags.with(&key::POSTGRES_BIN, arguments.next()),
            _ => return ExitCode::from(2),
        };
    }
    let settings = Settings::load(&flags, &Environment::capture(), "/".as_ref());
    let settings = match settings {
        Ok(settings) => settings,
        Err(error) => {
            say(&error.to_string());
            return ExitCode::from(2);
        }
    };
    if telemetry::init(&settings, "info,sqlx=warn").is_err() || serve_home(&settings).is_err() {
        return ExitCode::from(2);
    }
    ExitCode::SUCCESS
}
