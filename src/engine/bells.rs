//! How the parts of a process wake each other: each part waits for its bell, and for a slow clock beside it, so that a
//! bell that nobody heard costs a second and nothing else.

use std::sync::Arc;

use tokio::sync::Notify;

/// One bell. Rung while nobody waits, it is heard by who waits next; rung twice before that, once.
#[derive(Debug, Clone, Default)]
pub struct Bell(Arc<Notify>);

impl Bell {
    /// Rings it.
    pub fn ring(&self) {
        self.0.notify_one();
    }

    /// Waits for it.
    pub async fn rung(&self) {
        self.0.notified().await;
    }
}

/// The bells of a process; clones share them.
#[derive(Debug, Clone, Default)]
pub struct Bells {
    work: Bell,
    look: Bell,
    turn: Bell,
    schedule: Bell,
}

impl Bells {
    /// Tasks may be ready: the worker claims.
    #[must_use]
    pub fn work(&self) -> &Bell {
        &self.work
    }

    /// Somebody asked for something (a cancellation, say): the worker looks around.
    #[must_use]
    pub fn look(&self) -> &Bell {
        &self.look
    }

    /// A run ended: another may have its turn.
    #[must_use]
    pub fn turn(&self) -> &Bell {
        &self.turn
    }

    /// DAGs changed: the scheduler reads how they stand, and looks what is due and whose turn it is.
    #[must_use]
    pub fn schedule(&self) -> &Bell {
        &self.schedule
    }
}
