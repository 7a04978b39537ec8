//! What a kill leaves behind: a server that still ends or still runs, its children, a pid file that means nothing.
//!
//! Called by the process that holds the home's lock, so whatever runs on the data is nobody's any more.

use std::fs;
use std::path::Path;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use super::super::error::HomeError;
use super::error::PostgresError;

/// How long a server may take to write its last checkpoint, before it is told less kindly.
const FAST: Duration = Duration::from_secs(20);
/// How long one may take to abandon its children.
const IMMEDIATE: Duration = Duration::from_secs(5);
/// How often it is looked whether it is gone.
const LOOK: Duration = Duration::from_millis(20);

/// Ends what still runs on the data, and removes the pid file.
pub(super) async fn settle(data: &Path) -> Result<(), PostgresError> {
    for (signal, patience) in [(Signal::INT, FAST), (Signal::QUIT, IMMEDIATE), (Signal::KILL, IMMEDIATE)] {
        let Some(pid) = postmaster(data) else { break };
        tracing::warn!(pid = pid.as_raw_nonzero().get(), "a PostgreSQL server was left behind; ending it");
        // It may end by itself in this very moment.
        let _ = kill_process(pid, signal);
        gone(data, patience).await;
    }
    // Children of a server that was killed notice it by themselves.
    gone(data, IMMEDIATE).await;
    if let Some(pid) = processes(data).first() {
        return Err(PostgresError::Leftover { pid: pid.as_raw_nonzero().get(), path: data.to_owned() });
    }
    let file = data.join("postmaster.pid");
    if file.exists() {
        tracing::info!(file = %file.display(), "removing a pid file without a process");
        fs::remove_file(&file).map_err(HomeError::io("remove", &file))?;
    }
    Ok(())
}

async fn gone(data: &Path, patience: Duration) {
    let wait = async {
        while !processes(data).is_empty() {
            tokio::time::sleep(LOOK).await;
        }
    };
    // Whether it was enough, the caller sees by looking.
    let _ = tokio::time::timeout(patience, wait).await;
}

/// The server itself, if it lives: the pid file's process, if that is a server on this data and not a stranger who got
/// the number.
fn postmaster(data: &Path) -> Option<Pid> {
    let file = fs::read_to_string(data.join("postmaster.pid")).ok()?;
    let pid = Pid::from_raw(file.lines().next()?.trim().parse().ok()?)?;
    processes(data).contains(&pid).then_some(pid)
}

/// All of Postgres's processes that run in this directory; they make it their working directory.
pub(super) fn processes(data: &Path) -> Vec<Pid> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let numbers = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    numbers
        .filter(|number| {
            let process = Path::new("/proc").join(number.to_string());
            let is_here = || fs::read_link(process.join("cwd")).is_ok_and(|directory| directory == data);
            let is_alive = || fs::read_to_string(process.join("stat")).is_ok_and(|stat| !stat.contains(") Z "));
            let name = fs::read_to_string(process.join("comm"));
            name.is_ok_and(|name| name.starts_with("postgres")) && is_here() && is_alive()
        })
        .filter_map(Pid::from_raw)
        .collect()
}
