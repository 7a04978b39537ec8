//! `pinsched clean`: drawn rows and large outputs in object storage whose runs are gone, databases whose homes are, and old
//! records of the embedded broker.

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
    /// Large outputs, wherever they were put; none where not all could be looked for.
    outputs: Option<LargeOutputs>,
    deleted: bool,
}

#[derive(Debug, Clone, Copy, Serialize)]
struct LargeOutputs {
    runs: u64,
    objects: u64,
    bytes: u64,
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
    let large = session.output_store(&resolved);
    let unused = if deleted {
        delete_leftovers(&resolved.endpoints, &left).await?;
        // Whose outputs these were the database knows: nobody else's are among them.
        outputs::delete_unused(&store, &large).await
    } else {
        outputs::find_unused(&store, &large).await
    };
    let report = Report {
        runs: left.runs,
        objects: left.objects.len(),
        bytes: left.objects.iter().map(|(_, size)| size).sum(),
        outputs: unused.as_ref().ok().map(|unused| LargeOutputs {
            runs: unused.runs,
            objects: unused.objects,
            bytes: unused.bytes,
        }),
        deleted,
        bucket: left.bucket,
    };
    session.printer.answer(&report, || report.render())?;
    // What is told above was deleted all the same.
    let unused = unused?;
    if !deleted && !arguments.dry_run && report.objects as u64 + unused.objects > 0 {
        session.printer.error(
            "nothing was deleted: --yes says that no other pinsched, with another database, has this staging bucket",
        );
        return Ok(Exit::No);
    }
    Ok(Exit::Done)
}

impl Report {
    fn render(&self) -> String {
        let verb = if self.deleted { "deleted " } else { "left: " };
        let line = |what: String, runs: u64, bytes: u64, place: String| {
            format!(
                "{verb}{what} of {} gone ({} bytes){place}\n",
                counted(runs, "run that is", "runs that are"),
                count(bytes)
            )
        };
        let mut text = match self.objects {
            0 => format!("bucket {} holds no drawn rows of runs that are gone\n", self.bucket),
            objects => {
                let what = counted(objects as u64, "object with drawn rows", "objects with drawn rows");
                line(what, self.runs as u64, self.bytes, format!(" in bucket {}", self.bucket))
            }
        };
        text.push_str(&match self.outputs {
            None => {
                let what = if self.deleted { "deleted" } else { "looked for" };
                format!("large outputs of runs that are gone could not all be {what}\n")
            }
            Some(LargeOutputs { objects: 0, .. }) => "there are no large outputs of runs that are gone\n".to_owned(),
            Some(LargeOutputs { runs, objects, bytes }) => {
                line(counted(objects, "large output", "large outputs"), runs, bytes, String::new())
            }
        });
        text
    }
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
