//! `pinsched show RUN`: one run in full.

use crate::cli::exit::Exit;
use crate::cli::report::{self, Detail};
use crate::cli::session::{Session, find_run};
use crate::cli::task_word::TaskWord;

pub(crate) async fn show(session: &Session, run: &str, task: Option<&TaskWord>) -> anyhow::Result<Exit> {
    let (_held, store) = session.connect_store().await?;
    let run = find_run(&store, run).await?;
    match task {
        None => report::answer_stored(session, &store, &run, Detail::Full).await?,
        Some(task) => report::answer_task(session, &store, &run, task).await?,
    }
    Ok(Exit::Done)
}
