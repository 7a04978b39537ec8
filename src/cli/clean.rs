//! `pinsched clean`: drawn rows in object storage whose runs are gone.

use serde::Serialize;

use crate::cli::exit::Exit;
use crate::cli::session::Session;
use crate::cli::upkeep_arguments::CleanArguments;
use crate::cli::words::{count, counted};
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
    session.must_have_run()?;
    let (resolved, store) = session.connect(2).await?;
    let left = find_leftovers(&resolved.endpoints, &store).await?;
    let is_ours = session.settings.database_url.is_none() && !session.settings.s3.configured;
    let deleted = (is_ours || arguments.yes) && !arguments.dry_run;
    if deleted {
        delete_leftovers(&resolved.endpoints, &left).await?;
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
