//! Logs and spans: set up once. Logs go to stderr, or to a file for each day of which the oldest go, with secrets masked;
//! stdout is the answer's.

use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tracing_appender::rolling::{InitError, RollingFileAppender, Rotation};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::MakeWriter;

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
    /// The file cannot be written.
    #[error("could not open the log file {}", .path.display())]
    File {
        /// What was given.
        path: PathBuf,
        /// Why not.
        source: InitError,
    },
    /// It names no file.
    #[error("could not open the log file {}: that is a folder", .0.display())]
    Folder(PathBuf),
    /// There is no folder for it.
    #[error(
        "could not open the log file {}: there is no folder {}; make it (`mkdir -p {}`), or name another file",
        .path.display(), .folder.display(), .folder.display()
    )]
    NoFolder {
        /// What was given.
        path: PathBuf,
        /// What is missing.
        folder: PathBuf,
    },
    /// Somebody was here before.
    #[error("could not set up logs, they are already")]
    Taken(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Starts writing logs as the settings say; `default` is the filter where they say nothing: `warn` for a
/// command, `info` for a process that stays. What `masks` know, then and later, is masked.
pub fn init(settings: &LogSettings, default: &str, masks: Masks) -> Result<(), TelemetryError> {
    let filter = settings.filter.as_deref().unwrap_or(default);
    let filter = EnvFilter::try_new(quieted(filter))
        .map_err(|source| TelemetryError::Filter { filter: filter.to_owned(), source })?;
    let file = match &settings.file {
        Some(path) => Some(Arc::new(daily(path, settings.files.get())?)),
        None => None,
    };
    let colours = !settings.no_color && file.is_none() && std::io::stderr().is_terminal();
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(move || Masked { masks: masks.clone(), file: file.clone() })
        .with_ansi(colours)
        .log_internal_errors(false); // it would panic where stderr cannot be written: on a full disk, say
    let started = match settings.format {
        LogFormat::Text => builder.with_target(false).compact().try_init(),
        LogFormat::Json => builder.json().try_init(),
    };
    started.map_err(TelemetryError::Taken)
}

/// A filter whose bare level is that of pinsched's own lines: libraries tell of their inner lives at `info`, which nobody acts
/// on. What the filter names stays as it is.
fn quieted(filter: &str) -> String {
    let directives = filter.split(',').map(str::trim).filter(|directive| !directive.is_empty());
    let (levels, named): (Vec<&str>, Vec<&str>) =
        directives.partition(|directive| directive.parse::<LevelFilter>().is_ok());
    let Some(level) = levels.last().and_then(|level| level.parse::<LevelFilter>().ok()) else {
        return filter.to_owned();
    };
    let libraries = level.min(LevelFilter::WARN);
    let mut quieted = vec![libraries.to_string(), format!("pinsched={level}")];
    let is_named = |noisy: &str| {
        named.iter().any(|directive| {
            let target = directive.split(['=', '[']).next().unwrap_or_default();
            !target.is_empty() && noisy.starts_with(target)
        })
    };
    if libraries == LevelFilter::WARN {
        quieted.extend(NOISY.iter().filter(|noisy| !is_named(noisy)).map(|noisy| format!("{noisy}=error")));
    }
    quieted.extend(named.into_iter().map(str::to_owned));
    quieted.join(",")
}

/// What warns of what is nobody's business. A pool that loses its connections says so in many lines; what follows from it the
/// engine tells in one. Who reads a database's URL tells of what it does not know in there, and that may be of a password.
const NOISY: [&str; 2] = ["sqlx_core", "sqlx_postgres::options::parse"];

/// A file for each day, by UTC: `pinsched.log` is `pinsched.2026-03-01.log`. So many are kept.
fn daily(path: &Path, files: usize) -> Result<RollingFileAppender, TelemetryError> {
    let name = |part: Option<&std::ffi::OsStr>| part.map(|part| part.to_string_lossy().into_owned());
    let (Some(stem), false) = (name(path.file_stem()), path.is_dir()) else {
        return Err(TelemetryError::Folder(path.to_owned()));
    };
    let parent = path.parent().filter(|parent| *parent != Path::new("")).unwrap_or(Path::new("."));
    if !parent.is_dir() {
        return Err(TelemetryError::NoFolder { path: path.to_owned(), folder: parent.to_owned() });
    }
    let mut builder =
        RollingFileAppender::builder().rotation(Rotation::DAILY).filename_prefix(stem).max_log_files(files);
    if let Some(ending) = name(path.extension()) {
        builder = builder.filename_suffix(ending);
    }
    let opened = builder.build(parent);
    opened.map_err(|source| TelemetryError::File { path: path.to_owned(), source })
}

/// Standard error or the day's file, for lines that come whole.
struct Masked {
    masks: Masks,
    file: Option<Arc<RollingFileAppender>>,
}

impl Write for Masked {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(line);
        let masked = self.masks.mask(&text);
        match &self.file {
            Some(file) => file.make_writer().write_all(masked.as_bytes())?,
            None => io::stderr().lock().write_all(masked.as_bytes())?,
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        match &self.file {
            Some(file) => file.make_writer().flush(),
            None => io::stderr().lock().flush(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_that_are_over_go_beyond_those_that_are_kept() {
        let folder = tempfile::tempdir().unwrap();
        for day in ["2020-01-01", "2020-01-02", "2020-01-03"] {
            std::fs::write(folder.path().join(format!("pinsched.{day}.log")), "old").unwrap();
        }
        std::fs::write(folder.path().join("another.log"), "somebody else's").unwrap();
        let file = daily(&folder.path().join("pinsched.log"), 2).unwrap();
        file.make_writer().write_all(b"new\n").unwrap();
        let mut names: Vec<String> = std::fs::read_dir(folder.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(names.len(), 3, "{names:?}");
        assert_eq!(names[0], "another.log");
        let today = std::fs::read_to_string(folder.path().join(&names[2])).unwrap();
        assert_eq!(today, "new\n", "{names:?}");
    }

    #[test]
    fn a_level_is_that_of_our_own_lines_and_what_is_named_stays() {
        assert_eq!(quieted("info"), "warn,pinsched=info,sqlx_core=error,sqlx_postgres::options::parse=error");
        assert_eq!(quieted(" DEBUG "), "warn,pinsched=debug,sqlx_core=error,sqlx_postgres::options::parse=error");
        assert_eq!(quieted("error"), "error,pinsched=error");
        assert_eq!(quieted("info,"), quieted("info"));
        assert_eq!(quieted("off"), "off,pinsched=off");
        assert_eq!(
            quieted("debug,aws_config=info"),
            "warn,pinsched=debug,sqlx_core=error,sqlx_postgres::options::parse=error,aws_config=info"
        );
        assert_eq!(quieted("info,sqlx=debug"), "warn,pinsched=info,sqlx=debug");
        assert_eq!(
            quieted("info,sqlx_core=debug"),
            "warn,pinsched=info,sqlx_postgres::options::parse=error,sqlx_core=debug"
        );
        assert_eq!(
            quieted("info,pinsched::store=trace"),
            "warn,pinsched=info,sqlx_core=error,sqlx_postgres::options::parse=error,pinsched::store=trace"
        );
        for same in ["pinsched=debug", "rdkafka=trace,s3s=info", "[task{a=1}]=debug", "no such=filter="] {
            assert_eq!(quieted(same), same);
        }
        assert_eq!(
            quieted("[task{a=1}]=debug,warn"),
            "warn,pinsched=warn,sqlx_core=error,sqlx_postgres::options::parse=error,[task{a=1}]=debug"
        );
        for filter in ["info", "debug,aws_config=info", "[task{a=1}]=debug,warn"] {
            assert!(EnvFilter::try_new(quieted(filter)).is_ok(), "{filter}");
        }
    }

    #[test]
    fn a_folder_that_is_missing_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let missing = folder.path().join("no/such");
        let error = daily(&missing.join("pinsched.log"), 2).unwrap_err().to_string();
        assert!(
            error.contains(&format!("there is no folder {0}; make it (`mkdir -p {0}`)", missing.display())),
            "{error}"
        );
        assert!(!missing.exists());
    }

    #[test]
    fn a_folder_is_no_file() {
        let folder = tempfile::tempdir().unwrap();
        assert!(matches!(daily(folder.path(), 2), Err(TelemetryError::Folder(_))));
    }
}
