//! `pinsched clean`: drawn rows in object storage whose runs are gone.

use serde::Serialize;

use crate::cli::exit::Exit;
use crate::cli::session::Session;
use crate::cli::upkeep_arguments::CleanArguments;
use crate::cli::words::count;
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
        format!(
            "{} {} objects of {} runs that are gone ({} bytes) in bucket {}\n",
            if deleted { "deleted" } else { "there are" },
            count(report.objects as u64),
            count(report.runs as u64),
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
