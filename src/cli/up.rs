//! `pinsched up`: starts the embedded stack of a home, tells where its parts are, and keeps it until it is interrupted:
//! one that is killed is started again.

use std::fmt;
use std::path::PathBuf;

use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};

use crate::config::Settings;
use crate::embedded::{LeaseRequest, Progress, StackError, StackLease, StackNews, StackUrls, attach, lacking};

/// What the command answers, passwords included: it is for the user's own clients.
#[derive(Debug, Serialize)]
pub struct UpReport {
    /// The home.
    pub home: PathBuf,
    /// Where the parts can be reached; those that are configured elsewhere are not started.
    #[serde(flatten)]
    pub urls: StackUrls,
}

/// The stack, held.
#[derive(Debug)]
pub struct Up {
    lease: StackLease,
}

/// Why `up` ended.
#[derive(Debug)]
pub enum Ended {
    /// By Ctrl-C or SIGTERM; the stack goes some seconds later, unless others use it.
    Interrupted,
    /// Somebody stopped the stack, or it cannot be brought back.
    StackGone(StackError),
}

/// Starts the parts that are not configured elsewhere: all of them, when nothing is; none, and no stack, when all are.
pub async fn up(
    settings: &Settings,
    progress: &mut (dyn FnMut(Progress) + Send),
) -> Result<(UpReport, Option<Up>), StackError> {
    let components = lacking(settings);
    if components.is_empty() {
        return Ok((UpReport { home: settings.home.clone(), urls: StackUrls::default() }, None));
    }
    let lease = attach(&LeaseRequest::new(settings, components), progress).await?;
    let report = UpReport { home: lease.home().path().to_owned(), urls: lease.urls().clone() };
    Ok((report, Some(Up { lease })))
}

impl Up {
    /// Holds the stack until there is a reason not to, and tells what becomes of it.
    pub async fn wait(mut self, tell: &mut (dyn FnMut(StackNews) + Send)) -> std::io::Result<Ended> {
        let mut terminated = signal(SignalKind::terminate())?;
        let mut interrupted = signal(SignalKind::interrupt())?;
        Ok(tokio::select! {
            _ = terminated.recv() => Ended::Interrupted,
            _ = interrupted.recv() => Ended::Interrupted,
            error = self.lease.keep(tell) => Ended::StackGone(error),
        })
    }
}

impl fmt::Display for UpReport {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.urls == StackUrls::default() {
            return writeln!(formatter, "nothing to start: all is configured (`pinsched config` shows where)");
        }
        writeln!(formatter, "home      {}", self.home.display())?;
        if let Some(url) = &self.urls.database_url {
            writeln!(formatter, "database  {url}")?;
        }
        if let Some(url) = &self.urls.source_url {
            writeln!(formatter, "source    {url}")?;
        }
        if let Some(servers) = &self.urls.kafka_bootstrap_servers {
            writeln!(formatter, "kafka     {servers}")?;
            for (name, value) in &self.urls.kafka_properties {
                writeln!(formatter, "          {name}={value}")?;
            }
        }
        if let Some(s3) = &self.urls.s3 {
            writeln!(formatter, "s3        {}", s3.endpoint_url)?;
            writeln!(formatter, "          AWS_ACCESS_KEY_ID={}", s3.access_key_id)?;
            writeln!(formatter, "          AWS_SECRET_ACCESS_KEY={}", s3.secret_access_key)?;
        }
        Ok(())
    }
}
