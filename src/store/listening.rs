//! Words between processes that share a database: who asked for something says so, and who could act on it listens. A
//! word that is lost costs the next slow look and nothing else.

use sqlx::postgres::PgListener;

use crate::store::{Store, StoreError};

/// The channel of NOTIFY.
const CHANNEL: &str = "pinsched";

/// What there may be to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Word {
    /// Tasks may be ready.
    Work,
    /// Somebody asked for something about a run.
    Look,
    /// A run ended, so that another may have its turn.
    Turn,
    /// DAGs or their runs changed.
    Schedule,
}

impl Word {
    const ALL: [Self; 4] = [Self::Work, Self::Look, Self::Turn, Self::Schedule];

    fn as_str(self) -> &'static str {
        match self {
            Self::Work => "work",
            Self::Look => "look",
            Self::Turn => "turn",
            Self::Schedule => "schedule",
        }
    }
}

/// Hears what is told, on a connection of its own.
pub struct Listener(PgListener);

impl Listener {
    /// The next word. A connection that is lost is made anew by the next call, after an error.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn heard(&mut self) -> Result<Option<Word>, StoreError> {
        // `None` for a connection that was lost and made anew: anything may have been missed.
        let told = self.0.try_recv().await.map_err(StoreError::query("listen to the database"))?;
        Ok(told.and_then(|told| Word::ALL.into_iter().find(|word| word.as_str() == told.payload())))
    }
}

impl Store {
    /// Listens.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn listen(&self) -> Result<Listener, StoreError> {
        let failed = StoreError::query("listen to the database");
        let mut listener = PgListener::connect_with(&self.pool).await.map_err(&failed)?;
        listener.listen(CHANNEL).await.map_err(&failed)?;
        Ok(Listener(listener))
    }

    /// Tells every process that listens.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn tell(&self, word: Word) -> Result<(), StoreError> {
        sqlx::query!("SELECT pg_notify($1, $2)", CHANNEL, word.as_str())
            .execute(&self.pool)
            .await
            .map_err(StoreError::query("tell other processes"))?;
        Ok(())
    }
}
