//! `pinsched show RUN`: one run in full.

use crate::cli::exit::Exit;
use crate::cli::report::{self, Detail};
use crate::cli::session::{Session, find_run};

pub(crate) async fn show(session: &Session, run: &str) -> anyhow::Result<Exit> {
    let (_held, store) = session.connect_store().await?;
    let run = find_run(&store, run).await?;
    report::answer_stored(session, &store, &run, Detail::Full).await?;
    Ok(Exit::Done)
}
