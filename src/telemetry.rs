//! Logs and spans: set up once. Logs go to stderr, with secrets masked; stdout is the answer's.

use std::io::{self, IsTerminal, Write};

use tracing_subscriber::EnvFilter;

use crate::config::{LogFormat, LogSettings};
use crate::domain::masking::Masks;

/// Logs could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The filter is not one.
    #[error("could not read the log filter `{filter}` (a level, or target=level, comma separated)")]
    Filter {
        /// What was given.
        filter: String,
        /// What is wrong with it.
        source: tracing_subscriber::filter::ParseError,
    },
    /// Somebody was here before.
    #[error("could not set up logs, they are already")]
    Taken(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Starts writing logs to stderr as the settings say; `default` is the filter where they say nothing: `warn` for a
/// command, `info` for a process that stays. What `masks` know, then and later, is masked.
pub fn init(settings: &LogSettings, default: &str, masks: Masks) -> Result<(), TelemetryError> {
    let filter = settings.filter.as_deref().unwrap_or(default);
    let filter =
        EnvFilter::try_new(filter).map_err(|source| TelemetryError::Filter { filter: filter.to_owned(), source })?;
    let colours = !settings.no_color && std::io::stderr().is_terminal();
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(move || MaskedErrors(masks.clone()))
        .with_ansi(colours)
        .log_internal_errors(false); // it would panic where stderr cannot be written: on a full disk, say
    let started = match settings.format {
        LogFormat::Text => builder.with_target(false).compact().try_init(),
        LogFormat::Json => builder.json().try_init(),
    };
    started.map_err(TelemetryError::Taken)
}

/// Standard error, for lines that come whole.
struct MaskedErrors(Masks);

impl Write for MaskedErrors {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        io::stderr().lock().write_all(self.0.mask(&String::from_utf8_lossy(line)).as_bytes())?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().lock().flush()
    }
}
