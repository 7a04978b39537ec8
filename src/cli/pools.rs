//! `pinsched pools`: slots that tasks share.

use serde::Serialize;

use crate::cli::exit::Exit;
use crate::cli::service_arguments::PoolsCommand;
use crate::cli::session::Session;
use crate::cli::table::Field;
use crate::store::{Pool, Word};

#[derive(Debug, Serialize)]
struct PoolLine {
    name: String,
    slots: i32,
    used: i64,
    waiting: i64,
    description: Option<String>,
}

impl PoolLine {
    fn new(pool: Pool) -> Self {
        let Pool { name, slots, used, waiting, description } = pool;
        Self { name, slots, used, waiting, description }
    }
}

pub(crate) async fn pools(session: &Session, command: Option<&PoolsCommand>) -> anyhow::Result<Exit> {
    let (_held, store) = session.connect_store().await?;
    match command {
        None => {}
        Some(PoolsCommand::Set { name, slots, description }) => {
            anyhow::ensure!(!name.trim().is_empty(), "a pool has a name");
            store.set_pool(name, *slots, description.as_deref()).await?;
            store.tell(Word::Work).await?;
        }
        Some(PoolsCommand::Delete { name }) => {
            let was_there = store.delete_pool(name).await?;
            anyhow::ensure!(was_there, "there is no pool `{name}`; `pinsched pools` lists them");
        }
    }
    let lines: Vec<PoolLine> = store.pools().await?.into_iter().map(PoolLine::new).collect();
    session.printer.answer(&lines, || {
        if lines.is_empty() {
            return "no pools yet: tasks that name none share the workers' slots alone\n".to_owned();
        }
        let mut table = session.printer.table(&["POOL", "SLOTS", "USED", "WAITING", ""]);
        for line in &lines {
            table.row(vec![
                Field::text(&line.name),
                Field::number(line.slots),
                Field::number(line.used),
                Field::number(line.waiting),
                Field::text(line.description.as_deref().unwrap_or_default()),
            ]);
        }
        table.render()
    })?;
    Ok(Exit::Done)
}
