//! `pinsched clean`: drawn rows in object storage whose runs are gone, databases whose homes are, and old records of
//! the embedded broker.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use anyhow::Context;
use serde::Serialize;

use crate::cli::exit::Exit;
use crate::cli::session::Session;
use crate::cli::upkeep_arguments::CleanArguments;
use crate::cli::words::{count, counted};
use crate::clock;
use crate::embedded::{Expired, Expiry, abandoned_data, expire_records};
use crate::engine::outputs;
use crate::operators::{delete_leftovers, find_leftovers};

#[derive(Debug, Serialize)]
struct Report {
    bucket: String,
    runs: usize,
    objects: usize,
    bytes: u64,
    deleted: bool,
}

pub(crate) async fn clean(session: &Session, arguments: &CleanArguments) -> anyhow::Result<Exit> {
    if arguments.old_homes {
        return old_homes(session, arguments);
    }
    if let Some(age) = arguments.old_records {
        return old_records(session, arguments, age);
    }
    session.must_have_run()?;
    let (resolved, store) = session.connect(2).await?;
    let left = find_leftovers(&resolved.endpoints, &store).await?;
    let is_ours = session.settings.database_url.is_none() && !session.settings.s3.configured;
    let deleted = (is_ours || arguments.yes) && !arguments.dry_run;
    if deleted {
        delete_leftovers(&resolved.endpoints, &left).await?;
        // Whose outputs these were the database knows: nobody else's are among them.
        outputs::delete_unused(&store, &session.output_store(&resolved)).await?;
    }
    let report = Report {
        runs: left.runs,
        objects: left.objects.len(),
        bytes: left.objects.iter().map(|(_, size)| size).sum(),
        deleted,
        bucket: left.bucket,
    };
    session.printer.answer(&report, || {
        if report.objects == 0 {
            return format!("bucket {} holds nothing of runs that are gone\n", report.bucket);
        }
        format!(
            "{}{} of {} gone ({} bytes) in bucket {}\n",
            if deleted { "deleted " } else { "left: " },
            counted(report.objects as u64, "object", "objects"),
            counted(report.runs as u64, "run that is", "runs that are"),
            count(report.bytes),
            report.bucket
        )
    })?;
    if !deleted && !arguments.dry_run && report.objects > 0 {
        session.printer.error(
            "nothing was deleted: --yes says that no other pinsched, with another database, has this staging bucket",
        );
        return Ok(Exit::No);
    }
    Ok(Exit::Done)
}

#[derive(Debug, Serialize)]
struct OldHome {
    home: PathBuf,
    path: PathBuf,
    bytes: u64,
}

#[derive(Debug, Serialize)]
struct OldHomes {
    homes: Vec<OldHome>,
    deleted: bool,
}

fn old_homes(session: &Session, arguments: &CleanArguments) -> anyhow::Result<Exit> {
    let found = abandoned_data()?;
    let deleted = arguments.yes && !arguments.dry_run;
    if deleted {
        for abandoned in &found {
            abandoned.delete()?;
        }
    }
    let homes = found.into_iter().map(|one| OldHome { home: one.home, path: one.path, bytes: one.bytes });
    let report = OldHomes { homes: homes.collect(), deleted };
    session.printer.answer(&report, || match report.homes.as_slice() {
        [] => "no home has left a database behind\n".to_owned(),
        homes => {
            let verb = if deleted { "deleted" } else { "there is" };
            let line = |old: &OldHome| {
                let (path, home) = (old.path.display(), old.home.display());
                format!("{verb} {path} of {home} ({} bytes)\n", count(old.bytes))
            };
            homes.iter().map(line).collect()
        }
    })?;
    if !report.homes.is_empty() && !deleted && !arguments.dry_run {
        session.printer.error("nothing was deleted: --yes says that these homes are not missed");
        return Ok(Exit::No);
    }
    Ok(Exit::Done)
}

#[derive(Debug, Serialize)]
struct OldRecords {
    partitions: u64,
    segments: u64,
    bytes: u64,
    deleted: bool,
}

fn old_records(session: &Session, arguments: &CleanArguments, age: Duration) -> anyhow::Result<Exit> {
    session.must_have_run()?;
    let before = SystemTime::from(clock::now()).checked_sub(age).context("--old-records is too long")?;
    let deleted = arguments.yes && !arguments.dry_run;
    let what = if deleted { Expiry::Delete } else { Expiry::Tell };
    let Expired { partitions, segments, bytes } = expire_records(&session.settings.home, before, what)?;
    let report = OldRecords { partitions, segments, bytes, deleted };
    session.printer.answer(&report, || {
        format!(
            "{} {} old segments of {} partitions ({} bytes)\n",
            if deleted { "deleted" } else { "there are" },
            count(segments),
            count(partitions),
            count(bytes)
        )
    })?;
    if segments > 0 && !deleted && !arguments.dry_run {
        session.printer.error("nothing was deleted: --yes says that these records are not missed");
        return Ok(Exit::No);
    }
    Ok(Exit::Done)
}
